/// The activity log: which 4 MiB extents of the data may be written now ("hot").
///
/// After a crash every block of a hot extent counts as different from every peer, so the bitmaps on
/// disk need only be right for the others. Pure: the caller does the I/O and says when it is done.
///
/// ```
///            touch                planTransaction        transactionWritten
///   cold ──────────────▶ queued ──────────────────▶ joining ─────────────▶ hot
///    ▲                     │ unpin of the last pin                          │ unpinned, flushed,
///    └─────────────────────┴────────────────────────────────────────────────┘ its slot is wanted
/// ```
/// How to use it, for every write to the data of a replica (a client's, a peer's, a resync's):
/// 1. `touch` its range. `.hot`: go on. `.wait`: go on once `isHot`. `.full`: ask again after an
///    `unpin`. The first two hold the range hot until `unpin`.
/// 2. `unpin` the same range when the write has ended everywhere: no bit of a bitmap can be set on
///    its account any more.
///
/// And to make extents hot, whenever `isTransactionUnderWay` is false:
/// 3. `wantsFlush`: flush the data disk; tell `flushBegan` before and `flushCompleted` after.
/// 4. `planTransaction`: `true` means that one is to be written. First make durable the dirty
///    bitmap pages, of every peer, that cover the extents `leaving`; then write what
///    `encodeTransaction` gives at `transactionOffset`, durably; then call `transactionWritten`,
///    and look again at what waits.
///
/// Extents that nobody writes to any more leave by themselves: `ActivityLog+Cooling`.
///
/// Invariants:
/// - nothing is allocated after `init`;
/// - an extent is hot in memory only after the transaction that says so is on the disk;
/// - an extent leaves only while no write to it is under way, and after a flush that began when the
///   last one had ended;
/// - at most `slotCount` extents are pinned, so each that waits gets a slot: there is no deadlock.
public import BlockTypes

/// How a range stands after `touch`.
public enum ActivityTouch: Equatable, Sendable, BitwiseCopyable {
  /// Every extent is hot and stays so until `unpin`.
  case hot
  /// Extents wait for a transaction; all are held until `unpin`.
  case wait
  /// Too many extents are held. Nothing was changed: ask again after an `unpin`.
  case full
}

/// The hot extents of one replica.
@safe
public struct ActivityLog: ~Copyable {
  /// Bytes of one extent.
  public static let extentBytes: UInt64 = 4 << 20
  /// Longest range of one `touch`; longer trims are split. DRBD's longest discard is the same.
  public static let rangeBytesLimit: UInt64 = 128 << 20
  /// Hot extents that can be chosen. Slot numbers have 16 bits on disk.
  public static let slotCounts: ClosedRange<Int> = 64...65_534
  /// Hot extents by default: 64 GiB. More would lengthen the resync after a crash, fewer would
  /// write the log for guests whose working set is that large.
  public static let defaultSlotCount = 16_384

  enum State: UInt8, BitwiseCopyable {
    case free, queued, joining, hot
  }

  /// One extent that is hot or shall be.
  struct Entry: BitwiseCopyable {
    var extent: UInt32 = 0
    var pins: UInt32 = 0
    var slot: UInt32 = ActivityLog.nothing
    var state = State.free
    /// Whether it is in `spent`, not in `idle`.
    var isSpent = false
    /// When the last write to it ended, by `clockMs`.
    var restedAt: UInt32 = 0
    /// Flushes that had begun when the last write to it ended.
    var epoch: UInt64 = 0
    /// Neighbours in the list of its state: free, queued, or hot without pins.
    var previous = ActivityLog.nothing
    var next = ActivityLog.nothing
    /// The next one with the same hash.
    var chained = ActivityLog.nothing
  }

  /// A doubly linked list of entries.
  struct List: BitwiseCopyable {
    var first = ActivityLog.nothing
    var last = ActivityLog.nothing
    var count = 0

