/// A whole bitmap at once: how much it marks, and a copy of its words. Word by word, so that 1 TiB
/// (32 MiB of bits) takes some milliseconds, however the bits lie.

/// How much a bitmap marks.
public struct BitmapSummary: Equatable, Sendable, BitwiseCopyable {
  /// Blocks that are set.
  public var blocks: UInt64 = 0
  /// Runs of set blocks.
  public var runs: UInt64 = 0
  /// Extents of 4 MiB with a set block in them.
  public var extents: UInt64 = 0

  /// Joins the parts; nothing is marked where none is given.
  public init(blocks: UInt64 = 0, runs: UInt64 = 0, extents: UInt64 = 0) {
    self.blocks = blocks
    self.runs = runs
    self.extents = extents
  }
}

extension BlockBitmap {
  /// Words of the blocks of one extent of 4 MiB.
  private static let wordsPerExtent = 16

  /// How much is marked.
  public var summary: BitmapSummary {
    var summary = BitmapSummary()
    summary.blocks = setCount
    var last: UInt64 = 0
    var lastExtent = -1
    for index in 0..<wordCount {
      let bits = word(index)
      // A run begins where the block before is not set.
      summary.runs += UInt64((bits & ~(bits << 1 | last >> 63)).nonzeroBitCount)
      last = bits
      if bits != 0, index / Self.wordsPerExtent != lastExtent {
        lastExtent = index / Self.wordsPerExtent
        summary.extents += 1
      }
    }
    return summary
  }

  /// A copy of all words; block `n` is bit `n % 64` of word `n / 64`.
  public var allWords: [UInt64] { (0..<wordCount).map { word($0) } }
}
