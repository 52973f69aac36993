/// The activity log in the life of a write: no write to the data begins before the disk says that
/// its extent may be written.
///
/// ```
/// start ── hot ──────────────────────────────────────────▶ begin
///   └───── cold ─▶ waitingLog ─ flush? ─ pages? ─ log ───────┘
/// ```
/// Every write holds its extents until it has ended everywhere. After a crash all hot extents are
/// marked for every peer, so marks in memory need not be on the disk while an extent is hot. Before
/// an extent leaves, its writes are flushed and its marks written. Those that nobody writes to
/// leave by themselves after a while.
///
/// The log of an attachment has a number of its own (its run), which is durable before the first
/// transaction and after the marks that the log before it stood for.
import BlockTypes
import Metadata

/// Whether writes may be logged.
enum LogState: UInt8, BitwiseCopyable {
  /// There is no disk.
  case off
  /// The run is not durable yet: writes wait.
  case preparing
  case ready
}

extension Replica {
  /// A range as the log counts it.
  func logged(_ range: ByteRange) -> ByteRange {
    ByteRange(
      start: range.start * options.activityLogScale, end: range.end * options.activityLogScale)
  }

  /// Whether a change is short enough to be held at all: 128 MiB. Exports split longer ones.
  func fitsLog(_ range: ByteRange) -> Bool {
    range.length <= ActivityLog.rangeBytesLimit / options.activityLogScale
  }

  /// Whether the extents of a change can be held now. If not, it waits for others to end.
  func canLog(_ request: Request) -> Bool {
    guard request.operation.changesData, !request.holdsLog else { return true }
    return hasRoom(for: request)
  }

  /// Whether the extents of a range can be held now.
  func hasRoom(for request: Request) -> Bool {
    logState == .off
      || UInt64(log.heldCount) + extentCount(request) <= UInt64(log.slotCount)
  }

  private func extentCount(_ request: Request) -> UInt64 {
    let range = logged(request.range)
    return (range.end - 1) / ActivityLog.extentBytes - range.start / ActivityLog.extentBytes + 1
  }

  /// Holds the extents of a range that a resync asks for, so that they are hot when the data comes.
  mutating func heatAhead(_ id: SlotID) {
    guard logState != .off, options.sabotage != .skipLog else { return }
    holdNextPart(Int(requests[id].peer), requests[id].range)
    guard mayHold(extentCount(requests[id])) else { return }
    requests[id].holdsLog = log.touch(logged(requests[id].range)) != .full
  }

  /// Half of the log is left to others, who may not have to wait for the source; and room for the
  /// longest change, which waits for others to end, and what is held ahead ends only after it.
  private func mayHold(_ extents: UInt64) -> Bool {
    let longest = Int(ActivityLog.rangeBytesLimit / ActivityLog.extentBytes) + 1
    let limit = min(log.slotCount / 2, log.slotCount - longest)
    return log.heldCount + Int(extents) <= limit
  }

  /// Extents that a resync makes hot with one transaction where nearly all is to be copied: each by
  /// itself would cost a flush of the disk every 4 MiB.
  private static var extentsHeldAtOnce: UInt64 { 16 }

  /// Holds the next part of the volume when `range` is near its begin, and lets go of what is done.
  private mutating func holdNextPart(_ slot: Int, _ range: ByteRange) {
    let extentBytes = ActivityLog.extentBytes / options.activityLogScale
    let length = extentBytes * Self.extentsHeldAtOnce
    if let now = peers[slot].heldNow, range.end < now.end - length / 2, now.contains(range) {
      return
    }
    if let next = peers[slot].heldNext {
      guard range.start >= next.start else { return }
      letGo(peers[slot].heldNow)
      peers[slot].heldNow = next
      peers[slot].heldNext = nil
    }
    guard let volumeBytes = superblock?.volumeBytes, mayHold(Self.extentsHeldAtOnce) else { return }
    let start = max(peers[slot].heldNow?.end ?? 0, range.start / extentBytes * extentBytes)
    let end = min(start + length, volumeBytes)
    guard start + length / 2 < end else { return }
    let part = ByteRange(start: start, end: end)
    let marked = bitmaps[slot].setCount(in: start / blockSize..<end / blockSize) * blockSize
    guard marked > part.length / 2, log.touch(logged(part)) != .full else { return }
    if peers[slot].heldNow == nil {
      peers[slot].heldNow = part
    } else {
      peers[slot].heldNext = part
    }
  }

  private mutating func letGo(_ part: ByteRange?) {
    if let part { log.unpin(logged(part), isSpent: true) }
  }

  /// The resync ends, or is given up.
  mutating func letGoOfExtents(_ slot: Int) {
    letGo(peers[slot].heldNow)
    letGo(peers[slot].heldNext)
    peers[slot].heldNow = nil
    peers[slot].heldNext = nil
  }

