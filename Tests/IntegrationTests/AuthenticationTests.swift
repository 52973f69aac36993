/// Real daemons with a secret and with integrity: everything works over a guarded connection, who
/// does not know the secret is refused on both sides with the reason, the right one heals it, and
/// no bit that flips on the way reaches a disk.
import Foundation
import Testing

private func guarded(
  _ secret: String, integrity: String, _ more: String = slowMachine
) -> String {
  "\(more) cram-hmac-alg sha256; shared-secret \"\(secret)\"; data-integrity-alg \(integrity);"
}

/// Comes back soon after a connection was closed, and cuts none because the machine is slow.
private let quickReturn = "ping-int 1; ping-timeout 300; timeout 9; ko-count 200; connect-int 1;"

extension Integration {
  @Suite struct Authentication {
    private func waitFor(
      _ cluster: Cluster, _ node: ClusterNode, toSay words: String
    ) throws {
      try waitUntil("\(node.name): status: \(words)", explanation: cluster.state) {
        try cluster.ask(node, "status", "r0").text.contains(words)
      }
    }

    /// Writes, resyncs, reads through the peer, compares and repairs.
    @Test(.needsPythonNBD, .needs("cmp"), arguments: ["crc32c", "xxh3-128", "sha256"])
    func `everything goes over a guarded connection`(integrity: String) throws {
      let net = guarded("one", integrity: integrity, quickReturn + " verify-alg xxh3-128;")
      try withCluster(ClusterOptions(net: net + " csums-alg xxh3-128;")) { cluster in
        let (alpha, beta) = (cluster.alpha, cluster.beta)
        let uri = try cluster.uri(alpha)
        try scriptNBD(uri, "h.pwrite(b'a' * 3145728, 4096); h.flush()")
        try cluster.tell(beta, "disconnect", "r0")
        try cluster.waitForLoss(at: alpha)
        try scriptNBD(uri, "h.pwrite(b'b' * 1048576, 65536); h.flush()")
        try cluster.tell(beta, "connect", "r0")
        try cluster.waitForSync()

        try cluster.tell(alpha, "detach", "r0")
        try scriptNBD(
          uri,
          "assert h.pread(1048576, 65536) == b'b' * 1048576; h.pwrite(b'c' * 1048576, 131072)")
        try cluster.attach(alpha)
        try cluster.waitForSync()

        try cluster.tell(
          alpha, "verify", "--repair", "--from", beta.name, cluster.resource)
        try waitUntil("the verify is done", explanation: cluster.state) {
          alpha.daemon?.text.contains("Online verify done") == true
        }
        try cluster.waitForSync()
        try cluster.expectIdenticalDisks()
        for node in cluster.nodes {
          #expect(node.daemon?.text.contains("FAILED") == false)
        }
      }
    }

    /// V08.
    @Test(.needsPythonNBD, .needs("cmp"), arguments: ["crc32c", "xxh3-128", "sha256"])
    func `no bit that flips on the way reaches a disk`(integrity: String) throws {
      var options = ClusterOptions(net: guarded("one", integrity: integrity, quickReturn))
      options.bytesPerFlip = 8 << 20
      try withCluster(options) { cluster in
        let flips = {
          (cluster.rottenWire?.text ?? "").split(separator: "\n").count { $0.contains("flipped") }
        }
        let before = flips()
        let writer = Writer(cluster: cluster)
        let load = try writer.start(at: cluster.alpha, seed: 1)
        try waitUntil("bits were flipped", explanation: cluster.state) { flips() >= before + 6 }
        try writer.stop(load)
        try cluster.waitForSync()
        try writer.verify(at: cluster.alpha)
        try cluster.waitForSync()
        try cluster.expectIdenticalDisks()
        let logs = cluster.nodes.map { $0.daemon?.text ?? "" }.joined()
        #expect(logs.contains("Digest integrity check FAILED"))
      }
    }

    @Test(.needsPythonNBD, .needs("cmp"))
    func `a wrong secret is refused by both with the reason, and the right one heals it`() throws {
      let first = guarded("one", integrity: "sha256", quickReturn)
      let second = guarded("another-one", integrity: "sha256", quickReturn)
      try withCluster(ClusterOptions(net: first)) { cluster in
        let (alpha, beta) = (cluster.alpha, cluster.beta)
        func change(_ node: ClusterNode, to net: String) throws {
          try cluster.configure(node, net: net)
          try cluster.tell(node, "adjust", "r0")
        }
        for net in [second, quickReturn] {
          try change(beta, to: net)
          try cluster.tell(beta, "disconnect", "r0")
          try cluster.waitForLoss(at: alpha)
          try cluster.tell(beta, "connect", "r0")
          for node in cluster.nodes {
            try waitFor(cluster, node, toSay: "Authentication of peer failed")
            #expect(try cluster.connection(node) == "WFConnection")
          }
        }
        try scriptNBD(cluster.uri(alpha), "h.pwrite(b'c' * 1048576, 0); h.flush()")
        for node in cluster.nodes { try change(node, to: second) }
        try cluster.waitForSync()
        try cluster.expectIdenticalDisks()
        for node in cluster.nodes {
          let log = node.daemon?.text ?? ""
          #expect(log.contains("Authentication of peer failed"))
          #expect(!log.contains("another-one"), "the secret is in the log")
          for question in [["status", "--json"], ["status", "--verbose"], ["events2", "--now"]] {
            let answer = try cluster.ask(node, question + ["r0"]).text
            #expect(!answer.contains("another-one"), "\(question)")
          }
        }
        #expect(try cluster.tell(beta, "dump", "r0").contains("another-one"))
      }
    }

    @Test func `a file with a secret that everybody can read gives a warning`() throws {
      try withCluster(ClusterOptions(net: guarded("one", integrity: "crc32c"))) { cluster in
        let file = cluster.configuration(cluster.alpha).path
        #expect(try !cluster.ask(cluster.alpha, "adjust", "r0").text.contains("chmod"))
        try succeed("chmod", "644", file)
        let warned = try cluster.ask(cluster.alpha, "adjust", "r0")
        #expect(warned.status == 0)
        #expect(warned.text.contains("chmod o-r \(file)"), "\(warned)")
        #expect(!warned.text.contains("one\""))
      }
    }
  }
}
