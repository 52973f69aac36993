/// Extents that cool: what is not written for a while leaves the log, so that a crash of a node
/// that was quiet copies next to nothing.
///
/// ```
///   hot, no pins ── patience ──▶ due ── flush, pages ──▶ leaving ── transaction ──▶ cold
/// ```
/// A pass takes out everything that is due: one flush of the data disk, then as few transactions as
/// hold it. A pass begins when the extent that has rested longest is due, and not before
/// `pauseMs` after the one before; nothing waits for one, and when nothing rests there is no next
/// one. What a resync has done with leaves in batches without patience.
///
/// What cooled too early costs its next writer a transaction. So patience is not fixed: when more
/// than one write in a hundred waited for an extent that had cooled, it doubles, up to an hour;
/// with each pass without that it shrinks by a sixteenth, down to where it began. So cooling costs
/// one transaction in a hundred writes, or less than one for each extent and hour where writes are
/// that rare.
import BlockTypes

/// When extents leave the log by themselves.
@safe
public struct Cooling: ~Copyable {
  /// How long an extent rests before it cools, at least. Milliseconds.
  public var patienceLeastMs: UInt32 = 20_000 { didSet { patienceMs = patienceLeastMs } }
  /// Time from one pass to the next, at least. Milliseconds.
  public var pauseMs: UInt32 = 10_000
  /// How long an extent rests now before it cools. Milliseconds.
  public private(set) var patienceMs: UInt32 = 20_000
  /// Extents that a resync has done with, when there are so many, leave at once.
  public static let spentBatch = 32
  /// The longest patience. Milliseconds.
  public static let patienceMostMs: UInt32 = 3_600_000
  /// Fewer writes that waited prove nothing.
  static let reheatsToLearn: UInt64 = 16

  /// A pass is under way; when it began, by the log's clock.
  var passAt: UInt32?
  /// When the last pass began.
  var lastPassAt: UInt32?
  /// Writes since patience was looked at.
  var touches: UInt64 = 0
  /// Extents made hot in this time that had cooled before.
  private(set) var reheats: UInt64 = 0
  /// A bit for each extent that has cooled and was not written since.
  private let ghosts: UnsafeMutablePointer<UInt64>
  private let ghostWords: Int

  init(extentCount: Int) {
    ghostWords = (extentCount + 63) / 64
    unsafe ghosts = .allocate(capacity: max(ghostWords, 1))
    unsafe ghosts.initialize(repeating: 0, count: max(ghostWords, 1))
  }

  deinit { unsafe ghosts.deallocate() }

  /// An extent is about to become hot.
  mutating func heated(_ extent: UInt32) {
    let index = Int(extent / 64)
    guard index < ghostWords else { return }
    let word = unsafe ghosts[index]
    let bit: UInt64 = 1 << UInt64(extent % 64)
    guard word & bit != 0 else { return }
    unsafe ghosts[index] = word & ~bit
    reheats += 1
    guard reheats >= Self.reheatsToLearn, reheats * 100 > touches else { return }
    patienceMs = patienceMs > Self.patienceMostMs / 2 ? Self.patienceMostMs : patienceMs * 2
    lookAnew()
  }

  /// An extent has left because it was due.
  mutating func cooled(_ extent: UInt32) {
    let index = Int(extent / 64)
    guard index < ghostWords else { return }
    let word = unsafe ghosts[index]
    unsafe ghosts[index] = word | 1 << UInt64(extent % 64)
  }

  /// A pass is over.
  mutating func passEnded() {
    passAt = nil
    guard reheats * 100 <= touches else { return }
    patienceMs = max(patienceLeastMs, patienceMs - patienceMs / 16)
    lookAnew()
  }

  private mutating func lookAnew() {
    touches = 0
    reheats = 0
  }
}

extension ActivityLog {
  /// Whether a pass is under way.
  public var isCooling: Bool { cooling.passAt != nil }

  /// Milliseconds from now until a pass is due; `nil` when nothing rests or one is under way.
  public var coolingIsDueInMs: UInt32? {
    guard cooling.passAt == nil, let rest = longestRestLeftMs else { return nil }
    guard let last = cooling.lastPassAt, spent.count < Cooling.spentBatch else { return rest }
    let since = clockMs &- last
    return max(rest, since < cooling.pauseMs ? cooling.pauseMs - since : 0)
  }

  /// Milliseconds until the first extent has rested long enough.
  private var longestRestLeftMs: UInt32? {
    if spent.count >= Cooling.spentBatch { return 0 }
    var left: UInt32?
    if idle.count > 0 {
      let rested = clockMs &- (unsafe entries[Int(idle.first)].restedAt)
      left = rested < cooling.patienceMs ? cooling.patienceMs - rested : 0
    }
    if spent.count > 0 {
      let rested = clockMs &- (unsafe entries[Int(spent.first)].restedAt)
      let spentLeft = rested < cooling.patienceLeastMs ? cooling.patienceLeastMs - rested : 0
      left = min(left ?? spentLeft, spentLeft)
    }
    return left
  }

  /// Begins a pass that is due, and ends one that has nothing left to take out.
  public mutating func continueCooling() {
    if cooling.passAt != nil, nextToCool() == nil, !isTransactionUnderWay { cooling.passEnded() }
    guard coolingIsDueInMs == 0 else { return }
    cooling.passAt = clockMs
    cooling.lastPassAt = clockMs
  }

  /// The entry that the pass under way takes out next, once its writes are flushed.
  func nextToCool() -> UInt32? {
    guard let began = cooling.passAt else { return nil }
    if spent.count > 0, isBefore(spent.first, began, by: 0) { return spent.first }
    if idle.count > 0, isBefore(idle.first, began, by: cooling.patienceMs) { return idle.first }
    return nil
  }

  /// Whether an entry had rested for so long at a moment.
  private func isBefore(_ index: UInt32, _ moment: UInt32, by rest: UInt32) -> Bool {
    let rested = Int32(bitPattern: moment &- (unsafe entries[Int(index)].restedAt))
    return rested >= 0 && rested >= Int32(bitPattern: rest)
  }
}
