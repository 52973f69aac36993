/// Repair after a verify (V03): only what is marked, only in the direction that was named, under
/// the lock of whoever writes.
import BlockTypes
import Metadata
import TestSupport
import Testing
import Wire

@testable import Replication

/// Who this node is, and which side the administrator named: every case of a repair.
struct RepairCase: CustomTestStringConvertible, Sendable {
  var isPrimary: Bool
  var peerIsPrimary: Bool
  var source: RepairSource
  var testDescription: String {
    "\(isPrimary ? "Primary" : "Secondary") beside "
      + "\(peerIsPrimary ? "Primary" : "Secondary"), from \(source)"
  }

  static let all: [RepairCase] = [
    RepairCase(isPrimary: true, peerIsPrimary: false, source: .local),
    RepairCase(isPrimary: true, peerIsPrimary: false, source: .peer),
    RepairCase(isPrimary: false, peerIsPrimary: true, source: .local),
    RepairCase(isPrimary: false, peerIsPrimary: true, source: .peer),
    RepairCase(isPrimary: false, peerIsPrimary: false, source: .local),
    RepairCase(isPrimary: false, peerIsPrimary: false, source: .peer),
  ]
}

extension Rig {
  /// This node leads a verify of the first 64 blocks with a repair; blocks 1 and 2 differ.
  static func repairing(_ point: RepairCase) -> Rig {
    let change = { (options: inout ReplicaOptions) in options.verifyAlgorithm = .crc32c }
    let rig =
      point.isPrimary
      ? Rig.primary(change) : point.peerIsPrimary ? Rig.secondary(change) : connected(change)
    var plan = VerifyPlan()
    plan.stop = 64 * blockSize
    plan.repairSource = point.source
    rig.beginVerify(plan)
    let locks = !point.peerIsPrimary
    let asked = rig.sent(locks ? .verifyRequestLocked : .verifyRequest)
    rig.receiveDigests(for: asked ?? MessageHeader(.ping), id: locks ? 0 : 70)
    rig.differing = 0b110
    rig.finishDisk()
    #expect(rig.marked == [1, 2])
    return rig
  }

  private static func connected(_ change: (inout ReplicaOptions) -> Void) -> Rig {
    connected(superblock(), to: peerReport(), change)
  }

  /// This node was asked to verify and to repair from `source`, and `count` blocks are marked.
  static func repairedByPeer(
    _ source: RepairSource, isPrimary: Bool = true
  ) -> Rig {
    let rig = isPrimary ? Rig.primary() : Rig.secondary()
    rig.receive(
      MessageHeader(
        .verifyStart, offset: UInt64(source.rawValue),
        length: UInt64(DigestAlgorithm.crc32c.rawValue)))
    rig.receive(MessageHeader(.verifyResult, id: .max, offset: 4096, length: 0b11))
    #expect(rig.marked == [1, 2])
    return rig
  }

  /// The source's data for a range that was asked for.
  func answerRepair(_ asked: MessageHeader, lock: UInt64 = 0) {
    var data = MessageHeader(.repairData, id: asked.id, offset: asked.offset, length: lock)
    data.payloadBytes = UInt32(asked.length)
    receive(data, buffer: takeBuffer())
  }
}

@Suite struct RepairTests {
  private static let targetPrimary = RepairCase.all[1]
  private static let targetSecondary = RepairCase.all[3]

  /// The table: who asks, who locks, who only reads, in every role and direction.
  @Test(arguments: RepairCase.all)
  func directionIsTheOneThatWasNamed(point: RepairCase) {
    let rig = Rig.repairing(point)
    // Both know the direction from the begin: the peer's word for it is the mirror of ours.
    #expect(rig.sent(.verifyStart)?.offset == (point.source == .local ? 2 : 1))
    while rig.superblockIsPending { rig.finishSuperblock() }
    switch point.source {
    case .local:
      #expect(rig.sent(.repairBegin)?.offset == 0 && rig.sent(.repairBegin)?.length == 64 * 4096)
      #expect(rig.sent(.repairRequest) == nil && rig.sent(.repairRequestLocked) == nil)
    case .peer:
      let expected: MessageType = point.isPrimary ? .repairRequestLocked : .repairRequest
      let asked = rig.sent(expected)
      #expect(asked?.offset == 4096 && asked?.length == 8192)
      #expect(rig.sent(.repairBegin) == nil)
    }
    #expect(!rig.disk.contains { $0.kind == "write" }, "nothing was received yet")
    rig.breakConnection()
    rig.settle()
    #expect(rig.marked == [1, 2], "what was cut stays marked")
    rig.expectSettled()
  }

