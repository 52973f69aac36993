/// Where metadata lies: nothing overlaps, nothing lies outside, and small disks are refused.

import BlockTypes
import Metadata
import TestSupport
import Testing

@Suite struct MetadataLayoutTests {
  /// The areas of a layout on its metadata disk.
  private func areas(_ layout: MetadataLayout, peers: UInt64) -> [ByteRange] {
    let size = UInt64(Superblock.byteCount)
    let (first, second) = layout.superblockOffsets
    return [
      ByteRange(offset: ByteOffset(bytes: first), length: size),
      ByteRange(offset: ByteOffset(bytes: second), length: size),
      ByteRange(
        offset: ByteOffset(bytes: layout.activityLogOffset),
        length: MetadataLayout.activityLogBytes),
      ByteRange(
        offset: ByteOffset(bytes: layout.bitmapOffset), length: layout.bitmapSlotBytes * peers),
    ]
  }

  private func expectSound(
    _ layout: MetadataLayout, _ ranges: [ByteRange], within bytes: UInt64, _ note: String
  ) {
    for (index, range) in ranges.enumerated() {
      #expect(range.end <= bytes, "\(note)")
      #expect(range.start % blockSize == 0, "\(note)")
      for other in ranges[(index + 1)...] {
        #expect(!range.overlaps(other), "\(note)")
      }
    }
    #expect(layout.volumeBytes > 0 && layout.volumeBytes % blockSize == 0, "\(note)")
    let blocks = layout.volumeBytes / blockSize
    let pages = BlockBitmap(blockCount: min(blocks, 1 << 30)).pageCount
    #expect(
      layout.bitmapSlotBytes / 4096 >= UInt64(pages), "\(note): a bit for every block")
  }

  @Test(arguments: seeds(count: 64))
  func internalAreasNeitherOverlapNorLeaveTheDisk(seed: UInt64) throws {
    var random = SeededGenerator(seed: seed)
    let peers = UInt64(1 + random.below(8))
    let shift = 21 + random.below(40)
    let device = (1 << shift) + random.next() % (1 << shift)
    let layout = try MetadataLayout.internal(deviceBytes: device, maxPeers: peers)
    let data = ByteRange(start: 0, end: layout.volumeBytes)

    expectSound(
      layout, areas(layout, peers: peers) + [data], within: device, "seed \(seed) \(device)")
  }

  @Test(arguments: seeds(count: 64))
  func externalAreasNeitherOverlapNorLeaveTheDisk(seed: UInt64) throws {
    var random = SeededGenerator(seed: seed)
    let peers = UInt64(1 + random.below(8))
    let data = 4096 + random.next() % (1 << 50)
    let metadata = 2 << 20 + peers * (data / 31_744 + 8192)
    let layout = try MetadataLayout.external(
      dataBytes: data, metadataBytes: metadata, maxPeers: peers)

    expectSound(layout, areas(layout, peers: peers), within: metadata, "seed \(seed) \(data)")
    #expect(layout.volumeBytes <= data)
  }

  /// Golden places: a change here loses every existing volume.
  @Test func placesAreStable() throws {
    let inside = try MetadataLayout.internal(deviceBytes: 1 << 30)
    #expect(inside.superblockOffsets == ((1 << 30) - 8192, (1 << 30) - 4096))
    #expect(inside.activityLogOffset == (1 << 30) - 8192 - (1 << 20))
    #expect(inside.bitmapSlotBytes == 36_864)
    #expect(inside.bitmapOffset == inside.activityLogOffset - 36_864)
    #expect(inside.volumeBytes == inside.bitmapOffset)

    let outside = try MetadataLayout.external(dataBytes: 1 << 30, metadataBytes: 2 << 20)
    #expect(outside.superblockOffsets == (0, 4096))
    #expect(outside.activityLogOffset == 8192)
    #expect(outside.bitmapOffset == 8192 + (1 << 20))
    #expect(outside.volumeBytes == 1 << 30)
  }

  /// Where the copies are is known before the superblock says how many slots there are.
  @Test func superblockIsFoundWithoutTheNumberOfSlots() throws {
    let inside = MetadataPlacement.internal(deviceBytes: 1 << 30)
    let outside = MetadataPlacement.external(dataBytes: 1 << 30, metadataBytes: 1 << 30)
    for peers in 1...8 {
      let layout = try inside.layout(maxPeers: peers)
      #expect(layout.superblockOffsets == ((1 << 30) - 8192, (1 << 30) - 4096))
      #expect(layout.bitmapOffset + UInt64(peers) * 36_864 == layout.activityLogOffset)
      #expect(
        layout.bitmapPageOffset(slot: peers - 1, page: 8) + 4096 == layout.activityLogOffset)
      let other = try outside.layout(maxPeers: peers)
      #expect(other.superblockOffsets == (0, 4096))
      #expect(other.bitmapPageOffset(slot: 0, page: 0) == 8192 + (1 << 20))
    }
  }

  /// The end of a disk that is no multiple of 4096 is left alone.
  @Test func oddEndOfTheDiskIsUnused() throws {
    let even = try MetadataLayout.internal(deviceBytes: 1 << 30)

    #expect(try MetadataLayout.internal(deviceBytes: (1 << 30) + 4095) == even)
  }

  /// The error says how much is needed, and that much is enough.
  @Test func diskThatIsTooSmallIsToldHowMuchIsNeeded() throws {
    for bytes: UInt64 in [0, 4095, 4096, 1 << 20] {
      let error = #expect(throws: LayoutError.self) {
        try MetadataLayout.internal(deviceBytes: bytes)
      }
      guard case .deviceTooSmall(bytes, let needed)? = error else {
        Issue.record("another size was reported")
        continue
      }
      #expect(needed > bytes)
    }
    let smallest = UInt64(8192 + (1 << 20) + 4096 + 4096)
    #expect(try MetadataLayout.internal(deviceBytes: smallest).volumeBytes == 4096)
    #expect(throws: LayoutError.self) {
      try MetadataLayout.internal(deviceBytes: smallest - 1)
    }
  }

  /// Found by fuzzing: rounding up must not overflow, whatever a disk says of its size.
  @Test func theLargestDiskHasALayout() throws {
    let layout = try MetadataLayout.internal(deviceBytes: .max, maxPeers: 8)
    #expect(layout.volumeBytes < .max)
    #expect(layout.superblockOffsets.1 == UInt64.max / 4096 * 4096 - 4096)
  }

  @Test func externalDiskThatIsTooSmallIsRefused() throws {
    let needed = UInt64(8192 + (1 << 20) + 36_864)

    #expect(throws: LayoutError.deviceTooSmall(bytes: needed - 1, needed: needed)) {
      try MetadataLayout.external(dataBytes: 1 << 30, metadataBytes: needed - 1)
    }
    #expect(throws: LayoutError.deviceTooSmall(bytes: 4095, needed: 4096)) {
      try MetadataLayout.external(dataBytes: 4095, metadataBytes: 1 << 30)
    }
    _ = try MetadataLayout.external(dataBytes: 1 << 30, metadataBytes: needed)
  }
}
