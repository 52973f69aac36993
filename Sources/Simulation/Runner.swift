/// Runs seeds and says what came of them.
import Replication

/// The outcome of one seed.
package struct SeedReport: Sendable {
  /// The seed.
  package let seed: UInt64
  /// FNV-1a over every event that was delivered: equal for equal seeds.
  package let hash: UInt64
  /// Events that the hash covers.
  package let events: UInt64
  /// Virtual nanoseconds.
  package let duration: UInt64
  /// What was broken; empty for a run that passed.
  package let violations: [Violation]
  /// What was done.
  package let statistics: Statistics

  /// Refusals that waited for an administrator: reason=forked/whole, by whether both replicas held
  /// acknowledged writes that the other lacked.
  package var refusals: [(reason: String, forked: Int, whole: Int)] {
    (0..<256).compactMap { index in
      let forked = statistics.refusedForked[index]
      let whole = statistics.refusedWhole[index]
      guard forked + whole > 0, let reason = Reason(rawValue: UInt8(index)) else { return nil }
      return ("\(reason)", forked, whole)
    }
  }

  /// Whether every promise was kept.
  package var passed: Bool { violations.isEmpty }
}

/// Runs one seed after another.
package enum Runner {
  /// Runs one seed.
  package static func run(seed: UInt64, canary: Canary? = nil, checksLineage: Bool = true)
    -> SeedReport
  {
    var options = SwarmOptions(seed: seed)
    options.canary = canary ?? .none
    options.checksLineage = checksLineage
    return run(options)
  }

  /// Runs what `options` describe.
  package static func run(_ options: SwarmOptions) -> SeedReport {
    let cluster = Cluster(options: options)
    cluster.runWhole()
    return report(of: cluster)
  }

  /// Runs one seed again with a trace. The same seed does the same things.
  package static func trace(
    seed: UInt64, canary: Canary? = nil, checksLineage: Bool = true
  ) -> (report: SeedReport, options: SwarmOptions, lines: [String]) {
    var options = SwarmOptions(seed: seed)
    options.canary = canary ?? .none
    options.checksLineage = checksLineage
    let cluster = Cluster(options: options)
    cluster.isTracing = true
    cluster.runWhole()
    return (report(of: cluster), options, cluster.trace)
  }

  /// Runs seeds from `first` on until one breaks a promise; `nil` when none of `count` does.
  package static func firstFailure(
    from first: UInt64, count: UInt64, canary: Canary, checksLineage: Bool = true
  ) -> SeedReport? {
    for seed in first..<(first + count) {
      let report = run(seed: seed, canary: canary, checksLineage: checksLineage)
      if !report.passed { return report }
    }
    return nil
  }

  static func report(of cluster: Cluster) -> SeedReport {
    SeedReport(
      seed: cluster.options.seed, hash: cluster.hash.value, events: cluster.hash.events,
      duration: cluster.now, violations: cluster.violations, statistics: cluster.statistics)
  }
}
