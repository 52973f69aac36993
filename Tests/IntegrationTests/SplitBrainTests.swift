/// Split brain on real daemons: found on both sides, explained, and ended by the administrator's
/// recipe from the DRBD world, word for word.
import Foundation
import Glibc
import Testing

extension Integration {
  @Suite struct SplitBrains {
    /// One command: how it ends and a part of what it says.
    private func expect(
      _ cluster: Cluster, _ node: ClusterNode, _ command: String, _ status: Int32,
      _ words: String = "", sourceLocation: SourceLocation = #_sourceLocation
    ) throws {
      let arguments = command.split(separator: " ").map(String.init)
      let output = try cluster.ask(node, arguments)
      #expect(output.status == status, "\(output)", sourceLocation: sourceLocation)
      #expect(
        words.isEmpty || output.text.contains(words), "\(output)", sourceLocation: sourceLocation)
    }

    private func waitFor(
      _ cluster: Cluster, _ node: ClusterNode, _ command: String, toSay words: String
    ) throws {
      let arguments = command.split(separator: " ").map(String.init)
      try waitUntil("\(node.name): \(command): \(words)", seconds: 20, explanation: cluster.state) {
        try cluster.ask(node, arguments).text.contains(words)
      }
    }

    /// Both are Primary and have written without each other; neither knows it yet.
    private func part(_ cluster: Cluster) throws {
      let (alpha, beta) = (cluster.alpha, cluster.beta)
      alpha.daemon?.signal(SIGSTOP)
      defer { alpha.daemon?.signal(SIGCONT) }
      try waitFor(cluster, beta, "cstate r0", toSay: "WFConnection")
      try expect(cluster, beta, "disconnect r0", 0)
      try expect(cluster, beta, "primary r0", 0)
      try scriptNBD(cluster.uri(beta), "h.pwrite(b'b' * 2097152, 524288); h.flush()")
      alpha.daemon?.signal(SIGCONT)
      try waitFor(cluster, alpha, "cstate r0", toSay: "WFConnection")
      try scriptNBD(cluster.uri(alpha), "h.pwrite(b'a' * 1048576, 0); h.flush()")
    }

    private static let isAlphas =
      "assert h.pread(1048576, 0) == b'a' * 1048576; "
      + "assert h.pread(1048576, 1048576) == bytes(1048576)"
    private static let isBetas =
      "assert h.pread(524288, 0) == bytes(524288); "
      + "assert h.pread(2097152, 524288) == b'b' * 2097152"

    @Test(.needsPythonNBD, .needs("cmp"))
    func `B01 a split brain is found by both and ended by the recipe of DRBD`() throws {
      try withCluster(ClusterOptions(net: "ping-int 1;")) { cluster in
        let (alpha, beta) = (cluster.alpha, cluster.beta)
        try part(cluster)
        try expect(cluster, beta, "connect r0", 0)
        for node in cluster.nodes {
          try waitFor(cluster, node, "cstate r0", toSay: "StandAlone")
          try expect(cluster, node, "status r0", 0, "Split-Brain detected but unresolved")
          try expect(cluster, node, "status --json r0", 0, "\"split-brain\"")
          try expect(cluster, node, "split-brain r0", 0, "both were the same at")
        }
        try expect(cluster, alpha, "split-brain r0", 0, "1024 KiB in blocks that changed")
        try expect(cluster, alpha, "split-brain r0", 0, "2048 KiB in blocks that changed")
        try scriptNBD(cluster.uri(alpha), Self.isAlphas)
        try scriptNBD(cluster.uri(beta), Self.isBetas)

        // Another plain connect finds the split brain again.
        for node in cluster.nodes { try expect(cluster, node, "connect r0", 0) }
        for node in cluster.nodes { try waitFor(cluster, node, "cstate r0", toSay: "StandAlone") }

        for node in cluster.nodes { try expect(cluster, node, "disconnect r0", 0) }
        let holder = try BackgroundProcess(
          [
            "/usr/bin/python3", "-m", "nbd", "-u", cluster.uri(beta), "-c",
            "import time; time.sleep(600)",
          ],
          log: cluster.directory.appending(path: "holder.log"))
        try waitFor(cluster, beta, "status --verbose r0", toSay: "open:yes")
        try expect(
          cluster, beta, "secondary r0", 11,
          "State change failed: (-12) Device is held open by someone")
        holder.kill()
        try waitFor(cluster, beta, "status --verbose r0", toSay: "open:no")
        try expect(
          cluster, beta, "connect --discard-my-data r0", 10,
          "Failure: (123) --discard-my-data not allowed when primary.")
        try expect(cluster, beta, "secondary r0", 0)
        try expect(cluster, beta, "-- --discard-my-data connect r0", 0)
        try expect(cluster, beta, "cstate r0", 0, "WFConnection")
        try expect(cluster, alpha, "connect r0", 0)
        try cluster.waitForSync()

        #expect(beta.daemon?.text.contains("-> SyncTarget )") == true)
        try expect(cluster, alpha, "proc", 0, "ro:Primary/Secondary ds:UpToDate/UpToDate")
        try cluster.expectIdenticalDisks()
        try expect(cluster, alpha, "secondary r0", 0)
        try expect(cluster, beta, "primary r0", 0)
        try scriptNBD(cluster.uri(beta), Self.isAlphas)
      }
    }

