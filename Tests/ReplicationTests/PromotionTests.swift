/// Commands of the administrator: roles, leaving, invalidate.
import BlockTypes
import Metadata
import TestSupport
import Testing
import Wire

@testable import Replication

@Suite struct PromotionTests {
  /// Every peer is asked, and the superblock says dirty before the first write may come.
  @Test func promotionAsksThenPersistsThenTells() {
    let rig = Rig.connected()
    let token = rig.command(.primary(force: false))
    #expect(rig.effects.kinds == ["send promoteRequest"])
    rig.submit(.write, tag: 1)
    #expect(rig.completions[1] == .notPrimary)

    rig.receive(.promoteReply, id: rig.sent(.promoteRequest)?.id ?? 0, length: 1)
    #expect(rig.effects.kinds == ["superblock"])
    #expect(rig.replica.role == .secondary)
    rig.finishSuperblock()

    #expect(rig.effects.kinds == ["send roleChanged", "reply"])
    #expect(rig.durable.last?.dirty == true && rig.durable.last?.wasPrimary == true)
    #expect(rig.replies[token] == .done)
    #expect(rig.replica.role == .primary)
  }

  @Test func refusalOfThePeerIsTheAnswer() {
    let rig = Rig.connected()
    let token = rig.command(.primary(force: false))

    rig.receive(.promoteReply, id: rig.sent(.promoteRequest)?.id ?? 0, length: 0)

    #expect(rig.replies[token] == .refused(.multiplePrimaries))
    #expect(rig.replica.role == .secondary)
    #expect(rig.sent(.roleChanged)?.length == UInt64(Role.secondary.rawValue))
  }

  /// The peer was alone once, and has lost its disk since.
  @Test func peerThatRemembersNewerDataRefuses() {
    let rig = Rig.connected(superblock(), to: peerReport(.diskless))
    let token = rig.command(.primary(force: false))

    rig.receive(.promoteReply, id: rig.sent(.promoteRequest)?.id ?? 0, length: 2)

    #expect(rig.replies[token] == .refused(.newerDataWasLost))
    #expect(rig.replica.role == .secondary)
  }

  /// This node's disk had two generations when it was lost. Only an administrator who knows that
  /// may promote a peer with less.
  @Test(arguments: [false, true], [false, true])
  func newerDataOfALostDiskIsRemembered(peerHasIt: Bool, isForced: Bool) {
    let rig = Rig()
    rig.attach(superblock(.upToDate, lineage(1, 2)))
    rig.command(.detach)
    rig.settle()
    #expect(rig.replica.disk == .diskless)
    rig.command(.connect)
    rig.dialAndGreet()
    rig.shakeHands(peerReport(.upToDate, peerHasIt ? lineage(1, 2) : lineage(1)))

    rig.receive(.promoteRequest, id: 5, length: isForced ? 1 : 0)

    let isOlder = !peerHasIt && !isForced
    #expect(rig.sent(.promoteReply)?.length == (isOlder ? 2 : 1))
    guard isForced else { return }
    rig.receive(.roleChanged, length: UInt64(Role.primary.rawValue))
    rig.receive(.roleChanged, length: UInt64(Role.secondary.rawValue))
    rig.receive(.promoteRequest, id: 6)
    #expect(rig.sent(.promoteReply)?.length == 1)
  }

  /// What an administrator wanted to force, and could not, was never anybody's data.
  @Test func promotionThatCouldNotBeForcedIsNoLostData() {
    let rig = Rig()
    rig.attach(superblock(.inconsistent, lineage(1, 2)), marked: 3..<9)
    let token = rig.command(.primary(force: true))
    rig.settleDisk()
    rig.finishSuperblock(result: -5)
    rig.settle()
    #expect(rig.replies[token] == .refused(.noDiskToPromote))
    rig.command(.connect)
    rig.dialAndGreet()
    rig.shakeHands(peerReport(.upToDate, lineage(1, 2)))
    rig.receive(.promoteRequest, id: 5)
    #expect(rig.sent(.promoteReply)?.length == 1)
  }

  @Test func secondPrimaryIsRefusedAtOnce() {
    let rig = Rig.secondary()

    #expect(rig.replies[rig.command(.primary(force: false))] == .refused(.multiplePrimaries))
    #expect(rig.replies[rig.command(.primary(force: true))] == .refused(.multiplePrimaries))
  }

