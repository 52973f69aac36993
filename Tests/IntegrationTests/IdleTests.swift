/// A cluster without clients sleeps.
import Foundation
import Testing

extension Integration {
  @Suite struct Idle {
    @Test func `daemons without a client wake up for their pings only`() throws {
      try withCluster { cluster in
        // What the bring-up left to do is done after this.
        usleep(1_000_000)
        let before = try cluster.nodes.map { try activity(of: $0) }
        usleep(10_000_000)
        for (node, start) in zip(cluster.nodes, before) {
          let end = try activity(of: node)
          // A ping and its answer each way, every 10 s: two in this time at most.
          #expect(end.switches - start.switches <= 8, "\(node.name): \(end) after \(start)")
          #expect(end.ticks - start.ticks <= 1, "\(node.name): \(end) after \(start)")
        }
      }
    }
  }
}

/// What a daemon has done so far: voluntary context switches of all its threads, and clock ticks of
/// processor time.
private func activity(of node: ClusterNode) throws -> (switches: Int, ticks: Int) {
  guard let daemon = node.daemon else { throw Failure("\(node.name) does not run") }
  let script = """
    cat /proc/\(daemon.processID)/task/*/status | awk '/^voluntary/ { n += $2 } END { print n }'
    awk '{ print $14 + $15 }' /proc/\(daemon.processID)/stat
    """
  let numbers = try succeed("sh", "-c", script).split(separator: "\n").compactMap { Int($0) }
  guard numbers.count == 2 else { throw Failure("no numbers in /proc for \(node.name)") }
  return (numbers[0], numbers[1])
}
