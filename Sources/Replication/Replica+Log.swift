/// The activity log in the life of a write: no write to the data begins before the disk says that
/// its extent may be written.
///
/// ```
/// start ── hot ──────────────────────────────────────────▶ begin
///   └───── cold ─▶ waitingLog ─ flush? ─ pages? ─ log ───────┘
/// ```
/// Every write holds its extents until it has ended everywhere. After a crash all hot extents are
/// marked for every peer, so marks in memory need not be on the disk while an extent is hot. Before
/// an extent leaves, its writes are flushed and its marks written.
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
    guard request.operation.changesData, logState != .off else { return true }
    let range = logged(request.range)
    let extents =
      (range.end - 1) / ActivityLog.extentBytes - range.start / ActivityLog.extentBytes + 1
    return UInt64(log.heldCount) + extents <= UInt64(log.slotCount)
  }

  /// Holds the extents of a change; `false` when it has to wait for the log.
  mutating func enterLog(_ id: SlotID) -> Bool {
    guard requests[id].operation.changesData else { return true }
    if options.sabotage == .skipLog { return true }
    switch log.touch(logged(requests[id].range)) {
    case .hot:
      requests[id].holdsLog = true
      return true
    case .wait:
      requests[id].holdsLog = true
      if options.sabotage == .writeBeforeHot { return true }
      requests[id].phase = .waitingLog
      waitingLog.push(id)
      return false
    case .full: preconditionFailure("asked before, see canLog")
    }
  }

  /// Goes on with making extents hot. Called at the end of each step.
  mutating func continueLog() {
    guard logState == .ready, log.waitingCount > 0, superblock != nil else { return }
    if log.wantsFlush, options.sabotage == .skipFlushOfLeaving {
      log.flushCompleted(log.flushBegan())
    }
    if log.wantsFlush, logFlush == nil {
      logFlushNumber = log.flushBegan()
      logFlush = beginFlush(.logFlush)
    }
    if !log.isTransactionUnderWay {
      guard log.planTransaction() else { return }
    }
    guard !logIsBeingWritten, leavingMarksAreDurable() else { return }
    logIsBeingWritten = true
    effects.push(.writeActivityLog)
  }

  /// Whether the marks of all extents that leave are on the disk. Begins to write those that are
  /// not.
  private mutating func leavingMarksAreDurable() -> Bool {
    if options.sabotage == .skipPagesOfLeaving { return true }
    var areDurable = true
    for index in 0..<log.leavingCount {
      let extent = log.leaving(index)
      let range = ByteRange(
        start: extent.start / options.activityLogScale, end: extent.end / options.activityLogScale)
      for slot in 0..<peers.count {
        for page in bitmaps[slot].pages(covering: range) where !bitmaps[slot].isDurable(page) {
          areDurable = false
          if !bitmaps[slot].isWriting(page) { _ = beginPageWrite(slot, page) }
        }
      }
    }
    return areDurable || options.sabotage == .leaveBeforePages
  }

  mutating func logFlushed(_ request: Request) {
    logFlush = nil
    guard !request.failed, superblock != nil else { return }
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
    guard superblock != nil else { return }
    guard result >= 0 else { return failDisk() }
    log.transactionWritten()
    for _ in 0..<waitingLog.count {
      guard let id = waitingLog.pop() else { return }
      guard requests.contains(id), requests[id].phase == .waitingLog else { continue }
      if log.isHot(logged(requests[id].range)) {
        begin(id)
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
    for index in 0..<requests.capacity {
      if let id = requests.id(at: index) { requests[id].holdsLog = false }
    }
    while let id = waitingLog.pop() {
      if requests.contains(id), requests[id].phase == .waitingLog { failWithoutDisk(id) }
    }
  }
}
