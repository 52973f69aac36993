/// Runs programs for the tests: to the end with a limit on time, or in the background.
///
/// What must hold: only processes started here are ever signalled, by their process id; none
/// outlives its owner. No test passes or fails by how fast the machine is: what is waited for has a
/// limit far beyond the time it takes.
import Foundation
import Glibc

/// Why a test cannot go on, in words. Thrown rather than recorded, so that the cluster's logs are
/// shown with it.
struct Failure: Error, CustomStringConvertible {
  let description: String

  init(_ description: String) { self.description = description }
}

/// The longest wait, in seconds, for what takes moments on a machine that has nothing else to do.
let patience = 300.0

/// How a finished program ended and what it said.
struct Output: CustomStringConvertible {
  let command: String
  let status: Int32
  let text: String

  var description: String { "\(command)\nended with \(status) and said:\n\(text.suffix(4000))" }
}

/// A program in the background, its output in a file.
final class BackgroundProcess {
  let log: URL
  private let process = Process()
  let command: String

  /// Starts `arguments`. With `input`, the program's standard input is a pipe to `write`.
  init(_ arguments: [String], log: URL, environment: [String: String] = [:], input: Bool = false)
    throws
  {
    self.log = log
    command = arguments.joined(separator: " ")
    try Data().write(to: log)
    let output = try FileHandle(forWritingTo: log)
    process.executableURL = URL(filePath: "/usr/bin/env")
    process.arguments = arguments
    process.environment = ProcessInfo.processInfo.environment.merging(environment) { $1 }
    process.standardOutput = output
    process.standardError = output
    if input { process.standardInput = Pipe() } else { process.standardInput = nil }
    try process.run()
    try output.close()
  }

  deinit { kill() }

  var isRunning: Bool { process.isRunning }
  var processID: Int32 { process.processIdentifier }
  var text: String { (try? String(contentsOf: log, encoding: .utf8)) ?? "" }

  /// The exit status, or minus the signal that ended it. Only after it ended.
  var status: Int32 {
    process.terminationReason == .exit ? process.terminationStatus : -process.terminationStatus
  }

  /// Sends a line to the program's standard input.
  func write(_ line: String) throws {
    guard let pipe = process.standardInput as? Pipe else { throw Failure("\(command): no input") }
    try pipe.fileHandleForWriting.write(contentsOf: Data((line + "\n").utf8))
  }

  /// Ends the program without giving it a chance to clean up, and waits until it is gone.
  func kill() {
    guard process.isRunning else { return }
    signal(SIGKILL)
    process.waitUntilExit()
  }

  /// Sends a signal to this process only.
  func signal(_ number: Int32) { _ = Glibc.kill(process.processIdentifier, number) }

  /// Waits for the end of the program and returns its status.
  @discardableResult
  func wait(seconds: Double = patience) throws -> Int32 {
    try waitUntil("\(command) ends", seconds: seconds) { !self.process.isRunning }
    return status
  }
}

/// Runs a program to its end. Its standard error is part of the text.
@discardableResult
func run(
  _ arguments: [String], seconds: Double = 2 * patience, environment: [String: String] = [:]
) throws -> Output {
  let log = FileManager.default.temporaryDirectory.appending(path: "ashlar-\(UUID().uuidString)")
  defer { try? FileManager.default.removeItem(at: log) }
  let process = try BackgroundProcess(arguments, log: log, environment: environment)
  do {
    try process.wait(seconds: seconds)
  } catch {
    throw Failure("\(error); it said so far:\n\(process.text.suffix(4000))")
  }
  return Output(command: process.command, status: process.status, text: process.text)
}

/// Runs a program that must succeed and returns what it said, without the last line break.
@discardableResult
func succeed(
  _ arguments: String..., environment: [String: String] = [:]
) throws -> String {
  let output = try run(arguments, environment: environment)
  guard output.status == 0 else { throw Failure("\(output)") }
  return output.text.trimmingCharacters(in: .newlines)
}

/// Asks again every 20 ms until the answer is yes; fails with what was waited for.
func waitUntil(
  _ what: String, seconds: Double = patience, explanation: () -> String = { "" },
  _ condition: () throws -> Bool
) throws {
  let deadline = ContinuousClock.now + .seconds(seconds)
  while try !condition() {
    guard ContinuousClock.now < deadline else {
      throw Failure("waited \(seconds) s in vain until \(what) \(explanation())")
    }
    usleep(20_000)
  }
}
