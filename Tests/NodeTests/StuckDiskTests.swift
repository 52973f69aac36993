/// A disk that does not answer holds up its own resource and nothing else.
import Configuration
import Control
import Foundation
import Glibc
import Metadata
import TestSupport
import Testing

@Suite(
  .serialized,
  .enabled(if: StuckDisk.isPossible, "needs root, loop devices, FUSE, nbdkit and nbdfuse"))
struct StuckDiskTests {
  /// A node where `r0` and `r1` were up when it ended, and the disk of `r0` has stopped since.
  private func withStuckResource(
    _ body: (StuckDisk, RunPaths, Configuration) async throws -> Void
  ) async throws {
    try await withDirectories { directory, paths in
      var file = try twoResources(in: directory)
      let before = file
      try await serve(paths, Configuration()) {
        for resource in before.resources {
          let node = RunningNode(paths: paths, configuration: resource)
          try node.tell(.up)
        }
      }
      let image = directory.appending(path: "r0.img").path
      let disk = try StuckDisk(image: image, in: directory)
      defer { disk.remove() }
      file.resources[0].hosts[0].volumes[0].disk = disk.path
      try await body(disk, paths, file)
    }
  }

  private func state(_ node: RunningNode) throws -> DiskStateName? {
    try node.ask(.status).status?.first?.devices.first?.diskState
  }

  @Test func `a disk that does not answer at the start holds up nothing else`() async throws {
    try await withStuckResource { disk, paths, file in
      let nodes = file.resources.map { RunningNode(paths: paths, configuration: $0) }
      try await serve(
        paths, file,
        starting: {
          // Long before the node says that it is ready.
          let limit = Date().addingTimeInterval(8)
          try waitForSocket(paths, limit)
          #expect(try state(nodes[0]) == .attaching)
          while try state(nodes[1]) != .inconsistent {
            try #require(Date() < limit, "r1 is not up")
            usleep(20_000)
          }
        },
        {
          #expect(try state(nodes[0]) == .attaching, "ready, and it still has not answered")
          disk.fail()
          let limit = Date().addingTimeInterval(60)
          while try nodes[0].ask(.status).exitCode == 0 {
            try #require(Date() < limit, "r0 is still being attached")
            usleep(20_000)
          }
          #expect(try state(nodes[1]) == .inconsistent)
        })
    }
  }

  /// The second copy of a superblock fails while the next one waits for it: the disk is given up,
  /// and nothing waits for ever for what was never written.
  @Test func `a disk whose second superblock failed makes room for another`() async throws {
    try await withDirectories { directory, paths in
      let image = directory.appending(path: "r0.img").path
      try makeDisk(image, bytes: 32 << 20)
      let trigger = directory.appending(path: "fail").path
      // Whether a write fails is decided when it has taken its time.
      let disk = try StuckDisk(
        image: image, in: directory,
        [
          "--filter=delay", "--filter=error", "delay-write=1", "error-pwrite=EIO",
          "error-pwrite-rate=100%", "error-pwrite-file=\(trigger)",
        ])
      defer { disk.remove() }
      let node = RunningNode(
        paths: paths, configuration: try configuration(disk.path, try freePorts(2)))
      try await serve(paths, Configuration()) {
        try node.tell(.up)
        let limit = Date().addingTimeInterval(60)
        // The second change after the one of create-md: that the log begins anew. It is in one copy
        // and on its way to the other, and then there is another change.
        while try superblockSequence(of: image) < 3 {
          try #require(Date() < limit, "the superblocks are as before")
          usleep(20_000)
        }
        try #require(FileManager.default.createFile(atPath: trigger, contents: nil))
        #expect(try node.ask(.primary, force: true).exitCode != 0)
        while try state(node) != .diskless {
          try #require(Date() < limit, "the disk still counts as good")
          usleep(20_000)
        }
        try FileManager.default.removeItem(atPath: trigger)
        while true {
          let reply = try node.ask(.attach)
          if reply.exitCode == 0 { break }
          try #require(Date() < limit, "\(reply.standardError)")
          usleep(100_000)
        }
      }
    }
  }

  /// The sequence of the newer copy in a file of 32 MiB.
  private func superblockSequence(of image: String) throws -> UInt64 {
    let file = try #require(FileHandle(forReadingAtPath: image))
    let layout = try MetadataLayout.internal(deviceBytes: 32 << 20)
    let copies = try [layout.superblockOffsets.0, layout.superblockOffsets.1].map { offset in
      try file.seek(toOffset: offset)
      return try #require(try file.read(upToCount: Superblock.byteCount))
    }
    let choice = copies[0].withUnsafeBytes { first in
      copies[1].withUnsafeBytes { SuperblockChoice(copyA: first, copyB: $0) }
    }
    guard case .found(let block, _) = choice else { return 0 }
    return block.sequence
  }

  /// What was disconnected while its disk was read does not connect when that is there.
  @Test func `a disconnect while the disk is attached counts`() async throws {
    try await withDirectories { directory, paths in
      let image = directory.appending(path: "r0.img").path
      try makeDisk(image, bytes: 32 << 20)
      let disk = try StuckDisk(
        image: image, in: directory, ["--filter=delay", "delay-read=2"])
      defer { disk.remove() }
      let node = RunningNode(
        paths: paths, configuration: try configuration(disk.path, try freePorts(2)))
      try await serve(paths, Configuration()) {
        let up = Thread { try? node.tell(.up) }
        up.start()
        let limit = Date().addingTimeInterval(60)
        while try state(node) != .attaching {
          try #require(Date() < limit, "it is not up")
          usleep(20_000)
        }
        try node.tell(.disconnect)
        while try state(node) == .attaching {
          try #require(Date() < limit, "its disk is not there")
          usleep(20_000)
        }
        let shown = try node.ask(.status).status?.first?.connections.first?.connectionState
        #expect(shown == .standAlone)
      }
    }
  }

  private func waitForSocket(_ paths: RunPaths, _ limit: Date) throws {
    while access(paths.controlSocket, F_OK) != 0 {
      try #require(Date() < limit, "no control socket")
      usleep(20_000)
    }
  }

  @Test func `the end is heard while a disk does not answer`() async throws {
    try await withStuckResource { disk, paths, file in
      let took = try await serve(
        paths, file, starting: { try waitForSocket(paths, Date().addingTimeInterval(8)) }, nil)
      // Fifteen for the disk to let go, ten for the kernel.
      #expect(took < 40)
    }
  }
}
