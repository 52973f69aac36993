/// When the next I/O of a load with a limited rate is due. Takes the time as an argument.
///
/// The schedule is fixed at the start: I/O number n is due at `start + n * interval`, whatever
/// became of those before. A target that stalls is thus followed by the I/Os that were due
/// meanwhile, as the users of a real system would be, and their latency counts from when they
/// were due. (Measuring from when they could be sent hides the stall: "coordinated omission".)
struct RateLimiter: BitwiseCopyable, Sendable {
  private let startNs: UInt64
  /// The interval is `numerator / denominator` nanoseconds.
  private let numerator: UInt64
  private let denominator: UInt64
  private var issued: UInt64 = 0
  /// When the next I/O is due; the start itself when the rate has no limit.
  private(set) var dueNs: UInt64

  /// A schedule that begins now; `nil` is no limit.
  init(rate: Rate?, blockBytes: UInt64, startNs: UInt64) {
    self.startNs = startNs
    dueNs = startNs
    switch rate {
    case nil:
      numerator = 0
      denominator = 1
    case .operations(let perSecond):
      precondition(perSecond > 0, "a rate of nothing")
      numerator = 1_000_000_000
      denominator = perSecond
    case .bytes(let perSecond):
      precondition(perSecond > 0, "a rate of nothing")
      precondition(blockBytes <= Workload.blockBytesLimit, "a block larger than any buffer")
      numerator = blockBytes * 1_000_000_000
      denominator = perSecond
    }
  }

  /// Whether the rate is limited at all.
  var isLimited: Bool { numerator > 0 }

  /// Counts one issued I/O and moves to the next.
  @inline(__always)
  mutating func advance() {
    guard isLimited else { return }
    issued += 1
    let product = issued.multipliedFullWidth(by: numerator)
    // A schedule that runs past 2^64 ns (584 years) never comes due again.
    guard product.high < denominator else {
      dueNs = .max
      return
    }
    let (sum, overflow) = startNs.addingReportingOverflow(
      denominator.dividingFullWidth(product).quotient)
    dueNs = overflow ? .max : sum
  }
}