  @Test(arguments: [StoredDiskState.inconsistent, .outdated])
  func dataThatIsNotUpToDateNeedsForce(state: StoredDiskState) {
    let rig = Rig()
    rig.attach(superblock(state))
    #expect(rig.replies[rig.command(.primary(force: false))] == .refused(.needUpToDateData))

    let forced = rig.command(.primary(force: true))
    rig.settle()

    #expect(rig.replies[forced] == .done)
    #expect(rig.replica.disk == .upToDate)
    let newest = rig.durable.last?.lineage.newest
    #expect(newest?.author == me, "the operator's word is a generation of its own")
    #expect(rig.durable.last?.peers.first?.base == lineage(1).newest)
  }

  /// The history of a disk that was being filled is its source's: had this node gone on from there,
  /// the source would be called the older one, and what it alone has would be overwritten.
  @Test(arguments: [lineage(1, 2), lineage(1, 2, 3), lineage(2)])
  func forcedTargetIsNotTheSuccessorOfItsSource(history: Lineage) throws {
    let rig = Rig()
    rig.attach(superblock(.inconsistent, history), marked: 3..<9)
    rig.command(.primary(force: true))
    rig.settle()

    let block = try #require(rig.durable.last)
    #expect(block.diskState == .upToDate && block.lineage.newest?.author == me)
    switch block.lineage.relation(to: history) {
    case .parted(let ancestor): #expect(ancestor == history.generations.dropLast().last)
    case .unrelated: #expect(history.generations.count == 1)
    default: Issue.record("\(block.lineage) against \(history)")
    }
    let mine = rig.replica.report(for: 0)
    for base in [nil, history.generations.first] {
      for iAmVictim in [false, true] {
        var (mine, theirs) = (mine, peerReport(.upToDate, history))
        theirs.base = base
        mine.role = .secondary
        if iAmVictim { mine.discardMyData = true } else { theirs.discardMyData = true }
        let decision = Decision.decide(mine: mine, theirs: theirs, iAmLower: true)
        let isRefused = history.generations.count == 1
        #expect(decision.action == (isRefused ? .refuse : iAmVictim ? .syncTarget : .syncSource))
        #expect(decision.extent == (isRefused ? .none : .full), "the bitmaps are not believed")
      }
    }
  }

  /// What a disk had before it was to be filled is its own history: the base tells the two apart.
  @Test func forcedVictimGoesOnFromWhatItHad() {
    let rig = Rig()
    var block = superblock(.inconsistent, lineage(1, 2))
    block.peers = [PeerSlotRecord(node: other, base: lineage(1).newest)]
    rig.attach(block)
    rig.command(.primary(force: true))
    rig.settle()

    #expect(rig.durable.last?.lineage.generations.count == 3)
    #expect(rig.durable.last?.peers.first?.base == lineage(1, 2).newest)
  }

  /// What was taken over counts with the superblock that says so, and not before.
  @Test func diskThatFailsWhileItIsForcedStaysWhatItWas() {
    let rig = Rig()
    rig.attach(superblock(.inconsistent, lineage(1, 2)))
    let forced = rig.command(.primary(force: true))
    rig.finishSuperblock(result: -5)

    #expect(rig.replies[forced] == .refused(.noDiskToPromote))
    #expect(rig.durable.isEmpty && rig.replica.role == .secondary)
    rig.attach(superblock(.inconsistent, lineage(1, 2)))
    #expect(rig.replica.disk == .inconsistent)
    #expect(rig.replies[rig.command(.primary(force: false))] == .refused(.needUpToDateData))
  }

  @Test func forceMakesNoDiskAppear() {
    let rig = Rig()

    #expect(rig.replies[rig.command(.primary(force: true))] == .refused(.noDiskToPromote))
  }

  @Test func targetOfAResyncCannotBeForced() {
    let rig = Rig.connected(superblock(), to: peerReport(.upToDate, lineage(1, 2)))
    #expect(rig.replication == .syncTarget)

    #expect(rig.replies[rig.command(.primary(force: true))] == .refused(.targetOfResync))
  }

