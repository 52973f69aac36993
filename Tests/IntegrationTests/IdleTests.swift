/// A cluster without clients sleeps.
import Foundation
import Testing

extension Integration {
  @Suite struct Idle {
    @Test func `daemons without a client wake up for their pings only`() throws {
      try withCluster { cluster in
        // What the bring-up left to do may reach into the first interval; a daemon that polls is
        // not quiet in any.
        var seen: [String] = []
        for _ in 0..<6 {
          let before = try cluster.nodes.map { try activity(of: $0) }
          usleep(10_000_000)
          let after = try cluster.nodes.map { try activity(of: $0) }
          // Every 10 s a daemon sleeps after its ping, after the answer and after the peer's ping;
          // two of each may meet in this time.
          let isQuiet = zip(before, after).allSatisfy { start, end in
            end.switches - start.switches <= 6 && end.ticks - start.ticks <= 1
          }
          if isQuiet { return }
          seen.append("\(after) after \(before)")
        }
        Issue.record("never quiet: \(seen.joined(separator: "; "))")
      }
    }

    /// The bring-up has flushed, and written to blocks that the file system had to allocate. Done
    /// by io_uring itself, that would leave threads of the kernel which wake up for ever.
    @Test func `the kernel keeps no threads for a daemon's disk`() throws {
      try withCluster { cluster in
        for node in cluster.nodes {
          guard let daemon = node.daemon else { throw Failure("\(node.name) does not run") }
          let names = try succeed("sh", "-c", "cat /proc/\(daemon.processID)/task/*/comm")
          #expect(names.contains("disk-helper"))
          #expect(!names.contains("iou-wrk"), "\(names)")
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
