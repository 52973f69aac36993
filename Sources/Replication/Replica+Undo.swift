/// What a victim is about to lose is kept first, so that an administrator can look at it again.
///
/// A node that would become target by a discard gives the attempt up instead, with nothing changed
/// on either side, and asks its driver to keep the blocks that it alone has changed. When they are
/// on stable storage it meets its peer again:
///
/// ```
/// decision: discard ──▶ keepUndo ──▶ undoEnded(.kept) ──▶ meets again ──▶ target
///                          │                                  ▲
///                          └─ not kept: StandAlone            └ promotion, another disk, another
///                                                               agreement: it is kept anew
/// ```
/// What must hold: between the read of the first block and the superblock that gives the data up,
/// no block changes. There is no lock for it: the node is Secondary and not connected meanwhile, so
/// nobody writes. Whatever could let somebody write makes what was kept worthless (`forgetUndo`).
public import BlockTypes
import Metadata
import Wire

/// What `connect --discard-my-data` asks for.
public struct DiscardPlan: Equatable, Sendable, BitwiseCopyable {
  /// What is lost is kept first; not with `--no-undo`.
  public var keepsUndo = true

  /// Keeps what is lost.
  public init() {}

  /// What is lost is lost.
  public static var withoutUndo: DiscardPlan {
    var plan = DiscardPlan()
    plan.keepsUndo = false
    return plan
  }
}

/// How the keeping of blocks ended.
public enum UndoOutcome: UInt8, Sendable, BitwiseCopyable, CaseIterable {
  /// All of it is on stable storage.
  case kept
  /// More than `undo-limit` allows.
  case tooLarge
  /// The file system has no room for it.
  case noSpace
  /// A read or a write failed.
  case failed
}

/// What is kept of this node's data before one peer's replaces it.
enum UndoState: Equatable, BitwiseCopyable {
  case none
  /// The driver keeps it; the number tells a late answer from this one's.
  case running(UInt64)
  case kept
}

extension Replica {
  /// `true` when the attempt has to be given up, because something is kept first.
  mutating func keepsUndoFirst(_ decision: Decision, _ slot: Int) -> Bool {
    guard decision.action == .syncTarget, decision.givesDataUp || givesMarksUp(slot),
      options.keepsUndo, !peers[slot].declinesUndo, peers[slot].undo != .kept
    else { return false }
    beginUndo(slot, isWhole: decision.givesDataUp && decision.extent == .full)
    return options.sabotage != .skipUndo
  }

  /// Whether the administrator gives up this side of blocks that a verify has found, or a repair
  /// has left, in histories that do not part: they are marked, and the peer's may be wrong.
  private func givesMarksUp(_ slot: Int) -> Bool {
    guard let mine = sentReports[slot] else { return false }
    return mine.discardMyData && mine.disk == .upToDate && !mine.isFull && mine.outOfSyncBlocks > 0
  }

  private mutating func beginUndo(_ slot: Int, isWhole: Bool) {
    if case .running = peers[slot].undo { return }
    undoNumber += 1
    peers[slot].undo = .running(undoNumber)
    peers[slot].undoIsWhole = isWhole
    effects.push(.keepUndo(peer: slot, number: undoNumber))
  }

  /// Whether blocks are being kept: the peer is not met meanwhile.
  func isKeepingUndo(_ slot: Int) -> Bool {
    if case .running = peers[slot].undo { return true }
    return false
  }

  /// What was kept, or is being kept, is not what a discard would lose from now on.
  mutating func forgetUndo(_ slot: Int) {
    guard peers[slot].undo != .none else { return }
    peers[slot].undo = .none
    // It rested until the answer came, which is nobody's business any more.
    if peers[slot].state == .connecting, peers[slot].retryAt == .never { scheduleRetry(slot) }
  }

  mutating func forgetUndo() {
    for slot in 0..<peers.count { forgetUndo(slot) }
  }

  mutating func undoEnded(_ slot: Int, _ number: UInt64, _ outcome: UndoOutcome) {
    guard slot < peers.count, peers[slot].undo == .running(number) else { return }
    guard outcome != .kept else {
      peers[slot].undo = .kept
      peers[slot].retryPauseMs = 0
      return scheduleRetry(slot)
    }
    peers[slot].undo = .none
    if meetings[slot]?.decision.givesDataUp != false {
      effects.push(.note(.handler(peer: slot, .splitBrain)))
    }
    loseConnection(slot, outcome.reason)
  }

  // MARK: What is to be kept

  /// Whether the answer with this number is waited for. What was kept for another one is of no use:
  /// the data may have changed while it was read.
  public func awaitsUndo(_ number: UInt64, peer slot: Int) -> Bool {
    slot < peers.count && peers[slot].undo == .running(number)
  }

  /// The next range that is to be kept for the peer in `slot`, from the byte `start` on.
  public func nextToKeep(from start: UInt64, peer slot: Int) -> ByteRange? {
    guard let volumeBytes = superblock?.volumeBytes, start < volumeBytes else { return nil }
    if options.sabotage == .keepFirstRun, start > 0 { return nil }
    if peers[slot].undoIsWhole { return ByteRange(start: start, end: volumeBytes) }
    guard let run = bitmaps[slot].nextRun(from: BlockIndex(start / blockSize)) else { return nil }
    return ByteRange(
      start: run.lowerBound * blockSize, end: min(run.upperBound * blockSize, volumeBytes))
  }

  /// The blocks that are to be kept for the peer in `slot`, a bit each; `nil` for all of them.
  public func marksToKeep(peer slot: Int) -> [UInt64]? {
    peers[slot].undoIsWhole ? nil : bitmaps[slot].allWords
  }

  /// Whether every block counts as changed for the peer in `slot`, whatever the bitmap says.
  public func countsAll(forPeer slot: Int) -> Bool { peers[slot].isFull }

  /// What this node alone has changed since it was the same as the peer in `slot`.
  public func changes(sincePeer slot: Int) -> BitmapSummary { bitmaps[slot].summary }
}

extension Decision {
  /// Whether the target loses writes that only it has.
  public var givesDataUp: Bool { rule == .discardAsked || rule == .discardByPolicy }
}

extension UndoOutcome {
  /// Why the discard was given up.
  fileprivate var reason: Reason {
    switch self {
    case .kept: .none
    case .tooLarge: .undoTooLarge
    case .noSpace: .undoNoSpace
    case .failed: .undoFailed
    }
  }
}