  /// Holds the extents of a change; `false` when it has to wait for the log.
  mutating func enterLog(_ id: SlotID) -> Bool {
    guard requests[id].operation.changesData || requests[id].isRepair else { return true }
    if options.sabotage == .skipLog { return true }
    let range = logged(requests[id].range)
    if !requests[id].holdsLog {
      guard log.touch(range) != .full else { preconditionFailure("asked before, see canLog") }
      requests[id].holdsLog = true
    }
    if log.isHot(range) || options.sabotage == .writeBeforeHot { return true }
    requests[id].phase = .waitingLog
    waitingLog.push(id)
    return false
  }

  /// When extents begin to cool: a tick is due.
  var coolingDeadline: Instant {
    guard logState == .ready, let left = log.coolingIsDueInMs else { return .never }
    return now.advanced(milliseconds: UInt64(left))
  }

  /// Goes on with making extents hot, and cold. Called at the end of each step.
  mutating func continueLog() {
    guard logState == .ready, hasSuperblock else { return }
    if log.isCooling { log.continueCooling() }
    guard log.waitingCount > 0 || log.isCooling else { return }
    let skipsFlush =
      options.sabotage == .skipFlushOfLeaving
      || options.sabotage == .coolWithoutFlush && log.isCooling
    if log.wantsFlush, skipsFlush {
      log.flushCompleted(log.flushBegan())
    }
    if log.wantsFlush, logFlush == nil {
      logFlushNumber = log.flushBegan()
      logFlush = beginFlush(.logFlush)
    }
    if !log.isTransactionUnderWay {
      guard log.planTransaction() else { return }
      expectLeavingMarks()
    }
    guard !logIsBeingWritten, leavingMarksAreDurable() else { return }
    logIsBeingWritten = true
    logBegan = now
    watchDisk()
    effects.push(.writeActivityLog)
  }

  /// The volume's range of an extent that leaves.
  private func leavingRange(_ index: Int) -> ByteRange {
    let extent = log.leaving(index)
    return ByteRange(
      start: extent.start / options.activityLogScale, end: extent.end / options.activityLogScale)
  }

  /// Asks for the pages of the extents that leave, as they are now. No write holds these extents
  /// any more, and none begins there before they are hot again: they get no marks that count.
  private mutating func expectLeavingMarks() {
    logPlan += 1
    for index in 0..<log.leavingCount {
      for slot in 0..<peers.count {
        for page in bitmaps[slot].pages(covering: leavingRange(index)) {
          bitmaps[slot].expectPage(page)
        }
      }
    }
  }

  /// Whether the marks of all extents that leave are on the disk. Begins to write those that are
  /// not. Each page is written twice at most, whatever others mark in its other extents.
  private mutating func leavingMarksAreDurable() -> Bool {
    if options.sabotage == .skipPagesOfLeaving { return true }
    var areDurable = true
    for index in 0..<log.leavingCount {
      let range = leavingRange(index)
      for slot in 0..<peers.count {
        for page in bitmaps[slot].pages(covering: range) where !bitmaps[slot].isCovered(page) {
          areDurable = false
          if !bitmaps[slot].isWriting(page) { _ = beginPageWrite(slot, page) }
        }
      }
    }
    return areDurable || options.sabotage == .leaveBeforePages
  }

  mutating func logFlushed(_ request: Request) {
    logFlush = nil
    guard !request.failed, hasSuperblock else { return }
    log.flushCompleted(logFlushNumber)
  }

  /// Fills in the transaction that a `writeActivityLog` effect writes, and says where it goes, in
  /// bytes from the start of the log area.
  @safe
  public func encodeActivityLog(into bytes: UnsafeMutableRawBufferPointer) -> UInt64 {
    log.encodeTransaction(into: bytes)
    return log.transactionOffset
  }

  mutating func activityLogWritten(_ result: Int32) {
    precondition(logIsBeingWritten, "no transaction was being written")
    logIsBeingWritten = false
    guard result >= 0 else { return metadataFailed() }
    guard hasSuperblock else { return }
    log.transactionWritten()
    for _ in 0..<waitingLog.count {
      guard let id = waitingLog.pop() else { return }
      guard requests.contains(id), requests[id].phase == .waitingLog else { continue }
      if log.isHot(logged(requests[id].range)) {
        carryOut(id)
      } else {
        waitingLog.push(id)
      }
    }
  }

  /// The run of the log is durable with the next superblock, and so is everything it stands on.
  mutating func raiseRun() {
    guard var block = superblock else { return }
    block.activityLogRun = log.run
    superblock = block
    versionOfRun = changeSuperblock()
  }

  mutating func continueRun() {
    guard let version = versionOfRun, versionDurable >= version else { return }
    versionOfRun = nil
    logState = .ready
  }

  /// The disk is gone: nobody waits for its log.
  mutating func leaveLog() {
    logState = .off
    versionOfRun = nil
    for slot in 0..<peers.count {
      peers[slot].heldNow = nil
      peers[slot].heldNext = nil
    }
    for index in 0..<requests.capacity {
      if let id = requests.id(at: index) { requests[id].holdsLog = false }
    }
    while let id = waitingLog.pop() {
      guard requests.contains(id), requests[id].phase == .waitingLog else { continue }
      if requests[id].origin == .client, requests[id].operation.changesData {
        restartOrFail(id)
      } else {
        failWithoutDisk(id)
      }
    }
  }
}
