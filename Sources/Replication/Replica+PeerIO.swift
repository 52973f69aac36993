/// Reads and writes through the peer: what a Primary does that has no good data of its own.
///
/// A Primary loses its data when its disk fails or is detached; it gets it back by a resync into
/// another disk, while its clients go on. In between its clients live on the peer's data, and these
/// must hold:
/// - a write is acknowledged only when a peer with an UpToDate disk has it, and has on record, on
///   its disk, that this node lacks it: else the old disk could come back as good (P1, P3);
/// - a peer is used only if it has everything that the clients have seen (`exposed`): a peer that
///   crashed meanwhile, or was written by others, is refused;
/// - a block that a resync has not brought yet is read from the source;
/// - a range that is read from the peer is locked, so no read returns less than an earlier one.
///
/// ```
/// UpToDate --disk fails, detach--> Diskless --attach--> Inconsistent, SyncTarget --> UpToDate
///    local                        all through the peer     both; stale blocks from the peer
/// ```
/// A peer that is lost meanwhile may come back at once: requests wait for it, for a while.
import BlockTypes
import Metadata
public import Wire

/// What became of errors of the disk since the program began.
public struct DiskErrors: Equatable, Sendable, BitwiseCopyable {
  /// Client reads that the disk could not serve.
  public var readErrors: UInt64 = 0
  /// Client reads that a peer served.
  public var readsFromPeer: UInt64 = 0
  /// Reads after which the range was written anew, with the peer's data.
  public var repairs: UInt64 = 0
  /// Writes, flushes and changes of metadata that failed.
  public var writeErrors: UInt64 = 0
  /// Disks that were given up because they did not answer.
  public var timeouts: UInt64 = 0

  /// None yet.
  public init() {}
}

/// What decides where a Primary reads.
public struct ReadConditions: Hashable, Sendable {
  /// This node's disk.
  public var disk: DiskState
  /// Blocks of the range count as different from the peer's.
  public var isMarked: Bool
  /// The own disk could not read the range.
  public var hasFailed: Bool
  /// This node is the target of a resync whose blocks are known.
  public var isSyncTarget: Bool
  /// The peer is Connected.
  public var isConnected: Bool
  /// The peer's disk.
  public var peerDisk: DiskState
  /// A peer that was lost may still come back in time.
  public var mayWait: Bool

  /// Joins the parts.
  public init(
    disk: DiskState, isMarked: Bool, hasFailed: Bool, isSyncTarget: Bool, isConnected: Bool,
    peerDisk: DiskState, mayWait: Bool
  ) {
    self.disk = disk
    self.isMarked = isMarked
    self.hasFailed = hasFailed
    self.isSyncTarget = isSyncTarget
    self.isConnected = isConnected
    self.peerDisk = peerDisk
    self.mayWait = mayWait
  }

  /// Where the range is read: the table, first match wins.
  ///
  /// | own disk     | block                    | peer                  | path  |
  /// |--------------|--------------------------|-----------------------|-------|
  /// | UpToDate     | readable                 |                       | local |
  /// | UpToDate     | unreadable, not marked   | Connected, UpToDate   | peer  |
  /// | UpToDate     | unreadable               | else                  | fail  |
  /// | Inconsistent | not marked, readable     | syncs it, UpToDate    | local |
  /// | else         |                          | Connected, UpToDate   | peer  |
  /// | else         |                          | else, not for long    | wait  |
  /// | else         |                          | else                  | fail  |
  ///
  /// A marked block of an UpToDate disk is one that the peer lacks, or holds otherwise.
  public var path: ReadPath {
    let isPeerGood = isConnected && peerDisk == .upToDate
    if disk == .upToDate {
      guard hasFailed else { return .local }
      return isPeerGood && !isMarked ? .peer : .fail
    }
    guard isPeerGood else { return mayWait ? .wait : .fail }
    return disk == .inconsistent && isSyncTarget && !isMarked && !hasFailed ? .local : .peer
  }
}

