/// Every message in every state of a connection: it is understood, or the connection is closed.
/// Nothing is ignored in silence, and nothing traps (P8).
import BlockTypes
import Metadata
import Replication
import TestSupport
import Testing
import Wire

/// The states a message can meet, by the way in.
enum MeetingPoint: String, CaseIterable, Sendable {
  case dialed, accepted, quiescing, wfReportParams, wfVerdict
  case established, primaryEstablished, wfBitMapS, wfBitMapT, syncSource, syncTarget
  case verifyS, verifyT

  var rig: Rig {
    switch self {
    case .dialed, .accepted: return greeting(self == .dialed)
    case .quiescing, .wfReportParams, .wfVerdict: return handshake()
    case .established: return Rig.secondary()
    case .primaryEstablished: return Rig.primary()
    case .wfBitMapS: return Rig.tellingSource()
    case .wfBitMapT: return Rig.toldTarget()
    case .syncSource: return Rig.source()
    case .syncTarget: return Rig.target()
    case .verifyS: return Rig.verifyS()
    case .verifyT: return Rig.verifyT()
    }
  }

  private func greeting(_ dials: Bool) -> Rig {
    let rig = Rig()
    rig.attach(superblock())
    rig.command(.connect)
    rig.connection = rig.newConnection()
    if dials {
      rig.passDeadline()
      rig.step(.dialed(peer: 0, rig.connection))
    } else {
      rig.step(.accepted(rig.connection))
    }
    return rig
  }

  private func handshake() -> Rig {
    let rig = Rig()
    rig.attach(superblock())
    rig.dialAndGreet()
    guard self != .quiescing else { return rig }
    rig.settle()
    guard self == .wfVerdict else { return rig }
    rig.receive(peerReport())
    rig.settle()
    return rig
  }

  /// What a correct peer may send here with the right content.
  var understood: Set<MessageType> {
    let always: Set<MessageType> = [.ping, .pong, .goodbye]
    return known(isConnected ? always.union([.syncPause, .invalidate, .assumeEqual]) : always)
  }

  private var isConnected: Bool {
    switch self {
    case .dialed, .accepted, .quiescing, .wfReportParams, .wfVerdict: false
    default: true
    }
  }

  private func known(_ always: Set<MessageType>) -> Set<MessageType> {
    // Where nothing is compared any more, what is still on its way is late, and means nothing.
    let verify: Set<MessageType> = [
      .verifyStart, .verifyReady, .verifyRequest, .verifyRequestLocked, .verifyDigests,
      .verifySkipped, .verifyResult, .verifyEnd, .repairBegin, .repairRequest, .repairRequestLocked,
      .repairData, .repairAck, .repairSkipped, .repairEnd,
    ]
    switch self {
    case .dialed: return [.helloReply]
    case .accepted: return [.hello]
    case .quiescing, .wfReportParams: return always.union([.state, .verdict, .reject])
    case .wfVerdict: return always.union([.verdict, .reject])
    case .established:
      return always.union([
        .write, .writeZeroes, .trim, .flush, .promoteRequest, .roleChanged, .diskChanged,
        .readRequest,
      ]).union(verify)
    case .primaryEstablished, .verifyS:
      // No repair was asked for, so none can end.
      let unasked: Set<MessageType> = self == .verifyS ? [.repairEnd] : []
      return always.union(verify).subtracting(unasked).union([
        .promoteRequest, .roleChanged, .diskChanged,
      ])
    case .verifyT:
      // Which range is done with, the result must say.
      return always.union(verify).subtracting([.verifyResult, .repairBegin]).union([
        .write, .writeZeroes, .trim, .flush, .promoteRequest, .roleChanged, .diskChanged,
        .readRequest,
      ])
    case .wfBitMapS:
      return always.union([.bitmap, .bitmapAck, .promoteRequest, .roleChanged, .diskChanged])
    case .wfBitMapT:
      return always.union([
        .write, .writeZeroes, .trim, .flush, .bitmap, .bitmapDone, .promoteRequest, .roleChanged,
        .diskChanged, .readRequest,
      ])
    case .syncSource:
      return always.union([
        .resyncRequest, .resyncDigests, .promoteRequest, .roleChanged, .diskChanged,
      ])
    case .syncTarget:
      return always.union([
        .write, .writeZeroes, .trim, .flush, .resyncData, .resyncZeroes, .resyncUnreadable,
        .syncDone, .promoteRequest, .roleChanged, .diskChanged, .readRequest,
      ])
    }
  }
}

