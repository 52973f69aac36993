/// dump-md, restore-md, apply-al and wipe-md on files: what goes out comes back, damage widens, and
/// what is in doubt is refused with what to do.

import BlockTypes
import Control
import Foundation
import Metadata
import Testing

@testable import ashlaradm

@Suite struct MetadataTransferTests {
  private let size = 256 << 20

  /// A disk with metadata that `change` has changed, both copies equal.
  private func bench(
    maxPeers: Int = 1, _ change: (inout Superblock) -> Void = { _ in }
  ) throws -> Bench {
    let bench = try Bench()
    try bench.makeDisk(bytes: size)
    #expect(try bench.run("create-md", "--max-peers", "\(maxPeers)", "r0").status == 0)
    try bench.changeSuperblock(size, change)
    return bench
  }

  private func layout(_ maxPeers: Int = 1) throws -> MetadataLayout {
    try .internal(deviceBytes: UInt64(size), maxPeers: UInt64(maxPeers))
  }

  /// The part of a dump that says something, without comments.
  private func statements(_ text: String) -> [Substring] {
    text.split(separator: "\n").filter { !$0.drop(while: { $0 == " " }).hasPrefix("#") }
  }

  /// Fresh metadata: all blocks count as different from every peer.
  @Test func freshMetadataIsFull() throws {
    let bench = try bench(maxPeers: 3)
    let dump = try bench.run("dump-md", "r0").output
    for line in ["max-peers 3;", "al-run 0;", "    full yes;", "disk-state Inconsistent;"] {
      #expect(dump.contains(line + "\n"), "\(dump)")
    }
    #expect(try layout(3).volumeBytes < layout(1).volumeBytes)
    #expect(dump.contains("la-size-sect \(try layout(3).volumeBytes / 512);\n"), "\(dump)")
    #expect(try bench.run("create-md", "--max-peers", "9", "r0").status == 1)
  }

  /// Dump, wipe, restore, dump: the same again, bitmaps and hot extents included.
  @Test func dumpCanBeRestored() throws {
    let bench = try bench {
      $0.dirty = true
      $0.wasPrimary = true
      $0.diskState = .upToDate
      $0.activityLogRun = 5
      $0.lineage.begin(id: 77, author: $0.node)
      $0.peers[0].isFull = false
      $0.peers[0].base = $0.lineage.newest
    }
    try bench.writeBitmap(size) { $0.setBlocks(5..<900) }
    try bench.writeLog(size, extents: [60, 61, 7])
    let first = try bench.run("dump-md", "r0")
    for line in [
      "    extent 7;", "    extent 60 count 2;", "    base 1 0x000000000000004D author 0;",
      "        0xFFFFFFFFFFFFFFE0;", "    # bits-set 895;", "dirty yes;",
    ] {
      #expect(first.output.contains(line + "\n"), "\(first)")
    }
    let path = bench.directory.appending(path: "dump").path
    try first.output.write(toFile: path, atomically: true, encoding: .utf8)

    #expect(try bench.run("wipe-md", "--force", "r0").status == 0)
    #expect(try bench.run("dump-md", "r0").error.hasPrefix("No valid meta data found\n"))
    let refused = try bench.run("restore-md", "r0", path)
    #expect(refused.status == 1, "nobody types yes")
    let restored = try bench.run("restore-md", "--force", "r0", path)
    #expect(restored.status == 0, "\(restored)")

    // The hot extents have become bits; apply-al on the original does the same.
    let second = try bench.run("dump-md", "r0").output
    #expect(second.contains("activity-log {\n}\n"), "\(second)")
    #expect(second.contains("    # bits-set \(895 + 3 * 1024);\n"), "\(second)")
    try second.write(toFile: path, atomically: true, encoding: .utf8)
    #expect(try bench.run("restore-md", "--force", "r0", path).status == 0)
    #expect(statements(try bench.run("dump-md", "r0").output) == statements(second))
  }

