/// An oracle that cannot fail is a defect: each one is shown a violation made by hand.
import BlockTypes
import Metadata
import Replication
import Testing
import Wire

@testable import Simulation

@Suite struct OracleTests {
  /// The switch has no default: a new oracle does not compile until it has a violation here.
  @Test(arguments: Oracle.allCases)
  func everyOracleSeesItsViolation(oracle: Oracle) {
    let scenario = Scenario()
    scenario.makePair()
    scenario.write(0, 0..<64)
    scenario.expectNoViolation()
    switch oracle {
    case .durability: losePeerWrite(scenario)
    case .proof: tamperDuringResync(scenario)
    case .divergence: forgetExclusiveWrites(scenario)
    case .oneWriter: scenario.carryOut(1, .note(.role(from: .secondary, to: .primary)))
    case .convergence:
      scenario.put(1, sector: 8, 0)
      scenario.cluster.checkEnd()
    case .coherence:
      scenario.put(0, sector: 8, 0)
      scenario.request(0, .read, 0..<16)
    case .metadata: destroySuperblocks(scenario)
    case .completion: scenario.carryOut(0, .complete(tag: 0xDEAD_0000, .done))
    case .buffers: scenario.carryOut(0, .release(BufferID(7)))
    case .promotion: promoteWithoutWrites(scenario)
    case .conduct: scenario.carryOut(0, .note(.protocolError(peer: 0, .ack)))
    case .progress: standStill(scenario)
    case .undo: forgetWhatWasKept(scenario)
    case .verify:
      let range = ByteRange(start: 0, end: blockSize)
      scenario.carryOut(0, .note(.outOfSync(peer: 0, range)))
    }
    #expect(scenario.cluster.violations.first?.oracle == oracle)
  }

  private func losePeerWrite(_ scenario: Scenario) {
    scenario.second.slowByNs = 1
    scenario.cluster.request(client: 1, node: 0, .write, 100..<101)
    // The answer is on its way, which takes some microseconds; the peer's disk forgets what it had
    // stored.
    while scenario.second.disk.word(at: 100) == 0, scenario.cluster.isPending(client: 1) {
      scenario.cluster.run(until: scenario.cluster.now + 1_000)
    }
    scenario.put(1, sector: 100, 0)
    scenario.run { !$0.cluster.isPending(client: 1) }
  }

  private func tamperDuringResync(_ scenario: Scenario) {
    scenario.tell(1, .invalidate)
    scenario.run { $0.first.promisedContent != nil }
    scenario.put(1, sector: 8, 0)
    scenario.run { $0.second.diskState == .upToDate }
  }

  private func forgetExclusiveWrites(_ scenario: Scenario) {
    let change = scenario.cluster.history.begin(node: 1, sectors: 8..<16, zeroes: false)
    scenario.cluster.history.acknowledge(change, holders: Set2(1))
    scenario.tell(1, .disconnect)
    scenario.carryOut(1, .note(.replication(peer: 0, from: .off, to: .wfBitMapT)))
  }

  private func forgetWhatWasKept(_ scenario: Scenario) {
    scenario.split()
    scenario.tell(1, .connectDiscarding)
    scenario.tell(0, .connect)
    scenario.run { $0.cluster.statistics.undos == 1 }
    scenario.second.undo = [:]
    scenario.run { $0.isInSync }
  }

  private func destroySuperblocks(_ scenario: Scenario) {
    scenario.cluster.end(1, .kill)
    let start = scenario.cluster.volumeSectors
    for copy in 0...1 {
      let garbage = [UInt8](repeating: 0x41, count: 512)
      let word = scenario.second.disk.words(for: garbage)[0]
      scenario.put(1, sector: start + copy * 8, word)
    }
    scenario.start(1)
  }

  private func promoteWithoutWrites(_ scenario: Scenario) {
    scenario.cluster.end(0, .kill)
    scenario.second.mayKnowItIsBehind = true
    scenario.put(1, sector: 8, 0)
    scenario.run { $0.second.connection != .connected }
    scenario.tell(1, .primary(force: false))
  }

  private func standStill(_ scenario: Scenario) {
    for _ in 0..<(Cluster.eventsAtOneTime + 10) {
      scenario.cluster.queue.schedule(at: scenario.cluster.now, .operatorTurn)
    }
    scenario.run(milliseconds: 1)
  }

  /// The source of a resync takes a block for copied that its target has not got, though the
  /// target knows better.
  @Test func sourceThatUnmarksEarlyIsSeen() {
    let scenario = Scenario()
    scenario.makePair()
    scenario.write(0, 0..<64)
    scenario.tell(1, .invalidate)
    scenario.run { $0.first.replication == .syncSource && $0.second.replication == .syncTarget }
    scenario.put(1, sector: 8, 0)
    scenario.run { $0.first.replica.mayDiffer(BlockIndex(1), fromPeer: 0) == false }
    scenario.put(1, sector: 8, 0)
    scenario.cluster.checkCoverage()
    #expect(scenario.cluster.violations.first?.oracle == .proof)
  }

