/// One bit a 4 KiB block: set means "may differ", the out-of-sync bitmap of one peer.
///
/// 32 MiB of memory a TiB of volume. On disk it is divided into pages; `BlockBitmap+Pages.swift`.
///
/// Invariants:
/// - `setCount` is the number of set bits below `blockCount`; no bit above it is ever set;
/// - a page with a bit that was set since the page was written is `dirty`.
@safe
public struct BlockBitmap: ~Copyable {
  let words: UnsafeMutablePointer<UInt64>
  /// Words of 64 bits that the bitmap consists of.
  public let wordCount: Int

  /// Blocks that the bitmap describes.
  public let blockCount: UInt64
  /// Blocks that one page on disk describes.
  public let pageBlocks: UInt64
  /// Bits that are set.
  public private(set) var setCount: UInt64 = 0

  /// Pages with set bits that the disk may lack.
  var dirty: PageMarks
  /// Pages whose copy on the disk has bits that were cleared since, or is damaged.
  var stale: PageMarks
  /// Pages that are being written.
  var writing: PageMarks
  /// Pages that the disk has had since `expectPage`, at some moment, as they were then or later.
  var covered: PageMarks

  /// A bitmap for `blockCount` blocks, all clear.
  /// - Parameter pageBlocks: blocks in one page, in whole words; smaller in the simulator, which
  ///   has small volumes.
  public init(blockCount: UInt64, pageBlocks: UInt64 = blocksPerPage) {
    precondition(pageBlocks % 64 == 0 && pageBlocks <= Self.blocksPerPage, "not whole words")
    self.blockCount = blockCount
    self.pageBlocks = pageBlocks
    wordCount = Int((blockCount + 63) / 64)
    unsafe words = .allocate(capacity: max(wordCount, 1))
    unsafe words.initialize(repeating: 0, count: max(wordCount, 1))
    let pages = Int((blockCount + pageBlocks - 1) / pageBlocks)
    dirty = PageMarks(count: pages)
    stale = PageMarks(count: pages)
    writing = PageMarks(count: pages)
    covered = PageMarks(count: pages)
  }

  deinit { unsafe words.deallocate() }

  /// Bytes of memory that a bitmap for `blockCount` blocks takes.
  public static func memoryBytes(blockCount: UInt64) -> UInt64 {
    let pages = (blockCount + blocksPerPage - 1) / blocksPerPage
    return (blockCount + 63) / 64 * 8 + 4 * ((pages + 63) / 64 * 8)
  }

  /// Whether the bit of `block` is set.
  public subscript(block: BlockIndex) -> Bool {
    precondition(block.value < blockCount, "block outside the bitmap")
    return unsafe words[Int(block.value / 64)] & (1 << (block.value % 64)) != 0
  }

  /// Sets every bit.
  public mutating func setAll() { setBlocks(0..<blockCount) }

  /// Clears every bit.
  public mutating func clearAll() { clearBlocks(0..<blockCount) }

  /// Sets the bits of every block that `range` touches.
  public mutating func set(_ range: ByteRange) {
    guard range.length > 0 else { return }
    setBlocks(range.start / blockSize..<(range.end - 1) / blockSize + 1)
  }

  /// Clears the bits of every block that lies wholly inside `range`; a block cut by the volume's
  /// end counts as whole when `range` reaches `volumeBytes`.
  public mutating func clear(_ range: ByteRange, volumeBytes: UInt64) {
    let first = (range.start + blockSize - 1) / blockSize
    let end = range.end == volumeBytes ? blockCount : range.end / blockSize
    guard first < end else { return }
    clearBlocks(first..<end)
  }

  /// Sets the bits of these blocks.
  public mutating func setBlocks(_ blocks: Range<UInt64>) {
    precondition(blocks.upperBound <= blockCount, "blocks outside the bitmap")
    var lower = blocks.lowerBound
    while lower < blocks.upperBound {
      let page = lower / pageBlocks
      let upper = min(blocks.upperBound, (page + 1) * pageBlocks)
      let before = setCount
      change(lower..<upper) { word, mask in word | mask }
      if setCount != before { dirty.insert(Int(page)) }
      lower = upper
    }
  }

