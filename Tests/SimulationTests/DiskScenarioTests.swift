/// Named scenarios of disks that fail, hang or forget, and of processes that pause.
import BlockTypes
import Metadata
import Replication
import Testing
import Wire

@testable import Simulation

@Suite struct DiskScenarioTests {
  /// C11: a Secondary whose disk fails is left out; clients notice nothing.
  @Test func writeErrorOnTheSecondary() {
    let scenario = Scenario()
    scenario.makePair()
    scenario.second.disk.faults.writeError = Ratio(1, of: 1)
    #expect(scenario.write(0, 0..<8) == .done)
    #expect(scenario.run { $0.second.diskState == .diskless })
    #expect(scenario.write(0, 8..<16) == .done)
    scenario.second.disk.faults = DiskFaults()
    scenario.cluster.end(1, .kill)
    scenario.start(1)
    scenario.finish()
  }

  /// A Primary whose disk fails acknowledges nothing any more that its peer does not have; when it
  /// dies, the peer has everything, and the old disk does not come back as good.
  @Test func writeErrorOnThePrimary() {
    let scenario = Scenario()
    scenario.makePair()
    scenario.first.disk.faults.writeError = Ratio(1, of: 1)
    #expect(scenario.write(0, 0..<8) == .done)
    #expect(scenario.write(0, 8..<16) == .done)
    scenario.cluster.end(0, .kill)
    scenario.first.disk.faults = DiskFaults()
    scenario.run { $0.second.connection != .connected }
    #expect(scenario.tell(1, .primary(force: false))?.isDone == true)
    scenario.start(0)
    scenario.finish()
  }

  /// A failed flush counts as far as the peer's disk has it, and the disk is not used again.
  @Test func failedFlushDetachesTheDisk() {
    let scenario = Scenario()
    scenario.makePair()
    scenario.write(0, 0..<8)
    scenario.first.disk.faults.flushError = Ratio(1, of: 1)
    #expect(scenario.request(0, .flush) == .done)
    #expect(scenario.first.diskState == .diskless)
    scenario.expectNoViolation()
  }

  /// A write error during a resync loses the connection and the request at once (found by seed 61).
  @Test(arguments: 0...1, 1...10 as ClosedRange<UInt64>)
  func writeErrorDuringAResync(node: Int, seed: UInt64) {
    let scenario = Scenario(seed: seed) {
      $0.volumeBlocks = 256
      $0.resyncRequestBytes = 4096
    }
    scenario.start(0, 1)
    scenario.run { $0.first.connection == .connected }
    scenario.tell(0, .primary(force: true))
    scenario.run { $0.second.replication == .syncTarget }
    for client in 0..<4 { scenario.begin(client: client, 0, (client * 8)..<(client * 8 + 8)) }
    scenario.cluster.nodes[node].disk.faults.writeError = Ratio(1, of: 1)
    #expect(scenario.run { $0.cluster.nodes[node].diskState == .diskless })
    #expect(scenario.run { $0.cluster.pendingRequests == 0 })
    scenario.expectNoViolation()
  }

  /// A promotion that the disk could not take down is refused (found by seed 983).
  @Test func promotionFailsWithTheSuperblock() {
    let scenario = Scenario()
    scenario.makePair()
    scenario.tell(0, .secondary(heldOpen: false))
    scenario.run(milliseconds: 100)
    scenario.first.disk.faults.writeError = Ratio(1, of: 1)
    #expect(scenario.tell(0, .primary(force: false))?.isDone == false)
    #expect(scenario.first.role == .secondary)
    #expect(scenario.first.diskState == .diskless)
    scenario.expectNoViolation()
  }

  /// A promotion that is written while a resync ends stays on record (found by seed 106347).
  @Test func endOfAResyncDoesNotOvertakeAPromotion() {
    let scenario = Scenario()
    scenario.makePair()
    scenario.tell(0, .secondary(heldOpen: false))
    scenario.run(milliseconds: 100)
    scenario.tell(1, .invalidate)
    #expect(scenario.run { $0.first.replication == .syncSource })
    // The record of the promotion is still under way when the last block was answered.
    scenario.first.slowByNs = 200_000_000
    scenario.cluster.command(0, .primary(force: false))
    #expect(scenario.run { $0.first.role == .primary })
    scenario.first.slowByNs = 0
    for round in 0..<4 { scenario.write(0, (round * 8)..<(round * 8 + 8)) }
    #expect(scenario.run { $0.isInSync })
    #expect(scenario.first.durableSuperblock?.dirty == true)
    scenario.cluster.end(0, .powerLoss)
    scenario.start(0)
    scenario.finish()
  }

  /// A disk that answers nothing for seconds makes nobody spin (found by seed 81).
  @Test func commandWaitsForASlowDiskWithoutSpinning() {
    let scenario = Scenario { $0.diskLatency[0] = Latency(floorUs: 15_000_000, spreadUs: 0) }
    scenario.start(0)
    scenario.cluster.command(0, .primary(force: true))
    let steps = scenario.cluster.statistics.steps
    scenario.run(milliseconds: 40_000)
    #expect(scenario.cluster.statistics.steps - steps < 1_000)
    #expect(scenario.first.role == .primary)
    scenario.expectNoViolation()
  }

  /// A peer whose disk hangs is cut after `timeout` * `ko-count`; the write goes on.
  @Test func hangingDiskOfThePeerIsBounded() {
    let scenario = Scenario()
    scenario.makePair()
    scenario.second.slowByNs = 20_000_000_000
    scenario.begin(client: 1, 0, 0..<8)
    #expect(scenario.run(atMostMs: 5_000) { !$0.cluster.isPending(client: 1) })
    #expect(scenario.cluster.outcome(client: 1) == .done)
    scenario.second.slowByNs = 0
    scenario.finish()
  }

  /// S27: a paused peer is given up in bounded time, and comes back.
  @Test(arguments: 0...1)
  func pausedProcess(node: Int) {
    let scenario = Scenario()
    scenario.makePair()
    scenario.begin(client: 1, 0, 0..<8)
    scenario.cluster.nodes[node].pausedUntil = scenario.cluster.now + 10_000_000_000
    scenario.begin(client: 2, 0, 8..<16)
    scenario.run(milliseconds: 6_000)
    if node == 1 { #expect(!scenario.cluster.isPending(client: 1)) }
    scenario.run(milliseconds: 5_000)
    scenario.finish()
  }

  /// P7: a crash while the superblock is written leaves the old or the new one.
  @Test(arguments: 1...60 as ClosedRange<UInt64>)
  func crashDuringASuperblockWrite(seed: UInt64) {
    let scenario = Scenario(seed: seed) {
      $0.diskLatency[0] = Latency(floorUs: 1_000, spreadUs: 1_000)
    }
    scenario.makePair()
    scenario.cluster.end(1, .kill)
    scenario.run { $0.first.connection != .connected }
    scenario.begin(client: 1, 0, 0..<8)
    scenario.run(milliseconds: seed % 3)
    scenario.cluster.end(0, seed % 2 == 0 ? .kill : .powerLoss)
    #expect(scenario.cluster.violations.isEmpty)
    scenario.start(0, 1)
    scenario.finish()
  }
}
