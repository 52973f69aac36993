/// Online verify: which blocks of two replicas differ, found out while clients write.
///
/// What must hold: a block is found to differ only if it does (no false positives). Both sides read
/// a range while no write to it is under way on either: it is locked, as for a resync, from before
/// the first read until the second one was compared. The writer's side locks, because a write is
/// done there only when the other side has it; locked there, nothing is on its way to the other:
///
/// ```
/// VerifyS is Primary, or nobody is              VerifyT is Primary
///   locks, verifyRequestLocked ----> reads        verifyRequest -------------> locks, reads
///   reads, compares <---- verifyDigests           reads, compares <---- verifyDigests
///   unlocks, verifyResult ---------> marks        verifyResult ------> marks, unlocks
/// ```
/// A side that is not the writer's marks the range as busy only while it reads. Would it wait for a
/// lock, and a write for it, both sides would wait for each other. A promotion in the middle turns
/// the order round: the request is skipped and asked again the other way.
///
/// What differs is marked on both sides: the next resync copies it. Nothing is changed here.
public import BlockTypes
import Metadata
import Wire

/// What is to be compared.
public struct VerifyPlan: Equatable, Sendable, BitwiseCopyable {
  /// The first byte; rounded down to a block.
  public var start: UInt64 = 0
  /// Where to stop; rounded up to a block, the end of the volume at most.
  public var stop: UInt64 = .max
  /// Copy what differs from this side to the other one; `nil`: only find it.
  public var repairSource: RepairSource?
  /// Repair what is marked already, and compare nothing.
  public var onlyMarked = false

  /// The whole volume.
  public init() {}
}

/// How far a verify has come.
public struct VerifyProgress: Equatable, Sendable, BitwiseCopyable {
  /// What is compared.
  public var range: ByteRange
  /// Everything before this was compared.
  public var position: UInt64
  /// Blocks that differ.
  public var blocksFound: UInt64
  /// Blocks that a repair has copied.
  public var blocksRepaired: UInt64 = 0
  /// When it began.
  public var started: Instant

  /// Whether everything was compared.
  public var isComplete: Bool { position >= range.end }
}

/// A verify that this node leads.
struct Verification: BitwiseCopyable {
  var range: ByteRange
  var algorithm: DigestAlgorithm
  /// What was not asked for yet begins here.
  var cursor: UInt64
  /// The command that waits for the peer's consent.
  var token: UInt64?
  var started: Instant
  var blocksFound: UInt64 = 0
  var blocksRepaired: UInt64 = 0
  var onlyMarked = false
  /// Everything was compared, and what is marked is being copied.
  var isRepairing = false
  /// Differences side by side, not told yet: they may go on in the next range.
  var untold: ByteRange?
  var toldCount = 0
}

extension Replica {
  /// Differences told one by one: a volume that differs everywhere must not fill the log.
  private static var toldLimit: Int { 1_000 }
  /// In `verifyResult`: the sender has locked the range itself.
  static var lockedByAsker: UInt64 { .max }
  /// The length of a `verifyEnd` after everything was compared and, where that was asked for,
  /// repaired. 0 also when the source could not read all that was to be repaired.
  static var isComplete: UInt64 { 1 }

  // MARK: Begin and end