  // MARK: A Primary is the target

  /// Clients wait while a block is replaced, then see all of it.
  @Test func primaryTargetLocksReadersAndWriters() throws {
    let rig = Rig.repairing(Self.targetPrimary)
    let asked = try #require(rig.sent(.repairRequestLocked))
    rig.submit(.write, blocks: 1..<2, tag: 1)
    rig.submit(.read, blocks: 2..<3, tag: 2)
    rig.submit(.read, blocks: 9..<10, tag: 3)
    #expect(rig.disk.map(\.kind) == ["read"], "only the read elsewhere goes on")
    rig.finishDisk()
    rig.answerRepair(asked)
    #expect(rig.disk.map(\.kind) == ["write"])
    guard case .write(_, let range, _, _)? = rig.disk.first else { return }
    #expect(range == ByteRange(start: 4096, end: 12288))
    rig.finishDisk()
    let ack = try #require(rig.sent(.repairAck))
    #expect(ack.id == .max && ack.offset == 4096 && ack.length == 8192)
    #expect(rig.marked.isEmpty)
    #expect(rig.disk.compactMap(\.kind).sorted() == ["read", "write"], "now the clients")
    let order = rig.sent.map(\.type)
    #expect((order.firstIndex(of: .repairAck) ?? 99) < (order.firstIndex(of: .write) ?? 0))
    #expect(rig.replication == .established && rig.sent(.verifyEnd) != nil)
    #expect(rig.verify?.blocksRepaired == 2 && rig.verify?.blocksFound == 2)
  }