  /// What a flush covered at the source is not stable at the target when it calls itself UpToDate.
  @Test func targetThatDidNotFlushIsSeen() {
    let scenario = Scenario { $0.canary = .skipSyncDoneFlush }
    scenario.makePair()
    scenario.cluster.end(1, .kill)
    scenario.run { $0.first.connection != .connected }
    scenario.write(0, 0..<8)
    scenario.request(0, .flush)
    scenario.start(1)
    scenario.run { $0.isInSync }
    #expect(scenario.cluster.violations.first?.oracle == .durability)
  }

  /// Clients go on when the disk under them is lost: what was acknowledged to them stays.
  @Test func clientsSeeTheirOwnWritesWhateverBecomesOfTheDisks() {
    var history = WriteHistory(sectorCount: 8, seed: 7)
    let change = history.begin(node: 0, sectors: 0..<8, zeroes: false)
    history.acknowledge(change, holders: Set2(1))
    history.powerLost(1)
    history.gaveUp(0, keepsSeen: true)
    let seen = history.readFloors(on: 0, sectors: 0..<8, authority: 1)[0]
    #expect(history.judge(0, sector: 0, on: 0, floor: seen) == .stale(floor: seen))
    history.clientsLeft(0)
    #expect(history.readFloors(on: 0, sectors: 0..<8, authority: 1)[0] == 0)
  }

  @Test func staleForeignAndCrossedValuesAreTold() {
    var history = WriteHistory(sectorCount: 16, seed: 7)
    let first = history.begin(node: 0, sectors: 0..<8, zeroes: false)
    history.acknowledge(first, holders: [Set2(0), Set2(1)])
    let second = history.begin(node: 0, sectors: 0..<8, zeroes: false)
    let old = history.words(first)[0]
    let new = history.words(second)[0]
    let floor = history.floors(authority: nil)[0]

    #expect(history.judge(old, sector: 0, on: 0, floor: floor) == nil)
    #expect(history.judge(new, sector: 0, on: 0, floor: floor) == nil, "not acknowledged yet")
    #expect(history.judge(0, sector: 0, on: 0, floor: floor) == .stale(floor: floor))
    #expect(history.judge(old, sector: 1, on: 0, floor: 0) == .foreign)
    #expect(history.judge(old ^ 1, sector: 0, on: 0, floor: 0) == .foreign, "another seed")

    history.acknowledge(second, holders: Set2(0))
    let later = history.floors(authority: 0)[0]
    #expect(history.judge(old, sector: 0, on: 0, floor: later) == .stale(floor: later))

    let other = history.begin(node: 1, sectors: 8..<16, zeroes: false)
    history.acknowledge(other, holders: Set2(1))
    #expect(history.isForked)
    let late = history.begin(node: 1, sectors: 8..<16, zeroes: false)
    #expect(history.judge(history.words(late)[0], sector: 8, on: 0, floor: 0) == .crossed)
  }

  @Test func powerLossLeavesWhatWasFlushed() {
    var history = WriteHistory(sectorCount: 8, seed: 7)
    let first = history.begin(node: 0, sectors: 0..<8, zeroes: false)
    history.acknowledge(first, holders: Set2(0))
    history.flushed(0, floors: history.heldFloors(on: 0))
    let second = history.begin(node: 0, sectors: 0..<8, zeroes: false)
    history.acknowledge(second, holders: Set2(0))
    #expect(history.heldFloors(on: 0)[0] > history.durableFloors(on: 0)[0])
    history.powerLost(0)
    let floor = history.heldFloors(on: 0)[0]
    #expect(history.judge(history.words(first)[0], sector: 0, on: 0, floor: floor) == nil)
    #expect(history.judge(0, sector: 0, on: 0, floor: floor) == .stale(floor: floor))
  }
}

extension Scenario {
  func carryOut(_ node: Int, _ effect: Effect) {
    cluster.carryOut(effect, cluster.nodes[node])
    cluster.checkAfterEvent()
  }

  /// Changes a sector behind everybody's back.
  func put(_ node: Int, sector: Int, _ word: UInt64) {
    var random = SeededGenerator(seed: 1)
    let ticket = cluster.nodes[node].disk.submit(
      .write([word]), start: sector, count: 1, forceUnitAccess: true, random: &random)
    _ = cluster.nodes[node].disk.finish(ticket, random: &random)
  }
}