    @Test(.needsPythonNBD)
    func `R24 a tentative connection tells the decision and changes nothing`() throws {
      try withCluster(ClusterOptions(net: "ping-int 1;")) { cluster in
        let (alpha, beta) = (cluster.alpha, cluster.beta)
        try expect(cluster, beta, "disconnect r0", 0)
        try scriptNBD(cluster.uri(alpha), "h.pwrite(b'a' * 1048576, 0); h.flush()")
        let before = try cluster.tell(beta, "get-gi", "r0")
        try expect(
          cluster, beta, "connect --tentative r0", 0,
          "r0: Sync from peer node, the blocks that differ (one side went on alone), "
            + "1024 KiB at most")
        try expect(cluster, beta, "cstate r0", 0, "StandAlone")
        #expect(try cluster.tell(beta, "get-gi", "r0") == before)
        try expect(cluster, beta, "connect r0", 0)
        try cluster.waitForSync()
        try cluster.expectIdenticalDisks()
      }
    }

    @Test(.needsPythonNBD)
    func `B05 a policy that both nodes have ends a split brain by itself`() throws {
      try withCluster(ClusterOptions(net: "ping-int 1; after-sb-1pri discard-secondary;")) {
        cluster in
        let (alpha, beta) = (cluster.alpha, cluster.beta)
        try part(cluster)
        try expect(cluster, beta, "secondary r0", 0)
        try expect(cluster, beta, "connect r0", 0)
        try cluster.waitForSync()
        try expect(cluster, beta, "status --verbose r0", 0, "an after-sb policy discards")
        try scriptNBD(cluster.uri(alpha), Self.isAlphas)
        try cluster.expectIdenticalDisks()
      }
    }

    @Test(.needsPythonNBD)
    func `handlers are called with DRBDs names and environment and may stop a resync`() throws {
      let directory = URL(filePath: "/var/tmp/ashlar-handlers-\(UUID().uuidString.prefix(8))")
      try FileManager.default.createDirectory(at: directory, withIntermediateDirectories: true)
      defer { try? FileManager.default.removeItem(at: directory) }
      let log = directory.appending(path: "log")
      let stop = directory.appending(path: "stop")
      let names = [
        "initial-split-brain", "split-brain", "before-resync-target", "after-resync-target",
      ]
      let handlers = names.map { name in
        let words = "\(name) $DRBD_RESOURCE/$DRBD_VOLUME $DRBD_PEER $DRBD_MY_NODE_ID"
        return "\(name) \"echo \(words) >> \(log.path); test ! -e \(stop.path)\";"
      }
      let net = "ping-int 1; } handlers { \(handlers.joined(separator: " "))"
      try withCluster(ClusterOptions(net: net)) { cluster in
        func calls() -> [String] {
          let text = (try? String(contentsOf: log, encoding: .utf8)) ?? ""
          return text.split(separator: "\n").map(String.init)
        }
        let (alpha, beta) = (cluster.alpha, cluster.beta)
        try waitUntil("the first resync is over for handlers, too", seconds: 10) {
          calls() == ["before-resync-target r0/0 alpha 1", "after-resync-target r0/0 alpha 1"]
        }
        try expect(cluster, beta, "disconnect r0", 0)
        try scriptNBD(cluster.uri(alpha), "h.pwrite(b'x' * 4096, 0)")
        try Data().write(to: stop)
        try expect(cluster, beta, "connect r0", 0)
        try waitFor(cluster, beta, "status r0", toSay: "the handler before-resync-target failed")
        try expect(cluster, beta, "cstate r0", 0, "StandAlone")
        try FileManager.default.removeItem(at: stop)
        try expect(cluster, beta, "connect r0", 0)
        try cluster.waitForSync()

        try part(cluster)
        try expect(cluster, beta, "connect r0", 0)
        try waitUntil("both sides call", seconds: 10) {
          let calls = Set(calls())
          return calls.isSuperset(of: [
            "initial-split-brain r0/0 beta 0", "split-brain r0/0 beta 0",
            "initial-split-brain r0/0 alpha 1", "split-brain r0/0 alpha 1",
          ])
        }
      }
    }