  /// A read that is under way must not see half of the old block and half of the new one.
  @Test func primaryTargetWaitsForReadsUnderWay() throws {
    let rig = Rig.primary { $0.verifyAlgorithm = .crc32c }
    rig.submit(.read, blocks: 1..<2, tag: 1)
    var plan = VerifyPlan()
    plan.stop = 64 * blockSize
    plan.repairSource = .peer
    rig.beginVerify(plan)
    rig.receiveDigests(for: try #require(rig.sent(.verifyRequestLocked)))
    rig.differing = 0b10
    rig.finishDisk(at: 1)
    #expect(rig.sent(.repairRequestLocked) == nil)
    // One that comes now must not overtake it, or it would wait for ever.
    rig.submit(.read, blocks: 1..<2, tag: 2)
    #expect(rig.disk.count == 1)
    rig.finishDisk()
    #expect(rig.completions[1] == .done)
    #expect(rig.sent(.repairRequestLocked) != nil && rig.disk.isEmpty)
    rig.answerRepair(try #require(rig.sent(.repairRequestLocked)))
    rig.settle()
    #expect(rig.completions[2] == .done)
    rig.expectSettled()
  }

  @Test func writeUnderWayEndsBeforeItsBlockIsReplaced() throws {
    let rig = Rig.primary { $0.verifyAlgorithm = .crc32c }
    var plan = VerifyPlan()
    plan.stop = 64 * blockSize
    plan.repairSource = .peer
    rig.beginVerify(plan)
    rig.receiveDigests(for: try #require(rig.sent(.verifyRequestLocked)))
    rig.submit(.write, blocks: 1..<2, tag: 1)
    rig.differing = 0b10
    rig.finishDisk()
    // The write waited for the comparison, and covers the block: nothing is left to repair.
    let write = try #require(rig.sent(.write))
    #expect(rig.sent(.repairRequestLocked) == nil)
    rig.finishDisk()
    rig.acknowledge(write)
    #expect(rig.marked.isEmpty)
  }

  // MARK: A Secondary is the target

  @Test func secondaryTargetAppliesInTheOrderOfItsPrimary() throws {
    let rig = Rig.repairing(Self.targetSecondary)
    let asked = try #require(rig.sent(.repairRequest))
    rig.peerWrites(blocks: 2..<3, id: 5)
    rig.answerRepair(asked, lock: 88)
    #expect(rig.disk.map(\.kind) == ["write"], "the older one first")
    rig.finishDisk()
    #expect(rig.sent(.ack)?.id == 5)
    rig.finishDisk()
    #expect(rig.sent(.repairAck)?.id == 88 && rig.sent(.repairAck)?.length == 8192)
    #expect(rig.marked.isEmpty && rig.replication == .established)
  }

  /// Promoted while the data is under way: its own writes begin here, so the data is dropped.
  @Test func promotedTargetLocksAndAsksAgain() throws {
    let rig = Rig.repairing(Self.targetSecondary)
    let asked = try #require(rig.sent(.repairRequest))
    rig.receive(.roleChanged, length: UInt64(Role.secondary.rawValue))
    let token = rig.command(.primary(force: false))
    rig.receive(.promoteReply, id: rig.sent(.promoteRequest)?.id ?? 0, length: 1)
    while rig.superblockIsPending { rig.finishSuperblock() }
    #expect(rig.replies[token] == .done)
    rig.answerRepair(asked, lock: 88)
    #expect(rig.sent(.repairAck)?.id == 88 && rig.sent(.repairAck)?.length == 0)
    #expect(!rig.disk.contains { $0.kind == "write" })
    #expect(rig.marked == [1, 2])
    #expect(rig.sent(.repairRequestLocked)?.offset == 4096)
  }

  /// Nobody is Primary and the superblock is clean: a crash in the middle must be seen as one.
  @Test func nothingIsWrittenUnderACleanSuperblock() {
    let rig = Rig.repairing(RepairCase.all[5])
    #expect(rig.sent(.repairRequest) == nil)
    #expect(rig.superblockIsPending)
    rig.finishSuperblock()
    #expect(rig.durable.last?.dirty == true)
    #expect(rig.sent(.repairRequest) != nil)
  }

  @Test func unreadableBlocksAreLeftMarked() throws {
    let rig = Rig.repairing(Self.targetPrimary)
    let asked = try #require(rig.sent(.repairRequestLocked))
    rig.submit(.write, blocks: 1..<2, tag: 1)
    rig.receive(MessageHeader(.repairSkipped, id: asked.id, offset: asked.offset, length: 1))
    #expect(rig.marked == [1, 2] && rig.replication == .established)
    #expect(rig.verify?.blocksRepaired == 0)
    #expect(rig.sent(.write) != nil, "nobody waits for it")
  }

  /// The peer was promoted: it does not serve what this node has locked.
  @Test func skippedRangeIsAskedForTheOtherWay() throws {
    let rig = Rig.repairing(Self.targetPrimary)
    let asked = try #require(rig.sent(.repairRequestLocked))
    let token = rig.command(.secondary(heldOpen: false))
    rig.settle()
    #expect(rig.replies[token] == .done)
    #expect(rig.durable.last?.dirty == true, "the repair goes on")
    rig.receive(MessageHeader(.repairSkipped, id: asked.id, offset: asked.offset))
    #expect(rig.sent(.repairRequest)?.offset == 4096)
    rig.answerRepair(try #require(rig.sent(.repairRequest)), lock: 3)
    rig.settle()
    #expect(rig.marked.isEmpty)
    #expect(rig.durable.last?.dirty == false, "and when it has ended, everything is flushed")
  }

  /// The data of a repair arrives when the flush of a demotion has begun: it is in no flush, and a
  /// disk that is called clean has no log that would stand for it after a power loss.
  @Test(arguments: [true, false])
  func nothingIsCleanBeforeWhatWasRepairedIsFlushed(flushEndsFirst: Bool) throws {
    let rig = Rig.repairing(Self.targetPrimary)
    let asked = try #require(rig.sent(.repairRequestLocked))
    let token = rig.command(.secondary(heldOpen: false))
    #expect(rig.disk.kinds == ["flush"])
    rig.answerRepair(asked)
    #expect(rig.disk.kinds == ["flush", "write"])
    rig.finishDisk(at: flushEndsFirst ? 0 : 1)
    while flushEndsFirst, rig.superblockIsPending { rig.finishSuperblock() }
    rig.finishDisk()
    #expect(rig.marked.isEmpty && rig.sent(.repairAck)?.length == 8192)
    while rig.superblockIsPending { rig.finishSuperblock() }
    #expect(rig.replies[token] == .done && rig.replica.role == .secondary)
    #expect(rig.durable.allSatisfy { $0.dirty }, "no flush covers what was repaired")
    #expect(rig.disk.kinds == ["flush"])
    rig.settle()
    #expect(rig.durable.last?.dirty == false)
    rig.expectSettled()
  }

  /// A repair that ends without a further write, after it kept a demotion from calling the disk
  /// clean, leaves nobody else to do that.
  @Test func demotionBesideTheEndOfARepairCallsTheDiskClean() throws {
    let rig = Rig.repairing(Self.targetPrimary)
    let asked = try #require(rig.sent(.repairRequestLocked))
    let token = rig.command(.secondary(heldOpen: false))
    rig.finishDisk()
    while rig.replies[token] == nil, rig.superblockIsPending {
      if rig.sent(.repairEnd) == nil, rig.sent(.verifyEnd) == nil {
        rig.receive(MessageHeader(.repairSkipped, id: asked.id, offset: asked.offset, length: 1))
      }
      rig.finishSuperblock()
    }
    #expect(rig.replies[token] == .done && rig.replica.role == .secondary)
    rig.settle()
    #expect(rig.durable.last?.dirty == false)
  }

  /// A flush of a demotion that nothing was written under is enough: no second one follows.
  @Test func demotionBesideNoRepairFlushesOnce() {
    let rig = Rig.primary()
    rig.command(.secondary(heldOpen: false))
    #expect(rig.disk.kinds == ["flush"])
    rig.settleDisk()
    while rig.superblockIsPending { rig.finishSuperblock() }
    #expect(rig.durable.last?.dirty == false && rig.disk.isEmpty)
  }

  // MARK: Source

  @Test func primarySourceKeepsTheRangeLockedUntilItWasWritten() throws {
    let rig = Rig.repairedByPeer(.local)
    rig.receive(MessageHeader(.repairRequest, id: 7, offset: 4096, length: 8192))
    rig.submit(.write, blocks: 2..<3, tag: 1)
    #expect(rig.disk.map(\.kind) == ["serve"])
    rig.finishDisk()
    let data = try #require(rig.sent(.repairData))
    #expect(data.id == 7 && data.payloadBytes == 8192 && data.length != 0)
    #expect(rig.sent(.write) == nil && rig.marked == [1, 2])
    rig.receive(MessageHeader(.repairAck, id: data.length, offset: 4096, length: 8192))
    #expect(rig.marked.isEmpty && rig.sent(.write) != nil)
  }

  @Test func rangeThatWasNotWrittenStaysMarked() throws {
    let rig = Rig.repairedByPeer(.local)
    rig.receive(MessageHeader(.repairRequest, id: 7, offset: 4096, length: 8192))
    rig.finishDisk()
    let data = try #require(rig.sent(.repairData))
    rig.receive(MessageHeader(.repairAck, id: data.length, offset: 4096, length: 0))
    #expect(rig.marked == [1, 2])
    rig.expectSettled()
  }

  /// A Primary does not serve under another node's lock, nobody serves who was not named, and what
  /// cannot be read is said to be so.
  @Test func sourceRefusesWhatWouldNotBeSafe() {
    let locked = Rig.repairedByPeer(.local)
    locked.receive(MessageHeader(.repairRequestLocked, id: 7, offset: 4096, length: 4096))
    #expect(locked.sent(.repairSkipped)?.length == 0 && locked.disk.isEmpty)
    let unnamed = Rig.repairedByPeer(.peer)
    unnamed.receive(MessageHeader(.repairRequest, id: 7, offset: 4096, length: 4096))
    #expect(unnamed.sent(.repairSkipped)?.length == 0 && unnamed.disk.isEmpty)
    let bad = Rig.repairedByPeer(.local)
    bad.receive(MessageHeader(.repairRequest, id: 7, offset: 4096, length: 4096))
    bad.finishDisk(result: -5)
    #expect(bad.sent(.repairSkipped)?.length == 1 && bad.marked == [1, 2])
    bad.expectSettled()
  }

  /// A target that was named overwrites its blocks on the peer's word; another one does not.
  @Test func onlyTheNamedTargetIsOverwritten() {
    let named = Rig.repairedByPeer(.peer)
    named.receive(MessageHeader(.repairBegin, offset: 0, length: volumeBytes))
    #expect(named.sent(.repairRequestLocked)?.offset == 4096)
    let unnamed = Rig.repairedByPeer(.local)
    unnamed.receive(MessageHeader(.repairBegin, offset: 0, length: volumeBytes))
    #expect(unnamed.peer.reason == .protocolError)
  }

  @Test func peerTargetEndsTheVerifyOfItsLeader() {
    let rig = Rig.repairing(RepairCase.all[0])
    rig.receive(MessageHeader(.repairRequest, id: 7, offset: 4096, length: 8192))
    rig.finishDisk()
    let data = rig.sent(.repairData)
    rig.receive(MessageHeader(.repairAck, id: data?.length ?? 0, offset: 4096, length: 8192))
    #expect(rig.replication == .verifyS)
    rig.receive(.repairEnd)
    #expect(rig.replication == .established && rig.sent(.verifyEnd) != nil)
    #expect(rig.verify?.blocksRepaired == 2)
    #expect(rig.marked.isEmpty)
  }

  // MARK: What is marked

  /// After a plain verify: nothing is compared again.
  @Test func onlyWhatIsMarkedIsRepaired() {
    let rig = Rig.verifyS { $0.verifyWindow = 32 }
    for asked in rig.takeSent() where asked.type == .verifyRequestLocked {
      rig.differing = asked.offset == 0 ? 0b1000 : 0
      rig.receiveDigests(for: asked)
      rig.finishDisk()
    }
    #expect(rig.marked == [3] && rig.replication == .established)
    var plan = VerifyPlan()
    plan.repairSource = .peer
    plan.onlyMarked = true
    rig.beginVerify(plan)
    #expect(rig.sent(.verifyRequestLocked) == nil)
    #expect(rig.sent(.repairRequestLocked)?.offset == 3 * blockSize)
    #expect(rig.notes.contains(.outOfSync(peer: 0, ByteRange(start: 12288, end: 16384))))
  }

  /// Cut in the middle: the reconnect must not copy the other way, whoever is Primary.
  @Test func cutRepairIsNotUndoneByTheReconnect() {
    let rig = Rig.repairing(Self.targetPrimary)
    rig.breakConnection()
    rig.settle()
    rig.dialAndGreetAgain()
    var report = peerReport()
    report.outOfSyncBlocks = 2
    rig.shakeHands(report)
    #expect(rig.replication == .established && rig.marked == [1, 2])
    let rule = rig.replica.lastMeeting(withPeer: 0)?.decision.rule
    #expect(rule == .equalUndecided)
  }

  /// The source could not read a block: a reconnect does not copy it the other way.
  @Test func whatTheSourceCouldNotReadStaysUndecided() throws {
    let rig = Rig.repairing(Self.targetPrimary)
    let asked = try #require(rig.sent(.repairRequestLocked))
    rig.receive(MessageHeader(.repairSkipped, id: asked.id, offset: asked.offset, length: 1))
    #expect(rig.sent(.verifyEnd)?.length == 0, "the source hears that it is not complete")
    #expect(Self.ruleOfReconnect(rig, outOfSyncBlocks: 2) == .equalUndecided)
    #expect(rig.replication == .established && rig.marked == [1, 2])
  }

  /// A repair of a part, after one that was cut, names no side for the rest.
  @Test func repairOfAPartDoesNotDecideTheRest() throws {
    let rig = Rig.repairing(Self.targetPrimary)
    #expect(Self.ruleOfReconnect(rig, outOfSyncBlocks: 2) == .equalUndecided)
    var plan = VerifyPlan()
    plan.start = 2 * blockSize
    plan.repairSource = .peer
    plan.onlyMarked = true
    rig.beginVerify(plan)
    rig.answerRepair(try #require(rig.sent(.repairRequestLocked)))
    rig.settle()
    #expect(rig.marked == [1] && rig.sent(.verifyEnd)?.length == 1)
    #expect(Self.ruleOfReconnect(rig, outOfSyncBlocks: 1) == .equalUndecided)
    #expect(rig.marked == [1])
  }

  /// The same on the side that was asked.
  @Test func completeRepairOfAPartIsRememberedByBoth() {
    let rig = Rig.repairedByPeer(.local)
    rig.receive(.verifyEnd, length: 0)
    #expect(rig.replica.report(for: 0).repairWasCut)
    let start = MessageHeader(
      .verifyStart, offset: UInt64(RepairSource.local.rawValue),
      length: UInt64(DigestAlgorithm.crc32c.rawValue))
    rig.receive(start)
    rig.receive(.verifyEnd, length: 1)
    #expect(rig.marked == [1, 2] && rig.replica.report(for: 0).repairWasCut)
  }

  /// When all of it is repaired, the repair that was cut is over: what a later verify marks is the
  /// Primary's again.
  @Test func repairOfAllEndsTheOneThatWasCut() throws {
    let rig = Rig.repairing(Self.targetPrimary)
    #expect(Self.ruleOfReconnect(rig, outOfSyncBlocks: 2) == .equalUndecided)
    try Self.repairWhatIsLeft(rig)
    Self.expectPrimaryCounts(rig)
  }

  /// So it is when clients have written over all that was left.
  @Test func writesOverWhatIsLeftEndTheRepairThatWasCut() throws {
    let rig = Rig.repairing(Self.targetPrimary)
    #expect(Self.ruleOfReconnect(rig, outOfSyncBlocks: 2) == .equalUndecided)
    rig.submit(.write, blocks: 1..<3, tag: 1)
    rig.acknowledge(try #require(rig.sent(.write)))
    rig.settle()
    #expect(rig.marked.isEmpty && rig.completions[1] == .done)
    Self.expectPrimaryCounts(rig)
  }

  /// Both are UpToDate afterwards, whatever the peer called itself before: it may be repaired from,
  /// read from, and left behind.
  @Test func outdatedPeerOfAnUndecidedPairIsUpToDate() throws {
    let rig = Rig.repairing(Self.targetPrimary)
    #expect(Self.ruleOfReconnect(rig, .outdated, outOfSyncBlocks: 2) == .equalUndecided)
    #expect(rig.peer.disk == .upToDate)
    try Self.repairWhatIsLeft(rig)

    rig.submit(.read, blocks: 9..<10, tag: 1)
    rig.finishDisk(result: -5)
    rig.answerRead(try #require(rig.sent(.readRequest)))
    rig.settle()
    #expect(rig.completions[1] == .done, "the disk cannot read it, the peer can")
  }

  /// Repairs from the peer all that is marked.
  private static func repairWhatIsLeft(_ rig: Rig) throws {
    var plan = VerifyPlan()
    plan.repairSource = .peer
    plan.onlyMarked = true
    rig.beginVerify(plan)
    rig.answerRepair(try #require(rig.sent(.repairRequestLocked)))
    rig.settle()
    #expect(rig.marked.isEmpty)
  }

  /// What a verify marks from now on, a reconnect takes from the Primary.
  private static func expectPrimaryCounts(_ rig: Rig) {
    rig.receive(.verifyStart, length: UInt64(DigestAlgorithm.crc32c.rawValue))
    rig.receive(MessageHeader(.verifyResult, id: .max, offset: 4096, length: 0b1))
    rig.receive(.verifyEnd, length: 1)
    #expect(ruleOfReconnect(rig, outOfSyncBlocks: 1) == .equalMarked)
  }

  /// The connection is lost, and the peer comes back with so many marked blocks.
  private static func ruleOfReconnect(
    _ rig: Rig, _ disk: DiskState = .upToDate, outOfSyncBlocks: UInt64
  ) -> Rule? {
    rig.breakConnection()
    rig.settle()
    rig.dialAndGreetAgain()
    var report = peerReport(disk)
    report.outOfSyncBlocks = outOfSyncBlocks
    rig.shakeHands(report)
    return rig.replica.lastMeeting(withPeer: 0)?.decision.rule
  }

  @Test func detachGivesTheRepairUp() throws {
    let rig = Rig.repairing(Self.targetSecondary)
    let asked = try #require(rig.sent(.repairRequest))
    rig.command(.detach)
    #expect(rig.sent(.verifyEnd) != nil)
    rig.answerRepair(asked, lock: 5)
    #expect(!rig.disk.contains { $0.kind == "write" })
    rig.settle()
    rig.expectSettled()
  }
}
