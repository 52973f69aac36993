/// Repair: copies the blocks that a verify has marked from the side that the administrator names,
/// while clients go on. The second part of a verify, in its states.
///
/// What must hold: a block is copied only in the direction that was asked for, whatever the roles;
/// while it is copied no write to it is under way on either side, and no newer data is overwritten;
/// a client reads all of it as it was or all of it as it is. The target pulls. A Primary locks, as
/// in a verify, and for the same reason:
///
/// ```
/// target is Primary                             source is Primary, or nobody is
///   locks, repairRequestLocked ---> reads         repairRequest ------------> locks, reads
///   writes <----------- repairData                writes <---------- repairData
///   unmarks, unlocks, repairAck --> unmarks       unmarks, repairAck ------> unmarks, unlocks
/// ```
/// A promotion in between turns the order round: the range is skipped, and asked for the other way.
///
/// Neither side stops being UpToDate: both were before, and one of them was wrong. Where a repair
/// was cut, or the source could not read a block, what is left stays marked, and no reconnect
/// copies it: a side has to be named for all of it.
public import BlockTypes
import Metadata
import Wire

/// Whose data is right.
public enum RepairSource: UInt8, Sendable, BitwiseCopyable {
  /// This node's.
  case local = 1
  /// The peer's.
  case peer = 2

  /// The same for the peer.
  var mirrored: RepairSource { self == .local ? .peer : .local }
}

/// What the target of a repair has left to do.
struct Repair: BitwiseCopyable {
  var range: ByteRange
  /// The next block to be looked at.
  var cursor: UInt64
  /// Writes may begin when this superblock is durable: a crash must be seen as one.
  var version: UInt64
}

extension Replica {
  /// Ranges of a repair under way; one while clients are.
  private func repairWindow(_ slot: Int) -> Int {
    let isBusy = clientRequests > 0 || peers[slot].requestsHere > peers[slot].repairsHere
    return isBusy ? 1 : min(4, options.resyncWindow)
  }

  // MARK: Outlook

  /// The next marked range that a repair of `range` would copy, at or after `block`; `nil` when
  /// there is none left. The next one is looked for from its end on.
  public func markedRange(
    forPeer slot: Int, from block: BlockIndex, within range: ByteRange
  ) -> ByteRange? {
    let first = BlockIndex(max(block.value, range.start / blockSize))
    guard let run = bitmaps[slot].nextRun(from: first) else { return nil }
    let (start, end) = (run.lowerBound * blockSize, run.upperBound * blockSize)
    guard start < range.end else { return nil }
    return ByteRange(start: start, end: min(end, range.end))
  }

  // MARK: Begin and end

  /// The leader has compared everything. `true` when a repair follows, or is under way.
  mutating func repairFollows(_ slot: Int) -> Bool {
    guard let source = peers[slot].repairSource, let verify = peers[slot].verify,
      let connection = peers[slot].connection
    else { return false }
    guard !verify.isRepairing else { return true }
    peers[slot].verify?.isRepairing = true
    tellMarks(slot, verify.range)
    switch source {
    case .peer: beginRepair(slot, verify.range)
    case .local:
      let header = MessageHeader(
        .repairBegin, offset: verify.range.start, length: verify.range.length)
      effects.push(.send(connection, header, .none))
    }
    return true
  }

  /// What will be copied, where no comparison has told it.
  private mutating func tellMarks(_ slot: Int, _ range: ByteRange) {
    tellUntold(slot)
    guard peers[slot].verify?.onlyMarked == true else { return }
    var next = BlockIndex(range.start / blockSize)
    while let block = bitmaps[slot].firstSet(from: next), block.offset.bytes < range.end {
      let blocks = bitmaps[slot].runLength(from: block, limit: .max)
      let end = min(block.offset.bytes + blocks * blockSize, range.end)
      peers[slot].verify?.untold = ByteRange(start: block.offset.bytes, end: end)
      peers[slot].verify?.blocksFound += (end - block.offset.bytes + blockSize - 1) / blockSize
      tellUntold(slot)
      next = BlockIndex(block.value + blocks)
    }
  }

  /// This node is the target.
  private mutating func beginRepair(_ slot: Int, _ range: ByteRange) {
    guard var block = superblock else { return }
    if !block.dirty {
      block.dirty = true
      superblock = block
      changeSuperblock()
    }
    flushesAreStale()
    peers[slot].repair = Repair(
      range: range, cursor: range.start / blockSize, version: versionWanted)
    repairMore(slot)
  }

