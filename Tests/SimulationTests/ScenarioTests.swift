/// Named scenarios of connection loss and crashes, led step by step.
import BlockTypes
import Metadata
import Replication
import Testing
import Wire

@testable import Simulation

@Suite struct ScenarioTests {
  /// R01: nobody is UpToDate, and nobody may become Primary, until an operator decides.
  @Test func twoFreshNodesStayInconsistent() {
    let scenario = Scenario()
    scenario.start(0, 1)
    scenario.run { $0.first.connection == .connected && $0.second.connection == .connected }
    #expect(scenario.first.diskState == .inconsistent)
    #expect(scenario.second.diskState == .inconsistent)
    #expect(scenario.tell(0, .primary(force: false))?.refusal == .needUpToDateData)
    #expect(scenario.cluster.statistics.resyncs == 0)
    scenario.expectNoViolation()
  }

  /// R03: the administrator says that two fresh disks hold the same: nothing is copied, and an
  /// outage later costs what was written meanwhile.
  @Test func r03FirstSyncIsSkipped() {
    let scenario = Scenario()
    scenario.start(0, 1)
    scenario.run { $0.first.connection == .connected && $0.second.connection == .connected }
    scenario.run(milliseconds: 1_000)
    #expect(scenario.tell(0, .skipFirstSync)?.isDone == true)
    #expect(scenario.run { $0.isInSync })
    #expect(scenario.cluster.statistics.resyncs == 0)
    #expect(scenario.generations(0) == 1 && scenario.generations(1) == 1)
    #expect(scenario.tell(1, .skipFirstSync)?.refusal == .dataNotFresh)
    #expect(scenario.tell(1, .primary(force: false))?.isDone == true)
    #expect(scenario.write(1, 0..<8) == .done)
    scenario.cluster.end(0, .kill)
    scenario.run { $0.second.connection != .connected }
    scenario.write(1, 8..<16)
    scenario.start(0)
    scenario.finish()
    #expect(scenario.cluster.statistics.resyncs == 1)
  }

  /// R03: both are told in the same moment: both hold the same generation in the end.
  @Test func r03BothAreAsked() {
    let scenario = Scenario()
    scenario.start(0, 1)
    scenario.run { $0.first.connection == .connected && $0.second.connection == .connected }
    scenario.run(milliseconds: 1_000)
    for node in 0...1 { scenario.cluster.command(node, .skipFirstSync) }
    #expect(scenario.run { $0.isInSync })
    #expect(scenario.cluster.statistics.resyncs == 0)
    #expect(scenario.generations(0) == 1 && scenario.generations(1) == 1)
    #expect(scenario.tell(1, .primary(force: false))?.isDone == true)
    #expect(scenario.write(1, 0..<8) == .done)
    scenario.finish()
  }

  /// Two fresh nodes that have met, and hear nothing of each other from now on.
  private func cutFreshPair() -> Scenario {
    let scenario = Scenario()
    scenario.start(0, 1)
    scenario.run { $0.first.connection == .connected && $0.second.connection == .connected }
    scenario.run(milliseconds: 1_000)
    for node in 0...1 { scenario.cluster.setBlocked(true, from: node) }
    return scenario
  }

  /// R03: the news does not arrive: the side that heard nothing is filled.
  @Test func r03LostNewsEndsInAFullSync() {
    let scenario = cutFreshPair()
    #expect(scenario.tell(0, .skipFirstSync)?.isDone == true)
    scenario.run { $0.first.connection != .connected && $0.second.connection != .connected }
    #expect(scenario.second.diskState == .inconsistent)
    #expect(scenario.tell(0, .primary(force: false))?.isDone == true)
    for node in 0...1 { scenario.cluster.setBlocked(false, from: node) }
    scenario.finish()
    #expect(scenario.cluster.statistics.resyncs == 1)
  }

