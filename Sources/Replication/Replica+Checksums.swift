/// Resync by checksum (`csums-alg`): blocks that are marked, but equal, are not sent.
///
/// What must hold: a mark goes only when both sides have the same content at one moment (P2). The
/// target reads what it has and sends digests; the source locks the range, so that every write to
/// it is done on both sides, reads, and compares. What the target read may be old by then: a sector
/// that changed since was written by a client, on both sides alike; every other is compared. So
/// equal digests mean equal blocks at the moment of the lock, whatever the target read.
///
/// ```
/// SyncTarget                                    SyncSource
///   reads, resyncDigests ------------------->   locks, reads, compares
///   unmarks what is equal <--- resyncCompared   unmarks what is equal, unlocks
///   pulls what is still marked
/// ```
/// Nobody flushes for a block that was found equal. Both disks were flushed in the handshake, and
/// what was written since lies in extents that are hot in the activity log of its disk.
///
/// Comparisons run ahead of the pulls: `comparedUpTo` is where everything is compared up to.
import BlockTypes
import Metadata
import Wire

extension Replica {
  /// A resync begins. The target's configuration decides whether it compares. A disk that failed a
  /// flush may return blocks that are equal and that it does not keep: they are all written anew.
  mutating func beginComparing(_ slot: Int) {
    let compares = peers[slot].replication == .syncTarget && !hasFailedFlush
    peers[slot].checksumAlgorithm = compares ? options.checksumAlgorithm : nil
    peers[slot].compareCursor = 0
    peers[slot].comparedUpTo = peers[slot].checksumAlgorithm == nil || role == .primary ? .max : 0
    peers[slot].syncBlocksEqual = 0
  }

  // MARK: Target

  /// Begins to compare further ranges, as many as the window has room for. The caller has looked
  /// whether the resync goes on at all.
  mutating func compareMore(_ slot: Int) {
    guard peers[slot].comparedUpTo != .max, let connection = peers[slot].connection,
      let volumeBytes = superblock?.volumeBytes
    else { return }
    let size = pullSize
    let limit = min(size.blocks, BlockDigest.blockLimit)
    while peers[slot].comparesHere < size.window {
      guard let block = bitmaps[slot].firstSet(from: BlockIndex(peers[slot].compareCursor)) else {
        peers[slot].compareCursor = bitmaps[slot].blockCount
        break
      }
      let blocks = bitmaps[slot].runLength(from: block, limit: limit)
      let start = block.offset.bytes
      let range = ByteRange(start: start, end: min(start + blocks * blockSize, volumeBytes))
      peers[slot].compareCursor = block.value + blocks
      peers[slot].comparesHere += 1
      var compare = Request(.resyncCompare, .read, range, tag: 0)
      compare.phase = .active
      compare.peer = UInt8(slot)
      compare.connection = connection
      let id = insert(compare)
      awaitDisk(id)
      effects.push(.serve(id, range))
    }
    findCompared(slot)
  }

  /// Everything before the first comparison under way is compared.
  private mutating func findCompared(_ slot: Int) {
    var compared = peers[slot].compareCursor * blockSize
    if peers[slot].compareCursor >= bitmaps[slot].blockCount { compared = .max }
    for index in 0..<requests.capacity {
      guard let id = requests.id(at: index), requests[id].origin == .resyncCompare,
        Int(requests[id].peer) == slot, !requests[id].isOrphaned
      else { continue }
      compared = min(compared, requests[id].range.start)
    }
    peers[slot].comparedUpTo = compared
  }

  /// The target's own blocks were read.
  mutating func compareRead(_ id: SlotID, _ request: Request, _ buffer: BufferID) {
    let slot = Int(request.peer)
    let algorithm = peers[slot].checksumAlgorithm
    guard !request.isOrphaned, !request.failed, let algorithm else {
      // What cannot be read stays marked and is copied.
      releaseIfAny(buffer)
      return compareEnded(id, slot)
    }
    var header = MessageHeader(
      .resyncDigests, id: id.tag, offset: request.range.start, length: UInt64(algorithm.rawValue))
    header.payloadBytes =
      UInt32(BlockDigest.blocks(request.range.length)) * UInt32(algorithm.byteCount)
    effects.push(
      .sendDigests(
        request.connection, header, buffer, bytes: UInt32(request.range.length), algorithm))
    effects.push(.release(buffer))
    expectAnswer(slot)
    requests[id].pendingPeers.insert(slot)
  }

