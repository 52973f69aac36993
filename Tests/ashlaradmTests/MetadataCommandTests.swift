/// create-md and dump-md on files: nothing that looks used is lost without a word.

import Control
import Foundation
import TestSupport
import Testing

@testable import ashlaradm

@Suite struct MetadataCommandTests {
  private let size = 8 << 20

  @Test func createdMetadataCanBeDumped() throws {
    let bench = try Bench()
    try bench.makeDisk(bytes: size)
    let before = try bench.run("dump-md", "r0")
    #expect(before.status == 1)
    #expect(before.error.hasPrefix("No valid meta data found\n"), "\(before)")
    #expect(before.error.contains("run 'ashlaradm create-md r0'"), "\(before)")

    let created = try bench.run("create-md", "r0")
    #expect(created.status == 0, "\(created)")
    #expect(created.output.hasSuffix("New ashlar meta data block successfully created.\n"))

    let dump = try bench.run("dump-md", "r0")
    #expect(dump.status == 0, "\(dump)")
    // 8 MiB less two superblocks, the log of 1 MiB and one block of bitmap.
    let sectors = (size - 2 * 4096 - (1 << 20) - 4096) / 512
    for line in [
      "version \"v2\";", "resource \"r0\";", "node-id 0;", "la-size-sect \(sectors);",
      "disk-state Inconsistent;", "dirty no;",
    ] {
      #expect(dump.output.contains(line + "\n"), "\(dump)")
    }
    // The data area was not touched.
    let data = try Data(contentsOf: URL(filePath: bench.diskPath))
    #expect(data.prefix(sectors * 512).allSatisfy { $0 == 0 })
  }

  /// A client may write 512 bytes; a disk that takes 4096 only would fail it, on every node.
  @Test(.enabled(if: LoopDevice.isPossible, "needs root and loop devices"))
  func aDiskWithLargeBlocksGetsNoMetadata() throws {
    let bench = try Bench()
    let image = bench.directory.appending(path: "image").path
    try Data().write(to: URL(filePath: image))
    try #require(truncate(image, size) == 0)
    let device = try LoopDevice(image, blockBytes: 4096)
    try FileManager.default.createSymbolicLink(
      atPath: bench.diskPath, withDestinationPath: device.path)
    let refused = try bench.run("create-md", "--force", "r0")
    #expect(refused.status == 20, "\(refused)")
    let what = "\(bench.diskPath) takes multiples of 4096 bytes only, and a volume needs 512;"
    #expect(refused.error.contains(what), "\(refused)")
    #expect(refused.error.contains("losetup --sector-size 512"), "\(refused)")
    #expect(try Data(contentsOf: URL(filePath: image)).allSatisfy { $0 == 0 })
    // What is there can be looked at and wiped.
    #expect(try bench.run("dump-md", "r0").error.hasPrefix("No valid meta data found\n"))
  }

