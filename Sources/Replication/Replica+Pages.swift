/// Bitmaps on disk: writing pages, sweeps over all of them, slots that count as full.
///
/// The disk has a set bit for every marked block but those of hot extents (`Replica+Log`). A page
/// may be written at any time: it never takes a mark away that is still needed. Where marks must be
/// on the disk before something else happens, a sweep is asked for: it writes every page that was
/// not as in memory when the sweep began. Sweeps are numbered; who waits keeps the number.
import BlockTypes
import Metadata

/// A page that is being written.
struct PageWrite: BitwiseCopyable {
  var isBusy = false
  var slot: UInt8 = 0
  var page: UInt32 = 0
  var began = Instant(nanoseconds: 0)
  /// The transaction of the activity log that was planned last when it began.
  var plan: UInt64 = 0
}

/// The sweep under way and what was asked for.
struct Sweep: BitwiseCopyable {
  /// Sweeps asked for, begun and ended.
  var wanted: UInt64 = 0
  var begun: UInt64 = 0
  var done: UInt64 = 0
  /// The next place of the sweep under way.
  var slot = 0
  var page = 0
  /// Writes that were under way when the last place was passed: bit `n` for entry `n`.
  var tail: UInt32 = 0

  var isUnderWay: Bool { begun > done }
}

extension Replica {
  /// Pages that may be under way at once.
  public static var pageWriteLimit: Int { 8 }

  /// Asks for a sweep that begins after now, and returns its number.
  mutating func wantSweep() -> UInt64 {
    sweep.wanted = sweep.begun + 1
    return sweep.wanted
  }

  /// Goes on with the sweep; `true` when one has ended now.
  mutating func continueSweep() -> Bool {
    guard hasSuperblock else { return false }
    if !sweep.isUnderWay {
      guard sweep.wanted > sweep.done else { return false }
      sweep.begun = sweep.done + 1
      sweep.slot = 0
      sweep.page = 0
      sweep.tail = 0
    }
    while sweep.slot < peers.count {
      guard let page = nextUnwritten(sweep.slot, from: sweep.page) else {
        sweep.slot += 1
        sweep.page = 0
        if sweep.slot == peers.count { sweep.tail = busyPageWrites }
        continue
      }
      guard beginPageWrite(sweep.slot, page) else { return false }
      sweep.page = page + 1
    }
    guard sweep.tail == 0 else { return false }
    sweep.done = sweep.begun
    return true
  }

  /// The first page from `page` on that is not on the disk as it is in memory.
  private func nextUnwritten(_ slot: Int, from page: Int) -> Int? {
    let dirty = bitmaps[slot].firstDirtyPage(from: page)
    let stale = bitmaps[slot].firstStalePage(from: page)
    guard let dirty, let stale else { return dirty ?? stale }
    return min(dirty, stale)
  }

  private var busyPageWrites: UInt32 {
    var bits: UInt32 = 0
    for entry in 0..<pageWrites.count where pageWrites[entry].isBusy { bits |= 1 << UInt32(entry) }
    return bits
  }

  /// Begins to write a page; `false` when it has to wait for a write that is under way.
  mutating func beginPageWrite(_ slot: Int, _ page: Int) -> Bool {
    var free: Int?
    for entry in 0..<pageWrites.count {
      guard pageWrites[entry].isBusy else {
        free = entry
        continue
      }
      // Two writes of one page could change places.
      if pageWrites[entry].slot == slot, pageWrites[entry].page == page { return false }
    }
    guard let free else { return false }
    pageWrites[free] = PageWrite(
      isBusy: true, slot: UInt8(slot), page: UInt32(page), began: now, plan: logPlan)
    watchDisk()
    effects.push(.writeBitmapPage(UInt8(free)))
    return true
  }

  /// Fills in the page that a `writeBitmapPage` effect writes, and says where it belongs. To be
  /// called when the effect is carried out, once.
  @safe
  public mutating func encodePage(
    _ entry: UInt8, into bytes: UnsafeMutableRawBufferPointer
  ) -> (slot: Int, page: Int) {
    let write = pageWrites[Int(entry)]
    precondition(write.isBusy, "no such page is written")
    guard let block = superblock else { preconditionFailure("pages are written to a disk") }
    let slot = Int(write.slot)
    let page = BitmapPage(
      deviceID: block.deviceID, slot: slot, node: peers[slot].node, number: Int(write.page))
    page.write(&bitmaps[slot], into: bytes)
    return (slot, Int(write.page))
  }

  mutating func pageWritten(_ entry: UInt8, _ result: Int32) {
    let index = Int(entry)
    precondition(index < pageWrites.count && pageWrites[index].isBusy, "no such page was written")
    let write = pageWrites[index]
    pageWrites[index].isBusy = false
    sweep.tail &= ~(1 << UInt32(entry))
    guard result >= 0 else { return metadataFailed() }
    guard hasSuperblock else { return }
    bitmaps[Int(write.slot)].pageWritten(Int(write.page), isExpected: write.plan == logPlan)
  }

  /// Whether answers of the metadata disk are due.
  var hasMetadataWrites: Bool {
    superblockIsBeingWritten || busyPageWrites != 0 || logIsBeingWritten
  }

  /// What waited for a sweep goes on.
  mutating func finishSwept() {
    if let number = attachSweep, sweep.done >= number {
      attachSweep = nil
      raiseRun()
    }
    if let number = cleanSweep, sweep.done >= number {
      cleanSweep = nil
      markClean()
    }
    for slot in 0..<peers.count {
      if let number = peers[slot].sync.startSweep, sweep.done >= number {
        peers[slot].sync.startSweep = nil
        takeOverHistory(slot)
      }
      if let number = peers[slot].fullSweep, sweep.done >= number {
        peers[slot].fullSweep = nil
        peers[slot].isFull = false
        changeSuperblock()
      }
    }
  }

  /// Marks everything, on disk with the next superblock; the caller changes it.
  mutating func markAll(_ slot: Int) {
    bitmaps[slot].setAll()
    peers[slot].isFull = true
    // Every page says so itself when this sweep has ended, and what was copied since counts.
    peers[slot].fullSweep = wantSweep()
  }

  /// The disk is gone, and with it what was to be written.
  mutating func forgetSweeps() {
    sweep.begun = sweep.wanted
    sweep.done = sweep.wanted
    sweep.tail = 0
    attachSweep = nil
    cleanSweep = nil
    for slot in 0..<peers.count {
      peers[slot].sync.startSweep = nil
      peers[slot].fullSweep = nil
    }
  }
}
