/// Resync: the target pulls, the source serves, client writes go on.
///
/// A range is locked at the source from before it is read until the target has written it, so a
/// client write to it is either in the data that is read or sent after it: a resync never
/// overwrites newer data. The end is told in an order that survives a crash or a cut at any point:
///
/// 1. source: forget, durably, that the target lacks our newest generation;
/// 2. source: send `syncDone`; from 1 on, going on alone begins a new generation;
/// 3. target: flush, then take over the lineage and UpToDate, durably; answer.
import BlockTypes
import Metadata
import Wire

extension Replica {
  mutating func beginSync(_ slot: Int) {
    peers[slot].syncBlocksTotal = bitmaps[slot].setCount
    peers[slot].syncStarted = now
    if options.sabotage != .keepPullCursor { peers[slot].pullCursor = 0 }
    peers[slot].sync.pullsInFlight = 0
    peers[slot].wasRefusedBlocks = false
    peers[slot].pullsSingly = false
    peers[slot].sync.retryPullsAt = .never
    beginComparing(slot)
    peers[slot].repairWasCut = false
    progressSweepAt = now.advanced(milliseconds: Self.progressSweepMs)
    if peers[slot].isPausedHere || waitsForResync { tellPause(slot) }
  }

  /// What was copied is taken from the bitmap on disk so often: after a crash no more than this is
  /// copied again. Milliseconds.
  private static var progressSweepMs: UInt64 { 5_000 }

  /// Blocks were copied.
  private mutating func keepProgress() {
    guard now >= progressSweepAt else { return }
    progressSweepAt = now.advanced(milliseconds: Self.progressSweepMs)
    _ = wantSweep()
  }

  // MARK: Target

  mutating func pullMore(_ slot: Int) {
    guard peers[slot].replication == .syncTarget, let connection = peers[slot].connection,
      let volumeBytes = superblock?.volumeBytes, !isResting(slot)
    else { return }
    compareMore(slot)
    let request = pullSize
    let compared = peers[slot].comparedUpTo
    while peers[slot].sync.pullsInFlight < request.window {
      guard let block = bitmaps[slot].firstSet(from: BlockIndex(peers[slot].pullCursor)),
        block.offset.bytes < compared
      else {
        guard compared == .max, options.sabotage != .keepPullCursor, beginsAnotherPass(slot) else {
          return
        }
        continue
      }
      let start = block.offset.bytes
      let wanted = peers[slot].pullsSingly ? 1 : request.blocks
      let blocks = bitmaps[slot].runLength(
        from: block, limit: min(wanted, (compared - start) / blockSize))
      let range = ByteRange(start: start, end: min(start + blocks * blockSize, volumeBytes))
      peers[slot].pullCursor = block.value + blocks
      peers[slot].sync.pullsInFlight += 1
      var pull = Request(.resyncPull, .write, range, tag: 0)
      pull.peer = UInt8(slot)
      pull.connection = connection
      let id = insert(pull)
      // Who has the clients locks: nothing is on its way to the source that the data would lack.
      if role == .primary, options.sabotage != .pullWithoutLock {
        waiting.push(id)
      } else {
        sendPull(id)
      }
    }
  }

  mutating func sendPull(_ id: SlotID) {
    requests[id].phase = .active
    heatAhead(id)
    let request = requests[id]
    let header = MessageHeader(
      .resyncRequest, id: id.tag, offset: request.range.start, length: request.range.length)
    effects.push(.send(request.connection, header, .none))
    expectAnswer(Int(request.peer))
    requests[id].pendingPeers.insert(Int(request.peer))
  }

  mutating func receivedResyncData(
    _ slot: Int, _ header: MessageHeader, _ buffer: BufferID
  ) -> Bool {
    let id = SlotID(tag: header.id)
    guard requests.contains(id), requests[id].origin == .resyncPull,
      requests[id].pendingPeers.contains(slot), requests[id].range.start == header.offset,
      header.type == .resyncZeroes || requests[id].range.length == UInt64(header.payloadBytes)
    else { return false }
    gotAnswer(slot)
    requests[id].pendingPeers.remove(slot)
    requests[id].origin = .resyncApply
    if header.type == .resyncZeroes {
      requests[id].operation = .writeZeroes
      requests[id].mayUnmap = true
    }
    requests[id].phase = .waiting
    requests[id].buffer = buffer
    // The source's own id of the range it keeps locked for us; goes back with the answer.
    requests[id].tag = header.length
    peers[slot].requestsHere += 1
    flushesAreStale()
    waiting.push(id)
    return true
  }

