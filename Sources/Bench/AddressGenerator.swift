/// Chooses the next I/O of a load. A pure function of seed and pattern: no clock, no state outside.
///
/// Random blocks are drawn independently and uniformly, as fio does with `norandommap`: over a run
/// that is short against the region this cannot be told from fio's default of visiting every block
/// once.
struct AddressGenerator: BitwiseCopyable, Sendable {
  /// One I/O to do.
  struct Choice: Equatable, BitwiseCopyable, Sendable {
    var isRead: Bool
    /// The block's number, in units of the load's block size.
    var block: UInt64
  }

  private var random: SeededGenerator
  private let pattern: AccessPattern
  private let blockCount: UInt64
  private let readPercent: UInt64
  private var nextInOrder: UInt64 = 0

  /// A generator over the blocks `0 ..< blockCount`.
  init(workload: Workload, blockCount: UInt64) {
    precondition(blockCount > 0, "a load without blocks")
    random = SeededGenerator(seed: workload.seed)
    pattern = workload.pattern
    self.blockCount = blockCount
    readPercent = UInt64(workload.readPercent)
  }

  /// The next I/O.
  @inline(__always)
  mutating func next() -> Choice {
    switch pattern {
    case .randread: return Choice(isRead: true, block: random.below(blockCount))
    case .randwrite: return Choice(isRead: false, block: random.below(blockCount))
    case .randrw:
      let isRead = random.below(100) < readPercent
      return Choice(isRead: isRead, block: random.below(blockCount))
    case .read, .write:
      let block = nextInOrder
      nextInOrder = block + 1 == blockCount ? 0 : block + 1
      return Choice(isRead: pattern == .read, block: block)
    }
  }
}