/// Where a Primary reads.
public enum ReadPath: Equatable, Sendable, BitwiseCopyable {
  case local, peer, wait, fail
}

extension Replica {
  /// How long requests wait for a peer with good data, counted from when there was none: twice what
  /// a handshake may take. Milliseconds.
  private var accessWaitMs: UInt64 { 2 * options.handshakeTimeoutMs }

  /// A connected peer whose data is UpToDate.
  var goodPeer: Int? {
    for slot in 0..<peers.count where isGood(slot) { return slot }
    return nil
  }

  func isGood(_ slot: Int) -> Bool {
    peers[slot].state == .connected && peers[slot].replication != .off
      && peers[slot].disk == .upToDate
  }

  /// Keeps the time from which there has been no good data in reach.
  mutating func watchAccess() {
    guard role == .primary, exposed != nil, goodPeer == nil else {
      accessDeadline = .never
      return
    }
    if accessDeadline == .never {
      accessDeadline = now.advanced(milliseconds: accessWaitMs)
    }
  }

  /// Whether requests may still wait for a peer to come back.
  private var mayWaitForAccess: Bool { accessDeadline == .never || now < accessDeadline }

  /// Whether a client's request has to wait, on a node without good data of its own. Reads and
  /// writes wait for a peer; changes wait for the exchange of bitmaps as well: what travels in it
  /// must not become untrue in the direction in which writes do not travel.
  func waitsForAccess(_ request: Request) -> Bool {
    guard goodPeer != nil else { return exposed != nil && mayWaitForAccess }
    guard request.operation != .read else { return false }
    for slot in 0..<peers.count where peers[slot].replication == .wfBitMapT { return true }
    return false
  }

  // MARK: Reading

  /// Where a client's read goes that does not simply go to the disk.
  func readPath(_ request: Request) -> (path: ReadPath, slot: Int) {
    let slot = goodPeer ?? 0
    let isTarget = peers.count > 0 && peers[slot].replication == .syncTarget
    let isMarked = peers.count > 0 && bitmaps[slot].setCount > 0 && isMarked(slot, request.range)
    let conditions = ReadConditions(
      disk: disk, isMarked: isMarked && !(isTarget && options.sabotage == .readStaleBlocks),
      hasFailed: request.failed, isSyncTarget: isTarget, isConnected: goodPeer != nil,
      peerDisk: peers.count > 0 ? peers[slot].disk : .unknown, mayWait: mayWaitForAccess)
    return (conditions.path, slot)
  }

  private func isMarked(_ slot: Int, _ range: ByteRange) -> Bool {
    guard range.end <= bitmaps[slot].blockCount * blockSize else { return true }
    let first = BlockIndex(range.start / blockSize)
    guard let marked = bitmaps[slot].firstSet(from: first) else { return false }
    return marked.offset.bytes < range.end
  }

  /// Starts a read whose range is locked.
  mutating func startRead(_ id: SlotID) {
    requests[id].phase = .active
    let request = requests[id]
    let (path, slot) = readPath(request)
    switch path {
    case .local:
      awaitDisk(id)
      effects.push(.read(id, request.range, request.buffer))
    case .peer:
      guard let connection = peers[slot].connection else {
        preconditionFailure("a Connected peer has a connection")
      }
      diskErrors.readsFromPeer += 1
      let header = MessageHeader(
        .readRequest, id: id.tag, offset: request.range.start, length: request.range.length)
      effects.push(.send(connection, header, .none))
      expectAnswer(slot)
      requests[id].pendingPeers.insert(slot)
    case .wait, .fail: completeRead(id, .ioError)
    }
  }

  /// The own disk has answered a read, or what it could not read was written anew.
  mutating func finishRead(_ id: SlotID) {
    let request = requests[id]
    if request.isRepair {
      // What was read came from the peer: the client has it whatever became of the repair.
      if !request.failed {
        diskErrors.repairs += 1
        effects.push(.note(.rewritten(request.range)))
      }
      return completeRead(id, .done)
    }
    guard request.failed else { return completeRead(id, .done) }
    diskErrors.readErrors += 1
    retryRead(id)
  }

