/// What a victim loses is kept before anything of it is overwritten: every way to a discard, and
/// everything that may happen while it is kept.
import BlockTypes
import Metadata
import Replication
import TestSupport
import Testing
import Wire

@Suite struct UndoTests {
  /// Attached, wrote blocks 3 to 5 alone since generation 1. The peer did, too.
  private func split(
    base: Generation? = lineage(1).newest, _ change: (inout ReplicaOptions) -> Void = { _ in }
  ) -> Rig {
    let rig = Rig(change)
    var block = superblock(.upToDate, lineage(1, 2))
    block.peers = [PeerSlotRecord(node: other, base: base, isFull: false)]
    rig.attach(block, marked: 3..<6)
    return rig
  }

  private func peerApart(_ policy: ConflictPolicy = ConflictPolicy()) -> StateReport {
    var report = peerReport(.upToDate, lineage(1, 3))
    report.base = lineage(1).newest
    report.outOfSyncBlocks = 9
    report.policy = policy
    return report
  }

  private func meet(_ rig: Rig, _ report: StateReport) {
    rig.passDeadline()
    rig.connection = rig.newConnection()
    rig.step(.dialed(peer: 0, rig.connection))
    rig.receiveHello(.helloReply, on: rig.connection, isPrimary: report.role == .primary)
    rig.settle()
    rig.receive(report)
  }

  private func isTarget(_ rig: Rig) -> Bool {
    rig.settle()
    return rig.sent(.verdict)?.length == UInt64(Action.syncTarget.rawValue)
  }

  /// The first meeting of a node that was told to discard.
  private func keeping(_ rig: Rig) -> UInt64 {
    rig.command(.connectDiscarding)
    meet(rig, peerApart())
    return rig.undos.last ?? 0
  }

  @Test func b14NothingIsGivenUpBeforeItIsKept() {
    let rig = split()
    let before = rig.replica.superblock
    let number = keeping(rig)

    #expect(rig.undos == [number])
    #expect(rig.replica.superblock == before && !rig.superblockIsPending)
    #expect(rig.replica.disk == .upToDate)
    #expect(rig.sent(.verdict) == nil, "the peer may not act on anything")
    #expect(rig.state == .connecting && rig.peer.reason == .undoIsKept)
    #expect(rig.closed.last == rig.connection)

    rig.step(.undoEnded(peer: 0, number: number, .kept))
    meet(rig, peerApart())
    #expect(isTarget(rig))
    #expect(rig.durable.last?.lineage == lineage(1))
    #expect(rig.undos == [number], "it is kept once")
  }

  @Test func b14TheBlocksThatThisNodeChangedAreKept() {
    let rig = split()
    _ = keeping(rig)
    let first = rig.replica.nextToKeep(from: 0, peer: 0)
    #expect(first == ByteRange(start: 3 * blockSize, end: 6 * blockSize))
    #expect(rig.replica.nextToKeep(from: 4 * blockSize, peer: 0)?.start == 4 * blockSize)
    #expect(rig.replica.nextToKeep(from: 6 * blockSize, peer: 0) == nil)
    let words = rig.replica.marksToKeep(peer: 0)
    #expect(words?.first == 0b111000)
    let changes = rig.replica.changes(sincePeer: 0)
    #expect(changes == BitmapSummary(blocks: 3, runs: 1, extents: 1))
  }

  /// B10: where the marks do not reach back, all of the volume is kept.
  @Test func b10WithoutBitmapsEverythingIsKept() {
    let rig = split(base: nil)
    _ = keeping(rig)
    #expect(rig.replica.marksToKeep(peer: 0) == nil)
    let all = rig.replica.nextToKeep(from: 0, peer: 0)
    #expect(all == ByteRange(start: 0, end: volumeBytes))
    #expect(rig.replica.nextToKeep(from: volumeBytes, peer: 0) == nil)
  }

  @Test(arguments: [
    (UndoOutcome.tooLarge, Reason.undoTooLarge), (.noSpace, .undoNoSpace), (.failed, .undoFailed),
  ])
  func whatCannotBeKeptIsNotDiscarded(outcome: UndoOutcome, reason: Reason) {
    let rig = split()
    let before = rig.replica.superblock
    let number = keeping(rig)
    rig.step(.undoEnded(peer: 0, number: number, outcome))

    #expect(rig.state == .standAlone && rig.peer.reason == reason)
    #expect(rig.replica.superblock == before)
    // An order to connect is no order to discard.
    rig.command(.connect)
    meet(rig, peerApart())
    #expect(rig.peer.reason == .splitBrain)
  }

  @Test func administratorMayDecline() {
    let rig = split()
    rig.command(.discard(.withoutUndo))
    meet(rig, peerApart())
    #expect(isTarget(rig))
    #expect(rig.undos.isEmpty)
  }

  @Test func declinesWhileItIsBeingKept() {
    let rig = split()
    let number = keeping(rig)
    rig.command(.discard(.withoutUndo))
    meet(rig, peerApart())
    #expect(isTarget(rig))
    let isAwaited = rig.replica.awaitsUndo(number, peer: 0)
    #expect(!isAwaited, "the data changes while it is read")
  }

  @Test func declinedOnceIsNotDeclinedForEver() {
    let rig = split()
    rig.command(.discard(.withoutUndo))
    rig.command(.disconnect)
    _ = keeping(rig)
    #expect(rig.undos.count == 1)
  }

  @Test func configurationMayDecline() {
    let rig = split { $0.keepsUndo = false }
    rig.command(.connectDiscarding)
    meet(rig, peerApart())
    #expect(isTarget(rig))
    #expect(rig.undos.isEmpty)
  }

