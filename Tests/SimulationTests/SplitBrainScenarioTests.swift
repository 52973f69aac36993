/// Named scenarios of split brain that an administrator ends with `--discard-my-data`.
import BlockTypes
import Metadata
import Replication
import Testing
import Wire

@testable import Simulation

@Suite struct SplitBrainScenarioTests {
  /// Both wrote without each other, found it out and stand alone. Node 0 wrote sectors 8 to 15,
  /// node 1 sectors 16 to 23.
  private func splitBrain(
    _ change: (inout SwarmOptions) -> Void = { _ in }
  ) -> Scenario {
    let scenario = Scenario(seed: 1, change)
    scenario.makePair()
    scenario.write(0, 0..<8)
    scenario.split()
    return scenario
  }

  private func discard(_ scenario: Scenario, victim: Int) {
    scenario.tell(victim, .connectDiscarding)
    scenario.tell(1 - victim, .connect)
  }

  /// The survivor's writes are on both replicas, the victim's are gone.
  private func expectData(of survivor: Int, _ scenario: Scenario) {
    let kept = survivor == 0 ? 8 : 16
    let lost = survivor == 0 ? 16 : 8
    for node in scenario.cluster.nodes {
      #expect(node.disk.word(at: kept) != 0)
      #expect(node.disk.word(at: lost) == 0)
    }
  }

  @Test(arguments: 0...1)
  func b01VictimGetsTheDataOfTheSurvivor(victim: Int) {
    let scenario = splitBrain()
    discard(scenario, victim: victim)
    scenario.finish()
    expectData(of: 1 - victim, scenario)
    let survivor = scenario.cluster.nodes[1 - victim].replica.superblock?.lineage
    #expect(scenario.cluster.nodes[victim].replica.superblock?.lineage == survivor)
  }

  /// A power loss of the victim, a crash of the survivor or a cut at any moment: the administrator
  /// asks once more where the wish was lost, and never gets a mixture.
  @Test(arguments: 0..<24)
  func b01DiscardSurvivesAFaultAtAnyMoment(step: Int) {
    let scenario = splitBrain()
    scenario.cluster.command(1, .connectDiscarding)
    scenario.cluster.command(0, .connect)
    scenario.cluster.run(until: scenario.cluster.now + UInt64(step) * 150_000)
    switch step % 3 {
    case 0: scenario.cluster.end(1, .powerLoss)
    case 1: scenario.cluster.end(0, .kill)
    default: scenario.cluster.cut(.cutConnection)
    }
    scenario.run(milliseconds: 50)
    for node in scenario.cluster.nodes where !node.isRunning { scenario.start(node.index) }
    for _ in 0..<5 where !scenario.run(atMostMs: 8_000, until: { $0.isInSync }) {
      guard scenario.first.connection == .standAlone || scenario.second.connection == .standAlone
      else { continue }
      discard(scenario, victim: 1)
    }
    scenario.finish()
    expectData(of: 0, scenario)
  }

  /// B14: what the victim wrote alone can be had back.
  @Test(arguments: 0...1)
  func b14VictimsWritesAreKeptBeforeTheyAreOverwritten(victim: Int) {
    let scenario = splitBrain()
    let sectors = victim == 0 ? 8..<16 : 16..<24
    let words = sectors.map { scenario.cluster.nodes[victim].disk.word(at: $0) }
    discard(scenario, victim: victim)
    scenario.finish()
    expectData(of: 1 - victim, scenario)
    #expect(sectors.map { scenario.cluster.nodes[victim].undo[$0] } == words)
    #expect(scenario.cluster.nodes[victim].undo.count == 8, "only what it changed itself")
    #expect(scenario.cluster.nodes[1 - victim].undo.isEmpty)
  }

  /// What cannot be kept is not overwritten, until the administrator declines.
  @Test func b14DiscardThatCannotBeKeptIsRefused() {
    let scenario = splitBrain { $0.undoFailure = Ratio(1, of: 1) }
    let kept = scenario.second.disk.word(at: 16)
    discard(scenario, victim: 1)
    let reasons: [Reason] = [.undoTooLarge, .undoNoSpace, .undoFailed]
    #expect(scenario.run { reasons.contains($0.second.reason) })
    #expect(scenario.second.connection == .standAlone)
    #expect(scenario.second.diskState == .upToDate)
    #expect(scenario.second.disk.word(at: 16) == kept)

    scenario.tell(1, .discard(.withoutUndo))
    scenario.finish()
    expectData(of: 0, scenario)
    #expect(scenario.second.undo.isEmpty)
  }

  /// B11: the operator wants the older of two data sets. He says so on both sides, and what the
  /// newer one had can be had back.
  @Test func b11NewerDataIsGivenUpForOlderDataAndKept() {
    let scenario = Scenario()
    scenario.makePair()
    scenario.cluster.end(1, .kill)
    scenario.run { $0.first.connection != .connected }
    scenario.write(0, 8..<16)
    let newer = (8..<16).map { scenario.first.disk.word(at: $0) }
    scenario.tell(0, .secondary(heldOpen: false))
    scenario.tell(0, .shutdown)
    scenario.start(1)
    #expect(scenario.tell(1, .primary(force: true))?.isDone == true)
    scenario.write(1, 16..<24)
    scenario.start(0)
    #expect(
      scenario.run { $0.first.connection == .standAlone && $0.second.connection == .standAlone })
    discard(scenario, victim: 0)
    scenario.run { $0.isInSync }
    scenario.expectNoViolation()
    #expect(scenario.areIdentical)
    #expect(scenario.first.disk.word(at: 8) == 0)
    #expect((8..<16).map { scenario.first.undo[$0] } == newer)
  }

  @Test func b02BothAskingIsRefusedAndKeepsBothDataSets() {
    let scenario = splitBrain()
    for node in 0...1 { scenario.tell(node, .connectDiscarding) }
    scenario.run { $0.first.reason == .bothDiscard && $0.second.reason == .bothDiscard }
    #expect(scenario.first.reason == .bothDiscard && scenario.second.reason == .bothDiscard)
    #expect(scenario.first.disk.word(at: 16) == 0)
    #expect(scenario.second.disk.word(at: 8) == 0)
    scenario.expectNoViolation()
  }

  @Test func b02DiscardingOnAPrimaryIsRefused() {
    let scenario = splitBrain()
    scenario.tell(1, .primary(force: false))
    #expect(scenario.tell(1, .connectDiscarding)?.refusal == .discardOnPrimary)
    #expect(scenario.second.connection == .standAlone)
    scenario.expectNoViolation()
  }

  /// R24: only looking changes nothing, on either side.
  @Test func r24TentativeConnectionChangesNothing() {
    let scenario = splitBrain()
    let before = scenario.cluster.nodes.map { $0.replica.superblock }
    scenario.tell(1, .connectTentatively)
    scenario.tell(0, .connect)
    scenario.run { $0.second.reason == .tentative && $0.second.connection == .standAlone }
    #expect(scenario.second.reason == .tentative)
    let meeting = scenario.second.replica.lastMeeting(withPeer: 0)
    #expect(meeting?.mine.outOfSyncBlocks == 1 && meeting?.theirs.outOfSyncBlocks == 1)
    #expect(scenario.cluster.nodes.map { $0.replica.superblock } == before)
    scenario.expectNoViolation()
  }
}
