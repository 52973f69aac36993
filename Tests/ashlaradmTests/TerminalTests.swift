/// What only a terminal sees: the question of create-md and the bar of wait-sync. script(1) is the
/// terminal.

import Control
import Foundation
import Testing

@testable import ashlaradm

@Suite struct TerminalTests {
  /// Only the whole word counts as consent.
  @Test(arguments: [("yes", 0), ("no", 1), ("y", 1), ("", 1)])
  func createMetadataAsks(answer: String, exit: Int) throws {
    let bench = try Bench()
    try bench.makeDisk(bytes: 8 << 20)
    #expect(try bench.run("create-md", "r0").status == 0)
    let result = try bench.runOnTerminal("create-md r0", typing: answer + "\n")
    #expect(result.status == Int32(exit), "\(result)")
    #expect(result.output.contains("[need to type 'yes' to confirm] "), "\(result)")
    let said = exit == 0 ? "successfully created." : "Operation cancelled."
    #expect(result.output.contains(said), "\(result)")
  }

  @Test func waitSyncDrawsABar() throws {
    let bench = try Bench()
    let syncing = Countdown(3)
    let daemon = try FakeDaemon(bench.paths) { _ in
      var status = healthy()
      if syncing.next() {
        var peer = status.connections[0].peerDevices[0]
        peer.replicationState = .syncSource
        peer.peerDiskState = .inconsistent
        peer.resyncTotal = 2 << 20
        peer.outOfSync = 512 << 10
        peer.resyncRate = 100 << 10
        status.connections[0].peerDevices[0] = peer
      }
      return ControlReply(status: [status])
    }
    let result = try bench.runOnTerminal("wait-sync r0", typing: "")
    #expect(result.status == 0, "\(result)")
    #expect(result.output.contains("] "), "\(result)")
    #expect(result.output.contains(" 50.0%  100.0 MiB/s  0:00:06 to go"), "\(result)")
    // The bar is wiped when it is done.
    #expect(result.output.hasSuffix("\r\u{1B}[K"), "\(result)")
    #expect(daemon.statusCount == 4)
  }

  @Test func statusIsColouredOnATerminal() throws {
    let bench = try Bench()
    let daemon = try FakeDaemon(bench.paths) { _ in ControlReply(status: [healthy()]) }
    let result = try bench.runOnTerminal("status r0", typing: "")
    #expect(result.output.contains("disk:\u{1B}[32mUpToDate\u{1B}[0m"), "\(result)")
    #expect(daemon.statusCount == 1)
  }
}
