/// Attach, detach and failure of the local disk.
import BlockTypes
import Metadata
import Replication
import TestSupport
import Testing
import Wire

@Suite struct DiskTests {
  @Test func cleanDiskIsUpToDate() {
    let rig = Rig()
    rig.attach(superblock())

    #expect(rig.replica.disk == .upToDate)
    #expect(rig.replies[1] == .done)
  }

  /// After a crash the peer may have what this one lost: Consistent until it was asked (P2).
  @Test func dirtyDiskIsOnlyConsistent() {
    let rig = Rig()
    rig.attach(superblock(dirty: true))

    #expect(rig.replica.disk == .consistent)
    let token = rig.command(.primary(force: false))
    #expect(rig.replies[token] == .refused(.needUpToDateData))
  }

  /// On record that the peer lacks our writes: nobody can be ahead.
  @Test func dirtyDiskThatWentOnAloneIsUpToDate() {
    var block = superblock(.upToDate, lineage(1, 2), dirty: true)
    block.peers = [PeerSlotRecord(node: other, base: lineage(1).newest)]
    let rig = Rig()
    rig.attach(block)

    #expect(rig.replica.disk == .upToDate)
  }

  @Test(arguments: [
    (StoredDiskState.inconsistent, DiskState.inconsistent), (.outdated, .outdated),
  ])
  func storedStateComesBack(stored: StoredDiskState, state: DiskState) {
    let rig = Rig()
    rig.attach(superblock(stored))

    #expect(rig.replica.disk == state)
  }

  @Test func metadataOfAnotherNodeOrResourceIsRefused() {
    for change: (inout Superblock) -> Void in [{ $0.node = other }, { $0.resource = "r1" }] {
      var block = superblock()
      change(&block)
      let rig = Rig()
      rig.attach(block)

      #expect(rig.replies[1] == .refused(.wrongMetadata))
      #expect(rig.replica.disk == .diskless)
    }
  }

  @Test func secondDiskIsRefused() {
    let rig = Rig()
    rig.attach(superblock())
    rig.attach(superblock())

    #expect(rig.replies[1] == .refused(.alreadyAttached))
  }

  /// What the old disk still owes must not be taken for an answer of the new one: a write that it
  /// reports as done is not on the new one, a failure is not the new one's.
  @Test func attachWaitsForOperationsOfTheDiskBefore() {
    let rig = Rig.lonePrimary()
    rig.submit(.write, blocks: 0..<1)
    rig.submit(.write, blocks: 1..<2)
    rig.finishDisk(result: -5)
    while rig.superblockIsPending { rig.finishSuperblock() }
    #expect(rig.replica.disk == .diskless)

    rig.attach(superblock())
    #expect(rig.replies[1] == .refused(.transient))
    rig.settle()
    #expect(rig.completions == [0: .ioError, 1: .ioError])
    rig.attach(superblock())
    // What its clients have seen is nowhere else: a crash of the disk may have taken some of it.
    #expect(rig.replies[1] == .refused(.nobodyFillsTheDisk))
    rig.command(.secondary(heldOpen: false))
    rig.attach(superblock())

    #expect(rig.replies[1] == .done)
  }

  /// A page of the bitmap that cannot be read marks everything in memory, so no later mark changes
  /// it; and the next start may read it, as it was. So it is written before the log of this
  /// attachment begins, and what is written later is marked on the disk when its extent has cooled.
  @Test func marksSurviveAPageThatCouldNotBeReadOnce() throws {
    let rig = Rig()
    rig.holdsLog = true
    rig.attach(superblock(), isReadable: false)
    #expect(rig.metadata.map(\.kind) == ["page"])
    #expect(!rig.superblockIsPending, "the log before this one stands for the marks until then")
    rig.finishMetadata()
    #expect(rig.superblockIsPending)
    rig.finishSuperblock()
    rig.holdsLog = false
    let promotion = rig.command(.primary(force: false))
    rig.settle()
    #expect(rig.replies[promotion] == .done)
    rig.submit(.write, blocks: 5..<6, tag: 5)
    rig.settle()
    #expect(rig.completions[5] == .done)
    rig.passDeadline()
    rig.settle()
    #expect(rig.replica.nextDeadline == .never, "the extent has left the log")

    // The next start reads the page.
    var bitmap = BlockBitmap(blockCount: volumeBytes / blockSize)
    let name = BitmapPage(deviceID: 7, slot: 0, node: other, number: 0)
    let page = try #require(rig.page)
    try page.withUnsafeBytes { try name.load($0, into: &bitmap) }
    let isMarked = bitmap[BlockIndex(5)]
    #expect(isMarked)
  }

