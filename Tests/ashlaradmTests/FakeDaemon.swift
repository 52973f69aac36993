/// A daemon that answers what a test tells it to, over the real socket; and the tool as a process.

import Control
import Foundation
import Glibc
import Synchronization
import Testing

/// Answers control requests on a node's socket until it is dropped, and remembers them.
final class FakeDaemon: @unchecked Sendable {
  // Unchecked: `received` and `answers` are touched with `lock` held; the rest never changes.
  private let lock = NSLock()
  private var received: [ControlRequest] = []
  private var answer: @Sendable (ControlRequest) -> ControlReply
  private let listener: Int32
  private let path: String

  init(
    _ paths: RunPaths, answer: @escaping @Sendable (ControlRequest) -> ControlReply
  ) throws {
    self.answer = answer
    path = paths.controlSocket
    unlink(path)
    listener = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue), 0)
    var address = sockaddr_un()
    address.sun_family = sa_family_t(AF_UNIX)
    let bytes = Array(path.utf8)
    withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: bytes) }
    let bound = withUnsafePointer(to: &address) { pointer in
      pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { generic in
        bind(listener, generic, socklen_t(MemoryLayout<sockaddr_un>.size))
      }
    }
    try #require(bound == 0 && listen(listener, 8) == 0, "errno \(errno) on \(path)")
    let thread = Thread { [weak self, listener] in
      while true {
        let connection = accept(listener, nil, nil)
        guard connection >= 0 else { return }
        self?.serve(connection)
        close(connection)
      }
    }
    thread.start()
  }

  deinit {
    shutdown(listener, Int32(SHUT_RDWR))
    close(listener)
    unlink(path)
  }

  /// What was asked so far, but for `status` and `show`.
  var commands: [ControlRequest] {
    lock.withLock { received.filter { $0.command != .status && $0.command != .show } }
  }

  /// How often `status` was asked.
  var statusCount: Int { lock.withLock { received.count { $0.command == .status } } }

  private func serve(_ connection: Int32) {
    var line: [UInt8] = []
    var byte: UInt8 = 0
    while read(connection, &byte, 1) == 1 {
      if byte != UInt8(ascii: "\n") {
        line.append(byte)
        continue
      }
      guard let request = try? ControlCodec.request(from: line) else { return }
      line = []
      let reply = lock.withLock {
        received.append(request)
        return answer(request)
      }
      guard let bytes = try? ControlCodec.line(reply) else { return }
      _ = send(connection, bytes, bytes.count, Int32(MSG_NOSIGNAL))
    }
  }
}

/// Says yes so many times and no ever after.
final class Countdown: Sendable {
  private let left: Atomic<Int>

  init(_ count: Int) { left = Atomic(count) }

  func next() -> Bool { left.subtract(1, ordering: .relaxed).oldValue > 0 }
}

/// How a run of the tool ended.
struct ToolResult: CustomStringConvertible {
  var status: Int32
  var output: String
  var error: String

  var description: String { "exit \(status)\n--- stdout\n\(output)--- stderr\n\(error)" }
}

/// A directory of one test: configuration, disks, sockets.
final class Bench {
  let directory: URL
  let node: String
  var paths: RunPaths { RunPaths(runDirectory: directory.path, node: node) }
  var diskPath: String { directory.appending(path: "alpha.img").path }
  var configurationPath: String { directory.appending(path: "ashlar.conf").path }

  init(node: String = "alpha", options: String = "") throws {
    self.node = node
    // Not below $TMPDIR: that may be tmpfs, which refuses direct I/O.
    let name = "ashlaradm-test-\(UInt64.random(in: 0 ..< 1 << 32))"
    directory = URL(filePath: "/var/tmp").appending(path: name)
    try FileManager.default.createDirectory(
      at: directory, withIntermediateDirectories: true)
    try configure(resource("r0", port: 7001, options: options))
  }

  deinit { try? FileManager.default.removeItem(at: directory) }

