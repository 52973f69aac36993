/// What the writer of an undo file keeps of a disk: exactly the marked blocks, or nothing at all.
import BlockTypes
import Foundation
import Glibc
import Metadata
import Replication
import TestSupport
import Testing

@testable import Node

@Suite final class UndoWriterTests {
  private let directory = URL(filePath: "/var/tmp/ashlar-undo-\(UUID().uuidString.prefix(8))")
  /// 3 MiB: block `n` is full of the byte `n + 1`, but for blocks 8 to 15, which are zeroes.
  private var content: [UInt8] {
    (0..<768).flatMap { block in
      [UInt8](
        repeating: (8..<16).contains(block) ? 0 : UInt8(truncatingIfNeeded: block + 1) | 1,
        count: 4096)
    }
  }

  init() throws {
    try FileManager.default.createDirectory(at: directory, withIntermediateDirectories: true)
    try Data(content).write(to: disk)
  }

  deinit { try? FileManager.default.removeItem(at: directory) }

  private var disk: URL { directory.appending(path: "disk.img") }
  private var files: [String] {
    let all = try? FileManager.default.contentsOfDirectory(atPath: undo.path)
    return (all ?? []).sorted()
  }
  private var undo: URL { directory.appending(path: "undo") }

  private func keep(
    _ blocks: Set<UInt64>?, limit: UInt64 = 1 << 30, isCancelled: Bool = false,
    volumeBytes: UInt64 = 3 << 20
  ) -> UndoResult {
    var header = UndoHeader(
      resource: "r0", volumeBytes: volumeBytes, node: node(1), peer: node(0))
    header.keptAt = 0x6553_F100
    header.isWhole = blocks == nil
    let marks = blocks.map { blocks in
      var words = [UInt64](repeating: 0, count: 12)
      for block in blocks { words[Int(block / 64)] |= 1 << (block % 64) }
      return words
    }
    let cancellation = UndoCancellation()
    if isCancelled { cancellation.cancel() }
    let source = disk.path.withCString { open($0, O_RDONLY) }
    defer { close(source) }
    var writer = UndoWriter(
      UndoPlan(header: header, marks: marks, directory: undo.path, limit: limit),
      source: source, cancellation)
    return writer.run()
  }

  /// The blocks in a file, each checked; the header says how many there are.
  private func blocks(of path: String) throws -> [UInt64: [UInt8]] {
    let bytes = [UInt8](try Data(contentsOf: URL(filePath: path)))
    let header = try bytes[..<4096].withUnsafeBytes { try UndoHeader(parsing: $0) }
    #expect(header.fileBytes == UInt64(bytes.count))
    var found: [UInt64: [UInt8]] = [:]
    var position = 4096
    for _ in 0..<header.recordCount {
      let head = bytes[position..<(position + 32)]
      let record = try head.withUnsafeBytes {
        try UndoRecord(parsing: $0, of: header, at: UInt64(position))
      }
      let data = bytes[(position + 32)..<(position + 32 + Int(record.contentBytes))]
      let isIntact = head.withUnsafeBytes { head in
        data.withUnsafeBytes { UndoRecord.isIntact(head, content: $0) }
      }
      #expect(isIntact)
      for block in record.range.start / 4096..<record.range.end / 4096 {
        let start = Int(block * 4096 - record.range.start)
        #expect(found[block] == nil)
        found[block] =
          record.isZeroes
          ? [UInt8](repeating: 0, count: 4096)
          : Array(data[(data.startIndex + start)..<(data.startIndex + start + 4096)])
      }
      position += 32 + Int(record.contentBytes)
    }
    #expect(position == bytes.count)
    #expect(header.keptBytes == UInt64(found.count) * 4096)
    return found
  }

  private func content(of block: UInt64) -> [UInt8] {
    Array(content[Int(block * 4096)..<Int(block * 4096 + 4096)])
  }

  @Test(
    arguments: [
      [0], [767], [63, 64, 65], [1, 3, 5, 100, 500], [6, 7, 8, 9, 15, 16], Array(8..<16),
      Array(0..<768),
    ] as [[UInt64]])
  func markedBlocksAreKeptAndNoOthers(marked: [UInt64]) throws {
    let result = keep(Set(marked))
    #expect(result.outcome == .kept, "\(result.text)")
    let found = try blocks(of: #require(result.path))
    #expect(found.keys.sorted() == marked)
    for (block, bytes) in found { #expect(bytes == content(of: block), "block \(block)") }
    #expect(files == ["r0-0-20231114T221320Z.undo"])
  }

  @Test func theWholeVolumeIsKeptWhereNothingIsMarked() throws {
    let result = keep(nil)
    #expect(try blocks(of: #require(result.path)).count == 768)
    let size = try FileManager.default.attributesOfItem(atPath: #require(result.path))[.size]
    #expect(size as? Int ?? 0 < content.count + 4096, "zeroes are told, not stored")
  }

  @Test func nothingToKeepIsKeptWithoutAFile() {
    let result = keep([])
    #expect(result.outcome == .kept && result.path == nil)
    #expect(files.isEmpty)
  }

  @Test func whatDoesNotFitLeavesNothing() {
    // Two blocks, each with its head, and the header.
    #expect(keep([1, 3], limit: 4096 + 2 * 4128 - 1).outcome == .tooLarge)
    #expect(files.isEmpty)
    #expect(keep([1, 3], limit: 4096 + 2 * 4128).outcome == .kept)
  }

  @Test func aDiskThatCannotBeReadLeavesNothing() {
    let result = keep(nil, volumeBytes: 4 << 20)
    #expect(result.outcome == .failed)
    #expect(result.text.contains("cannot read the disk at 3145728"))
    #expect(files.isEmpty)
  }

  @Test func aWriterThatIsNotWaitedForLeavesNothing() {
    #expect(keep([1], isCancelled: true).outcome == .failed)
    #expect(files.isEmpty)
  }

  @Test func twoInOneSecondGetTwoNames() {
    for _ in 0..<2 { #expect(keep([1]).outcome == .kept) }
    #expect(files == ["r0-0-20231114T221320Z.2.undo", "r0-0-20231114T221320Z.undo"])
  }
}