  mutating func receivedResyncCompared(_ slot: Int, _ header: MessageHeader) {
    let id = SlotID(tag: header.id)
    guard peers[slot].replication == .syncTarget, requests.contains(id),
      requests[id].origin == .resyncCompare, Int(requests[id].peer) == slot,
      requests[id].pendingPeers.contains(slot), requests[id].range.start == header.offset
    else { return protocolViolation(slot, .resyncCompared) }
    gotAnswer(slot)
    unmarkEqual(slot, requests[id].range, differing: header.length)
    compareEnded(id, slot)
  }

  private mutating func compareEnded(_ id: SlotID, _ slot: Int) {
    remove(id)
    guard peers[slot].replication == .syncTarget else { return }
    findCompared(slot)
    pullMore(slot)
    flushForSyncDone(slot)
  }

  // MARK: Source

  /// The target's digests of blocks. `false` when a correct peer cannot send that.
  mutating func receivedResyncDigests(
    _ slot: Int, _ header: MessageHeader, _ buffer: BufferID
  ) -> Bool {
    guard peers[slot].replication == .syncSource, let volumeBytes = superblock?.volumeBytes,
      let connection = peers[slot].connection,
      let algorithm = UInt8(exactly: header.length).flatMap(DigestAlgorithm.init(rawValue:)),
      algorithm.provesEquality, buffer != .none,
      header.payloadBytes % UInt32(algorithm.byteCount) == 0, header.offset % blockSize == 0,
      header.offset < volumeBytes, peers[slot].servesHere < Self.serveLimit
    else { return false }
    let blocks = UInt64(header.payloadBytes) / UInt64(algorithm.byteCount)
    let left = BlockDigest.blocks(volumeBytes - header.offset)
    guard blocks > 0, blocks <= BlockDigest.blockLimit, blocks <= left else { return false }
    let end = min(header.offset + blocks * blockSize, volumeBytes)
    var check = Request(
      .resyncCheck, .read, ByteRange(start: header.offset, end: end), tag: header.id)
    check.peer = UInt8(slot)
    check.connection = connection
    check.algorithm = algorithm
    check.buffer = buffer
    peers[slot].servesHere += 1
    waiting.push(insert(check))
    return true
  }

  /// The range is locked and was read here.
  mutating func checkRead(_ id: SlotID, _ request: Request, _ buffer: BufferID) {
    guard !request.isOrphaned, !request.failed else {
      releaseIfAny(buffer)
      releaseIfAny(request.buffer)
      // What cannot be read is not known to be equal: the target will ask for it, and be told.
      guard !request.isOrphaned else { return remove(id) }
      sendCompared(request, differing: .max)
      return remove(id)
    }
    compareDigests(id, with: buffer, request.algorithm)
  }

  mutating func checked(_ id: SlotID, _ request: Request, _ differing: UInt64) {
    let slot = Int(request.peer)
    let blocks = BlockDigest.blocks(request.range.length)
    let all = blocks == 64 ? UInt64.max : 1 << blocks - 1
    let isPartlyEqual = options.sabotage == .clearWholeRange && differing != all
    let found = isPartlyEqual ? 0 : differing
    unmarkEqual(slot, request.range, differing: found)
    if options.sabotage == .unmarkLate { peers[slot].lastChecked = (request.range, found) }
    sendCompared(request, differing: found)
    remove(id)
    finishSourceIfDone(slot)
  }

  /// The planted bug: a write that was under way may have marked them again.
  mutating func unmarkLate(_ slot: Int) {
    guard let last = peers[slot].lastChecked else { return }
    peers[slot].lastChecked = nil
    unmarkEqual(slot, last.range, differing: last.differing)
  }

  private mutating func sendCompared(_ request: Request, differing: UInt64) {
    let header = MessageHeader(
      .resyncCompared, id: request.tag, offset: request.range.start, length: differing)
    effects.push(.send(request.connection, header, .none))
  }

  /// Takes the marks from the blocks of a range that have no bit in `differing`.
  private mutating func unmarkEqual(_ slot: Int, _ range: ByteRange, differing: UInt64) {
    guard let volumeBytes = superblock?.volumeBytes else { return }
    let before = bitmaps[slot].setCount
    var start = range.start
    var bits = differing
    while start < range.end {
      let end = min(start + blockSize, range.end)
      if bits & 1 == 0 {
        bitmaps[slot].clear(ByteRange(start: start, end: end), volumeBytes: volumeBytes)
      }
      bits >>= 1
      start = end
    }
    peers[slot].syncBlocksEqual += before - bitmaps[slot].setCount
  }
}