  /// Existing metadata is not replaced without a `yes`, which nobody can type here.
  @Test func existingMetadataNeedsAYes() throws {
    let bench = try Bench()
    try bench.makeDisk(bytes: size)
    #expect(try bench.run("create-md", "r0").status == 0)
    let first = try Data(contentsOf: URL(filePath: bench.diskPath))

    let refused = try bench.run("create-md", "r0")
    #expect(refused.status == 1)
    #expect(
      refused.error.contains("Do you really want to overwrite the existing meta-data?\n"),
      "\(refused)")
    #expect(
      refused.error.hasSuffix(
        "stdin not a TTY, not waiting for confirmation\nOperation cancelled.\n"), "\(refused)")
    #expect(try Data(contentsOf: URL(filePath: bench.diskPath)) == first)

    let forced = try bench.run("create-md", "--force", "r0")
    #expect(forced.status == 0)
    #expect(forced.error.contains("*** confirmation forced via --force option ***\n"))
    #expect(try Data(contentsOf: URL(filePath: bench.diskPath)) != first)
  }

  /// A file system over the whole disk is refused even with --force; a smaller one needs a yes.
  @Test func fileSystemIsProtected() throws {
    let bench = try Bench()
    try bench.makeDisk(bytes: size, content: extStart(blocks: UInt32(size / 4096)))
    for force in [[], ["--force"]] {
      let refused = try bench.run(["create-md"] + force + ["r0"])
      #expect(refused.status == 40, "\(refused)")
      #expect(refused.output.contains("Found ext2 file system on"), "\(refused)")
      #expect(refused.output.contains("8192 kB data area apparently used"), "\(refused)")
      #expect(refused.error.hasSuffix("Operation refused.\n"), "\(refused)")
    }
    try bench.makeDisk(bytes: size, content: extStart(blocks: 100))
    #expect(try bench.run("create-md", "r0").status == 1)
    #expect(try bench.run("create-md", "--force", "r0").status == 0)
  }

  @Test func attachedDiskIsLeftAlone() throws {
    let bench = try Bench()
    try bench.makeDisk(bytes: size)
    let daemon = try FakeDaemon(bench.paths) { _ in ControlReply(status: [healthy()]) }
    for command in [["create-md", "--force"], ["dump-md"]] {
      let refused = try bench.run(command + ["r0"])
      #expect(refused.status == 20)
      #expect(refused.error.hasPrefix("Device 'r0/0' is configured!\n"), "\(refused)")
      #expect(refused.error.contains("run 'ashlaradm down r0' first"), "\(refused)")
    }
    #expect(daemon.statusCount == 2)
  }

  /// Whoever holds the lock keeps the disk, daemon or not.
  @Test func lockedDiskIsLeftAlone() throws {
    let bench = try Bench()
    try bench.makeDisk(bytes: size)
    let holder = try FileHandle(forUpdating: URL(filePath: bench.diskPath))
    try #require(flock(holder.fileDescriptor, LOCK_EX) == 0)
    for command in ["create-md", "dump-md"] {
      let refused = try bench.run(command, "r0")
      #expect(refused.status == 20, "\(refused)")
      #expect(refused.error.contains("in use"), "\(refused)")
    }
    try holder.close()
    #expect(try bench.run("create-md", "r0").status == 0)
  }

  @Test func unusableDisksAreNamed() throws {
    let bench = try Bench()
    let missing = try bench.run("create-md", "r0")
    #expect(missing.status == 20)
    #expect(
      missing.error.hasPrefix("open(\(bench.diskPath)) failed: No such file or directory\n"),
      "\(missing)")
    try bench.makeDisk(bytes: 64 << 10)
    let small = try bench.run("create-md", "r0")
    #expect(small.status == 40)
    #expect(small.error.contains("65536 bytes are too few"), "\(small)")
  }

  /// Damage is not "nothing there".
  @Test func damagedMetadataIsTold() throws {
    let bench = try Bench()
    try bench.makeDisk(bytes: size)
    #expect(try bench.run("create-md", "r0").status == 0)
    let file = try FileHandle(forUpdating: URL(filePath: bench.diskPath))
    for copy in [size - 8192, size - 4096] {
      try file.seek(toOffset: UInt64(copy + 100))
      try file.write(contentsOf: Data([0xAA]))
    }
    try file.close()
    let dump = try bench.run("dump-md", "r0")
    #expect(dump.status == 1)
    #expect(dump.error.contains("copy 0: checksum 0x"), "\(dump)")
    let create = try bench.run("create-md", "r0")
    #expect(create.status == 1)
    #expect(create.error.contains("damaged ashlar meta data"), "\(create)")
  }

  @Test func signaturesAreRecognised() {
    func disk(_ text: String, at offset: Int) -> [UInt8] {
      var bytes = [UInt8](repeating: 0, count: signatureBytes)
      let content = text.unicodeScalars.map { UInt8($0.value) }
      bytes.replaceSubrange(offset..<(offset + content.count), with: content)
      return bytes
    }
    #expect(findings(inStart: disk("", at: 0)) == [])
    #expect(findings(inStart: []) == [])
    #expect(findings(inStart: disk("LABELONE", at: 512)).map(\.what) == ["LVM physical volume"])
    #expect(findings(inStart: disk("EFI PART", at: 512)).map(\.what) == ["GPT partition table"])
    #expect(findings(inStart: disk("LUKS\u{BA}\u{BE}", at: 0)).map(\.what) == ["LUKS container"])
    #expect(findings(inStart: disk("SWAPSPACE2", at: 4086)).map(\.what) == ["swap space"])
    #expect(
      findings(inStart: disk("XFSB\0\0\u{10}\0\0\0\0\0\0\0\u{08}\0", at: 0))
        == [Finding(what: "XFS file system", usedBytes: 8 << 20)])
    var partitioned = disk("\u{55}\u{AA}", at: 510)
    partitioned[446 + 4] = 0x83
    partitioned[446 + 12] = 1
    #expect(findings(inStart: partitioned).map(\.what) == ["DOS partition table"])
    var drbd = [UInt8](repeating: 0, count: 4096)
    drbd.replaceSubrange(60..<64, with: [0x83, 0x74, 0x02, 0x6B])
    #expect(isDRBDMetadata(drbd))
    #expect(!isDRBDMetadata([UInt8](repeating: 0, count: 4096)))
  }

  /// The start of an ext2 file system of 4 KiB blocks.
  private func extStart(blocks: UInt32) -> [UInt8] {
    var bytes = [UInt8](repeating: 0, count: 4096)
    func put(_ value: UInt32, at offset: Int) {
      for index in 0..<4 { bytes[1024 + offset + index] = UInt8(value >> (8 * index) & 0xFF) }
    }
    put(blocks, at: 4)
    put(2, at: 24)
    put(0xEF53, at: 56)
    return bytes
  }
}
