/// Whole runs from seeds: equal seeds do equal things, planted bugs are found, promises are kept.
import Replication
import Testing

@testable import Simulation

@Suite struct SeedTests {
  /// Same seed, same event hash: a failure can be repeated.
  @Test func equalSeedsGiveEqualHashes() {
    for seed in 0..<100 as Range<UInt64> {
      let once = Runner.run(seed: seed)
      let again = Runner.run(seed: seed)
      #expect(once.hash == again.hash, "seed \(seed)")
      #expect(once.events == again.events, "seed \(seed)")
    }
  }

  /// A trace changes nothing of what is traced.
  @Test func tracingDoesNotChangeARun() {
    for seed in 0..<10 as Range<UInt64> {
      let plain = Runner.run(seed: seed)
      #expect(plain.hash == Runner.trace(seed: seed).report.hash)
    }
  }

  @Test func differentSeedsGiveDifferentHashes() {
    let hashes = Set((0..<50 as Range<UInt64>).map { Runner.run(seed: $0).hash })
    #expect(hashes.count == 50)
  }

  /// 300 seeds here; `ashlar-sim --seeds 10000` is the test of record.
  @Test(arguments: 0..<10 as Range<UInt64>)
  func seedsKeepEveryPromise(group: UInt64) {
    for seed in (group * 30)..<(group * 30 + 30) {
      let report = Runner.run(seed: seed)
      #expect(report.passed, "seed \(seed): \(report.violations), \(SwarmOptions(seed: seed))")
      #expect(report.events >= 300, "seed \(seed) does next to nothing")
    }
  }

  /// Each planted bug is found within 1 000 seeds.
  @Test(arguments: Canary.allCases.filter { $0 != .none })
  func plantedBugIsFound(canary: Canary) {
    let failure = Runner.firstFailure(from: 0, count: 1_000, canary: canary)
    #expect(failure != nil, "\(canary) stayed hidden")
  }

  /// A missing generation is found by what it leads to, not only by looking at the lineage on disk.
  @Test func missingGenerationIsFoundByItsConsequences() {
    let failure = Runner.firstFailure(
      from: 0, count: 1_000, canary: .skipLineageWrite, checksLineage: false)
    #expect(failure != nil)
  }

  /// Every kind of fault is injected, and the rare states are reached.
  @Test func swarmReachesEverything() {
    var all = Statistics()
    for seed in 0..<300 as Range<UInt64> { all.add(Runner.run(seed: seed).statistics) }
    for kind in FaultKind.allCases {
      #expect(all.faults[kind.rawValue] > 0, "\(kind) never happens")
    }
    #expect(all.resyncs > 300)
    #expect(all.abandoned > 0)
    #expect(all.failed > 0)
    #expect(all.refused > 0)
    #expect(all.refusals(.splitBrain) > 0)
  }

  /// Seeds that found a bug of the core once.
  @Test(arguments: [33, 35, 61, 81, 737, 831, 983, 8050, 15157, 19658] as [UInt64])
  func keptSeeds(seed: UInt64) {
    let report = Runner.run(seed: seed)
    #expect(report.passed, "seed \(seed): \(report.violations)")
  }
}
