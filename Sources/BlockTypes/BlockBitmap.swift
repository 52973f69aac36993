/// One bit a 4 KiB block: set means "may differ", the out-of-sync bitmap of one peer.
///
/// Invariant: `setCount` is the number of set bits below `blockCount`; no bit above it is ever set.
@safe
public struct BlockBitmap: ~Copyable {
  private let words: UnsafeMutablePointer<UInt64>
  private let wordCount: Int

  /// Blocks that the bitmap describes.
  public let blockCount: UInt64
  /// Bits that are set.
  public private(set) var setCount: UInt64 = 0

  /// A bitmap for `blockCount` blocks, all clear. 32 KiB of memory a GiB of volume.
  public init(blockCount: UInt64) {
    self.blockCount = blockCount
    wordCount = Int((blockCount + 63) / 64)
    unsafe words = .allocate(capacity: max(wordCount, 1))
    unsafe words.initialize(repeating: 0, count: max(wordCount, 1))
  }

  deinit { unsafe words.deallocate() }

  /// Whether the bit of `block` is set.
  public subscript(block: BlockIndex) -> Bool {
    precondition(block.value < blockCount, "block outside the bitmap")
    return unsafe words[Int(block.value / 64)] & (1 << (block.value % 64)) != 0
  }

  /// Sets every bit.
  public mutating func setAll() {
    for index in 0..<wordCount { unsafe words[index] = .max }
    let tail = blockCount % 64
    if tail != 0 { unsafe words[wordCount - 1] = (1 << tail) - 1 }
    setCount = blockCount
  }

  /// Clears every bit.
  public mutating func clearAll() {
    for index in 0..<wordCount { unsafe words[index] = 0 }
    setCount = 0
  }

  /// Sets the bits of every block that `range` touches.
  public mutating func set(_ range: ByteRange) {
    guard range.length > 0 else { return }
    let last = (range.end - 1) / blockSize
    precondition(last < blockCount, "range outside the bitmap")
    for block in (range.start / blockSize)...last {
      let word = Int(block / 64)
      let bit: UInt64 = 1 << (block % 64)
      let old = unsafe words[word]
      if old & bit == 0 {
        unsafe words[word] = old | bit
        setCount += 1
      }
    }
  }

  /// Clears the bits of every block that lies wholly inside `range`; a block cut by the volume's
  /// end counts as whole when `range` reaches `volumeBytes`.
  public mutating func clear(_ range: ByteRange, volumeBytes: UInt64) {
    let first = (range.start + blockSize - 1) / blockSize
    let end = range.end == volumeBytes ? blockCount : range.end / blockSize
    precondition(end <= blockCount, "range outside the bitmap")
    var block = first
    while block < end {
      let word = Int(block / 64)
      let bit: UInt64 = 1 << (block % 64)
      let old = unsafe words[word]
      if old & bit != 0 {
        unsafe words[word] = old & ~bit
        setCount -= 1
      }
      block += 1
    }
  }

  /// The first set bit at or after `block`; `nil` when there is none up to the end.
  public func firstSet(from block: BlockIndex) -> BlockIndex? {
    guard block.value < blockCount else { return nil }
    var index = Int(block.value / 64)
    var word = unsafe words[index] & (UInt64.max << (block.value % 64))
    while word == 0 {
      index += 1
      guard index < wordCount else { return nil }
      word = unsafe words[index]
    }
    return BlockIndex(UInt64(index) * 64 + UInt64(word.trailingZeroBitCount))
  }

  /// How many bits in a row are set from `block` on, at most `limit`.
  public func runLength(from block: BlockIndex, limit: UInt64) -> UInt64 {
    var length: UInt64 = 0
    while length < limit, block.value + length < blockCount, self[BlockIndex(block.value + length)]
    {
      length += 1
    }
    return length
  }
}
