/// A Primary without good data of its own: where it reads, when it acknowledges, whom it trusts.
import BlockTypes
import Metadata
import Replication
import TestSupport
import Testing
import Wire

@Suite struct PeerIOTests {
  // MARK: The table

  /// Every combination of own disk, marks, errors, connection and the peer's disk. What must hold
  /// is said here without the code of the table.
  @Test func whereAPrimaryReads() {
    let flags = [false, true]
    for disk in DiskState.allCases {
      for peerDisk in DiskState.allCases {
        for bits in 0..<32 {
          let conditions = ReadConditions(
            disk: disk, isMarked: flags[bits & 1], hasFailed: flags[bits >> 1 & 1],
            isSyncTarget: flags[bits >> 2 & 1], isConnected: flags[bits >> 3 & 1],
            peerDisk: peerDisk, mayWait: flags[bits >> 4 & 1])
          if let law = brokenLaw(conditions) { Issue.record("\(law): \(conditions)") }
        }
      }
    }
  }

  private func brokenLaw(_ conditions: ReadConditions) -> String? {
    let isPeerGood = conditions.isConnected && conditions.peerDisk == .upToDate
    switch conditions.path {
    case .local:
      if conditions.hasFailed { return "what failed is read again" }
      if conditions.disk == .upToDate { return nil }
      if conditions.disk != .inconsistent { return "bad data is read" }
      if conditions.isMarked { return "a stale block is read" }
      return conditions.isSyncTarget && isPeerGood ? nil : "nobody brings the rest"
    case .peer:
      if !isPeerGood { return "a peer without good data is read" }
      if conditions.disk == .upToDate, conditions.isMarked { return "the peer's block is old" }
      let isNeeded =
        conditions.disk != .upToDate || conditions.hasFailed
      return isNeeded ? nil : "the peer is asked without need"
    case .wait:
      if isPeerGood { return "it waits for what is there" }
      if conditions.disk == .upToDate { return "it waits with good data" }
      return conditions.mayWait ? nil : "it waits too long"
    case .fail:
      if conditions.disk == .upToDate {
        if !conditions.hasFailed { return "good data is not read" }
        return isPeerGood && !conditions.isMarked ? "the peer could have helped" : nil
      }
      return isPeerGood || conditions.mayWait ? "the peer could have helped" : nil
    }
  }

  // MARK: Read errors