  /// After a crash apply-al moves the hot extents into the bitmap, once.
  @Test func hotExtentsOfACrashAreApplied() throws {
    let bench = try bench {
      $0.dirty = true
      $0.activityLogRun = 2
      $0.peers[0].isFull = false
    }
    try bench.writeBitmap(size) { _ in }
    try bench.writeLog(size, extents: [3])
    let applied = try bench.run("apply-al", "r0")
    #expect(applied.status == 0)
    #expect(
      applied.output == "Marked 4096 KB as out of sync based on the activity log.\n", "\(applied)")
    let dump = try bench.run("dump-md", "r0").output
    #expect(dump.contains("al-run 3;\n") && dump.contains("dirty yes;\n"), "\(dump)")
    #expect(dump.contains("activity-log {\n}\n"), "\(dump)")
    #expect(dump.contains("        # at 12288kB\n"), "\(dump)")
    #expect(dump.contains("        16 times 0xFFFFFFFFFFFFFFFF;\n"), "\(dump)")
    #expect(
      try bench.run("apply-al", "r0").output
        == "Marked 0 KB as out of sync based on the activity log.\n")
  }

  @Test func cleanMetadataNeedsNoApplying() throws {
    let bench = try bench { $0.peers[0].isFull = false }
    try bench.writeLog(size, extents: [3])
    let before = try bench.metadata(size)
    let applied = try bench.run("apply-al", "r0")
    #expect(applied.status == 0 && applied.output.isEmpty && applied.error.isEmpty, "\(applied)")
    #expect(try bench.metadata(size) == before)
  }

  /// A damaged log or page widens: everything, or the page, counts as different.
  @Test func damageWidens() throws {
    let bench = try bench {
      $0.dirty = true
      $0.peers[0].isFull = false
    }
    try bench.writeBitmap(size) { _ in }
    try bench.writeLog(size, extents: [3])
    let places = try layout()
    try bench.damage(at: places.bitmapPageOffset(slot: 0, page: 1) + 9)
    let dump = try bench.run("dump-md", "r0").output
    #expect(dump.contains("        496 times 0xFFFFFFFFFFFFFFFF;\n"), "\(dump)")
    try bench.damage(at: places.activityLogOffset + 77)
    let unknown = try bench.run("dump-md", "r0").output
    #expect(unknown.contains("# activity log: sector 0 is damaged\n"), "\(unknown)")
    #expect(unknown.contains("activity-log unknown;\n"), "\(unknown)")
    let path = bench.directory.appending(path: "dump").path
    try unknown.write(toFile: path, atomically: true, encoding: .utf8)

    let applied = try bench.run("apply-al", "r0")
    #expect(applied.output == "The activity log is damaged: marked everything as out of sync.\n")
    #expect(try bench.run("dump-md", "r0").output.contains("    full yes;\n"))
    #expect(try bench.run("restore-md", "--force", "r0", path).status == 0)
    #expect(try bench.run("dump-md", "r0").output.contains("    full yes;\n"))
  }

  /// One superblock copy is damaged: the other serves, as after a crash, and a change repairs it.
  @Test(arguments: [0, 1])
  func damagedCopyIsRepairedFromTheOther(copy: Int) throws {
    let bench = try bench { $0.activityLogRun = 1 }
    let offsets = try layout().superblockOffsets
    try bench.damage(at: (copy == 0 ? offsets.0 : offsets.1) + 200)
    let dump = try bench.run("dump-md", "r0").output
    #expect(dump.contains("# copy \(1 - copy) counts\n# copy \(copy): checksum 0x"), "\(dump)")
    #expect(dump.contains("dirty yes;\n"), "\(dump)")
    #expect(try bench.run("apply-al", "r0").status == 0)
    let after = try bench.run("dump-md", "r0").output
    #expect(!after.contains("checksum"), "\(after)")
  }

  @Test func damageBeyondRepairIsRefusedWithInstructions() throws {
    let bench = try bench()
    let offsets = try layout().superblockOffsets
    for offset in [offsets.0, offsets.1] { try bench.damage(at: offset + 200) }
    let before = try bench.metadata(size)
    for command in ["dump-md", "apply-al"] {
      let refused = try bench.run(command, "r0")
      #expect(refused.status == 1)
      #expect(refused.error.hasPrefix("No valid meta data found\n"), "\(refused)")
      #expect(refused.error.contains("'ashlaradm create-md r0'"), "\(refused)")
      #expect(refused.error.contains("'ashlaradm restore-md r0 FILE'"), "\(refused)")
    }
    #expect(try bench.metadata(size) == before)
  }

  /// The disk of another resource or node is left alone.
  @Test func wrongMetadataIsRefused() throws {
    let bench = try bench { $0.resource = "r9" }
    for command in ["dump-md", "apply-al"] {
      let refused = try bench.run(command, "r0")
      #expect(refused.status == 1)
      #expect(refused.error.contains("meta data of resource 'r9', node id 0"), "\(refused)")
    }
    try bench.changeSuperblock(size) {
      $0.resource = "r0"
      $0.volumeBytes -= 4096
    }
    let resized = try bench.run("dump-md", "r0")
    #expect(resized.error.contains("The size of \(bench.diskPath) was changed"), "\(resized)")
  }

  @Test func dumpsOfOtherVolumesAreNotRestored() throws {
    let bench = try bench()
    let good = try bench.run("dump-md", "r0").output
    let path = bench.directory.appending(path: "dump").path
    for (old, new, text) in [
      ("resource \"r0\"", "resource \"r1\"", "the dump is of resource 'r1', node id 0"),
      ("node-id 0", "node-id 4", "the dump is of resource 'r0', node id 4"),
      ("max-peers 1", "max-peers 2", "the dump is of a volume of"),
      ("dirty no", "dirty maybe", "\(path):21: expected 'yes' or 'no' instead of 'maybe'"),
    ] {
      let bad = good.replacingOccurrences(of: old, with: new)
      try bad.write(toFile: path, atomically: true, encoding: .utf8)
      let refused = try bench.run("restore-md", "--force", "r0", path)
      #expect(refused.status == 1 || refused.status == 10, "\(refused)")
      #expect(refused.error.contains(text), "\(refused)")
    }
    let missing = try bench.run("restore-md", "--force", "r0", path + "x")
    #expect(missing.status == 20 && missing.error.hasPrefix("cannot read"), "\(missing)")
    #expect(try bench.run("dump-md", "r0").status == 0, "nothing was changed")
  }

  @Test func wipingAsks() throws {
    let bench = try bench()
    let refused = try bench.run("wipe-md", "r0")
    #expect(refused.status == 1)
    #expect(refused.error.contains("wipe out the ashlar meta data of resource 'r0' on "))
    #expect(try bench.run("dump-md", "r0").status == 0)
    let wiped = try bench.run("wipe-md", "--force", "r0")
    #expect(wiped.output == "Wiping meta data...\nashlar meta data block successfully wiped out.\n")
    let again = try bench.run("wipe-md", "--force", "r0")
    #expect(again.status == 0)
    #expect(again.error.contains("no ashlar meta data to wipe out"), "\(again)")
  }

  @Test func attachedDiskIsLeftAlone() throws {
    let bench = try bench()
    let daemon = try FakeDaemon(bench.paths) { _ in ControlReply(status: [healthy()]) }
    for command in [["wipe-md", "--force", "r0"], ["apply-al", "r0"], ["restore-md", "r0", "x"]] {
      let refused = try bench.run(command)
      #expect(refused.status == 20)
      #expect(refused.error.hasPrefix("Device 'r0/0' is configured!\n"), "\(refused)")
    }
    #expect(daemon.statusCount == 3)
  }
}

