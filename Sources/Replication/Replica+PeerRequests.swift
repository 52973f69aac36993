/// Messages on an agreed connection, and a peer's writes applied here.
import Metadata
import BlockTypes
import Wire

extension Replica {
  mutating func receivedOnAgreed(
    _ slot: Int, _ header: MessageHeader, _ control: UnsafeRawBufferPointer, _ buffer: BufferID
  ) {
    if isLate(slot, header.type) { return releaseIfAny(buffer) }
    let isConnected = peers[slot].state == .connected
    guard header.volume == 0 else {
      releaseIfAny(buffer)
      return protocolViolation(slot, header.type)
    }
    switch header.type {
    case .state:
      guard let report = try? StateReport(parsing: control) else {
        return protocolViolation(slot, .state)
      }
      receivedReport(slot, report)
    case .verdict: receivedVerdict(slot, header)
    case .reject: receivedReject(slot, header)
    case .ping:
      guard let connection = peers[slot].connection else { return }
      effects.push(.send(connection, MessageHeader(.pong), .none))
    case .pong: break
    case .goodbye: receivedGoodbye(slot, header)
    case .write, .writeZeroes, .trim, .flush:
      guard isConnected, applyPeerRequest(slot, header, buffer) else {
        releaseIfAny(buffer)
        return protocolViolation(slot, header.type)
      }
    case .resyncData, .resyncZeroes:
      guard isConnected, receivedResyncData(slot, header, buffer) else {
        releaseIfAny(buffer)
        return protocolViolation(slot, header.type)
      }
    case .resyncDigests:
      guard isConnected, receivedResyncDigests(slot, header, buffer) else {
        releaseIfAny(buffer)
        return protocolViolation(slot, header.type)
      }
    case .repairData:
      guard isConnected, receivedRepairData(slot, header, buffer) else {
        releaseIfAny(buffer)
        return protocolViolation(slot, header.type)
      }
    case .repairBegin, .repairRequest, .repairRequestLocked, .repairAck, .repairSkipped, .repairEnd:
      guard isConnected else { return protocolViolation(slot, header.type) }
      receivedRepair(slot, header)
    case .readData, .readFailed:
      guard isConnected, receivedRead(slot, header, buffer) else {
        releaseIfAny(buffer)
        return protocolViolation(slot, header.type)
      }
    case .verifyDigests:
      guard isConnected, receivedDigests(slot, header, buffer) else {
        releaseIfAny(buffer)
        return protocolViolation(slot, header.type)
      }
    case .verifyStart, .verifyReady, .verifyRequest, .verifyRequestLocked, .verifySkipped,
      .verifyResult, .verifyEnd:
      guard isConnected else { return protocolViolation(slot, header.type) }
      receivedVerify(slot, header)
    case .hello, .helloReply, .greeting, .proof: protocolViolation(slot, header.type)
    case .ack, .resyncRequest, .resyncAck, .syncDone, .syncDoneAck, .bitmap, .bitmapAck,
      .bitmapDone, .syncReady, .syncStart, .promoteRequest, .promoteReply, .roleChanged,
      .diskChanged, .resyncUnreadable, .resyncCompared, .syncPause, .invalidate, .readRequest,
      .diskChangedAck, .assumeEqual:
      guard isConnected else { return protocolViolation(slot, header.type) }
      unsafe receivedConnected(slot, header, control)
    }
  }

  private mutating func receivedConnected(
    _ slot: Int, _ header: MessageHeader, _ control: UnsafeRawBufferPointer
  ) {
    switch header.type {
    case .ack: receivedAck(slot, header)
    case .resyncRequest: receivedResyncRequest(slot, header)
    case .resyncAck: receivedResyncAck(slot, header)
    case .syncDone:
      guard let report = try? StateReport(parsing: control) else {
        return protocolViolation(slot, .syncDone)
      }
      receivedSyncDone(slot, report)
    case .syncDoneAck: receivedSyncDoneAck(slot)
    case .bitmap: unsafe receivedBitmap(slot, header, control)
    case .bitmapAck: receivedBitmapAck(slot)
    case .bitmapDone: receivedBitmapDone(slot)
    case .syncReady: receivedSyncReady(slot)
    case .syncStart: receivedSyncStart(slot)
    case .resyncUnreadable: receivedUnreadable(slot, header)
    case .resyncCompared: receivedResyncCompared(slot, header)
    case .syncPause: receivedPause(slot, header)
    case .invalidate: receivedInvalidate(slot)
    case .promoteRequest: receivedPromoteRequest(slot, header)
    case .promoteReply: receivedPromoteReply(slot, header)
    case .roleChanged: receivedRole(slot, header)
    case .diskChanged: receivedDiskChange(slot, header)
    case .diskChangedAck: receivedDiskAck(slot, header)
    case .readRequest: receivedReadRequest(slot, header)
    case .assumeEqual: receivedAssumeEqual(slot, header)
    case .greeting, .proof, .hello, .helloReply, .reject, .state, .verdict, .write, .writeZeroes,
      .trim,
      .flush, .resyncData, .resyncZeroes, .resyncDigests, .goodbye, .ping, .pong, .verifyStart,
      .verifyReady, .verifyRequest, .verifyRequestLocked, .verifyDigests, .verifySkipped,
      .verifyResult, .verifyEnd, .repairBegin, .repairRequest, .repairRequestLocked, .repairData,
      .repairAck, .repairSkipped, .repairEnd, .readData,
      .readFailed:
      preconditionFailure("handled before")
    }
  }

