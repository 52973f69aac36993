/// A backing disk that runs out of space, or stops to answer, while a client writes.
import Foundation
import Testing

extension Integration {
  @Suite struct FullDisks {
    @Test(.needsLoop, .needsPythonNBD, .needs("mkfs.ext4", "fallocate", "cmp"))
    func `the Primary's disk is full: clients notice nothing`() throws { try fill("alpha") }

    @Test(.needsLoop, .needsPythonNBD, .needs("mkfs.ext4", "fallocate", "cmp"))
    func `the Secondary's disk is full: clients notice nothing`() throws { try fill("beta") }

    @Test(.needsLoop, .needsPythonNBD, .needs("mkfs.ext4", "fsfreeze", "cmp"))
    func `a disk that was given up and owes answers says so, and is attached when it has`()
      throws
    {
      let small = try SmallFileSystem(mebibytes: 128)
      var options = ClusterOptions(disk: "disk-timeout 10;")
      options.diskDirectories["beta"] = small.mountPoint
      try withCluster(options) { cluster in
        let owes = "the old disk has not answered yet"
        // Writes to it wait, as on a disk that does not answer.
        try succeed("fsfreeze", "--freeze", small.mountPoint.path)
        defer { _ = try? run(["fsfreeze", "--unfreeze", small.mountPoint.path]) }
        try scriptNBD(cluster.uri(cluster.alpha), "h.pwrite(b'x' * 4096, 0)")
        try waitUntil("the silent disk is given up", explanation: cluster.state) {
          try cluster.diskState(cluster.beta) == "Diskless"
        }
        let status = try cluster.tell(cluster.beta, "status", cluster.resource)
        #expect(status.contains("reason:\"\(owes)\""), "\(status)")
        let refused = try cluster.ask(cluster.beta, "attach", cluster.resource)
        #expect(refused.status == 11 && refused.text.contains("\(owes); try again"), "\(refused)")
        try succeed("fsfreeze", "--unfreeze", small.mountPoint.path)
        try cluster.attach(cluster.beta)
        try cluster.waitForSync()
        try cluster.expectIdenticalDisks()
      }
    }
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
