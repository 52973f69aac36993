internal import CHost
internal import Glibc

/// The smallest unit of a request to a volume.
private let sectorBytes: UInt32 = 512

/// Why a backing disk could not be used.
public enum BlockDeviceError: Error, Equatable, Sendable, CustomStringConvertible {
  /// A system call failed.
  case system(SystemError)
  /// The path is a directory, a character device or the like.
  case notADisk(path: String)
  /// Another process holds the device or the lock on the file.
  case inUse(path: String, errno: Int32)
  /// The file system cannot do direct I/O.
  case directIORefused(path: String, fileSystem: String)
  /// Direct I/O takes blocks of this size only, and a volume needs sectors of 512 bytes.
  case blocksTooLarge(path: String, bytes: UInt32, isBlockDevice: Bool)

  /// One line that says what is wrong and what to do.
  public var description: String {
    switch self {
    case .system(let error): "\(error)"
    case .notADisk(let path): "\(path) is neither a block device nor a regular file"
    case .inUse(let path, let errno):
      "\(path) is in use by another process (\(errnoText(errno))); stop its user first"
    case .directIORefused(let path, let fileSystem):
      "the file system of \(path) refuses O_DIRECT (\(fileSystem)); put the file on ext4, XFS or "
        + "another file system with direct I/O, or use a block device"
    case .blocksTooLarge(let path, let bytes, let isBlockDevice):
      "\(path) takes multiples of \(bytes) bytes only, and a volume needs \(sectorBytes); "
        + (isBlockDevice
          ? "format it with sectors of \(sectorBytes) bytes (cryptsetup luksFormat --sector-size "
            + "\(sectorBytes), losetup --sector-size \(sectorBytes), nvme format)"
          : "put the file on a disk with sectors of \(sectorBytes) bytes")
    }
  }
}

/// An open backing disk: a block device or a regular file, for direct I/O, locked against others.
///
/// Invariants: the descriptor bypasses the page cache, so that what was written is on the disk and
/// a failed write is told to its writer; no other process that asks for the lock has it. Both end
/// when the value is dropped: not before the reactor has completed every operation on the
/// descriptor.
public struct BlockDevice: ~Copyable {
  /// The open descriptor, for the reactor's disk calls.
  public let descriptor: Int32
  /// The size when it was opened.
  public let byteCount: UInt64
  /// The smallest unit, and alignment, that direct I/O accepts: 512 or 4096.
  public let logicalBlockSize: UInt32
  /// Whether it is a block device.
  public let isBlockDevice: Bool
  /// Where it was found.
  public let path: String

  /// Opens and locks the disk at `path`.
  ///
  /// - Parameters:
  ///   - readOnly: share the lock with other readers; without O_EXCL, so that a mounted device can
  ///     be looked at.
  ///   - patienceMs: how long to try again while it is in use. The kernel finishes a killed
  ///     process's I/O after the process is gone, and until then its lock holds: mostly a few
  ///     milliseconds.
  public init(
    path: String, readOnly: Bool = false, patienceMs: UInt64 = 1_000
  ) throws(BlockDeviceError) {
    let kind = try Self.kind(of: path)
    let opened = try Self.openAndLock(
      path, isBlockDevice: kind == .blockDevice, readOnly: readOnly, patienceMs: patienceMs)
    do throws(BlockDeviceError) {
      let facts =
        kind == .blockDevice
        ? try Self.measureDevice(opened, path) : try Self.measureFile(opened, path)
      descriptor = opened
      (byteCount, logicalBlockSize) = facts
      isBlockDevice = kind == .blockDevice
      self.path = path
    } catch {
      _ = Glibc.close(opened)
      throw error
    }
  }

  deinit { _ = Glibc.close(descriptor) }

  /// Refuses a disk that cannot carry the data of a volume: clients write sectors of 512 bytes, and
  /// a write that the kernel refuses would count as a failure of the disk, on every replica.
  public func requireSectors() throws(BlockDeviceError) {
    guard logicalBlockSize > sectorBytes else { return }
    throw .blocksTooLarge(path: path, bytes: logicalBlockSize, isBlockDevice: isBlockDevice)
  }

  private enum Kind {
    case file
    case blockDevice
  }

  private static func kind(of path: String) throws(BlockDeviceError) -> Kind {
    var status = stat()
    guard unsafe stat(path, &status) == 0 else {
      throw .system(SystemError(call: "stat", errno: errno, path: path))
    }
    switch status.st_mode & S_IFMT {
    case S_IFREG: return .file
    case S_IFBLK: return .blockDevice
    default: throw .notADisk(path: path)
    }
  }