  /// Asks for further ranges, as many as the window has room for, or ends the repair.
  mutating func repairMore(_ slot: Int) {
    guard peers[slot].replication.isVerifying, disk == .upToDate, !isDetaching,
      let repair = peers[slot].repair, versionDurable >= repair.version,
      let connection = peers[slot].connection
    else { return }
    let limit = options.verifyRequestBytes / blockSize
    while peers[slot].repairsHere < repairWindow(slot),
      let cursor = peers[slot].repair?.cursor,
      let block = bitmaps[slot].firstSet(from: BlockIndex(cursor)),
      block.offset.bytes < repair.range.end
    {
      let blocks = bitmaps[slot].runLength(from: block, limit: limit)
      let end = min(block.offset.bytes + blocks * blockSize, repair.range.end)
      peers[slot].repair?.cursor = block.value + blocks
      peers[slot].repairsHere += 1
      var pull = Request(
        .repairPull, .write, ByteRange(start: block.offset.bytes, end: end), tag: 0)
      pull.peer = UInt8(slot)
      pull.connection = connection
      askForRepair(insert(pull))
    }
    guard let cursor = peers[slot].repair?.cursor, peers[slot].repairsHere == 0 else { return }
    let next = bitmaps[slot].firstSet(from: BlockIndex(cursor))
    if next == nil || next.map({ $0.offset.bytes >= repair.range.end }) == true {
      endRepair(slot, connection)
    }
  }

  /// Whether a peer's data is being copied to this node: it writes without a Primary, too.
  var isRepairTarget: Bool {
    for slot in 0..<peers.count where peers[slot].repair != nil { return true }
    return false
  }

  private mutating func endRepair(_ slot: Int, _ connection: ConnectionID) {
    peers[slot].repair = nil
    _ = wantSweep()
    beginCleanFlush()
    if peers[slot].replication == .verifyS { return endVerify(slot) }
    effects.push(.send(connection, MessageHeader(.repairEnd), .none))
  }

  /// Whether nothing of what was to be repaired is left. What is left waits for a side to be named.
  mutating func repairIsComplete(_ slot: Int) -> Bool {
    guard peers[slot].repairSource != nil, let range = peers[slot].verify?.range else {
      return true
    }
    guard markedRange(forPeer: slot, from: BlockIndex(0), within: range) == nil else {
      peers[slot].repairWasCut = true
      return false
    }
    forgetCutRepair(slot)
    return true
  }

  /// A repair ended before its time. Where nothing is left of it, there is nothing to decide.
  mutating func rememberCutRepair(_ slot: Int) {
    if peers[slot].repairSource != nil, bitmaps[slot].setCount > 0 {
      peers[slot].repairWasCut = true
    }
  }

  /// A repair that was cut is over when no block is marked any more, repaired or written over: one
  /// of a part of the volume names no side for the rest. What is marked later is another matter.
  mutating func forgetCutRepair(_ slot: Int) {
    if bitmaps[slot].setCount == 0 { peers[slot].repairWasCut = false }
  }

  // MARK: Target

  /// Begins to copy a range, or begins anew after a promotion came in between.
  private mutating func askForRepair(_ id: SlotID) {
    requests[id].isLockedHere = role == .primary
    if options.sabotage == .repairWithoutLock || !requests[id].isLockedHere {
      requests[id].phase = .active
      sendRepairRequest(id)
    } else {
      requests[id].phase = .waiting
      waiting.push(id)
    }
  }

  /// The range is asked for; where this node locks, it is locked.
  mutating func sendRepairRequest(_ id: SlotID) {
    requests[id].isLocalPending = false
    let request = requests[id]
    let header = MessageHeader(
      request.isLockedHere ? .repairRequestLocked : .repairRequest, id: id.tag,
      offset: request.range.start, length: request.range.length)
    effects.push(.send(request.connection, header, .none))
    expectAnswer(Int(request.peer))
    requests[id].pendingPeers.insert(Int(request.peer))
  }

