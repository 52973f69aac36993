/// Where configuration text comes from: the file system, or a dictionary in a test.

import Foundation
import Glibc

/// Reads files and expands `include` patterns.
public protocol ConfigurationFiles {
  /// The whole content of the file at `path`, or the reason why it cannot be read.
  func read(_ path: String) -> Result<[UInt8], ConfigurationFileError>
  /// The paths that match a shell pattern, sorted.
  func expand(_ pattern: String) -> [String]
  /// Whether everybody on the machine can read the file at `path`.
  func isReadableByAll(_ path: String) -> Bool
}

extension ConfigurationFiles {
  /// No file of these is on the machine.
  public func isReadableByAll(_ path: String) -> Bool { false }
}

/// Why a file could not be read, in the system's words.
public struct ConfigurationFileError: Error, Equatable, Sendable {
  /// "No such file or directory" and the like.
  public let reason: String

  /// Wraps a reason.
  public init(reason: String) { self.reason = reason }
}

/// The machine's own file system.
public struct SystemConfigurationFiles: ConfigurationFiles, Sendable {
  /// Needs nothing.
  public init() {}

  /// Reads at most one byte more than a configuration file may have, so that a path to an endless
  /// device is refused instead of filling memory.
  public func read(_ path: String) -> Result<[UInt8], ConfigurationFileError> {
    let descriptor = unsafe open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK)
    guard descriptor >= 0 else { return .failure(lastError()) }
    defer { close(descriptor) }
    var status = stat()
    guard unsafe fstat(descriptor, &status) == 0 else { return .failure(lastError()) }
    guard status.st_mode & S_IFMT == S_IFREG else {
      return .failure(ConfigurationFileError(reason: "Not a regular file"))
    }
    var content = [UInt8](repeating: 0, count: min(Int(status.st_size), Limits.fileBytes) + 1)
    var filled = 0
    while filled < content.count {
      let count = unsafe content.withUnsafeMutableBytes { buffer in
        unsafe Glibc.read(descriptor, buffer.baseAddress! + filled, buffer.count - filled)
      }
      if count < 0 && errno == EINTR { continue }
      guard count >= 0 else { return .failure(lastError()) }
      if count == 0 { break }
      filled += count
    }
    content.removeLast(content.count - filled)
    return .success(content)
  }

  /// Whether "others" have the permission to read.
  public func isReadableByAll(_ path: String) -> Bool {
    var status = stat()
    return unsafe stat(path, &status) == 0 && status.st_mode & S_IROTH != 0
  }

  /// The matches of glob(3), at most as many as a configuration may have files.
  public func expand(_ pattern: String) -> [String] {
    var matches = unsafe glob_t()
    defer { unsafe globfree(&matches) }
    guard unsafe glob(pattern, 0, nil, &matches) == 0, let paths = unsafe matches.gl_pathv else {
      return []
    }
    let count = min(Int(unsafe matches.gl_pathc), Limits.files)
    return (0..<count).compactMap { index in
      unsafe paths[index].map { unsafe String(cString: $0) }
    }
  }

  private func lastError() -> ConfigurationFileError {
    ConfigurationFileError(reason: unsafe String(cString: strerror(errno)))
  }
}