    mutating func append(_ index: UInt32, _ entries: UnsafeMutablePointer<Entry>) {
      unsafe entries[Int(index)].previous = last
      unsafe entries[Int(index)].next = ActivityLog.nothing
      if last == ActivityLog.nothing {
        first = index
      } else {
        unsafe entries[Int(last)].next = index
      }
      last = index
      count += 1
    }

    mutating func remove(_ index: UInt32, _ entries: UnsafeMutablePointer<Entry>) {
      let entry = unsafe entries[Int(index)]
      if entry.previous == ActivityLog.nothing {
        first = entry.next
      } else {
        unsafe entries[Int(entry.previous)].next = entry.next
      }
      if entry.next == ActivityLog.nothing {
        last = entry.previous
      } else {
        unsafe entries[Int(entry.next)].previous = entry.previous
      }
      count -= 1
    }
  }

  static var nothing: UInt32 { .max }

  /// Extents that can be hot at the same time.
  public let slotCount: Int
  /// Names the metadata this log belongs to.
  public let deviceID: UInt64
  /// Counts the attachments of the disk; what other runs wrote is no part of this log.
  public let run: UInt64
  /// Transactions begun in this run.
  public private(set) var sequence: UInt64 = 0
  /// A transaction was planned and is not on the disk yet.
  public private(set) var isTransactionUnderWay = false

  let entries: UnsafeMutablePointer<Entry>
  /// Entry of each slot; `nothing` for an empty one.
  let slots: UnsafeMutablePointer<UInt32>
  private let buckets: UnsafeMutablePointer<UInt32>
  private let bucketShift: UInt64
  /// Slots from this one on were never used.
  private var slotsUsed = 0
  /// Slots below `slotsUsed` that are empty again, as the disk knows.
  private let emptySlots: UnsafeMutablePointer<UInt32>
  private var emptyCount = 0
  private var free = List()
  private var queue = List()
  /// Hot and without pins, the one written least recently first; epochs rise along the list.
  var idle = List()
  /// The same for extents that a resync has done with.
  var spent = List()
  /// Sum of all pins.
  private var pinned = 0
  private(set) var flushesBegun: UInt64 = 0
  private(set) var flushedThrough: UInt64 = 0

  /// Slots that the transaction under way changes: first those it fills, then those it empties.
  private let changing: UnsafeMutablePointer<UInt32>
  private var joiningCount = 0
  private var emptyingCount = 0
  /// Extents that the transaction under way takes out.
  private let leavingExtents: UnsafeMutablePointer<UInt32>
  /// How many extents the transaction under way takes out.
  public private(set) var leavingCount = 0

  /// The caller's clock, set before anything else is asked. Wraps around after 49 days.
  public var clockMs: UInt32 = 0
  /// When extents leave by themselves.
  public var cooling: Cooling

  /// An empty log for run `run` of the metadata `deviceID`. About 100 bytes a slot.
  ///
  /// - Parameter extentCount: extents of the volume, a bit of memory each; 0 where nothing cools.
  public init(
    slotCount: Int = defaultSlotCount, deviceID: UInt64, run: UInt64, extentCount: Int = 0
  ) {
    precondition(Self.slotCounts.contains(slotCount), "the configuration bounds al-extents")
    self.slotCount = slotCount
    self.deviceID = deviceID
    self.run = run
    // As many may be queued, each with a pin, as have a slot.
    let capacity = 2 * slotCount
    unsafe entries = .allocate(capacity: capacity)
    unsafe entries.initialize(repeating: Entry(), count: capacity)
    unsafe slots = .allocate(capacity: slotCount)
    unsafe slots.initialize(repeating: Self.nothing, count: slotCount)
    let bucketBits = UInt64(Int.bitWidth - (capacity - 1).leadingZeroBitCount)
    bucketShift = 64 - bucketBits
    unsafe buckets = .allocate(capacity: 1 << bucketBits)
    unsafe buckets.initialize(repeating: Self.nothing, count: 1 << bucketBits)
    unsafe emptySlots = .allocate(capacity: slotCount)
    unsafe emptySlots.initialize(repeating: 0, count: slotCount)
    unsafe changing = .allocate(capacity: Self.entriesPerTransaction)
    unsafe changing.initialize(repeating: 0, count: Self.entriesPerTransaction)
    unsafe leavingExtents = .allocate(capacity: Self.entriesPerTransaction)
    unsafe leavingExtents.initialize(repeating: 0, count: Self.entriesPerTransaction)
    cooling = Cooling(extentCount: extentCount)
    for index in 0..<capacity { unsafe free.append(UInt32(index), entries) }
  }