    /// B14: what the victim had is the undo file over what the survivor has.
    @Test(.needsPythonNBD, .needs("cmp"))
    func `B14 what a discard gives up can be had back from its undo file`() throws {
      try withCluster(ClusterOptions(net: "ping-int 1;")) { cluster in
        let (alpha, beta) = (cluster.alpha, cluster.beta)
        try part(cluster)
        try expect(cluster, beta, "connect r0", 0)
        for node in cluster.nodes { try waitFor(cluster, node, "cstate r0", toSay: "StandAlone") }
        try expect(cluster, beta, "secondary r0", 0)

        let dryRun = "-- --discard-my-data --dry-run connect r0"
        try expect(cluster, beta, dryRun, 0, "512 blocks of 4 KiB (2048 KiB), in 1 range")
        try expect(cluster, beta, dryRun, 0, "nothing was changed")
        try expect(cluster, beta, "cstate r0", 0, "StandAlone")
        try expect(cluster, beta, "undo list r0", 0)
        #expect(try cluster.tell(beta, "undo", "list", "r0") == "")

        let had = cluster.directory.appending(path: "had.img")
        try succeed("cp", "--sparse=always", beta.disk.path, had.path)
        try expect(cluster, beta, "-- --discard-my-data connect r0", 0)
        try expect(cluster, alpha, "connect r0", 0)
        try cluster.waitForSync()
        try cluster.expectIdenticalDisks()
        try scriptNBD(cluster.uri(alpha), Self.isAlphas)

        let listed = try cluster.tell(beta, "undo", "list", "r0")
        let file = try #require(listed.split(separator: " ").first.map(String.init))
        #expect(listed.contains("beta") && listed.contains("2048 KiB"), "\(listed)")
        try expect(cluster, beta, "undo show \(file)", 0, "524288 +")
        let volume = "\(cluster.bytes)"
        let back = cluster.directory.appending(path: "back.img")
        try succeed("cp", "--sparse=always", beta.disk.path, back.path)
        try expect(cluster, beta, "undo export \(file) --onto \(beta.disk.path)", 20, "in use")
        // With its metadata the copy could be a backing disk, which must not change behind it.
        try expect(cluster, beta, "undo export \(file) --onto \(back.path)", 1, "truncate -s")
        try succeed("truncate", "-s", volume, back.path)
        try expect(cluster, beta, "undo export \(file) --onto \(back.path)", 0, "2048 KiB")
        // Beta never had what alpha wrote from 0 on, but where beta wrote itself.
        try succeed("cmp", "--bytes=2097152", "--ignore-initial=524288", back.path, had.path)
        let alone = cluster.directory.appending(path: "alone.img")
        try expect(cluster, beta, "undo export \(file) --to \(alone.path)", 0)
        try succeed("cmp", "--bytes=\(volume)", alone.path, had.path)

        try expect(cluster, beta, "undo remove \(file)", 0)
        #expect(try cluster.tell(beta, "undo", "list", "r0") == "")
      }
    }

    @Test(.needsPythonNBD)
    func `B14 a discard that cannot be kept is refused and loses nothing`() throws {
      let options = ClusterOptions(net: "ping-int 1;", options: "undo-limit 1m;")
      try withCluster(options) { cluster in
        let (alpha, beta) = (cluster.alpha, cluster.beta)
        try part(cluster)
        try expect(cluster, beta, "connect r0", 0)
        for node in cluster.nodes { try waitFor(cluster, node, "cstate r0", toSay: "StandAlone") }
        try expect(cluster, beta, "secondary r0", 0)
        try expect(
          cluster, beta, "connect --discard-my-data --dry-run r0", 0, "may not fit undo-limit")
        try expect(cluster, beta, "connect --discard-my-data r0", 0)
        try expect(cluster, alpha, "connect r0", 0)
        try waitFor(cluster, beta, "status r0", toSay: "does not fit 'undo-limit'")
        try expect(cluster, beta, "cstate r0", 0, "StandAlone")
        try expect(cluster, beta, "split-brain r0", 0, "both were the same at")
        try expect(cluster, beta, "primary r0", 0)
        try scriptNBD(cluster.uri(beta), Self.isBetas)
        try expect(cluster, beta, "secondary r0", 0)
        #expect(try cluster.tell(beta, "undo", "list", "r0") == "")

        try expect(cluster, beta, "connect --discard-my-data --no-undo r0", 0)
        try cluster.waitForSync()
        try cluster.expectIdenticalDisks()
        #expect(try cluster.tell(beta, "undo", "list", "r0") == "")
      }
    }

