/// Named scenarios of history: who is right when two replicas meet again.
import BlockTypes
import Metadata
import Replication
import Testing
import Wire

@testable import Simulation

@Suite struct HistoryScenarioTests {
  /// R05: an idle link that flaps costs nothing.
  @Test func idleFlapBeginsNoGeneration() {
    let scenario = Scenario()
    scenario.makePair()
    scenario.write(0, 0..<8)
    let before = scenario.generations(0)
    let resyncs = scenario.cluster.statistics.resyncs
    for _ in 0..<20 {
      scenario.cluster.cut(.cutConnection)
      scenario.run { $0.first.connection != .connected || $0.second.connection != .connected }
      #expect(scenario.run { $0.isInSync })
    }
    #expect(scenario.generations(0) == before)
    #expect(scenario.cluster.statistics.resyncs == resyncs)
    scenario.finish()
  }

  /// R06: one write while the peer is away begins one generation, and the peer is synced.
  @Test func writeWhileThePeerIsAwayBeginsOneGeneration() {
    let scenario = Scenario()
    scenario.makePair()
    let before = scenario.generations(0)
    scenario.cluster.end(1, .kill)
    scenario.run { $0.first.connection != .connected }
    for round in 0..<5 { #expect(scenario.write(0, (round * 8)..<(round * 8 + 8)) == .done) }
    #expect(scenario.generations(0) == before + 1)
    scenario.start(1)
    scenario.finish()
    #expect(scenario.generations(1) == before + 1)
  }

  private func splitBrain() -> Scenario {
    let scenario = Scenario()
    scenario.makePair()
    scenario.write(0, 0..<8)
    scenario.partition()
    #expect(scenario.tell(1, .primary(force: false))?.isDone == true)
    #expect(scenario.write(0, 8..<16) == .done)
    #expect(scenario.write(1, 16..<24) == .done)
    for node in 0...1 { scenario.tell(node, .secondary(heldOpen: false)) }
    for node in 0...1 { scenario.cluster.setBlocked(false, from: node) }
    return scenario
  }

  /// B01, B07: both sides see it, neither changes anything.
  @Test func splitBrainIsSeenByBothAndChangesNothing() {
    let scenario = splitBrain()
    let before = (0..<scenario.cluster.volumeSectors).map {
      [scenario.first.disk.word(at: $0), scenario.second.disk.word(at: $0)]
    }
    #expect(
      scenario.run { $0.first.connection == .standAlone && $0.second.connection == .standAlone })
    #expect(scenario.first.reason == .splitBrain)
    #expect(scenario.second.reason == .splitBrain)
    scenario.run(milliseconds: 5_000)
    let after = (0..<scenario.cluster.volumeSectors).map {
      [scenario.first.disk.word(at: $0), scenario.second.disk.word(at: $0)]
    }
    #expect(before == after)
    #expect(scenario.first.diskState == .upToDate)
    #expect(scenario.second.diskState == .upToDate)
    scenario.expectNoViolation()
  }

  /// An operator who gives one side up gets the other side's data on both.
  @Test func splitBrainIsResolvedByInvalidatingOneSide() {
    let scenario = splitBrain()
    scenario.run { $0.first.connection == .standAlone && $0.second.connection == .standAlone }
    let kept = scenario.first.disk.word(at: 8)
    #expect(scenario.tell(1, .invalidate)?.isDone == true)
    scenario.cluster.isBranched = false
    for node in 0...1 { scenario.tell(node, .connect) }
    scenario.finish()
    #expect(scenario.second.disk.word(at: 8) == kept)
    #expect(scenario.second.disk.word(at: 16) == 0)
  }