  /// Lets a read that the disk did not serve go to the peer, if there is one.
  mutating func retryRead(_ id: SlotID) {
    let (path, _) = readPath(requests[id])
    guard path != .fail else { return completeRead(id, .ioError) }
    restart(id)
  }

  private mutating func completeRead(_ id: SlotID, _ outcome: Outcome) {
    let request = requests[id]
    effects.push(.complete(tag: request.tag, outcome))
    releaseIfAny(request.buffer)
    clientRequests -= 1
    remove(id)
  }

  /// The peer has read the range, or could not.
  mutating func receivedRead(
    _ slot: Int, _ header: MessageHeader, _ buffer: BufferID
  ) -> Bool {
    let id = SlotID(tag: header.id)
    guard requests.contains(id), requests[id].origin == .client, requests[id].operation == .read,
      requests[id].pendingPeers.contains(slot), requests[id].range.start == header.offset,
      header.type == .readFailed || UInt64(header.payloadBytes) == requests[id].range.length
    else { return false }
    gotAnswer(slot)
    requests[id].pendingPeers.remove(slot)
    guard header.type == .readData else {
      completeRead(id, .ioError)
      return true
    }
    // The disk that was given up may still fill the client's own buffer: it is not used any more.
    if options.sabotage == .reuseAbandonedBuffer, requests[id].isAbandoned {
      effects.push(.release(buffer))
      completeRead(id, .done)
      return true
    }
    effects.push(.substitute(tag: requests[id].tag, buffer))
    releaseIfAny(requests[id].buffer)
    requests[id].buffer = buffer
    if isRepairable(requests[id]) { repair(id) } else { completeRead(id, .done) }
    return true
  }

  // MARK: Repair

  /// Whether what could not be read is worth being written again: it was this disk that failed, and
  /// the block is one that both have.
  private func isRepairable(_ request: Request) -> Bool {
    guard request.failed, !request.isAbandoned, logState == .ready, hasRoom(for: request)
    else { return false }
    return disk == .upToDate || disk == .inconsistent
  }

  /// Writes the peer's data over what could not be read. The range stays locked, so no client's
  /// write is overtaken.
  private mutating func repair(_ id: SlotID) {
    requests[id].isRepair = true
    requests[id].failed = false
    if options.sabotage == .rewriteWithoutLock { unlock(id) }
    if enterLog(id) { carryOut(id) }
  }

  // MARK: Changing

  /// Goes on with a client's change or flush on a node without good data of its own, when nothing
  /// of it is under way any more.
  mutating func finishThroughPeer(_ id: SlotID) {
    let request = requests[id]
    guard request.operation != .read else { return }
    var isHeld = false
    for slot in 0..<peers.count where request.ackedPeers.contains(slot) && isGood(slot) {
      isHeld = true
      // The peer has not put on record yet that this node lacks it: `receivedDiskAck` goes on.
      if peers[slot].awaitsDiskAck { return }
    }
    if isHeld, request.missedPeers.isEmpty { return completeThroughPeer(id) }
    guard goodPeer == nil else { return complete(id) }
    restartOrFail(id)
  }

  /// Lets a change wait for a way to good data, as long as that makes sense.
  mutating func restartOrFail(_ id: SlotID) {
    guard exposed != nil, goodPeer != nil || mayWaitForAccess else { return complete(id) }
    restart(id)
  }

  /// A peer said that its data is gone: nothing comes back by waiting.
  mutating func stopWaitingForAccess() {
    if exposed != nil, goodPeer == nil { accessDeadline = now }
  }