  deinit {
    unsafe entries.deallocate()
    unsafe slots.deallocate()
    unsafe buckets.deallocate()
    unsafe emptySlots.deallocate()
    unsafe changing.deallocate()
    unsafe leavingExtents.deallocate()
  }

  /// How many slots a volume needs at most: `wanted`, or fewer where it has fewer extents.
  public static func slotCount(wanted: Int, volumeBytes: UInt64) -> Int {
    let extents = (volumeBytes + extentBytes - 1) / extentBytes
    return max(slotCounts.lowerBound, min(wanted, Int(min(extents, UInt64(Int.max)))))
  }
}

// MARK: - Holding extents

extension ActivityLog {
  /// Holds every extent of `range`, and says whether it may be written now.
  ///
  /// - Parameter range: at most `rangeBytesLimit` long; an empty one touches nothing and is hot.
  public mutating func touch(_ range: ByteRange) -> ActivityTouch {
    let extents = Self.extents(of: range)
    guard pinned + extents.count <= slotCount else { return .full }
    pinned += extents.count
    cooling.touches += 1
    var isHot = true
    for number in extents {
      let extent = UInt32(number)
      let index = find(extent) ?? enqueue(extent)
      let entry = unsafe entries[Int(index)]
      if entry.state == .hot {
        if entry.pins == 0 { leaveRest(index) }
      } else {
        isHot = false
      }
      unsafe entries[Int(index)].pins = entry.pins + 1
    }
    return isHot ? .hot : .wait
  }

  /// Whether every extent of `range` may be written now. It must be held by a `touch`.
  public func isHot(_ range: ByteRange) -> Bool {
    for extent in Self.extents(of: range) {
      guard let index = find(UInt32(extent)), unsafe entries[Int(index)].state == .hot else {
        return false
      }
    }
    return true
  }

  /// Lets go of a range that `touch` held: its write has ended everywhere, or was given up.
  ///
  /// - Parameter isSpent: a resync is done with the range, and nobody is expected to write it soon.
  public mutating func unpin(_ range: ByteRange, isSpent: Bool = false) {
    let extents = Self.extents(of: range)
    pinned -= extents.count
    for extent in extents {
      guard let index = find(UInt32(extent)) else { preconditionFailure("unpin without touch") }
      let entry = unsafe entries[Int(index)]
      precondition(entry.pins > 0, "more unpins than touches")
      unsafe entries[Int(index)].pins = entry.pins - 1
      guard entry.pins == 1 else { continue }
      switch entry.state {
      case .hot: rest(index, isSpent: isSpent)
      case .queued:
        unsafe queue.remove(index, entries)
        forget(index)
      case .joining: break
      case .free: preconditionFailure("a free entry was found by its extent")
      }
    }
  }

  /// The extents that `range` touches.
  private static func extents(of range: ByteRange) -> Range<Int> {
    precondition(range.length <= rangeBytesLimit, "the core splits longer ranges")
    guard range.length > 0 else { return 0..<0 }
    let last = (range.end - 1) / extentBytes
    precondition(last < UInt64(nothing), "an extent beyond every volume")
    return Int(range.start / extentBytes)..<Int(last) + 1
  }

  /// Puts a hot extent without pins at the end of those that may leave.
  private mutating func rest(_ index: UInt32, isSpent: Bool = false) {
    unsafe entries[Int(index)].epoch = flushesBegun
    unsafe entries[Int(index)].restedAt = clockMs
    unsafe entries[Int(index)].isSpent = isSpent
    if isSpent {
      unsafe spent.append(index, entries)
    } else {
      unsafe idle.append(index, entries)
    }
  }