  mutating func beginVerify(_ plan: VerifyPlan, _ token: UInt64) {
    guard let slot = (0..<peers.count).first(where: { peers[$0].state == .connected }),
      let connection = peers[slot].connection
    else { return refuseVerify(token, .needConnection) }
    guard let algorithm = options.verifyAlgorithm else {
      return refuseVerify(token, .noVerifyAlgorithm)
    }
    guard peers[slot].replication == .established, peers[slot].verify == nil else {
      return refuseVerify(token, .alreadyActive)
    }
    guard disk == .upToDate, !isDetaching, let volumeBytes = superblock?.volumeBytes else {
      return refuseVerify(token, .noLocalDisk)
    }
    guard peers[slot].disk == .upToDate else { return refuseVerify(token, .noRemoteDisk) }
    let start = plan.start / blockSize * blockSize
    let stop = BlockDigest.blocks(min(plan.stop, volumeBytes)) * blockSize
    guard start < min(stop, volumeBytes) else { return refuseVerify(token, .invalidRange) }
    let range = ByteRange(start: start, end: min(stop, volumeBytes))
    peers[slot].verify = Verification(
      range: range, algorithm: algorithm, cursor: plan.onlyMarked ? range.end : start,
      token: token, started: now, onlyMarked: plan.onlyMarked)
    var source = plan.repairSource
    if options.sabotage == .repairWrongWay { source = source?.mirrored }
    peers[slot].repairSource = source
    let header = MessageHeader(
      .verifyStart, offset: UInt64(source?.mirrored.rawValue ?? 0),
      length: UInt64(algorithm.rawValue))
    effects.push(.send(connection, header, .none))
    expectAnswer(slot)
  }

  private mutating func refuseVerify(_ token: UInt64, _ refusal: Refusal) {
    reply(token, .refused(refusal))
  }

  private mutating func receivedVerifyStart(_ slot: Int, _ header: MessageHeader) {
    guard let connection = peers[slot].connection else { return }
    var refusal: VerifyRefusal?
    let algorithm = UInt8(exactly: header.length).flatMap(DigestAlgorithm.init(rawValue:))
    if let algorithm {
      peers[slot].digestAlgorithm = algorithm
    } else {
      refusal = .unknownAlgorithm
    }
    // Of two that ask at once the lower node id wins.
    let isAsking = peers[slot].verify != nil && options.node < peers[slot].node
    if peers[slot].replication != .established || isAsking { refusal = .busy }
    if disk != .upToDate || isDetaching { refusal = .noDisk }
    let source = UInt8(exactly: header.offset).flatMap(RepairSource.init(rawValue:))
    guard source != nil || header.offset == 0 else { return protocolViolation(slot, .verifyStart) }
    if refusal == nil {
      peers[slot].repairSource = source
      become(slot, replication: .verifyT)
    }
    let answer = MessageHeader(.verifyReady, length: UInt64(refusal?.rawValue ?? 0))
    effects.push(.send(connection, answer, .none))
  }

  private mutating func receivedVerifyReady(_ slot: Int, _ header: MessageHeader) {
    // What was asked for was given up meanwhile; the peer hears of that, too.
    guard let verify = peers[slot].verify, let token = verify.token else { return }
    guard header.length == 0 else {
      let reason = UInt8(exactly: header.length).flatMap(VerifyRefusal.init(rawValue:))
      guard let reason else { return protocolViolation(slot, .verifyReady) }
      return abandonVerify(slot, reason.refusal)
    }
    guard peers[slot].replication == .established else {
      return protocolViolation(slot, .verifyReady)
    }
    gotAnswer(slot)
    peers[slot].verify?.token = nil
    reply(token, .done)
    become(slot, replication: .verifyS)
    effects.push(.note(.verifyStarted(peer: slot, verify.range)))
    verifyMore(slot)
  }

  /// Ends a verify with the peer in `slot`, if there is one, on a connection that stays.
  mutating func stopVerify(_ slot: Int, _ reason: Refusal) {
    guard peers[slot].replication.isVerifying || peers[slot].verify != nil else { return }
    abandonVerify(slot, reason)
    guard peers[slot].replication.isVerifying else { return }
    rememberCutRepair(slot)
    peers[slot].repairSource = nil
    peers[slot].repair = nil
    become(slot, replication: .established)
    for index in 0..<requests.capacity {
      guard let id = requests.id(at: index), Int(requests[id].peer) == slot,
        !requests[id].isOrphaned
      else { continue }
      let request = requests[id]
      switch request.origin {
      case .verify, .verifyServe, .repairPull, .repairApply, .repairServe:
        if request.pendingPeers.contains(slot) { gotAnswer(slot) }
        orphan(id)
      case .client, .peer, .resyncPull, .resyncApply, .resyncServe, .resyncCompare, .resyncCheck,
        .handshakeFlush, .commandFlush, .syncDoneFlush, .cleanFlush, .logFlush, .peerRead,
        .abandoned:
        break
      }
    }
  }

