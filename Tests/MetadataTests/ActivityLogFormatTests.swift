/// The activity log on disk: its bytes, and which damage makes the hot extents unknown.

import BlockTypes
import Metadata
import TestSupport
import Testing

private let device: UInt64 = 0x1122_3344_5566_7788

/// A ring with `count` transactions of run 2; each makes one extent hot, in rotation.
private func ring(transactions count: Int, slots: Int = 64) -> [UInt8] {
  var bytes = [UInt8](repeating: 0, count: ActivityLog.ringBytes)
  var log = ActivityLog(slotCount: slots, deviceID: device, run: 2)
  for number in 0..<count {
    let range = ActivityLog.range(ofExtent: UInt32(number % 1000))
    _ = log.touch(range)
    if log.wantsFlush { log.flushCompleted(log.flushBegan()) }
    guard log.planTransaction() else { preconditionFailure("nothing to write") }
    write(&log, into: &bytes)
    log.unpin(range)
  }
  return bytes
}

private func write(_ log: inout ActivityLog, into bytes: inout [UInt8]) {
  let block = written(ActivityLog.transactionBytes) { log.encodeTransaction(into: $0) }
  let start = Int(log.transactionOffset)
  bytes.replaceSubrange(start..<start + block.count, with: block)
  log.transactionWritten()
}

private func recover(_ bytes: [UInt8], run: UInt64 = 2) -> ActivityLogRecovery {
  var block = Superblock(node: node(0), resource: "r0", volumeBytes: 1 << 40, deviceID: device)
  block.activityLogRun = run
  return bytes.withUnsafeBytes { ActivityLog.recover($0, for: block) }
}

/// One sector with the checksum made right again.
private func reseal(_ bytes: inout [UInt8], sector: Int) {
  let start = sector * 512
  let crc = slowCRC32C([0, 0, 0, 0] + bytes[start + 4..<start + 512])
  for index in 0..<4 { bytes[start + index] = UInt8(truncatingIfNeeded: crc >> (24 - 8 * index)) }
}

@Suite struct ActivityLogFormatTests {
  /// Golden bytes: a change here is a format change and needs a new format version.
  @Test func encodingIsStable() {
    var log = ActivityLog(slotCount: 256, deviceID: device, run: 9)
    for number: UInt32 in [5, 0x0102_0304] { _ = log.touch(ActivityLog.range(ofExtent: number)) }
    _ = log.planTransaction()
    let bytes = written(ActivityLog.transactionBytes) { log.encodeTransaction(into: $0) }

    #expect(log.transactionOffset == 0)
    let header: [UInt8] = [
      0x41, 0x4C, 0x4F, 0x47, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88,
      0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 1,
    ]
    for sector in 0..<8 {
      let start = sector * 512
      #expect(Array(bytes[start + 4..<start + 32]) == header)
      #expect(
        Array(bytes[start + 32..<start + 40])
          == [UInt8(sector), sector == 0 ? 4 : 0, 1, 0, 0, 0, 0, 0])
      var sealed = bytes
      reseal(&sealed, sector: sector)
      #expect(sealed == bytes)
      if sector > 0 { #expect(bytes[start + 40..<start + 512].allSatisfy { $0 == 0 }) }
    }
    // Two changes, then two slots as context.
    let entries: [UInt8] = [0, 0, 0, 0, 0, 5, 0, 1, 1, 2, 3, 4]
    #expect(Array(bytes[40..<64]) == entries + entries)
    #expect(bytes[64..<512].allSatisfy { $0 == 0 })
    #expect(Array(bytes[0..<4]) == [0xB9, 0x1B, 0x1F, 0x4F])
  }

