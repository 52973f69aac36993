/// The two enumerations: every state that a crash can leave, and every effect that can fail. Parts
/// of both here; `ashlar-sim --crashes` and `--effects` try all.
import BlockTypes
import Replication
import Testing

@testable import Simulation

@Suite struct CrashStateTests {
  /// Points of a few scenarios, with all states at each of them.
  @Test(arguments: [
    "write/together/pair/0", "write,flush,overlap/inTurn/pair/0", "durable,trim/together/pair/1",
    "write,other/together/alone/0", "overlap,write/together/resync/0",
  ])
  func everyStateOfAPointIsSurvived(name: String) throws {
    let scenario = try #require(CrashScenario(name))
    var tally = CrashTally()
    CrashStates.tryAll(of: scenario, oneIn: 12, into: &tally) { state, violation in
      Issue.record("\(state): \(violation)")
      return true
    }
    #expect(tally.points > 5)
    #expect(tally.states > tally.points, "nothing is ever unsafe")
  }

  /// A mistake in the order of disk writes cannot hide from it: fewer points than these find each.
  @Test(arguments: [
    Canary.skipLog, .writeBeforeHot, .ignoreHotExtents, .skipFlush, .forceUnitAccessOnlyHere,
    .cacheActivityLog,
  ])
  func plantedBugIsFound(canary: Canary) throws {
    var isFound = false
    var tally = CrashTally()
    for name in ["durable,flush/inTurn/pair/0", "write,flush,other/inTurn/pair/0"] where !isFound {
      let scenario = try #require(CrashScenario(name))
      CrashStates.tryAll(of: scenario, canary: canary, into: &tally) { _, _ in
        isFound = true
        return false
      }
    }
    #expect(isFound, "\(canary) stayed hidden in \(tally.states) states")
  }

  @Test func namesAreReadAsTheyArePrinted() throws {
    #expect(CrashScenario.all.count > 700)
    for scenario in CrashScenario.all { #expect(CrashScenario("\(scenario)") == scenario) }
    let scenario = try #require(CrashScenario.all.last)
    let state = CrashState(scenario, point: 7, .powerBoth, fates: [.kept, .lost, .firstHalf])
    let read = try #require(CrashState("\(state)"))
    #expect("\(read)" == "\(state)")
    for text in [
      "", "write/together/pair/2@1:killFirst:", "write/together/pair/0@1:burn:", "x@1:k:",
    ] {
      #expect(CrashState(text) == nil, "\(text)")
    }
  }

  /// Two unsafe writes of eight sectors and of one: four subsets, and the first one torn.
  @Test func everySubsetIsTried() {
    let all = CrashStates.combinations([8, 1])
    let names = all.map { String($0.map(\.rawValue)) }
    #expect(names == ["kk", "lk", "kl", "ll", "fk", "fl", "sk", "sl"])
    #expect(CrashStates.combinations([]).count == 1)
    #expect(CrashStates.combinations([Int](repeating: 1, count: 12)).count == 256)
  }

  /// The disk keeps exactly what it is told to keep.
  @Test func diskKeepsWhatTheStateSays() {
    var random = SeededGenerator(seed: 1)
    var disk = SimulatedDisk(sectorCount: 8)
    let first = disk.submit(.write([1, 2]), start: 0, count: 2, random: &random)
    _ = disk.finish(first, random: &random)
    _ = disk.submit(.write([3, 4]), start: 2, count: 2, random: &random)
    _ = disk.submit(.write([5, 6]), start: 4, count: 2, random: &random)
    #expect(disk.unsafeWrites(losesPower: false) == [2, 2])
    #expect(disk.unsafeWrites(losesPower: true) == [2, 2, 2])

    var killed = disk
    killed.crash(losesPower: false, [.lost, .secondHalf])
    #expect((0..<6).map { killed.word(at: $0) } == [1, 2, 0, 0, 0, 6])
    disk.crash(losesPower: true, [.kept, .lost, .firstHalf])
    #expect((0..<6).map { disk.word(at: $0) } == [1, 0, 3, 4, 0, 0])
    #expect((0..<6).allSatisfy { disk.isStable(at: $0) })
  }
}

@Suite struct EffectFailureTests {
  /// Each effect of one named run here.
  @Test(arguments: [SmallRun.cutAndResync, .crashOfPrimary])
  func anyEffectMayFail(run: SmallRun) {
    let tried = EffectFailures.tryAll(run, seed: 1) { failure, violation in
      Issue.record("\(failure): \(violation)")
      return true
    }
    #expect(tried > 200)
  }

  @Test func failuresAreReadAsTheyArePrinted() {
    for text in ["writes:3:1:metadata:7:once", "splitBrain:0:0:send:1:forEver"] {
      #expect(EffectFailure(text).map { "\($0)" } == text)
    }
    for text in ["", "writes:3:2:read:1:once", "writes:3:1:read:0:once", "x:0:0:read:1:once"] {
      #expect(EffectFailure(text) == nil, "\(text)")
    }
  }
}