@Suite struct ProtocolTableTests {
  /// With content as good as the state allows: the table says what goes on and what closes.
  @Test(arguments: MeetingPoint.allCases)
  func everyMessageIsUnderstoodOrCloses(point: MeetingPoint) {
    for type in MessageType.allCases {
      let rig = point.rig
      let connection = rig.connection
      let before = rig.closed.count
      deliver(type, to: rig)
      let isClosed = rig.closed.count > before && rig.closed.contains(connection)
      let mayClose: Set<MessageType> = [
        .goodbye, .reject, .diskChanged, .invalidate, .assumeEqual,
      ]
      if point.understood.contains(type) {
        #expect(!isClosed || mayClose.contains(type), "\(type) at \(point.rawValue)")
      } else {
        #expect(isClosed, "\(type) at \(point.rawValue) was ignored")
      }
      expectGone(rig, "\(type) at \(point.rawValue)")
    }
  }

  /// With empty content and numbers at the edges: never a trap, every buffer comes back.
  @Test(arguments: MeetingPoint.allCases)
  func everyMessageWithBadContentIsSurvived(point: MeetingPoint) {
    for type in MessageType.allCases {
      for number: UInt64 in [0, 1, 2, 255, 256, .max - 511, .max] {
        let rig = point.rig
        var header = MessageHeader(type, id: number, offset: number, length: number)
        var buffer = BufferID.none
        if type.carriesData {
          header.payloadBytes = 512
          buffer = rig.takeBuffer()
        }
        rig.receive(header, buffer: buffer)
        expectGone(rig, "\(type) \(number) at \(point.rawValue)")
      }
    }
  }

  private func deliver(_ type: MessageType, to rig: Rig) {
    switch type {
    case .hello, .helloReply: rig.receiveHello(type, on: rig.connection)
    case .state, .syncDone: rig.receive(peerReport(), as: type)
    case .write: rig.peerWrites(blocks: 0..<1)
    case .resyncData: sendAskedData(rig)
    case .verifyStart: rig.receive(type, length: UInt64(DigestAlgorithm.crc32c.rawValue))
    case .verifyDigests: sendAskedDigests(rig)
    case .resyncDigests: rig.receiveTargetDigests(count: 1)
    case .resyncZeroes, .resyncUnreadable:
      let asked = rig.sent(.resyncRequest)
      rig.receive(MessageHeader(type, id: asked?.id ?? 1, offset: asked?.offset ?? 0))
    case .readData: sendData(rig)
    case .repairData:
      var data = MessageHeader(type, id: 1)
      data.payloadBytes = 4096
      rig.receive(data, buffer: rig.takeBuffer())
    case .writeZeroes, .trim, .resyncRequest, .readRequest, .verifyRequest, .verifyRequestLocked,
      .repairBegin, .repairRequest, .repairRequestLocked:
      rig.receive(MessageHeader(type, id: 1, length: 4096))
    case .assumeEqual: rig.receive(MessageHeader(type, id: 1, offset: 1, length: 1))
    case .reject: rig.receive(.reject, length: UInt64(Reason.splitBrain.rawValue))
    case .roleChanged, .goodbye: rig.receive(type, length: UInt64(Role.secondary.rawValue))
    case .greeting, .proof, .verdict, .flush, .ack, .resyncAck, .syncDoneAck, .bitmap, .bitmapAck,
      .bitmapDone,
      .syncReady, .syncStart, .syncPause, .invalidate, .promoteRequest, .promoteReply,
      .diskChanged, .diskChangedAck, .readFailed, .ping, .pong, .verifyReady, .verifySkipped,
      .verifyResult, .verifyEnd,
      .resyncCompared, .repairAck, .repairSkipped, .repairEnd:
      rig.receive(type, id: 1)
    }
  }

  private func sendAskedData(_ rig: Rig) {
    let asked = rig.sent(.resyncRequest)
    var data = MessageHeader(.resyncData, id: asked?.id ?? 0, offset: asked?.offset ?? 0)
    data.payloadBytes = UInt32(asked?.length ?? 4096)
    rig.receive(data, buffer: rig.takeBuffer())
  }

  private func sendData(_ rig: Rig) {
    var data = MessageHeader(.readData, id: 1)
    data.payloadBytes = 4096
    rig.receive(data, buffer: rig.takeBuffer())
  }

  private func sendAskedDigests(_ rig: Rig) {
    let asked = rig.sent(.verifyRequestLocked)
    rig.receiveDigests(for: asked ?? MessageHeader(.verifyRequest, length: blockSize))
  }

  /// Ends the connection and lets the disk answer: nothing may be left of the message.
  private func expectGone(_ rig: Rig, _ comment: Comment) {
    rig.settle()
    if !rig.closed.contains(rig.connection) { rig.breakConnection() }
    rig.settle()
    rig.expectSettled(comment)
  }

  // MARK: What a peer writes

  @Test func peersWriteIsAppliedAndAcknowledged() {
    let rig = Rig.secondary()
    rig.peerWrites(blocks: 2..<4, id: 77, fua: true)
    #expect(rig.effects.kinds == ["write durably"])
    rig.finishDisk()

    #expect(rig.effects.kinds == ["send ack", "release"])
    #expect(rig.sent(.ack)?.id == 77 && rig.sent(.ack)?.length == 0)
    rig.expectSettled()
  }

