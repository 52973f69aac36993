/// A bitmap in pieces: pages for the disk, chunks for the peer.
///
/// Both carry bits in the same order: block `n` of a piece is bit `n % 8`, counted from the lowest,
/// of byte `n / 8`.
///
/// A page covers 31 whole extents of the activity log, so an extent never lies in two. The disk may
/// have more bits set than memory, never fewer, except in an extent that is hot:
///
/// ```
///            set a bit             writePage           pageWritten
///   durable ───────────▶ dirty ───────────────▶ writing ──────────▶ durable
///                          ▲                       │ set a bit
///                          └───────────────────────┘ (both: write again when this one ends)
/// ```

/// Marks on the pages of a bitmap, one bit each.
@safe
struct PageMarks: ~Copyable {
  private let words: UnsafeMutablePointer<UInt64>
  private let wordCount: Int
  let count: Int
  /// Pages that are marked.
  private(set) var markedCount = 0

  init(count: Int) {
    self.count = count
    wordCount = (count + 63) / 64
    unsafe words = .allocate(capacity: max(wordCount, 1))
    unsafe words.initialize(repeating: 0, count: max(wordCount, 1))
  }

  deinit { unsafe words.deallocate() }

  func contains(_ page: Int) -> Bool {
    precondition(page >= 0 && page < count, "page outside the bitmap")
    return unsafe words[page / 64] & (1 << UInt64(page % 64)) != 0
  }

  mutating func insert(_ page: Int) {
    guard !contains(page) else { return }
    let word = unsafe words[page / 64]
    unsafe words[page / 64] = word | 1 << UInt64(page % 64)
    markedCount += 1
  }

  mutating func remove(_ page: Int) {
    guard contains(page) else { return }
    let word = unsafe words[page / 64]
    unsafe words[page / 64] = word & ~(1 << UInt64(page % 64))
    markedCount -= 1
  }

  func first(from page: Int) -> Int? {
    guard markedCount > 0, page < count else { return nil }
    var index = page / 64
    var word = unsafe words[index] & (UInt64.max << UInt64(page % 64))
    while word == 0 {
      index += 1
      guard index < wordCount else { return nil }
      word = unsafe words[index]
    }
    return index * 64 + word.trailingZeroBitCount
  }
}

extension BlockBitmap {
  /// Blocks that one page on disk describes: 31 extents of 4 MiB.
  public static let blocksPerPage: UInt64 = 31 * 1024
  /// Bytes of bits in one page on disk.
  public static let pageBitBytes = Int(blocksPerPage / 8)
  var wordsPerPage: Int { Int(pageBlocks / 64) }

  /// Pages in all.
  public var pageCount: Int { dirty.count }

  /// The pages that describe a range of the volume.
  public func pages(covering range: ByteRange) -> Range<Int> {
    let pageBytes = pageBlocks * blockSize
    let end = min(range.end, blockCount * blockSize)
    guard range.start < end else { return 0..<0 }
    return Int(range.start / pageBytes)..<Int((end - 1) / pageBytes) + 1
  }

  /// Pages with set bits that the disk may lack. Those being written count only when bits were set
  /// in them since.
  public var dirtyPageCount: Int { dirty.markedCount }
  /// The first such page from `page` on.
  public func firstDirtyPage(from page: Int) -> Int? { dirty.first(from: page) }

  /// The first page from `page` on whose copy on the disk has bits that were cleared since, or is
  /// damaged. Writing it is not urgent: until then the next start copies more than it must.
  public func firstStalePage(from page: Int) -> Int? { stale.first(from: page) }

  /// Whether the page is being written: it must not be written again before that has ended.
  public func isWriting(_ page: Int) -> Bool { writing.contains(page) }

  /// Whether all set bits of a page are on the disk.
  public func isDurable(_ page: Int) -> Bool {
    !dirty.contains(page) && !writing.contains(page)
  }

  /// Whether all set bits are on the disk.
  public var isDurable: Bool { dirty.markedCount == 0 && writing.markedCount == 0 }

  /// Begins to write a page: copies its bits as they are now. `pageWritten` must follow.
  @safe
  public mutating func writePage(_ page: Int, into bytes: UnsafeMutableRawBufferPointer) {
    precondition(bytes.count == Self.pageBitBytes, "a page has a fixed number of bits")
    precondition(!writing.contains(page), "two writes of one page could change places")
    writing.insert(page)
    dirty.remove(page)
    stale.remove(page)
    let first = page * wordsPerPage
    for index in 0..<Self.pageBitBytes / 8 {
      let isInside = index < wordsPerPage && first + index < wordCount
      let word = unsafe isInside ? words[first + index] : 0
      unsafe bytes.storeBytes(of: word.littleEndian, toByteOffset: index * 8, as: UInt64.self)
    }
  }

