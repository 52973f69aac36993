/// A dead disk is replaced, step by step, while a client writes: detach, a new disk in its place,
/// `create-md`, `attach`, and it is filled from the peer.
import Foundation
import Testing

extension Integration {
  @Suite struct DiskReplacement {
    @Test(.needsPythonNBD, .needs("cmp"))
    func `a disk is replaced by one with another path: the old one is not touched again`() throws {
      try withCluster { cluster in
        let beta = cluster.beta
        let old = beta.disk
        try scriptNBD(cluster.uri(cluster.alpha), "h.pwrite(b'x' * 1048576, 0)")
        try cluster.tell(beta, "detach", cluster.resource)
        try moveDisk(of: beta, in: cluster)
        let before = try Data(contentsOf: old)
        // As docs/operations.md says it.
        try cluster.tell(beta, "create-md", "--force", cluster.resource)
        try cluster.tell(beta, "adjust", cluster.resource)
        try cluster.waitForSync()
        #expect(try cluster.tell(beta, "adjust", "-d", cluster.resource) == "")
        #expect(try cluster.tell(cluster.alpha, "adjust", "-d", cluster.resource) == "")
        try scriptNBD(cluster.uri(cluster.alpha), "h.pwrite(b'y' * 1048576, 4096)")
        try cluster.expectIdenticalDisks()
        #expect(try Data(contentsOf: old) == before)
        // A healthy one is let go of by adjust.
        try moveDisk(of: beta, in: cluster)
        let output = try cluster.ask(beta, "adjust", cluster.resource)
        #expect(output.text.contains("No valid meta data found"), "\(output)")
        #expect(try cluster.diskState(beta) == "Diskless")
        try cluster.tell(beta, "create-md", "--force", cluster.resource)
        try cluster.attach(beta)
        let status = try cluster.tell(beta, "status", "--json", cluster.resource)
        #expect(status.contains(beta.disk.lastPathComponent), "\(status)")
        try cluster.waitForSync()
        try cluster.expectIdenticalDisks()
      }
    }

    @Test func `a changed address is refused by adjust, and nothing is changed`() throws {
      try withCluster { cluster in
        let file = cluster.configuration(cluster.beta)
        let text = try String(contentsOf: file, encoding: .utf8)
        let port = try #require(cluster.beta.address.split(separator: ":").last)
        let changed = text.replacing("127.0.0.1:\(port)", with: "127.0.0.2:\(port)")
        try changed.write(to: file, atomically: true, encoding: .utf8)
        for node in cluster.nodes {
          let output = try cluster.ask(node, "adjust", cluster.resource)
          #expect(output.status == 10, "\(output)")
          #expect(output.text.contains("down \(cluster.resource)"), "\(output)")
          #expect(try cluster.connection(node) == "Connected")
        }
        // What it says to do does it.
        try cluster.tell(cluster.alpha, "secondary", cluster.resource)
        for node in cluster.nodes { try cluster.tell(node, "down", cluster.resource) }
        for node in cluster.nodes { try cluster.tell(node, "up", cluster.resource) }
        try cluster.waitForSync()
        let status = try cluster.tell(cluster.alpha, "status", "--json", cluster.resource)
        #expect(status.contains("127.0.0.2"), "\(status)")
      }
    }

    @Test(.needsPythonNBD, .needs("cmp"))
    func `the Primary's disk is replaced: clients notice nothing`() throws {
      try replace("alpha")
    }

    @Test(.needsPythonNBD, .needs("cmp"))
    func `the Secondary's disk is replaced: clients notice nothing`() throws {
      try replace("beta")
    }

    @Test func `a disk that became shorter is refused with the reason`() throws {
      try withCluster { cluster in
        try cluster.tell(cluster.beta, "down", cluster.resource)
        try succeed("truncate", "-s", "32M", cluster.beta.disk.path)
        let output = try cluster.ask(cluster.beta, "up", cluster.resource)
        #expect(output.status != 0)
        #expect(output.text.contains("No valid meta data found"), "\(output)")
        #expect(output.text.contains("restore its old size first"), "\(output)")
        #expect(cluster.beta.daemon?.isRunning == true)
      }
    }

