/// What this machine can run. A test is skipped, with the reason, only for what the machine itself
/// lacks; on CI, where `tools/setup` has run, a program that is missing makes its tests fail.
import Foundation
import Glibc
import Testing

enum Machine {
  static let isCI = ProcessInfo.processInfo.environment["CI"] == "true"

  /// The root of the package.
  static let package = URL(filePath: #filePath).deletingLastPathComponent()
    .deletingLastPathComponent().deletingLastPathComponent()

  /// The directory of ashlard and ashlaradm: `ASHLAR_BIN`, or the debug build.
  static let programs =
    ProcessInfo.processInfo.environment["ASHLAR_BIN"].map { URL(filePath: $0) }
    ?? package.appending(path: ".build/debug")

  /// Whether `tools/guest/build` has left a kernel.
  static let hasGuest = FileManager.default.fileExists(
    atPath: package.appending(path: ".build/guest/vmlinuz").path)

  /// Whether a file can be mounted.
  static let hasLoop = geteuid() == 0 && access("/dev/loop-control", R_OK | W_OK) == 0

  /// Whether a loop device can be made on a file that a FUSE client serves.
  static let hasLoopAndFUSE = hasLoop && access("/dev/fuse", R_OK | W_OK) == 0

  /// Whether network namespaces can be made and packets dropped in them.
  static let hasNamespaces =
    geteuid() == 0
    && (try? run(["unshare", "--net", "nft", "list", "ruleset"]).status) == 0

  /// The first of the programs that is not in PATH.
  static func missing(_ programs: [String]) -> String? {
    programs.first { (try? run(["sh", "-c", "command -v \($0)"]).status) != 0 }
  }

  /// How many times something is repeated: an environment variable, or a default for a workstation.
  static func count(_ variable: String, default count: Int) -> Int {
    ProcessInfo.processInfo.environment[variable].flatMap(Int.init) ?? count
  }
}

extension Trait where Self == ConditionTrait {
  /// Skips the test where a program is not installed; never on CI.
  static func needs(_ programs: String...) -> Self {
    let missing = Machine.missing(programs)
    return .enabled(
      if: missing == nil || Machine.isCI, "\(missing ?? "") is not installed; run tools/setup")
  }

  /// Skips the test where Debian's Python has no libnbd; never on CI.
  static var needsPythonNBD: Self {
    let isThere = (try? run(["/usr/bin/python3", "-c", "import nbd"]).status) == 0
    return .enabled(
      if: isThere || Machine.isCI, "python3-libnbd is not installed; run tools/setup")
  }

  /// Skips the test where the kernel or the user's rights do not allow loop devices over FUSE.
  static var needsLoopAndFUSE: Self {
    .enabled(if: Machine.hasLoopAndFUSE, "no right to /dev/fuse and /dev/loop-control here")
  }
  /// Skips the test where the kernel or the user's rights do not allow network namespaces.
  static var needsNamespaces: Self {
    .enabled(if: Machine.hasNamespaces, "no right to network namespaces and nftables here")
  }

  /// Skips the test where nothing can be mounted.
  static var needsLoop: Self {
    .enabled(if: Machine.hasLoop, "no right to /dev/loop-control here")
  }
}

/// All integration tests, one after the other: each has two daemons and wants the machine's cores.
@Suite(.serialized) enum Integration {}