  /// The text of a resource on alpha and beta.
  func resource(_ name: String, port: Int, options: String = "") -> String {
    """
    resource \(name) {
      \(options)
      on alpha {
        node-id 0; address 127.0.0.1:\(port);
        volume 0 { disk "\(directory.path)/alpha\(name == "r0" ? "" : name).img"; }
      }
      on beta {
        node-id 1; address 127.0.0.1:\(port + 100);
        volume 0 { disk "\(directory.path)/beta\(name == "r0" ? "" : name).img"; }
      }
    }

    """
  }

  func configure(_ text: String) throws {
    try text.write(toFile: configurationPath, atomically: true, encoding: .utf8)
  }

  /// Makes the disk of `alpha`, with `content` at its start.
  func makeDisk(bytes: Int, content: [UInt8] = []) throws {
    try Data(content).write(to: URL(filePath: diskPath))
    try #require(truncate(diskPath, bytes) == 0)
  }

  /// Runs the tool as this bench's node, without a terminal.
  func run(_ arguments: String...) throws -> ToolResult { try run(arguments) }

  func run(_ arguments: [String]) throws -> ToolResult {
    try finish(try start(Self.program, arguments, input: .nullDevice))
  }

  /// Runs the tool on a terminal on which `typing` is typed. Both outputs are one there.
  func runOnTerminal(_ arguments: String, typing: String) throws -> ToolResult {
    let input = Pipe()
    let command = "\(Self.program.path) \(arguments)"
    let process = try start(
      URL(filePath: "/usr/bin/script"), ["-qec", command, "/dev/null"],
      input: input.fileHandleForReading)
    try input.fileHandleForWriting.write(contentsOf: Data(typing.utf8))
    // Closed only afterwards: script(1) takes the end of its input for the end of the session.
    let result = try finish(process)
    try input.fileHandleForWriting.close()
    return result
  }

  private var outputFile: URL { directory.appending(path: "stdout") }
  private var errorFile: URL { directory.appending(path: "stderr") }

  private func start(_ program: URL, _ arguments: [String], input: FileHandle) throws -> Process {
    let process = Process()
    process.executableURL = program
    process.arguments = arguments
    process.environment = [
      "ASHLAR_CONFIG": configurationPath, "ASHLAR_NODE": node, "ASHLAR_RUN_DIR": directory.path,
      "PATH": "/usr/bin:/bin", "TERM": "xterm",
    ]
    process.standardInput = input
    // Files, not pipes: a pipe would have to be drained while the tool runs.
    for file in [outputFile, errorFile] { try Data().write(to: file) }
    process.standardOutput = try FileHandle(forWritingTo: outputFile)
    process.standardError = try FileHandle(forWritingTo: errorFile)
    try process.run()
    return process
  }

  private func finish(_ process: Process) throws -> ToolResult {
    process.waitUntilExit()
    try #require(process.terminationReason == .exit, "killed by \(process.terminationStatus)")
    return ToolResult(
      status: process.terminationStatus,
      output: try String(contentsOf: outputFile, encoding: .utf8),
      error: try String(contentsOf: errorFile, encoding: .utf8))
  }

  /// The program beside the test bundle.
  private static var program: URL {
    let bundle = URL(filePath: CommandLine.arguments[0])
    let beside = bundle.deletingLastPathComponent().appending(path: "ashlaradm")
    if FileManager.default.isExecutableFile(atPath: beside.path) { return beside }
    return URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
      .deletingLastPathComponent().appending(path: ".build/debug/ashlaradm")
  }
}

/// `r0` as alpha sees it when all is well.
func healthy(_ name: String = "r0") -> ResourceStatus {
  var status = ResourceStatus(name: name, nodeID: 0, role: .primary)
  status.devices = [DeviceStatus(volume: 0, minor: 0, diskState: .upToDate)]
  var connection = ConnectionStatus(peerNodeID: 1, name: "beta", connectionState: .connected)
  connection.peerRole = .secondary
  connection.peerDevices = [
    PeerDeviceStatus(volume: 0, replicationState: .established, peerDiskState: .upToDate)
  ]
  status.connections = [connection]
  return status
}