  /// Gives up what this node compares, and says how far it came.
  mutating func abandonVerify(_ slot: Int, _ reason: Refusal) {
    guard let verify = peers[slot].verify else { return }
    if let token = verify.token {
      if peers[slot].outstanding > 0 { gotAnswer(slot) }
      peers[slot].verify = nil
      // Of two that asked at once the peer's may be under way by now, and be a repair.
      if !peers[slot].replication.isVerifying { peers[slot].repairSource = nil }
      return refuseVerify(token, reason)
    }
    finishVerify(slot)
  }

  private mutating func finishVerify(_ slot: Int) {
    tellUntold(slot)
    guard let progress = verifyProgress(slot), let verify = peers[slot].verify else { return }
    peers[slot].verify = nil
    peers[slot].lastVerify = progress
    effects.push(.note(.verifyEnded(peer: slot, progress)))
    guard progress.blocksFound > 0, !verify.onlyMarked else { return }
    // No write announced these marks: without this a crash would forget them.
    _ = wantSweep()
    effects.push(.note(.handler(peer: slot, .outOfSync)))
  }

  /// The verify under way that this node leads, or the last one.
  func verifyProgress(_ slot: Int) -> VerifyProgress? {
    guard let verify = peers[slot].verify, verify.token == nil else {
      return peers[slot].lastVerify
    }
    var position = verify.cursor
    for index in 0..<requests.capacity {
      guard let id = requests.id(at: index), requests[id].origin == .verify,
        Int(requests[id].peer) == slot, !requests[id].isOrphaned
      else { continue }
      position = min(position, requests[id].range.start)
    }
    return VerifyProgress(
      range: verify.range, position: position, blocksFound: verify.blocksFound,
      blocksRepaired: verify.blocksRepaired, started: verify.started)
  }

  // MARK: VerifyS

  /// Asks for more ranges, as many as the window has room for, or ends the verify.
  mutating func verifyMore(_ slot: Int) {
    guard peers[slot].replication == .verifyS, let connection = peers[slot].connection else {
      return
    }
    // Clients wait for a range that is compared, and for the disk that is read.
    let isBusy = clientRequests > 0 || peers[slot].requestsHere > 0
    let window = isBusy ? max(1, options.verifyWindow / 4) : options.verifyWindow
    while let verify = peers[slot].verify, verify.cursor < verify.range.end,
      peers[slot].verifiesHere < window, now >= verifiesNotBefore
    {
      let end = min(verify.cursor + verifyBytes, verify.range.end)
      verifyBegins(end - verify.cursor)
      var request = Request(
        .verify, .read, ByteRange(start: verify.cursor, end: end), tag: 0)
      request.peer = UInt8(slot)
      request.connection = connection
      peers[slot].verify?.cursor = end
      peers[slot].verifiesHere += 1
      verifyRange(insert(request))
    }
    guard let verify = peers[slot].verify, verify.cursor >= verify.range.end,
      peers[slot].verifiesHere == 0, !repairFollows(slot)
    else { return }
    endVerify(slot)
  }

  /// Everything is compared and, where that was asked for, repaired.
  mutating func endVerify(_ slot: Int) {
    let isComplete = repairIsComplete(slot)
    finishVerify(slot)
    peers[slot].repairSource = nil
    become(slot, replication: .established)
    if let connection = peers[slot].connection {
      let length = isComplete ? Self.isComplete : 0
      effects.push(.send(connection, MessageHeader(.verifyEnd, length: length), .none))
    }
  }

