/// Online verify with real daemons: bytes of one backing file are changed behind Ashlar's back.
import Foundation
import Testing

extension Integration {
  @Suite struct Verifies {
    /// V01, V02, V05: exact places, nothing else, under a writer that works elsewhere; then a
    /// reconnect copies what differs and no more.
    @Test(.needsPythonNBD, .needs("cmp"))
    func `verify finds exactly what was changed on one disk and a reconnect mends it`() throws {
      try withCluster(ClusterOptions(net: slowMachine + " verify-alg crc32c;")) { cluster in
        let uri = try cluster.uri(cluster.alpha)
        try scriptNBD(uri, "h.pwrite(bytes(range(256)) * 8192, 0)")
        try cluster.tell(cluster.alpha, "verify", cluster.resource)
        try cluster.waitForVerify(on: cluster.alpha, count: 1)
        #expect(cluster.reported(by: cluster.alpha).isEmpty)

        // One bit in a block, two blocks side by side, the last block.
        let last = cluster.bytes / 4096 - 1
        try cluster.flip(cluster.beta, bytes: [1000 * 4096 + 77, 500 * 4096, 501 * 4096 + 4095])
        try cluster.flip(cluster.beta, bytes: [last * 4096])
        try cluster.tell(cluster.alpha, "verify", "--start", "8000s", cluster.resource)
        try cluster.waitForVerify(on: cluster.alpha, count: 2)
        #expect(
          cluster.reported(by: cluster.alpha) == ["8000+8", "\(last * 8)+8"], "from --start on")
        try cluster.tell(cluster.beta, "verify", "--stop", "4008", cluster.resource)
        try cluster.waitForVerify(on: cluster.beta, count: 1)
        #expect(cluster.reported(by: cluster.beta) == ["4000+8"], "up to --stop")
        try cluster.tell(cluster.beta, "verify", cluster.resource)
        try cluster.waitForVerify(on: cluster.beta, count: 2)
        #expect(
          cluster.reported(by: cluster.beta) == ["4000+8", "4000+16", "8000+8", "\(last * 8)+8"])
        for node in cluster.nodes {
          let text = try cluster.tell(node, "status", "--statistics", "--verbose", cluster.resource)
          #expect(text.contains("out-of-sync:16"), "\(text)")
        }

