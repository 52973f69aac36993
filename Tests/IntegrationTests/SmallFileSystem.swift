/// A file system of its own for a backing disk, small enough to be filled: ext4 in a file, mounted
/// through a loop device.
///
/// What must hold: it is unmounted and removed with the value.
import Foundation

final class SmallFileSystem {
  let mountPoint: URL
  private let directory: URL
  private var filler: URL { mountPoint.appending(path: "filler") }

  init(mebibytes: Int) throws {
    directory = Machine.package.appending(path: ".build/integration/fs-\(UUID())")
    mountPoint = directory.appending(path: "mnt")
    let image = directory.appending(path: "image").path
    try FileManager.default.createDirectory(at: mountPoint, withIntermediateDirectories: true)
    try succeed("truncate", "-s", "\(mebibytes)M", image)
    try succeed("mkfs.ext4", "-q", "-F", "-m", "0", image)
    try succeed("mount", "-o", "loop", image, mountPoint.path)
  }

  deinit {
    _ = try? run(["umount", "-l", mountPoint.path])
    try? FileManager.default.removeItem(at: directory)
  }

  /// Takes what is free but for so much.
  func fill(leaving mebibytes: Int) throws {
    let words = try succeed("df", "--output=avail", "-BM", mountPoint.path)
    guard let line = words.split(separator: "\n").last,
      let free = Int(line.filter(\.isNumber)), free > mebibytes
    else { throw Failure("nothing is free: \(words)") }
    try succeed("fallocate", "-l", "\(free - mebibytes)M", filler.path)
  }

  /// Gives back what `fill` took.
  func makeRoom() throws { try succeed("rm", filler.path) }
}