  private mutating func completeThroughPeer(_ id: SlotID) {
    let request = requests[id]
    effects.push(.complete(tag: request.tag, .done))
    releaseIfAny(request.buffer)
    clientRequests -= 1
    if request.operation.changesData { clientWrites -= 1 }
    remove(id)
    guard request.wroteHere, !request.failed else { return }
    settleMarks(request)
    for slot in 0..<peers.count where peers[slot].replication == .syncTarget {
      flushForSyncDone(slot)
    }
  }

  /// Lets a request wait as if it had just come. Nothing of it is under way, but perhaps at
  /// a disk that was given up.
  mutating func restart(_ id: SlotID) {
    let request = requests[id]
    releaseLog(id)
    unlock(id)
    if request.operation.changesData { clientWrites -= 1 }
    requests[id].wroteHere = false
    if request.operation != .read { requests[id].failed = false }
    requests[id].phase = .waiting
    requests[id].pendingPeers = PeerSet()
    requests[id].missedPeers = PeerSet()
    requests[id].ackedPeers = PeerSet()
    waiting.push(id)
  }

  // MARK: Losing the disk

  /// Remembers what the disk had, and what the clients of a Primary have seen, when it is lost.
  mutating func keepExposed() {
    guard let block = superblock else { return }
    var seen = block.lineage
    // Nothing was acknowledged under a generation that never became durable.
    if versionDurable < versionOfBase, seen.generations.count > 1 { seen.forgetNewest() }
    // What is being forced calls itself whole before anything of that is durable.
    rememberLost(seen, isWhole: block.diskState != .inconsistent && !isForcing)
    guard role == .primary, exposed == nil else { return }
    accessDeadline = goodPeer == nil ? now : .never
    exposed = seen
    for slot in 0..<peers.count {
      // Who was told that its resync is done may have gone on before we heard that it knows.
      peers[slot].mayFollowExposed = peers[slot].awaitsDiskAck || peers[slot].sync.doneSent
    }
  }

  /// What a lost disk held is remembered until somebody here has it: the loss of the disk in its
  /// place, filled or half filled by a peer that lacks it, is no reason to forget it.
  private mutating func rememberLost(_ seen: Lineage, isWhole: Bool) {
    if let slot = goodPeer {
      // Two UpToDate disks hold the same: one is as good a witness as the other.
      let isHere = isWhole && !lacksWhatWasLost(seen)
      if isHere || !lacksWhatWasLost(reports[slot]?.lineage ?? Lineage()) { lost = nil }
    } else if isWhole, !lacksWhatWasLost(seen) {
      lost = seen
    }
  }

  /// Whether the disk that this node has lost held writes which the peer's does not: that peer is
  /// not promoted without an administrator's word, as long as somebody here remembers.
  func remembersMore(than slot: Int) -> Bool {
    guard let theirs = reports[slot]?.lineage, !theirs.isEmpty else { return false }
    return lacksWhatWasLost(theirs)
  }

  /// Whether the disk that this node has lost held writes which a replica with this lineage lacks.
  /// Another disk in its place does not bring them back.
  func lacksWhatWasLost(_ lineage: Lineage) -> Bool {
    guard let lost else { return false }
    switch lost.relation(to: lineage) {
    case .extends, .parted, .otherEmpty: return true
    case .equal, .extended, .bothEmpty, .selfEmpty, .unrelated: return false
    }
  }

  /// `detach` on a Primary: its clients go on through the peer.
  mutating func detachUnderClients(_ token: UInt64) {
    guard hasSuperblock, goodPeer != nil, !isShakingHands else {
      return reply(token, .refused(.primaryNeedsDisk))
    }
    loseDisk()
    reply(token, .done)
  }

  /// Whether a Primary without good data of its own lives on this node's.
  var servesPrimary: Bool {
    guard role != .primary, disk == .upToDate else { return false }
    for slot in 0..<peers.count where peers[slot].state == .connected {
      if peers[slot].role == .primary, !goesOnAlone(slot) { return true }
    }
    return false
  }

