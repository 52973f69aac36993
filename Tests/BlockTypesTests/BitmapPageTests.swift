/// Pages and chunks of a bitmap: what is on the disk never lacks a bit that counts as written.

import BlockTypes
import TestSupport
import Testing

private let perPage = BlockBitmap.blocksPerPage

@Suite struct BitmapPageTests {
  /// Random sets, clears, page writes and crashes. The disk is what a restart reads: it must have
  /// every bit that memory has in pages that count as durable.
  @Test(arguments: seeds(count: 16))
  func diskNeverLacksABitOfADurablePage(seed: UInt64) {
    var random = SeededGenerator(seed: seed)
    let blocks = 1 + random.next() % (5 * perPage)
    var bitmap = BlockBitmap(blockCount: blocks)
    let size = BlockBitmap.pageBitBytes
    var disk = [[UInt8]](
      repeating: [UInt8](repeating: 0, count: size), count: bitmap.pageCount)
    var underWay: [Int: [UInt8]] = [:]
    for _ in 0..<400 {
      let start = random.next() % blocks
      let end = start + random.next() % min(blocks - start + 1, random.oneIn(4) ? .max : 600)
      let page = random.below(bitmap.pageCount)
      switch random.below(8) {
      case 0...2: bitmap.setBlocks(start..<end)
      case 3: bitmap.clearBlocks(start..<end)
      case 4...5:
        guard !bitmap.isWriting(page) else { continue }
        underWay[page] = written(size) { bitmap.writePage(page, into: $0) }
      default:
        guard let bytes = underWay.removeValue(forKey: page) else { continue }
        disk[page] = bytes
        bitmap.pageWritten(page)
      }
      if random.oneIn(8) { expectCovered(bitmap, disk, "seed \(seed)") }
    }
    while let page = bitmap.firstDirtyPage(from: 0) ?? bitmap.firstStalePage(from: 0) {
      if underWay.removeValue(forKey: page) != nil { bitmap.pageWritten(page) }
      disk[page] = written(size) { bitmap.writePage(page, into: $0) }
      bitmap.pageWritten(page)
    }
    for page in underWay.keys { bitmap.pageWritten(page) }
    let isDurable = bitmap.isDurable
    #expect(isDurable)
  }

  private func expectCovered(
    _ bitmap: borrowing BlockBitmap, _ disk: [[UInt8]], _ note: String
  ) {
    var onDisk = BlockBitmap(blockCount: bitmap.blockCount)
    for (page, bytes) in disk.enumerated() {
      bytes.withUnsafeBytes { onDisk.loadPage(page, from: $0) }
    }
    #expect(onDisk.dirtyPageCount == 0, "what was read is on the disk")
    for page in 0..<bitmap.pageCount where bitmap.isDurable(page) {
      let first = UInt64(page) * perPage
      let blocks = first..<min(first + perPage, bitmap.blockCount)
      let before = onDisk.setCount(in: blocks)
      let copy = written(BlockBitmap.pageBitBytes) { bitmap.copyPage(page, $0) }
      copy.withUnsafeBytes { onDisk.loadPage(page, from: $0) }
      #expect(onDisk.setCount(in: blocks) == before, "\(note): page \(page)")
    }
  }