  /// Two fresh nodes: the forced one becomes the source of the first full sync.
  @Test func forcingAFreshPairBeginsTheInitialSync() {
    let fresh = superblock(.inconsistent, Lineage())
    let rig = Rig.connected(fresh, to: peerReport(.inconsistent, Lineage()))
    let token = rig.command(.primary(force: true))
    rig.receive(.promoteReply, id: rig.sent(.promoteRequest)?.id ?? 0, length: 1)
    rig.settle()
    #expect(rig.replies[token] == .done)
    #expect(rig.peer.reason == .renegotiate)

    rig.dialAndGreetAgain()
    rig.receive(peerReport(.inconsistent, Lineage()))
    rig.settle()

    #expect(rig.sent(.verdict)?.length == UInt64(Action.syncSource.rawValue))
  }

  /// Of two that ask at once the lower node id wins: here this one.
  @Test func lowerNodeRefusesTheOtherWhileItAsks() {
    let rig = Rig.connected()
    rig.command(.primary(force: false))

    rig.receive(.promoteRequest, id: 5)

    let reply = rig.sent(.promoteReply)
    #expect(reply?.id == 5 && reply?.length == 0)
  }

  @Test func higherNodeGivesWay() {
    let rig = Rig(
      options: ReplicaOptions(node: other, resource: "r0", peers: [me], instance: 42))
    var block = superblock()
    block.node = other
    rig.attach(block)
    rig.command(.connect)
    rig.passDeadline()
    rig.connection = rig.newConnection()
    rig.step(.dialed(peer: 0, rig.connection))
    rig.receiveHello(.helloReply, on: rig.connection, from: me)
    rig.shakeHands(peerReport())
    let token = rig.command(.primary(force: false))

    rig.receive(.promoteRequest, id: 5)
    rig.settle()

    #expect(rig.replies[token] == .refused(.multiplePrimaries))
    let reply = rig.sent(.promoteReply)
    #expect(reply?.id == 5 && reply?.length == 1)
    #expect(rig.peer.role == .primary)
  }

  /// Its writes may come as soon as it has our answer: dirty on disk before we give it.
  @Test func grantWaitsForTheSuperblock() {
    let rig = Rig.connected()
    rig.receive(.promoteRequest, id: 3)
    #expect(rig.effects.kinds == ["superblock"])

    rig.finishSuperblock()

    #expect(rig.durable.last?.dirty == true)
    #expect(rig.sent(.promoteReply)?.length == 1)
  }

  /// The asker gave up before we could grant: an answer is due, but not a yes that comes too late.
  @Test func grantIsTakenBackWhenTheAskerGaveUp() {
    let rig = Rig.connected()
    rig.receive(.promoteRequest, id: 3)
    rig.receive(.roleChanged, length: UInt64(Role.secondary.rawValue))
    rig.settle()

    #expect(rig.takeSent().filter { $0.type == .promoteReply }.map(\.length) == [0])
    #expect(rig.peer.role == .secondary)
  }

  /// A late yes to a promotion that was given up is no yes to the next one.
  @Test func lateAnswerDoesNotCountForTheNextPromotion() {
    let rig = Rig.connected()
    let first = rig.command(.primary(force: false))
    let oldID = rig.sent(.promoteRequest)?.id ?? 0
    rig.now = rig.now.advanced(milliseconds: 10_000)
    rig.step(.tick)
    #expect(rig.replies[first] == .refused(.timeout))
    rig.receive(.pong)
    let second = rig.command(.primary(force: false))
    let newID = rig.sent(.promoteRequest)?.id ?? 0
    #expect(newID != oldID)

    rig.receive(.promoteReply, id: oldID, length: 1)
    rig.settle()
    #expect(rig.replies[second] == nil && rig.replica.role == .secondary)

    rig.receive(.promoteReply, id: newID, length: 0)
    #expect(rig.replies[second] == .refused(.multiplePrimaries))
    #expect(rig.state == .connected)
  }

  @Test func answerToAPromotionThatWasNeverBegunIsAnError() {
    let rig = Rig.connected()
    rig.command(.primary(force: false))
    let id = rig.sent(.promoteRequest)?.id ?? 0

    rig.receive(.promoteReply, id: id + 1, length: 1)

    #expect(rig.peer.reason == .protocolError)
  }

