/// Which blocks may differ from a peer's, and how both sides tell each other before a resync.
///
/// What must hold (P2): while two replicas differ in a block, at least one of them has it marked,
/// or has the write that made the difference under way. A mark goes only when the block was
/// resynced, or a write that covers it was acknowledged by both.
///
/// The exchange. Client writes go on and reach both. Messages arrive in the order sent, so what the
/// target tells is never older than its acknowledgements. What the source tells may be: a block is
/// marked there until a write of it under way is acknowledged, and the target may have applied that
/// write before the chunk arrives. Such a block is marked at the target alone and is copied for
/// nothing; the end of the resync waits for it (`flushForSyncDone`).
///
/// ```
/// WFBitMapS                                       WFBitMapT
///   bitmap ... ------------------------------->   marks what it names
///   marks what it names  <-------------------- bitmap ...
///   bitmapDone ------------------------------->   marks durable, then the source's history
///   forgets that the target is behind, durably <- syncReady
///   SyncSource, syncStart -------------------->   SyncTarget: pulls
/// ```
/// The target takes over the history first, while it is Inconsistent: from then on its history and
/// its marks describe its data, and an interrupted resync goes on with what is left. Until the
/// source knows, it must take both for possible (`mayShareNewest`).
import BlockTypes
import Metadata
import Wire

extension Replica {
  /// Chunks that may be under way to the peer: 32 KiB keep the link busy and fit every buffer.
  private static var chunkWindow: Int { 8 }

  /// Marks what the peer in `slot` may lack.
  mutating func markOutOfSync(_ slot: Int, _ range: ByteRange) {
    // The disk may have been replaced by a smaller one since the request began.
    guard range.end <= bitmaps[slot].blockCount * blockSize else { return }
    bitmaps[slot].set(range)
  }

  /// Unmarks the blocks that `range` covers: the peer has the same content.
  mutating func markInSync(_ slot: Int, _ range: ByteRange) {
    guard bitmaps[slot].setCount > 0, let volumeBytes = superblock?.volumeBytes else { return }
    if options.sabotage == .unmarkWhatIsTouched {
      let end = (range.end + blockSize - 1) / blockSize
      return bitmaps[slot].clearBlocks(range.start / blockSize..<end)
    }
    bitmaps[slot].clear(range, volumeBytes: volumeBytes)
    forgetCutRepair(slot)
  }

  /// A client's write is done: what every acknowledging peer has as well is in sync.
  mutating func settleMarks(_ request: Request) {
    guard request.operation.changesData, !request.ackedPeers.isEmpty else { return }
    for slot in 0..<peers.count where request.ackedPeers.contains(slot) {
      guard !request.missedPeers.contains(slot) else { continue }
      markInSync(slot, request.range)
      finishSourceIfDone(slot)
    }
  }

  mutating func beginBitmapExchange(_ slot: Int, _ decision: Decision) {
    become(slot, replication: decision.action == .syncSource ? .wfBitMapS : .wfBitMapT)
    peers[slot].sync.chunkCursor = decision.extent == .full ? nil : 0
    peers[slot].sync.chunksInFlight = 0
    sendChunks(slot)
  }

  private mutating func sendChunks(_ slot: Int) {
    guard let connection = peers[slot].connection else { return }
    while let cursor = peers[slot].sync.chunkCursor,
      peers[slot].sync.chunksInFlight < Self.chunkWindow
    {
      guard let block = bitmaps[slot].firstSet(from: BlockIndex(cursor)) else {
        peers[slot].sync.chunkCursor = nil
        break
      }
      let chunk = block.value / options.bitmapChunkBlocks
      peers[slot].sync.chunkCursor = (chunk + 1) * options.bitmapChunkBlocks
      peers[slot].sync.chunksInFlight += 1
      effects.push(.sendControl(connection, .bitmap(UInt32(chunk))))
      expectAnswer(slot)
    }
    continueExchange(slot)
  }

