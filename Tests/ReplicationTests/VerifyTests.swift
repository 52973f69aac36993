/// Online verify: V04, V05, V07 and the order of locks that keeps it free of false positives.
import BlockTypes
import Metadata
import TestSupport
import Testing
import Wire

@testable import Replication

extension Rig {
  /// Primary that compares its volume with an UpToDate Secondary's; one range is asked for.
  static func verifyS(_ change: (inout ReplicaOptions) -> Void = { _ in }) -> Rig {
    let rig = primary { options in
      options.verifyAlgorithm = .crc32c
      options.verifyWindow = 1
      change(&options)
    }
    rig.beginVerify()
    return rig
  }

  /// Secondary whose Primary peer compares the volumes.
  static func verifyT(_ change: (inout ReplicaOptions) -> Void = { _ in }) -> Rig {
    let rig = secondary(change)
    rig.receive(.verifyStart, length: UInt64(DigestAlgorithm.crc32c.rawValue))
    #expect(rig.sent(.verifyReady)?.length == 0)
    return rig
  }

  @discardableResult
  func beginVerify(_ plan: VerifyPlan = VerifyPlan()) -> UInt64 {
    let token = command(.verify(plan))
    #expect(sent(.verifyStart)?.length == UInt64(DigestAlgorithm.crc32c.rawValue))
    receive(.verifyReady)
    return token
  }

  /// The peer's digests for a range that was asked for; `id` is the peer's name of its lock.
  func receiveDigests(for asked: MessageHeader, id: UInt64 = 0) {
    var digests = MessageHeader(.verifyDigests, id: asked.id, offset: asked.offset, length: id)
    digests.payloadBytes = UInt32(asked.length / blockSize) * 4
    receive(digests, buffer: takeBuffer())
  }

  var verify: VerifyProgress? { peer.verify }
  var marked: [UInt64] {
    (0..<(volumeBytes / blockSize)).filter {
      replica.mayDiffer(BlockIndex($0), fromPeer: 0)
    }
  }
  var notes: [Note] {
    effects.compactMap { effect in
      if case .note(let note) = effect { note } else { nil }
    }
  }
}

@Suite struct VerifyTests {
  private static let requestBytes = 64 * blockSize

  @Test func refusalsNameWhatIsMissing() {
    let alone = Rig.lonePrimary()
    #expect(alone.replies[alone.command(.verify(VerifyPlan()))] == .refused(.needConnection))

    let unconfigured = Rig.primary()
    #expect(
      unconfigured.replies[unconfigured.command(.verify(VerifyPlan()))]
        == .refused(.noVerifyAlgorithm))

    let running = Rig.verifyS()
    #expect(running.replies[running.command(.verify(VerifyPlan()))] == .refused(.alreadyActive))

    let syncing = Rig.target { $0.verifyAlgorithm = .crc32c }
    #expect(syncing.replies[syncing.command(.verify(VerifyPlan()))] == .refused(.alreadyActive))

