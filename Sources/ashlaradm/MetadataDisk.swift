/// A volume's disks, opened while the daemon does not use them, and the metadata on them.
///
/// Every access goes through `BlockDevice`, so that the tool and the daemon lock each other out,
/// and past the page cache, so that what is read is what the disk holds.

import BlockIO
import BlockTypes
import Configuration
import Control
import Glibc
import Metadata

/// One open disk, which may stand for both data and metadata.
private final class Disk {
  let device: BlockDevice

  init(path: String, readOnly: Bool) throws(CommandFailure) {
    do {
      device = try BlockDevice(path: path, readOnly: readOnly)
    } catch {
      if case .system(let failure) = error, failure.errno == ENOENT {
        throw CommandFailure(
          ExitStatus.communication, "open(\(path)) failed: No such file or directory",
          "create the disk, or correct the path in the configuration")
      }
      throw CommandFailure(ExitStatus.communication, "\(error)")
    }
  }
}

/// Both disks of one volume; the same one when the metadata is internal.
struct MetadataDisk {
  /// Where data and metadata lie.
  ///
  /// With room for one bitmap until `makeRoom` has said how many there are.
  private(set) var layout: MetadataLayout
  private let placement: MetadataPlacement
  private let data: Disk
  private let metadata: Disk

  init(_ volume: VolumeConfiguration, readOnly: Bool) throws(CommandFailure) {
    let data = try Disk(path: volume.disk, readOnly: readOnly)
    let dataBytes = data.device.byteCount
    self.data = data
    switch volume.metaDisk {
    case .internal:
      metadata = data
      placement = .internal(deviceBytes: dataBytes)
    case .external(let path):
      let disk = try Disk(path: path, readOnly: readOnly)
      metadata = disk
      placement = .external(dataBytes: dataBytes, metadataBytes: disk.device.byteCount)
    }
    layout = try Self.layout(placement, metadata.device.path, maxPeers: 1)
  }

  /// Lays out the disks anew, for `maxPeers` bitmaps.
  mutating func makeRoom(maxPeers: Int) throws(CommandFailure) {
    layout = try Self.layout(placement, metadataPath, maxPeers: maxPeers)
  }

  private static func layout(
    _ placement: MetadataPlacement, _ path: String, maxPeers: Int
  ) throws(CommandFailure) -> MetadataLayout {
    do {
      return try placement.layout(maxPeers: maxPeers)
    } catch {
      switch error {
      case .deviceTooSmall(let bytes, let needed):
        throw CommandFailure(
          ExitStatus.wouldDestroy,
          "\(path): \(bytes) bytes are too few, at least \(needed) are needed: use a larger disk")
      }
    }
  }

  /// The path of the disk that holds the metadata.
  var metadataPath: String { metadata.device.path }
  /// The path of the disk that holds the data.
  var dataPath: String { data.device.path }

  /// Refuses a disk that could not be attached: before metadata is made on it. What is there can be
  /// read and wiped all the same.
  func requireSectors() throws(CommandFailure) {
    do {
      try data.device.requireSectors()
    } catch {
      throw CommandFailure(ExitStatus.communication, "\(error)")
    }
  }

  /// Where a superblock copy is on the metadata disk.
  func offset(ofCopy copy: Int) -> UInt64 {
    copy == 0 ? layout.superblockOffsets.0 : layout.superblockOffsets.1
  }

  /// Why one superblock copy is not valid; `nil` when it is.
  func errorOfCopy(_ copy: Int) -> SuperblockError? {
    guard let bytes = try? read(metadata: offset(ofCopy: copy), count: Superblock.byteCount) else {
      return .unreadable
    }
    return unsafe bytes.withUnsafeBytes { raw in
      do throws(SuperblockError) {
        _ = try Superblock(parsing: raw)
        return nil
      } catch {
        return error
      }
    }
  }

  /// Reads a part of the metadata disk.
  func read(metadata offset: UInt64, count: Int) throws(CommandFailure) -> [UInt8] {
    try Self.read(metadata, at: offset, count: count)
  }

  /// The superblock, from whichever copy counts.
  func superblock() throws(CommandFailure) -> SuperblockChoice {
    let copyA = try? read(metadata: offset(ofCopy: 0), count: Superblock.byteCount)
    // When the disk can read neither, its error says why.
    let copyB = copyA == nil ? try second() : try? second()
    return unsafe Self.withBytes(copyA) { first in
      unsafe Self.withBytes(copyB) { second in SuperblockChoice(copyA: first, copyB: second) }
    }
  }