    /// Alpha wrote less than beta, and both are Primary.
    private static let twoPrimaries =
      "ping-int 1; after-sb-0pri discard-least-changes; after-sb-2pri call-pri-lost-after-sb;"

    @Test(.needsPythonNBD)
    func `B06 a Primary that a policy names gives up its role, then its data, which is kept`()
      throws
    {
      try withCluster(ClusterOptions(net: Self.twoPrimaries)) { cluster in
        let (alpha, beta) = (cluster.alpha, cluster.beta)
        try part(cluster)
        try expect(cluster, beta, "connect r0", 0)
        try cluster.waitForSync()
        try expect(cluster, alpha, "role r0", 0, "Secondary")
        try expect(cluster, beta, "role r0", 0, "Primary")
        try scriptNBD(cluster.uri(beta), Self.isBetas)
        try cluster.expectIdenticalDisks()
        let listed = try cluster.tell(alpha, "undo", "list", "r0")
        #expect(listed.contains("  alpha  ") && listed.contains("1024 KiB"), "\(listed)")
        #expect(!listed.contains("  beta  "))
      }
    }

    @Test(.needsPythonNBD)
    func `B06 a Primary that is held open keeps its role and its data`() throws {
      try withCluster(ClusterOptions(net: Self.twoPrimaries)) { cluster in
        let (alpha, beta) = (cluster.alpha, cluster.beta)
        try part(cluster)
        let holder = try BackgroundProcess(
          [
            "/usr/bin/python3", "-m", "nbd", "-u", cluster.uri(alpha), "-c",
            "import time; time.sleep(600)",
          ],
          log: cluster.directory.appending(path: "holder.log"))
        defer { holder.kill() }
        try waitFor(cluster, alpha, "status --verbose r0", toSay: "open:yes")
        try expect(cluster, beta, "connect r0", 0)
        try waitFor(cluster, alpha, "status r0", toSay: "a client holds it open")
        try expect(cluster, alpha, "cstate r0", 0, "StandAlone")
        for node in cluster.nodes { try expect(cluster, node, "role r0", 0, "Primary") }
        try scriptNBD(cluster.uri(alpha), Self.isAlphas)
        try scriptNBD(cluster.uri(beta), Self.isBetas)
        #expect(try cluster.tell(alpha, "undo", "list", "r0") == "")
      }
    }

    @Test func `events2 lists what there is and then every change in order`() throws {
      try withCluster(ClusterOptions(net: "ping-int 1;")) { cluster in
        let (alpha, beta) = (cluster.alpha, cluster.beta)
        try expect(
          cluster, alpha, "events2 --now", 0,
          """
          exists resource name:r0 role:Primary suspended:no
          exists connection name:r0 peer-node-id:1 conn-name:beta connection:Connected \
          role:Secondary
          exists device name:r0 volume:0 minor:0 disk:UpToDate
          exists peer-device name:r0 peer-node-id:1 conn-name:beta volume:0 \
          replication:Established peer-disk:UpToDate resync-suspended:no
          exists -
          """)
        let program = Machine.programs.appending(path: "ashlaradm").path
        let watcher = try BackgroundProcess(
          [
            program, "--node", "alpha", "--run-dir", cluster.runDirectory.path, "--config",
            cluster.directory.appending(path: "ashlar.conf").path, "events2",
          ], log: cluster.directory.appending(path: "events.log"))
        defer { watcher.kill() }
        try waitUntil("it lists", seconds: 10) { watcher.text.contains("exists -") }
        try expect(cluster, beta, "disconnect r0", 0)
        try waitFor(cluster, alpha, "cstate r0", toSay: "WFConnection")
        try expect(cluster, alpha, "secondary r0", 0)
        try expect(cluster, alpha, "down r0", 0)
        try waitUntil("it tells the end", seconds: 10) {
          watcher.text.contains("destroy resource name:r0")
        }
        let lines = watcher.text.split(separator: "\n").map(String.init)
        let key = "name:r0 peer-node-id:1 conn-name:beta"
        let expected = [
          "exists -",
          "change connection \(key) connection:Connecting "
            + "reason:\"the peer disconnected on request\"",
          "change peer-device \(key) volume:0 replication:Off",
          "change connection \(key) role:Unknown",
          "change peer-device \(key) volume:0 peer-disk:DUnknown",
          "change resource name:r0 role:Secondary",
          "destroy peer-device \(key) volume:0", "destroy device name:r0 volume:0 minor:0",
          "destroy connection \(key)", "destroy resource name:r0",
        ]
        var rest = expected[...]
        for line in lines where line == rest.first { rest = rest.dropFirst() }
        #expect(rest.isEmpty, "missing in this order: \(rest) in\n\(watcher.text)")
      }
    }
  }
}
