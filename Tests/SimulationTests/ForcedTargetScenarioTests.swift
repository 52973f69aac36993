/// `primary --force` on a node whose resync broke off: what its source alone has is never taken for
/// older data. Names begin with the scenario in docs/scenarios.md.
import BlockTypes
import Metadata
import Replication
import Testing
import Wire

@testable import Simulation

@Suite struct ForcedTargetScenarioTests {
  /// Node 0 wrote sectors 0 to 63 alone and dies when node 1 has some of them. Node 1 is forced and
  /// writes sectors 40 to 47, then they meet.
  private func meetAfterForce(
    ofFirstSync: Bool = false, crashesAfter: Bool = false
  ) -> (Scenario, [UInt64]) {
    let scenario = Scenario {
      $0.resyncRequestBytes = 4096
      $0.volumeBlocks = 64
    }
    if ofFirstSync {
      scenario.start(0, 1)
      scenario.run { $0.first.connection == .connected }
      scenario.tell(0, .primary(force: true))
    } else {
      scenario.makePair()
      scenario.cluster.end(1, .kill)
      scenario.run { $0.first.connection != .connected }
    }
    #expect(scenario.write(0, 0..<64) == .done)
    let before = scenario.copiedBlocks
    if !ofFirstSync { scenario.start(1) }
    #expect(scenario.run { $0.copiedBlocks >= before + 2 })
    #expect(scenario.second.replication == .syncTarget)
    scenario.cluster.end(0, .kill)
    scenario.run { $0.second.connection != .connected }
    #expect(scenario.second.diskState == .inconsistent)
    #expect(scenario.tell(1, .primary(force: false))?.refusal == .needUpToDateData)

    #expect(scenario.tell(1, .primary(force: true))?.isDone == true)
    #expect(scenario.write(1, 40..<48) == .done)
    if crashesAfter {
      scenario.cluster.end(1, .kill)
      scenario.start(1)
    }
    let words = (0..<64).map { scenario.first.disk.word(at: $0) }
    scenario.start(0)
    #expect(
      scenario.run { $0.first.connection == .standAlone && $0.second.connection == .standAlone })
    return (scenario, words)
  }

  /// Both keep what they have, whoever was restarted meanwhile.
  private func expectBothKept(_ scenario: Scenario, _ words: [UInt64]) {
    scenario.run(milliseconds: 5_000)
    #expect((0..<64).map { scenario.first.disk.word(at: $0) } == words)
    #expect(scenario.first.diskState == .upToDate || scenario.first.diskState == .consistent)
    #expect(scenario.second.diskState == .upToDate)
    #expect(scenario.second.disk.word(at: 40) != words[40])
    scenario.expectNoViolation()
  }

  @Test(arguments: [false, true])
  func `B16: the target of a resync that is forced has parted from its source`(crashes: Bool) {
    let (scenario, words) = meetAfterForce(crashesAfter: crashes)
    #expect(scenario.first.reason == .splitBrain && scenario.second.reason == .splitBrain)
    expectBothKept(scenario, words)
  }

  /// Everything is copied: the bitmaps of a resync that broke off are not believed.
  @Test(arguments: 0...1)
  func `B16: the administrator ends it by discarding either side`(victim: Int) {
    let (scenario, words) = meetAfterForce()
    scenario.tell(1, .secondary(heldOpen: false))
    scenario.tell(victim, .connectDiscarding)
    scenario.tell(1 - victim, .connect)
    scenario.finish()
    let isFirsts = (0..<64).allSatisfy { scenario.second.disk.word(at: $0) == words[$0] }
    #expect(isFirsts == (victim == 1))
    #expect(scenario.cluster.nodes[victim].undo.count == scenario.cluster.volumeSectors)
  }

  /// It was forced again before the two met, and after a discard that was cut.
  @Test func `B16: forcing twice is no way around it`() {
    let (scenario, words) = meetAfterForce()
    scenario.tell(1, .secondary(heldOpen: false))
    scenario.tell(1, .discard(.withoutUndo))
    let before = scenario.copiedBlocks
    scenario.tell(0, .connect)
    #expect(scenario.run { $0.copiedBlocks >= before + 2 })
    scenario.cluster.end(0, .kill)
    scenario.run { $0.second.connection != .connected }
    #expect(scenario.second.diskState == .inconsistent)
    #expect(scenario.tell(1, .primary(force: true))?.isDone == true)
    #expect(scenario.write(1, 40..<48) == .done)
    scenario.start(0)
    #expect(scenario.run { $0.first.reason == .splitBrain && $0.second.reason == .splitBrain })
    expectBothKept(scenario, words)
  }

  /// Nothing is older than what the source had: they have nothing in common.
  @Test(arguments: 0...1)
  func `B16: the target of a first sync that is forced is unrelated to its source`(victim: Int) {
    let (scenario, words) = meetAfterForce(ofFirstSync: true)
    #expect(scenario.first.reason == .unrelatedData && scenario.second.reason == .unrelatedData)
    expectBothKept(scenario, words)

    scenario.tell(1, .secondary(heldOpen: false))
    #expect(scenario.tell(victim, .invalidate)?.isDone == true)
    for node in 0...1 { scenario.tell(node, .connect) }
    scenario.finish()
    let isFirsts = (0..<64).allSatisfy { scenario.second.disk.word(at: $0) == words[$0] }
    #expect(isFirsts == (victim == 1))
  }
}