  /// The source's data. `false` when a correct peer cannot send that.
  mutating func receivedRepairData(
    _ slot: Int, _ header: MessageHeader, _ buffer: BufferID
  ) -> Bool {
    guard mayTalkOfVerify(slot) else { return false }
    let id = SlotID(tag: header.id)
    guard requests.contains(id), requests[id].origin == .repairPull, !requests[id].isOrphaned else {
      // The repair was given up meanwhile.
      releaseIfAny(buffer)
      return true
    }
    let request = requests[id]
    guard Int(request.peer) == slot, request.pendingPeers.contains(slot),
      request.range.start == header.offset, request.range.length == UInt64(header.payloadBytes)
    else { return false }
    gotAnswer(slot)
    requests[id].pendingPeers.remove(slot)
    if !request.isLockedHere, role == .primary, options.sabotage != .repairWithoutLock {
      // Promoted meanwhile: writes begin here now, so the range has to be locked here.
      releaseIfAny(buffer)
      sendRepairAck(request.connection, header.length, request.range, isDone: false)
      askForRepair(id)
      return true
    }
    requests[id].origin = .repairApply
    requests[id].buffer = buffer
    requests[id].tag = header.length
    peers[slot].requestsHere += 1
    flushesAreStale()
    if request.holdsRange {
      awaitDisk(id)
      effects.push(.write(id, request.range, buffer, durable: false))
    } else {
      requests[id].phase = .waiting
      waiting.push(id)
    }
    return true
  }

  mutating func repairApplied(_ id: SlotID, _ request: Request) {
    let slot = Int(request.peer)
    releaseIfAny(request.buffer)
    remove(id)
    guard !request.isOrphaned, !request.failed, hasSuperblock else { return }
    isRepaired(slot, request.range)
    let lock = request.isLockedHere ? Self.lockedByAsker : request.tag
    sendRepairAck(request.connection, lock, request.range, isDone: true)
    repairMore(slot)
  }

  private mutating func sendRepairAck(
    _ connection: ConnectionID, _ id: UInt64, _ range: ByteRange, isDone: Bool
  ) {
    let header = MessageHeader(
      .repairAck, id: id, offset: range.start, length: isDone ? range.length : 0)
    effects.push(.send(connection, header, .none))
  }

  /// Both sides have the source's content in this range.
  private mutating func isRepaired(_ slot: Int, _ range: ByteRange) {
    markInSync(slot, range)
    peers[slot].verify?.blocksRepaired += BlockDigest.blocks(range.length)
    effects.push(.note(.repaired(peer: slot, range)))
  }

  private mutating func receivedRepairSkipped(_ slot: Int, _ header: MessageHeader) {
    let id = SlotID(tag: header.id)
    guard requests.contains(id), requests[id].origin == .repairPull, !requests[id].isOrphaned,
      Int(requests[id].peer) == slot, requests[id].pendingPeers.contains(slot)
    else { return }
    gotAnswer(slot)
    requests[id].pendingPeers.remove(slot)
    guard header.length == 0 else {
      // The source cannot read it: it stays marked.
      remove(id)
      return repairMore(slot)
    }
    releaseLog(id)
    unlock(id)
    askForRepair(id)
  }

  // MARK: Source

  private mutating func receivedRepairRequest(_ slot: Int, _ header: MessageHeader) {
    let (end, overflow) = header.offset.addingReportingOverflow(header.length)
    guard !overflow, header.length > 0, header.length <= BlockDigest.blockLimit * blockSize,
      header.offset % blockSize == 0, header.length % sectorSize == 0,
      let connection = peers[slot].connection, peers[slot].servesHere < Self.serveLimit
    else { return protocolViolation(slot, header.type) }
    let isLockedThere = header.type == .repairRequestLocked
    let maySend =
      peers[slot].replication.isVerifying && peers[slot].repairSource == .local
      && disk == .upToDate && !isDetaching && !(isLockedThere && role == .primary)
    guard maySend, let volumeBytes = superblock?.volumeBytes else {
      return skipRepair(connection, header.id, header.offset, isUnreadable: false)
    }
    guard end <= volumeBytes else { return protocolViolation(slot, header.type) }
    var serve = Request(
      .repairServe, .read, ByteRange(start: header.offset, end: end), tag: header.id)
    serve.peer = UInt8(slot)
    serve.connection = connection
    serve.isLockedHere = !isLockedThere
    peers[slot].servesHere += 1
    waiting.push(insert(serve))
  }

  private mutating func skipRepair(
    _ connection: ConnectionID, _ id: UInt64, _ offset: UInt64, isUnreadable: Bool
  ) {
    let header = MessageHeader(
      .repairSkipped, id: id, offset: offset, length: isUnreadable ? 1 : 0)
    effects.push(.send(connection, header, .none))
  }

