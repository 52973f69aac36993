internal import Glibc

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
    }
  }
}

/// An open backing disk: a block device or a regular file, for direct I/O, locked against others.
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
  public init(path: String, readOnly: Bool = false) throws(BlockDeviceError) {
    throw .notADisk(path: path)
  }

  deinit { _ = Glibc.close(descriptor) }
}