  /// Begins to compare a range, or begins anew after a promotion came in between.
  private mutating func verifyRange(_ id: SlotID) {
    let slot = Int(requests[id].peer)
    requests[id].isLockedHere = role == .primary || peers[slot].role != .primary
    if options.sabotage == .verifyWithoutLock || !requests[id].isLockedHere {
      requests[id].phase = .active
      ask(id)
    } else {
      requests[id].phase = .waiting
      waiting.push(id)
    }
  }

  /// The range of a `verify` is locked here: no write to it is under way on either side.
  mutating func verifyRangeIsLocked(_ id: SlotID) {
    requests[id].isLocalPending = false
    ask(id)
  }

  private mutating func ask(_ id: SlotID) {
    let request = requests[id]
    let type: MessageType = request.isLockedHere ? .verifyRequestLocked : .verifyRequest
    let header = MessageHeader(
      type, id: id.tag, offset: request.range.start, length: request.range.length)
    effects.push(.send(request.connection, header, .none))
    expectAnswer(Int(request.peer))
    requests[id].pendingPeers.insert(Int(request.peer))
  }

  mutating func unlock(_ id: SlotID) {
    guard requests[id].holdsRange else { return }
    active.remove(owner: id)
    requests[id].holdsRange = false
  }

  /// The peer answered with digests. `false` when a correct peer cannot send that.
  mutating func receivedDigests(
    _ slot: Int, _ header: MessageHeader, _ buffer: BufferID
  ) -> Bool {
    guard mayTalkOfVerify(slot) else { return false }
    let id = SlotID(tag: header.id)
    guard requests.contains(id), requests[id].origin == .verify, !requests[id].isOrphaned else {
      // The verify was given up meanwhile.
      releaseIfAny(buffer)
      return true
    }
    let request = requests[id]
    guard Int(request.peer) == slot, request.pendingPeers.contains(slot),
      request.range.start == header.offset, let verify = peers[slot].verify,
      UInt64(header.payloadBytes)
        == BlockDigest.blocks(request.range.length) * UInt64(verify.algorithm.byteCount)
    else { return false }
    gotAnswer(slot)
    requests[id].pendingPeers.remove(slot)
    requests[id].tag = header.length
    if !request.isLockedHere {
      if role == .primary {
        // Promoted meanwhile: writes begin here now, so the range has to be locked here.
        releaseIfAny(buffer)
        sendResult(request.connection, header.length, request.range, 0)
        verifyRange(id)
        return true
      }
      if options.sabotage != .verifyWithoutLock {
        active.insert(request.range, owner: id)
        requests[id].holdsRange = true
      }
    }
    requests[id].buffer = buffer
    awaitDisk(id)
    effects.push(.serve(id, request.range))
    return true
  }

  private mutating func receivedVerifySkipped(_ slot: Int, _ header: MessageHeader) {
    let id = SlotID(tag: header.id)
    guard requests.contains(id), requests[id].origin == .verify, !requests[id].isOrphaned,
      requests[id].pendingPeers.contains(slot)
    else { return }
    gotAnswer(slot)
    requests[id].pendingPeers.remove(slot)
    unlock(id)
    verifyRange(id)
  }

  mutating func verifyRangeRead(_ id: SlotID, _ request: Request, _ buffer: BufferID) {
    let slot = Int(request.peer)
    guard !request.isOrphaned else {
      releaseIfAny(buffer)
      releaseIfAny(request.buffer)
      remove(id)
      return verifyMore(slot)
    }
    guard !request.failed, let verify = peers[slot].verify else {
      releaseIfAny(buffer)
      return giveVerifyUp(slot)
    }
    compareDigests(id, with: buffer, verify.algorithm)
  }

  /// Compares the digests in the request's buffer with the `data` that was read; ends with both.
  mutating func compareDigests(_ id: SlotID, with data: BufferID, _ algorithm: DigestAlgorithm) {
    let request = requests[id]
    requests[id].buffer = .none
    effects.push(
      .compareDigests(
        id, data: data, bytes: UInt32(request.range.length), digests: request.buffer, algorithm))
    effects.push(.release(data))
    effects.push(.release(request.buffer))
  }

