/// Writes one undo file: the blocks that a discard is about to lose, read from the backing disk.
///
/// Runs on a thread of its own. What must hold: under its name the file is complete and on stable
/// storage; whatever ends too early leaves at most a file that ends in `.part`. It never takes more
/// than `limit` bytes, nor the last 5 % of its file system.
import BlockIO
import BlockTypes
import Control
import Foundation
import Glibc
import Metadata
import Replication

/// What is to be kept, and where.
struct UndoPlan: Sendable {
  /// Says what it is; the writer fills in the counts.
  var header: UndoHeader
  /// A bit for each block that is kept; `nil`: all are.
  var marks: [UInt64]?
  var directory: String
  /// Bytes that the file may take.
  var limit: UInt64
}

/// How the writing ended.
struct UndoResult: Sendable {
  var outcome: UndoOutcome
  /// The complete file; `nil` when there is none.
  var path: String?
  /// For the log.
  var text: String
}

/// Lets a writer be told that nobody waits for it any more.
final class UndoCancellation: @unchecked Sendable {
  // Unchecked: `isCancelled` is touched with `lock` held.
  private let lock = NSLock()
  private var isCancelled = false

  func cancel() { lock.withLock { isCancelled = true } }
  var isSet: Bool { lock.withLock { isCancelled } }
}

/// Writes one undo file.
@safe
struct UndoWriter: ~Copyable {
  private struct Failure: Error {
    let outcome: UndoOutcome
    let text: String
  }

  private let plan: UndoPlan
  private let source: Int32
  private let cancellation: UndoCancellation
  private var header: UndoHeader
  private var target: Int32 = -1
  private var position = UInt64(UndoHeader.byteCount)
  private var unsynced: UInt64 = 0
  /// Zeroes at the end of what was read, not written yet.
  private var zeroes: ByteRange?
  /// Head and content of a record.
  private let buffer: UnsafeMutableRawBufferPointer

  private static let pieceBytes = Int(UndoRecord.contentLimit)
  /// Written before the page cache is told to write it out: it must not fill up with dirty pages.
  private static let syncBytes: UInt64 = 64 << 20
  /// The share of the file system that is left alone, as 1/n.
  private static let reserve: UInt64 = 20

  /// - Parameter source: the data disk; the caller closes it afterwards.
  init(_ plan: UndoPlan, source: Int32, _ cancellation: UndoCancellation) {
    self.plan = plan
    self.source = source
    self.cancellation = cancellation
    header = plan.header
    // Direct I/O wants aligned memory: the content begins at a page, its head right before.
    unsafe buffer = .allocate(byteCount: 4096 + Self.pieceBytes, alignment: 4096)
  }

  deinit { unsafe buffer.deallocate() }

  /// Keeps everything, or nothing.
  mutating func run() -> UndoResult {
    var part: String?
    do {
      let (path, partPath) = try open()
      part = partPath
      try copy()
      guard header.recordCount > 0 else {
        close(target)
        unlink(partPath)
        return UndoResult(outcome: .kept, path: nil, text: "nothing is lost")
      }
      try finish(partPath, path)
      let kept = header.keptBytes / 1024
      return UndoResult(outcome: .kept, path: path, text: "kept \(kept) KiB in \(path)")
    } catch {
      let failure = error as? Failure
      if target >= 0 { close(target) }
      if let part { unlink(part) }
      return UndoResult(
        outcome: failure?.outcome ?? .failed, path: nil, text: failure?.text ?? "\(error)")
    }
  }

  private static func failure(_ call: StaticString, _ path: String) -> Failure {
    let number = errno
    let isFull = number == ENOSPC || number == EDQUOT
    return Failure(
      outcome: isFull ? .noSpace : .failed,
      text: "\(SystemError(call: call, errno: number, path: path))")
  }

