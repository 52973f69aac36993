/// A backing disk that is a sparse file runs out of space while a client writes.
import Foundation
import Testing

extension Integration {
  @Suite struct FullDisks {
    @Test(.needsLoop, .needsPythonNBD, .needs("mkfs.ext4", "fallocate", "cmp"))
    func `the Primary's disk is full: clients hear of it or go on with the peer's`() throws {
      try fill("alpha")
    }

    @Test(.needsLoop, .needsPythonNBD, .needs("mkfs.ext4", "fallocate", "cmp"))
    func `the Secondary's disk is full: the Primary goes on`() throws { try fill("beta") }
  }
}

/// Fills the file system below one node's disk under load, has the other node serve, makes room
/// again, and brings the disk back.
private func fill(_ name: String) throws {
  let small = try SmallFileSystem(mebibytes: 128)
  var options = ClusterOptions()
  options.diskDirectories[name] = small.mountPoint
  try withCluster(options) { cluster in
    let victim = name == "alpha" ? cluster.alpha : cluster.beta
    let survivor = cluster.peer(of: victim)
    // The first resync has written every block.
    try succeed("fallocate", "--dig-holes", victim.disk.path)
    try small.fill(leaving: 4)
    let writer = Writer(cluster: cluster)
    let load = try writer.start(at: cluster.alpha, seed: 1)
    try waitUntil("the disk is full", explanation: cluster.state) {
      try !load.isRunning || diskState(cluster, victim) != "UpToDate"
    }
    // A write that the Primary's disk could not take is refused or is on the other one.
    if load.isRunning { try load.write("stop") }
    if victim === cluster.alpha {
      try writer.wait(for: load, .told, .refused, .serverGone)
      try cluster.tell(victim, "secondary", cluster.resource)
      try cluster.promote(survivor)
    } else {
      try writer.wait(for: load, .told)
    }
    print("full disk of \(name): \(load.text.split(separator: "\n").last ?? "")")
    for node in cluster.nodes {
      #expect(node.daemon?.isRunning == true, "\(node.name) did not survive a full disk")
    }
    try writer.verify(at: survivor)
    try small.makeRoom()
    if try diskState(cluster, victim) == "Diskless" {
      try cluster.tell(victim, "attach", cluster.resource)
    }
    try cluster.waitForSync()
    try writer.verify(at: survivor)
    try cluster.expectIdenticalDisks()
    // As good as new.
    try writer.stop(try writer.start(at: survivor, seed: 2))
    try writer.verify(at: survivor)
    try cluster.waitForSync()
    try cluster.expectIdenticalDisks()
  }
}

/// A node's own disk state.
private func diskState(_ cluster: Cluster, _ node: ClusterNode) throws -> String {
  let both = try cluster.tell(node, "dstate", cluster.resource)
  return both.split(separator: "/").first.map(String.init) ?? ""
}
