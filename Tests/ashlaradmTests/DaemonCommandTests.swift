/// What the tool asks the daemon, and what it makes of the answers.

import Configuration
import Control
import Foundation
import Testing

@Suite struct DaemonCommandTests {
  /// Each command is one request with what the daemon needs.
  @Test func commandsBecomeRequests() throws {
    let bench = try Bench(options: "net { ping-int 5; }")
    let daemon = try FakeDaemon(bench.paths) { _ in ControlReply(status: [healthy()]) }
    for words in [
      ["up", "r0"], ["-d", "up", "r0"], ["primary", "--force", "all"], ["secondary", "r0"],
      ["--", "--force", "disconnect", "r0"], ["detach", "r0/0"], ["attach", "r0"],
      ["connect", "r0", "r0"], ["invalidate", "r0"], ["down", "r0"],
    ] {
      let result = try bench.run(words)
      #expect(result.status == 0, "\(words): \(result)")
    }
    let asked = daemon.commands
    #expect(
      asked.map(\.command) == [
        .up, .primary, .secondary, .disconnect, .detach, .attach, .connect, .invalidate, .down,
      ])
    #expect(asked.allSatisfy { $0.resource == "r0" })
    #expect(asked.filter(\.force).map(\.command) == [.primary, .disconnect])
    #expect(asked[4].volume == 0)
    #expect(asked[0].configuration?.net.pingIntervalSeconds == 5)
    #expect(asked[0].configuration?.hosts.count == 2)
    #expect(asked[2].configuration == nil)
  }

  /// The daemon's words and exit code are the tool's.
  @Test(
    arguments: [
      (Refusal.heldOpen, 11, "r0: State change failed: (-12) Device is held open by someone\n"),
      (.needUpToDateData, 17, "r0: State change failed: (-2) Need access to UpToDate data\n"),
      (
        .multiplePrimaries, 11,
        "r0: State change failed: (-1) Multiple primaries not allowed by config\n"
      ),
      (.unknownResource, 10, "r0: Failure: (158) Unknown resource\n"),
    ] as [(Refusal, Int, String)])
  func refusalsAreShown(refusal: Refusal, exit: Int, text: String) throws {
    let bench = try Bench()
    let daemon = try FakeDaemon(bench.paths) { _ in
      ControlReply(refusing: refusal, object: "r0")
    }
    let result = try bench.run("secondary", "r0")
    #expect(result.status == Int32(exit))
    #expect(result.error.hasPrefix(text), "\(result)")
    // A refusal that does not say what to do is half a refusal.
    #expect(result.error.split(separator: "\n").count == 2, "\(result)")
    #expect(daemon.commands.count == 1)
  }

  /// With several resources all are tried and the first failure decides.
  @Test func allResourcesAreTried() throws {
    let bench = try Bench()
    try bench.configure(bench.resource("r0", port: 7001) + bench.resource("r1", port: 7002))
    let daemon = try FakeDaemon(bench.paths) { request in
      request.resource == "r0"
        ? ControlReply(refusing: .needUpToDateData, object: "r0") : ControlReply()
    }
    #expect(try bench.run("primary", "all").status == 17)
    #expect(daemon.commands.map(\.resource) == ["r0", "r1"])
    #expect(try bench.run("primary", "r1").status == 0)
  }

  /// What runs can be stopped after its section was deleted.
  @Test func downReachesWhatIsNoLongerConfigured() throws {
    let bench = try Bench()
    let daemon = try FakeDaemon(bench.paths) { request in
      if request.command == .status { return ControlReply(status: [healthy("old")]) }
      // What the daemon would bring up some day is not up, and yet it knows of it.
      if ["old", "late"].contains(request.resource) { return ControlReply() }
      return ControlReply(refusing: .unknownResource, object: request.resource ?? "")
    }
    #expect(try bench.run("down", "old").status == 0)
    #expect(try bench.run("down", "late").status == 0)
    #expect(daemon.commands.map(\.resource) == ["old", "late"])
    #expect(try bench.run("down", "nosuch").status == 1)
    // Down already is as good as done, as with drbdadm.
    let again = try bench.run("down", "r0")
    #expect(again.status == 0 && again.error.isEmpty, "\(again)")
    #expect(try bench.run("down", "-d", "late").status == 1)
    #expect(daemon.commands.map(\.resource) == ["old", "late", "nosuch", "r0"])
  }

  /// Whatever the daemon says of what is not up: only that it does not know of it is good.
  @Test func downTellsThatTheDaemonRefused() throws {
    let bench = try Bench()
    let daemon = try FakeDaemon(bench.paths) { request in
      request.command == .status
        ? ControlReply(status: [])
        : ControlReply(exitCode: 20, standardError: ["ashlard is shutting down"])
    }
    for name in ["r0", "stranger"] {
      let result = try bench.run("down", name)
      #expect(result.status == 20 && result.error.contains("shutting down"), "\(result)")
    }
    #expect(daemon.commands.map(\.resource) == ["r0", "stranger"])
  }

  @Test func brokenDaemonIsReported() throws {
    let bench = try Bench()
    let daemon = try FakeDaemon(bench.paths) { _ in
      var reply = ControlReply()
      reply.version = 99
      return reply
    }
    let result = try bench.run("up", "r0")
    #expect(result.status == 20)
    #expect(result.error.contains("control protocol version 99"), "\(result)")
    #expect(daemon.commands.count == 1)
  }

  @Test func queriesHaveTheOldForms() throws {
    let bench = try Bench()
    let daemon = try FakeDaemon(bench.paths) { _ in ControlReply(status: [healthy()]) }
    #expect(try bench.run("role", "r0").output == "Primary/Secondary\n")
    #expect(try bench.run("cstate", "all").output == "Connected\n")
    #expect(try bench.run("dstate", "r0").output == "UpToDate/UpToDate\n")
    #expect(try bench.run("proc").output.contains(" 0: cs:Connected ro:Primary/Secondary "))
    #expect(
      try bench.run("status").output == """
        r0 role:Primary
          disk:UpToDate
          beta role:Secondary
            replication:Established peer-disk:UpToDate


        """)
    #expect(try bench.run("status", "--color=always", "r0").output.contains("\u{1B}[32mUpToDate"))
    let json = try bench.run("status", "--json").output
    let decoded = try JSONDecoder().decode([ResourceStatus].self, from: Data(json.utf8))
    #expect(decoded == [healthy()])
    #expect(daemon.statusCount == 7)
  }

  /// What is configured and not up is named, on standard error, with 10.
  @Test func resourceThatIsNotUp() throws {
    let bench = try Bench()
    let daemon = try FakeDaemon(bench.paths) { _ in ControlReply(status: []) }
    for words in [["status"], ["status", "r0"]] {
      let result = try bench.run(words)
      #expect(result.status == 10, "\(result)")
      #expect(result.error.hasPrefix("r0: No such resource\n"), "\(result)")
      #expect(result.error.contains("run 'ashlaradm up r0'"), "\(result)")
    }
    let role = try bench.run("role", "r0")
    #expect(role.status == 10)
    #expect(role.error.hasPrefix("r0: Failure: (158) Unknown resource\n"))
    #expect(try bench.run("status", "--json").output == "[\n\n]\n")
    #expect(daemon.statusCount == 4)
  }
}