  /// Two running Primaries that meet are refused; each keeps its clients.
  @Test func twoPrimariesThatMeetAreRefused() {
    let scenario = Scenario()
    scenario.makePair()
    for node in 0...1 { scenario.cluster.setBlocked(true, from: node) }
    scenario.run { $0.second.connection != .connected && $0.first.connection != .connected }
    scenario.tell(1, .primary(force: false))
    for node in 0...1 { scenario.cluster.setBlocked(false, from: node) }
    #expect(
      scenario.run { $0.first.reason == .bothPrimary && $0.second.reason == .bothPrimary })
    #expect(scenario.write(0, 0..<8) == .done)
    scenario.expectNoViolation()
  }

  /// A Primary whose disk failed is a Primary all the same (found by seed 8050).
  @Test func disklessPrimaryIsNotTakenForADisklessPeer() {
    let scenario = Scenario()
    scenario.makePair()
    for node in 0...1 { scenario.cluster.setBlocked(true, from: node) }
    scenario.run { $0.second.connection != .connected && $0.first.connection != .connected }
    scenario.tell(1, .primary(force: false))
    scenario.first.disk.faults.writeError = Ratio(1, of: 1)
    scenario.write(0, 0..<8)
    #expect(scenario.first.diskState == .diskless)
    #expect(scenario.first.role == .primary)
    for node in 0...1 { scenario.cluster.setBlocked(false, from: node) }
    #expect(
      scenario.run { $0.first.reason == .bothPrimary && $0.second.reason == .bothPrimary })
    scenario.expectNoViolation()
  }

  /// B03: both were Primary without each other, and one of them wrote: it is the source.
  @Test func bothWerePrimaryAndOneWrote() {
    let scenario = Scenario()
    scenario.makePair()
    scenario.write(0, 0..<16)
    scenario.partition()
    #expect(scenario.tell(1, .primary(force: false))?.isDone == true)
    #expect(scenario.first.role == .primary && scenario.second.role == .primary)
    #expect(scenario.write(0, 8..<16) == .done)
    #expect(scenario.request(1, .read, 0..<8) == .done)
    scenario.tell(1, .secondary(heldOpen: false))
    let newest = scenario.first.replica.superblock?.lineage.newest
    let copied = scenario.copiedBlocks
    for node in 0...1 { scenario.cluster.setBlocked(false, from: node) }
    scenario.finish()

    #expect(scenario.copiedBlocks - copied == 1)
    #expect(scenario.cluster.statistics.refusals(.splitBrain) == 0)
    #expect(scenario.first.role == .primary)
    for node in scenario.cluster.nodes {
      #expect(node.replica.superblock?.lineage.newest == newest, "node 1 began no generation")
    }
  }

  /// B03: a promotion without a write is no split brain.
  @Test func onlyOneSideWrote() {
    let scenario = Scenario()
    scenario.makePair()
    scenario.cluster.end(0, .kill)
    scenario.run { $0.second.connection != .connected }
    scenario.tell(1, .primary(force: false))
    scenario.request(1, .read, 0..<8)
    scenario.tell(1, .secondary(heldOpen: false))
    scenario.start(0)
    scenario.finish()
    #expect(scenario.cluster.statistics.refusals(.splitBrain) == 0)
  }

  /// A clean stop of both is no crash: nothing is copied at the next start.
  @Test func cleanStopOfBothNeedsNoResync() {
    let scenario = Scenario()
    scenario.makePair()
    scenario.write(0, 0..<8)
    scenario.tell(0, .secondary(heldOpen: false))
    scenario.run(milliseconds: 100)
    let resyncs = scenario.cluster.statistics.resyncs
    for node in 0...1 { scenario.tell(node, .shutdown) }
    scenario.start(0, 1)
    scenario.finish()
    #expect(scenario.cluster.statistics.resyncs == resyncs)
    #expect(scenario.tell(1, .primary(force: false))?.isDone == true)
  }

  /// A Secondary that left cleanly while the Primary goes on knows that it is behind.
  @Test func secondaryThatLeftIsOutdated() {
    let scenario = Scenario()
    scenario.makePair()
    scenario.tell(1, .shutdown)
    scenario.run { $0.first.connection != .connected }
    #expect(scenario.write(0, 0..<8) == .done)
    scenario.cluster.end(0, .powerLoss)
    scenario.start(1)
    #expect(scenario.second.diskState == .outdated)
    #expect(scenario.tell(1, .primary(force: false))?.refusal == .needUpToDateData)
    scenario.start(0)
    scenario.finish()
  }

  /// A node that is forced while its peer holds newer writes makes a history of its own.
  @Test func forcedPromotionOfAnOlderReplicaIsSeenAsSplitBrain() {
    let scenario = Scenario()
    scenario.makePair()
    scenario.cluster.end(1, .kill)
    scenario.run { $0.first.connection != .connected }
    scenario.write(0, 0..<8)
    scenario.cluster.end(0, .kill)
    scenario.start(1)
    #expect(scenario.tell(1, .primary(force: false))?.refusal == .needUpToDateData)
    #expect(scenario.tell(1, .primary(force: true))?.isDone == true)
    scenario.write(1, 8..<16)
    scenario.start(0)
    scenario.run { $0.second.connection == .standAlone && $0.first.connection == .standAlone }
    #expect(scenario.first.reason == .splitBrain)
    #expect(scenario.second.reason == .splitBrain)
    scenario.expectNoViolation()
  }
}