  /// A new file, under a name that nobody else takes meanwhile.
  private mutating func open() throws -> (path: String, part: String) {
    do {
      try FileManager.default.createDirectory(
        atPath: plan.directory, withIntermediateDirectories: true,
        attributes: [.posixPermissions: 0o700])
    } catch {
      throw Failure(
        outcome: .failed, text: "cannot make \(plan.directory): \(error.localizedDescription)")
    }
    let date = isoTime(UInt32(clamping: header.keptAt)) ?? "unknown"
    let stem =
      "\(plan.directory)/\(header.resource)-\(header.volume)-"
      + date.filter { $0 != "-" && $0 != ":" }
    for attempt in 1...100 {
      let path = stem + (attempt == 1 ? "" : ".\(attempt)") + ".undo"
      let part = path + ".part"
      let descriptor = unsafe Glibc.open(part, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0o600)
      guard descriptor >= 0 else {
        if errno == EEXIST { continue }
        throw Self.failure("open", part)
      }
      guard unsafe access(path, F_OK) != 0 else {
        close(descriptor)
        unlink(part)
        continue
      }
      target = descriptor
      return (path, part)
    }
    throw Failure(outcome: .failed, text: "no name is free for \(stem).undo")
  }

  // MARK: Copying

  private mutating func copy() throws {
    var next: UInt64 = 0
    while let run = nextRun(from: next) {
      var start = run.start
      while start < run.end {
        guard !cancellation.isSet else {
          throw Failure(outcome: .failed, text: "given up: nobody waits for it any more")
        }
        let end = min(run.end, start + UInt64(Self.pieceBytes))
        try copyPiece(ByteRange(start: start, end: end))
        start = end
      }
      next = run.end
    }
    try putZeroes()
  }

  /// The next marked blocks at or after the byte `start`.
  private func nextRun(from start: UInt64) -> ByteRange? {
    guard start < header.volumeBytes else { return nil }
    guard let marks = plan.marks else {
      return ByteRange(start: start, end: header.volumeBytes)
    }
    let isSet = { (block: UInt64) in marks[Int(block / 64)] & 1 << (block % 64) != 0 }
    let count = header.volumeBytes / blockSize
    var block = start / blockSize
    while block < count, !isSet(block) {
      block = marks[Int(block / 64)] == 0 ? (block / 64 + 1) * 64 : block + 1
    }
    guard block < count else { return nil }
    let first = block
    while block < count, isSet(block) { block += 1 }
    return ByteRange(start: first * blockSize, end: block * blockSize)
  }

  private mutating func copyPiece(_ piece: ByteRange) throws {
    let content = unsafe UnsafeMutableRawBufferPointer(rebasing: buffer[4096...])
    var done = 0
    while done < Int(piece.length) {
      let count = unsafe pread(
        source, content.baseAddress! + done, Int(piece.length) - done,
        off_t(piece.start) + off_t(done))
      if count < 0 && errno == EINTR { continue }
      guard count > 0 else {
        if count == 0 { errno = EIO }
        throw Failure(
          outcome: .failed,
          text: "cannot read the disk at \(piece.start): "
            + "\(SystemError(call: "pread", errno: errno, path: nil))")
      }
      done += count
    }
    // Zeroes are told, not stored.
    var start = 0
    while start < Int(piece.length) {
      let isZero = isZero(start)
      var end = start + Int(blockSize)
      while end < Int(piece.length), self.isZero(end) == isZero { end += Int(blockSize) }
      let range = ByteRange(
        start: piece.start + UInt64(start), end: piece.start + UInt64(end))
      if isZero { try add(zeroes: range) } else { try put(range, at: start) }
      start = end
    }
  }

  private func isZero(_ offset: Int) -> Bool {
    for word in stride(from: 4096 + offset, to: 4096 + offset + Int(blockSize), by: 8)
    where unsafe buffer.load(fromByteOffset: word, as: UInt64.self) != 0 {
      return false
    }
    return true
  }

  private mutating func add(zeroes range: ByteRange) throws {
    if let before = zeroes, before.end == range.start {
      zeroes = ByteRange(start: before.start, end: range.end)
      return
    }
    try putZeroes()
    zeroes = range
  }

