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
  private func splitBrain() -> Scenario {
    let scenario = Scenario()
    scenario.makePair()
    scenario.write(0, 0..<8)
    for node in 0...1 { scenario.cluster.setBlocked(true, from: node) }
    scenario.run { $0.first.connection != .connected && $0.second.connection != .connected }
    #expect(scenario.tell(1, .primary(force: false))?.isDone == true)
    #expect(scenario.write(0, 8..<16) == .done)
    #expect(scenario.write(1, 16..<24) == .done)
    for node in 0...1 { scenario.tell(node, .secondary(heldOpen: false)) }
    for node in 0...1 { scenario.cluster.setBlocked(false, from: node) }
    #expect(
      scenario.run { $0.first.connection == .standAlone && $0.second.connection == .standAlone })
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
    #expect(scenario.cluster.nodes.map { $0.replica.superblock } == before)
    scenario.expectNoViolation()
  }
}