  /// R03: both are told, and hear nothing of each other: each has a history of its own. Nothing is
  /// overwritten before the administrator says whose disk counts for nothing.
  @Test func r03LostNewsOfBothIsRefused() {
    let scenario = cutFreshPair()
    for node in 0...1 { #expect(scenario.tell(node, .skipFirstSync)?.isDone == true) }
    scenario.run { $0.first.connection != .connected && $0.second.connection != .connected }
    for node in 0...1 { scenario.cluster.setBlocked(false, from: node) }
    scenario.run { $0.first.connection == .standAlone && $0.second.connection == .standAlone }
    #expect(scenario.first.reason == .unrelatedData && scenario.second.reason == .unrelatedData)
    #expect(scenario.cluster.statistics.resyncs == 0)

    #expect(scenario.tell(1, .invalidate)?.isDone == true)
    for node in 0...1 { scenario.tell(node, .connect) }
    scenario.finish()
    #expect(scenario.cluster.statistics.resyncs == 1)
  }

  /// R02: writes during the first sync are on both replicas at its end.
  @Test func writesGoOnDuringTheFirstSync() {
    let scenario = Scenario { $0.volumeBlocks = 256 }
    scenario.start(0, 1)
    scenario.run { $0.first.connection == .connected }
    scenario.tell(0, .primary(force: true))
    scenario.run { $0.first.replication == .syncSource }
    for round in 0..<20 { #expect(scenario.write(0, (round * 8)..<(round * 8 + 24)) == .done) }
    scenario.finish()
  }

  /// What was in flight at a cut is answered, and the peer gets what it missed.
  @Test(arguments: 1...10 as ClosedRange<UInt64>)
  func cutWhileWritesAreInFlight(seed: UInt64) {
    let scenario = Scenario(seed: seed) {
      $0.networkDelay = Latency(floorUs: 500, spreadUs: 1_000)
    }
    scenario.makePair()
    for client in 0..<8 { scenario.begin(client: client, 0, (client * 16)..<(client * 16 + 32)) }
    scenario.run(milliseconds: 1)
    scenario.cluster.cut(.cutConnection)
    #expect(scenario.run { $0.cluster.pendingRequests == 0 })
    for client in 0..<8 { #expect(scenario.cluster.outcome(client: client) == .done) }
    scenario.finish()
  }

  /// The Secondary takes over without force and has every acknowledged write.
  @Test(arguments: 1...10 as ClosedRange<UInt64>)
  func secondaryTakesOverWhenThePrimaryIsKilled(seed: UInt64) {
    let scenario = Scenario(seed: seed)
    scenario.makePair()
    scenario.write(0, 0..<64)
    for client in 1..<8 { scenario.begin(client: client, 0, (client * 8)..<(client * 8 + 24)) }
    scenario.cluster.end(0, seed % 2 == 0 ? .kill : .powerLoss)
    scenario.run { $0.second.connection != .connected }
    #expect(scenario.tell(1, .primary(force: false))?.isDone == true)
    #expect(scenario.write(1, 8..<16) == .done)
    scenario.start(0)
    scenario.finish()
    #expect(scenario.first.role == .secondary)
  }

  /// A crashed Primary that cannot ask its peer does not become Primary by itself (P2).
  @Test func crashedPrimaryAsksItsPeerFirst() {
    let scenario = Scenario()
    scenario.makePair()
    scenario.write(0, 0..<8)
    scenario.cluster.end(0, .kill)
    scenario.cluster.end(1, .kill)
    scenario.start(0)
    #expect(scenario.tell(0, .primary(force: false))?.refusal == .needUpToDateData)
    scenario.start(1)
    scenario.finish()
    #expect(scenario.tell(0, .primary(force: false))?.isDone == true)
  }

  /// C04: what was flushed survives the loss of both machines.
  @Test(arguments: 1...20 as ClosedRange<UInt64>)
  func flushedWritesSurviveThePowerLossOfBoth(seed: UInt64) {
    let scenario = Scenario(seed: seed)
    scenario.makePair()
    scenario.write(0, 0..<64)
    #expect(scenario.request(0, .flush) == .done)
    scenario.write(0, 32..<96)
    scenario.write(0, 200..<208, forceUnitAccess: true)
    for node in 0...1 { scenario.cluster.end(node, .powerLoss) }
    scenario.start(0, 1)
    scenario.finish()
    for sector in [0, 31, 200, 207] { #expect(scenario.first.disk.word(at: sector) != 0) }
  }

  /// S03, S04: an interrupted first sync leaves the target Inconsistent, and it goes on later.
  @Test(arguments: [Cluster.End.kill, .powerLoss])
  func interruptedFirstSync(how: Cluster.End) {
    let scenario = Scenario {
      $0.volumeBlocks = 256
      $0.resyncRequestBytes = 4096
    }
    scenario.start(0, 1)
    scenario.run { $0.first.connection == .connected }
    scenario.tell(0, .primary(force: true))
    scenario.write(0, 0..<64)
    scenario.run { $0.second.replication == .syncTarget }
    scenario.run(milliseconds: 5)
    #expect(scenario.second.replication == .syncTarget, "the sync was too fast for this test")
    scenario.cluster.end(1, how)
    scenario.start(1)
    #expect(scenario.second.diskState == .inconsistent)
    #expect(scenario.tell(1, .primary(force: false))?.isDone == false)
    scenario.finish()
  }

  /// S05: without its source the target waits, Inconsistent.
  @Test func sourceDiesDuringTheFirstSync() {
    let scenario = Scenario {
      $0.volumeBlocks = 256
      $0.resyncRequestBytes = 4096
    }
    scenario.start(0, 1)
    scenario.run { $0.first.connection == .connected }
    scenario.tell(0, .primary(force: true))
    scenario.run { $0.second.replication == .syncTarget }
    scenario.run(milliseconds: 5)
    scenario.cluster.end(0, .kill)
    scenario.run(milliseconds: 3_000)
    #expect(scenario.second.diskState == .inconsistent)
    #expect(scenario.tell(1, .primary(force: false))?.refusal == .needUpToDateData)
    scenario.start(0)
    scenario.finish()
  }

  /// Both dial at once: one connection is left, whatever the delays.
  @Test(arguments: 1...40 as ClosedRange<UInt64>)
  func crossingDialsLeaveOneConnection(seed: UInt64) {
    let scenario = Scenario(seed: seed) {
      $0.networkDelay = Latency(floorUs: 10, spreadUs: 5_000)
    }
    scenario.start(0, 1)
    #expect(
      scenario.run(atMostMs: 5_000) {
        $0.first.connection == .connected && $0.second.connection == .connected
      })
    scenario.run(milliseconds: 1_000)
    #expect(scenario.cluster.network.openConnections.count == 1)
    scenario.expectNoViolation()
  }

  /// Of two that ask at once, one at most becomes Primary.
  @Test(arguments: 1...40 as ClosedRange<UInt64>)
  func twoPromotionsAtOnce(seed: UInt64) {
    let scenario = Scenario(seed: seed) {
      $0.networkDelay = Latency(floorUs: 10, spreadUs: 2_000)
    }
    scenario.makePair()
    scenario.tell(0, .secondary(heldOpen: false))
    for node in 0...1 { scenario.cluster.command(node, .primary(force: false)) }
    scenario.run { $0.cluster.nodes.allSatisfy { $0.pendingCommand == nil } }
    let primaries = scenario.cluster.nodes.filter { $0.role == .primary }
    #expect(primaries.count == 1)
    scenario.finish()
  }

  /// A second Primary is refused while the first one is connected.
  @Test func secondPrimaryIsRefused() {
    let scenario = Scenario()
    scenario.makePair()
    #expect(scenario.tell(1, .primary(force: false))?.refusal == .multiplePrimaries)
    #expect(scenario.tell(1, .primary(force: true))?.isDone == false)
    scenario.finish()
  }

  /// A side that is never told finds out by its pings, and a write does not hang.
  @Test(arguments: 1...20 as ClosedRange<UInt64>)
  func halfOpenConnectionIsNoticed(seed: UInt64) {
    let scenario = Scenario(seed: seed)
    scenario.makePair()
    scenario.cluster.cut(.halfOpenConnection)
    scenario.begin(client: 1, 0, 0..<8)
    #expect(scenario.run(atMostMs: 5_000) { !$0.cluster.isPending(client: 1) })
    #expect(scenario.cluster.outcome(client: 1) == .done)
    scenario.finish()
  }

  /// V08: a flipped bit in a header costs the connection, never data.
  @Test(arguments: 1...20 as ClosedRange<UInt64>)
  func flippedBitInAHeader(seed: UInt64) {
    let scenario = Scenario(seed: seed)
    scenario.makePair()
    for client in 0..<4 { scenario.begin(client: client, 0, (client * 8)..<(client * 8 + 16)) }
    scenario.cluster.network.corruptNext = true
    scenario.run(milliseconds: 2_000)
    scenario.write(0, 0..<8)
    #expect(!scenario.cluster.network.corruptNext, "nothing was corrupted")
    scenario.finish()
  }

  /// A path that is blocked one way is a lost peer, and heals.
  @Test(arguments: [0, 1])
  func blockedOneWay(from node: Int) {
    let scenario = Scenario()
    scenario.makePair()
    scenario.cluster.setBlocked(true, from: node)
    scenario.begin(client: 1, 0, 0..<8)
    #expect(scenario.run(atMostMs: 5_000) { !$0.cluster.isPending(client: 1) })
    scenario.write(0, 0..<16)
    scenario.run(milliseconds: 5_000)
    scenario.cluster.setBlocked(false, from: node)
    scenario.finish()
  }
}
