/// Client requests: admission, overlap order, local disk and peers in parallel, completion.
///
/// A write is sent to the peers before it is queued for the local disk, because the network round
/// trip is the longer of the two. Overlapping writes are started one after the other, so they end
/// in the same order on every replica (P6).
import BlockTypes
import Metadata
import Wire

extension Replica {
  mutating func submit(_ client: ClientRequest) {
    precondition(clientRequests < options.clientRequestLimit, "the export exceeded its limit")
    if let outcome = refusal(of: client) {
      effects.push(.complete(tag: client.tag, outcome))
      releaseIfAny(client.buffer)
      return
    }
    var request = Request(.client, client.operation, client.range, tag: client.tag)
    request.forceUnitAccess = client.forceUnitAccess
    request.mayUnmap = client.mayUnmap || client.operation == .trim
    request.buffer = client.buffer
    clientRequests += 1
    lastClientAt = now
    let id = insert(request)
    if client.operation == .read, disk == .upToDate, !isBeingRepaired(client.range) {
      requests[id].phase = .active
      awaitDisk(id)
      effects.push(.read(id, client.range, client.buffer))
    } else if waiting.isEmpty, canStart(request) {
      start(id)
    } else {
      waiting.push(id)
    }
  }

  private func refusal(of client: ClientRequest) -> Outcome? {
    let mayServe = role == .primary || options.sabotage == .serveAsSecondary
    guard mayServe, !isDemoting else { return .notPrimary }
    guard disk == .upToDate || exposed != nil else { return .ioError }
    guard client.operation != .flush else { return nil }
    guard client.range.end <= exposedBytes, client.range.length > 0 else { return .invalid }
    let carriesData = client.operation == .read || client.operation == .write
    guard !carriesData || client.range.length <= UInt64(maxPayloadBytes) else { return .invalid }
    guard fitsLog(client.range) else { return .invalid }
    let isWhole = client.range.start % sectorSize == 0 && client.range.end % sectorSize == 0
    return isWhole ? nil : .invalid
  }

  mutating func insert(_ request: Request) -> SlotID {
    guard let id = requests.insert(request) else {
      preconditionFailure("the slab is larger than all limits together")
    }
    return id
  }

  private func canStart(_ request: Request) -> Bool {
    if request.origin == .client {
      if request.operation != .read || disk != .upToDate, isFrozen { return false }
      if disk != .upToDate, waitsForAccess(request) { return false }
    }
    guard canLog(request), !request.isForResync || mayServe else { return false }
    if options.sabotage == .ignoreOverlaps { return true }
    if request.origin == .repairPull, isBeingRead(request.range) { return false }
    return request.operation == .flush || request.holdsRange || !active.overlaps(request.range)
  }

  /// Starts what waits and may start. An overlap with an earlier waiting one waits, too.
  mutating func startWaiting() {
    var kept = 0
    for _ in 0..<waiting.count {
      guard let id = waiting.pop() else { return }
      guard requests.contains(id) else { continue }
      let request = requests[id]
      if canStart(request), !overlapsKept(request, kept) {
        start(id)
      } else {
        waiting.push(id)
        kept += 1
      }
    }
  }

  /// Whether `request` overlaps one of the last `kept` entries, which were passed over.
  private func overlapsKept(_ request: Request, _ kept: Int) -> Bool {
    guard request.operation != .flush, !request.holdsRange else { return false }
    for index in (waiting.count - kept)..<waiting.count {
      guard requests.contains(waiting[index]) else { continue }
      let other = requests[waiting[index]]
      // One that rests has read nothing yet.
      if other.isForResync, !mayServe { continue }
      if other.operation != .flush, other.range.overlaps(request.range) { return true }
    }
    return false
  }