  /// Nothing is on record when the disk fails while it takes the promotion down.
  @Test func diskThatFailsDuringPromotionRefusesIt() {
    let rig = Rig.connected()
    let token = rig.command(.primary(force: false))
    rig.receive(.promoteReply, id: rig.sent(.promoteRequest)?.id ?? 0, length: 1)

    rig.finishSuperblock(result: -5)

    #expect(rig.replies[token] == .refused(.noDiskToPromote))
    #expect(rig.replica.role == .secondary && rig.replica.disk == .diskless)
    #expect(rig.sent(.roleChanged)?.length == UInt64(Role.secondary.rawValue))
  }

  /// The peer that granted must hear that nothing came of it, or it could never be promoted.
  @Test func diskThatFailsWhileAskingTakesTheRequestBack() {
    let rig = Rig.secondary()
    rig.receive(.roleChanged, length: UInt64(Role.secondary.rawValue))
    #expect(rig.disk.map(\.kind) == ["flush"])
    let token = rig.command(.primary(force: false))
    rig.finishDisk(result: -5)

    rig.receive(.promoteReply, id: rig.sent(.promoteRequest)?.id ?? 0, length: 1)

    #expect(rig.replies[token] == .refused(.noDiskToPromote))
    #expect(rig.sent(.roleChanged)?.length == UInt64(Role.secondary.rawValue))
  }

  /// The peer granted and then left as a Primary, which no correct peer does: what is on disk says
  /// Outdated, so memory may not say UpToDate.
  @Test func dataThatBecameOutdatedMeanwhileIsNotPromoted() {
    let rig = Rig.connected()
    let token = rig.command(.primary(force: false))
    rig.receive(.promoteReply, id: rig.sent(.promoteRequest)?.id ?? 0, length: 1)
    rig.receive(.goodbye, length: UInt64(Role.primary.rawValue))
    rig.settle()

    #expect(rig.replies[token] == .refused(.needUpToDateData))
    #expect(rig.replica.role == .secondary && rig.replica.disk == .outdated)
  }

  @Test func onlyOneCommandAtATime() {
    let rig = Rig.connected()
    rig.command(.primary(force: false))

    #expect(rig.replies[rig.command(.disconnect)] == .refused(.transient))
  }

  // MARK: Demotion and leaving

