/// A replica's disk around an activity log: client writes, flushes, and a crash at any moment.
///
/// The model knows which extents hold writes that a power loss could take back, and what is on the
/// disk of the log, sector by sector.

import BlockTypes
import Metadata
import TestSupport
import Testing

/// One write under way.
struct ModelWrite {
  let range: ByteRange
  var isStarted: Bool
}

struct ActivityLogModel: ~Copyable {
  static let deviceID: UInt64 = 0xD15C
  let volumeBytes: UInt64
  var log: ActivityLog
  /// The log area of the disk.
  var ring = [UInt8](repeating: 0, count: ActivityLog.ringBytes)
  /// The block that is being written.
  var block: [UInt8]?
  var writes: [ModelWrite] = []
  /// Extents with writes that a power loss may take back, and the flushes begun when they ended;
  /// `nil` while one is under way.
  var atRisk: [UInt32: UInt64?] = [:]
  var flushes: [UInt64] = []
  var flushesBegun: UInt64 = 0
  /// Hot by the last transaction that is whole on the disk.
  var durableHot: Set<UInt32> = []
  var refusals = 0

  init(volumeBytes: UInt64, slotCount: Int) {
    self.volumeBytes = volumeBytes
    log = Self.log(slotCount, run: 1, volumeBytes)
  }

  /// A log whose extents cool within a few steps.
  private static func log(_ slotCount: Int, run: UInt64, _ volumeBytes: UInt64) -> ActivityLog {
    var log = ActivityLog(
      slotCount: slotCount, deviceID: deviceID, run: run,
      extentCount: Int(volumeBytes / ActivityLog.extentBytes) + 1)
    log.cooling.patienceLeastMs = 40
    log.cooling.pauseMs = 20
    // Shortly before it wraps around.
    log.clockMs = .max - 500
    return log
  }

  static func extents(_ range: ByteRange) -> Range<UInt32> {
    guard range.length > 0 else { return 0..<0 }
    return UInt32(range.start / ActivityLog.extentBytes)..<UInt32(
      (range.end - 1) / ActivityLog.extentBytes) + 1
  }

  mutating func submit(_ range: ByteRange) {
    switch log.touch(range) {
    case .hot: start(writes.count, ModelWrite(range: range, isStarted: true))
    case .wait: writes.append(ModelWrite(range: range, isStarted: false))
    case .full: refusals += 1
    }
  }

  private mutating func start(_ index: Int, _ write: ModelWrite) {
    if index == writes.count { writes.append(write) } else { writes[index] = write }
    for extent in Self.extents(write.range) { atRisk[extent] = .some(nil) }
  }

  mutating func startWhatIsHot() {
    for (index, write) in writes.enumerated() where !write.isStarted && log.isHot(write.range) {
      start(index, ModelWrite(range: write.range, isStarted: true))
    }
  }

  /// Ends a write, or gives up one that still waits.
  mutating func end(_ index: Int) {
    let write = writes.remove(at: index)
    log.unpin(write.range, isSpent: write.range.start % 3 == 0)
    guard write.isStarted else { return }
    for extent in Self.extents(write.range) {
      let others = writes.contains { $0.isStarted && Self.extents($0.range).contains(extent) }
      if !others { atRisk[extent] = .some(flushesBegun) }
    }
  }

  mutating func beginFlush() {
    flushesBegun += 1
    let number = log.flushBegan()
    #expect(number == flushesBegun)
    flushes.append(number)
  }

  mutating func completeFlush(_ index: Int) {
    let number = flushes.remove(at: index)
    log.flushCompleted(number)
    atRisk = atRisk.filter { _, ended in
      guard let ended else { return true }
      return ended >= number
    }
  }

  mutating func beginTransaction() {
    log.continueCooling()
    guard block == nil, log.planTransaction() else { return }
    for index in 0..<log.leavingCount {
      let extent = UInt32(log.leaving(index).start / ActivityLog.extentBytes)
      #expect(atRisk[extent] == nil, "extent \(extent) leaves while a crash could hurt it")
      #expect(durableHot.contains(extent))
    }
    block = written(ActivityLog.transactionBytes) { log.encodeTransaction(into: $0) }
  }

  mutating func completeTransaction() {
    guard let block else { return }
    let start = Int(log.transactionOffset)
    ring.replaceSubrange(start..<start + block.count, with: block)
    self.block = nil
    log.transactionWritten()
    durableHot = Set(log.hotExtents)
    #expect(durableHot.count == log.hotCount)
    startWhatIsHot()
  }

  /// The ring after a power loss: the block under way is there in part, sector by sector.
  func crashed(_ random: inout SeededGenerator) -> [UInt8] {
    guard let block else { return ring }
    var ring = ring
    let start = Int(log.transactionOffset)
    let subset = random.oneIn(4) ? 255 : random.below(256)
    for sector in 0..<8 where subset & (1 << sector) != 0 {
      let part = sector * 512..<(sector + 1) * 512
      ring.replaceSubrange(start + part.lowerBound..<start + part.upperBound, with: block[part])
    }
    return ring
  }

  func recover(_ ring: [UInt8]) -> ActivityLogRecovery {
    ring.withUnsafeBytes {
      ActivityLog.recover(
        $0, deviceID: Self.deviceID, run: log.run, volumeBytes: volumeBytes)
    }
  }

  /// The node starts again after a crash, its bitmaps made right.
  mutating func restart(_ ring: [UInt8]) {
    self.ring = ring
    log = Self.log(log.slotCount, run: log.run + 1, volumeBytes)
    block = nil
    writes = []
    atRisk = [:]
    flushes = []
    flushesBegun = 0
    durableHot = []
  }

  mutating func step(_ random: inout SeededGenerator) {
    log.clockMs &+= UInt32(random.below(3))
    switch random.below(16) {
    case 0...4:
      let length = random.oneIn(30) ? UInt64(random.below(1 << 27)) : UInt64(random.below(1 << 20))
      let start = random.next() % volumeBytes / 512 * 512
      submit(ByteRange(start: start, end: min(start + length, volumeBytes)))
    case 5...8:
      if !writes.isEmpty, !random.oneIn(4) || writes.count > 20 {
        // Mostly the oldest, so that nothing stays for ever.
        let index = random.oneIn(3) ? random.below(writes.count) : 0
        if writes[index].isStarted || random.oneIn(8) { end(index) }
      }
    case 9: if log.wantsFlush || random.oneIn(20) { beginFlush() }
    case 10: if !flushes.isEmpty { completeFlush(random.below(flushes.count)) }
    case 11...13: beginTransaction()
    default: completeTransaction()
    }
  }

  /// Lets everything end, without new writes. `false` when something waits for ever.
  mutating func drain() -> Bool {
    for _ in 0..<10_000 {
      if writes.isEmpty { return true }
      for index in writes.indices.reversed() where writes[index].isStarted { end(index) }
      if log.wantsFlush { beginFlush() }
      while !flushes.isEmpty { completeFlush(0) }
      beginTransaction()
      completeTransaction()
    }
    return false
  }
}
