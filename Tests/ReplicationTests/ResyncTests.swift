/// Resync: the target pulls, the source serves, client writes go on, and the end is told in an
/// order that survives a crash or a cut at any point.
import BlockTypes
import Metadata
import Replication
import TestSupport
import Testing
import Wire

@Suite struct ResyncTests {
  // MARK: Target

  @Test func targetKeepsItsWindowFull() {
    let rig = Rig.target { $0.resyncWindow = 3 }

    let asked = rig.takeSent().filter { $0.type == .resyncRequest }

    #expect(asked.map(\.offset) == [0, 1 << 20, 2 << 20])
    #expect(asked.allSatisfy { $0.length == 1 << 20 })
  }

  /// A block counts as synced when the disk has it, not when it arrived.
  @Test func blockIsClearedAndAcknowledgedAfterTheDiskHasIt() throws {
    let rig = Rig.target { $0.resyncWindow = 1 }
    let total = rig.peer.blocksOutOfSync
    let asked = try #require(rig.sent(.resyncRequest))
    var data = MessageHeader(.resyncData, id: asked.id, offset: asked.offset, length: 99)
    data.payloadBytes = UInt32(asked.length)
    rig.receive(data, buffer: rig.takeBuffer())
    #expect(rig.peer.blocksOutOfSync == total)

    rig.finishDisk()

    #expect(rig.peer.blocksOutOfSync == total - 256)
    #expect(rig.effects.kinds == ["release", "send resyncAck", "send resyncRequest"])
    #expect(rig.sent(.resyncAck)?.id == 99, "the source's own number of the range")
  }

  /// 3 in the doc comment of the resync: flush, then lineage and UpToDate durably, then tell.
  @Test func targetFlushesThenTakesOverTheLineageThenTells() {
    let rig = Rig.target()
    rig.feedResync()
    #expect(rig.peer.blocksOutOfSync == 0)
    #expect(rig.replica.disk == .inconsistent, "not before the source said so")

    rig.receive(peerReport(.upToDate, lineage(1, 2), role: .primary), as: .syncDone)
    #expect(rig.effects.kinds == ["flush"])
    rig.finishDisk()
    #expect(rig.effects.kinds == ["superblock"])
    #expect(rig.replica.disk == .inconsistent)
    rig.finishSuperblock()

    #expect(rig.effects.kinds == ["send syncDoneAck"])
    #expect(rig.durable.last?.lineage == lineage(1, 2))
    #expect(rig.durable.last?.diskState == .upToDate)
    #expect(rig.durable.last?.dirty == true, "its Primary writes")
    #expect(rig.replica.disk == .upToDate)
    #expect(rig.replication == .established)
  }

  /// A cut before the end leaves an Inconsistent replica that knows what it is becoming.
  @Test func cutBeforeTheEndLeavesAnInconsistentReplica() {
    let rig = Rig.target()
    rig.feedResync()
    rig.receive(peerReport(.upToDate, lineage(1, 2), role: .primary), as: .syncDone)
    rig.breakConnection()
    rig.settle()

    #expect(rig.replica.disk == .inconsistent)
    #expect(rig.durable.last?.diskState == .inconsistent)
    #expect(rig.durable.last?.lineage == lineage(1, 2))
  }