  private mutating func putZeroes() throws {
    guard let range = zeroes else { return }
    zeroes = nil
    try put(UndoRecord(range: range, isZeroes: true), contentAt: 0)
  }

  private mutating func put(_ range: ByteRange, at offset: Int) throws {
    try putZeroes()
    try put(UndoRecord(range: range, isZeroes: false), contentAt: offset)
  }

  private mutating func put(_ record: UndoRecord, contentAt offset: Int) throws {
    let length = UInt64(UndoRecord.byteCount) + record.contentBytes
    guard position + length <= plan.limit else {
      throw Failure(
        outcome: .tooLarge, text: "more than undo-limit (\(plan.limit / 1024) KiB) is to be kept")
    }
    if unsynced == 0 { try checkSpace() }
    let start = 4096 + offset
    let content = unsafe UnsafeRawBufferPointer(
      rebasing: buffer[start..<(start + Int(record.contentBytes))])
    var head = [UInt8](repeating: 0, count: UndoRecord.byteCount)
    unsafe head.withUnsafeMutableBytes { record.encode(into: $0, content: content) }
    try unsafe head.withUnsafeBytes { try unsafe write($0, at: position) }
    try unsafe write(content, at: position + UInt64(UndoRecord.byteCount))
    position += length
    unsynced += length
    header.recordCount += 1
    header.keptBytes += record.range.length
    guard unsynced >= Self.syncBytes else { return }
    unsynced = 0
    guard fdatasync(target) == 0 else { throw Self.failure("fdatasync", plan.directory) }
  }

  private func write(_ bytes: UnsafeRawBufferPointer, at offset: UInt64) throws {
    var done = 0
    while done < bytes.count {
      let count = unsafe pwrite(
        target, bytes.baseAddress! + done, bytes.count - done, off_t(offset) + off_t(done))
      if count < 0 && errno == EINTR { continue }
      guard count > 0 else { throw Self.failure("pwrite", plan.directory) }
      done += count
    }
  }

  /// A full file system stops more than a discard.
  private func checkSpace() throws {
    var facts = statvfs()
    guard unsafe fstatvfs(target, &facts) == 0 else {
      throw Self.failure("fstatvfs", plan.directory)
    }
    let free = UInt64(facts.f_bavail) * UInt64(facts.f_frsize)
    let reserved = UInt64(facts.f_blocks) * UInt64(facts.f_frsize) / Self.reserve
    guard free > reserved + Self.syncBytes + UInt64(Self.pieceBytes) else {
      throw Failure(
        outcome: .noSpace,
        text: "\(plan.directory) has \(free / 1024) KiB free, and 5 % are left alone")
    }
  }

  // MARK: The end

  /// The header makes it an undo file, the name makes it known; each when all before is durable.
  private mutating func finish(_ part: String, _ path: String) throws {
    guard fdatasync(target) == 0 else { throw Self.failure("fdatasync", part) }
    header.fileBytes = position
    var bytes = [UInt8](repeating: 0, count: UndoHeader.byteCount)
    unsafe bytes.withUnsafeMutableBytes { header.encode(into: $0) }
    try unsafe bytes.withUnsafeBytes { try unsafe write($0, at: 0) }
    guard fsync(target) == 0 else { throw Self.failure("fsync", part) }
    close(target)
    target = -1
    guard unsafe rename(part, path) == 0 else { throw Self.failure("rename", part) }
    let directory = unsafe Glibc.open(plan.directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
    guard directory >= 0 else { throw Self.failure("open", plan.directory) }
    defer { close(directory) }
    guard fsync(directory) == 0 else { throw Self.failure("fsync", plan.directory) }
  }

  private func close(_ descriptor: Int32) { _ = Glibc.close(descriptor) }
  private func unlink(_ path: String) { _ = unsafe Glibc.unlink(path) }
}