  private mutating func start(_ id: SlotID) {
    let request = requests[id]
    if request.origin == .client, request.operation.changesData { clientWrites += 1 }
    let isRemote = request.origin == .client && disk != .upToDate
    if isRemote, goodPeer == nil { return failWithoutDisk(id) }
    guard isRemote || disk != .diskless && disk != .failed && logState != .off else {
      return failWithoutDisk(id)
    }
    let skipsLock = options.sabotage == .serveWithoutLock && request.origin == .resyncServe
    if request.operation != .flush, !request.holdsRange, !skipsLock {
      active.insert(request.range, owner: id)
      requests[id].holdsRange = true
    }
    if request.isForResync, !skipsLock { serveBegins(request.range.length) }
    switch request.origin {
    case .client where request.operation == .read: startRead(id)
    case .resyncPull: sendPull(id)
    default:
      let isLocal = !isRemote || writesHereToo
      if !isLocal || enterLog(id) { carryOut(id) }
    }
  }

  /// Sends and writes what was started. Its extents are hot.
  mutating func carryOut(_ id: SlotID) {
    requests[id].phase = .active
    awaitDisk(id)
    let request = requests[id]
    switch request.origin {
    case .client where request.isRepair:
      effects.push(.write(id, request.range, request.buffer, durable: false))
    case .client:
      let isLocal = disk == .upToDate || writesHereToo
      requests[id].isLocalPending = isLocal
      requests[id].wroteHere = isLocal
      startClientRequest(id, request)
      // The peer may have been lost while this waited for the log.
      guard isLocal else { return finishClientRequest(id) }
      writeLocally(id, request)
      if options.sabotage == .releaseLogEarly { releaseLog(id) }
    case .peer, .resyncApply, .repairApply: writeLocally(id, request)
    case .resyncServe, .resyncCheck, .verifyServe, .repairServe:
      effects.push(.serve(id, request.range))
    case .repairPull: sendRepairRequest(id)
    case .verify: verifyRangeIsLocked(id)
    case .resyncPull, .resyncCompare, .peerRead, .handshakeFlush, .commandFlush, .syncDoneFlush,
      .cleanFlush, .logFlush, .abandoned:
      preconditionFailure("never waits")
    }
  }

  /// A request is about to be given to the disk.
  mutating func awaitDisk(_ id: SlotID) {
    requests[id].isLocalPending = true
    requests[id].diskBegan = now
    watchDisk()
  }

  /// Whether a Primary that is being synced writes to its own disk what it writes to its source.
  private var writesHereToo: Bool {
    guard disk == .inconsistent, logState != .off else { return false }
    for slot in 0..<peers.count where peers[slot].replication == .syncTarget { return true }
    return false
  }

  mutating func releaseLog(_ id: SlotID) {
    guard requests[id].holdsLog else { return }
    requests[id].holdsLog = false
    log.unpin(logged(requests[id].range))
  }

  /// Ends a request that waited while the disk was lost. A change of a client is counted.
  mutating func failWithoutDisk(_ id: SlotID) {
    requests[id].phase = .active
    requests[id].failed = true
    let request = requests[id]
    switch request.origin {
    case .client where request.operation == .read: finishRead(id)
    case .client: complete(id)
    case .peer: finishPeerRequest(id, request)
    case .resyncApply: resyncApplied(id, request)
    case .resyncPull, .resyncServe, .verify, .verifyServe, .repairPull, .repairServe: remove(id)
    case .resyncCheck, .repairApply:
      releaseIfAny(request.buffer)
      remove(id)
    case .resyncCompare, .peerRead, .handshakeFlush, .commandFlush, .syncDoneFlush, .cleanFlush,
      .logFlush, .abandoned:
      preconditionFailure("never waits")
    }
  }

  private mutating func startClientRequest(_ id: SlotID, _ request: Request) {
    var missed = PeerSet()
    for slot in 0..<peers.count {
      guard peers[slot].takesWrites, let connection = peers[slot].connection else {
        if request.operation.changesData { missed.insert(slot) }
        continue
      }
      if request.operation == .flush, options.sabotage == .flushOnlyHere { continue }
      effects.push(.send(connection, header(for: request, id), request.buffer))
      expectAnswer(slot)
      requests[id].pendingPeers.insert(slot)
    }
    if options.sabotage == .completeBeforePeer { requests[id].pendingPeers = PeerSet() }
    guard !missed.isEmpty else { return }
    requests[id].missedPeers = missed
    for slot in 0..<peers.count where missed.contains(slot) { markOutOfSync(slot, request.range) }
    guard disk == .upToDate else { return }
    // In parallel with the disk write: completion waits for it, see `finishClientRequest`.
    ensureBase(missed)
  }

