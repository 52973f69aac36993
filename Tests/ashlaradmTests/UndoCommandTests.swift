/// The commands about undo files: what they show, what they write, and what they refuse.
import BlockTypes
import Control
import Foundation
import Metadata
import Testing

@Suite struct UndoCommandTests {
  private let content = [UInt8](repeating: 0xB5, count: 8192)

  private func id(_ number: UInt64) throws -> NodeID { try #require(NodeID(number)) }

  /// An undo file of two blocks from byte 16384 on, then two of zeroes.
  func undoFile(_ bench: Bench) throws -> String {
    var header = UndoHeader(resource: "r0", volumeBytes: 1 << 20, node: try id(0), peer: try id(1))
    header.recordCount = 2
    header.keptBytes = 4 * 4096
    header.fileBytes = 4096 + 2 * 32 + 8192
    header.keptAt = 0x6553_F100
    header.newest = Generation(number: 4, id: 0xAB, author: try id(0))
    var bytes = [UInt8](repeating: 0, count: UndoHeader.byteCount)
    bytes.withUnsafeMutableBytes { header.encode(into: $0) }
    let ranges = [
      (ByteRange(start: 16384, end: 24576), content), (ByteRange(start: 65536, end: 73728), []),
    ]
    for (range, data) in ranges {
      var head = [UInt8](repeating: 0, count: UndoRecord.byteCount)
      head.withUnsafeMutableBytes { head in
        data.withUnsafeBytes {
          UndoRecord(range: range, isZeroes: data.isEmpty).encode(into: head, content: $0)
        }
      }
      bytes += head + data
    }
    let path = bench.diskPath + ".undo-files"
    try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
    let file = path + "/r0-0-20231114T221320Z.undo"
    try Data(bytes).write(to: URL(filePath: file))
    return file
  }

  private func bench() throws -> (Bench, String) {
    let bench = try Bench()
    let file = try undoFile(bench)
    let directory = URL(filePath: file).deletingLastPathComponent().path
    try bench.configure(
      bench.resource("r0", port: 7001, options: "options { undo-directory \(directory); }"))
    return (bench, file)
  }

  @Test func filesAreListedAndShown() throws {
    let (bench, file) = try bench()
    let listed = try bench.run("undo", "list", "r0")
    #expect(listed.status == 0)
    #expect(listed.output.hasPrefix("\(file)  alpha  2023-11-14T22:13:20Z  16 KiB"), "\(listed)")
    let shown = try bench.run("undo", "show", file)
    #expect(shown.status == 0, "\(shown)")
    for words in ["4:00000000000000AB", "16384 +8192\n", "65536 +8192 zeroes\n"] {
      #expect(shown.output.contains(words), "\(shown)")
    }
  }

  @Test func blocksAreExportedToANewImageAndOntoACopy() throws {
    let (bench, file) = try bench()
    let image = file + ".img"
    #expect(try bench.run("undo", "export", file, "--to", image).status == 0)
    var expected = [UInt8](repeating: 0, count: 1 << 20)
    expected.replaceSubrange(16384..<24576, with: content)
    #expect(try [UInt8](Data(contentsOf: URL(filePath: image))) == expected)
    #expect(try bench.run("undo", "export", file, "--to", image).status == 20, "it exists")

    let copy = file + ".copy"
    try Data([UInt8](repeating: 0x11, count: 1 << 20)).write(to: URL(filePath: copy))
    #expect(try bench.run("undo", "export", file, "--onto", copy).status == 0)
    var over = [UInt8](repeating: 0x11, count: 1 << 20)
    over.replaceSubrange(16384..<24576, with: content)
    over.replaceSubrange(65536..<73728, with: [UInt8](repeating: 0, count: 8192))
    #expect(try [UInt8](Data(contentsOf: URL(filePath: copy))) == over)

    // A larger one may be a backing disk, with metadata that would not know of the change.
    for bytes in [1, (1 << 20) + 4096] {
      try Data([UInt8](repeating: 0x22, count: bytes)).write(to: URL(filePath: copy))
      let other = try bench.run("undo", "export", file, "--onto", copy)
      #expect(other.status == 1 && other.error.contains("volume has 1048576"), "\(other)")
      // Cutting off is no way to make a file longer.
      #expect(other.error.contains("truncate") == (bytes > 1 << 20), "\(other)")
      #expect(try [UInt8](Data(contentsOf: URL(filePath: copy))).allSatisfy { $0 == 0x22 })
    }
    #expect(try bench.run("undo", "export", file).status == 1)
  }

  /// With its metadata elsewhere, a backing disk has the size of the volume.
  @Test func backingDiskIsNotChangedBehindItsMetadata() throws {
    let (bench, file) = try bench()
    try bench.makeDisk(bytes: 1 << 20, content: [UInt8](repeating: 0x11, count: 1 << 20))
    let link = file + ".link"
    try FileManager.default.createSymbolicLink(
      atPath: link, withDestinationPath: bench.diskPath)
    for path in [bench.diskPath, link] {
      let refused = try bench.run("undo", "export", file, "--onto", path)
      #expect(refused.status == 1 && refused.error.contains("backing disk"), "\(refused)")
    }
    let disk = URL(filePath: bench.diskPath)
    #expect(try [UInt8](Data(contentsOf: disk)).allSatisfy { $0 == 0x11 })
  }

  /// Nothing is written from a file that is damaged anywhere.
  @Test(arguments: [20, 4096, 4100, 4130, 12330])
  func damagedFileIsRefused(place: Int) throws {
    let (bench, file) = try bench()
    var bytes = [UInt8](try Data(contentsOf: URL(filePath: file)))
    bytes[place] ^= 1
    try Data(bytes).write(to: URL(filePath: file))
    let image = file + ".img"
    #expect(try bench.run("undo", "export", file, "--to", image).status == 10)
    #expect(!FileManager.default.fileExists(atPath: image))
    #expect(try bench.run("undo", "show", file).status == 10)
  }

  @Test func onlyUndoFilesAreRemoved() throws {
    let (bench, file) = try bench()
    let other = file + ".other"
    try Data("data".utf8).write(to: URL(filePath: other))
    #expect(try bench.run("undo", "remove", other).status != 0)
    #expect(FileManager.default.fileExists(atPath: other))
    #expect(try bench.run("undo", "remove", file).status == 0)
    #expect(!FileManager.default.fileExists(atPath: file))
  }

  /// It may be the last copy of what was given up.
  @Test func dryRunKeepsTheFileAndWritesNone() throws {
    let (bench, file) = try bench()
    let removed = try bench.run("undo", "remove", "-d", file)
    #expect(removed.status == 0 && removed.output == "undo remove \(file)\n", "\(removed)")
    #expect(FileManager.default.fileExists(atPath: file))
    let image = file + ".img"
    let exported = try bench.run("undo", "export", "-d", file, "--to", image)
    #expect(exported.status == 0, "\(exported)")
    #expect(exported.output == "undo export \(file) to \(image)\n")
    #expect(!FileManager.default.fileExists(atPath: image))
    let copy = [UInt8](repeating: 0x11, count: 1 << 20)
    try Data(copy).write(to: URL(filePath: image))
    #expect(try bench.run("-d", "undo", "export", file, "--onto", image).status == 0)
    #expect(try [UInt8](Data(contentsOf: URL(filePath: image))) == copy)
  }

  /// A dry run asks what would be lost, and nothing else.
  @Test func dryRunOfADiscardAsksOnly() throws {
    let bench = try Bench()
    let daemon = try FakeDaemon(bench.paths) { _ in
      ControlReply(standardOutput: ["nothing was changed"])
    }
    for words in [
      ["--", "--discard-my-data", "--dry-run", "connect", "r0"],
      ["connect", "--discard-my-data", "-d", "r0"],
    ] {
      let result = try bench.run(words)
      #expect(result.status == 0, "\(result)")
      #expect(result.output.hasPrefix("ashlard connect r0 --discard-my-data"))
      #expect(result.output.hasSuffix("nothing was changed\n"))
    }
    #expect(daemon.commands.map(\.command) == [.explainDiscard, .explainDiscard])
  }

  /// A dry run of a repair asks what would be copied, and nothing else.
  @Test func dryRunOfARepairAsksOnly() throws {
    let bench = try Bench()
    let daemon = try FakeDaemon(bench.paths) { _ in
      ControlReply(standardOutput: ["nothing was changed"])
    }
    let words = ["verify", "--repair", "--from", "alpha", "--marked", "--dry-run", "r0"]
    let result = try bench.run(words)
    #expect(result.status == 0 && result.output == "nothing was changed\n", "\(result)")
    let asked = VerifyRequest(repairFrom: "alpha", onlyMarked: true, explainsOnly: true)
    #expect(daemon.commands.map(\.verify) == [asked])
    // Without a repair there is nothing to explain.
    #expect(try bench.run("verify", "--dry-run", "r0").output.hasPrefix("ashlard verify r0"))
    #expect(daemon.commands.count == 1)
  }

  @Test func declinesTheUndoFileOnlyWithADiscard() throws {
    let bench = try Bench()
    let daemon = try FakeDaemon(bench.paths) { _ in ControlReply() }
    #expect(try bench.run("connect", "--no-undo", "r0").status == 1)
    #expect(try bench.run("--", "--discard-my-data", "--no-undo", "connect", "r0").status == 0)
    #expect(daemon.commands.map(\.noUndo) == [true])
  }
}