  /// Goes on when everything was told.
  private mutating func continueExchange(_ slot: Int) {
    guard peers[slot].sync.chunkCursor == nil, let connection = peers[slot].connection else {
      return
    }
    if peers[slot].replication == .wfBitMapS, !peers[slot].sync.bitmapDoneSent {
      peers[slot].sync.bitmapDoneSent = true
      peers[slot].mayShareNewest = true
      effects.push(.send(connection, MessageHeader(.bitmapDone), .none))
      expectAnswer(slot)
    }
    if peers[slot].replication == .wfBitMapT, peers[slot].sync.bitmapDoneReceived,
      peers[slot].sync.startVersion == nil, peers[slot].sync.startSweep == nil
    {
      // What the source has marked must be on this disk as well, before its history is.
      guard !peers[slot].isFull else { return takeOverHistory(slot) }
      peers[slot].sync.startSweep = wantSweep()
    }
  }

  /// Target: the marks and the source's history describe this replica's data from here on.
  mutating func takeOverHistory(_ slot: Int) {
    guard var block = superblock, let report = reports[slot] else { return }
    block.lineage = report.lineage
    block.diskState = .inconsistent
    peers[slot].base = nil
    peers[slot].mayShareNewest = false
    superblock = block
    peers[slot].sync.startVersion = changeSuperblock()
  }

  /// What waits for the superblock at the begin of a resync, on both sides.
  mutating func continueStarting(_ slot: Int) {
    guard let version = peers[slot].sync.startVersion, versionDurable >= version,
      let connection = peers[slot].connection
    else { return }
    if peers[slot].replication == .wfBitMapT, !peers[slot].sync.readySent {
      peers[slot].sync.readySent = true
      effects.push(.send(connection, MessageHeader(.syncReady), .none))
      expectAnswer(slot)
    }
    if peers[slot].replication == .wfBitMapS {
      peers[slot].sync.startVersion = nil
      become(slot, replication: .syncSource)
      effects.push(.send(connection, MessageHeader(.syncStart), .none))
      beginSync(slot)
      finishSourceIfDone(slot)
    }
  }

  // MARK: Messages

  mutating func receivedBitmap(
    _ slot: Int, _ header: MessageHeader, _ payload: UnsafeRawBufferPointer
  ) {
    let isExpected =
      peers[slot].replication == .wfBitMapS && peers[slot].sync.startVersion == nil
      || peers[slot].replication == .wfBitMapT && !peers[slot].sync.bitmapDoneReceived
    guard isExpected, peers[slot].decision?.extent == .bitmap,
      let connection = peers[slot].connection, let volumeBytes = superblock?.volumeBytes
    else { return protocolViolation(slot, .bitmap) }
    if options.sabotage == .replaceMarks {
      let first = header.offset / blockSize
      let end = min(first + options.bitmapChunkBlocks, bitmaps[slot].blockCount)
      bitmaps[slot].clearBlocks(first..<end)
    }
    do {
      try BitmapChunk.merge(
        header, payload, volumeBytes: volumeBytes, into: &bitmaps[slot])
    } catch {
      return protocolViolation(slot, .bitmap)
    }
    effects.push(.send(connection, MessageHeader(.bitmapAck), .none))
  }

  mutating func receivedBitmapAck(_ slot: Int) {
    guard peers[slot].sync.chunksInFlight > 0 else { return protocolViolation(slot, .bitmapAck) }
    gotAnswer(slot)
    peers[slot].sync.chunksInFlight -= 1
    sendChunks(slot)
  }

  mutating func receivedBitmapDone(_ slot: Int) {
    guard peers[slot].replication == .wfBitMapT, !peers[slot].sync.bitmapDoneReceived else {
      return protocolViolation(slot, .bitmapDone)
    }
    peers[slot].sync.bitmapDoneReceived = true
    continueExchange(slot)
  }

  mutating func receivedSyncReady(_ slot: Int) {
    guard peers[slot].replication == .wfBitMapS, peers[slot].sync.bitmapDoneSent,
      peers[slot].sync.chunksInFlight == 0, peers[slot].sync.startVersion == nil
    else { return protocolViolation(slot, .syncReady) }
    gotAnswer(slot)
    if options.sabotage != .keepBase { peers[slot].base = nil }
    peers[slot].mayShareNewest = false
    peers[slot].sync.startVersion = changeSuperblock()
  }

  mutating func receivedSyncStart(_ slot: Int) {
    guard peers[slot].replication == .wfBitMapT, peers[slot].sync.readySent else {
      return protocolViolation(slot, .syncStart)
    }
    gotAnswer(slot)
    peers[slot].sync.startVersion = nil
    become(slot, replication: .syncTarget)
    beginSync(slot)
    pullMore(slot)
  }
}
