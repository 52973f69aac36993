/// Named scenarios of a Primary that reads and writes through its peer.
import BlockTypes
import Metadata
import Replication
import Testing
import Wire

@testable import Simulation

@Suite struct PeerDataScenarioTests {
  /// C10: a bad sector under the Primary: the client gets the peer's data, the block is repaired.
  @Test func unreadableBlockIsServedAndRepaired() {
    let scenario = Scenario()
    scenario.makePair()
    scenario.write(0, 0..<8)
    scenario.first.disk.spoil(3)
    #expect(scenario.request(0, .read, 0..<8) == .done)
    #expect(!scenario.first.disk.isBad(3))
    #expect(scenario.cluster.statistics.repairs == 1)
    #expect(scenario.first.diskState == .upToDate)
    scenario.finish()
  }

  /// Node 0 has written alone and is without its disk; node 1 is down.
  private func lostAfterWritingAlone(
    _ change: (inout SwarmOptions) -> Void = { _ in }
  ) -> Scenario {
    let scenario = Scenario(seed: 1, change)
    scenario.makePair()
    scenario.cluster.end(1, .kill)
    scenario.run { $0.first.connection != .connected }
    #expect(scenario.write(0, 0..<8) == .done)
    scenario.tell(0, .secondary(heldOpen: false))
    #expect(scenario.tell(0, .detach)?.isDone == true)
    return scenario
  }

  /// A node was alone, and its disk is lost before the peer comes back: the peer has less, and
  /// somebody knows it. Found by seed 16126.
  @Test func whatALostDiskHeldIsNotForgotten() {
    let scenario = lostAfterWritingAlone()
    scenario.start(1)
    #expect(scenario.run { $0.second.connection == .connected })
    #expect(scenario.tell(1, .primary(force: false))?.refusal == .needUpToDateData)
    scenario.cluster.attach(0)
    #expect(scenario.run { $0.isInSync })
    #expect(scenario.tell(1, .primary(force: false))?.isDone == true)
    scenario.finish()
  }

  /// Another disk in the place of the lost one, filled by the peer, does not bring it back either.
  @Test func whatALostDiskHeldIsNotForgottenWithANewOne() {
    let scenario = lostAfterWritingAlone()
    replaceTheLostDisk(scenario)
    scenario.start(1)
    #expect(scenario.run { $0.isInSync })
    for node in 0...1 {
      let answer = scenario.tell(node, .primary(force: false))
      #expect(answer?.refusal == .newerDataWasLost, "node \(node)")
    }
    #expect(scenario.tell(1, .primary(force: true))?.isDone == true)
    scenario.finish()
  }

  private func replaceTheLostDisk(_ scenario: Scenario) {
    scenario.run { $0.first.disk.inFlight == 0 }
    scenario.run(milliseconds: 10)
    scenario.cluster.history.gaveUp(0)
    scenario.cluster.replaceDisk(0)
    scenario.cluster.attach(0)
  }

  /// Nor does the loss of that other disk, while it is filled or afterwards, by command or by a
  /// fault, make anybody forget it.
  @Test(arguments: [false, true], [false, true])
  func whatALostDiskHeldIsNotForgottenWithTheNextOne(isFilled: Bool, fails: Bool) {
    let scenario = lostAfterWritingAlone { $0.resyncRequestBytes = 4096 }
    replaceTheLostDisk(scenario)
    scenario.start(1)
    #expect(scenario.run { isFilled ? $0.isInSync : $0.first.replication == .syncTarget })
    if fails {
      scenario.first.disk.faults.writeError = Ratio(1, of: 1)
      scenario.first.disk.faults.flushError = Ratio(1, of: 1)
      if isFilled { scenario.cluster.cut(.cutConnection) }
      scenario.run { $0.first.diskState == .diskless }
    } else {
      scenario.tell(0, .detach)
    }
    #expect(scenario.first.diskState == .diskless)
    scenario.run(milliseconds: 2_000)
    let haveMet = scenario.run { scenario in
      scenario.cluster.nodes.allSatisfy { $0.connection == .connected }
        && scenario.second.peerDisk == .diskless
    }
    #expect(haveMet)
    #expect(scenario.tell(1, .primary(force: false))?.refusal == .newerDataWasLost)

    scenario.first.disk.faults = DiskFaults()
    replaceTheLostDisk(scenario)
    #expect(scenario.run { $0.isInSync })
    for node in 0...1 {
      #expect(scenario.tell(node, .primary(force: false))?.refusal == .newerDataWasLost)
    }
    #expect(scenario.tell(1, .primary(force: true))?.isDone == true)
    scenario.finish()
  }