  mutating func digestsCompared(_ id: SlotID, _ differing: UInt64) {
    guard requests.contains(id) else { return }
    let request = requests[id]
    if request.origin == .resyncCheck { return checked(id, request, differing) }
    guard request.origin == .verify else { return }
    let slot = Int(request.peer)
    note(differing, in: request.range, slot)
    if !request.isLockedHere {
      sendResult(request.connection, request.tag, request.range, differing)
    } else if differing != 0, options.sabotage != .markDifferenceHere {
      sendResult(request.connection, Self.lockedByAsker, request.range, differing)
    }
    remove(id)
    verifyMore(slot)
  }

  private mutating func sendResult(
    _ connection: ConnectionID, _ id: UInt64, _ range: ByteRange, _ differing: UInt64
  ) {
    let header = MessageHeader(
      .verifyResult, id: id, offset: range.start, length: differing)
    effects.push(.send(connection, header, .none))
  }

  /// Marks the blocks that differ, and tells each run of them once.
  private mutating func note(_ differing: UInt64, in range: ByteRange, _ slot: Int) {
    var left = differing
    while left != 0 {
      let first = UInt64(left.trailingZeroBitCount)
      let count = UInt64((~(left >> first)).trailingZeroBitCount)
      left &= first + count == 64 ? 0 : UInt64.max << (first + count)
      let start = range.start + first * blockSize
      let run = ByteRange(start: start, end: min(start + count * blockSize, range.end))
      markOutOfSync(slot, run)
      peers[slot].verify?.blocksFound += count
      if let untold = peers[slot].verify?.untold, untold.end == run.start {
        peers[slot].verify?.untold = ByteRange(start: untold.start, end: run.end)
      } else {
        tellUntold(slot)
        peers[slot].verify?.untold = run
      }
    }
  }

  mutating func tellUntold(_ slot: Int) {
    guard let verify = peers[slot].verify, let untold = verify.untold else { return }
    peers[slot].verify?.untold = nil
    peers[slot].verify?.toldCount += 1
    guard verify.toldCount < Self.toldLimit else { return }
    effects.push(.note(.outOfSync(peer: slot, untold)))
  }

  /// What cannot be read cannot be compared: the verify ends there, on both sides, and lets go of
  /// all its ranges.
  mutating func giveVerifyUp(_ slot: Int) {
    guard peers[slot].replication.isVerifying, let connection = peers[slot].connection else {
      return
    }
    stopVerify(slot, .noLocalDisk)
    effects.push(.send(connection, MessageHeader(.verifyEnd), .none))
  }

  // MARK: VerifyT

  /// Whether a message of a verify can come: of one under way, or late of one that was given up.
  func mayTalkOfVerify(_ slot: Int) -> Bool {
    peers[slot].replication == .established || peers[slot].replication.isVerifying
  }

  mutating func receivedVerify(_ slot: Int, _ header: MessageHeader) {
    guard mayTalkOfVerify(slot) else { return protocolViolation(slot, header.type) }
    switch header.type {
    case .verifyStart: receivedVerifyStart(slot, header)
    case .verifyReady: receivedVerifyReady(slot, header)
    case .verifyRequest, .verifyRequestLocked: receivedVerifyRequest(slot, header)
    case .verifySkipped: receivedVerifySkipped(slot, header)
    case .verifyResult: receivedVerifyResult(slot, header)
    case .verifyEnd:
      if peers[slot].replication == .verifyT, bitmaps[slot].setCount > 0 { _ = wantSweep() }
      if header.length == Self.isComplete, peers[slot].repairSource != nil {
        peers[slot].repairSource = nil
        forgetCutRepair(slot)
      }
      stopVerify(slot, .noRemoteDisk)
    default: preconditionFailure("no message of a verify")
    }
  }

