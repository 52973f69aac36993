/// An administrator's day with two real daemons: each command's exit code, words and effect.
import Foundation
import Testing

extension Integration {
  @Suite struct Administration {
    /// One command: how it ends and a part of what it says; no words means that it is silent.
    private func expect(
      _ cluster: Cluster, _ node: ClusterNode, _ command: String, _ status: Int32,
      _ words: String? = nil, sourceLocation: SourceLocation = #_sourceLocation
    ) throws {
      let arguments = command.split(separator: " ").map(String.init)
      let output = try cluster.ask(node, arguments)
      #expect(output.status == status, "\(output)", sourceLocation: sourceLocation)
      let isExpected = words.map { output.text.contains($0) } ?? output.text.isEmpty
      #expect(isExpected, "\(output)", sourceLocation: sourceLocation)
    }

    @Test(.needs("nbdinfo"))
    func `refusals have the words and codes of drbdadm`() throws {
      try withCluster { cluster in
        let (alpha, beta) = (cluster.alpha, cluster.beta)
        try expect(cluster, beta, "primary r0", 11, "(-1) Multiple primaries not allowed")
        try expect(cluster, alpha, "up r0", 10, "adjust r0")
        try expect(cluster, alpha, "attach r0", 10, "(124) Device is attached to a disk")
        try expect(cluster, alpha, "create-md --force r0", 20, "Device 'r0/0' is configured!")
        try expect(cluster, alpha, "dump-md r0", 20, "run 'ashlaradm down r0' first")
        try expect(cluster, alpha, "up nosuch", 1, "'nosuch' not defined in your config")
        try expect(cluster, alpha, "role r0", 0, "Primary/Secondary\n")
        try expect(cluster, beta, "role r0", 0, "Secondary/Primary\n")
        try expect(cluster, alpha, "cstate r0", 0, "Connected\n")
        try expect(cluster, alpha, "dstate r0", 0, "UpToDate/UpToDate\n")
        try expect(cluster, alpha, "proc", 0, "cs:Connected ro:Primary/Secondary")
      }
    }

    @Test(.needs("nbdinfo"))
    func `R03 the first sync of two fresh disks is skipped`() throws {
      var options = ClusterOptions()
      options.others = [("r1", "")]
      try withCluster(options) { cluster in
        for node in cluster.nodes {
          try cluster.tell(node, "create-md", "--force", "r1")
          try expect(cluster, node, "up r1", 0)
        }
        try expect(cluster, cluster.alpha, "wait-connect -t 300 r1", 0)
        try expect(cluster, cluster.alpha, "new-current-uuid r1", 1, "needs --clear-bitmap")
        try expect(cluster, cluster.alpha, "-- --clear-bitmap new-current-uuid r1", 0)
        try waitUntil("both are UpToDate", explanation: cluster.state) {
          try cluster.tell(cluster.beta, "dstate", "r1") == "UpToDate/UpToDate"
        }
        try expect(cluster, cluster.beta, "new-current-uuid --clear-bitmap r1", 10, "(140)")
        try expect(cluster, cluster.beta, "primary r1", 0)
        try expect(cluster, cluster.beta, "dstate r1", 0, "UpToDate/UpToDate\n")
        let text = cluster.beta.daemon?.text ?? ""
        #expect(!text.contains("r1 alpha: repl( Established -> SyncTarget )"), "\(text)")
        #expect(!text.contains("r1 alpha: Resync done"), "\(text)")
      }
    }

    @Test(.needs("nbdinfo"))
    func `a connection is cut, waited for in vain and made again`() throws {
      try withCluster { cluster in
        let alpha = cluster.alpha
        try expect(cluster, alpha, "disconnect r0", 0)
        try expect(cluster, alpha, "cstate r0", 0, "StandAlone\n")
        try expect(cluster, alpha, "dstate r0", 0, "UpToDate/DUnknown\n")
        try expect(cluster, alpha, "wait-connect -t 300 r0", 5, "run 'ashlaradm connect r0'")
        try expect(cluster, alpha, "-d adjust r0", 0, "ashlard connect r0")
        try expect(cluster, alpha, "adjust r0", 0)
        try expect(cluster, alpha, "wait-sync -t 300 r0", 0)
        try expect(cluster, alpha, "-d adjust r0", 0)
        try cluster.expectIdenticalDisks()
      }
    }

    @Test(.needs("nbdinfo"))
    func `a volume is taken down on both nodes and comes back with its roles free`() throws {
      try withCluster { cluster in
        let (alpha, beta) = (cluster.alpha, cluster.beta)
        try expect(cluster, alpha, "secondary r0", 0)
        for node in cluster.nodes {
          try expect(cluster, node, "down r0", 0)
          try expect(cluster, node, "down r0", 0)
          try expect(cluster, node, "status r0", 10, "r0: No such resource")
          try expect(cluster, node, "dump-md r0", 0, "disk-state UpToDate;")
          try expect(cluster, node, "create-md r0", 1, "Do you really want to overwrite")
        }
        for node in cluster.nodes { try expect(cluster, node, "up r0", 0) }
        try expect(cluster, beta, "wait-sync -t 300 r0", 0)
        try expect(cluster, beta, "primary r0", 0)
        try expect(cluster, alpha, "role r0", 0, "Secondary/Primary\n")
        try expect(cluster, alpha, "invalidate r0", 0)
        try expect(cluster, alpha, "wait-sync -t 300 r0", 0)
        try cluster.expectIdenticalDisks()
      }
    }
  }
}
