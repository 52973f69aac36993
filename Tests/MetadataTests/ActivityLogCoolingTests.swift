/// Extents that nobody writes to leave the log: soon, safely, and without costing those who write.

import BlockTypes
import Metadata
import TestSupport
import Testing

private func extent(_ number: UInt32) -> ByteRange { ActivityLog.range(ofExtent: number) }

/// A log, the area of the disk that it is written to, and what that cost.
private struct LoggedDisk: ~Copyable {
  static let volumeBytes = UInt64(64) << 30
  var log: ActivityLog
  var ring = [UInt8](repeating: 0, count: ActivityLog.ringBytes)
  var flushes = 0
  var transactions = 0

  init(slots: Int = 4096) {
    log = ActivityLog(
      slotCount: slots, deviceID: 1, run: 1,
      extentCount: Int(Self.volumeBytes / ActivityLog.extentBytes))
  }

  /// Does what the log wants, as a core does after each event.
  mutating func settle() {
    while true {
      log.continueCooling()
      if log.wantsFlush {
        flushes += 1
        log.flushCompleted(log.flushBegan())
      }
      guard log.planTransaction() else { return }
      transactions += 1
      let bytes = written(ActivityLog.transactionBytes) { log.encodeTransaction(into: $0) }
      let start = Int(log.transactionOffset)
      ring.replaceSubrange(start..<start + bytes.count, with: bytes)
      log.transactionWritten()
    }
  }

  /// One write to an extent, from begin to end.
  mutating func write(_ number: UInt32, isSpent: Bool = false) {
    _ = log.touch(extent(number))
    settle()
    if !log.isHot(extent(number)) { Issue.record("extent \(number) is not hot") }
    log.unpin(extent(number), isSpent: isSpent)
    settle()
  }

  /// Lets time pass; what is due is done when it is due, as by a timer.
  mutating func pass(milliseconds: UInt32) {
    var left = milliseconds
    while let due = log.coolingIsDueInMs, due <= left {
      log.clockMs &+= due
      left -= due
      settle()
    }
    log.clockMs &+= left
  }

  /// What a crash now would mark.
  var recovered: ActivityLogRecovery {
    ring.withUnsafeBytes {
      ActivityLog.recover($0, deviceID: 1, run: 1, volumeBytes: Self.volumeBytes)
    }
  }
}

@Suite struct ActivityLogCoolingTests {
  /// A quiet node copies nothing after a crash: one flush, one transaction, and no timer is left.
  @Test func quietLogBecomesEmpty() {
    var disk = LoggedDisk()
    for number: UInt32 in 0..<400 { disk.write(number) }
    #expect(disk.recovered == .extents(Array(0..<400)))
    #expect(disk.log.coolingIsDueInMs == 20_000)
    let before = (disk.flushes, disk.transactions)

    disk.pass(milliseconds: 19_999)
    #expect(disk.log.hotCount == 400)
    disk.pass(milliseconds: 1)

    #expect(disk.log.hotCount == 0 && disk.log.hotExtents.isEmpty)
    #expect(disk.recovered == .extents([]))
    #expect(disk.flushes == before.0 + 1 && disk.transactions == before.1 + 1)
    #expect(disk.log.coolingIsDueInMs == nil, "an empty log wakes nobody")
  }

  /// The whole log of a long-running node leaves in one pass.
  @Test func fullLogBecomesEmptyInFewTransactions() {
    var disk = LoggedDisk(slots: 16_384)
    for number: UInt32 in 0..<16_384 { disk.write(number) }
    let before = (disk.flushes, disk.transactions)
    disk.pass(milliseconds: 30_000)
    #expect(disk.log.hotCount == 0)
    #expect(disk.flushes - before.0 <= 2)
    #expect(disk.transactions - before.1 <= 2 * (16_384 / disk.log.updateLimit + 1))
    // And it can be filled again.
    for number: UInt32 in 0..<1_000 { disk.write(number) }
    #expect(disk.recovered == .extents(Array(0..<1_000)))
  }

  /// What is held does not cool, nor what was written since.
  @Test func onlyWhatRestsCools() {
    var disk = LoggedDisk()
    for number: UInt32 in 0..<10 { disk.write(number) }
    _ = disk.log.touch(extent(3))
    disk.pass(milliseconds: 15_000)
    disk.write(5)
    disk.pass(milliseconds: 10_000)
    #expect(disk.log.hotExtents == [3, 5])
    disk.pass(milliseconds: 60_000)
    #expect(disk.log.hotExtents == [3])
    #expect(disk.log.coolingIsDueInMs == nil, "it cannot cool before it is let go")
    disk.log.unpin(extent(3))
    disk.pass(milliseconds: 60_000)
    #expect(disk.log.hotExtents == [])
  }

