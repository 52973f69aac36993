/// A damaged log says what is wrong with it, and where.

import BlockTypes
import Metadata
import TestSupport
import Testing

@Suite struct ActivityLogDamageTests {
  @Test func everyKindOfDamageNamesItsPlace() {
    let kinds: [(ActivityLogDamage, String)] = [
      (.wrongSize(77), "77 bytes instead of 1048576"),
      (.badSector(5), "sector 5 is damaged"),
      (.misplacedSector(6), "sector 6 belongs elsewhere"),
      (.foreignDevice(sector: 7, id: 0xABC), "device id 0xabc"),
      (.newerRun(9, known: 8), "run 9"),
      (.missingTransaction(10, newest: 12), "transaction 10 is missing"),
      (.badEntry(slot: 3, extent: 4), "slot 3 names extent 4"),
    ]
    for (damage, words) in kinds { #expect("\(damage)".contains(words)) }
  }

  /// The superblock says which log is right.
  @Test func theSuperblockOfAnotherDiskDoesNotFit() throws {
    var block = Superblock(node: node(0), resource: "r0", volumeBytes: 1 << 30, deviceID: 7)
    block.activityLogRun = 3
    var log = ActivityLog(slotCount: 64, deviceID: 7, run: 3)
    _ = log.touch(ActivityLog.range(ofExtent: 5))
    let isPlanned = log.planTransaction()
    #expect(isPlanned)
    var ring = [UInt8](repeating: 0, count: ActivityLog.ringBytes)
    let start = Int(log.transactionOffset)
    let bytes = written(ActivityLog.transactionBytes) { log.encodeTransaction(into: $0) }
    ring.replaceSubrange(start..<start + bytes.count, with: bytes)
    log.transactionWritten()
    func recovered() -> ActivityLogRecovery {
      ring.withUnsafeBytes { ActivityLog.recover($0, for: block) }
    }
    #expect(recovered() == .extents([5]))
    block.deviceID = 8
    #expect(recovered() == .damaged(.foreignDevice(sector: 0, id: 7)))
    block.deviceID = 7
    block.activityLogRun = 2
    #expect(recovered() == .damaged(.newerRun(3, known: 2)))
    block.activityLogRun = 4
    #expect(recovered() == .none)
    let short = Array(ring.dropLast(512)).withUnsafeBytes { ActivityLog.recover($0, for: block) }
    #expect(short == .damaged(.wrongSize(ActivityLog.ringBytes - 512)))
  }

  /// A small volume needs no large log, and no volume a smaller one than there can be.
  @Test func slotsFitTheVolume() {
    #expect(ActivityLog.slotCount(wanted: 16_384, volumeBytes: 1 << 40) == 16_384)
    #expect(ActivityLog.slotCount(wanted: 16_384, volumeBytes: 4 << 30) == 1024)
    #expect(ActivityLog.slotCount(wanted: 16_384, volumeBytes: 4096) == 64)
  }
}
