/// Whole runs from seeds: equal seeds do equal things, planted bugs are found, promises are kept.
import Replication
import Testing

@testable import Simulation

@Suite struct SeedTests {
  /// Same seed, same event hash: a failure can be repeated.
  @Test func equalSeedsGiveEqualHashes() {
    for seed in 0..<20 as Range<UInt64> {
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
    let hashes = Set((0..<20 as Range<UInt64>).map { Runner.run(seed: $0).hash })
    #expect(hashes.count == 20)
  }

  /// 40 seeds here; `ashlar-sim --seeds 10000` is the test of record.
  @Test(arguments: 0..<10 as Range<UInt64>)
  func seedsKeepEveryPromise(group: UInt64) {
    for seed in (group * 4)..<(group * 4 + 4) {
      let report = Runner.run(seed: seed)
      #expect(report.passed, "seed \(seed): \(report.violations), \(SwarmOptions(seed: seed))")
      #expect(report.events >= 300, "seed \(seed) does next to nothing")
    }
  }

  /// Some planted bugs here; `ashlar-sim --canaries` plants every one.
  @Test(arguments: [
    Canary.completeBeforePeer, .skipLineageWrite, .skipLog, .forgetDroppedWrites,
    .keepPullCursor, .skipFlush, .unmarkWhenSent, .writeOneCopy,
  ])
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
    for seed in 0..<120 as Range<UInt64> { all.add(Runner.run(seed: seed).statistics) }
    for kind in FaultKind.allCases {
      #expect(all.faults[kind.rawValue] > 0, "\(kind) never happens")
      #expect(all.struck[kind.rawValue] > 0, "\(kind) never has an effect")
    }
    for milestone in Milestone.allCases {
      #expect(all.milestones[milestone.rawValue] > 0, "\(milestone) is never reached")
    }
    #expect(all.resyncs > 120)
    #expect(all.abandoned > 0)
    #expect(all.failed > 0)
    #expect(all.refused > 0)
  }

  /// A partition in which both sides write is a split brain, and is seen as one.
  @Test func swarmMakesSplitBrains() {
    var all = Statistics()
    for seed in 0..<10 as Range<UInt64> {
      var options = SwarmOptions(seed: seed)
      options.faults = [.isolateAndPromote]
      options.faultCount = 3
      let report = Runner.run(options)
      #expect(report.passed, "seed \(seed): \(report.violations)")
      all.add(report.statistics)
    }
    #expect(all.refusals(.splitBrain) > 0)
  }
}

/// One fault at exact points of a small run.
@Suite struct FaultPointTests {
  /// Every 7th point of three runs here; `ashlar-sim --points` takes every point of many.
  @Test(arguments: 0..<3 as Range<UInt64>)
  func faultAtAnyPointIsSurvived(seed: UInt64) {
    let (points, failures) = FaultPoints.failures(seed: seed, stride: 7)
    #expect(points > 100)
    for (point, report) in failures {
      Issue.record("seed \(seed) at \(point): \(report.violations)")
    }
  }

  /// A point strikes where it says, and nowhere when the run is shorter.
  @Test func pointChangesTheRunFromThereOn() {
    let plain = FaultPoints.run(seed: 1, FaultPoint(node: 0, effect: 1_000_000, fault: .kill))
    let same = Runner.run(FaultPoints.options(seed: 1))
    #expect(plain.report.hash == same.hash)
    let struck = FaultPoints.run(seed: 1, FaultPoint(node: 0, effect: 40, fault: .kill))
    #expect(struck.report.hash != same.hash)
  }

  @Test func pointsAreReadAsTheyArePrinted() {
    for fault in PointFault.allCases {
      let point = FaultPoint(node: 1, effect: 17, fault: fault)
      #expect(FaultPoint("\(point)") == point)
    }
    for text in ["", "1", "2:0:kill", "0:-1:kill", "0:1:burn", "0:1:kill:2"] {
      #expect(FaultPoint(text) == nil, "\(text)")
    }
  }
}
