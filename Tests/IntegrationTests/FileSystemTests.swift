/// File systems of this machine's kernel on the volume: nbdfuse makes a file of the export, a loop
/// device makes a disk of the file.
import Foundation
import Testing

extension Integration {
  @Suite struct FileSystems {
    @Test(.needs("nbdfuse", "losetup", "mkfs.ext4"), .needsLoopAndFUSE)
    func `ext4 is clean after writes during which the peer died and came back`() throws {
      try liveThroughPeerLoss(make: ["mkfs.ext4", "-q", "-F"], check: ["e2fsck", "-fn"])
    }

    @Test(.needs("nbdfuse", "losetup", "mkfs.xfs"), .needsLoopAndFUSE)
    func `XFS is clean after writes during which the peer died and came back`() throws {
      // 300 MB is the least that mkfs.xfs accepts.
      try liveThroughPeerLoss(
        sizeMiB: 320, make: ["mkfs.xfs", "-q", "-f"], check: ["xfs_repair", "-n"])
    }
  }
}

private func liveThroughPeerLoss(sizeMiB: Int = 128, make: [String], check: [String]) throws {
  try withCluster(ClusterOptions(sizeMiB: sizeMiB)) { cluster in
    let disk = try LoopDisk(of: cluster)
    defer { disk.remove() }
    func must(_ arguments: [String]) throws {
      let output = try run(arguments)
      guard output.status == 0 else { throw Failure("\(output)") }
    }
    try must(make + [disk.device])
    try disk.mount()
    try fill(disk.mountPoint, "before")
    try cluster.kill(cluster.beta)
    try fill(disk.mountPoint, "alone")
    try cluster.start(cluster.beta)
    try fill(disk.mountPoint, "during-resync")
    try cluster.waitForSync()
    try disk.unmount()
    try must(check + [disk.device])
    try disk.mount()
    for name in ["before", "alone", "during-resync"] {
      try succeed("sh", "-c", "cd \(disk.mountPoint.path)/\(name) && sha256sum --quiet -c sums")
    }
    try disk.unmount()
    try succeed("blockdev", "--flushbufs", disk.device)
    try cluster.expectIdenticalDisks()
  }
}

/// Writes files of random bytes and their checksums, and waits until they are on the disk.
private func fill(_ directory: URL, _ name: String) throws {
  let script = """
    mkdir \(name) && cd \(name)
    for i in 1 2 3 4 5 6 7 8; do head -c 1000000 /dev/urandom > file$i || exit 1; done
    sha256sum file* > sums && sync -f sums
    """
  try succeed("sh", "-c", "cd \(directory.path) && \(script)")
}

/// A block device of this machine's kernel whose bytes are the volume.
private final class LoopDisk {
  let mountPoint: URL
  private(set) var device = ""
  private let file: URL
  private let client: BackgroundProcess
  private var isMounted = false

  init(of cluster: Cluster) throws {
    file = cluster.directory.appending(path: "volume")
    mountPoint = cluster.directory.appending(path: "mnt")
    try FileManager.default.createDirectory(at: mountPoint, withIntermediateDirectories: true)
    try Data().write(to: file)
    let uri = try cluster.uri(cluster.alpha)
    let bytes = Int(try succeed("nbdinfo", "--size", uri))
    client = try BackgroundProcess(
      ["nbdfuse", file.path, uri], log: cluster.directory.appending(path: "nbdfuse.log"))
    let path = file.path
    try waitUntil("nbdfuse serves the volume", explanation: { self.client.text }) {
      let size = try FileManager.default.attributesOfItem(atPath: path)[.size] as? Int
      return size == bytes
    }
    device = try succeed("losetup", "--direct-io=on", "--find", "--show", file.path)
  }

  func mount() throws {
    try succeed("mount", device, mountPoint.path)
    isMounted = true
  }

  func unmount() throws {
    try succeed("umount", mountPoint.path)
    isMounted = false
  }

  /// Takes everything down, whatever state it is in.
  func remove() {
    if isMounted { _ = try? run(["umount", "-l", mountPoint.path]) }
    if !device.isEmpty { _ = try? run(["losetup", "-d", device]) }
    _ = try? run(["fusermount3", "-u", "-z", file.path])
    client.kill()
  }
}