  /// A flush that was begun before the last write ended proves nothing.
  @Test func extentCoolsOnlyAfterAFlush() {
    var log = ActivityLog(slotCount: 64, deviceID: 1, run: 1, extentCount: 100)
    _ = log.touch(extent(7))
    var isPlanned = log.planTransaction()
    log.transactionWritten()
    let early = log.flushBegan()
    log.unpin(extent(7))
    log.clockMs = 20_000
    log.continueCooling()
    #expect(log.isCooling == true)
    log.flushCompleted(early)
    isPlanned = log.planTransaction()
    #expect(!isPlanned && log.wantsFlush)
    let late = log.flushBegan()
    #expect(log.wantsFlush == false)
    log.flushCompleted(late)
    isPlanned = log.planTransaction()
    #expect(isPlanned && log.leavingCount == 1 && log.leaving(0) == extent(7))
    #expect(log.touch(extent(7)) == .wait, "it is cold from here on")
    log.transactionWritten()
    #expect(log.isHot(extent(7)) == false)
    log.continueCooling()
    #expect(log.isCooling == false)
  }

  /// What a resync has done with leaves in batches, at once; others stay.
  @Test func spentExtentsLeaveInBatches() {
    var disk = LoggedDisk()
    disk.write(5_000)
    let before = disk.transactions
    for number: UInt32 in 0..<1_000 { disk.write(number, isSpent: true) }
    #expect(disk.log.hotCount <= Cooling.spentBatch + 1)
    #expect(disk.log.isHot(extent(5_000)) == true)
    #expect(disk.transactions - before <= 1_000 + 1_000 / Cooling.spentBatch + 1)
    // Fewer than a batch are left; they go as all do.
    disk.pass(milliseconds: 60_000)
    #expect(disk.log.hotCount == 0)
  }

  /// The price. Writes at random over a working set that is written through within minutes, at any
  /// rate: no more than one transaction in a hundred writes comes from cooling, once patience has
  /// been learned.
  @Test(arguments: [(1_000, 2), (1_000, 100), (200, 500), (400, 1_000), (3_000, 20)])
  func coolingCostsNextToNothing(extents: Int, pauseMs: Int) {
    var random = SeededGenerator(seed: UInt64(extents * pauseMs))
    var disk = LoggedDisk()
    for number in 0..<extents { disk.write(UInt32(number)) }
    func run(_ writes: Int) -> Int {
      let before = disk.transactions
      for _ in 0..<writes {
        disk.pass(milliseconds: UInt32(random.below(2 * pauseMs)))
        disk.write(UInt32(random.below(extents)))
      }
      return disk.transactions - before
    }
    let learning = run(10_000)
    let after = run(10_000)
    #expect(learning <= 10_000 / 3, "\(learning) transactions while it learns")
    #expect(after <= 10_000 / 100, "\(after) transactions in 10 000 writes")
  }

  /// Extents that are written once in hours do cool; what that costs is bounded by the clock.
  @Test func patienceEndsAtAnHour() {
    var random = SeededGenerator(seed: 5)
    var disk = LoggedDisk()
    for number: UInt32 in 0..<3_000 { disk.write(number) }
    for _ in 0..<8_000 {
      disk.pass(milliseconds: UInt32(random.below(4_000)))
      disk.write(UInt32(random.below(3_000)))
    }
    // 3 000 extents, each made hot and cold once an hour at most, in four and a half hours.
    #expect(disk.transactions - 3_000 <= 3_000 * 5)
    #expect(disk.log.cooling.patienceMs <= Cooling.patienceMostMs)
    disk.pass(milliseconds: 2 * Cooling.patienceMostMs)
    #expect(disk.log.hotCount == 0)
  }

  /// A client that writes one block now and then pays two transactions a time, not more.
  @Test func rareWritesAreCheap() {
    var disk = LoggedDisk()
    for _ in 0..<100 {
      disk.write(1)
      disk.pass(milliseconds: 60_000)
    }
    #expect(disk.transactions <= 200 && disk.flushes <= 100)
  }
}