  /// A block that is marked here alone is no reason to believe the end, nor to break the
  /// connection: it is copied, and then the end counts. A write that covers the last one does as
  /// well.
  @Test(arguments: [true, false])
  func endThatComesEarlyWaitsForWhatIsMarked(isCovered: Bool) throws {
    let rig = Rig.target { $0.resyncWindow = 1 }
    rig.receive(peerReport(.upToDate, lineage(1, 2), role: .primary), as: .syncDone)
    rig.settle()
    #expect(rig.replication == .syncTarget && rig.replica.disk == .inconsistent)
    #expect(rig.sent(.syncDoneAck) == nil)

    if isCovered {
      rig.command(.pauseSync)
      rig.answerPull(try #require(rig.sent(.resyncRequest)))
      rig.peerWrites(blocks: 0..<(volumeBytes / blockSize))
      rig.settle()
    } else {
      rig.feedResync()
    }
    rig.settle()
    #expect(rig.sent(.syncDoneAck) != nil)
    #expect(rig.replica.disk == .upToDate && rig.replication == .established)
  }

  @Test func secondEndIsAnError() {
    let rig = Rig.target()
    rig.feedResync()
    for _ in 0..<3 {
      rig.receive(peerReport(.upToDate, lineage(1, 2), role: .primary), as: .syncDone)
    }

    #expect(rig.peer.reason == .protocolError)
    #expect(rig.disk.count == 1)
  }

  /// The peer's writes that arrive for a range still out of sync are applied in the order sent.
  @Test func peersWriteWaitsForTheResyncDataUnderIt() throws {
    let rig = Rig.target { $0.resyncWindow = 1 }
    let asked = try #require(rig.sent(.resyncRequest))
    var data = MessageHeader(.resyncData, id: asked.id, offset: asked.offset, length: 1)
    data.payloadBytes = UInt32(asked.length)
    rig.receive(data, buffer: rig.takeBuffer())
    rig.peerWrites(blocks: 3..<4)
    #expect(rig.disk.count == 1, "newer data waits for the older under it")

    rig.finishDisk()

    #expect(rig.disk.count == 1)
    guard case .write(_, let range, _, _)? = rig.disk.first else {
      Issue.record("no write")
      return
    }
    #expect(range.start == 3 * blockSize)
  }

  @Test func lossReturnsEveryBufferOfTheTarget() throws {
    let rig = Rig.target { $0.resyncWindow = 4 }
    let asked = rig.takeSent().filter { $0.type == .resyncRequest }
    for header in asked.prefix(3) {
      var data = MessageHeader(.resyncData, id: header.id, offset: header.offset, length: 1)
      data.payloadBytes = UInt32(header.length)
      rig.receive(data, buffer: rig.takeBuffer())
    }
    rig.finishDisk()
    rig.breakConnection()
    rig.settle()

    rig.expectSettled()
  }

  // MARK: Source

  /// A range is locked from before it is read until the target has written it: a client write to it
  /// is either in the data or sent after it. A resync never overwrites newer data.
  @Test func clientWriteWaitsForTheRangeThatIsServed() throws {
    let rig = Rig.source()
    rig.receive(MessageHeader(.resyncRequest, id: 1, offset: 0, length: 1 << 20))
    rig.submit(.write, blocks: 0..<1, tag: 1)
    rig.submit(.write, blocks: 300..<301, tag: 2)
    #expect(rig.disk.map(\.kind) == ["serve", "write"], "only the write elsewhere goes on")
    rig.finishDisk()
    let data = try #require(rig.sent(.resyncData))
    #expect(rig.sent.filter { $0.type == .write }.map(\.offset) == [300 * blockSize])

    rig.receive(MessageHeader(.resyncAck, id: data.length, offset: 0, length: 1 << 20))

    #expect(rig.effects.kinds == ["send write", "write"])
  }

  /// The other way round: the read for the target waits for the write under way, on both disks.
  @Test func serveWaitsForTheClientWriteUnderWay() throws {
    let rig = Rig.source()
    rig.submit(.write, blocks: 0..<1, tag: 1)
    rig.receive(MessageHeader(.resyncRequest, id: 1, offset: 0, length: 1 << 20))
    rig.finishDisk()
    #expect(rig.disk.isEmpty)

    rig.acknowledge(try #require(rig.sent(.write)))

    #expect(rig.disk.map(\.kind) == ["serve"])
  }

  @Test func servedBufferIsReleasedAfterItWasQueued() {
    let rig = Rig.source()
    rig.receive(MessageHeader(.resyncRequest, id: 1, offset: 0, length: 4096))
    rig.finishDisk()

    #expect(rig.effects.kinds == ["send resyncData", "release"])
  }

  /// Never send what could not be read; say so, and keep the block marked.
  @Test func unreadableBlockIsNotServed() {
    let rig = Rig.source()
    let before = rig.peer.blocksOutOfSync
    rig.receive(MessageHeader(.resyncRequest, id: 1, offset: 0, length: 4096))
    rig.finishDisk(result: -5)

    #expect(rig.sent(.resyncData) == nil)
    #expect(rig.sent(.resyncUnreadable)?.id == 1)
    #expect(rig.replication == .syncSource)
    #expect(rig.peer.blocksOutOfSync == before)
    rig.expectSettled()
  }

  /// S24: the target goes on with the rest, asks for the refused range block by block, then rests.
  @Test func targetGoesOnWithoutUnreadableBlocks() throws {
    let rig = Rig.target { $0.resyncWindow = 1 }
    while let asked = rig.takeSent().first(where: { $0.type == .resyncRequest }) {
      let isBad = asked.offset <= 5 * blockSize && asked.offset + asked.length > 5 * blockSize
      if isBad {
        rig.receive(MessageHeader(.resyncUnreadable, id: asked.id, offset: asked.offset))
      } else {
        rig.answerPull(asked)
      }
    }

    #expect(rig.peer.blocksOutOfSync == 1)
    #expect(rig.replication == .syncTarget)
    rig.advance(milliseconds: 9_000)
    rig.receive(.pong)
    #expect(!rig.takeSent().contains { $0.type == .resyncRequest })
    rig.advance(milliseconds: 1_000)
    let again = try #require(rig.sent(.resyncRequest))
    #expect(again.offset == 5 * blockSize && again.length == blockSize)
  }

  /// A range of zeroes is told, not sent, and written as zeroes.
  @Test func zeroesAreToldAndNotSent() throws {
    let source = Rig.source()
    source.receive(MessageHeader(.resyncRequest, id: 1, offset: 0, length: 8192))
    let id = try #require(source.disk.removeFirst().diskRequest)
    source.step(.diskCompleted(id, result: 8192, buffer: .none))
    #expect(source.sent(.resyncZeroes)?.payloadBytes == 0)

    let target = Rig.target { $0.resyncWindow = 1 }
    let asked = try #require(target.sent(.resyncRequest))
    target.receive(MessageHeader(.resyncZeroes, id: asked.id, offset: asked.offset, length: 7))
    #expect(target.disk.map(\.kind) == ["write zeroes"])
    target.finishDisk()
    #expect(target.sent(.resyncAck)?.id == 7)
  }

  /// S17: paused from both ends, it rests until both have resumed it.
  @Test func pausedResyncRestsUntilBothResumeIt() throws {
    let rig = Rig.target { $0.resyncWindow = 1 }
    let asked = try #require(rig.sent(.resyncRequest))
    rig.command(.pauseSync)
    #expect(rig.sent(.syncPause)?.length == 1)
    rig.receive(.syncPause, length: 1)
    _ = rig.takeSent()
    rig.answerPull(asked)
    #expect(rig.peer.isPausedHere && rig.peer.isPausedByPeer)
    #expect(rig.sent(.resyncRequest) == nil)

    rig.command(.resumeSync)
    #expect(rig.sent(.resyncRequest) == nil, "the peer has paused it")
    rig.receive(.syncPause, length: 0)
    #expect(rig.sent(.resyncRequest) != nil)
  }

  /// S16: it rests while another resource is first, here or there, whatever administrators do.
  @Test func resyncThatIsNotFirstRestsUntilItsTurn() throws {
    let rig = Rig.target { $0.resyncWindow = 1 }
    let asked = try #require(rig.sent(.resyncRequest))
    rig.step(.resyncOrder(mustWait: true))
    #expect(rig.sent(.syncPause)?.length == 2)
    rig.receive(.syncPause, length: 2)
    _ = rig.takeSent()
    rig.answerPull(asked)
    #expect(rig.peer.waitsForResync && rig.peer.peerWaitsForResync)
    #expect(!rig.peer.isPausedHere && !rig.peer.isPausedByPeer)
    #expect(rig.sent(.resyncRequest) == nil)

    rig.command(.pauseSync)
    #expect(rig.sent(.syncPause)?.length == 3)
    rig.step(.resyncOrder(mustWait: false))
    #expect(rig.sent(.syncPause)?.length == 1)
    rig.command(.resumeSync)
    #expect(rig.sent(.syncPause)?.length == 0)
    #expect(rig.sent(.resyncRequest) == nil, "it is not the turn of the peer's")
    rig.receive(.syncPause, length: 0)
    #expect(rig.sent(.resyncRequest) != nil)
  }

  /// What waits for its turn says so when the resync begins, and the source as well.
  @Test func orderIsToldWhenTheResyncBegins() {
    let rig = Rig()
    rig.attach(superblock())
    rig.step(.resyncOrder(mustWait: true))
    rig.dialAndGreet(isPrimary: true)
    rig.shakeHands(peerReport(.upToDate, lineage(1, 2), role: .primary))

    #expect(rig.replication == .syncTarget)
    #expect(rig.sent(.syncPause)?.length == 2)
    #expect(rig.sent(.resyncRequest) == nil)
  }

  @Test func reasonForAPauseThatDoesNotExistIsAnError() {
    let rig = Rig.target()

    rig.receive(.syncPause, length: 4)

    #expect(rig.peer.reason == .protocolError)
  }

  /// A client waits for one range of the resync at most.
  @Test func resyncYieldsToClients() throws {
    let rig = Rig.source()
    rig.submit(.read, blocks: 900..<901, tag: 9)
    for number in 0..<3 as Range<UInt64> {
      rig.receive(MessageHeader(.resyncRequest, id: number, offset: number << 20, length: 1 << 20))
    }
    #expect(rig.disk.filter { $0.kind == "serve" }.count == 1)

    rig.submit(.write, blocks: 300..<301, tag: 1)
    #expect(rig.disk.contains { $0.kind == "write" }, "it passes the range that rests")
    rig.settleDisk()
    rig.acknowledge(try #require(rig.sent(.write)))
    #expect(rig.completions[1] == .done)
    rig.advance(milliseconds: 3)
    let data = try #require(rig.sent(.resyncData))
    rig.receive(MessageHeader(.resyncAck, id: data.length, offset: data.offset))
    #expect(rig.disk.isEmpty, "it rests as long as the range took")
    rig.advance(milliseconds: 3)
    #expect(rig.disk.filter { $0.kind == "serve" }.count == 1)
  }

  @Test func invalidateRemoteIsDoneByThePeer() {
    let rig = Rig.primary()
    let token = rig.command(.invalidateRemote)
    #expect(rig.sent(.invalidate) != nil)
    #expect(rig.replies[token] == .done)

    let peer = Rig.secondary()
    peer.receive(.invalidate)
    #expect(peer.replica.disk == .inconsistent)
    #expect(peer.peer.reason == .renegotiate)
    #expect(peer.peer.blocksOutOfSync == volumeBytes / blockSize)

    let alone = Rig.lonePrimary()
    let refused = alone.command(.invalidateRemote)
    #expect(alone.replies[refused] == .refused(.noRemoteDisk))
  }

  /// 1 and 2: the source forgets, durably, that the target lacks its newest generation, then says
  /// that all is there. From 1 on, going on alone begins a new generation.
  @Test func sourceForgetsDurablyBeforeItTells() {
    let rig = Rig.source()
    rig.submit(.write, tag: 1)
    rig.finishDisk()
    if let header = rig.sent(.write) { rig.acknowledge(header) }
    rig.settle()
    rig.drainSource()
    #expect(rig.superblockIsPending)
    #expect(!rig.controls.contains(.syncDone))

    rig.finishSuperblock()

    #expect(rig.durable.last?.peers.first?.base == nil)
    #expect(rig.controls.last == .syncDone)
    #expect(rig.peer.disk == .inconsistent)
    rig.receive(.syncDoneAck)
    #expect(rig.peer.disk == .upToDate)
    #expect(rig.replication == .established)
  }

  /// A role change that is on its way to the disk must not be overtaken by the end of a resync that
  /// still believes in the old role: neither clean over dirty, nor the other way round.
  @Test(arguments: [true, false])
  func endOfTheResyncKeepsTheRecordOfARoleChange(promotes: Bool) {
    let rig =
      promotes
      ? Rig.connected(superblock(.upToDate, lineage(1, 2)), to: peerReport(.upToDate, lineage(1)))
      : Rig.source()
    let token = rig.command(promotes ? .primary(force: false) : .secondary(heldOpen: false))
    if promotes {
      rig.receive(.promoteReply, id: rig.sent(.promoteRequest)?.id ?? 0, length: 1)
    }
    rig.settleDisk()
    #expect(rig.superblockIsPending && rig.replies[token] == nil)

    rig.drainSource()
    rig.settle()

    #expect(rig.replies[token] == .done)
    #expect(rig.durable.last?.dirty == promotes)
    #expect(rig.durable.last?.wasPrimary == promotes)
  }

  @Test func cutAfterTheEndWasToldBeginsANewGeneration() {
    let rig = Rig.source()
    rig.drainSource()
    rig.settle()
    let before = rig.replica.superblock?.lineage.generations.count ?? 0
    rig.submit(.write, tag: 1)
    rig.breakConnection()
    rig.settle()

    #expect(rig.replica.superblock?.lineage.generations.count == before + 1)
    #expect(rig.completions == [1: .done])
  }

  /// What a target may ask for: inside the volume, in whole blocks, not more than a message holds.
  @Test(
    arguments: [
      (volumeBytes, 4096), (0, 0), (0, (1 << 20) + 4096), (512, 4096), (0, 100),
      (UInt64.max - 4095, 8192), (volumeBytes - 4096, 8192),
    ] as [(UInt64, UInt64)])
  func requestThatDoesNotFitClosesTheConnection(offset: UInt64, length: UInt64) {
    let rig = Rig.source()

    rig.receive(MessageHeader(.resyncRequest, id: 1, offset: offset, length: length))

    #expect(rig.peer.reason == .protocolError)
    rig.settle()
    rig.expectSettled()
  }

  /// A target may ask for so much at once, and what it leaves behind when it reconnects counts.
  @Test func greedyTargetIsCutEvenAcrossConnections() {
    let rig = Rig.source()
    var asked = 0
    for _ in 0..<100 {
      for _ in 0..<40 where rig.state == .connected {
        rig.receive(MessageHeader(.resyncRequest, id: 1, offset: 0, length: 4096))
        rig.receive(
          MessageHeader(.resyncRequest, id: 1, offset: 4096 * UInt64(asked % 1_000), length: 4096))
        asked += 1
      }
      rig.breakConnection()
      rig.dialAndGreetAgain()
      rig.receive(peerReport(.inconsistent, lineage(1)))
      while let flush = rig.disk.firstIndex(where: { $0.kind == "flush" }) {
        rig.finishDisk(at: flush)
      }
      while rig.superblockIsPending { rig.finishSuperblock() }
      rig.receiveVerdict(.syncTarget, .full)
      rig.exchangeBitmaps()
    }

    #expect(rig.disk.count <= 64)
    rig.settle()
    rig.breakConnection()
    rig.settle()
    rig.expectSettled()
  }
}