    @Test(.needsPythonNBD, .needs("cmp"))
    func `a disk that became longer is refused with the way back, which loses nothing`() throws {
      try withCluster { cluster in
        try cluster.tell(cluster.beta, "down", cluster.resource)
        try succeed("truncate", "-s", "96M", cluster.beta.disk.path)
        let output = try cluster.ask(cluster.beta, "up", cluster.resource)
        #expect(output.status == 1, "\(output)")
        #expect(output.text.contains("No valid meta data found"), "\(output)")
        #expect(output.text.contains("restore its old size first"), "\(output)")
        try scriptNBD(cluster.uri(cluster.alpha), "h.pwrite(b'x' * 4096, 0)")
        try succeed("truncate", "-s", "64M", cluster.beta.disk.path)
        try cluster.tell(cluster.beta, "up", cluster.resource)
        try cluster.waitForSync()
        try cluster.expectIdenticalDisks()
      }
    }

    @Test(.needs("prlimit"))
    func `C14: a volume whose bitmaps do not fit the memory is refused, and nothing else ends`()
      throws
    {
      var options = ClusterOptions()
      options.others = [("r1", "")]
      try withCluster(options) { cluster in
        // 8 TiB, a bitmap of 256 MiB.
        let disk = cluster.directory.appending(path: "r1-alpha.img").path
        try succeed("truncate", "-s", "8T", disk)
        try cluster.tell(cluster.alpha, "create-md", "--force", "r1")
        let daemon = "\(try #require(cluster.alpha.daemon).processID)"
        let status = try String(contentsOfFile: "/proc/\(daemon)/status", encoding: .utf8)
        let taken = try #require(status.firstMatch(of: /VmSize:\s+(\d+) kB/)?.1)
        let limit = try #require(Int(taken)) * 1024 + (200 << 20)
        try succeed("prlimit", "--pid", daemon, "--as=\(limit):")
        let refused = try cluster.ask(cluster.alpha, "up", "r1")
        #expect(refused.status == 10 && refused.text.contains("(122)"), "\(refused)")
        #expect(refused.text.contains("256 MiB of memory"), "\(refused)")
        try cluster.waitForSync()
        try succeed("prlimit", "--pid", daemon, "--as=unlimited:")
        try cluster.tell(cluster.alpha, "up", "r1")
        #expect(try cluster.tell(cluster.alpha, "dstate", "r1").hasPrefix("Inconsistent"))
      }
    }

    @Test func `a Primary without its peer keeps its disk`() throws {
      try withCluster { cluster in
        try cluster.tell(cluster.beta, "down", cluster.resource)
        try cluster.waitForLoss(at: cluster.alpha)
        let output = try cluster.ask(cluster.alpha, "detach", cluster.resource)
        #expect(output.status != 0)
        #expect(try cluster.diskState(cluster.alpha) == "UpToDate")
      }
    }
  }
}

/// Gives a node an empty disk with another path, in the configuration of both.
private func moveDisk(of node: ClusterNode, in cluster: Cluster) throws {
  let new = cluster.directory.appending(path: "\(node.disk.lastPathComponent).new")
  try succeed("truncate", "-s", "64M", new.path)
  node.disk = new
  try cluster.configure(node, net: slowMachine)
}

private func replace(_ name: String) throws {
  try withCluster { cluster in
    let victim = name == "alpha" ? cluster.alpha : cluster.beta
    let writer = Writer(cluster: cluster)
    let load = try writer.start(at: cluster.alpha, seed: 1)
    try cluster.tell(victim, "detach", cluster.resource)
    #expect(try cluster.diskState(victim) == "Diskless")
    // The old one is gone for good.
    try succeed("rm", victim.disk.path)
    try succeed("truncate", "-s", "64M", victim.disk.path)
    try cluster.tell(victim, "create-md", "--force", cluster.resource)
    try cluster.attach(victim)
    try cluster.waitForSync()
    guard load.isRunning else { throw Failure("the client noticed\n\(load.text)") }
    try writer.stop(load)
    try writer.verify(at: cluster.alpha)
    try cluster.waitForSync()
    try cluster.expectIdenticalDisks()
    // The new disk is as good as the other one.
    try cluster.tell(cluster.alpha, "secondary", cluster.resource)
    try cluster.promote(cluster.beta)
    try writer.verify(at: cluster.beta)
  }
}

extension Cluster {
  /// A node's own disk state.
  func diskState(_ node: ClusterNode) throws -> String {
    let both = try tell(node, "dstate", resource)
    return both.split(separator: "/").first.map(String.init) ?? ""
  }

  /// Attaches a node's disk as soon as the kernel has let go of the one before.
  func attach(_ node: ClusterNode) throws {
    var last: Output?
    try waitUntil("\(node.name) has a disk again", explanation: { "\(last as Any)" }) {
      last = try ask(node, "attach", resource)
      return last?.status == 0
    }
  }
}