  /// The range was read. It stays locked until the target has written it, unless the target locks.
  mutating func repairServed(_ id: SlotID, _ request: Request, _ buffer: BufferID) {
    let slot = Int(request.peer)
    guard !request.isOrphaned, !request.failed else {
      releaseIfAny(buffer)
      remove(id)
      guard !request.isOrphaned else { return }
      return skipRepair(
        request.connection, request.tag, request.range.start, isUnreadable: true)
    }
    var header = MessageHeader(.repairData, id: request.tag, offset: request.range.start)
    header.length = request.isLockedHere ? id.tag : 0
    header.payloadBytes = UInt32(request.range.length)
    effects.push(.send(request.connection, header, buffer))
    releaseIfAny(buffer)
    guard request.isLockedHere else { return remove(id) }
    expectAnswer(slot)
    requests[id].pendingPeers.insert(slot)
  }

  private mutating func receivedRepairAck(_ slot: Int, _ header: MessageHeader) {
    // Late, of a repair that was given up.
    guard peers[slot].replication.isVerifying, peers[slot].repairSource == .local,
      let volumeBytes = superblock?.volumeBytes
    else { return }
    var range = ByteRange(start: 0, end: 0)
    if header.id == Self.lockedByAsker {
      let (end, overflow) = header.offset.addingReportingOverflow(header.length)
      guard !overflow, end <= volumeBytes, header.offset % blockSize == 0 else {
        return protocolViolation(slot, .repairAck)
      }
      range = ByteRange(start: header.offset, end: end)
    } else {
      let id = SlotID(tag: header.id)
      guard requests.contains(id), requests[id].origin == .repairServe,
        Int(requests[id].peer) == slot, requests[id].pendingPeers.contains(slot),
        requests[id].range.start == header.offset
      else { return protocolViolation(slot, .repairAck) }
      gotAnswer(slot)
      range = requests[id].range
      remove(id)
    }
    if header.length > 0 { isRepaired(slot, range) }
  }

  // MARK: Messages

  mutating func receivedRepair(_ slot: Int, _ header: MessageHeader) {
    guard mayTalkOfVerify(slot) else { return protocolViolation(slot, header.type) }
    switch header.type {
    case .repairBegin:
      let (end, overflow) = header.offset.addingReportingOverflow(header.length)
      // Given up here meanwhile; the peer hears of that, too.
      guard peers[slot].replication == .verifyT else { return }
      guard !overflow, header.offset % blockSize == 0, peers[slot].repairSource == .peer,
        peers[slot].repair == nil, end <= superblock?.volumeBytes ?? 0
      else { return protocolViolation(slot, .repairBegin) }
      beginRepair(slot, ByteRange(start: header.offset, end: end))
    case .repairRequest, .repairRequestLocked: receivedRepairRequest(slot, header)
    case .repairAck: receivedRepairAck(slot, header)
    case .repairSkipped: receivedRepairSkipped(slot, header)
    case .repairEnd:
      guard peers[slot].replication == .verifyS else { return }
      guard peers[slot].repairSource == .local, peers[slot].verify?.isRepairing == true else {
        return protocolViolation(slot, .repairEnd)
      }
      endVerify(slot)
    default: preconditionFailure("no message of a repair")
    }
  }

  // MARK: Reads of clients

  /// Whether a read has to wait: a block that is being replaced is read as it was or as it will be.
  func isBeingRepaired(_ range: ByteRange) -> Bool {
    for slot in 0..<peers.count where peers[slot].repairsHere > 0 {
      for index in 0..<requests.capacity {
        guard let id = requests.id(at: index) else { continue }
        let request = requests[id]
        let isRepair = request.origin == .repairPull || request.origin == .repairApply
        if isRepair, request.range.overlaps(range) { return true }
      }
    }
    return false
  }

  /// Whether a client is reading from the range, and would see it change.
  func isBeingRead(_ range: ByteRange) -> Bool {
    guard role == .primary else { return false }
    for index in 0..<requests.capacity {
      guard let id = requests.id(at: index) else { continue }
      let request = requests[id]
      let isRead = request.origin == .client && request.operation == .read
      if isRead, request.phase == .active, request.range.overlaps(range) { return true }
    }
    return false
  }
}