  private func second() throws(CommandFailure) -> [UInt8] {
    try read(metadata: offset(ofCopy: 1), count: Superblock.byteCount)
  }

  private static func withBytes<Value>(
    _ bytes: [UInt8]?, _ body: (UnsafeRawBufferPointer?) -> Value
  ) -> Value {
    guard let bytes else { return body(nil) }
    return unsafe bytes.withUnsafeBytes { unsafe body($0) }
  }

  /// What else seems to be on the disk that will carry the data, and on that of the metadata.
  func findings() throws(CommandFailure) -> [(path: String, finding: Finding)] {
    var result: [(path: String, finding: Finding)] = []
    for disk in data === metadata ? [data] : [data, metadata] {
      let count = min(UInt64(signatureBytes), disk.device.byteCount / 4096 * 4096)
      let start = try Self.read(disk, at: 0, count: Int(count))
      result += ashlaradm.findings(inStart: start).map { (disk.device.path, $0) }
    }
    if data === metadata {
      let last = data.device.byteCount / 4096 * 4096 - 4096
      if isDRBDMetadata(try Self.read(data, at: last, count: 4096)) {
        result.append((metadataPath, Finding(what: "drbd meta data")))
      }
    }
    return result
  }

  /// Replaces whatever metadata there is by a fresh superblock.
  ///
  /// The old copies go first, each step on the disk before the next: a crash in between leaves no
  /// metadata, never old metadata beside a new log.
  func initialize(_ superblock: Superblock) throws(CommandFailure) {
    try wipe()
    try zero(layout.bitmapOffset, layout.bitmapSlotBytes * UInt64(superblock.maxPeers))
    try flush()
    var bytes = [UInt8](repeating: 0, count: Superblock.byteCount)
    unsafe bytes.withUnsafeMutableBytes { superblock.encode(into: $0) }
    try write(metadata: offset(ofCopy: 0), bytes)
    try write(metadata: offset(ofCopy: 1), bytes)
    try flush()
  }

  func zero(_ offset: UInt64, _ count: UInt64) throws(CommandFailure) {
    let chunk: UInt64 = 1 << 20
    var done: UInt64 = 0
    while done < count {
      let length = min(chunk, count - done)
      try write(metadata: offset + done, [UInt8](repeating: 0, count: Int(length)))
      done += length
    }
  }
}

extension MetadataDisk {
  /// Direct I/O wants aligned memory.
  private static func read(
    _ disk: Disk, at offset: UInt64, count: Int
  ) throws(CommandFailure) -> [UInt8] {
    let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: count, alignment: 4096)
    defer { unsafe buffer.deallocate() }
    var done = 0
    while done < count {
      let rest = unsafe UnsafeMutableRawBufferPointer(rebasing: buffer[done...])
      let result = unsafe pread(
        disk.device.descriptor, rest.baseAddress, rest.count, off_t(offset) + off_t(done))
      if result < 0 && errno == EINTR { continue }
      guard result >= 0 else { throw systemFailure("read", disk.device.path) }
      guard result > 0 else {
        throw CommandFailure(ExitStatus.communication, "read \(disk.device.path): end of the disk")
      }
      done += result
    }
    return unsafe Array(buffer)
  }

  func write(metadata offset: UInt64, _ bytes: [UInt8]) throws(CommandFailure) {
    let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: bytes.count, alignment: 4096)
    defer { unsafe buffer.deallocate() }
    unsafe buffer.copyBytes(from: bytes)
    var done = 0
    while done < bytes.count {
      let rest = unsafe UnsafeRawBufferPointer(rebasing: buffer[done...])
      let result = unsafe pwrite(
        metadata.device.descriptor, rest.baseAddress, rest.count, off_t(offset) + off_t(done))
      if result < 0 && errno == EINTR { continue }
      guard result > 0 else { throw Self.systemFailure("write", metadataPath) }
      done += result
    }
  }

  func flush() throws(CommandFailure) {
    guard fsync(metadata.device.descriptor) == 0 else {
      throw Self.systemFailure("fsync", metadataPath)
    }
  }

  private static func systemFailure(_ call: String, _ path: String) -> CommandFailure {
    CommandFailure(
      ExitStatus.communication,
      "\(call)(\(path)) failed: \(unsafe String(cString: strerror(errno)))")
  }
}