  private static func openAndLock(
    _ path: String, isBlockDevice: Bool, readOnly: Bool, patienceMs: UInt64
  ) throws(BlockDeviceError) -> Int32 {
    var waitedMs: UInt64 = 0
    while true {
      do throws(BlockDeviceError) {
        let descriptor = try open(path, isBlockDevice: isBlockDevice, readOnly: readOnly)
        do throws(BlockDeviceError) {
          try lock(descriptor, path, readOnly: readOnly)
          return descriptor
        } catch {
          _ = Glibc.close(descriptor)
          throw error
        }
      } catch {
        guard case .inUse = error, waitedMs < patienceMs else { throw error }
        usleep(10_000)
        waitedMs += 10
      }
    }
  }

  private static func open(
    _ path: String, isBlockDevice: Bool, readOnly: Bool
  ) throws(BlockDeviceError) -> Int32 {
    var flags = (readOnly ? O_RDONLY : O_RDWR) | O_CLOEXEC | chost_o_direct()
    // On a block device O_EXCL refuses one that is mounted, or otherwise claimed.
    if isBlockDevice, !readOnly { flags |= O_EXCL }
    let descriptor = unsafe Glibc.open(path, flags)
    guard descriptor < 0 else { return descriptor }
    switch errno {
    case EBUSY: throw .inUse(path: path, errno: EBUSY)
    case EINVAL: throw .directIORefused(path: path, fileSystem: fileSystemName(path))
    default: throw .system(SystemError(call: "open", errno: errno, path: path))
    }
  }

  private static func lock(
    _ descriptor: Int32, _ path: String, readOnly: Bool
  ) throws(BlockDeviceError) {
    guard flock(descriptor, (readOnly ? LOCK_SH : LOCK_EX) | LOCK_NB) != 0 else { return }
    guard errno == EWOULDBLOCK else {
      throw .system(SystemError(call: "flock", errno: errno, path: path))
    }
    throw .inUse(path: path, errno: EWOULDBLOCK)
  }

  private static func measureDevice(
    _ descriptor: Int32, _ path: String
  ) throws(BlockDeviceError) -> (UInt64, UInt32) {
    let bytes = chost_block_device_bytes(descriptor)
    let sector = chost_block_device_sector(descriptor)
    guard bytes >= 0, sector > 0 else {
      let reason = bytes < 0 ? Int32(-bytes) : -sector
      throw .system(SystemError(call: "ioctl", errno: reason, path: path))
    }
    return (UInt64(bytes), UInt32(sector))
  }

  private static func measureFile(
    _ descriptor: Int32, _ path: String
  ) throws(BlockDeviceError) -> (UInt64, UInt32) {
    var status = stat()
    guard unsafe fstat(descriptor, &status) == 0 else {
      throw .system(SystemError(call: "fstat", errno: errno, path: path))
    }
    // What the file system takes is found by trying: a sector first, then a block. (statx tells
    // since Linux 6.1, but not for every file system.)
    let memory = UnsafeMutableRawPointer.allocate(byteCount: 4096, alignment: 4096)
    defer { unsafe memory.deallocate() }
    if unsafe pread(descriptor, memory, 512, 512) >= 0 { return (UInt64(status.st_size), 512) }
    if unsafe errno == EINVAL && pread(descriptor, memory, 4096, 4096) >= 0 {
      return (UInt64(status.st_size), 4096)
    }
    guard errno == EINVAL else {
      throw .system(SystemError(call: "pread", errno: errno, path: path))
    }
    throw .directIORefused(path: path, fileSystem: fileSystemName(path))
  }

  /// The name of the file system of `path` by its magic number, for people.
  private static func fileSystemName(_ path: String) -> String {
    let descriptor = unsafe Glibc.open(path, O_RDONLY | O_CLOEXEC)
    guard descriptor >= 0 else { return "unknown" }
    defer { _ = Glibc.close(descriptor) }
    switch chost_file_system_magic(descriptor) {
    case 0x0102_1994: return "tmpfs"
    case 0x8584_58F6: return "ramfs"
    case 0x794C_7630: return "overlayfs"
    case 0x0102_1997: return "9p"
    case 0x6969: return "NFS"
    case 0x6573_5546: return "FUSE"
    case 0x2FC1_2FC1: return "ZFS"
    case 0x9123_683E: return "btrfs"
    case 0xF15F: return "ecryptfs"
    case let magic: return "type 0x" + String(magic, radix: 16)
    }
  }
}
