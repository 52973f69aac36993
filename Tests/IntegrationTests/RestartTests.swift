/// Which role a daemon comes back with, and what it brings up.
import Foundation
import Testing

extension Integration {
  @Suite struct Restarts {
    @Test(.needsPythonNBD)
    func `a Primary that was stopped cleanly comes back as Secondary`() throws {
      try withCluster { cluster in
        let alpha = cluster.alpha
        try scriptNBD(cluster.uri(alpha), "h.pwrite(b'x' * 4096, 0)")
        try cluster.stop(alpha)
        try cluster.start(alpha)
        try cluster.waitForSync()
        try cluster.expectRole(alpha, "Secondary/Secondary")
        // Nor is it remembered for later: as Secondary it may be killed.
        try cluster.kill(alpha)
        try cluster.start(alpha)
        try cluster.waitForSync()
        try cluster.expectRole(alpha, "Secondary/Secondary")
        try cluster.promote(cluster.beta)
      }
    }

    @Test(.needsPythonNBD, .needs("flock"))
    func `a Primary that was killed takes its role up again`() throws {
      try withCluster { cluster in
        let alpha = cluster.alpha
        try scriptNBD(cluster.uri(alpha), "h.pwrite(b'x' * 4096, 0)")
        try cluster.kill(alpha)
        try cluster.start(alpha)
        try waitUntil("alpha is Primary again", explanation: cluster.state) {
          try cluster.tell(alpha, "role", cluster.resource) == "Primary/Secondary"
        }
        try cluster.waitForSync()
      }
    }

    @Test(.needs("flock"))
    func `what was up is up again after a restart of the machine, and Secondary`() throws {
      let state = URL(filePath: "/var/tmp/ashlar-state-\(UUID().uuidString.prefix(8))")
      defer { try? FileManager.default.removeItem(at: state) }
      try withCluster(ClusterOptions(daemon: ["--state-dir", state.path])) { cluster in
        for node in cluster.nodes { try cluster.kill(node) }
        // As after a start of the machine: the run directory is empty, the boot another one.
        try FileManager.default.removeItem(at: cluster.runDirectory)
        for node in cluster.nodes {
          let file = state.appending(path: "up-\(node.name).json")
          let list = try JSONSerialization.jsonObject(with: Data(contentsOf: file))
          var changed = try #require(list as? [String: Any])
          #expect(changed["boot"] is String)
          changed["boot"] = "another"
          try JSONSerialization.data(withJSONObject: changed).write(to: file)
        }
        for node in cluster.nodes { try cluster.start(node) }
        try cluster.waitForSync()
        try cluster.expectRole(cluster.alpha, "Secondary/Secondary")
        try cluster.promote(cluster.alpha)
      }
    }

    @Test(.needsPythonNBD, .needs("flock", "cmp"))
    func `a Primary that was killed does not when its peer wrote meanwhile`() throws {
      try withCluster { cluster in
        let (alpha, beta) = (cluster.alpha, cluster.beta)
        try scriptNBD(cluster.uri(alpha), "h.pwrite(b'x' * 1048576, 0)")
        try cluster.kill(alpha)
        try cluster.promote(beta)
        try scriptNBD(cluster.uri(beta), "h.pwrite(b'y' * 1048576, 524288)")
        try cluster.tell(beta, "secondary", cluster.resource)
        try cluster.start(alpha)
        try cluster.waitForSync()
        try cluster.expectRole(alpha, "Secondary/Secondary")
        try cluster.expectIdenticalDisks()
        // What was written is what beta knows: it goes on from there.
        try cluster.promote(beta)
        let check = "assert h.pread(1572864, 0) == b'x' * 524288 + b'y' * 1048576"
        try scriptNBD(cluster.uri(beta), check)
      }
    }
  }
}

extension Cluster {
  /// Both roles, as the node sees them, now and a while later.
  func expectRole(
    _ node: ClusterNode, _ roles: String, sourceLocation: SourceLocation = #_sourceLocation
  ) throws {
    for _ in 0..<5 {
      let seen = try tell(node, "role", resource)
      #expect(seen == roles, sourceLocation: sourceLocation)
      usleep(200_000)
    }
  }
}