  /// Node 0 was Primary when the link broke, and went on. Node 1 was promoted, lost its disk, and
  /// its clients are not moved onto what those of node 0 wrote.
  @Test func clientsAreNotMovedOntoAnotherPrimarysWrites() {
    let scenario = Scenario()
    scenario.makePair()
    scenario.write(0, 0..<8)
    for node in 0...1 { scenario.cluster.setBlocked(true, from: node) }
    scenario.run { $0.first.connection != .connected && $0.second.connection != .connected }
    #expect(scenario.tell(1, .primary(force: false))?.isDone == true)
    #expect(scenario.request(1, .read, 0..<8) == .done)
    #expect(scenario.write(0, 0..<8) == .done)
    #expect(scenario.tell(1, .detach)?.refusal == .primaryNeedsDisk)
    scenario.second.disk.faults.flushError = Ratio(1, of: 1)
    scenario.request(1, .flush)
    #expect(scenario.second.diskState == .diskless && scenario.second.role == .primary)
    #expect(scenario.tell(0, .secondary(heldOpen: false))?.isDone == true)
    for node in 0...1 { scenario.cluster.setBlocked(false, from: node) }
    #expect(scenario.run { $0.second.reason == .exposedDataDiffers })
    #expect(scenario.request(1, .read, 0..<8) == .ioError)
    scenario.expectNoViolation()
  }

  /// C10 for ever: a disk that can read nothing any more serves no read, and takes writes.
  @Test func diskThatReadsNothingIsReadFromThePeer() {
    let scenario = Scenario()
    scenario.makePair()
    scenario.first.disk.faults.readError = Ratio(1, of: 1)
    for round in 0..<8 {
      #expect(scenario.write(0, (round * 8)..<(round * 8 + 8)) == .done)
      #expect(scenario.request(0, .read, (round * 8)..<(round * 8 + 8)) == .done)
    }
    #expect(scenario.cluster.statistics.peerReads == 8)
    scenario.first.disk.faults = DiskFaults()
    scenario.finish()
  }

  /// S24 with two nodes: a block that the source cannot read stays marked, and the rest is copied;
  /// when a client writes it, the resync ends.
  @Test func unreadableBlockOfTheSourceIsLeftOut() {
    let scenario = Scenario { $0.volumeBlocks = 64 }
    scenario.makePair()
    scenario.cluster.end(1, .kill)
    scenario.run { $0.first.connection != .connected }
    for block in 0..<16 { scenario.write(0, (block * 8)..<(block * 8 + 8)) }
    scenario.first.disk.spoil(8)
    scenario.start(1)
    #expect(scenario.run { $0.first.replica.status(ofPeer: 0).blocksOutOfSync == 1 })
    #expect(scenario.request(0, .read, 8..<16) == .ioError)
    #expect(scenario.second.diskState == .inconsistent)
    scenario.write(0, 8..<16)
    scenario.finish()
  }

  /// C11: the Primary's disk fails under load; its clients notice nothing, neither then nor while a
  /// new disk is filled under them.
  @Test(arguments: 1...20 as ClosedRange<UInt64>)
  func diskIsReplacedUnderTheClients(seed: UInt64) {
    let scenario = Scenario(seed: seed) { $0.volumeBlocks = 64 }
    scenario.makePair()
    for client in 1..<8 { scenario.begin(client: client, 0, (client * 8)..<(client * 8 + 8)) }
    scenario.first.disk.faults.writeError = Ratio(1, of: 1)
    #expect(scenario.run { $0.cluster.pendingRequests == 0 })
    #expect((1..<8).allSatisfy { scenario.cluster.outcome(client: $0) == .done })
    #expect(scenario.first.diskState == .diskless && scenario.first.role == .primary)
    #expect(scenario.request(0, .read, 8..<64) == .done)
    scenario.run { $0.first.disk.inFlight == 0 }
    scenario.cluster.replaceDisk(0)
    // What is under way when the disk is attached is not lost either.
    for client in 1..<8 { scenario.begin(client: client, 0, (client * 8)..<(client * 8 + 8)) }
    scenario.cluster.attach(0)
    #expect(scenario.run { $0.first.replication == .syncTarget })
    #expect(scenario.request(0, .read, 256..<264) == .done)
    #expect(scenario.run { $0.isInSync && $0.cluster.pendingRequests == 0 })
    #expect((1..<8).allSatisfy { scenario.cluster.outcome(client: $0) == .done })
    scenario.finish()
  }