  /// Whether the peer that reported `theirs` has what this node's clients have seen.
  func hasExposed(_ theirs: StateReport, _ slot: Int) -> Bool {
    guard role == .primary, let seen = exposed, let last = seen.newest,
      options.sabotage != .trustAnyPeerData
    else { return true }
    // Data that is not good is not used.
    guard theirs.disk == .upToDate || theirs.disk == .consistent else { return true }
    // After a crash it may lack what no flush covered, though the clients have seen it.
    guard theirs.disk == .upToDate, !theirs.crashed, let newest = theirs.lineage.newest else {
      return false
    }
    if newest == last { return true }
    // It put on record that this node lacks what comes, and its answer was lost on the way. One
    // that was not there when the disk was lost, nor since, wrote as a Primary itself.
    return peers[slot].mayFollowExposed
      && newest.continuesPrimary && newest.author == peers[slot].node
      && theirs.lineage.generations.contains(last)
      && theirs.lineage.generations(after: last).count == 1
  }

  /// Answers of the disk do not come any more, or do not count: requests go on without them.
  mutating func abandonDisk(except current: SlotID?) {
    for index in 0..<requests.capacity {
      guard let id = requests.id(at: index), id != current, requests[id].isLocalPending,
        requests[id].origin != .abandoned
      else { continue }
      requests[id].isLocalPending = false
      requests[id].isAbandoned = true
      requests[id].failed = true
      let request = requests[id]
      switch request.origin {
      case .client:
        if request.operation != .read {
          finishClientRequest(id)
        } else if request.isRepair {
          finishRead(id)
        } else {
          retryRead(id)
        }
      case .peer: finishPeerRequest(id, request)
      case .resyncApply: resyncApplied(id, request)
      case .resyncServe: served(id, request, .none)
      case .peerRead: peerReadEnded(id, request, .none)
      case .repairApply: repairApplied(id, request)
      case .verify, .verifyServe, .repairServe, .resyncCompare, .resyncCheck:
        releaseIfAny(request.buffer)
        remove(id)
      case .handshakeFlush, .commandFlush, .syncDoneFlush, .cleanFlush, .logFlush:
        flushed(id, request)
      case .resyncPull, .repairPull, .abandoned: preconditionFailure("not at the disk")
      }
    }
  }

  /// A Primary goes on through the peer in `slot`: a resync into the lost disk is over, without a
  /// new connection.
  mutating func leaveSync(_ slot: Int) {
    for index in 0..<requests.capacity {
      guard let id = requests.id(at: index), Int(requests[id].peer) == slot else { continue }
      switch requests[id].origin {
      case .resyncPull, .resyncApply, .resyncServe, .resyncCompare, .resyncCheck: orphan(id)
      default: break
      }
    }
    peers[slot].sync = SyncSteps()
    become(slot, replication: .established)
    recountOutstanding(slot)
  }

  /// Counts the answers that are due, after some of them will not come or will not be looked at.
  private mutating func recountOutstanding(_ slot: Int) {
    var count = peers[slot].promotion.stale + (peers[slot].awaitsDiskAck ? 1 : 0)
    if peers[slot].promotion.isAsked, !peers[slot].promotion.isAnswered { count += 1 }
    for index in 0..<requests.capacity {
      guard let id = requests.id(at: index), requests[id].pendingPeers.contains(slot) else {
        continue
      }
      count += 1
    }
    peers[slot].outstanding = count
  }

  /// Whether a message belongs to a resync that ended here with the disk.
  func isLate(_ slot: Int, _ type: MessageType) -> Bool {
    guard peers[slot].awaitsDiskAck else { return false }
    switch type {
    case .resyncData, .resyncZeroes, .resyncUnreadable, .bitmap, .bitmapAck, .bitmapDone,
      .syncStart, .syncDone, .resyncCompared, .resyncDigests, .resyncRequest, .resyncAck,
      .syncReady, .syncDoneAck:
      return true
    default: return false
    }
  }