  /// A slot that is left empty is named with the extent FFFFFFFF, and left out of the context.
  @Test func encodingOfAnEmptySlotIsStable() {
    var log = ActivityLog(slotCount: 256, deviceID: device, run: 9)
    var bytes = [UInt8](repeating: 0, count: ActivityLog.ringBytes)
    for number: UInt32 in [5, 6] { _ = log.touch(ActivityLog.range(ofExtent: number)) }
    _ = log.planTransaction()
    write(&log, into: &bytes)
    log.unpin(ActivityLog.range(ofExtent: 5))
    log.clockMs = 20_000
    log.continueCooling()
    log.flushCompleted(log.flushBegan())
    _ = log.planTransaction()
    write(&log, into: &bytes)

    let second = ActivityLog.transactionBytes
    #expect(bytes[second + 33] == 1, "the slot of extent 6 is not in this part of the rotation")
    #expect(Array(bytes[second + 40..<second + 46]) == [0, 0, 255, 255, 255, 255])
    #expect(
      bytes.withUnsafeBytes {
        ActivityLog.recover($0, deviceID: device, run: 9, volumeBytes: 1 << 40)
      }
        == .extents([6]))
  }

  @Test func logThatWasNeverWrittenNamesNothing() {
    #expect(recover([UInt8](repeating: 0, count: ActivityLog.ringBytes)) == .none)
  }

  /// What an older run wrote is void, however full the ring is.
  @Test(arguments: [1, 100, 255, 256, 257, 700])
  func olderRunsAreVoid(count: Int) {
    #expect(recover(ring(transactions: count), run: 3) == .none)
  }

  /// The superblock is an old copy: what it does not know of may have been written.
  @Test func newerRunIsDamage() {
    #expect(
      recover(ring(transactions: 3), run: 1) == .damaged(.newerRun(2, known: 1)))
  }

  /// The last 64 extents, wherever in the ring the newest transaction is.
  @Test(arguments: [1, 2, 63, 64, 65, 254, 255, 256, 257, 511, 512, 513, 999])
  func everySlotIsNamedByTheWindow(count: Int) {
    let first = UInt32(max(0, count - 64))
    #expect(recover(ring(transactions: count)) == .extents(Array(first..<UInt32(count))))
  }

  /// The newest transaction torn in every way: the ones before it count, and the new one may.
  @Test(arguments: [1, 2, 255, 256, 257, 300])
  func tornNewestTransactionIsNoDamage(count: Int) {
    let before = ring(transactions: count - 1)
    let after = ring(transactions: count)
    let start = (count - 1) % 256 * 4096
    let known = (max(0, count - 1 - 64)..<count - 1).map { UInt32($0) }
    for subset in 1..<255 {
      var torn = before
      for sector in 0..<8 where subset & (1 << sector) != 0 {
        let part = start + sector * 512..<start + (sector + 1) * 512
        torn.replaceSubrange(part, with: after[part])
      }
      let new = subset & 1 == 0 ? [] : [UInt32(count - 1)]
      guard case .extents(let found) = recover(torn) else {
        Issue.record("\(count), sectors \(String(subset, radix: 2)): \(recover(torn))")
        continue
      }
      #expect(Set(found).isSuperset(of: known + new))
      #expect(Set(found).isSubset(of: known + [UInt32(count - 1)]))
    }
  }

  /// Rot in any sector of this run is found, except in the block that was to be overwritten next
  /// where even that is: it could have been the newest.
  @Test(arguments: [3, 255, 256, 300])
  func rotMakesTheExtentsUnknown(count: Int) {
    let good = ring(transactions: count)
    var random = SeededGenerator(seed: UInt64(count))
    for sector in 0..<2048 where sector < (count + 1) * 8 {
      var bad = good
      bad[sector * 512 + random.below(512)] ^= UInt8(1 + random.below(255))
      guard case .damaged = recover(bad) else {
        Issue.record("\(count), sector \(sector): \(recover(bad))")
        continue
      }
    }
  }

  /// Garbage behind the block that would come next is what older runs left there.
  @Test func rotOfOlderRunsMeansNothing() {
    var bytes = ring(transactions: 3)
    bytes[4 * 4096 + 7] = 1
    #expect(recover(bytes) == .extents([0, 1, 2]))
    bytes[3 * 4096 + 7] = 1
    #expect(recover(bytes) == .damaged(.badSector(24)))
  }

  /// A transaction that never reached its place, though later ones did.
  @Test(arguments: [0, 1, 4])
  func missingTransactionIsDamage(missing: Int) {
    var bytes = ring(transactions: 6)
    bytes.replaceSubrange(
      missing * 4096..<(missing + 1) * 4096, with: [UInt8](repeating: 0, count: 4096))
    #expect(recover(bytes) == .damaged(.missingTransaction(UInt64(missing + 1), newest: 6)))
  }

  /// Zeroes where a full ring has its oldest transaction: a write of nothing went astray there.
  @Test func holeInAFullRingIsDamage() {
    var bytes = ring(transactions: 300)
    bytes.replaceSubrange(44 * 4096..<45 * 4096, with: [UInt8](repeating: 0, count: 4096))
    #expect(recover(bytes) == .damaged(.missingTransaction(45, newest: 300)))
    // Two transactions behind each other torn: they are never under way together.
    var torn = ring(transactions: 300)
    let newer = ring(transactions: 302)
    torn.replaceSubrange(44 * 4096..<44 * 4096 + 512, with: newer[44 * 4096..<44 * 4096 + 512])
    torn.replaceSubrange(45 * 4096..<45 * 4096 + 512, with: newer[45 * 4096..<45 * 4096 + 512])
    #expect(recover(torn) == .damaged(.missingTransaction(301, newest: 301)))
  }

  @Test func sectorInAnotherPlaceIsDamage() {
    var bytes = ring(transactions: 5)
    bytes.replaceSubrange(9 * 4096..<9 * 4096 + 512, with: bytes[0..<512])
    #expect(recover(bytes) == .damaged(.misplacedSector(72)))
  }

  @Test func sectorOfOtherMetadataIsDamage() {
    var bytes = ring(transactions: 5)
    bytes[8] ^= 1
    reseal(&bytes, sector: 0)
    #expect(recover(bytes) == .damaged(.foreignDevice(sector: 0, id: device ^ 1 << 56)))
  }

  @Test(
    arguments: [
      (33, [79], ActivityLogDamage.badSector(0)),
      (4, [0], .badSector(0)),
      (32, [1], .misplacedSector(0)),
      (24, [0xFF], .misplacedSector(0)),
      (31, [0], .misplacedSector(0)),
      (40, [0, 64], .badEntry(slot: 64, extent: 0)),
      (42, [0, 4, 0, 0], .badEntry(slot: 0, extent: 1 << 18)),
    ] as [(Int, [UInt8], ActivityLogDamage)])
  func badFieldUnderARightChecksumIsDamage(
    offset: Int, value: [UInt8], damage: ActivityLogDamage
  ) {
    var bytes = ring(transactions: 5)
    bytes.replaceSubrange(offset..<offset + value.count, with: value)
    reseal(&bytes, sector: 0)
    #expect(recover(bytes) == .damaged(damage))
    #expect(!"\(damage)".isEmpty)
  }

  @Test func areaOfAnotherSizeIsDamage() {
    #expect(recover([0]) == .damaged(.wrongSize(1)))
    #expect("\(ActivityLogDamage.wrongSize(1))" == "1 bytes instead of 1048576")
  }

  /// Random changes under right checksums give a value or a damage, never a trap.
  @Test(arguments: seeds(count: 6))
  func garbageNeverTraps(seed: UInt64) {
    var random = SeededGenerator(seed: seed)
    let good = ring(transactions: 250 + random.below(20))
    for _ in 0..<40 {
      var bytes = good
      for _ in 0..<(1 + random.below(4)) {
        let sector = random.below(2048)
        for _ in 0..<(1 + random.below(3)) {
          bytes[sector * 512 + random.below(random.oneIn(2) ? 44 : 512)] = UInt8(random.below(256))
        }
        if !random.oneIn(4) { reseal(&bytes, sector: sector) }
      }
      switch recover(bytes) {
      case .none: Issue.record("seed \(seed): transactions were overlooked")
      case .extents(let extents): #expect(extents.allSatisfy { $0 < 1 << 18 })
      case .damaged(let damage): #expect(!"\(damage)".isEmpty)
      }
    }
  }
}