  /// The old disk is attached again: only what it missed and what was hot is copied.
  @Test func oldDiskComesBackUnderTheClients() {
    let scenario = Scenario()
    scenario.makePair()
    #expect(scenario.tell(0, .detach)?.isDone == true)
    for block in 0..<4 { #expect(scenario.write(0, (block * 8)..<(block * 8 + 8)) == .done) }
    scenario.run { $0.first.disk.inFlight == 0 }
    scenario.cluster.attach(0)
    #expect(scenario.run { $0.first.replication == .syncTarget })
    scenario.finish()
    #expect(scenario.first.role == .primary)
  }

  /// S10: reads of a Primary that is being filled return the newest data, whatever is copied when.
  @Test(arguments: 1...20 as ClosedRange<UInt64>)
  func targetThatIsPrimaryReadsTheNewest(seed: UInt64) {
    let scenario = Scenario(seed: seed) {
      $0.volumeBlocks = 128
      $0.resyncRequestBytes = 4096
      $0.clientRequests = 400
      $0.readPercent = 50
    }
    scenario.makePair()
    for block in 0..<32 { scenario.write(0, (block * 32)..<(block * 32 + 32)) }
    replaceDiskUnderClients(scenario)
    scenario.cluster.startClients()
    #expect(scenario.run { $0.first.replication == .syncTarget })
    scenario.finish()
  }

  /// S11: a resync into a Primary is cut: it goes on with what is left, and what clients wrote
  /// before, during and after the cut is on both.
  @Test(arguments: 1...10 as ClosedRange<UInt64>)
  func resyncIntoAPrimaryIsCut(seed: UInt64) {
    let scenario = Scenario(seed: seed) {
      $0.volumeBlocks = 128
      $0.resyncRequestBytes = 4096
    }
    scenario.makePair()
    for block in 0..<32 { scenario.write(0, (block * 32)..<(block * 32 + 32)) }
    replaceDiskUnderClients(scenario)
    #expect(scenario.run { $0.first.replication == .syncTarget })
    for client in 1..<8 { scenario.begin(client: client, 0, (client * 8)..<(client * 8 + 8)) }
    scenario.run(milliseconds: seed % 3)
    for node in 0...1 { scenario.cluster.setBlocked(true, from: node) }
    scenario.run { $0.first.connection != .connected && $0.second.connection != .connected }
    scenario.begin(client: 8, 0, 512..<520)
    for node in 0...1 { scenario.cluster.setBlocked(false, from: node) }
    #expect(scenario.run { $0.cluster.pendingRequests == 0 })
    #expect((1..<9).allSatisfy { scenario.cluster.outcome(client: $0) == .done })
    scenario.finish()
    #expect(scenario.first.role == .primary)
  }

  /// The disk that is being filled fails as well: the clients go on through the peer.
  @Test(arguments: 1...20 as ClosedRange<UInt64>)
  func newDiskFailsWhileItIsFilled(seed: UInt64) {
    let scenario = Scenario(seed: seed) {
      $0.volumeBlocks = 128
      $0.resyncRequestBytes = 4096
    }
    scenario.makePair()
    replaceDiskUnderClients(scenario)
    #expect(scenario.run { $0.first.replication == .syncTarget })
    for client in 1..<8 { scenario.begin(client: client, 0, (client * 8)..<(client * 8 + 8)) }
    scenario.run(milliseconds: seed % 3)
    scenario.first.disk.faults.writeError = Ratio(1, of: 1)
    #expect(scenario.run { $0.first.diskState == .diskless })
    #expect(scenario.run { $0.cluster.pendingRequests == 0 })
    #expect((1..<8).allSatisfy { scenario.cluster.outcome(client: $0) == .done })
    #expect(scenario.first.connection == .connected)
    scenario.first.disk.faults = DiskFaults()
    scenario.run { $0.first.disk.inFlight == 0 }
    scenario.cluster.attach(0)
    scenario.finish()
  }

  /// S23: the disk of a target fails: it is Diskless, the Primary goes on.
  @Test func diskOfATargetFails() {
    let scenario = Scenario {
      $0.volumeBlocks = 128
      $0.resyncRequestBytes = 4096
    }
    scenario.start(0, 1)
    scenario.run { $0.first.connection == .connected }
    scenario.tell(0, .primary(force: true))
    scenario.run { $0.second.replication == .syncTarget }
    scenario.second.disk.faults.writeError = Ratio(1, of: 1)
    #expect(scenario.run { $0.second.diskState == .diskless && $0.first.peerDisk == .diskless })
    #expect(scenario.write(0, 0..<8) == .done)
    scenario.second.disk.faults = DiskFaults()
    scenario.run { $0.second.disk.inFlight == 0 }
    scenario.cluster.attach(1)
    scenario.finish()
  }

  /// Nobody has good data any more: clients hear of it, and no promise is broken.
  @Test func bothDisksFail() {
    let scenario = Scenario()
    scenario.makePair()
    scenario.write(0, 0..<8)
    for node in scenario.cluster.nodes { node.disk.faults.writeError = Ratio(1, of: 1) }
    #expect(scenario.write(0, 0..<8) == .ioError)
    #expect(scenario.request(0, .read, 0..<8) == .ioError)
    #expect(scenario.request(0, .flush) == .ioError)
    scenario.expectNoViolation()
  }

  /// The peer of a Primary without a disk crashes: what its clients have seen may be gone, so they
  /// get errors, not old data, until somebody begins anew.
  @Test(arguments: [Cluster.End.kill, .powerLoss])
  func crashOfTheOnlyCopyIsNotHidden(end: Cluster.End) {
    let scenario = Scenario()
    scenario.makePair()
    scenario.tell(0, .detach)
    scenario.write(0, 0..<8)
    scenario.cluster.end(1, end)
    scenario.start(1)
    #expect(scenario.run { $0.first.reason == .exposedDataDiffers })
    #expect(scenario.request(0, .read, 0..<8) == .ioError)
    #expect(scenario.tell(0, .secondary(heldOpen: false))?.isDone == true)
    scenario.run { $0.first.disk.inFlight == 0 }
    scenario.cluster.attach(0)
    scenario.cluster.command(0, .connect)
    scenario.cluster.command(1, .connect)
    scenario.finish()
  }

  /// A clean restart of the only copy loses nothing: clients wait for it, and go on.
  @Test func restartOfTheOnlyCopyIsWaitedFor() {
    let scenario = Scenario()
    scenario.makePair()
    scenario.tell(0, .detach)
    scenario.write(0, 0..<8)
    #expect(scenario.tell(1, .shutdown) != nil)
    scenario.begin(client: 3, 0, 0..<8)
    scenario.start(1)
    #expect(scenario.run { !$0.cluster.isPending(client: 3) })
    #expect(scenario.cluster.outcome(client: 3) == .done)
    scenario.cluster.attach(0)
    scenario.finish()
  }

  /// C12: a disk that hangs is given up after `disk-timeout`, and what it does later touches
  /// nothing that counts.
  @Test(arguments: 0...1, 1...10 as ClosedRange<UInt64>)
  func hangingDiskIsGivenUp(node: Int, seed: UInt64) {
    let scenario = Scenario(seed: seed) {
      $0.diskTimeoutMs = 300
      $0.timeoutMs = 1_000
    }
    scenario.makePair()
    let victim = scenario.cluster.nodes[node]
    victim.hungUntil = .max
    for client in 1..<4 { scenario.begin(client: client, 0, (client * 8)..<(client * 8 + 8)) }
    scenario.cluster.request(client: 4, node: 0, .read, 64..<72)
    scenario.cluster.request(client: 5, node: 0, .flush, 0..<0)
    #expect(scenario.run(atMostMs: 1_000) { $0.cluster.pendingRequests == 0 })
    #expect((1..<6).allSatisfy { scenario.cluster.outcome(client: $0) == .done })
    #expect(victim.diskState == .diskless)
    // Newer data, before the disk ends what it was asked for.
    for client in 1..<4 { scenario.write(0, (client * 8)..<(client * 8 + 8)) }
    scenario.cluster.attach(node)
    #expect(victim.diskState == .diskless)
    scenario.cluster.endHang(node)
    scenario.run { _ in victim.disk.inFlight == 0 && victim.replica.requestCount == 0 }
    scenario.cluster.attach(node)
    scenario.finish()
  }

  /// Without the option, clients wait for as long as the disk takes.
  @Test func withoutATimeoutClientsWait() {
    let scenario = Scenario()
    scenario.makePair()
    scenario.first.hungUntil = .max
    scenario.begin(client: 1, 0, 0..<8)
    scenario.run(milliseconds: 20_000)
    #expect(scenario.cluster.isPending(client: 1))
    #expect(scenario.first.diskState == .upToDate)
    scenario.cluster.endHang(0)
    scenario.finish()
  }

  /// Takes the Primary's disk away and gives it an empty one.
  private func replaceDiskUnderClients(_ scenario: Scenario) {
    #expect(scenario.tell(0, .detach)?.isDone == true)
    scenario.run { $0.first.disk.inFlight == 0 }
    scenario.cluster.replaceDisk(0)
    scenario.cluster.attach(0)
  }
}
