internal import Histogram

/// Counts and latencies of the I/Os of one kind. Recording allocates nothing.
///
/// Percentiles come from a histogram with three significant digits; least, greatest and mean are
/// exact.
struct LatencyRecorder: Sendable {
  private var histogram: Histogram<UInt64>
  private var totalNs: UInt64 = 0
  private var greatestNs: UInt64 = 0
  private var leastNs: UInt64 = .max
  /// I/Os recorded.
  private(set) var count: UInt64 = 0

  /// Longest latency with a place of its own in the histogram: one hour. Longer ones count as
  /// that in the percentiles.
  static let longestNs: UInt64 = 3_600_000_000_000

  init() {
    histogram = Histogram<UInt64>(
      highestTrackableValue: Self.longestNs, numberOfSignificantValueDigits: .three)
  }

  /// Adds one latency.
  @inline(__always)
  mutating func record(_ latencyNs: UInt64) {
    count += 1
    totalNs &+= latencyNs
    if latencyNs > greatestNs { greatestNs = latencyNs }
    if latencyNs < leastNs { leastNs = latencyNs }
    histogram.record(min(latencyNs, Self.longestNs))
  }

  /// Forgets everything.
  mutating func reset() {
    histogram.reset()
    totalNs = 0
    greatestNs = 0
    leastNs = .max
    count = 0
  }

  /// The figures; `nil` when nothing was recorded.
  var summary: LatencySummary? {
    guard count > 0 else { return nil }
    return LatencySummary(
      min: microseconds(leastNs), mean: Double(totalNs) / Double(count) / 1000,
      p50: microseconds(histogram.valueAtPercentile(50)),
      p99: microseconds(histogram.valueAtPercentile(99)),
      p999: microseconds(histogram.valueAtPercentile(99.9)),
      max: microseconds(greatestNs))
  }

  private func microseconds(_ nanoseconds: UInt64) -> Double { Double(nanoseconds) / 1000 }
}

/// Latencies in microseconds.
public struct LatencySummary: Codable, Equatable, Sendable {
  /// The least.
  public var min: Double
  /// The mean.
  public var mean: Double
  /// The median.
  public var p50: Double
  /// What 99 % stayed below.
  public var p99: Double
  /// What 99.9 % stayed below.
  public var p999: Double
  /// The greatest.
  public var max: Double

  /// Joins the figures.
  public init(min: Double, mean: Double, p50: Double, p99: Double, p999: Double, max: Double) {
    self.min = min
    self.mean = mean
    self.p50 = p50
    self.p99 = p99
    self.p999 = p999
    self.max = max
  }
}