  /// A chunk from the peer adds bits, marks their pages, and ignores what is behind the end.
  @Test(arguments: seeds(count: 16))
  func chunksFromThePeerAddBits(seed: UInt64) {
    var random = SeededGenerator(seed: seed)
    let blocks = 1 + random.next() % (3 * perPage)
    var mine = BlockBitmap(blockCount: blocks)
    var theirs = BlockBitmap(blockCount: blocks)
    var union: Set<UInt64> = []
    for _ in 0..<50 {
      let block = random.next() % blocks
      mine.setBlocks(block..<block + 1)
      let other = random.next() % blocks
      theirs.setBlocks(other..<other + 1)
      union.formUnion([block, other])
    }
    for page in 0..<mine.pageCount {
      _ = written(BlockBitmap.pageBitBytes) { mine.writePage(page, into: $0) }
      mine.pageWritten(page)
    }
    let chunk = 8 * (1 + random.below(900))
    var block: UInt64 = 0
    while block < blocks {
      var bytes = written(chunk) { theirs.copyBits(from: BlockIndex(block), into: $0) }
      if random.oneIn(2), block + UInt64(chunk * 8) > blocks { bytes[chunk - 1] |= 0x80 }
      let isLastSet = block + UInt64(chunk * 8) > blocks && bytes[chunk - 1] & 0x80 != 0
      let before = mine.setCount
      bytes.withUnsafeBytes { mine.mergeBits($0, at: BlockIndex(block)) }
      if mine.setCount != before { #expect(mine.dirtyPageCount > 0, "seed \(seed)") }
      if isLastSet { #expect(mine.setCount <= UInt64(union.count), "seed \(seed)") }
      block += UInt64(chunk * 8)
    }
    var found: Set<UInt64> = []
    var cursor: UInt64 = 0
    while let run = mine.nextRun(from: BlockIndex(cursor)) {
      found.formUnion(run)
      cursor = run.upperBound
    }
    #expect(found == union, "seed \(seed)")
  }

  /// Bits of blocks 0, 9 and the last of a page are where the format says.
  @Test func orderOfBitsIsStable() {
    var bitmap = BlockBitmap(blockCount: perPage + 10)
    for block in [0, 9, perPage - 1, perPage + 3] { bitmap.setBlocks(block..<block + 1) }
    let first = written(BlockBitmap.pageBitBytes) { bitmap.writePage(0, into: $0) }
    let second = written(BlockBitmap.pageBitBytes) { bitmap.writePage(1, into: $0) }

    #expect(BlockBitmap.pageBitBytes == 3968)
    #expect(first[0] == 0x01 && first[1] == 0x02 && first[3967] == 0x80)
    #expect(first.reduce(0) { $0 + $1.nonzeroBitCount } == 3)
    #expect(second[0] == 0x08)
    #expect(second.dropFirst().allSatisfy { $0 == 0 })
  }

  /// A damaged page is all set, and its bits are not on the disk: the next read may find another
  /// copy of it, with fewer bits.
  @Test func damagedPageIsAllSet() {
    var bitmap = BlockBitmap(blockCount: perPage + 100)
    bitmap.loadDamagedPage(1)
    #expect(bitmap.setCount == 100)
    #expect(!bitmap.isDurable(1) && bitmap.firstDirtyPage(from: 0) == 1)

    bitmap.setBlocks(7..<8)
    bitmap.loadDamagedPage(0)
    #expect(bitmap.setCount == perPage + 100)
    #expect(bitmap.firstDirtyPage(from: 0) == 0 && bitmap.dirtyPageCount == 2)
  }

  /// The pages of an extent are one page; a range to the volume's end is cut there.
  @Test func everyExtentLiesInOnePage() {
    let bitmap = BlockBitmap(blockCount: 10 * perPage - 5)
    let extent: UInt64 = 4 << 20
    for start in stride(from: 0, to: 10 * perPage * blockSize, by: UInt64.Stride(extent)) {
      let pages = bitmap.pages(covering: ByteRange(start: start, end: start + extent))
      #expect(pages.count == 1)
    }
    #expect(bitmap.pages(covering: ByteRange(start: 0, end: .max)) == 0..<10)
    #expect(bitmap.pages(covering: ByteRange(start: .max - 1, end: .max)).isEmpty)
    #expect(bitmap.pages(covering: ByteRange(start: 5, end: 5)).isEmpty)
  }

  @Test func runsAndCountsAreExact() {
    var bitmap = BlockBitmap(blockCount: 1000)
    bitmap.setBlocks(10..<200)
    bitmap.setBlocks(990..<1000)

    #expect(bitmap.nextRun(from: BlockIndex(0)) == 10..<200)
    #expect(bitmap.nextRun(from: BlockIndex(50)) == 50..<200)
    #expect(bitmap.nextRun(from: BlockIndex(200)) == 990..<1000)
    #expect(bitmap.nextRun(from: BlockIndex(1000)) == nil)
    #expect(bitmap.runLength(from: BlockIndex(990), limit: 500) == 10)
    #expect(bitmap.runLength(from: BlockIndex(10), limit: 5) == 5)
    #expect(bitmap.runLength(from: BlockIndex(9), limit: 5) == 0)
    #expect(bitmap.runLength(from: BlockIndex(1000), limit: 5) == 0)
    #expect(bitmap.setCount(in: 0..<1000) == 200)
    #expect(bitmap.setCount(in: 100..<995) == 105)
    #expect(bitmap.setCount(in: 5..<5) == 0)
  }

  /// Memory of a 1 TiB volume: at most 40 MiB a peer.
  @Test func memoryOfATebibyteIsBounded() {
    #expect(BlockBitmap.memoryBytes(blockCount: 1 << 28) <= 33 << 20)
  }

  @Test func secondWriteOfAPageTraps() async {
    await #expect(processExitsWith: .failure) {
      var bitmap = BlockBitmap(blockCount: 10)
      _ = written(BlockBitmap.pageBitBytes) { bitmap.writePage(0, into: $0) }
      _ = written(BlockBitmap.pageBitBytes) { bitmap.writePage(0, into: $0) }
    }
  }
}

extension BlockBitmap {
  /// The bits of a page as memory has them, without a write.
  fileprivate func copyPage(_ page: Int, _ bytes: UnsafeMutableRawBufferPointer) {
    copyBits(from: BlockIndex(UInt64(page) * Self.blocksPerPage), into: bytes)
    // A page ends at its last block, a chunk does not care.
  }
}
