/// A backing disk that is a sparse file runs out of space while a client writes.
import Foundation
import Testing

extension Integration {
  @Suite struct FullDisks {
    @Test(.needsLoop, .needsPythonNBD, .needs("mkfs.ext4", "fallocate", "cmp"))
    func `the Primary's disk is full: clients notice nothing`() throws { try fill("alpha") }

    @Test(.needsLoop, .needsPythonNBD, .needs("mkfs.ext4", "fallocate", "cmp"))
    func `the Secondary's disk is full: clients notice nothing`() throws { try fill("beta") }
  }
}

/// Fills the file system below one node's disk under load, makes room again and brings the disk
/// back, all while one client writes at alpha.
private func fill(_ name: String) throws {
  let small = try SmallFileSystem(mebibytes: 128)
  var options = ClusterOptions()
  options.diskDirectories[name] = small.mountPoint
  try withCluster(options) { cluster in
    let victim = name == "alpha" ? cluster.alpha : cluster.beta
    // The first resync has written every block.
    try succeed("fallocate", "--dig-holes", victim.disk.path)
    try small.fill(leaving: 4)
    let writer = Writer(cluster: cluster)
    let load = try writer.start(at: cluster.alpha, seed: 1)
    try waitUntil("the full disk is given up", explanation: cluster.state) {
      guard load.isRunning else { throw Failure("the client noticed\n\(load.text)") }
      return try cluster.diskState(victim) == "Diskless"
    }
    for node in cluster.nodes {
      #expect(node.daemon?.isRunning == true, "\(node.name) did not survive a full disk")
    }
    try small.makeRoom()
    try cluster.attach(victim)
    try cluster.waitForSync()
    try writer.stop(load)
    try writer.verify(at: cluster.alpha)
    try cluster.waitForSync()
    try cluster.expectIdenticalDisks()
  }
}
