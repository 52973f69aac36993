/// Bitmap pages on disk: their bytes, and that damage sets bits and never clears any.

import BlockTypes
import Metadata
import TestSupport
import Testing

@Suite struct BitmapPageTests {
  private let page = BitmapPage(
    deviceID: 0x1122_3344_5566_7788, slot: 2, node: node(5), number: 1)
  private let blocks = BlockBitmap.blocksPerPage * 2

  private func sample() -> [UInt8] {
    var bitmap = BlockBitmap(blockCount: blocks)
    bitmap.setBlocks(BlockBitmap.blocksPerPage..<BlockBitmap.blocksPerPage + 9)
    let bytes = written(BitmapPage.byteCount) { page.write(&bitmap, into: $0) }
    #expect(bitmap.isWriting(1) && !bitmap.isDurable(1))
    bitmap.pageWritten(1)
    #expect(bitmap.isDurable(1) && !bitmap.isWriting(1))
    return bytes
  }

  private func load(_ bytes: [UInt8], as page: BitmapPage) -> (UInt64, BitmapPageError?) {
    var bitmap = BlockBitmap(blockCount: blocks)
    do throws(BitmapPageError) {
      try parse(bytes) { raw throws(BitmapPageError) in try page.load(raw, into: &bitmap) }
      return (bitmap.setCount, nil)
    } catch {
      return (bitmap.setCount, error)
    }
  }

  /// Golden bytes: a change here is a format change and needs a new format version.
  @Test func encodingIsStable() {
    let bytes = sample()
    #expect(BitmapPage.headerBytes == 128)
    #expect(
      bytes[0..<28] == [
        0xBB, 0x67, 0xFA, 0x90, 0x41, 0x42, 0x4D, 0x50, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77,
        0x88,
        0, 0, 0, 0, 0, 0, 0, 1, 2, 5, 0, 0,
      ])
    #expect(bytes[28..<128].allSatisfy { $0 == 0 })
    #expect(bytes[128..<130] == [0xFF, 0x01])
    #expect(bytes[130...].allSatisfy { $0 == 0 })
    let crc = slowCRC32C([0, 0, 0, 0] + bytes[4...])
    #expect(bytes[0..<4].reduce(0) { $0 << 8 | UInt32($1) } == crc)
  }

  @Test func bitsComeBack() {
    #expect(load(sample(), as: page) == (9, nil))
  }

  @Test func everyDamagedByteSetsTheWholePage() {
    let good = sample()
    for offset in good.indices {
      var bad = good
      bad[offset] ^= 0x40
      let (count, error) = load(bad, as: page)
      #expect(count == BlockBitmap.blocksPerPage && error != nil, "byte \(offset)")
    }
  }

  @Test func pageThatWasNeverWrittenIsAllSet() {
    let (count, error) = load([UInt8](repeating: 0, count: BitmapPage.byteCount), as: page)
    #expect(count == BlockBitmap.blocksPerPage)
    #expect(error == .neverWritten)
  }

  /// A misdirected write, old metadata, a slot that was another peer's.
  @Test(arguments: [0, 1, 2, 3])
  func pageOfSomethingElseIsAllSet(what: Int) {
    var other = page
    switch what {
    case 0: other.deviceID ^= 1
    case 1: other.slot = 3
    case 2: other.node = node(6)
    default: other.number = 0
    }
    let (count, error) = load(sample(), as: other)
    #expect(count == BlockBitmap.blocksPerPage)
    #expect(error == .foreign)
  }

  /// Random bytes are a value or a typed error.
  @Test(arguments: seeds(count: 8))
  func garbageNeverTraps(seed: UInt64) {
    var random = SeededGenerator(seed: seed)
    for _ in 0..<50 {
      var bytes = (0..<BitmapPage.byteCount).map { _ in UInt8(random.below(256)) }
      if random.oneIn(2) { bytes.replaceSubrange(4..<8, with: [0x41, 0x42, 0x4D, 0x50]) }
      let (count, error) = load(bytes, as: page)
      #expect(count == BlockBitmap.blocksPerPage && error != nil, "seed \(seed)")
    }
  }
}