    let outside = Rig.primary { $0.verifyAlgorithm = .crc32c }
    var plan = VerifyPlan()
    plan.start = volumeBytes
    #expect(outside.replies[outside.command(.verify(plan))] == .refused(.invalidRange))
  }

  @Test func peersRefusalIsPassedOn() {
    let rig = Rig.primary { $0.verifyAlgorithm = .crc32c }
    let token = rig.command(.verify(VerifyPlan()))
    rig.receive(.verifyReady, length: UInt64(VerifyRefusal.noDisk.rawValue))
    #expect(rig.replies[token] == .refused(.noRemoteDisk))
    #expect(rig.replication == .established)
    #expect(rig.peer.outstanding == 0)
  }

  /// The writer locks first: a write that is under way is compared on neither side.
  @Test func primaryAsksOnlyWhenNoWriteIsUnderWay() {
    let rig = Rig.primary { $0.verifyAlgorithm = .crc32c }
    rig.submit(.write, blocks: 3..<4)
    let write = rig.sent(.write)
    rig.beginVerify()
    let before = rig.takeSent().filter { $0.type == .verifyRequestLocked }
    #expect(!before.contains { $0.offset == 0 }, "the range is still being written")
    rig.settle()
    #expect(rig.sent(.verifyRequestLocked) == nil)
    rig.receive(.ack, id: write?.id ?? 0)
    #expect(rig.sent(.verifyRequestLocked)?.offset == 0)
  }

  @Test func clientsWaitForARangeThatIsCompared() {
    let rig = Rig.verifyS()
    guard let asked = rig.sent(.verifyRequestLocked) else { return #expect(Bool(false)) }
    rig.submit(.write, blocks: 5..<6)
    #expect(rig.sent(.write) == nil)
    rig.receiveDigests(for: asked)
    #expect(rig.effects.kinds == ["serve"])
    rig.finishDisk()
    #expect(rig.effects.kinds.prefix(3) == ["compare", "release", "release"])
    #expect(rig.sent(.write) != nil, "the range is free again")
  }

  /// A Secondary never locks what its Primary is yet to lock: both would wait for each other.
  @Test func secondaryLetsItsPrimaryLock() {
    let rig = Rig.secondary { $0.verifyAlgorithm = .crc32c }
    rig.beginVerify()
    guard let asked = rig.sent.first(where: { $0.type == .verifyRequest }) else {
      return #expect(Bool(false))
    }
    rig.peerWrites(blocks: 0..<1, id: 50)
    #expect(rig.effects.kinds == ["write"])
    rig.settle()
    rig.receiveDigests(for: asked, id: 900)
    rig.differing = 0b101
    rig.finishDisk()
    let result = rig.sent(.verifyResult)
    #expect(result?.id == 900 && result?.offset == asked.offset && result?.length == 0b101)
    #expect(rig.marked == [0, 2])
  }

  @Test func answeringPrimaryKeepsTheRangeLockedUntilTheResult() {
    let rig = Rig.primary()
    rig.receive(.verifyStart, length: UInt64(DigestAlgorithm.crc32c.rawValue))
    rig.receive(MessageHeader(.verifyRequest, id: 7, offset: 0, length: 4 * blockSize))
    rig.finishDisk()
    guard let digests = rig.sent(.verifyDigests) else { return #expect(Bool(false)) }
    #expect(digests.id == 7 && digests.payloadBytes == 16 && digests.length != 0)
    rig.submit(.write, blocks: 2..<3)
    #expect(rig.sent(.write) == nil)
    rig.receive(MessageHeader(.verifyResult, id: digests.length, offset: 0, length: 0b10))
    #expect(rig.marked == [1])
    #expect(rig.sent(.write) != nil)
    rig.receive(.verifyEnd)
    #expect(rig.replication == .established)
  }

  /// The peer believes that it may lock, but writes begin here: it must ask the other way.
  @Test func promotedNodeSkipsWhatTheOtherSideHasLocked() {
    let rig = Rig.primary()
    rig.receive(.verifyStart, length: UInt64(DigestAlgorithm.crc32c.rawValue))
    rig.receive(MessageHeader(.verifyRequestLocked, id: 9, length: blockSize))
    #expect(rig.sent(.verifySkipped)?.id == 9)
    #expect(rig.disk.isEmpty)
  }

  @Test func askerTakesTheOtherWayWhenItWasPromotedMeanwhile() {
    let rig = Rig.secondary {
      $0.verifyAlgorithm = .crc32c
      $0.verifyWindow = 1
    }
    rig.beginVerify()
    guard let asked = rig.sent(.verifyRequest) else { return #expect(Bool(false)) }
    rig.receive(.roleChanged, length: UInt64(Role.secondary.rawValue))
    rig.settle()
    rig.promote()
    rig.receiveDigests(for: asked, id: 11)
    #expect(rig.sent(.verifyResult)?.length == 0 && rig.sent(.verifyResult)?.id == 11)
    #expect(rig.sent(.verifyRequestLocked)?.offset == 0)
    #expect(rig.marked.isEmpty)
  }

  /// V05: `--start` and `--stop` are kept, in whole blocks.
  /// V05: clients wait for ranges and for the disk, so fewer are compared at a time.
  @Test(arguments: [(false, 8), (true, 2)])
  func verifyYieldsToClients(isBusy: Bool, ranges: Int) {
    let rig = Rig.primary {
      $0.verifyAlgorithm = .crc32c
      $0.verifyWindow = 8
      $0.verifyRequestBytes = 16 * blockSize
    }
    if isBusy { rig.submit(.write, blocks: 900..<901) }

    rig.beginVerify()

    #expect(rig.takeSent().filter { $0.type == .verifyRequestLocked }.count == ranges)
  }

  @Test func rangeIsKept() {
    let rig = Rig.primary {
      $0.verifyAlgorithm = .crc32c
      $0.verifyWindow = 1
    }
    var plan = VerifyPlan()
    plan.start = 10 * blockSize + 512
    plan.stop = 12 * blockSize + 512
    rig.beginVerify(plan)
    #expect(rig.verify?.position == 10 * blockSize)
    guard let asked = rig.sent(.verifyRequestLocked) else { return #expect(Bool(false)) }
    #expect(asked.offset == 10 * blockSize && asked.length == 3 * blockSize)
    rig.receiveDigests(for: asked)
    rig.differing = 0b110
    rig.finishDisk()
    #expect(rig.marked == [11, 12])
    let range = ByteRange(start: 11 * blockSize, end: 13 * blockSize)
    #expect(rig.notes.contains(.outOfSync(peer: 0, range)))
    #expect(rig.notes.contains(.handler(peer: 0, .outOfSync)))
    #expect(rig.verify?.isComplete == true && rig.verify?.blocksFound == 2)
    #expect(rig.replication == .established && rig.sent(.verifyEnd) != nil)
    #expect(rig.sent(.verifyResult)?.length == 0b110)
  }

  /// Differences that go on across requests are one range.
  @Test func neighboursAreToldAsOneRange() {
    let rig = Rig.verifyS { $0.verifyRequestBytes = 2 * blockSize }
    var told: [Note] = []
    for differing: UInt64 in [0b10, 0b11, 0b01] {
      guard let asked = rig.sent(.verifyRequestLocked) else { return #expect(Bool(false)) }
      rig.receiveDigests(for: asked)
      rig.differing = differing
      rig.finishDisk()
      told += rig.notes
    }
    rig.receive(.verifyEnd)
    told += rig.notes
    #expect(told.contains(.outOfSync(peer: 0, ByteRange(start: 4096, end: 5 * 4096))))
  }

  /// V04: where it stopped is known, so that it can go on there.
  @Test func lostConnectionEndsItAndTellsWhere() {
    let rig = Rig.verifyS()
    for _ in 0..<3 {
      guard let asked = rig.sent(.verifyRequestLocked) else { return #expect(Bool(false)) }
      rig.receiveDigests(for: asked)
      rig.finishDisk()
    }
    rig.breakConnection()
    #expect(rig.replication == .off)
    #expect(rig.verify?.position == 3 * Self.requestBytes)
    #expect(rig.verify?.isComplete == false)
    rig.settle()
    rig.expectSettled()
  }

  /// V07: the disk is still reading when the connection goes.
  @Test(arguments: [true, false])
  func readsUnderWayAreLetGo(isLeader: Bool) {
    let rig = isLeader ? Rig.verifyS() : Rig.verifyT()
    if isLeader {
      rig.receiveDigests(for: rig.sent(.verifyRequestLocked) ?? MessageHeader(.ping))
    } else {
      rig.receive(MessageHeader(.verifyRequestLocked, id: 9, length: blockSize))
    }
    #expect(rig.disk.count == 1)
    rig.breakConnection()
    rig.settle()
    rig.expectSettled()
  }

  @Test func peersLostDiskEndsItWithoutLosingTheConnection() {
    let rig = Rig.verifyS()
    rig.receive(.diskChanged, length: UInt64(DiskState.diskless.rawValue))
    #expect(rig.replication == .established && rig.state == .connected)
    #expect(rig.verify?.isComplete == false)
    #expect(rig.peer.outstanding == 0)
    // What it had sent before comes late.
    rig.receiveDigests(for: rig.sent(.verifyRequestLocked) ?? MessageHeader(.ping))
    #expect(rig.state == .connected)
    rig.expectSettled()
  }

  /// What cannot be read cannot be compared: the verify ends, the replica goes on.
  @Test func readErrorEndsIt() {
    let rig = Rig.verifyS()
    rig.receiveDigests(for: rig.sent(.verifyRequestLocked) ?? MessageHeader(.ping))
    rig.finishDisk(result: -5)
    #expect(rig.replication == .established && rig.sent(.verifyEnd) != nil)
    #expect(rig.verify?.position == 0)
    rig.expectSettled()
  }

  /// Of two that ask at once the lower node id wins.
  @Test func crossingVerifiesAreDecided() {
    let rig = Rig.primary { $0.verifyAlgorithm = .crc32c }
    rig.command(.verify(VerifyPlan()))
    rig.receive(.verifyStart, length: UInt64(DigestAlgorithm.crc32c.rawValue))
    #expect(rig.sent(.verifyReady)?.length == UInt64(VerifyRefusal.busy.rawValue))
    rig.receive(.verifyReady)
    #expect(rig.replication == .verifyS)
  }

  /// A repair that was given up is not decided by who is Primary, one that was completed is over.
  @Test(arguments: [0, 1] as [UInt64])
  func targetOfARepairHearsWhetherItIsComplete(isComplete: UInt64) {
    let rig = Rig.secondary()
    rig.receive(
      MessageHeader(
        .verifyStart, offset: UInt64(RepairSource.peer.rawValue),
        length: UInt64(DigestAlgorithm.crc32c.rawValue)))
    rig.receive(MessageHeader(.verifyResult, id: .max, offset: 0, length: 0b10))
    rig.receive(.verifyEnd, length: isComplete)
    #expect(rig.replication == .established)
    #expect(rig.replica.report(for: 0).repairWasCut == (isComplete == 0))
  }

  @Test func marksBeyondTheVolumeAreRefused() {
    let rig = Rig.verifyT()
    rig.receive(
      MessageHeader(.verifyResult, id: .max, offset: volumeBytes - blockSize, length: 0b10))
    #expect(rig.closed.contains(rig.connection))
    #expect(rig.marked.isEmpty)
  }
}