  /// A failed write is final for a disk: it is let go, and the client goes on through the peer, as
  /// soon as that has put on record what this disk lacks.
  @Test func failedWriteEndsTheDisk() throws {
    let rig = Rig.primary()
    rig.submit(.write, tag: 1)
    rig.finishDisk(result: -5)

    #expect(rig.replica.disk == .diskless)
    #expect(rig.effects.kinds.contains("detach"))
    #expect(rig.sent(.diskChanged)?.length == UInt64(DiskState.diskless.rawValue))
    rig.acknowledge(try #require(rig.sent(.write)))
    #expect(rig.completions.isEmpty)
    rig.acknowledgeDisk()
    #expect(rig.completions == [1: .done])
    rig.submit(.write, tag: 2)
    rig.acknowledge(try #require(rig.sent(.write)))
    #expect(rig.completions[2] == .done)
    rig.expectSettled()
  }

  @Test func failedFlushEndsTheDisk() throws {
    let rig = Rig.primary()
    rig.submit(.flush, tag: 1)
    rig.acknowledge(try #require(rig.sent(.flush)))
    rig.finishDisk(result: -5)
    rig.acknowledgeDisk()

    #expect(rig.completions == [1: .done])
    #expect(rig.replica.disk == .diskless)
  }

  /// A failed read condemns only what was asked for, and that only when the peer has no better.
  @Test func failedReadKeepsTheDisk() {
    let rig = Rig.primary()
    rig.submit(.read, tag: 1)
    rig.finishDisk(result: -5)
    let asked = rig.sent(.readRequest)
    #expect(rig.completions.isEmpty)
    rig.receive(.readFailed, id: asked?.id ?? 0)

    #expect(rig.completions == [1: .ioError])
    #expect(rig.replica.disk == .upToDate)
  }

  /// Without a superblock that can be written nothing can be put on record, so nothing succeeds.
  @Test func failedSuperblockFailsWhatWaitsForIt() {
    let rig = Rig.primary()
    rig.submit(.write, tag: 1)
    rig.finishDisk()
    rig.breakConnection()

    rig.finishSuperblock(result: -5)

    #expect(rig.completions == [1: .ioError])
    #expect(rig.replica.disk == .diskless)
    rig.expectSettled()
  }

  /// The copy that is brought up to date after the first one is a change of the metadata like any
  /// other. What fails when the disk is let go already ends nothing.
  @Test func secondCopyOfTheSuperblockThatFailsEndsTheDisk() {
    let rig = Rig.primary()
    rig.step(.superblockCopyFailed)
    #expect(rig.replica.disk == .diskless && rig.effects.kinds.contains("detach"))
    rig.step(.superblockCopyFailed)
    #expect(rig.effects.isEmpty)
    let errors = rig.replica.diskErrors.writeErrors
    #expect(errors == 1)
  }

  /// Requests that wait for an earlier one when the disk fails fail as well, each once.
  @Test func waitingRequestsFailWithTheDisk() {
    let rig = Rig.lonePrimary()
    rig.submit(.write, blocks: 0..<2, tag: 1)
    rig.submit(.write, blocks: 0..<2, tag: 2)
    rig.submit(.write, blocks: 1..<3, tag: 3)

    rig.finishDisk(result: -5)
    rig.settle()

    #expect(rig.completions == [1: .ioError, 2: .ioError, 3: .ioError])
    rig.expectSettled()
  }

  /// A disk that fails under a resync ends the connection, and with it the request that failed:
  /// the request must not be used again after that.
  @Test func failedWriteOfAResyncTargetIsSurvived() throws {
    let rig = Rig.target()
    let asked = try #require(rig.sent(.resyncRequest))
    var data = MessageHeader(.resyncData, id: asked.id, offset: asked.offset, length: 5)
    data.payloadBytes = UInt32(asked.length)
    rig.receive(data, buffer: rig.takeBuffer())

    rig.finishDisk(result: -5)
    rig.settle()

    #expect(rig.replica.disk == .diskless)
    #expect(rig.state == .connecting)
    rig.expectSettled()
  }

  @Test func failedWriteOfThePeerOnAResyncTargetIsSurvived() {
    let rig = Rig.target()
    rig.peerWrites(blocks: 0..<1)

    rig.finishDisk(result: -5)
    rig.settle()

    #expect(rig.replica.disk == .diskless)
    rig.expectSettled()
  }

  @Test func failedWriteOfAResyncSourceIsSurvived() {
    let rig = Rig.source()
    rig.submit(.write, tag: 1)

    rig.finishDisk(result: -5)
    rig.settle()

    #expect(rig.completions == [1: .ioError])
    rig.expectSettled()
  }

  // MARK: Detach

  @Test func primaryWithoutAPeerKeepsItsDisk() {
    let rig = Rig.lonePrimary()

    #expect(rig.replies[rig.command(.detach)] == .refused(.primaryNeedsDisk))
  }

  /// The Primary goes on without us: on record before the disk is let go.
  @Test func detachUnderAPrimaryOutdatesFirst() {
    let rig = Rig.secondary()
    let token = rig.command(.detach)
    #expect(rig.effects.kinds == ["send diskChanged", "flush"])
    rig.finishDisk()
    #expect(rig.effects.kinds == ["superblock"])
    rig.finishSuperblock()

    #expect(rig.effects.kinds == ["detach", "reply"])
    #expect(rig.durable.last?.diskState == .outdated)
    #expect(rig.replies[token] == .done)
    #expect(rig.replica.disk == .diskless)
  }

  /// While the disk is being let go no write is acknowledged: the last flush would not cover it.
  @Test func writesDuringDetachAreAnsweredAsFailed() {
    let rig = Rig.secondary()
    rig.command(.detach)

    rig.peerWrites(blocks: 0..<1, id: 4)

    let ack = rig.sent(.ack)
    #expect(ack?.id == 4 && ack?.length == 1)
    rig.settle()
    rig.expectSettled()
  }

  /// The peers were told that the disk is gone and go on without it. When it is kept after all,
  /// they must be met anew: else this node would be UpToDate without their writes.
  @Test func detachThatTimesOutIsNegotiatedAnew() {
    let rig = Rig.secondary()
    let token = rig.command(.detach)
    #expect(rig.disk.count == 1)

    while rig.replies[token] == nil, rig.replica.nextDeadline != .never {
      rig.passDeadline()
      if rig.sent(.ping) != nil { rig.receive(.pong) }
      _ = rig.takeSent()
    }

    #expect(rig.replies[token] == .refused(.timeout))
    #expect(rig.state != .connected)
    #expect(rig.replica.disk == .upToDate)
  }

  /// A flush begun for a command that was given up says nothing about the next command: here it
  /// would write 'clean' over the record of the promotion.
  @Test func lateFlushOfADetachDoesNotTouchThePromotion() {
    let rig = Rig.connected()
    let detach = rig.command(.detach)
    rig.now = rig.now.advanced(milliseconds: 10_000)
    rig.step(.tick)
    #expect(rig.replies[detach] == .refused(.timeout))
    let promotion = rig.command(.primary(force: false))
    #expect(rig.superblockIsPending && rig.replies[promotion] == nil)

    rig.settle()

    #expect(rig.replies[promotion] == .done)
    #expect(rig.durable.last?.dirty == true && rig.durable.last?.wasPrimary == true)
  }

  /// A disk that failed while it was let go is gone; the next one takes writes again.
  @Test func failureDuringDetachLeavesNothingBehind() {
    let rig = Rig.secondary()
    let token = rig.command(.detach)
    rig.finishDisk(result: -5)
    rig.settle()
    #expect(rig.replies[token] == .done)
    #expect(rig.replica.disk == .diskless)

    rig.attach(superblock(dirty: true))
    rig.dialAndGreetAgain(isPrimary: true)
    rig.shakeHands(peerReport(role: .primary))
    rig.peerWrites(blocks: 0..<1, id: 4)
    rig.settleDisk()

    #expect(rig.sent(.ack)?.length == 0)
  }

  @Test func detachWithoutADiskIsDone() {
    let rig = Rig()

    #expect(rig.replies[rig.command(.detach)] == .done)
  }
}
