/// A block device that takes requests and does not answer them, or late, or with errors: nbdkit
/// does that, nbdfuse makes a file of it, and a loop device makes a disk of the file.
///
/// What must hold: everything that was started is ended by `remove`, answers or not.
import Foundation
import Glibc
import Testing

final class StuckDisk: @unchecked Sendable {
  // Unchecked: the processes are touched by one test at a time.
  private let directory: URL
  private let server = Process()
  private let mount = Process()
  /// The loop device.
  let path: String

  private struct NotThere: Error {
    var what: String
  }

  /// Whether this machine can have one.
  static let isPossible =
    geteuid() == 0
    && ["/dev/fuse", "/dev/loop-control"].allSatisfy { (path: String) in
      access(path, R_OK | W_OK) == 0
    }
    && ["nbdkit", "nbdfuse", "losetup", "umount"].allSatisfy { program($0) != nil }

  private static func program(_ name: String) -> String? {
    let places = ["/usr/sbin/", "/usr/bin/", "/sbin/", "/bin/"].map { $0 + name }
    return places.first { (path: String) in access(path, X_OK) == 0 }
  }

  /// What makes a disk of which nothing can be read.
  static let withoutReads = ["--filter=delay", "delay-read=3600"]

  /// A disk with the contents of the file `image`, and with the filters of nbdkit and the
  /// parameters of theirs that `troubles` names.
  init(image: String, in parent: URL, _ troubles: [String] = withoutReads) throws {
    directory = parent.appending(path: "stuck")
    let mountPoint = directory.appending(path: "mount")
    let socket = "/tmp/ashlar-stuck-\(UUID().uuidString.prefix(8))"
    try FileManager.default.createDirectory(at: mountPoint, withIntermediateDirectories: true)
    defer { unlink(socket) }
    let filters = troubles.filter { $0.hasPrefix("--") }
    let parameters = troubles.filter { !$0.hasPrefix("--") }
    let arguments = ["--foreground", "--unix", socket] + filters + ["file", image] + parameters
    try Self.start(server, "nbdkit", arguments)
    try Self.wait(for: socket)
    let file = mountPoint.appending(path: "disk").path
    try Self.start(mount, "nbdfuse", [file, "nbd+unix:///?socket=\(socket)"])
    try Self.wait(for: file)
    path = try Self.run("losetup", "--direct-io=on", "--find", "--show", file)
  }

  /// Every request that waits, and every later one, fails.
  func fail() {
    guard server.isRunning else { return }
    kill(server.processIdentifier, SIGKILL)
    server.waitUntilExit()
  }

  func remove() {
    fail()
    _ = try? Self.run("losetup", "--detach", path)
    _ = try? Self.run("umount", "--lazy", directory.appending(path: "mount").path)
    // A daemon that could not let go of it keeps nbdfuse from ending by itself.
    if mount.isRunning { kill(mount.processIdentifier, SIGKILL) }
    mount.waitUntilExit()
  }

  private static func start(_ process: Process, _ name: String, _ arguments: [String]) throws {
    process.executableURL = URL(filePath: program(name) ?? "/nonexistent/\(name)")
    process.arguments = arguments
    process.standardInput = FileHandle.nullDevice
    process.standardOutput = FileHandle.nullDevice
    process.standardError = FileHandle.nullDevice
    try process.run()
  }

  private static func wait(for path: String) throws {
    let limit = Date().addingTimeInterval(30)
    while access(path, F_OK) != 0 {
      guard Date() < limit else { throw NotThere(what: path) }
      usleep(20_000)
    }
  }

  private static func run(_ name: String, _ arguments: String...) throws -> String {
    let process = Process()
    let output = Pipe()
    process.executableURL = URL(filePath: program(name) ?? "/nonexistent/\(name)")
    process.arguments = arguments
    process.standardOutput = output
    try process.run()
    let text = String(
      decoding: output.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
    process.waitUntilExit()
    guard process.terminationStatus == 0 else { throw NotThere(what: name) }
    return text.trimmingCharacters(in: .whitespacesAndNewlines)
  }
}
