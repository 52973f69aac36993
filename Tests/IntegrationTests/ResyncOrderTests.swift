/// `resync-after` between resources of two real daemons. Names follow the checklist of scenarios.
import Foundation
import Testing

extension Integration {
  @Suite struct ResyncOrder {
    @Test(
      "S16: resources resync one after the other, and one that is paused or down blocks nobody",
      .needs("fio", "cmp"))
    func chain() throws {
      var options = ClusterOptions(sizeMiB: 48)
      options.disk = "c-max-rate 10M;"
      options.others = [
        ("r1", "c-max-rate 10M; resync-after r0;"), ("r2", "c-max-rate 10M; resync-after r1/0;"),
      ]
      try withCluster(options) { cluster in
        let names = ["r0", "r1", "r2"]
        try bringUp(names.dropFirst(), cluster)
        for name in names { try fill(name, cluster) }

        for name in names { try cluster.tell(cluster.beta, "invalidate", name) }
        try waitForState("SyncTarget", "r0", cluster)
        try waitForState("PausedSyncT", "r1", cluster)
        try waitForState("PausedSyncT", "r2", cluster)
        for (node, reason) in [(cluster.beta, "dependency"), (cluster.alpha, "dependency")] {
          let text = try cluster.tell(node, "status", "--verbose", "r2")
          #expect(text.contains("resync-suspended:") && text.contains(reason), "\(text)")
        }
        // The order is kept: none begins before the one that it follows is in sync.
        try waitForState("Established", "r0", cluster)
        #expect(try state("r2", cluster) == "PausedSyncT")
        try waitForState("SyncTarget", "r1", cluster)

        // Paused by an administrator, it lets the next one pass.
        try cluster.tell(cluster.alpha, "pause-sync", "r1")
        try waitForState("SyncTarget", "r2", cluster)
        #expect(try state("r1", cluster) == "PausedSyncT")
        try cluster.tell(cluster.alpha, "resume-sync", "r1")
        try waitForState("PausedSyncT", "r2", cluster)

        // Taken down, too.
        try cluster.tell(cluster.beta, "down", "r1")
        try waitForState("Established", "r2", cluster)
        try cluster.tell(cluster.beta, "up", "r1")
        try waitForState("Established", "r1", cluster)
        for name in names {
          let disks = ["alpha", "beta"].map { node in
            name == "r0"
              ? cluster.directory.appending(path: "\(node).img").path
              : cluster.directory.appending(path: "\(name)-\(node).img").path
          }
          try succeed("cmp", "-n", "\(40 << 20)", disks[0], disks[1])
        }
      }
    }

    @Test(
      "S21: a limit on parallel resyncs is kept, and the next one begins when one is done",
      .needs("fio"))
    func limit() throws {
      var options = ClusterOptions(sizeMiB: 48)
      options.disk = "c-max-rate 20M;"
      options.others = (1...3).map { ("r\($0)", "c-max-rate 20M;") }
      options.daemon = ["--max-parallel-resyncs", "1"]
      try withCluster(options) { cluster in
        let names = ["r0", "r1", "r2", "r3"]
        try bringUp(names.dropFirst(), cluster)
        for name in names { try fill(name, cluster) }
        for name in names { try cluster.tell(cluster.beta, "invalidate", name) }
        var order: [String] = []
        var idleSince: Date?
        try waitUntil("all four are in sync", explanation: cluster.state) {
          // One answer of the daemon for all of them: what it says was so at one moment.
          let states = try states(nil, cluster)
          let active = names.filter { states[$0] == "SyncTarget" }
          #expect(active.count <= 1, "\(states)")
          let waiting = names.contains { states[$0] == "PausedSyncT" }
          if active.isEmpty, waiting, !order.isEmpty {
            let since = idleSince ?? Date()
            idleSince = since
            // None waits for a timer: the end of one is what lets the next begin.
            #expect(Date().timeIntervalSince(since) < 2, "nobody takes the turn: \(states)")
          } else {
            idleSince = nil
          }
          if let name = active.first, order.last != name { order.append(name) }
          return order.count >= names.count && states.allSatisfy { $0.value == "Established" }
        }
        // Whoever had its turn kept it to the end.
        #expect(order.sorted() == names)
      }
    }
  }
}

/// Creates, starts and syncs resources beside `r0`, with alpha as Primary.
private func bringUp(_ names: ArraySlice<String>, _ cluster: Cluster) throws {
  for name in names {
    for node in cluster.nodes {
      try cluster.tell(node, "create-md", "--force", name)
      try cluster.tell(node, "up", name)
    }
    try waitUntil("\(name) is connected", explanation: cluster.state) {
      try cluster.tell(cluster.alpha, "cstate", name).contains("Connected")
    }
    try cluster.tell(cluster.alpha, "primary", "--force", name)
    try waitForState("Established", name, cluster)
  }
}

/// Writes what is no zero to the first 40 MiB.
private func fill(_ name: String, _ cluster: Cluster) throws {
  try succeed(
    "fio", "--name=fill", "--rw=write", "--bs=1m", "--iodepth=4", "--thread", "--ioengine=nbd",
    "--uri=\(cluster.tell(cluster.alpha, "sh-dev", name))", "--size=40m")
}

/// The replication state of a resource as beta sees it.
private func state(_ name: String, _ cluster: Cluster) throws -> String {
  try states(name, cluster)[name] ?? "none"
}

/// The same by name, of all resources or of one.
private func states(_ name: String?, _ cluster: Cluster) throws -> [String: String] {
  let text = try cluster.tell(cluster.beta, "status", "--json", name ?? "all")
  let json = try JSONSerialization.jsonObject(with: Data(text.utf8)) as? [[String: Any]] ?? []
  var states: [String: String] = [:]
  for resource in json {
    let connection = (resource["connections"] as? [[String: Any]])?.first
    let device = (connection?["peer_devices"] as? [[String: Any]])?.first
    states[resource["name"] as? String ?? ""] = device?["replication-state"] as? String ?? "none"
  }
  return states
}

private func waitForState(_ wanted: String, _ name: String, _ cluster: Cluster) throws {
  var last = ""
  try waitUntil("\(name) is \(wanted)", explanation: { last + cluster.state() }) {
    last = try state(name, cluster)
    return last == wanted
  }
}