extension Bench {
  /// The end of the disk, where all metadata is.
  fileprivate func metadata(_ size: Int) throws -> [UInt8] {
    try read(2 << 20, at: UInt64(size - (2 << 20)))
  }

  fileprivate func write(_ bytes: [UInt8], at offset: UInt64) throws {
    let file = try FileHandle(forUpdating: URL(filePath: diskPath))
    try file.seek(toOffset: offset)
    try file.write(contentsOf: Data(bytes))
    try file.close()
  }

  fileprivate func read(_ count: Int, at offset: UInt64) throws -> [UInt8] {
    let file = try FileHandle(forReadingFrom: URL(filePath: diskPath))
    try file.seek(toOffset: offset)
    let data = try file.read(upToCount: count) ?? Data()
    try file.close()
    return [UInt8](data)
  }

  fileprivate func damage(at offset: UInt64) throws {
    try write(try read(1, at: offset).map { $0 ^ 0x55 }, at: offset)
  }

  private func superblock(_ size: Int) throws -> (Superblock, MetadataLayout) {
    let places = try MetadataLayout.internal(deviceBytes: UInt64(size)).superblockOffsets
    let bytes = try read(Superblock.byteCount, at: places.0)
    let block = try bytes.withUnsafeBytes { try Superblock(parsing: $0) }
    let layout = try MetadataLayout.internal(
      deviceBytes: UInt64(size), maxPeers: UInt64(block.maxPeers))
    return (block, layout)
  }

  func changeSuperblock(_ size: Int, _ change: (inout Superblock) -> Void) throws {
    var (block, layout) = try superblock(size)
    change(&block)
    var bytes = [UInt8](repeating: 0, count: Superblock.byteCount)
    bytes.withUnsafeMutableBytes { block.encode(into: $0) }
    try write(bytes, at: layout.superblockOffsets.0)
    try write(bytes, at: layout.superblockOffsets.1)
  }

  /// Writes the bitmap of the first peer.
  fileprivate func writeBitmap(_ size: Int, _ fill: (inout BlockBitmap) -> Void) throws {
    let (block, layout) = try superblock(size)
    var bitmap = BlockBitmap(blockCount: block.volumeBytes / blockSize)
    fill(&bitmap)
    for number in 0..<bitmap.pageCount {
      let page = BitmapPage(
        deviceID: block.deviceID, slot: 0, node: block.peers[0].node, number: number)
      var bytes = [UInt8](repeating: 0, count: BitmapPage.byteCount)
      bytes.withUnsafeMutableBytes { page.write(&bitmap, into: $0) }
      bitmap.pageWritten(number)
      try write(bytes, at: layout.bitmapPageOffset(slot: 0, page: number))
    }
  }

  /// Writes one transaction that makes `extents` hot.
  func writeLog(_ size: Int, extents: [UInt32]) throws {
    let (block, layout) = try superblock(size)
    var log = ActivityLog(slotCount: 64, deviceID: block.deviceID, run: block.activityLogRun)
    for extent in extents { _ = log.touch(ActivityLog.range(ofExtent: extent)) }
    let isPlanned = log.planTransaction()
    try #require(isPlanned)
    var bytes = [UInt8](repeating: 0, count: ActivityLog.transactionBytes)
    bytes.withUnsafeMutableBytes { log.encodeTransaction(into: $0) }
    try write(bytes, at: layout.activityLogOffset + log.transactionOffset)
  }
}