  /// Takes an extent out of the list of those that may leave.
  mutating func leaveRest(_ index: UInt32) {
    if unsafe entries[Int(index)].isSpent {
      unsafe spent.remove(index, entries)
    } else {
      unsafe idle.remove(index, entries)
    }
  }

  private mutating func enqueue(_ extent: UInt32) -> UInt32 {
    let index = free.first
    precondition(index != Self.nothing, "fewer entries than slots and pins")
    unsafe free.remove(index, entries)
    let bucket = bucket(of: extent)
    unsafe entries[Int(index)].extent = extent
    unsafe entries[Int(index)].pins = 0
    unsafe entries[Int(index)].slot = Self.nothing
    unsafe entries[Int(index)].state = .queued
    unsafe entries[Int(index)].chained = buckets[bucket]
    unsafe buckets[bucket] = index
    unsafe queue.append(index, entries)
    cooling.heated(extent)
    return index
  }

  /// Frees an entry that is in no list.
  private mutating func forget(_ index: UInt32) {
    let entry = unsafe entries[Int(index)]
    let bucket = bucket(of: entry.extent)
    if unsafe buckets[bucket] == index {
      unsafe buckets[bucket] = entry.chained
    } else {
      var before = unsafe buckets[bucket]
      while unsafe entries[Int(before)].chained != index {
        before = unsafe entries[Int(before)].chained
      }
      unsafe entries[Int(before)].chained = entry.chained
    }
    unsafe entries[Int(index)].state = .free
    unsafe free.append(index, entries)
  }

  private func find(_ extent: UInt32) -> UInt32? {
    var index = unsafe buckets[bucket(of: extent)]
    while index != Self.nothing {
      if unsafe entries[Int(index)].extent == extent { return index }
      index = unsafe entries[Int(index)].chained
    }
    return nil
  }

  /// Multiplication by 2^64 over the golden ratio spreads neighbours.
  private func bucket(of extent: UInt32) -> Int {
    Int((UInt64(extent) &* 0x9E37_79B9_7F4A_7C15) >> bucketShift)
  }
}

// MARK: - Making extents hot

extension ActivityLog {
  /// Extents wait for a slot that no extent may leave before the data disk is flushed, or some are
  /// to cool; and no flush has begun since their last writes ended.
  public var wantsFlush: Bool {
    if let index = nextToCool(), unsafe entries[Int(index)].epoch >= flushesBegun { return true }
    guard queue.count > 0, emptyCount == 0, slotsUsed == slotCount else { return false }
    let index = spent.count > 0 ? spent.first : idle.first
    guard index != Self.nothing else { return false }
    return unsafe entries[Int(index)].epoch >= flushesBegun
  }

  /// A flush of the data disk begins. What it covers is known by the number returned.
  public mutating func flushBegan() -> UInt64 {
    flushesBegun += 1
    return flushesBegun
  }

  /// The flush with this number has succeeded. Of one that failed nothing is said: the disk goes.
  public mutating func flushCompleted(_ number: UInt64) {
    precondition(number <= flushesBegun, "a flush that never began")
    flushedThrough = max(flushedThrough, number)
  }

  /// Gives slots to extents that wait, in their order, and takes those from extents that cool;
  /// `false` when there is nothing that can be done.
  public mutating func planTransaction() -> Bool {
    precondition(!isTransactionUnderWay, "one transaction at a time")
    joiningCount = 0
    emptyingCount = 0
    leavingCount = 0
    while joiningCount < updateLimit, queue.count > 0 {
      let index = queue.first
      guard let slot = takeSlot() else { break }
      unsafe queue.remove(index, entries)
      unsafe entries[Int(index)].state = .joining
      unsafe entries[Int(index)].slot = slot
      unsafe slots[Int(slot)] = index
      unsafe changing[joiningCount] = slot
      joiningCount += 1
    }
    while joiningCount + emptyingCount < updateLimit, let index = nextToCool() {
      guard unsafe entries[Int(index)].epoch < flushedThrough else { break }
      let entry = unsafe entries[Int(index)]
      if !entry.isSpent { cooling.cooled(entry.extent) }
      let slot = leave(index)
      unsafe slots[Int(slot)] = Self.nothing
      unsafe changing[joiningCount + emptyingCount] = slot
      emptyingCount += 1
    }
    guard joiningCount + emptyingCount > 0 else { return false }
    sequence += 1
    isTransactionUnderWay = true
    return true
  }

