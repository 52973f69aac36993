/// A whole machine on the volume: a Debian kernel in QEMU, without hardware virtualisation, whose
/// disk is the NBD export.
import Foundation
import Testing

extension Integration {
  @Suite struct GuestTests {
    @Test(
      .needs("qemu-system-x86_64"),
      .enabled(
        if: Machine.hasGuest || Machine.isCI, "no guest kernel here; run tools/guest/build"))
    func `a guest writes and checks its disk while the peer is killed and returns`() throws {
      try withCluster(ClusterOptions(sizeMiB: 256)) { cluster in
        let guest = try Guest(of: cluster)
        try guest.wait(for: "ready")
        try guest.obey("format")
        try guest.order("write 12")
        try guest.wait(for: "wrote 2")
        try cluster.kill(cluster.beta)
        try guest.wait(for: "wrote 6")
        try cluster.start(cluster.beta)
        try guest.wait(for: "done write")
        try guest.obey("check")
        try cluster.waitForSync()
        try guest.obey("write 4")
        try guest.obey("check")
        try guest.obey("finish")
        #expect(try guest.end() == 0)
        try cluster.expectIdenticalDisks()
        try succeed("e2fsck", "-fn", copyOfVolume(cluster))
      }
    }
  }
}

/// Reads the volume into a file.
private func copyOfVolume(_ cluster: Cluster) throws -> String {
  let copy = cluster.directory.appending(path: "copy").path
  try succeed("nbdcopy", cluster.uri(cluster.alpha), copy)
  return copy
}

/// The test guest, obeying the commands described in `tools/guest/init`.
private final class Guest {
  private let machine: BackgroundProcess
  /// How much of the console has been waited for; a later wait looks only at what follows.
  private var seen = 0

  init(of cluster: Cluster) throws {
    machine = try BackgroundProcess(
      [
        Machine.package.appending(path: "tools/guest/boot").path,
        try cluster.uri(cluster.alpha),
      ], log: cluster.directory.appending(path: "guest.log"), input: true)
  }

  /// Sends a command and does not wait.
  func order(_ command: String) throws { try machine.write(command) }

  /// Sends a command and waits until it is done.
  func obey(_ command: String) throws {
    try order(command)
    try wait(for: "done \(command.split(separator: " ")[0])")
  }

  /// Waits for an answer of the guest that begins with `answer`.
  func wait(for answer: String) throws {
    // A guest without hardware virtualisation takes its time even on a fast machine.
    try waitUntil(
      "the guest says '\(answer)'", seconds: 3 * patience, explanation: { machine.text }
    ) {
      // Asked before the console is read: a guest that answers and ends at once has answered.
      let hadEnded = !machine.isRunning
      let text = machine.text
      if let range = text.dropFirst(seen).range(of: "guest: \(answer)") {
        seen = text.distance(from: text.startIndex, to: range.upperBound)
        return true
      }
      if hadEnded || text.contains("guest: failed") {
        throw Failure("the guest failed before '\(answer)':\n\(text.suffix(4000))")
      }
      return false
    }
  }

  /// Waits until the guest has switched itself off.
  func end() throws -> Int32 { try machine.wait() }
}
