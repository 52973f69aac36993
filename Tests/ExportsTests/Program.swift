/// The memory-backed server as a process of its own, and real client programs to point at it.
///
/// What must hold: only processes started here are signalled, and none outlives its test.

import Foundation
import Glibc
import Testing

/// A program that ended.
struct Ended: CustomStringConvertible {
  let command: String
  let status: Int32
  let output: String

  var description: String { "\(command)\nended with \(status):\n\(output.suffix(3000))" }
}

enum Program {
  /// Where a program is installed; `nil` when it is not.
  static func path(_ name: String) -> String? {
    let places = ["/usr/bin/", "/bin/", "/usr/sbin/", "/usr/local/bin/"]
    return places.map { $0 + name }.first { access($0, X_OK) == 0 }
  }

  /// Why tests with these programs are skipped, for the condition's comment.
  static func areInstalled(_ names: String...) -> Bool { names.allSatisfy { path($0) != nil } }

  /// Whether libnbd's Python module is there. It is built for Debian's Python.
  static let hasPythonModule: Bool = {
    guard areInstalled("python3") else { return false }
    return (try? run("python3", "-c", "import nbd"))?.status == 0
  }()

  /// Runs a program to its end, at most `seconds` long.
  static func run(_ name: String, _ arguments: String..., seconds: Double = 600) throws -> Ended {
    let process = Process()
    process.executableURL = URL(filePath: path(name) ?? "/nonexistent/\(name)")
    process.arguments = arguments
    let file = FileManager.default.temporaryDirectory.appending(path: "nbd-\(UUID()).log")
    try Data().write(to: file)
    defer { try? FileManager.default.removeItem(at: file) }
    let output = try FileHandle(forWritingTo: file)
    process.standardOutput = output
    process.standardError = output
    process.standardInput = FileHandle.nullDevice
    try process.run()
    let limit = Date().addingTimeInterval(seconds)
    while process.isRunning, Date() < limit { usleep(5_000) }
    let isLate = process.isRunning
    if isLate { kill(process.processIdentifier, SIGKILL) }
    process.waitUntilExit()
    let text = (try? String(contentsOf: file, encoding: .utf8)) ?? ""
    return Ended(
      command: ([name] + arguments).joined(separator: " "),
      status: isLate ? -1 : process.terminationStatus, output: text)
  }
}

/// `NBDProbe` in the background: exports r0 of `mebibytes` on a Unix socket in a new directory.
final class MemoryServer {
  struct NotRunning: Error {}

  let directory: URL
  private let process = Process()
  private let input = Pipe()
  private let output = Pipe()
  private var unread = Data()

  init(mebibytes: Int = 64, _ options: String...) throws {
    directory = FileManager.default.temporaryDirectory.appending(path: "nbd-\(UUID())")
    try FileManager.default.createDirectory(at: directory, withIntermediateDirectories: true)
    let own = try FileManager.default.destinationOfSymbolicLink(atPath: "/proc/self/exe")
    let build = URL(filePath: own).deletingLastPathComponent()
    process.executableURL = build.appending(path: "NBDProbe")
    process.arguments = [directory.appending(path: "s").path, "\(mebibytes)"] + options
    process.standardInput = input
    process.standardOutput = output
    let log = directory.appending(path: "log")
    try Data().write(to: log)
    process.standardError = try FileHandle(forWritingTo: log)
    try process.run()
    let line = try readLine()
    #expect(line == "ready")
  }

  deinit {
    if process.isRunning { kill(process.processIdentifier, SIGKILL) }
    process.waitUntilExit()
    try? FileManager.default.removeItem(at: directory)
  }

  var isRunning: Bool { process.isRunning }

  /// What the server said about its clients.
  var log: String {
    (try? String(contentsOf: directory.appending(path: "log"), encoding: .utf8)) ?? ""
  }

  var socket: String { directory.appending(path: "s").path }

  func uri(_ export: String = "r0") -> String { "nbd+unix:///\(export)?socket=\(socket)" }

  private func readLine() throws -> String {
    while true {
      if let end = unread.firstIndex(of: 10) {
        let line = String(decoding: unread[..<end], as: UTF8.self)
        unread = Data(unread[(end + 1)...])
        return line
      }
      let more = output.fileHandleForReading.availableData
      guard !more.isEmpty else { throw NotRunning() }
      unread.append(more)
    }
  }

  /// Gives the server a command and returns its answer.
  @discardableResult
  func command(_ line: String) throws -> String {
    try input.fileHandleForWriting.write(contentsOf: Data((line + "\n").utf8))
    return try readLine()
  }

  /// Ends the server in good order.
  func end() throws {
    try input.fileHandleForWriting.close()
    let line = try readLine()
    #expect(line == "ended")
    process.waitUntilExit()
    #expect(process.terminationStatus == 0)
  }
}
