internal import BlockIO
internal import Glibc

/// Files that the benchmark makes for itself: every block written, so that no measurement pays for
/// allocating space or for turning unwritten extents into written ones.
enum ScratchFile {
  /// Makes the file at `path`, which must not exist, with `bytes` of random data on the disk.
  static func create(path: String, bytes: UInt64) throws(BenchError) {
    let descriptor = unsafe open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0o600)
    guard descriptor >= 0 else {
      throw .system(SystemError(call: "open", errno: errno, path: path))
    }
    defer { _ = close(descriptor) }
    do throws(BenchError) {
      try fill(descriptor, path, bytes)
    } catch {
      // A file that is half there would look like a good one to the next run.
      _ = unsafe unlink(path)
      throw error
    }
  }

  /// A path in `directory` that nothing has.
  static func freshPath(in directory: String) -> String {
    "\(directory)/ashlar-bench-\(getpid())-\(monotonicNs()).tmp"
  }

  /// Whether something has that path.
  static func exists(_ path: String) -> Bool { unsafe access(path, F_OK) == 0 }

  /// Takes the name away; the data goes when the last one that has it open closes it.
  static func unlinkNow(_ path: String) { _ = unsafe unlink(path) }

  private static func fill(
    _ descriptor: Int32, _ path: String, _ bytes: UInt64
  ) throws(BenchError) {
    guard let length = off_t(exactly: bytes) else {
      throw .badValue(option: "--size", value: sizeText(bytes), allowed: "at most 8 EiB")
    }
    let reserved = posix_fallocate(descriptor, 0, length)
    guard reserved == 0 else {
      throw .system(SystemError(call: "fallocate", errno: reserved, path: path))
    }
    let chunk = 1 << 20
    let memory = UnsafeMutableRawBufferPointer.allocate(byteCount: chunk, alignment: 4096)
    defer { unsafe memory.deallocate() }
    var random = SeededGenerator(seed: bytes)
    for offset in stride(from: 0, to: chunk, by: 8) {
      unsafe memory.storeBytes(of: random.next(), toByteOffset: offset, as: UInt64.self)
    }
    var written: UInt64 = 0
    while written < bytes {
      let count = Int(min(UInt64(chunk), bytes - written))
      let result = unsafe pwrite(descriptor, memory.baseAddress, count, off_t(written))
      if result < 0, errno == EINTR { continue }
      guard result > 0 else {
        throw .system(SystemError(call: "write", errno: result < 0 ? errno : ENOSPC, path: path))
      }
      written += UInt64(result)
    }
    guard fsync(descriptor) == 0 else {
      throw .system(SystemError(call: "fsync", errno: errno, path: path))
    }
  }
}