  private mutating func receivedReject(_ slot: Int, _ header: MessageHeader) {
    // Only a decision is told this way: a peer cannot send us StandAlone with another reason.
    guard peers[slot].state.isHandshake, let number = UInt8(exactly: header.length),
      let reason = Reason(rawValue: number), reason.isPermanent
    else { return protocolViolation(slot, .reject) }
    loseConnection(slot, reason)
  }

  private mutating func receivedGoodbye(_ slot: Int, _ header: MessageHeader) {
    // The Primary leaves on request and may go on writing: our data is of an older moment then.
    if header.length == UInt64(Role.primary.rawValue), hasOwnData(slot) { markOutdated() }
    loseConnection(slot, .peerSaidGoodbye)
    if header.length == UInt64(Role.secondary.rawValue) { beginCleanFlush() }
    // It will not accept us soon: no need to hammer.
    peers[slot].retryPauseMs = min(1_000, options.connectIntervalMs)
    scheduleRetry(slot)
  }

  /// Marks valid data as possibly old. Not on a Primary, whose data is what counts.
  mutating func markOutdated() {
    guard role != .primary, disk == .upToDate || disk == .consistent, var block = superblock,
      options.sabotage != .leaveUpToDate
    else { return }
    block.diskState = .outdated
    superblock = block
    become(disk: .outdated)
    changeSuperblock()
  }

  private mutating func applyPeerRequest(
    _ slot: Int, _ header: MessageHeader, _ buffer: BufferID
  ) -> Bool {
    let operation: Operation =
      switch header.type {
      case .write: .write
      case .writeZeroes: .writeZeroes
      case .trim: .trim
      default: .flush
      }
    // One node writes: a Primary takes no writes, and only a Primary sends any (P4). A correct
    // peer keeps the limit of requests.
    guard let connection = peers[slot].connection, role != .primary, peers[slot].role == .primary,
      peers[slot].requestsHere < Self.requestLimit(ofOnePeer: options)
    else { return false }
    guard disk != .diskless, disk != .failed, !isDetaching,
      let volumeBytes = superblock?.volumeBytes
    else {
      releaseIfAny(buffer)
      answer(connection, header.id, failed: true)
      return true
    }
    var range = ByteRange(start: 0, end: 0)
    if operation != .flush {
      let (end, overflow) = header.offset.addingReportingOverflow(header.length)
      guard !overflow, end <= volumeBytes, header.length > 0,
        header.offset % sectorSize == 0, header.length % sectorSize == 0,
        operation != .write || UInt64(header.payloadBytes) == header.length
      else { return false }
      range = ByteRange(start: header.offset, end: end)
      guard fitsLog(range) else { return false }
    }
    var request = Request(.peer, operation, range, tag: header.id)
    request.forceUnitAccess = header.forceUnitAccess
    request.mayUnmap = header.mayUnmap
    request.buffer = buffer
    request.peer = UInt8(slot)
    request.connection = connection
    if operation.changesData, !peers[slot].takesWrites { peerMisses(slot, &request) }
    peers[slot].requestsHere += 1
    flushesAreStale()
    lastPeerWriteAt = now
    waiting.push(insert(request))
    if options.sabotage == .answerBeforeApplied { answer(connection, header.id, failed: false) }
    return true
  }

  /// A Primary without a disk writes through this node: its disk, if it comes back, lacks it.
  private mutating func peerMisses(_ slot: Int, _ request: inout Request) {
    guard options.sabotage != .skipGenerationForPeer else { return }
    request.missedPeers.insert(slot)
    markOutOfSync(slot, request.range)
    ensureBase(request.missedPeers)
  }

  mutating func finishPeerRequest(_ id: SlotID, _ request: Request) {
    let slot = Int(request.peer)
    if !request.isOrphaned, peers[slot].connection == request.connection {
      if !request.failed, request.operation.changesData {
        if request.missedPeers.contains(slot) {
          // Were the Primary told first, a crash of both could bring its old disk back as good.
          if versionDurable < versionOfBase, disk == .upToDate {
            requests[id].phase = .waitingBase
            return waitingBase.push(id)
          }
        } else {
          markInSync(slot, request.range)
          finishSourceIfDone(slot)
        }
      }
      if options.sabotage != .answerBeforeApplied {
        answer(request.connection, request.tag, failed: request.failed)
      }
    } else if options.sabotage == .answerOnNextConnection,
      let connection = peers[Int(request.peer)].connection
    {
      answer(connection, request.tag, failed: request.failed)
    }
    releaseIfAny(request.buffer)
    remove(id)
    flushForSyncDone(Int(request.peer))
  }

  private mutating func answer(_ connection: ConnectionID, _ id: UInt64, failed: Bool) {
    let header = MessageHeader(.ack, id: id, length: failed ? 1 : 0)
    effects.push(.send(connection, header, .none))
  }
}