  mutating func resyncApplied(_ id: SlotID, _ request: Request) {
    let slot = Int(request.peer)
    releaseIfAny(request.buffer)
    remove(id)
    guard !request.isOrphaned, !request.failed, let volumeBytes = superblock?.volumeBytes else {
      return
    }
    bitmaps[slot].clear(request.range, volumeBytes: volumeBytes)
    keepProgress()
    let header = MessageHeader(
      .resyncAck, id: request.tag, offset: request.range.start, length: request.range.length)
    effects.push(.send(request.connection, header, .none))
    peers[slot].sync.pullsInFlight -= 1
    pullMore(slot)
    flushForSyncDone(slot)
  }

  mutating func receivedSyncDone(_ slot: Int, _ report: StateReport) {
    guard peers[slot].replication == .syncTarget, !peers[slot].sync.doneReceived,
      !report.lineage.isEmpty
    else { return protocolViolation(slot, .syncDone) }
    reports[slot] = report
    peers[slot].sync.doneReceived = true
    flushForSyncDone(slot)
  }

  /// Goes on with the end of the resync when nothing is left. What is still marked here is pulled
  /// first: the source told a block as marked while a write of it was under way, and that write
  /// settled the block there before and here after the news.
  mutating func flushForSyncDone(_ slot: Int) {
    // A pull for a block that a write has covered meanwhile is answered all the same.
    let isLeft =
      peers[slot].sync.pullsInFlight > 0 || peers[slot].comparesHere > 0
      || bitmaps[slot].setCount > 0
    guard peers[slot].sync.doneReceived, peers[slot].replication == .syncTarget,
      !isLeft || options.sabotage == .finishEarly
    else { return }
    // One that was begun for a connection given up meanwhile has to end first.
    guard peers[slot].syncDoneFlush == nil, peers[slot].sync.adoptVersion == nil else { return }
    if options.sabotage == .skipSyncDoneFlush { return takeOverContent(slot) }
    peers[slot].syncDoneFlush = beginFlush(.syncDoneFlush, peer: slot)
  }

  mutating func syncDoneFlushed(_ request: Request) {
    let slot = Int(request.peer)
    let isOld = peers[slot].connection != request.connection
    if isOld, options.sabotage != .believeOldFlush { return flushForSyncDone(slot) }
    takeOverContent(slot)
  }

  /// The target has everything that the source had when it said so.
  private mutating func takeOverContent(_ slot: Int) {
    guard var block = superblock, let report = reports[slot] else { return }
    block.lineage = report.lineage
    block.diskState = .upToDate
    block.wasPrimary = isOrBecomesPrimary
    crashed = false
    peers[slot].base = nil
    superblock = block
    peers[slot].sync.adoptVersion = changeSuperblock()
    if options.sabotage == .upToDateBeforeDurable { become(disk: .upToDate) }
  }

  // MARK: Source

  mutating func receivedResyncRequest(_ slot: Int, _ header: MessageHeader) {
    let (end, overflow) = header.offset.addingReportingOverflow(header.length)
    guard peers[slot].replication == .syncSource, let volumeBytes = superblock?.volumeBytes,
      !overflow, end <= volumeBytes, header.length > 0,
      header.length <= UInt64(maxPayloadBytes), header.offset % blockSize == 0,
      header.length % sectorSize == 0, peers[slot].servesHere < Self.serveLimit,
      let connection = peers[slot].connection
    else { return protocolViolation(slot, .resyncRequest) }
    var serve = Request(
      .resyncServe, .read, ByteRange(start: header.offset, end: end), tag: header.id)
    serve.peer = UInt8(slot)
    serve.connection = connection
    peers[slot].servesHere += 1
    waiting.push(insert(serve))
  }