  private func header(for request: Request, _ id: SlotID) -> MessageHeader {
    let type: MessageType =
      switch request.operation {
      case .write: .write
      case .writeZeroes: .writeZeroes
      case .trim: .trim
      case .flush: .flush
      case .read: preconditionFailure("reads are sent by startRead")
      }
    var header = MessageHeader(
      type, id: id.tag, offset: request.range.start, length: request.range.length)
    header.forceUnitAccess =
      request.forceUnitAccess && options.sabotage != .forceUnitAccessOnlyHere
    header.mayUnmap = request.mayUnmap
    if type == .write { header.payloadBytes = UInt32(request.range.length) }
    return header
  }

  private mutating func writeLocally(_ id: SlotID, _ request: Request) {
    switch request.operation {
    case .write:
      effects.push(.write(id, request.range, request.buffer, durable: request.forceUnitAccess))
    case .writeZeroes, .trim:
      // A trimmed range reads as zeroes everywhere: replicas stay identical (P5).
      effects.push(
        .writeZeroes(
          id, request.range, mayUnmap: request.mayUnmap, durable: request.forceUnitAccess))
    case .flush: effects.push(.flush(id))
    case .read: preconditionFailure("reads are not started here")
    }
  }

  mutating func diskCompleted(_ id: SlotID, _ result: Int32, _ buffer: BufferID) {
    precondition(requests.contains(id), "a completion for a request that does not exist")
    // Also of a disk that was given up: the same one may be attached again.
    if result < 0, requests[id].isDurable { hasFailedFlush = true }
    if requests[id].isAbandoned || requests[id].origin == .abandoned {
      return abandonedCompleted(id, buffer)
    }
    let isChange = requests[id].operation != .read || requests[id].isRepair
    if result < 0 {
      requests[id].failed = true
      effects.push(.note(.diskError(id, errno: -result)))
      if isChange { diskErrors.writeErrors += 1 }
      if !condemnsDisk(requests[id]) { markFailedWrite(requests[id]) }
    }
    // A failed write or flush is final for this disk: Linux may have dropped the dirty pages and
    // report success next time. A failed read condemns only what was asked for. Losing the disk may
    // lose the connection, which drops requests: this one stays until it is looked at below.
    if result < 0, isChange, disk != .diskless, condemnsDisk(requests[id]) {
      failDisk(except: id)
    }
    requests[id].isLocalPending = false
    let request = requests[id]
    switch request.origin {
    case .client:
      if request.operation == .read { finishRead(id) } else { finishClientRequest(id) }
    case .peer: finishPeerRequest(id, request)
    case .peerRead: peerReadEnded(id, request, buffer)
    case .resyncServe: served(id, request, buffer)
    case .resyncCompare: compareRead(id, request, buffer)
    case .resyncCheck: checkRead(id, request, buffer)
    case .verify: verifyRangeRead(id, request, buffer)
    case .verifyServe: verifyServed(id, request, buffer)
    case .resyncApply: resyncApplied(id, request)
    case .repairApply: repairApplied(id, request)
    case .repairServe: repairServed(id, request, buffer)
    case .resyncPull, .repairPull, .abandoned:
      preconditionFailure("no disk operation, or handled before")
    case .handshakeFlush, .commandFlush, .syncDoneFlush, .cleanFlush, .logFlush:
      flushed(id, request)
    }
  }

  /// A disk that was given up has answered after all: nobody waits for it.
  private mutating func abandonedCompleted(_ id: SlotID, _ buffer: BufferID) {
    releaseIfAny(buffer)
    requests[id].isAbandoned = false
    if requests[id].origin == .abandoned { requests.remove(id) }
  }

