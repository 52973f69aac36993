/// The activity log: after a crash, every extent that could hold lost writes is named.

import BlockTypes
import CAllocationCount
import Metadata
import TestSupport
import Testing

private func extent(_ number: UInt32) -> ByteRange { ActivityLog.range(ofExtent: number) }

/// Writes the planned transaction into `ring`.
private func commit(_ log: inout ActivityLog, _ ring: inout [UInt8]) {
  let bytes = written(ActivityLog.transactionBytes) { log.encodeTransaction(into: $0) }
  let start = Int(log.transactionOffset)
  ring.replaceSubrange(start..<start + bytes.count, with: bytes)
  log.transactionWritten()
}

@Suite struct ActivityLogTests {
  /// Random writes, flushes, transactions and crashes; the log is judged at each crash.
  @Test(arguments: seeds(count: 16))
  func crashNeverForgetsAnExtentThatCouldHoldLostWrites(seed: UInt64) {
    var random = SeededGenerator(seed: seed)
    let slots = 64 + random.below(3) * 100
    let volume = UInt64(40 + random.below(2000)) << 22
    var model = ActivityLogModel(volumeBytes: volume - 4096, slotCount: slots)
    for _ in 0..<12 {
      for _ in 0..<random.below(6000) { model.step(&random) }
      let underWay = model.block != nil
      let ring = model.crashed(&random)
      let found: Set<UInt32>
      switch model.recover(ring) {
      case .none: found = []
      case .extents(let extents): found = Set(extents)
      case .damaged(let damage):
        Issue.record("seed \(seed): a crash was taken for damage: \(damage)")
        return
      }
      #expect(found.isSuperset(of: model.atRisk.keys), "seed \(seed)")
      if !underWay { #expect(found == model.durableHot, "seed \(seed)") }
      #expect(found.count <= model.log.slotCount + 559, "seed \(seed)")
      if random.oneIn(3) {
        let isDrained = model.drain()
        #expect(isDrained, "seed \(seed): a write waits for ever")
      } else {
        model.restart(ring)
      }
    }
  }

  /// A write spans two extents: both are held, and it goes on when both are hot.
  @Test func writeGoesOnWhenEveryExtentIsHot() {
    var log = ActivityLog(slotCount: 64, deviceID: 1, run: 1)
    var ring = [UInt8](repeating: 0, count: ActivityLog.ringBytes)
    let border = ByteRange(start: ActivityLog.extentBytes - 512, end: ActivityLog.extentBytes + 512)
    #expect(log.touch(extent(0)) == .wait)
    #expect(log.touch(border) == .wait)
    #expect(log.waitingCount == 2 && log.heldCount == 3)
    let isPlanned = log.planTransaction()
    #expect(isPlanned && log.isTransactionUnderWay && log.leavingCount == 0)
    #expect(log.isHot(border) == false, "not before the transaction is on the disk")
    #expect(log.touch(extent(1)) == .wait)

    commit(&log, &ring)

    #expect(log.isHot(border) && log.hotExtents == [0, 1] && log.waitingCount == 0)
    #expect(log.touch(border) == .hot)
    #expect(log.isHot(extent(2)) == false)
    let again = log.planTransaction()
    #expect(!again, "nothing waits")
  }

  @Test func emptyRangeIsAlwaysHot() {
    var log = ActivityLog(slotCount: 64, deviceID: 1, run: 1)
    let nothing = ByteRange(start: 4096, end: 4096)
    let touched = log.touch(nothing)
    #expect(touched == .hot && log.isHot(nothing) && log.heldCount == 0)
    log.unpin(nothing)
    #expect(log.waitingCount == 0)
  }

  /// A request that is given up while it waits leaves nothing behind.
  @Test func writeThatIsGivenUpWaitsNoLonger() {
    var log = ActivityLog(slotCount: 64, deviceID: 1, run: 1)
    for number: UInt32 in 0..<10 { _ = log.touch(extent(number)) }
    for number: UInt32 in [0, 5, 9, 1, 2, 3, 4, 6, 7, 8] { log.unpin(extent(number)) }
    let isPlanned = log.planTransaction()
    #expect(!isPlanned && log.waitingCount == 0 && log.heldCount == 0)
  }

  /// No more is held than there are slots, so what waits always gets one in the end.
  @Test func moreThanTheSlotsCannotBeHeld() {
    var log = ActivityLog(slotCount: 64, deviceID: 1, run: 1)
    let two = ByteRange(start: 0, end: 2 * ActivityLog.extentBytes)
    for _ in 0..<32 { #expect(log.touch(two) == .wait) }
    #expect(log.touch(extent(7)) == .full)
    #expect(log.heldCount == 64)
    log.unpin(two)
    #expect(log.touch(extent(7)) == .wait)
  }

  /// An extent leaves only after a flush that began when its last write had ended.
  @Test func extentLeavesOnlyAfterAFlush() {
    var log = ActivityLog(slotCount: 64, deviceID: 1, run: 1)
    var ring = [UInt8](repeating: 0, count: ActivityLog.ringBytes)
    for number: UInt32 in 0..<64 { _ = log.touch(extent(number)) }
    var isPlanned = log.planTransaction()
    commit(&log, &ring)
    #expect(isPlanned && !log.wantsFlush)
    let early = log.flushBegan()
    log.unpin(extent(3))
    #expect(log.touch(extent(100)) == .wait)
    log.flushCompleted(early)
    isPlanned = log.planTransaction()
    #expect(!isPlanned, "the flush began before the write had ended")
    #expect(log.wantsFlush == true)
    let late = log.flushBegan()
    #expect(log.wantsFlush == false, "one is under way")
    isPlanned = log.planTransaction()
    #expect(!isPlanned)
    log.flushCompleted(late)
    isPlanned = log.planTransaction()
    #expect(isPlanned && log.leavingCount == 1)
    #expect(log.leaving(0) == extent(3))
    #expect(log.isHot(extent(3)) == false)
    // What leaves can be wanted again at once, and waits for the next transaction.
    log.unpin(extent(4))
    #expect(log.touch(extent(3)) == .wait)
    commit(&log, &ring)
    #expect(log.isHot(extent(100)) && !log.isHot(extent(3)))
  }

  /// The extent written least recently leaves first.
  @Test func leastRecentlyWrittenExtentLeaves() {
    var log = ActivityLog(slotCount: 64, deviceID: 1, run: 1)
    var ring = [UInt8](repeating: 0, count: ActivityLog.ringBytes)
    for number: UInt32 in 0..<64 { _ = log.touch(extent(number)) }
    _ = log.planTransaction()
    commit(&log, &ring)
    for number: UInt32 in 0..<64 { log.unpin(extent(number)) }
    let touched = log.touch(extent(0))
    #expect(touched == .hot)
    log.unpin(extent(0))
    let flush = log.flushBegan()
    log.flushCompleted(flush)
    _ = log.touch(extent(200))
    _ = log.touch(extent(201))
    _ = log.planTransaction()
    #expect(log.leaving(0) == extent(1) && log.leaving(1) == extent(2))
  }

  /// Small volumes need fewer slots, but never fewer than one long range takes.
  @Test func slotsFollowTheVolume() {
    #expect(ActivityLog.slotCount(wanted: 16_384, volumeBytes: 1 << 40) == 16_384)
    #expect(ActivityLog.slotCount(wanted: 16_384, volumeBytes: (1 << 30) + 1) == 257)
    #expect(ActivityLog.slotCount(wanted: 16_384, volumeBytes: 4096) == 64)
    #expect(ActivityLog.rangeBytesLimit / ActivityLog.extentBytes + 1 <= 64)
  }

  /// One transaction takes hundreds of extents, and the rest waits for the next one.
  @Test(arguments: [64, 16_384, 65_534])
  func transactionsAreFull(slots: Int) {
    var log = ActivityLog(slotCount: slots, deviceID: 1, run: 1)
    var ring = [UInt8](repeating: 0, count: ActivityLog.ringBytes)
    let count = min(slots, 5000)
    for number in 0..<count { _ = log.touch(extent(UInt32(number))) }
    var transactions = 0
    while log.planTransaction() {
      commit(&log, &ring)
      transactions += 1
    }
    #expect(log.updateLimit >= 367)
    #expect(transactions == (count + log.updateLimit - 1) / log.updateLimit)
    #expect(log.hotCount == count && log.slotCount == slots)
    let found = ring.withUnsafeBytes {
      ActivityLog.recover($0, deviceID: 1, run: 1, volumeBytes: 1 << 50)
    }
    #expect(found == .extents(Array(0..<UInt32(count))))
  }

  /// In steady state nothing is allocated.
  @Test func nothingIsAllocatedPerWrite() async {
    await #expect(processExitsWith: .success) {
      var log = ActivityLog(slotCount: 64, deviceID: 1, run: 1)
      let block = UnsafeMutableRawBufferPointer.allocate(byteCount: 4096, alignment: 4096)
      // Other threads of the test runner allocate now and then; a thousand writes that allocated
      // would do so in every attempt.
      var fewest = UInt64.max
      var round: UInt32 = 0
      for _ in 0..<20 {
        let before = callocation_count()
        for _ in 0..<1000 {
          let range = extent(round)
          var isHot = log.touch(range) == .hot
          if log.wantsFlush { log.flushCompleted(log.flushBegan()) }
          if log.planTransaction() {
            log.encodeTransaction(into: block)
            log.transactionWritten()
          }
          isHot = isHot || log.isHot(range)
          precondition(isHot, "round \(round)")
          log.unpin(range)
          round += 1
        }
        fewest = min(fewest, callocation_count() - before)
      }
      precondition(fewest == 0, "\(fewest) allocations in a thousand writes")
    }
  }

  @Test func unpinWithoutTouchTraps() async {
    await #expect(processExitsWith: .failure) {
      var log = ActivityLog(slotCount: 64, deviceID: 1, run: 1)
      log.unpin(extent(1))
    }
  }
}