  /// An empty slot, or that of the extent written least recently, which leaves.
  private mutating func takeSlot() -> UInt32? {
    if emptyCount > 0 {
      emptyCount -= 1
      return unsafe emptySlots[emptyCount]
    }
    if slotsUsed < slotCount {
      slotsUsed += 1
      return UInt32(slotsUsed - 1)
    }
    let index = spent.count > 0 ? spent.first : idle.first
    guard index != Self.nothing, unsafe entries[Int(index)].epoch < flushedThrough else {
      return nil
    }
    return leave(index)
  }

  /// Takes an extent out with the transaction that is planned, and returns its slot.
  private mutating func leave(_ index: UInt32) -> UInt32 {
    let entry = unsafe entries[Int(index)]
    leaveRest(index)
    forget(index)
    unsafe leavingExtents[leavingCount] = entry.extent
    leavingCount += 1
    return entry.slot
  }

  /// The bytes of an extent that leaves with the transaction under way, not cut at the end of the
  /// volume. Dirty bitmap pages that cover it must be durable before the transaction is written.
  public func leaving(_ index: Int) -> ByteRange {
    precondition(index >= 0 && index < leavingCount, "no such extent leaves")
    return unsafe Self.range(ofExtent: leavingExtents[index])
  }

  /// The bytes of extent number `extent`, not cut at the end of the volume.
  public static func range(ofExtent extent: UInt32) -> ByteRange {
    ByteRange(offset: ByteOffset(bytes: UInt64(extent) * extentBytes), length: extentBytes)
  }

  /// The transaction under way is on the disk: its extents are hot. Look again at what waits.
  public mutating func transactionWritten() {
    precondition(isTransactionUnderWay, "no transaction was planned")
    isTransactionUnderWay = false
    for position in 0..<joiningCount {
      let index = unsafe slots[Int(changing[position])]
      unsafe entries[Int(index)].state = .hot
      if unsafe entries[Int(index)].pins == 0 { rest(index) }
    }
    for position in joiningCount..<joiningCount + emptyingCount {
      unsafe emptySlots[emptyCount] = changing[position]
      emptyCount += 1
    }
    leavingCount = 0
    joiningCount = 0
    emptyingCount = 0
  }

  /// How many extents wait for a transaction.
  public var waitingCount: Int { queue.count + joiningCount }
  /// How many extents are hot.
  public var hotCount: Int { slotsUsed - emptyCount - emptyingCount - joiningCount }
  /// The sum of all extents held by `touch`.
  public var heldCount: Int { pinned }

  /// The hot extents in order. Allocates: for status and tests.
  public var hotExtents: [UInt32] {
    (0..<slotsUsed).compactMap { slot -> UInt32? in
      guard unsafe slots[slot] != Self.nothing else { return nil }
      let entry = unsafe entries[Int(slots[slot])]
      return entry.state == .hot ? entry.extent : nil
    }.sorted()
  }

  /// Slots that the transaction under way changes, and the extents in them then; `nothing` where
  /// it leaves a slot empty.
  func update(_ position: Int) -> (slot: UInt32, extent: UInt32) {
    let slot = unsafe changing[position]
    return (slot, extent(inSlot: Int(slot)) ?? Self.nothing)
  }

  var updateCount: Int { joiningCount + emptyingCount }

  /// The extent in `slot`; `nil` while the slot is empty.
  func extent(inSlot slot: Int) -> UInt32? {
    guard slot < slotsUsed, unsafe slots[slot] != Self.nothing else { return nil }
    return unsafe entries[Int(slots[slot])].extent
  }
}