  /// The peer has put on record that this node lacks what comes.
  mutating func receivedDiskAck(_ slot: Int, _ header: MessageHeader) {
    guard peers[slot].awaitsDiskAck, let author = NodeID(header.length),
      header.offset <= Lineage.peerNumberLimit
    else { return protocolViolation(slot, .diskChangedAck) }
    gotAnswer(slot)
    peers[slot].awaitsDiskAck = false
    let newest = Generation(number: header.offset, id: header.id, author: author)
    if let seen = exposed, seen.newest != newest {
      guard let longer = Lineage(seen.generations.suffix(Lineage.limit - 1) + [newest]) else {
        return protocolViolation(slot, .diskChangedAck)
      }
      exposed = longer
    }
    finishClientRequests()
  }

  /// What the peer had answered waited for what it was to put on record.
  mutating func finishClientRequests() {
    for index in 0..<requests.capacity {
      guard let id = requests.id(at: index), requests[id].origin == .client else { continue }
      finishClientRequest(id)
    }
  }

  // MARK: The peer's side

  /// The Primary lost its disk and goes on through this node.
  mutating func servePrimary(_ slot: Int) {
    if peers[slot].replication != .established { leaveSync(slot) }
    var missed = PeerSet()
    missed.insert(slot)
    if options.sabotage != .skipGenerationForPeer { ensureBase(missed) }
    peers[slot].versionOfDiskAck = versionOfBase
    acknowledgeDiskWhenDurable(slot)
  }

  mutating func acknowledgeDiskWhenDurable(_ slot: Int) {
    guard let version = peers[slot].versionOfDiskAck, versionDurable >= version,
      let connection = peers[slot].connection, let newest = superblock?.lineage.newest
    else { return }
    peers[slot].versionOfDiskAck = nil
    let header = MessageHeader(
      .diskChangedAck, id: newest.id, offset: newest.number, length: UInt64(newest.author.value))
    effects.push(.send(connection, header, .none))
  }

  /// Whether the peer in `slot` is Primary and goes on when it loses this node.
  func goesOnAlone(_ slot: Int) -> Bool {
    peers[slot].role == .primary && hasOwnData(slot)
  }

  /// Whether the peer in `slot` does not need this node's data.
  func hasOwnData(_ slot: Int) -> Bool {
    peers[slot].disk != .diskless && peers[slot].disk != .inconsistent
      && peers[slot].disk != .failed
  }

  mutating func receivedReadRequest(_ slot: Int, _ header: MessageHeader) {
    let (end, overflow) = header.offset.addingReportingOverflow(header.length)
    guard !overflow, header.length > 0, header.length <= UInt64(maxPayloadBytes),
      header.offset % sectorSize == 0, header.length % sectorSize == 0, role != .primary,
      peers[slot].role == .primary, let connection = peers[slot].connection,
      peers[slot].requestsHere < Self.requestLimit(ofOnePeer: options)
    else { return protocolViolation(slot, .readRequest) }
    let range = ByteRange(start: header.offset, end: end)
    guard disk == .upToDate, !isDetaching, let volumeBytes = superblock?.volumeBytes,
      end <= volumeBytes
    else {
      let answer = MessageHeader(.readFailed, id: header.id, offset: header.offset)
      effects.push(.send(connection, answer, .none))
      return
    }
    var read = Request(.peerRead, .read, range, tag: header.id)
    read.phase = .active
    read.peer = UInt8(slot)
    read.connection = connection
    peers[slot].requestsHere += 1
    let id = insert(read)
    awaitDisk(id)
    effects.push(.serve(id, range))
  }

  mutating func peerReadEnded(_ id: SlotID, _ request: Request, _ buffer: BufferID) {
    if !request.isOrphaned, peers[Int(request.peer)].connection == request.connection {
      var header = MessageHeader(
        request.failed ? .readFailed : .readData, id: request.tag, offset: request.range.start)
      if !request.failed { header.payloadBytes = UInt32(request.range.length) }
      effects.push(.send(request.connection, header, request.failed ? .none : buffer))
    }
    releaseIfAny(buffer)
    remove(id)
  }
}