  @Test func victimOfAPolicyIsKeptAsWell() {
    let rig = split { $0.policy.noPrimary = .discardLeastChanges }
    var policy = ConflictPolicy()
    policy.noPrimary = .discardLeastChanges
    rig.command(.connect)
    meet(rig, peerApart(policy))
    #expect(rig.undos.count == 1)
    #expect(rig.replica.disk == .upToDate)
    rig.step(.undoEnded(peer: 0, number: rig.undos[0], .kept))
    meet(rig, peerApart(policy))
    #expect(isTarget(rig))
  }

  /// A pair that a verify has marked on both sides has one history. Who discards its side of the
  /// marked blocks loses them all the same, and only them.
  @Test(arguments: [true, false])
  func b14MarkedBlocksOfAnUndecidedPairAreKept(keeps: Bool) {
    let rig = Rig.connected()
    rig.receive(.verifyStart, length: UInt64(DigestAlgorithm.crc32c.rawValue))
    rig.receive(MessageHeader(.verifyResult, id: .max, offset: 4096, length: 0b101))
    rig.receive(.verifyEnd, length: 1)
    rig.settle()
    rig.command(.disconnect)
    rig.sent = []
    var report = peerReport()
    report.outOfSyncBlocks = 2

    rig.command(.discard(keeps ? DiscardPlan() : .withoutUndo))
    meet(rig, report)
    #expect(rig.undos.count == (keeps ? 1 : 0))
    guard keeps else {
      #expect(isTarget(rig))
      return
    }
    #expect(rig.peer.reason == .undoIsKept && rig.replica.disk == .upToDate)
    let words = rig.replica.marksToKeep(peer: 0)
    #expect(words?.first == 0b1010)
    let first = rig.replica.nextToKeep(from: 0, peer: 0)
    #expect(first == ByteRange(start: 4096, end: 8192))
    let second = rig.replica.nextToKeep(from: 8192, peer: 0)
    #expect(second == ByteRange(start: 12288, end: 16384))
    #expect(rig.replica.nextToKeep(from: 16384, peer: 0) == nil)

    rig.step(.undoEnded(peer: 0, number: rig.undos[0], .kept))
    meet(rig, report)
    #expect(isTarget(rig))
    #expect(rig.undos.count == 1, "it is kept once")
  }

  /// Nothing is marked: who discards and is only behind loses nothing.
  @Test func whoIsOnlyBehindKeepsNothing() {
    let rig = Rig()
    rig.attach(superblock())
    rig.command(.connectDiscarding)
    meet(rig, peerReport(.upToDate, lineage(1, 2)))
    #expect(isTarget(rig))
    #expect(rig.undos.isEmpty)
  }

  /// The peer is not met while it is kept: neither dialed nor accepted.
  @Test func thePeerIsNotMetMeanwhile() {
    let rig = split()
    _ = keeping(rig)
    #expect(rig.replica.nextDeadline == .never)
    let incoming = rig.newConnection()
    rig.step(.accepted(incoming))
    rig.receiveHello(.hello, on: incoming)
    #expect(rig.sent(.reject)?.length == UInt64(Reason.undoIsKept.rawValue))
    #expect(rig.closed.contains(incoming))
  }

  /// Clients write to a Primary: what is read then is of two moments, and what was kept is old.
  @Test(arguments: [true, false])
  func promotionMakesItWorthless(isKeptBefore: Bool) {
    let rig = split()
    let number = keeping(rig)
    if isKeptBefore { rig.step(.undoEnded(peer: 0, number: number, .kept)) }
    rig.command(.primary(force: false))
    rig.settle()
    let isAwaited = rig.replica.awaitsUndo(number, peer: 0)
    #expect(!isAwaited)
    if !isKeptBefore { rig.step(.undoEnded(peer: 0, number: number, .kept)) }
    rig.command(.secondary(heldOpen: false))
    rig.settle()
    rig.command(.disconnect)
    let next = keeping(rig)
    #expect(next != number)
    #expect(rig.undos.count == 2)
    #expect(rig.replica.disk == .upToDate)
  }

  @Test func anotherDiskMakesItWorthless() {
    let rig = split()
    let number = keeping(rig)
    rig.command(.detach)
    rig.settle()
    rig.attach(superblock(.upToDate, lineage(1, 2)))
    let isAwaited = rig.replica.awaitsUndo(number, peer: 0)
    #expect(!isAwaited)
  }

  /// Handlers hear of one split brain, not of one each time the two meet.
  @Test func handlersAreCalledOnce() {
    let rig = split()
    var calls = 0
    let number = keeping(rig)
    let count = { rig.effects.filter { $0.isInitialSplitBrain }.count }
    calls += count()
    rig.step(.undoEnded(peer: 0, number: number, .kept))
    meet(rig, peerApart())
    calls += count()
    #expect(calls == 1)
  }

  @Test func aStrangersAnswerIsIgnored() {
    let rig = split()
    let number = keeping(rig)
    rig.step(.undoEnded(peer: 0, number: number + 1, .kept))
    rig.step(.undoEnded(peer: 9, number: number, .kept))
    #expect(rig.peer.reason == .undoIsKept)
    let isAwaited = rig.replica.awaitsUndo(number, peer: 0)
    #expect(isAwaited)
  }
}

extension Effect {
  fileprivate var isInitialSplitBrain: Bool {
    if case .note(.handler(_, .initialSplitBrain)) = self { true } else { false }
  }
}