  /// Clears the bits of these blocks.
  public mutating func clearBlocks(_ blocks: Range<UInt64>) {
    precondition(blocks.upperBound <= blockCount, "blocks outside the bitmap")
    var lower = blocks.lowerBound
    while lower < blocks.upperBound {
      let page = lower / pageBlocks
      let upper = min(blocks.upperBound, (page + 1) * pageBlocks)
      let before = setCount
      change(lower..<upper) { word, mask in word & ~mask }
      if setCount != before { stale.insert(Int(page)) }
      lower = upper
    }
  }

  /// Applies `operation` to every word that the blocks touch, with the bits it may change.
  @inline(__always)
  private mutating func change(
    _ blocks: Range<UInt64>, _ operation: (_ word: UInt64, _ mask: UInt64) -> UInt64
  ) {
    for index in Int(blocks.lowerBound / 64)..<Int((blocks.upperBound + 63) / 64) {
      change(index) { operation($0, Self.mask(index, blocks)) }
    }
  }

  /// Replaces one word and counts what changed.
  @inline(__always)
  mutating func change(_ index: Int, _ operation: (UInt64) -> UInt64) {
    let old = unsafe words[index]
    let new = operation(old)
    guard new != old else { return }
    unsafe words[index] = new
    setCount = setCount &+ UInt64(new.nonzeroBitCount) &- UInt64(old.nonzeroBitCount)
  }

  /// The bits of word `index` that belong to `blocks`, which reach into the word.
  static func mask(_ index: Int, _ blocks: Range<UInt64>) -> UInt64 {
    let start = UInt64(index) * 64
    var mask = UInt64.max
    if blocks.lowerBound > start { mask <<= blocks.lowerBound - start }
    if blocks.upperBound < start + 64 { mask &= (1 << (blocks.upperBound - start)) - 1 }
    return mask
  }

  /// The bits of blocks `index * 64 ..< index * 64 + 64`, the first one in the lowest bit.
  public func word(_ index: Int) -> UInt64 {
    precondition(index >= 0 && index < wordCount, "word outside the bitmap")
    return unsafe words[index]
  }

  /// Sets the bits of one word that are set in `word`; those behind the last block are ignored.
  public mutating func merge(_ word: UInt64, atWord index: Int) {
    precondition(index >= 0 && index < wordCount, "word outside the bitmap")
    let before = setCount
    let mask = Self.mask(index, 0..<blockCount)
    change(index) { $0 | word & mask }
    if setCount != before { dirty.insert(index / wordsPerPage) }
  }

  /// The first set bit at or after `block`; `nil` when there is none up to the end.
  public func firstSet(from block: BlockIndex) -> BlockIndex? {
    first(from: block.value, inverted: 0).map { BlockIndex($0) }
  }

  /// How many bits in a row are set from `block` on, at most `limit`.
  public func runLength(from block: BlockIndex, limit: UInt64) -> UInt64 {
    guard block.value < blockCount else { return 0 }
    let end = first(from: block.value, inverted: .max) ?? blockCount
    return min(limit, end - block.value)
  }

  /// The first run of set bits that begins or goes on at or after `block`.
  public func nextRun(from block: BlockIndex) -> Range<UInt64>? {
    guard let start = first(from: block.value, inverted: 0) else { return nil }
    return start..<(first(from: start, inverted: .max) ?? blockCount)
  }

  /// How many of these blocks are set.
  public func setCount(in blocks: Range<UInt64>) -> UInt64 {
    precondition(blocks.upperBound <= blockCount, "blocks outside the bitmap")
    guard !blocks.isEmpty else { return 0 }
    var count: UInt64 = 0
    for index in Int(blocks.lowerBound / 64)..<Int((blocks.upperBound + 63) / 64) {
      count += unsafe UInt64((words[index] & Self.mask(index, blocks)).nonzeroBitCount)
    }
    return count
  }

  /// The first block from `block` on whose bit differs from that of `inverted`: 0 or all ones.
  private func first(from block: UInt64, inverted: UInt64) -> UInt64? {
    guard block < blockCount else { return nil }
    var index = Int(block / 64)
    var word = unsafe (words[index] ^ inverted) & (UInt64.max << (block % 64))
    while word == 0 {
      index += 1
      guard index < wordCount else { return nil }
      word = unsafe words[index] ^ inverted
    }
    let found = UInt64(index) * 64 + UInt64(word.trailingZeroBitCount)
    return found < blockCount ? found : nil
  }
}
