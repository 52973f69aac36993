/// The client never waits for ever and says what to do.

import Control
import Foundation
import Glibc
import Testing

/// A socket that takes connections and sends `answer` to each, whatever it is asked.
private final class StubbornServer {
  let paths: RunPaths
  private let listener: Int32

  init(answer: [UInt8]?) throws {
    paths = RunPaths(
      runDirectory: "/tmp", node: "stub-\(UInt64.random(in: 0 ..< 1 << 40))")
    listener = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue), 0)
    var address = sockaddr_un()
    address.sun_family = sa_family_t(AF_UNIX)
    withUnsafeMutableBytes(of: &address.sun_path) {
      $0.copyBytes(from: Array(paths.controlSocket.utf8))
    }
    let bound = withUnsafePointer(to: &address) { pointer in
      pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { generic in
        bind(listener, generic, socklen_t(MemoryLayout<sockaddr_un>.size))
      }
    }
    try #require(bound == 0 && listen(listener, 8) == 0, "errno \(errno)")
    guard let answer else { return }
    Thread { [listener] in
      let connection = accept(listener, nil, nil)
      var request = [UInt8](repeating: 0, count: 4096)
      _ = recv(connection, &request, request.count, 0)
      var sent = 0
      while sent < answer.count {
        let count = answer.withUnsafeBytes {
          send(connection, $0.baseAddress! + sent, $0.count - sent, Int32(MSG_NOSIGNAL))
        }
        if count <= 0 { break }
        sent += count
      }
      close(connection)
    }.start()
  }

  deinit {
    shutdown(listener, Int32(SHUT_RDWR))
    close(listener)
    unlink(paths.controlSocket)
  }
}

@Suite struct ControlClientTests {
  private func outcome(
    _ paths: RunPaths, timeoutSeconds: Double = 600
  ) -> Result<ControlReply, ControlClientError> {
    Result { () throws(ControlClientError) in
      let client = try ControlClient(paths: paths, timeoutSeconds: timeoutSeconds)
      return try client.send(ControlRequest(.status))
    }
  }

  @Test func absentDaemonIsNamed() {
    let paths = RunPaths(runDirectory: "/nonexistent/", node: "alpha")
    let expected = ControlClientError.notRunning(
      node: "alpha", socket: "/nonexistent/ashlard-alpha.sock")
    #expect(outcome(paths) == .failure(expected))
    #expect(expected.description.contains("start it"))
  }

  /// A daemon that was killed leaves its socket file behind.
  @Test func deadSocketIsNotRunning() throws {
    let server = try StubbornServer(answer: nil)
    let copy = RunPaths(runDirectory: "/tmp", node: server.paths.node + "-dead")
    try #require(link(server.paths.controlSocket, copy.controlSocket) == 0)
    defer { unlink(copy.controlSocket) }
    let socket = copy.controlSocket
    _ = consume server
    #expect(outcome(copy) == .failure(.notRunning(node: copy.node, socket: socket)))
  }

  @Test func silentDaemonTimesOut() throws {
    let server = try StubbornServer(answer: nil)
    let start = Date()
    let result = outcome(server.paths, timeoutSeconds: 0.3)
    #expect(
      result == .failure(.timedOut(seconds: 0.3, socket: server.paths.controlSocket)))
    #expect(-start.timeIntervalSinceNow < 30)
  }

  @Test func brokenAnswersAreErrors() throws {
    let hungUp = try StubbornServer(answer: [])
    #expect(outcome(hungUp.paths) == .failure(.closed(socket: hungUp.paths.controlSocket)))
    let half = try StubbornServer(answer: Array(#"{"version":1"#.utf8))
    #expect(outcome(half.paths) == .failure(.closed(socket: half.paths.controlSocket)))
    let noise = try StubbornServer(answer: Array("noise\n".utf8))
    guard case .failure(.message(.malformed)) = outcome(noise.paths) else {
      Issue.record("accepted noise")
      return
    }
  }

  /// A daemon gone mad does not choose the tool's memory use.
  @Test func endlessAnswerIsCut() throws {
    let server = try StubbornServer(
      answer: [UInt8](repeating: UInt8(ascii: "x"), count: ControlCodec.replyBytes + 1000))
    #expect(
      outcome(server.paths)
        == .failure(.message(.tooLong(limit: ControlCodec.replyBytes))))
  }
}

@Suite struct RunPathsTests {
  /// The paths every program relies on.
  @Test func pathsAreFixed() {
    let paths = RunPaths(runDirectory: "/run/ashlar/", node: "alpha")
    #expect(paths.controlSocket == "/run/ashlar/ashlard-alpha.sock")
    #expect(paths.nbdSocket == "/run/ashlar/nbd-alpha.sock")
    #expect(paths.stateFile == "/run/ashlar/up-alpha.json")
    #expect(paths.nbdURI(resource: "r0") == "nbd+unix:///r0?socket=/run/ashlar/nbd-alpha.sock")
    #expect(
      RunPaths(runDirectory: "/a b", node: "n").nbdURI(resource: "r0", volume: 1)
        == "nbd+unix:///r0/1?socket=/a%20b/nbd-n.sock")
  }

  /// Command line before environment before default; empty is not given.
  @Test func environmentIsTheDefault() throws {
    var environment = [
      "ASHLAR_CONFIG": "/e.conf", "ASHLAR_NODE": "echo", "ASHLAR_RUN_DIR": "/e",
    ]
    let fromEnvironment = try NodeEnvironment(environment: environment)
    #expect(fromEnvironment.configurationFile == "/e.conf")
    #expect(fromEnvironment.paths == RunPaths(runDirectory: "/e", node: "echo"))
    let fromArguments = try NodeEnvironment(
      configurationFile: "/a.conf", node: "alpha", runDirectory: "/a", environment: environment)
    #expect(fromArguments.configurationFile == "/a.conf")
    #expect(fromArguments.paths == RunPaths(runDirectory: "/a", node: "alpha"))
    let defaults = try NodeEnvironment(
      configurationFile: "", node: "n", environment: ["ASHLAR_CONFIG": ""])
    #expect(defaults.configurationFile == "/etc/ashlar/ashlar.conf")
    #expect(defaults.isConfigurationFileChosen == false)
    #expect(defaults.runDirectory == "/run/ashlar")
    // A restart of the machine empties /run, and what was up must be found again.
    #expect(defaults.paths.stateFile == "/var/lib/ashlar/up-n.json")
    environment["ASHLAR_STATE_DIR"] = "/s/"
    #expect(try NodeEnvironment(environment: environment).paths.stateFile == "/s/up-echo.json")
    let chosen = try NodeEnvironment(
      runDirectory: "/a", stateDirectory: "/t", environment: environment)
    #expect(chosen.paths.stateFile == "/t/up-echo.json")
    #expect(try !NodeEnvironment(environment: [:]).node.isEmpty)
  }

  @Test func impossibleChoicesAreRefused() {
    #expect(throws: NodeEnvironmentError.badNodeName("../x")) {
      try NodeEnvironment(node: "../x", environment: [:])
    }
    #expect(throws: NodeEnvironmentError.self) {
      try NodeEnvironment(
        node: "n", runDirectory: "/" + String(repeating: "d", count: 100), environment: [:])
    }
  }
}
