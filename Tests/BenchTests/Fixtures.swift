import BlockIO
import Foundation
import Glibc

@testable import Bench

/// What the end-to-end tests stand on: the built program, real and false servers.

/// The program, next to the tests.
let program: String = {
  let tests = (try? FileManager.default.destinationOfSymbolicLink(atPath: "/proc/self/exe")) ?? ""
  return URL(fileURLWithPath: tests).deletingLastPathComponent()
    .appendingPathComponent("ashlar-bench").path
}()

/// The path of an installed program.
func installed(_ name: String) -> String? {
  ["/usr/bin/", "/usr/local/bin/", "/bin/"].map { $0 + name }
    .first { FileManager.default.isExecutableFile(atPath: $0) }
}

/// What a program printed, and how it ended.
struct Outcome {
  let status: Int32
  let output: String
  let errors: String
}

/// Runs a program to its end.
func run(_ path: String, _ arguments: [String]) throws -> Outcome {
  let process = Process()
  process.executableURL = URL(fileURLWithPath: path)
  process.arguments = arguments
  let (output, errors) = (Pipe(), Pipe())
  process.standardOutput = output
  process.standardError = errors
  process.standardInput = FileHandle.nullDevice
  try process.run()
  let text = try output.fileHandleForReading.readToEnd() ?? Data()
  let complaint = try errors.fileHandleForReading.readToEnd() ?? Data()
  process.waitUntilExit()
  return Outcome(
    status: process.terminationStatus, output: String(decoding: text, as: UTF8.self),
    errors: String(decoding: complaint, as: UTF8.self))
}

/// Something that was waited for does not happen.
struct NotHappening: Error { let what: String }

/// Asks again until the answer is yes, for much longer than a slow and busy machine takes.
func waitUntil(_ what: String, _ condition: () throws -> Bool) throws {
  let limit = monotonicNs() + 120_000_000_000
  while try !condition() {
    guard monotonicNs() < limit else { throw NotHappening(what: what) }
    usleep(10_000)
  }
}

/// How much a process has given to disks so far.
func bytesWritten(by process: pid_t) throws -> UInt64 {
  let lines = try String(contentsOfFile: "/proc/\(process)/io", encoding: .utf8)
    .split(separator: "\n")
  let line = lines.first { $0.hasPrefix("write_bytes: ") }
  return line?.split(separator: " ").last.flatMap { UInt64($0) } ?? 0
}

/// A running qemu-nbd that exports a file as `vol` on a Unix socket.
final class QemuNBD {
  let address: TargetAddress
  private let process = Process()

  init(file: String, in directory: TemporaryDirectory, options: [String] = []) throws {
    let socket = directory.path("q\(UInt32.random(in: 0...999_999)).sock")
    address = .nbdUnix(socket: socket, export: "vol")
    process.executableURL = URL(fileURLWithPath: installed("qemu-nbd") ?? "/usr/bin/qemu-nbd")
    process.arguments = ["-k", socket, "-f", "raw", "-x", "vol", "-t"] + options + [file]
    process.standardError = FileHandle.nullDevice
    try process.run()
    // The file is there a little before somebody listens: the kernel's list tells them apart.
    try waitUntil("qemu-nbd listens") {
      let sockets = try String(contentsOfFile: "/proc/net/unix", encoding: .utf8)
      return sockets.split(separator: "\n").contains {
        $0.hasSuffix(socket) && $0.split(separator: " ").dropFirst(3).first == "00010000"
      }
    }
  }

  deinit {
    // Not SIGTERM: a test runs on a thread that blocks it, and children inherit the mask.
    kill(process.processIdentifier, SIGKILL)
    process.waitUntilExit()
  }
}

/// A server of two connections that shakes hands correctly and then sends what the test wants.
enum FalseServer {
  /// Starts it; it ends with its connections.
  ///
  /// - Parameters:
  ///   - closesAfter: close after so many answers.
  ///   - answer: from one request (28 bytes) to what is sent back; `nil` closes.
  static func start(
    in directory: TemporaryDirectory, flags: UInt16, closesAfter: Int = .max,
    answer: @escaping @Sendable ([UInt8]) -> [UInt8]?
  ) throws -> TargetAddress {
    let path = directory.path("false\(UInt32.random(in: 0...999_999)).sock")
    let descriptor = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue), 0)
    var address = sockaddr_un()
    address.sun_family = sa_family_t(AF_UNIX)
    withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: path.utf8) }
    let bound = withUnsafePointer(to: &address) {
      $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
        bind(descriptor, $0, socklen_t(MemoryLayout<sockaddr_un>.size))
      }
    }
    guard bound == 0, listen(descriptor, 2) == 0 else {
      throw SystemError(call: "listen", errno: errno, path: path)
    }
    for _ in 0..<2 {
      Thread.detachNewThread {
        let connection = accept(descriptor, nil, nil)
        serve(connection, flags: flags, closesAfter: closesAfter, answer: answer)
        close(connection)
      }
    }
    return .nbdUnix(socket: path, export: "r0")
  }

  private static func serve(
    _ connection: Int32, flags: UInt16, closesAfter: Int, answer: ([UInt8]) -> [UInt8]?
  ) {
    func put(_ bytes: [UInt8]) { _ = send(connection, bytes, bytes.count, Int32(MSG_NOSIGNAL)) }
    func take(_ count: Int) -> [UInt8]? {
      var bytes = [UInt8](repeating: 0, count: count)
      return recv(connection, &bytes, count, Int32(MSG_WAITALL)) == count ? bytes : nil
    }
    put(Array("NBDMAGICIHAVEOPT".utf8) + [0, 3])
    guard take(4 + 16 + 10) != nil else { return }
    let option: [UInt8] = [0, 3, 0xe8, 0x89, 0x04, 0x55, 0x65, 0xa9, 0, 0, 0, 7]
    // An export of 1 MiB.
    let size: [UInt8] = [0, 0, 0, 0, 0, 0x10, 0, 0]
    put(option + [0, 0, 0, 3, 0, 0, 0, 12, 0, 0] + size + [UInt8(flags >> 8), UInt8(flags & 255)])
    put(option + [0, 0, 0, 1, 0, 0, 0, 0])
    var answers = 0
    while answers < closesAfter, let request = take(28), let bytes = answer(request) {
      put(bytes)
      answers += 1
    }
  }
}
