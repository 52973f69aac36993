/// A loop device on a file, with blocks of a size that the test chooses. Needs root.
import Foundation
import Glibc

/// A loop device; gone when the value is.
public final class LoopDevice {
  /// Why there is none.
  public struct NotThere: Error {
    /// What `losetup` said.
    public var text: String
  }

  /// The device.
  public let path: String

  /// Whether this machine can have one.
  public static let isPossible =
    geteuid() == 0 && access("/dev/loop-control", R_OK | W_OK) == 0
    && access("/usr/sbin/losetup", X_OK) == 0

  /// Makes a block device of the file `image`.
  public init(_ image: String, blockBytes: Int) throws {
    path = try Self.losetup(
      "--find", "--show", "--direct-io=on", "--sector-size", "\(blockBytes)", image)
  }

  deinit { _ = try? Self.losetup("--detach", path) }

  private static func losetup(_ arguments: String...) throws -> String {
    let process = Process()
    let output = Pipe()
    process.executableURL = URL(filePath: "/usr/sbin/losetup")
    process.arguments = arguments
    process.standardOutput = output
    process.standardError = output
    try process.run()
    let bytes = output.fileHandleForReading.readDataToEndOfFile()
    process.waitUntilExit()
    let text = String(decoding: bytes, as: UTF8.self)
      .trimmingCharacters(in: .whitespacesAndNewlines)
    guard process.terminationStatus == 0 else { throw NotThere(text: text) }
    return text
  }
}