  /// The range was read and may go to the target. It stays locked until the target wrote it.
  mutating func served(_ id: SlotID, _ request: Request, _ buffer: BufferID) {
    let slot = Int(request.peer)
    guard !request.isOrphaned else {
      releaseIfAny(buffer)
      remove(id)
      return
    }
    guard !request.failed || options.sabotage == .sendUnreadable else {
      // Never send what could not be read: the target keeps its block marked.
      releaseIfAny(buffer)
      remove(id)
      let header = MessageHeader(
        .resyncUnreadable, id: request.tag, offset: request.range.start,
        length: request.range.length)
      effects.push(.send(request.connection, header, .none))
      return
    }
    var header = MessageHeader(
      buffer == .none ? .resyncZeroes : .resyncData, id: request.tag, offset: request.range.start,
      length: id.tag)
    if buffer != .none { header.payloadBytes = UInt32(request.range.length) }
    effects.push(.send(request.connection, header, buffer))
    releaseIfAny(buffer)
    if options.sabotage == .unmarkWhenSent { markInSync(slot, request.range) }
    expectAnswer(slot)
  }

  mutating func receivedResyncAck(_ slot: Int, _ header: MessageHeader) {
    let id = SlotID(tag: header.id)
    guard requests.contains(id), requests[id].origin == .resyncServe,
      Int(requests[id].peer) == slot, !requests[id].isLocalPending,
      requests[id].phase == .active, requests[id].range.start == header.offset,
      let volumeBytes = superblock?.volumeBytes
    else { return protocolViolation(slot, .resyncAck) }
    gotAnswer(slot)
    bitmaps[slot].clear(requests[id].range, volumeBytes: volumeBytes)
    keepProgress()
    remove(id)
    finishSourceIfDone(slot)
  }

  /// Begins the end of the resync when no block is marked any more.
  mutating func finishSourceIfDone(_ slot: Int) {
    let isLast = bitmaps[slot].setCount == 0
    guard peers[slot].replication == .syncSource, peers[slot].sync.finishVersion == nil,
      isLast || options.sabotage == .finishEarly && bitmaps[slot].setCount == 1
    else { return }
    if options.sabotage != .keepBase { peers[slot].base = nil }
    crashed = false
    if var block = superblock {
      block.wasPrimary = isOrBecomesPrimary
      superblock = block
    }
    peers[slot].sync.finishVersion = changeSuperblock()
  }

  /// What waits for the superblock at the end of a resync, on both sides.
  mutating func continueFinishing(_ slot: Int) {
    guard let connection = peers[slot].connection else { return }
    if let version = peers[slot].sync.finishVersion, versionDurable >= version,
      !peers[slot].sync.doneSent
    {
      peers[slot].sync.doneSent = true
      sentReports[slot] = report(for: slot)
      effects.push(.sendControl(connection, .syncDone))
      expectAnswer(slot)
    }
    if let version = peers[slot].sync.adoptVersion, versionDurable >= version {
      peers[slot].sync.adoptVersion = nil
      become(disk: .upToDate)
      become(slot, replication: .established)
      noteResyncDone(slot)
      effects.push(.send(connection, MessageHeader(.syncDoneAck), .none))
      settleAfterSync()
    }
  }

  mutating func receivedSyncDoneAck(_ slot: Int) {
    guard peers[slot].sync.doneSent, peers[slot].replication == .syncSource else {
      return protocolViolation(slot, .syncDoneAck)
    }
    gotAnswer(slot)
    peers[slot].sync.doneSent = false
    peers[slot].sync.finishVersion = nil
    become(slot, peerDisk: .upToDate)
    become(slot, replication: .established)
    noteResyncDone(slot)
    settleAfterSync()
  }

  private mutating func noteResyncDone(_ slot: Int) {
    effects.push(
      .note(
        .resyncDone(
          peer: slot, blocks: peers[slot].syncBlocksTotal, equal: peers[slot].syncBlocksEqual)))
  }

  /// What was copied is taken from the bitmap on disk, and a pair without a Primary is clean.
  private mutating func settleAfterSync() {
    _ = wantSweep()
    beginCleanFlush()
  }
}