  @Test func demotionWaitsForWritesThenFlushesThenTells() throws {
    let rig = Rig.primary()
    rig.submit(.write, tag: 1)
    let token = rig.command(.secondary(heldOpen: false))
    rig.submit(.write, tag: 2)
    #expect(rig.completions[2] == .notPrimary)
    rig.finishDisk()
    rig.acknowledge(try #require(rig.sent(.write)))
    #expect(rig.effects.kinds == ["complete done", "release", "flush"])
    rig.finishDisk()
    rig.finishSuperblock()

    #expect(rig.effects.kinds == ["send roleChanged", "reply"])
    #expect(rig.replies[token] == .done)
    #expect(rig.durable.last?.dirty == false && rig.durable.last?.wasPrimary == false)
  }

  @Test func heldOpenVolumeIsNotDemoted() {
    let rig = Rig.primary()

    #expect(rig.replies[rig.command(.secondary(heldOpen: true))] == .refused(.heldOpen))
    #expect(rig.replica.role == .primary)
  }

  /// The Secondary marks itself clean when the Primary stopped writing, after a flush of its own.
  @Test func secondaryBecomesCleanAfterTheDemotionOfItsPeer() {
    let rig = Rig.secondary()
    #expect(rig.durable.last?.dirty == true)
    rig.receive(.roleChanged, length: UInt64(Role.secondary.rawValue))
    #expect(rig.effects.kinds == ["flush"])
    rig.settle()

    #expect(rig.durable.last?.dirty == false)
  }

  /// A slow flush that began before newer writes came proves nothing about them.
  @Test func slowFlushDoesNotHideNewerWrites() {
    let rig = Rig.secondary()
    rig.receive(.roleChanged, length: UInt64(Role.secondary.rawValue))
    #expect(rig.disk.map(\.kind) == ["flush"])
    rig.receive(.promoteRequest, id: 1)
    rig.receive(.roleChanged, length: UInt64(Role.primary.rawValue))
    rig.peerWrites(blocks: 0..<1)
    rig.finishDisk(at: 1)
    rig.receive(.roleChanged, length: UInt64(Role.secondary.rawValue))

    rig.finishDisk()

    #expect(rig.replica.superblock?.dirty == true)
    #expect(rig.disk.map(\.kind) == ["flush"], "a new flush for the new writes")
    rig.settle()
    #expect(rig.durable.last?.dirty == false)
  }

  /// The same when the link is lost in between, and nobody says that the writing has ended.
  @Test func slowFlushDoesNotHideWritesOfAConnectionThatIsGone() {
    let rig = Rig.secondary()
    rig.receive(.roleChanged, length: UInt64(Role.secondary.rawValue))
    rig.receive(.promoteRequest, id: 1)
    rig.receive(.roleChanged, length: UInt64(Role.primary.rawValue))
    rig.peerWrites(blocks: 0..<1)
    rig.finishDisk(at: 1)
    rig.breakConnection()

    rig.settle()

    #expect(rig.replica.superblock?.dirty == true)
  }

  /// However often a peer says that it is Secondary: one flush at a time.
  @Test func repeatedRoleChangesNeedOneFlush() {
    let rig = Rig.secondary()
    for _ in 0..<5_000 { rig.receive(.roleChanged, length: UInt64(Role.secondary.rawValue)) }

    #expect(rig.disk.count == 1)
    rig.settle()
    rig.expectSettled()
  }

  @Test func disconnectOfASecondaryOutdatesIt() {
    let rig = Rig.secondary()
    let token = rig.command(.disconnect)
    rig.settle()

    #expect(rig.replies[token] == .done)
    #expect(rig.state == .standAlone && rig.peer.reason == .byCommand)
    #expect(rig.sent(.goodbye)?.length == UInt64(Role.secondary.rawValue))
    #expect(rig.durable.last?.diskState == .outdated)
  }

  @Test func disconnectOfAPrimaryKeepsItsData() {
    let rig = Rig.primary()
    rig.command(.disconnect)
    rig.settle()

    #expect(rig.replica.disk == .upToDate)
    #expect(rig.sent(.goodbye)?.length == UInt64(Role.primary.rawValue))
  }

  /// A Secondary that ends leaves first and then flushes what it had acknowledged: under a constant
  /// stream of writes it would never be idle, and would acknowledge what no flush covers.
  @Test func shutdownOfASecondaryLeavesThenFlushes() {
    let rig = Rig.secondary()
    rig.peerWrites(blocks: 0..<1)

    let token = rig.command(.shutdown)
    #expect(rig.effects.kinds == ["send goodbye", "close", "superblock"])
    rig.finishSuperblock()
    rig.finishDisk()
    #expect(rig.effects.kinds == ["release", "flush"])
    rig.settle()

    #expect(rig.replies[token] == .done)
    #expect(rig.durable.last?.diskState == .outdated && rig.durable.last?.dirty == false)
    #expect(rig.sent(.ack) == nil)
    rig.expectSettled()
  }

  @Test func shutdownOfAPrimaryDemotesAndMarksClean() {
    let rig = Rig.primary()
    let token = rig.command(.shutdown)
    rig.settle()

    #expect(rig.replies[token] == .done)
    #expect(rig.replica.role == .secondary)
    #expect(rig.durable.last?.dirty == false)
    #expect(rig.sent(.goodbye)?.length == UInt64(Role.secondary.rawValue))
  }

  // MARK: Invalidate

  @Test func invalidateForgetsTheHistoryAndMeetsThePeerAnew() {
    let rig = Rig.connected()
    let token = rig.command(.invalidate)
    rig.settle()

    #expect(rig.replies[token] == .done)
    #expect(rig.durable.last?.lineage.isEmpty == true)
    #expect(rig.durable.last?.diskState == .inconsistent)
    #expect(rig.peer.reason == .renegotiate)
  }

  @Test func onlyGoodCopyIsNotInvalidated() {
    #expect(Rig.primary().invalidate() == .refused(.transient))
    let beside = Rig.connected(superblock(), to: peerReport(.diskless))
    #expect(beside.invalidate() == .refused(.noRemoteDisk))
    #expect(Rig().invalidate() == .refused(.noLocalDisk))
  }
}

extension Rig {
  fileprivate func invalidate() -> CommandResult? { replies[command(.invalidate)] }
}