  mutating func flushed(_ id: SlotID, _ request: Request) {
    remove(id)
    let slot = Int(request.peer)
    switch request.origin {
    case .handshakeFlush:
      peers[slot].handshakeFlush = nil
      if !request.failed { handshakeFlushed(request) }
    case .commandFlush:
      commandFlush = nil
      commandFlushed(id)
    case .syncDoneFlush:
      peers[slot].syncDoneFlush = nil
      if !request.failed { syncDoneFlushed(request) }
    case .cleanFlush:
      cleanFlush = nil
      if !request.failed { cleanFlushed() }
    case .logFlush: logFlushed(request)
    case .client, .peer, .resyncPull, .resyncApply, .resyncServe, .resyncCompare, .resyncCheck,
      .verify, .verifyServe, .repairPull, .repairApply, .repairServe, .peerRead, .abandoned:
      preconditionFailure("no flush of our own")
    }
  }

  /// Begins a flush for `origin`; the caller keeps the id and begins no second one before its end.
  mutating func beginFlush(_ origin: Origin, peer slot: Int = 0) -> SlotID {
    var flush = Request(origin, .flush, ByteRange(start: 0, end: 0), tag: 0)
    flush.phase = .active
    flush.peer = UInt8(slot)
    if slot < peers.count, let connection = peers[slot].connection { flush.connection = connection }
    let id = insert(flush)
    awaitDisk(id)
    effects.push(.flush(id))
    return id
  }

  /// Completes a write or flush if nothing is left to wait for.
  mutating func finishClientRequest(_ id: SlotID) {
    let request = requests[id]
    guard request.phase == .active, !request.isLocalPending, request.pendingPeers.isEmpty else {
      return
    }
    guard disk == .upToDate else { return finishThroughPeer(id) }
    // Order matters: were the client told first, a crash here would lose the only record that the
    // peer lacks this write, and both replicas would look equal (P3).
    let needsBase = request.operation.changesData && !request.missedPeers.isEmpty
    if needsBase, !request.failed {
      ensureBase(request.missedPeers)
      if versionDurable < versionOfBase, options.sabotage != .acknowledgeBeforeGeneration {
        requests[id].phase = .waitingBase
        waitingBase.push(id)
        return
      }
    }
    complete(id)
  }

  mutating func complete(_ id: SlotID) {
    let request = requests[id]
    // Without good data of its own this node cannot record who lacks the write: not acknowledged.
    let isSafe = !request.failed && disk == .upToDate
    effects.push(.complete(tag: request.tag, isSafe ? .done : .ioError))
    releaseIfAny(request.buffer)
    clientRequests -= 1
    if request.operation.changesData { clientWrites -= 1 }
    remove(id)
    if isSafe { settleMarks(request) }
  }

  /// Completes what waited for the generation, which is durable now or never will be.
  mutating func completeWaitingBase() {
    guard versionDurable >= versionOfBase || disk != .upToDate else { return }
    for _ in 0..<waitingBase.count {
      guard let id = waitingBase.pop() else { return }
      guard requests.contains(id), requests[id].phase == .waitingBase else { continue }
      requests[id].phase = .active
      if requests[id].origin == .peer {
        if disk != .upToDate { requests[id].failed = true }
        finishPeerRequest(id, requests[id])
      } else if disk == .upToDate {
        complete(id)
      } else {
        finishThroughPeer(id)
      }
    }
  }

  mutating func remove(_ id: SlotID) {
    let request = requests[id]
    if request.holdsLog {
      let isSpent = request.origin == .resyncApply || request.origin == .resyncPull
      log.unpin(logged(request.range), isSpent: isSpent)
    }
    if request.holdsRange { active.remove(owner: id) }
    switch request.origin {
    case .peer, .resyncApply, .peerRead: peers[Int(request.peer)].requestsHere -= 1
    case .resyncServe, .resyncCheck:
      peers[Int(request.peer)].servesHere -= 1
      if request.holdsRange { serveEnded() }
    case .resyncCompare: peers[Int(request.peer)].comparesHere -= 1
    case .verifyServe, .repairServe: peers[Int(request.peer)].servesHere -= 1
    case .verify: peers[Int(request.peer)].verifiesHere -= 1
    case .repairPull: peers[Int(request.peer)].repairsHere -= 1
    case .repairApply:
      peers[Int(request.peer)].repairsHere -= 1
      peers[Int(request.peer)].requestsHere -= 1
    case .client, .resyncPull, .handshakeFlush, .commandFlush, .syncDoneFlush, .cleanFlush,
      .logFlush, .abandoned:
      break
    }
    if request.isAbandoned {
      // The late answer must find a slot that nobody else has taken, and what it answers.
      var left = Request(.abandoned, request.operation, ByteRange(start: 0, end: 0), tag: 0)
      left.forceUnitAccess = request.forceUnitAccess
      requests[id] = left
    } else {
      requests.remove(id)
    }
  }

