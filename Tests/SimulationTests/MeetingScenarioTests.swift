/// What two nodes conclude when they meet: after a resync whose end was missed, after crashes, and
/// after whatever an administrator may do. Names begin with the scenario in docs/scenarios.md.
import BlockTypes
import Metadata
import Replication
import Testing
import Wire

@testable import Simulation

@Suite struct MeetingScenarioTests {
  /// Cut at every moment near the end; the next outage is a partial resync of what it changed.
  @Test(arguments: 0..<20)
  func `R16: nothing is forgotten where the end of a resync is missed`(step: Int) {
    let scenario = Scenario(seed: UInt64(step) + 1) { $0.resyncRequestBytes = 4096 }
    scenario.makePair()
    scenario.partition()
    scenario.write(0, 0..<32)
    let before = scenario.copiedBlocks
    for node in 0...1 { scenario.cluster.setBlocked(false, from: node) }
    scenario.run { $0.copiedBlocks == before + 4 }
    scenario.cluster.run(until: scenario.cluster.now + UInt64(step) * 100_000)
    scenario.cluster.cut(.cutConnection)
    scenario.run { $0.first.connection != .connected || $0.second.connection != .connected }
    scenario.run { $0.isInSync }
    #expect(scenario.copiedBlocks - before <= 4 + 4)

    let settled = scenario.copiedBlocks
    scenario.passThroughGeneration(40..<48)
    #expect(scenario.copiedBlocks == settled + 1)
    scenario.finish()
  }

  /// The target is whole and says so on its disk; the source has not heard it. They change roles.
  @Test func `R17: a missed end of which nothing is left needs no second resync`() {
    let scenario = Scenario { $0.resyncRequestBytes = 4096 }
    scenario.makePair()
    scenario.partition()
    scenario.write(0, 0..<32)
    for node in 0...1 { scenario.cluster.setBlocked(false, from: node) }
    let isTold = scenario.run {
      $0.second.durableSuperblock?.diskState == .upToDate && $0.first.replication == .syncSource
        && $0.second.replication != .wfBitMapT && $0.second.diskState == .upToDate
    }
    #expect(isTold, "the source heard of the end too early for this test")
    scenario.partition()
    scenario.tell(0, .secondary(heldOpen: false))
    #expect(scenario.tell(1, .primary(force: false))?.isDone == true)
    let before = (scenario.copiedBlocks, scenario.cluster.statistics.resyncs)
    scenario.heal()

    #expect(scenario.copiedBlocks == before.0)
    #expect(scenario.cluster.statistics.resyncs == before.1)
    #expect(scenario.second.role == .primary)
    scenario.finish()
  }

  /// The Primary dies, the survivor takes over without writing, the dead one returns: 20 times.
  @Test(arguments: [Cluster.End.kill, .powerLoss])
  func `R20: roles that change by crashes leave both UpToDate each time`(end: Cluster.End) {
    let scenario = Scenario()
    scenario.makePair()
    scenario.write(0, 0..<64)
    for round in 0..<20 {
      let victim = round % 2
      scenario.cluster.end(victim, end)
      scenario.run { $0.cluster.nodes[1 - victim].connection != .connected }
      #expect(scenario.tell(1 - victim, .primary(force: false))?.isDone == true)
      scenario.start(victim)
      #expect(scenario.run { $0.isInSync }, "round \(round)")
    }
    #expect(scenario.cluster.statistics.refusals(.splitBrain) == 0)
    scenario.finish()
  }

  @Test(arguments: 1...2 as ClosedRange<UInt64>)
  func `R13: related data is never called unrelated, whatever was done to it`(seed: UInt64) {
    let scenario = Scenario(seed: seed)
    scenario.makePair()
    for _ in 0..<200 { scenario.disturbOnce() }
    scenario.settleWithoutAnOperator()

    #expect(scenario.cluster.statistics.refusals(.unrelatedData) == 0)
    scenario.finish()
  }

  @Test(arguments: 1...4 as ClosedRange<UInt64>)
  func `R23: after a churn of roles no block stays counted as out of sync`(seed: UInt64) {
    let scenario = Scenario(seed: 100 + seed) { $0.think = Latency(floorUs: 1, spreadUs: 1) }
    scenario.makePair()
    for _ in 0..<60 { scenario.disturbOnce() }
    scenario.settleWithoutAnOperator()
    scenario.run(milliseconds: 30_000)

    for node in scenario.cluster.nodes {
      #expect(node.replica.status(ofPeer: 0).blocksOutOfSync == 0)
    }
    scenario.finish()
  }
}

extension Scenario {
  /// One thing that an administrator, a cable or a host may do; never a promotion that needs force
  /// or that could part the histories.
  func disturbOnce() {
    let node = cluster.planRandom.index(2)
    switch cluster.planRandom.below(8) {
    case 0: cluster.cut(.cutConnection)
    case 1: cluster.cut(.halfOpenConnection)
    case 2: cluster.end(node, .kill)
    case 3: cluster.end(node, .powerLoss)
    case 4: if cluster.nodes[node].isRunning { stop(node) }
    case 5: tell(node, .disconnect)
    case 6: switchOver()
    default:
      for node in cluster.nodes where node.isRunning && node.role == .primary {
        let start = cluster.planRandom.index(cluster.volumeSectors - 16)
        write(node.index, start..<(start + 16))
      }
    }
    run(milliseconds: cluster.planRandom.below(1_500))
    // The one that is down or StandAlone returns in half of the cases.
    guard cluster.planRandom.coin() else { return }
    settleWithoutAnOperator()
  }

  /// Primary and Secondary change places, where both are there.
  private func switchOver() {
    guard isInSync, let primary = cluster.nodes.first(where: { $0.role == .primary }) else {
      return
    }
    tell(primary.index, .secondary(heldOpen: false))
    run(milliseconds: 50)
    tell(1 - primary.index, .primary(force: false))
  }

  /// Starts what is down, connects what stands alone, and has somebody be Primary.
  func settleWithoutAnOperator() {
    for node in 0...1 {
      start(node)
      if cluster.nodes[node].connection == .standAlone { tell(node, .connect) }
    }
    run(atMostMs: 60_000) { $0.isInSync }
    if isInSync, !cluster.nodes.contains(where: { $0.role == .primary }) {
      tell(cluster.planRandom.index(2), .primary(force: false))
    }
  }
}