        try cluster.tell(cluster.beta, "disconnect", cluster.resource)
        try cluster.tell(cluster.beta, "connect", cluster.resource)
        try cluster.waitForSync()
        try cluster.expectIdenticalDisks()
        #expect(cluster.beta.text.contains("Resync done (16 KiB)"))
      }
    }

    /// V01: a busy volume, verified from either side again and again, has no differences.
    @Test(.needs("fio"))
    func `verify finds nothing under load where nothing differs`() throws {
      try withCluster(ClusterOptions(net: slowMachine + " verify-alg xxh3-128;")) { cluster in
        let load = try BackgroundProcess(
          [
            "fio", "--name=load", "--ioengine=nbd", "--uri=\(cluster.uri(cluster.alpha))",
            "--rw=randwrite", "--bs=4k", "--iodepth=16", "--size=48m", "--time_based",
            "--runtime=6", "--refill_buffers",
          ], log: cluster.directory.appending(path: "fio.log"))
        for round in 1...3 {
          for node in cluster.nodes {
            try cluster.tell(node, "verify", cluster.resource)
            try cluster.waitForVerify(on: node, count: round)
          }
        }
        #expect(try load.wait() == 0, "\(load.text)")
        for node in cluster.nodes { #expect(cluster.reported(by: node).isEmpty) }
        try cluster.expectIdenticalDisks()
      }
    }

    /// V03: what rotted on the Primary's disk comes back from the Secondary; then the other way
    /// round, in two steps, led by the Secondary.
    @Test(.needsPythonNBD, .needs("cmp"))
    func `repair copies exactly what differs from the side that is named`() throws {
      try withCluster(ClusterOptions(net: slowMachine + " verify-alg xxh3-128;")) { cluster in
        let (alpha, beta) = (cluster.alpha, cluster.beta)
        let uri = try cluster.uri(alpha)
        try scriptNBD(uri, "h.pwrite(bytes(range(256)) * 8192, 0)")
        try cluster.flip(alpha, bytes: [100 * 4096 + 5, 101 * 4096])
        let refused = try cluster.ask(
          alpha, "verify", "--repair", "--from", "gamma", cluster.resource)
        #expect(refused.status == 10 && refused.text.contains("there is no node 'gamma'"))
        try cluster.tell(alpha, "verify", "--repair", "--from", beta.name, cluster.resource)
        try cluster.waitForVerify(on: alpha, count: 1)
        #expect(cluster.reported(by: alpha) == ["800+16"])
        #expect(cluster.repaired(by: alpha) == ["800+16"])
        try scriptNBD(uri, "assert h.pread(8192, 100 * 4096) == bytes(range(256)) * 32")

        try cluster.flip(beta, bytes: [300 * 4096])
        try cluster.tell(beta, "verify", cluster.resource)
        try cluster.waitForVerify(on: beta, count: 1)
        for node in cluster.nodes {
          let text = try cluster.tell(node, "status", cluster.resource)
          #expect(text.contains("verify --repair --marked --from NODE"), "\(text)")
        }
        let outlook = try cluster.tell(
          beta, "verify", "--repair", "--marked", "--from", alpha.name, "--dry-run",
          cluster.resource)
        #expect(
          outlook == """
            r0: 1 range, 4 KiB, would be copied from alpha to beta:
              start=2400, size=8 (sectors)
            nothing was changed
            """)
        #expect(cluster.repaired(by: beta) == ["800+16"])
        try cluster.tell(
          beta, "verify", "--repair", "--marked", "--from", alpha.name, cluster.resource)
        try cluster.waitForVerify(on: beta, count: 2)
        #expect(cluster.repaired(by: beta) == ["800+16", "2400+8"])
        for node in cluster.nodes {
          let text = try cluster.tell(node, "status", "--statistics", "--verbose", cluster.resource)
          #expect(text.contains("out-of-sync:0"), "\(text)")
        }
        try cluster.expectIdenticalDisks()
      }
    }

    /// S19: a crash makes whole extents suspect; digests spare the copy of what is equal.
    @Test(.needsPythonNBD, .needs("cmp"))
    func `a resync by checksum copies only what differs`() throws {
      try withCluster(ClusterOptions(net: slowMachine + " csums-alg xxh3-128;")) { cluster in
        let uri = try cluster.uri(cluster.alpha)
        try scriptNBD(uri, "h.pwrite(bytes(range(256)) * 8192, 0)")
        try cluster.kill(cluster.beta)
        try cluster.waitForLoss(at: cluster.alpha)
        try scriptNBD(uri, "h.pwrite(b'x' * 4096, 8192)")
        try cluster.start(cluster.beta)
        try cluster.waitForSync()
        try cluster.expectIdenticalDisks()
        #expect(cluster.alpha.text.contains("had equal checksums, eliminated:"))
        #expect(cluster.alpha.text.contains("transferred 4K total"))
      }
    }

    @Test func `verify without an algorithm is refused with the words of DRBD`() throws {
      try withCluster { cluster in
        let output = try cluster.ask(cluster.alpha, "verify", cluster.resource)
        #expect(output.status == 11)
        #expect(
          output.text.contains(
            "State change failed: (-14) Need a verify algorithm to start online verify"))
      }
    }
  }
}

extension ClusterNode {
  /// What all of the node's daemons have logged.
  fileprivate var text: String {
    logs.compactMap { try? String(contentsOf: $0, encoding: .utf8) }.joined()
  }
}

extension Cluster {
  /// Waits until `count` verifies that began on a node have ended.
  fileprivate func waitForVerify(on node: ClusterNode, count: Int) throws {
    try waitUntil("verify \(count) on \(node.name) is done", explanation: state) {
      node.text.components(separatedBy: "Online verify done").count > count
    }
  }

  /// "start+size" of each range that a node reported, in sectors.
  fileprivate func reported(by node: ClusterNode) -> [String] {
    node.text.matches(of: /Out of sync: start=(\d+), size=(\d+) \(sectors\)/)
      .map { "\($0.1)+\($0.2)" }
  }

  /// "start+size" of each range that was repaired, in sectors.
  fileprivate func repaired(by node: ClusterNode) -> [String] {
    node.text.matches(of: /Repaired: start=(\d+), size=(\d+) \(sectors\)/)
      .map { "\($0.1)+\($0.2)" }
  }

  /// Flips the lowest bit of bytes of a node's backing file, past its page cache as a disk would.
  fileprivate func flip(_ node: ClusterNode, bytes: [Int]) throws {
    let file = try FileHandle(forUpdating: node.disk)
    defer { try? file.close() }
    for offset in bytes {
      try file.seek(toOffset: UInt64(offset))
      guard let byte = try file.read(upToCount: 1)?.first else { throw Failure("a short disk") }
      try file.seek(toOffset: UInt64(offset))
      try file.write(contentsOf: Data([byte ^ 1]))
    }
    try file.synchronize()
  }
}