@Suite struct WaitTests {
  /// Polls, at most twice a second, until the state is reached.
  @Test func waitSyncReturnsWhenSynced() throws {
    let bench = try Bench()
    let syncing = Countdown(3)
    let daemon = try FakeDaemon(bench.paths) { _ in
      var status = healthy()
      if syncing.next() {
        status.connections[0].peerDevices[0].replicationState = .syncSource
        status.connections[0].peerDevices[0].peerDiskState = .inconsistent
      }
      return ControlReply(status: [status])
    }
    let start = Date()
    let result = try bench.run("wait-sync", "r0")
    #expect(result.status == 0, "\(result)")
    #expect(result.output + result.error == "", "no progress bar without a terminal")
    #expect(daemon.statusCount == 4)
    #expect(-start.timeIntervalSinceNow >= 1, "more often than twice a second")
  }

  @Test func waitConnectTimesOutWithFive() throws {
    let bench = try Bench()
    let daemon = try FakeDaemon(bench.paths) { _ in
      var status = healthy()
      status.connections[0].connectionState = .connecting
      return ControlReply(status: [status])
    }
    let result = try bench.run("wait-connect", "-t", "1", "r0")
    #expect(result.status == 5, "\(result)")
    #expect(result.error == "r0: timed out\n", "\(result)")
    #expect(daemon.statusCount <= 4)
  }

  /// Waiting for what cannot happen ends at once, with the reason.
  @Test func standAloneIsNotWaitedFor() throws {
    let bench = try Bench()
    let daemon = try FakeDaemon(bench.paths) { _ in
      var status = healthy()
      status.connections[0].connectionState = .standAlone
      status.connections[0].reason = "split brain"
      return ControlReply(status: [status])
    }
    let result = try bench.run("wait-sync", "r0")
    #expect(result.status == 5, "\(result)")
    #expect(result.error.contains("StandAlone (split brain)"), "\(result)")
    #expect(result.error.contains("ashlaradm connect r0"), "\(result)")
    #expect(daemon.statusCount == 1)
  }

  /// Two Inconsistent disks never sync by themselves.
  @Test func hopelessSyncIsGivenUp() throws {
    let bench = try Bench()
    let daemon = try FakeDaemon(bench.paths) { _ in
      var status = healthy()
      status.devices[0].diskState = .inconsistent
      status.connections[0].peerDevices[0].peerDiskState = .inconsistent
      return ControlReply(status: [status])
    }
    let result = try bench.run("wait-sync", "r0")
    #expect(result.status == 5, "\(result)")
    #expect(result.error.contains("primary --force r0"), "\(result)")
    #expect(daemon.statusCount > 1)
  }

  /// Two UpToDate disks that are known to differ are not the same, and nothing will change that.
  @Test func markedBlocksAreNotInSync() throws {
    let bench = try Bench()
    let daemon = try FakeDaemon(bench.paths) { _ in
      var status = healthy()
      status.connections[0].peerDevices[0].outOfSync = 8
      return ControlReply(status: [status])
    }
    let result = try bench.run("wait-sync", "r0")
    #expect(result.status == 5, "\(result)")
    #expect(result.error.contains("8 KiB differ"), "\(result)")
    #expect(result.error.contains("verify --repair --marked --from NODE r0"), "\(result)")
    // Blocks that are marked for a moment are waited for.
    #expect(daemon.statusCount > 1)
  }

  @Test func resourceThatIsNotUpIsNotWaitedFor() throws {
    let bench = try Bench()
    let daemon = try FakeDaemon(bench.paths) { _ in ControlReply(status: []) }
    let result = try bench.run("wait-connect", "r0")
    #expect(result.status == 5)
    #expect(result.error == "r0: not up: run 'ashlaradm up r0'\n")
    #expect(daemon.statusCount == 1)
  }
}