  /// The peer in `slot` answered a write or flush of ours.
  mutating func receivedAck(_ slot: Int, _ header: MessageHeader) {
    let id = SlotID(tag: header.id)
    if options.sabotage == .completeBeforePeer { return gotAnswer(slot) }
    guard requests.contains(id), requests[id].origin == .client,
      requests[id].pendingPeers.contains(slot)
    else { return protocolViolation(slot, .ack) }
    gotAnswer(slot)
    sabotageCounter += 1
    if options.sabotage == .dropPeerAck, sabotageCounter % 64 == 0 { return }
    requests[id].pendingPeers.remove(slot)
    if header.length != 0, options.sabotage != .ignorePeerError {
      if requests[id].operation.changesData {
        requests[id].missedPeers.insert(slot)
        markOutOfSync(slot, requests[id].range)
      }
      if peers[slot].takesWrites { become(slot, peerDisk: .failed) }
      stopWaitingForAccess()
    } else {
      requests[id].ackedPeers.insert(slot)
    }
    finishClientRequest(id)
  }

  /// Begins a generation if a peer in `missed` may believe that it has everything of this one.
  mutating func ensureBase(_ missed: PeerSet) {
    var begins = PeerSet()
    for slot in 0..<peers.count where missed.contains(slot) {
      if peers[slot].base == nil || peers[slot].mayShareNewest { begins.insert(slot) }
    }
    // Every write comes here while a peer is away: the superblock is copied only when it changes.
    guard !begins.isEmpty, options.sabotage != .skipLineageWrite, var block = superblock,
      let newest = block.lineage.newest
    else { return }
    var continuesPrimary = false
    for slot in 0..<peers.count where begins.contains(slot) {
      if peers[slot].base == nil { peers[slot].base = newest }
      peers[slot].mayShareNewest = false
      if peers[slot].state == .connected || peers[slot].wasLostAsPrimary { continuesPrimary = true }
    }
    block.lineage.begin(
      id: entropy, author: options.node, at: unixSeconds, continuesPrimary: continuesPrimary)
    superblock = block
    if let generation = block.lineage.newest { effects.push(.note(.newGeneration(generation))) }
    versionOfBase = changeSuperblock()
  }

  /// What a lost peer leaves behind: its answers will not come, its requests are no longer wanted.
  mutating func dropRequests(of slot: Int) {
    for index in 0..<requests.capacity {
      guard let id = requests.id(at: index) else { continue }
      let request = requests[id]
      switch request.origin {
      case .client:
        guard request.pendingPeers.contains(slot) else {
          // It may have waited for what the peer was to put on record.
          if disk != .upToDate { finishClientRequest(id) }
          continue
        }
        requests[id].pendingPeers.remove(slot)
        guard request.operation != .read else {
          retryRead(id)
          continue
        }
        if request.operation.changesData {
          requests[id].missedPeers.insert(slot)
          if options.sabotage != .forgetDroppedWrites { markOutOfSync(slot, request.range) }
        }
        finishClientRequest(id)
      case .peer, .resyncApply, .resyncServe, .resyncPull, .resyncCompare, .resyncCheck, .verify,
        .verifyServe, .repairPull, .repairApply, .repairServe, .peerRead:
        if Int(request.peer) == slot { orphan(id) }
      case .handshakeFlush, .commandFlush, .syncDoneFlush, .cleanFlush, .logFlush, .abandoned:
        break
      }
    }
    if options.sabotage == .unmarkLate { unmarkLate(slot) }
  }

  /// Lets the disk finish what it has begun, so the range stays locked; drops everything else.
  mutating func orphan(_ id: SlotID) {
    let request = requests[id]
    requests[id].isOrphaned = true
    guard !request.isLocalPending else { return }
    releaseIfAny(request.buffer)
    remove(id)
  }
}
