/// What a resync moves and allocates: what differs, and no more. Names follow the checklist of
/// scenarios (R, S).
import Foundation
import Glibc
import Testing

extension Integration {
  @Suite struct ResyncCost {
    /// 1 000 blocks all over a sparse volume. `Benchmarks/resync-sparse` does it with 100 GiB, and
    /// measures when it begins.
    @Test(
      "R04: scattered blocks of a large volume are copied, and nothing else",
      .needs("fio", "du"))
    func scatteredBlocks() throws {
      try withCluster(ClusterOptions(sizeMiB: 4 << 10)) { cluster in
        let before = try allocated(cluster.beta)
        try cluster.tell(cluster.beta, "disconnect", cluster.resource)
        try cluster.waitForLoss(at: cluster.alpha)
        try succeed(
          "fio", "--name=scatter", "--rw=randwrite", "--bs=4k", "--iodepth=16", "--thread",
          "--number_ios=1000", "--ioengine=nbd", "--uri=\(cluster.uri(cluster.alpha))",
          "--size=4000m")
        let received = try counter("received", cluster.beta, cluster)
        try cluster.tell(cluster.beta, "connect", cluster.resource)
        try cluster.waitForSync()

        let moved = try counter("received", cluster.beta, cluster) - received
        #expect((4_000...4_400).contains(moved), "\(moved) KiB for 4 000 KiB")
        // A file system may allocate more than 4 KiB for a block; not the holes between.
        #expect(try allocated(cluster.beta) - before < 128 << 10)
        for (one, other) in [(cluster.alpha, cluster.beta), (cluster.beta, cluster.alpha)] {
          try expectData(of: one, at: other, bytes: cluster.bytes)
        }
      }
    }

    @Test(
      "S09: the first sync of an empty sparse volume allocates nothing", .needs("du"))
    func firstSyncOfAnEmptyVolume() throws {
      try withCluster(ClusterOptions(sizeMiB: 2 << 10)) { cluster in
        #expect(try counter("received", cluster.beta, cluster) == 0)
        for node in cluster.nodes {
          let kib = try allocated(node)
          #expect(kib < 4 << 10, "\(kib) KiB on \(node.name), of which metadata is 1.2 MiB")
        }
      }
    }

    @Test(
      "S09: what a client discards while a resync runs is a hole on both",
      .needs("fio", "nbdcopy", "du", "cmp"))
    func discardWhileItRuns() throws {
      var options = ClusterOptions(sizeMiB: 256)
      options.disk = "c-max-rate 40M;"
      try withCluster(options) { cluster in
        let uri = try cluster.uri(cluster.alpha)
        try succeed(
          "fio", "--name=fill", "--rw=write", "--bs=1m", "--iodepth=4", "--thread",
          "--ioengine=nbd", "--uri=\(uri)", "--size=192m")
        try cluster.tell(cluster.beta, "invalidate", cluster.resource)
        try succeed(
          "fio", "--name=trim", "--rw=trim", "--bs=1m", "--iodepth=4", "--thread",
          "--ioengine=nbd", "--uri=\(uri)", "--offset=64m", "--size=96m")
        try cluster.waitForSync()

        let (source, target) = (try allocated(cluster.alpha), try allocated(cluster.beta))
        #expect(source < 120 << 10, "\(source) KiB: the source has no holes")
        #expect(target <= source + 1_024, "\(target) KiB on the target, \(source) on the source")
        try cluster.expectIdenticalDisks()
      }
    }
  }
}

/// What one node's disk holds that is no hole, the other's holds as well. Reading holes would take
/// longer than everything else.
private func expectData(of node: ClusterNode, at other: ClusterNode, bytes: Int) throws {
  let files = try [node, other].map { try FileHandle(forReadingFrom: $0.disk) }
  // <unistd.h> shows them to GNU programs only.
  let (seekData, seekHole): (Int32, Int32) = (3, 4)
  var position: off_t = 0
  while position < bytes {
    let start = lseek(files[0].fileDescriptor, position, seekData)
    guard start >= 0, start < bytes else { break }
    let end = min(lseek(files[0].fileDescriptor, start, seekHole), off_t(bytes))
    position = end
    let data = try files.map { file in
      try file.seek(toOffset: UInt64(start))
      return try file.read(upToCount: Int(end - start))
    }
    guard data[0] == data[1] else {
      Issue.record("\(node.name) and \(other.name) differ in \(start)..<\(end)")
      return
    }
  }
}

/// KiB that the file system keeps for a node's backing disk.
private func allocated(_ node: ClusterNode) throws -> Int {
  let text = try succeed("du", "-k", node.disk.path)
  guard let number = text.split(separator: "\t").first.flatMap({ Int($0) }) else {
    throw Failure("du says \(text)")
  }
  return number
}

/// A number of KiB in the status of a node's peer device.
private func counter(_ name: String, _ node: ClusterNode, _ cluster: Cluster) throws -> Int {
  let text = try cluster.tell(node, "status", "--json", cluster.resource)
  let json = try JSONSerialization.jsonObject(with: Data(text.utf8)) as? [[String: Any]]
  let connection = (json?.first?["connections"] as? [[String: Any]])?.first
  let device = (connection?["peer_devices"] as? [[String: Any]])?.first
  guard let number = device?[name] as? Int else { throw Failure("no '\(name)' in \(text)") }
  return number
}
