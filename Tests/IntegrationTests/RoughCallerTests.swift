/// Strangers at the peer port and at the NBD socket, while a client writes.
import Foundation
import Testing

extension Integration {
  @Suite struct RoughCallers {
    @Test(.needsPythonNBD, .needs("cmp"))
    func `garbage and slow callers disturb neither the client nor the peer`() throws {
      let seconds = Machine.count("ASHLAR_TEST_ROUGH_SECONDS", default: 10)
      let seed = UInt64.random(in: 1...1_000_000)
      print("rough callers: \(seconds) s, seed \(seed)")
      try withCluster { cluster in
        let program = Machine.package.appending(path: "Tests/IntegrationTests/Clients/rough.py")
        let writer = Writer(cluster: cluster)
        let load = try writer.start(at: cluster.alpha, seed: seed)
        let callers = try cluster.nodes.map { node in
          let socket = try cluster.uri(node).split(separator: "=").last.map(String.init) ?? ""
          return try BackgroundProcess(
            [program.path, node.address, socket, "\(seconds)", "\(seed)"],
            log: cluster.directory.appending(path: "rough-\(node.name).log"))
        }
        for caller in callers {
          let status = try caller.wait()
          #expect(status == 0, "seed \(seed): \(caller.text)")
          print(caller.text, terminator: "")
        }
        try writer.stop(load)
        for node in cluster.nodes {
          #expect(node.daemon?.isRunning == true, "\(node.name) did not survive seed \(seed)")
        }
        try writer.verify(at: cluster.alpha)
        try cluster.waitForSync()
        try cluster.expectIdenticalDisks()
      }
    }
  }
}