  @Test func failedWriteIsAnsweredAsFailed() {
    let rig = Rig.secondary()
    rig.peerWrites(blocks: 2..<4, id: 77)
    rig.finishDisk(result: -28)

    #expect(rig.sent(.ack)?.id == 77 && rig.sent(.ack)?.length == 1)
    #expect(rig.replica.disk == .diskless)
    rig.expectSettled()
  }

  /// Overlapping writes of the peer end in the order in which they were sent (P6).
  @Test func overlappingWritesOfThePeerKeepTheirOrder() {
    let rig = Rig.secondary()
    rig.peerWrites(blocks: 0..<2, id: 1)
    rig.peerWrites(blocks: 1..<3, id: 2)
    rig.peerWrites(blocks: 2..<4, id: 3)
    #expect(rig.disk.count == 1)
    rig.settle()

    #expect(rig.takeSent().filter { $0.type == .ack }.map(\.id) == [1, 2, 3])
  }

  /// Outside the volume, no whole sectors, a length that its payload contradicts.
  @Test(
    arguments: [
      (0, 0, 512), (0, 1024, 512), (volumeBytes, 512, 512), (volumeBytes - 512, 1024, 1024),
      (100, 512, 512), (0, 100, 100), (.max - 511, 1024, 1024),
    ] as [(UInt64, UInt64, UInt32)])
  func writeThatDoesNotFitClosesTheConnection(offset: UInt64, length: UInt64, payload: UInt32) {
    let rig = Rig.secondary()
    var header = MessageHeader(.write, id: 1, offset: offset, length: length)
    header.payloadBytes = payload
    rig.receive(header, buffer: rig.takeBuffer())

    #expect(rig.peer.reason == .protocolError)
    #expect(rig.disk.isEmpty)
    rig.expectSettled()
  }

  /// One node writes: neither a Primary takes writes nor a Secondary sends any (P4).
  @Test func onlyAPrimaryWritesAndOnlyToASecondary() {
    for rig in [Rig.primary(), Rig.connected()] {
      rig.peerWrites(blocks: 0..<1)

      #expect(rig.peer.reason == .protocolError)
      #expect(!rig.disk.contains { $0.kind == "write" })
    }
  }

  @Test func peerThatClaimsToBePrimaryWithoutAskingIsCut() {
    let rig = Rig.connected()
    rig.receive(.roleChanged, length: UInt64(Role.primary.rawValue))

    #expect(rig.peer.reason == .protocolError)
  }

  /// More requests than agreed are a violation, not a trap of the slab.
  @Test func peerThatExceedsItsLimitIsCut() {
    let rig = Rig.secondary {
      $0.peerRequestLimit = 4
      $0.resyncWindow = 2
    }
    for block: UInt64 in 0..<6 { rig.peerWrites(blocks: block..<(block + 1), id: block) }
    #expect(rig.state == .connected)

    rig.peerWrites(blocks: 6..<7)

    #expect(rig.peer.reason == .protocolError)
    rig.settle()
    rig.expectSettled()
  }

  @Test func messageForAnotherVolumeClosesTheConnection() {
    let rig = Rig.secondary()
    var header = MessageHeader(.write, id: 1, length: 4096)
    header.payloadBytes = 4096
    header.volume = 1
    rig.receive(header, buffer: rig.takeBuffer())

    #expect(rig.peer.reason == .protocolError)
    rig.expectSettled()
  }

  /// Golden numbers: they travel in `reject` and `verdict`.
  @Test func numbersOfReasonsAndActionsAreStable() {
    let told: [Reason] = [
      .peerStandAlone, .protocolError, .wrongResource, .unknownNode, .noCommonVersion, .tieBreak,
      .splitBrain, .unrelatedData, .bothPrimary, .primaryWouldBeTarget, .bothHoldUnshared,
      .inconsistentAhead, .sizeMismatch, .bothDiscard, .nothingToDiscard, .noGoodSource,
      .policiesDiffer, .bitmapsDoNotCover, .primaryMustYield, .primaryMustYieldAfterSplitBrain,
    ]
    #expect(told.map(\.rawValue) == [6, 10, 11, 12, 13, 15] + Array(17...23) + Array(27...33))
    #expect(told.filter(\.isPermanent).map(\.rawValue) == Array(17...23) + Array(27...32))
    #expect(Reason.undoIsKept.rawValue == 38)
    #expect(Action.allCases.map(\.rawValue) == [0, 1, 2, 3])
  }

  @Test func pingIsAnswered() {
    let rig = Rig.connected()
    rig.receive(.ping)

    #expect(rig.effects.kinds == ["send pong"])
  }
}
