/// An undo file as the tool reads it: header and records, each checked before it is used.

import BlockTypes
import Glibc
import Metadata

/// An open undo file. Its descriptor is closed with it.
final class UndoFile {
  let path: String
  let header: UndoHeader
  private let descriptor: Int32

  init(path: String) throws(CommandFailure) {
    self.path = path
    descriptor = unsafe open(path, O_RDONLY | O_CLOEXEC)
    guard descriptor >= 0 else { throw Self.failure("open", path) }
    let bytes: [UInt8]
    do {
      bytes = try Self.read(descriptor, path, at: 0, count: UndoHeader.byteCount)
      header = try unsafe bytes.withUnsafeBytes { bytes throws(UndoFileError) in
        try UndoHeader(parsing: bytes)
      }
    } catch let error as UndoFileError {
      close(descriptor)
      throw CommandFailure(ExitStatus.invalidConfiguration, "\(path): \(error)")
    } catch {
      close(descriptor)
      throw (error as? CommandFailure) ?? CommandFailure(ExitStatus.communication, "\(error)")
    }
  }

  deinit { close(descriptor) }

  static func failure(_ call: String, _ path: String) -> CommandFailure {
    CommandFailure(
      ExitStatus.communication,
      "\(call)(\(path)) failed: \(unsafe String(cString: strerror(errno)))")
  }

  private static func read(
    _ descriptor: Int32, _ path: String, at offset: UInt64, count: Int
  ) throws(CommandFailure) -> [UInt8] {
    var bytes = [UInt8](repeating: 0, count: count)
    var done = 0
    while done < count {
      let got = unsafe bytes.withUnsafeMutableBytes { buffer in
        unsafe pread(
          descriptor, buffer.baseAddress! + done, count - done, off_t(offset) + off_t(done))
      }
      if got < 0 && errno == EINTR { continue }
      guard got >= 0 else { throw failure("pread", path) }
      guard got > 0 else {
        throw CommandFailure(
          ExitStatus.invalidConfiguration,
          "\(path): it ends at byte \(offset + UInt64(done)), too early")
      }
      done += got
    }
    return bytes
  }

  /// Calls `body` with each record and its content, in order. Damage ends it with an error.
  func forEachRecord(
    _ body: (UndoRecord, [UInt8]) throws(CommandFailure) -> Void
  ) throws(CommandFailure) {
    var position = UInt64(UndoHeader.byteCount)
    for _ in 0..<header.recordCount {
      let head = try Self.read(descriptor, path, at: position, count: UndoRecord.byteCount)
      let record: UndoRecord
      do {
        record = try unsafe head.withUnsafeBytes { bytes throws(UndoFileError) in
          try UndoRecord(parsing: bytes, of: header, at: position)
        }
      } catch {
        throw CommandFailure(ExitStatus.invalidConfiguration, "\(path): \(error)")
      }
      let start = position + UInt64(UndoRecord.byteCount)
      let content = try Self.read(
        descriptor, path, at: start, count: Int(record.contentBytes))
      let isIntact = unsafe head.withUnsafeBytes { head in
        unsafe content.withUnsafeBytes { UndoRecord.isIntact(head, content: $0) }
      }
      guard isIntact else {
        throw CommandFailure(
          ExitStatus.invalidConfiguration, "\(path): \(UndoFileError.badChecksum(at: position))")
      }
      try body(record, content)
      position = start + record.contentBytes
    }
    guard position == header.fileBytes else {
      throw CommandFailure(
        ExitStatus.invalidConfiguration,
        "\(path): \(UndoFileError.truncated(have: position, need: header.fileBytes))")
    }
  }
}