  /// The write of a page has ended and is durable. A failed one is not told: the disk is given up.
  /// - Parameter isExpected: it was begun after `expectPage`.
  public mutating func pageWritten(_ page: Int, isExpected: Bool = false) {
    precondition(writing.contains(page), "no write of this page was begun")
    writing.remove(page)
    if isExpected { covered.insert(page) }
  }

  /// Asks for the page as it is now: `isCovered` says when the disk has it.
  public mutating func expectPage(_ page: Int) { covered.remove(page) }

  /// Whether all bits that were set at `expectPage` are on the disk. Bits that were set since may
  /// be not: a page that gets new ones during each of its writes is never durable.
  public mutating func isCovered(_ page: Int) -> Bool {
    if isDurable(page) { covered.insert(page) }
    return covered.contains(page)
  }

  /// Sets the bits of a page that was read from the disk. They are on the disk, so it stays as it
  /// is; bits that memory has already stay set.
  @safe
  public mutating func loadPage(_ page: Int, from bytes: UnsafeRawBufferPointer) {
    precondition(bytes.count == Self.pageBitBytes, "a page has a fixed number of bits")
    let bits = unsafe UnsafeRawBufferPointer(rebasing: bytes[0..<wordsPerPage * 8])
    unsafe merge(bits, atWord: page * wordsPerPage)
  }

  /// The pages of a range count as not on the disk, whatever was read: what a read returns after a
  /// crash of the process may be in the disk's cache only, and a power loss takes it back.
  public mutating func distrustPages(covering range: ByteRange) {
    for page in pages(covering: range) where !writing.contains(page) { dirty.insert(page) }
  }

  /// Sets every bit of a page whose copy on the disk is damaged, was never written, or could not be
  /// read. It is dirty: what could not be read now may be read at the next start (an error that
  /// passes, the other half of a mirror), and says less than memory then. Nothing that is marked
  /// from here on changes a bit that is set already, so nothing else would bring it to the disk.
  public mutating func loadDamagedPage(_ page: Int) {
    precondition(page >= 0 && page < pageCount, "page outside the bitmap")
    let first = UInt64(page) * pageBlocks
    setBlocks(first..<min(first + pageBlocks, blockCount))
    dirty.insert(page)
    stale.insert(page)
  }

  /// Copies the bits of `bytes.count * 8` blocks from `block` on, for the peer. Bits behind the
  /// last block are 0.
  /// - Parameters:
  ///   - block: a multiple of 64.
  ///   - bytes: a multiple of 8 bytes.
  @safe
  public func copyBits(from block: BlockIndex, into bytes: UnsafeMutableRawBufferPointer) {
    precondition(block.value % 64 == 0 && bytes.count % 8 == 0, "chunks are whole words")
    let first = Int(block.value / 64)
    for index in 0..<bytes.count / 8 {
      let word = unsafe first + index < wordCount ? words[first + index] : 0
      unsafe bytes.storeBytes(of: word.littleEndian, toByteOffset: index * 8, as: UInt64.self)
    }
  }

  /// Sets every bit that is set in a chunk from the peer, which may reach past the last block: what
  /// is behind it is ignored. Pages with new bits become dirty.
  /// - Parameters:
  ///   - block: a multiple of 64.
  ///   - bytes: a multiple of 8 bytes.
  @safe
  public mutating func mergeBits(_ bytes: UnsafeRawBufferPointer, at block: BlockIndex) {
    precondition(block.value % 64 == 0 && bytes.count % 8 == 0, "chunks are whole words")
    var word = Int(block.value / 64)
    var done = 0
    while done < bytes.count, word < wordCount {
      let page = word / wordsPerPage
      let length = min(bytes.count - done, ((page + 1) * wordsPerPage - word) * 8)
      let before = setCount
      unsafe merge(UnsafeRawBufferPointer(rebasing: bytes[done..<done + length]), atWord: word)
      if setCount != before { dirty.insert(page) }
      word += length / 8
      done += length
    }
  }

  private mutating func merge(_ bytes: UnsafeRawBufferPointer, atWord first: Int) {
    for index in 0..<min(bytes.count / 8, max(wordCount - first, 0)) {
      let raw = unsafe bytes.loadUnaligned(fromByteOffset: index * 8, as: UInt64.self)
      let mask = Self.mask(first + index, 0..<blockCount)
      change(first + index) { $0 | UInt64(littleEndian: raw) & mask }
    }
  }
}