  /// C10: a read error is served from the peer, and the block is written anew before anybody else
  /// may write to it.
  @Test func unreadableBlockIsReadFromThePeerAndRepaired() throws {
    let rig = Rig.primary()
    rig.submit(.read, blocks: 3..<4, tag: 1)
    rig.finishDisk(result: -5)
    rig.submit(.write, blocks: 3..<4, tag: 2)
    #expect(rig.disk.isEmpty)
    let data = rig.answerRead(try #require(rig.sent(.readRequest)))

    #expect(rig.disk.count == 1)
    guard case .write(_, let range, let buffer, _) = rig.disk[0] else {
      Issue.record("no repair")
      return
    }
    #expect(range == ByteRange(start: 3 * blockSize, end: 4 * blockSize) && buffer == data)
    rig.finishDisk()
    #expect(rig.completions == [1: .done])
    #expect(rig.substituted[1] == data)
    let repairs = rig.replica.diskErrors.repairs
    #expect(repairs == 1)
    #expect(rig.peer.blocksOutOfSync == 0)
    rig.settle()
    rig.acknowledge(try #require(rig.sent(.write)))
    #expect(rig.completions[2] == .done)
    rig.expectSettled()
  }

  /// The client has its data whatever becomes of the repair.
  @Test func repairThatFailsEndsTheDisk() throws {
    let rig = Rig.primary()
    rig.submit(.read, tag: 1)
    rig.finishDisk(result: -5)
    rig.answerRead(try #require(rig.sent(.readRequest)))
    rig.finishDisk(result: -5)

    #expect(rig.completions == [1: .done])
    #expect(rig.replica.disk == .diskless)
    rig.acknowledgeDisk()
    rig.expectSettled()
  }

  /// Without a peer there is nothing better than the error.
  @Test func unreadableBlockWithoutAPeerFails() {
    let rig = Rig.lonePrimary()
    rig.submit(.read, tag: 1)
    rig.finishDisk(result: -5)

    #expect(rig.completions == [1: .ioError])
    #expect(rig.replica.disk == .upToDate)
  }

  /// A peer that is lost while it is asked: the read fails, the disk stays.
  @Test func peerLostDuringARead() {
    let rig = Rig.primary()
    rig.submit(.read, tag: 1)
    rig.finishDisk(result: -5)
    rig.breakConnection()

    #expect(rig.completions == [1: .ioError])
    rig.expectSettled()
  }

  /// A peer answers reads only with good data, and only a Primary's.
  @Test func peersReadIsServedFromGoodData() {
    let rig = Rig.secondary()
    rig.receive(MessageHeader(.readRequest, id: 7, offset: 4096, length: 4096))
    rig.finishDisk()
    #expect(rig.sent(.readData)?.id == 7)
    rig.receive(MessageHeader(.readRequest, id: 8, offset: 4096, length: 4096))
    rig.finishDisk(result: -5)
    #expect(rig.sent(.readFailed)?.id == 8)
    rig.expectSettled()

    let target = Rig.target()
    target.receive(MessageHeader(.readRequest, id: 9, length: 4096))
    #expect(target.sent(.readFailed)?.id == 9)
  }

  // MARK: Without a disk

  @Test func disklessPrimaryReadsFromItsPeer() throws {
    let rig = Rig.disklessPrimary()
    rig.submit(.read, tag: 1)
    #expect(rig.disk.isEmpty)
    rig.answerRead(try #require(rig.sent(.readRequest)))

    #expect(rig.completions[1] == .done)
    #expect(rig.isWritable)
    rig.expectSettled()
  }

  /// The peer says what the Primary lacks before it answers: else both could crash, and the old
  /// disk would come back as good.
  @Test func peerOfADisklessPrimaryPutsItOnRecordFirst() {
    let rig = Rig.secondary()
    rig.receive(MessageHeader(.diskChanged, offset: 1))
    #expect(rig.superblockIsPending)
    rig.peerWrites(blocks: 5..<6, id: 4)
    rig.finishDisk()
    #expect(rig.sent(.ack) == nil && rig.sent(.diskChangedAck) == nil)
    rig.finishSuperblock()

    #expect(rig.sent(.ack)?.id == 4 && rig.sent(.ack)?.length == 0)
    let newest = rig.durable.last?.lineage.newest
    #expect(rig.sent(.diskChangedAck)?.id == newest?.id)
    #expect(newest?.number == 2)
    #expect(rig.durable.last?.peers[0].base == lineage(1).newest)
    #expect(rig.peer.blocksOutOfSync == 1)
    rig.settle()
    rig.expectSettled()
  }

  /// The peer has a write and loses its disk before it has put on record that this node lacks it: a
  /// superblock that could not be written, or a `detach` on its way. Nobody has the write for sure.
  @Test func peerThatLosesItsDiskBeforeItsRecordFailsWhatWaited() throws {
    let rig = Rig.primary()
    rig.submit(.write, tag: 1)
    rig.submit(.flush, tag: 2)
    rig.acknowledge(try #require(rig.sent(.write)))
    rig.acknowledge(try #require(rig.sent(.flush)))
    rig.finishDisk(result: -5)
    rig.settle()
    #expect(rig.completions.isEmpty, "the peer has not put on record what this node lacks")
    let role = UInt64(Role.secondary.rawValue)
    rig.receive(
      MessageHeader(.diskChanged, offset: role, length: UInt64(DiskState.diskless.rawValue)))

    #expect(rig.completions == [1: .ioError, 2: .ioError])
    #expect(rig.replies[rig.command(.secondary(heldOpen: false))] == .done)
    rig.expectSettled()
  }

  /// A peer that goes away leaves the clients waiting for a while, then they hear of it.
  @Test func lostPeerFailsRequestsInTheEnd() throws {
    let rig = Rig.disklessPrimary()
    rig.submit(.write, tag: 1)
    rig.submit(.read, blocks: 2..<3, tag: 2)
    rig.breakConnection()
    rig.submit(.write, blocks: 4..<5, tag: 3)
    #expect(rig.completions.isEmpty)
    rig.advance(milliseconds: 6_001)

    #expect(rig.completions == [1: .ioError, 2: .ioError, 3: .ioError])
    rig.submit(.read, blocks: 2..<3, tag: 4)
    #expect(rig.completions[4] == .ioError)
    rig.expectSettled()
  }

  /// What was under way is sent again to a peer that comes back in time with the same data.
  @Test func peerThatComesBackTakesWhatWasUnderWay() throws {
    let rig = Rig.disklessPrimary()
    rig.submit(.write, tag: 1)
    rig.breakConnection()
    _ = rig.takeSent()
    rig.dialAndGreetAgain()
    rig.shakeHands(Rig.servingReport())

    rig.acknowledge(try #require(rig.sent(.write)))
    #expect(rig.completions == [1: .done])
    rig.expectSettled()
  }

  /// A peer that may lack what the clients have seen is refused, whoever wrote to it or why it
  /// crashed.
  @Test(arguments: 0..<3)
  func peerWithOtherDataIsRefused(kind: Int) {
    let rig = Rig.disklessPrimary()
    rig.breakConnection()
    rig.dialAndGreetAgain()
    var report = Rig.servingReport()
    switch kind {
    case 0: report.crashed = true
    case 1: report.lineage = lineage(1)
    default: report.lineage.begin(id: 55, author: other)
    }
    rig.settle()
    rig.receive(report)

    #expect(rig.state == .standAlone)
    #expect(rig.peer.reason == .exposedDataDiffers)
  }

  /// The peer's record was lost on its way: the one generation that it began is known by its form.
  @Test func recordThatWasLostOnItsWayIsRecognised() {
    let rig = Rig.primary()
    rig.submit(.write, tag: 1)
    rig.finishDisk(result: -5)
    rig.breakConnection()
    rig.dialAndGreetAgain()
    var report = peerReport()
    report.lineage.begin(id: 55, author: other, continuesPrimary: true)
    report.base = lineage(1).newest
    rig.shakeHands(report)

    #expect(rig.state == .connected)
    #expect(rig.isWritable)
  }

  /// A peer that was just filled has put on record that this node's disk is gone; that it is
  /// UpToDate was under way.
  @Test func recordOfAPeerThatWasJustFilledIsRecognised() {
    let rig = Rig.source()
    rig.drainSource()
    rig.settle()
    #expect(rig.replica.role == .primary && rig.controls.last == .syncDone)
    rig.submit(.flush, tag: 1)
    rig.finishDisk(result: -5)
    rig.breakConnection()
    let history = rig.durable.last?.lineage ?? Lineage()
    rig.settle()
    rig.dialAndGreetAgain()
    var report = peerReport(.upToDate, history)
    report.lineage.begin(id: 55, author: other, continuesPrimary: true)
    report.base = history.newest
    rig.settle()
    rig.shakeHands(report)

    #expect(rig.state == .connected, "\(rig.peer.reason)")
    #expect(rig.isWritable)
  }

  /// The same form, of a peer that was not there when the disk was lost: it wrote as a Primary.
  @Test func recordOfAPeerThatWasNotThereIsNotBelieved() {
    let rig = Rig.lonePrimary()
    rig.submit(.write, tag: 1)
    rig.finishDisk(result: -5)
    #expect(rig.replica.disk == .diskless && rig.isWritable)
    rig.dialAndGreet()
    rig.settle()
    rig.receive(Rig.servingReport())

    #expect(rig.state == .standAlone)
    #expect(rig.peer.reason == .exposedDataDiffers)
  }

  /// It served the clients in a later connection and began the generation with their first write:
  /// its answer to that was lost, too.
  @Test func recordOfALaterConnectionIsRecognised() {
    let rig = Rig.lonePrimary()
    rig.submit(.write, tag: 1)
    rig.finishDisk(result: -5)
    rig.dialAndGreet()
    rig.shakeHands(peerReport())
    rig.submit(.write, tag: 2)
    rig.breakConnection()
    _ = rig.takeSent()
    rig.dialAndGreetAgain()
    rig.shakeHands(Rig.servingReport())

    #expect(rig.state == .connected)
    rig.acknowledge(rig.sent(.write) ?? MessageHeader(.write))
    #expect(rig.completions[2] == .done)
  }

  /// A clean end of the only good copy keeps it good; a Primary that lost its data cannot go on
  /// without it.
  @Test func leavingADisklessPrimaryDoesNotOutdate() {
    let rig = Rig.secondary()
    rig.receive(MessageHeader(.diskChanged, offset: 1))
    rig.settle()
    #expect(rig.replies[rig.command(.detach)] == .refused(.primaryLivesHere))
    #expect(rig.replies[rig.command(.disconnect)] == .refused(.primaryLivesHere))
    #expect(rig.state == .connected)
    rig.command(.shutdown)
    rig.settle()

    #expect(rig.durable.last?.diskState == .upToDate)
  }

  /// The administrator is told what helps: to connect or to force does not.
  @Test func clientsOnThePeersDataKeepTheConnection() {
    let rig = Rig.primary()
    rig.submit(.write, tag: 1)
    rig.finishDisk(result: -5)
    rig.settle()

    #expect(rig.replies[rig.command(.disconnect)] == .refused(.clientsLiveOnPeer))
    #expect(rig.state == .connected)
  }

  // MARK: A new disk

  /// S10: the disk comes back under the clients and is filled; stale blocks are read from the
  /// source until then.
  @Test func newDiskIsFilledUnderTheClients() throws {
    let rig = Rig.refilledPrimary()
    #expect(rig.replication == .syncTarget && rig.replica.role == .primary)
    rig.submit(.read, blocks: 2040..<2041, tag: 1)
    #expect(rig.disk.isEmpty)
    rig.answerRead(try #require(rig.sent(.readRequest)))
    #expect(rig.completions[1] == .done)

    rig.submit(.write, blocks: 2041..<2042, tag: 2)
    rig.settle()
    #expect(rig.completions[2] == nil)
    rig.acknowledge(try #require(rig.sent(.write)))
    #expect(rig.completions[2] == .done)
    _ = rig.takeSent()
    rig.submit(.read, blocks: 2041..<2042, tag: 3)
    #expect(rig.disk.count == 1 && rig.sent(.readRequest) == nil)
    rig.settle()
    #expect(rig.completions[3] == .done)
  }

  /// A handler takes its time, and may say no: the clients live on the connection meanwhile.
  @Test func noHandlerIsAskedUnderTheClients() {
    let rig = Rig.refilledPrimary { $0.asksBeforeResyncTarget = true }
    #expect(rig.replication == .syncTarget && rig.replica.role == .primary)
  }

  /// A client's write to a range that is being copied waits for it: a resync never overwrites newer
  /// data.
  @Test func writeWaitsForTheRangeThatIsCopied() throws {
    let rig = Rig.refilledPrimary()
    let asked = try #require(rig.sent(.resyncRequest))
    let block = asked.offset / blockSize
    rig.submit(.write, blocks: block..<(block + 1), tag: 1)
    #expect(rig.sent(.write) == nil)
    rig.answerPull(asked)

    #expect(rig.sent(.write) != nil)
  }

  /// What a resync wrote under the flush of a demotion, before it was cut, is in no flush.
  @Test func nothingIsCleanBeforeWhatWasCopiedIsFlushed() throws {
    let rig = Rig.refilledPrimary()
    let asked = try #require(rig.sent(.resyncRequest))
    let token = rig.command(.secondary(heldOpen: false))
    #expect(rig.disk.kinds == ["flush"])
    var data = MessageHeader(.resyncData, id: asked.id, offset: asked.offset, length: 5)
    data.payloadBytes = UInt32(asked.length)
    rig.receive(data, buffer: rig.takeBuffer())
    rig.finishDisk(at: 1)
    rig.breakConnection()
    rig.finishDisk()
    while rig.superblockIsPending { rig.finishSuperblock() }
    #expect(rig.replies[token] == .done)
    #expect(rig.durable.last?.dirty == true, "no flush covers what was copied")
    #expect(rig.disk.kinds == ["flush"])
    rig.settle()
    #expect(rig.durable.last?.dirty == false)
  }

  @Test func diskOfAnotherHistoryIsRefused() {
    let rig = Rig.disklessPrimary()
    rig.attach(superblock(.upToDate, lineage(9)))

    #expect(rig.replies[1] == .refused(.dataNotCurrent))
    #expect(rig.replica.disk == .diskless && rig.isWritable)
  }

  @Test func detachUnderClientsGoesOnThroughThePeer() throws {
    let rig = Rig.primary()
    #expect(rig.replies[rig.command(.detach)] == .done)
    #expect(rig.replica.disk == .diskless && rig.isWritable)
    rig.acknowledgeDisk()
    rig.submit(.write, tag: 1)
    rig.acknowledge(try #require(rig.sent(.write)))
    #expect(rig.completions == [1: .done])
  }

  // MARK: on-io-error, disk-timeout

  /// `pass_on`: the client hears of it, the disk stays, and the replicas are known to differ.
  @Test func passOnTellsTheClient() throws {
    let rig = Rig.primary { $0.errorPolicy = .passOn }
    rig.submit(.write, blocks: 3..<4, tag: 1)
    rig.finishDisk(result: -5)
    rig.acknowledge(try #require(rig.sent(.write)))
    #expect(rig.completions == [1: .ioError])
    #expect(rig.replica.disk == .upToDate)
    #expect(rig.peer.blocksOutOfSync == 1)

    rig.submit(.flush, tag: 2)
    rig.acknowledge(try #require(rig.sent(.flush)))
    rig.finishDisk(result: -5)
    #expect(rig.replica.disk == .diskless)
  }

  /// A write with FUA is a flush as well: where that fails, nobody knows what the disk keeps.
  @Test(arguments: [Operation.write, .writeZeroes, .trim])
  func passOnKeepsNoDiskThatFailedAForcedWrite(operation: Operation) {
    let rig = Rig.primary { $0.errorPolicy = .passOn }
    rig.submit(operation, blocks: 3..<4, fua: true, tag: 1)
    rig.finishDisk(result: -5)
    #expect(rig.replica.disk == .diskless)
  }

  /// The target has told all its marks and would never ask for the block: both meet again.
  @Test func passOnDuringAResyncIsToldToTheTarget() throws {
    let rig = Rig.source { $0.errorPolicy = .passOn }
    rig.submit(.write, blocks: 3..<4, tag: 1)
    rig.finishDisk(result: -5)
    #expect(rig.completions == [1: .ioError])
    #expect(rig.state == .connecting && rig.peer.reason == .renegotiate)
    #expect(rig.peer.blocksOutOfSync > 0)
  }

  /// C12: a disk that does not answer is given up, whatever it was asked for; its late answers
  /// mean nothing, and no buffer is given away before them.
  @Test(arguments: [Operation.read, .write, .writeZeroes, .flush])
  func silentDiskIsGivenUp(operation: Operation) throws {
    let rig = Rig.primary { $0.diskTimeoutMs = 500 }
    rig.submit(operation, tag: 1)
    for header in rig.sent where header.type != .readRequest { rig.acknowledge(header) }
    rig.advance(milliseconds: 499)
    #expect(rig.replica.disk == .upToDate)
    rig.advance(milliseconds: 2)
    #expect(rig.replica.disk == .diskless)
    rig.acknowledgeDisk()
    if let asked = rig.sent(.readRequest) { rig.answerRead(asked) }
    #expect(rig.completions == [1: .done])
    #expect(operation != .read || rig.substituted[1] != nil)

    // The kernel has it still: no other disk before it lets go.
    rig.attach(superblock())
    #expect(rig.replies[1] == .refused(.transient))
    rig.finishDisk()
    #expect(rig.completions == [1: .done])
    rig.expectSettled()
  }

  @Test(arguments: 0..<3)
  func silentMetadataDiskIsGivenUp(kind: Int) {
    let rig = Rig.connected(superblock(), to: peerReport()) { $0.diskTimeoutMs = 500 }
    if kind == 0 {
      rig.command(.primary(force: false))
      rig.receive(.promoteReply, id: 1, length: 1)
      #expect(rig.superblockIsPending)
    } else {
      rig.promote()
      rig.holdsLog = true
      rig.submit(.write, blocks: kind == 1 ? 0..<1 : 1500..<1501, tag: 1)
      #expect(rig.metadata.count == 1)
    }
    rig.advance(milliseconds: 501)
    #expect(rig.replica.disk == .diskless)
  }

  /// A Secondary whose disk is silent is left out; what comes for it is answered as failed.
  @Test func silentDiskOfASecondaryIsGivenUp() {
    let rig = Rig.secondary { $0.diskTimeoutMs = 500 }
    rig.peerWrites(blocks: 0..<1, id: 4)
    rig.advance(milliseconds: 501)

    #expect(rig.replica.disk == .diskless)
    #expect(rig.sent(.ack)?.id == 4 && rig.sent(.ack)?.length == 1)
    rig.settle()
    rig.expectSettled()
  }

  /// Without the option a disk is waited for, and no timer runs for it.
  @Test func withoutATimeoutADiskIsWaitedFor() {
    let rig = Rig.lonePrimary()
    rig.submit(.write, tag: 1)
    #expect(rig.replica.nextDeadline == .never)
  }
}

extension Rig {
  var isWritable: Bool { replica.isWritable }

  /// What a peer says that has put on record, as generation 2, that this node's disk is gone.
  static func servingReport() -> StateReport {
    var history = lineage(1)
    history.begin(id: 99, author: other, continuesPrimary: true)
    var report = peerReport(.upToDate, history)
    report.base = lineage(1).newest
    return report
  }

  /// A Primary whose disk has failed, and whose peer has put that on record.
  static func disklessPrimary() -> Rig {
    let rig = Rig.primary()
    rig.submit(.flush, tag: 1_000)
    rig.acknowledge(rig.sent(.flush) ?? MessageHeader(.flush))
    rig.finishDisk(result: -5)
    rig.acknowledgeDisk()
    rig.settle()
    #expect(rig.replica.disk == .diskless && rig.replica.role == .primary)
    rig.completions = [:]
    _ = rig.takeSent()
    return rig
  }

  /// The same with a new disk, which its peer has begun to fill.
  static func refilledPrimary(_ change: (inout ReplicaOptions) -> Void = { _ in }) -> Rig {
    let rig = Rig.disklessPrimary()
    change(&rig.replica.options)
    rig.attach(superblock(.inconsistent, Lineage()))
    #expect(rig.replies[1] == .done)
    rig.dialAndGreetAgain()
    rig.shakeHands(servingReport())
    return rig
  }

  /// The peer answers a read with data, whose buffer is returned.
  @discardableResult
  func answerRead(_ asked: MessageHeader) -> BufferID {
    let buffer = takeBuffer()
    var data = MessageHeader(.readData, id: asked.id, offset: asked.offset)
    data.payloadBytes = UInt32(asked.length)
    receive(data, buffer: buffer)
    return buffer
  }
}