  private mutating func receivedVerifyRequest(_ slot: Int, _ header: MessageHeader) {
    let (end, overflow) = header.offset.addingReportingOverflow(header.length)
    guard !overflow, header.length > 0, header.length <= BlockDigest.blockLimit * blockSize,
      header.offset % blockSize == 0, header.length % sectorSize == 0,
      let connection = peers[slot].connection, peers[slot].servesHere < Self.serveLimit
    else { return protocolViolation(slot, header.type) }
    let isLockedThere = header.type == .verifyRequestLocked
    guard peers[slot].replication == .verifyT, disk == .upToDate, !isDetaching,
      let volumeBytes = superblock?.volumeBytes, !(isLockedThere && role == .primary)
    else {
      let answer = MessageHeader(.verifySkipped, id: header.id, offset: header.offset)
      effects.push(.send(connection, answer, .none))
      return
    }
    guard end <= volumeBytes else { return protocolViolation(slot, header.type) }
    var serve = Request(
      .verifyServe, .read, ByteRange(start: header.offset, end: end), tag: header.id)
    serve.peer = UInt8(slot)
    serve.connection = connection
    serve.isLockedHere = !isLockedThere
    peers[slot].servesHere += 1
    let id = insert(serve)
    guard options.sabotage == .verifyWithoutLock else { return waiting.push(id) }
    requests[id].phase = .active
    awaitDisk(id)
    effects.push(.serve(id, serve.range))
  }

  mutating func verifyServed(_ id: SlotID, _ request: Request, _ buffer: BufferID) {
    let slot = Int(request.peer)
    guard !request.isOrphaned else {
      releaseIfAny(buffer)
      return remove(id)
    }
    guard !request.failed else {
      releaseIfAny(buffer)
      return giveVerifyUp(slot)
    }
    let algorithm = peers[slot].digestAlgorithm
    var header = MessageHeader(.verifyDigests, id: request.tag, offset: request.range.start)
    header.length = request.isLockedHere ? id.tag : 0
    header.payloadBytes =
      UInt32(BlockDigest.blocks(request.range.length)) * UInt32(algorithm.byteCount)
    effects.push(
      .sendDigests(
        request.connection, header, buffer, bytes: UInt32(request.range.length), algorithm))
    effects.push(.release(buffer))
    guard request.isLockedHere else { return remove(id) }
    expectAnswer(slot)
    requests[id].pendingPeers.insert(slot)
  }

  private mutating func receivedVerifyResult(_ slot: Int, _ header: MessageHeader) {
    // Late, of a verify that was given up.
    guard peers[slot].replication == .verifyT, let volumeBytes = superblock?.volumeBytes else {
      return
    }
    let id = SlotID(tag: header.id)
    var limit = volumeBytes
    if header.id != Self.lockedByAsker {
      guard requests.contains(id), requests[id].origin == .verifyServe,
        Int(requests[id].peer) == slot, requests[id].pendingPeers.contains(slot),
        requests[id].range.start == header.offset
      else { return protocolViolation(slot, .verifyResult) }
      gotAnswer(slot)
      limit = requests[id].range.end
    }
    let blocks = UInt64(64 - header.length.leadingZeroBitCount)
    let (end, overflow) = header.offset.addingReportingOverflow(blocks * blockSize)
    guard !overflow, header.offset % blockSize == 0, end <= BlockDigest.blocks(limit) * blockSize
    else { return protocolViolation(slot, .verifyResult) }
    var left = header.length
    while left != 0 {
      let start = header.offset + UInt64(left.trailingZeroBitCount) * blockSize
      markOutOfSync(slot, ByteRange(start: start, end: start + blockSize))
      left &= left - 1
    }
    if header.id != Self.lockedByAsker { remove(id) }
  }
}

extension VerifyRefusal {
  /// What the administrator is told.
  fileprivate var refusal: Refusal {
    switch self {
    case .busy: .alreadyActive
    case .noDisk: .noRemoteDisk
    case .unknownAlgorithm: .peerRefused
    }
  }
}
