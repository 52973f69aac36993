/// What was up comes up when it can, and what was taken down does not.
import Configuration
import Control
import Foundation
import Glibc
import TestSupport
import Testing

@testable import Node

@Suite(.serialized) struct RestorationTests {
  /// Runs `body` in a node where `r0` was up when it ended and whose disk is not there since; the
  /// last argument puts it back.
  private func withoutDisk(
    _ body: @Sendable @escaping (RunningNode, () throws -> Void) throws -> Void
  ) async throws {
    try await withDirectories { directory, paths in
      let ports = try freePorts(2)
      let disk = directory.appending(path: "r0.img").path
      try makeDisk(disk, bytes: 32 << 20)
      let resource = try configuration(disk, ports)
      let node = RunningNode(paths: paths, configuration: resource)
      var file = Configuration()
      file.resources = [resource]
      try await serve(paths, file) { try node.tell(.up) }
      try FileManager.default.moveItem(atPath: disk, toPath: disk + ".away")
      try await serve(paths, file) {
        try body(node) { try FileManager.default.moveItem(atPath: disk + ".away", toPath: disk) }
      }
    }
  }

  private func isUp(_ node: RunningNode, within seconds: Double) throws -> Bool {
    let limit = Date(timeIntervalSinceNow: seconds)
    while Date() < limit {
      if try node.ask(.status).exitCode == 0, try node.device()?.diskState == .inconsistent {
        return true
      }
      usleep(50_000)
    }
    return false
  }

  @Test func `a disk that comes late is attached without being asked for`() async throws {
    try await withoutDisk { node, putBack in
      #expect(try node.ask(.status).exitCode == 10, "there is nothing to be up with")
      try putBack()
      #expect(try isUp(node, within: 60))
    }
  }

  /// `down` of what could not come up counts: it would be up again some day, unasked.
  @Test func `what is taken down while it cannot come up stays down`() async throws {
    try await withoutDisk { node, putBack in
      #expect(try node.ask(.down).exitCode == 0)
      #expect(try NodeState.read(node.paths.stateFile).resources.isEmpty)
      let again = try node.ask(.down)
      #expect(again.refusal == Refusal.unknownResource.code)
      try putBack()
      #expect(try !isUp(node, within: 4))
    }
  }

  @Test func `what was disconnected stays alone when the daemon is restarted`() async throws {
    try await withDirectories { directory, paths in
      let disk = directory.appending(path: "r0.img").path
      try makeDisk(disk, bytes: 32 << 20)
      let resource = try configuration(disk, try freePorts(2))
      let node = RunningNode(paths: paths, configuration: resource)
      var file = Configuration()
      file.resources = [resource]
      let connection: @Sendable () throws -> ConnectionStateName? = {
        try node.ask(.status).status?.first?.connections.first?.connectionState
      }
      try await serve(paths, file) {
        try node.tell(.up)
        try node.tell(.disconnect)
      }
      try await serve(paths, file) {
        #expect(try connection() == .standAlone)
        try node.tell(.connect)
      }
      try await serve(paths, file) {
        let last = try connection()
        #expect(last == .connecting)
      }
    }
  }

  /// A disk that somebody else claimed, for good perhaps, is asked for again and again: none of the
  /// attempts holds up what the node serves.
  @Test func `a disk in use is tried again without holding up the node`() async throws {
    try await withDirectories { directory, paths in
      let file = try twoResources(in: directory)
      let nodes = file.resources.map { RunningNode(paths: paths, configuration: $0) }
      try await serve(paths, Configuration()) { for node in nodes { try node.tell(.up) } }
      let path = directory.appending(path: "r0.img").path
      let claimed = try #require(FileHandle(forUpdatingAtPath: path))
      try #require(flock(claimed.fileDescriptor, LOCK_EX | LOCK_NB) == 0)
      try await serve(paths, file) {
        var worst = 0.0
        let end = Date(timeIntervalSinceNow: 8)
        while Date() < end {
          let began = Date()
          _ = try nodes[1].device()
          worst = max(worst, Date().timeIntervalSince(began))
          usleep(5_000)
        }
        // Each attempt would take a second if it waited.
        #expect(worst < 0.6)
        try claimed.close()
        #expect(try isUp(nodes[0], within: 60))
      }
    }
  }

  @Test func `an address that this machine does not have is named`() async throws {
    try await withNode { node in
      var changed = node.configuration
      // Of TEST-NET-1 (RFC 5737): nobody has it.
      changed.hosts[0].address = PeerAddress(host: "192.0.2.1", port: node.port)
      let reply = try node.ask(.up, changed)
      #expect(reply.exitCode == 10)
      #expect(reply.standardError.first?.contains("not available") == true)
    }
  }

  @Test func `a list that cannot be written is told with the command`() async throws {
    try await withNode { node in
      let part = node.paths.stateFile + ".new"
      try FileManager.default.createDirectory(atPath: part, withIntermediateDirectories: false)
      let reply = try node.ask(.up)
      #expect(reply.exitCode == 0)
      #expect(reply.standardError.last?.contains("cannot be written") == true)
      try FileManager.default.removeItem(atPath: part)
      // The next change writes both.
      #expect(try node.ask(.primary, force: true).standardError.isEmpty)
      #expect(try NodeState.read(node.paths.stateFile).resources.map(\.primary) == [true])
    }
  }

  @Test func `a handler for every volume of a full node is run`() {
    let ended = DispatchSemaphore(value: 0)
    let log = LogLines()
    let runner = HandlerRunner { _, line in log.add(line) }
    for number in 0..<NodeLoop.volumeLimit {
      runner.run(
        HandlerJob(
          name: "before-resync-target", command: "exit 0", environment: [:],
          subject: "r\(number) beta", ended: { _ in ended.signal() }))
    }
    for _ in 0..<NodeLoop.volumeLimit { ended.wait() }
    #expect(log.lines.count { $0.contains("exit code 0") } == NodeLoop.volumeLimit)
  }
}

private final class LogLines: @unchecked Sendable {
  // Unchecked: `all` is touched with `lock` held.
  private let lock = NSLock()
  private var all: [String] = []

  func add(_ line: String) { lock.withLock { all.append(line) } }
  var lines: [String] { lock.withLock { all } }
}
