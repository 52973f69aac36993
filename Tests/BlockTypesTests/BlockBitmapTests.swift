/// The bitmap against a set of block numbers, with ranges that begin and end anywhere.

import BlockTypes
import TestSupport
import Testing

@Suite struct BlockBitmapTests {
  /// What was read from the disk and may be in its cache only counts as not written.
  @Test func distrustedPagesAreWrittenAgain() {
    var bitmap = BlockBitmap(blockCount: 256, pageBlocks: 64)
    bitmap.distrustPages(covering: ByteRange(start: 63 * blockSize, end: 65 * blockSize))
    #expect(bitmap.dirtyPageCount == 2)
    #expect(!bitmap.isDurable(0) && !bitmap.isDurable(1) && bitmap.isDurable(2))
    #expect(bitmap.setCount == 0)
  }

  /// A range sets every block that it touches and clears only blocks that it covers whole.
  @Test(arguments: seeds(count: 32))
  func behavesAsASetOfBlocks(seed: UInt64) {
    var random = SeededGenerator(seed: seed)
    let blocks = 1 + random.below(300)
    let volume = UInt64(blocks) * blockSize
    var bitmap = BlockBitmap(blockCount: UInt64(blocks))
    var model: Set<Int> = []
    for _ in 0..<300 {
      let start = UInt64(random.below(blocks * 8)) * sectorSize
      let length = min(UInt64(random.below(200)) * sectorSize, volume - start)
      let range = ByteRange(start: start, end: start + length)
      switch random.below(20) {
      case 0:
        bitmap.setAll()
        model = Set(0..<blocks)
      case 1:
        bitmap.clearAll()
        model = []
      case 2...9:
        bitmap.set(range)
        for block in 0..<blocks where range.overlaps(block) { model.insert(block) }
      default:
        bitmap.clear(range, volumeBytes: volume)
        for block in 0..<blocks where range.covers(block) { model.remove(block) }
      }
      expectEqual(bitmap, model, blocks, seed)
    }
  }

  private func expectEqual(
    _ bitmap: borrowing BlockBitmap, _ model: Set<Int>, _ blocks: Int, _ seed: UInt64
  ) {
    #expect(bitmap.setCount == UInt64(model.count), "seed \(seed)")
    var found: [Int] = []
    var cursor: UInt64 = 0
    while let block = bitmap.firstSet(from: BlockIndex(cursor)) {
      let run = bitmap.runLength(from: block, limit: 7)
      found += (0..<run).map { Int(block.value + $0) }
      cursor = block.value + run
    }
    #expect(found == model.sorted(), "seed \(seed)")
    for block in stride(from: 0, to: blocks, by: 13) {
      #expect(bitmap[BlockIndex(UInt64(block))] == model.contains(block), "seed \(seed)")
    }
  }

  /// A volume whose size is no multiple of the block still gets its last bit cleared.
  @Test func lastPartialBlockIsClearedByARangeToTheVolumeEnd() {
    let volume = 2 * blockSize + sectorSize
    var bitmap = BlockBitmap(blockCount: 3)
    bitmap.setAll()

    bitmap.clear(ByteRange(start: blockSize, end: volume), volumeBytes: volume)

    #expect(bitmap.setCount == 1)
    #expect(bitmap[BlockIndex(0)])
  }

  @Test func bitmapOfNothingHoldsNothing() {
    var bitmap = BlockBitmap(blockCount: 0)
    bitmap.setAll()

    #expect(bitmap.setCount == 0)
    #expect(bitmap.firstSet(from: BlockIndex(0)) == nil)
  }

  @Test func setPastTheEndTraps() async {
    await #expect(processExitsWith: .failure) {
      var bitmap = BlockBitmap(blockCount: 2)
      bitmap.set(ByteRange(start: blockSize, end: 3 * blockSize))
    }
  }
}

extension ByteRange {
  fileprivate func overlaps(_ block: Int) -> Bool { overlaps(Self.block(block)) }
  fileprivate func covers(_ block: Int) -> Bool { contains(Self.block(block)) }
  private static func block(_ index: Int) -> ByteRange {
    ByteRange(offset: BlockIndex(UInt64(index)).offset, length: blockSize)
  }
}
