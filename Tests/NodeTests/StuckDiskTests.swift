/// A disk that does not answer holds up its own resource and nothing else.
import Configuration
import Control
import Foundation
import Glibc
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
      let ports = try freePorts(3)
      var file = Configuration()
      for (index, name) in ["r0", "r1"].enumerated() {
        let disk = directory.appending(path: "\(name).img").path
        try makeDisk(disk, bytes: 32 << 20, resource: name)
        file.resources.append(
          try configuration(disk, [ports[index], ports[2]], name: name))
      }
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
