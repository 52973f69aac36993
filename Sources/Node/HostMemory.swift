/// How much memory this process may still take, as the host, its control groups and its own limit
/// say.
///
/// What must hold: a volume is refused before its bitmaps are allocated, not when they are touched:
/// an allocation that fails, or the kernel's choice of a victim, ends every volume of the node.
import Foundation
import Glibc

enum HostMemory {
  /// What is left to everything else. Bytes.
  static let reserve: UInt64 = 32 << 20

  /// Bytes that are there to be taken; `nil` when nobody says.
  static var available: UInt64? {
    let parts = [
      text("/proc/meminfo").flatMap(ofHost), ofControlGroups,
      ofProcess(text("/proc/self/statm") ?? "", limit: addressLimit),
    ]
    return parts.compactMap { $0 }.min()
  }

  /// Whether so many bytes are there, and something is left.
  static func has(_ bytes: UInt64) -> Bool {
    guard let available else { return true }
    return bytes <= available && available - bytes >= reserve
  }

  /// What the host has, from its `meminfo`.
  static func ofHost(_ meminfo: String) -> UInt64? {
    for line in meminfo.split(separator: "\n") {
      let words = line.split(separator: " ")
      guard words.count >= 2, words[0] == "MemAvailable:" else { continue }
      return UInt64(words[1]).map { $0 * 1024 }
    }
    return nil
  }

  /// What the limit of the process leaves, from its `statm`.
  static func ofProcess(_ statm: String, limit: UInt64?) -> UInt64? {
    guard let limit, let pages = statm.split(separator: " ").first.flatMap({ UInt64($0) }) else {
      return nil
    }
    let taken = pages * UInt64(sysconf(Int32(_SC_PAGESIZE)))
    return limit > taken ? limit - taken : 0
  }

  /// The groups that a process is in, its own first, from its `cgroup`: the second version only.
  static func groups(_ cgroup: String) -> [String] {
    let line = cgroup.split(separator: "\n").first { $0.hasPrefix("0::/") }
    guard var path = line.map({ String($0.dropFirst(3)) }) else { return [] }
    var groups: [String] = []
    while path.count > 1 {
      groups.append(path)
      path = String(path[..<(path.lastIndex(of: "/") ?? path.startIndex)])
    }
    return groups
  }

  private static var ofControlGroups: UInt64? {
    var least: UInt64?
    for group in groups(text("/proc/self/cgroup") ?? "") {
      let directory = "/sys/fs/cgroup" + group
      guard let most = number("\(directory)/memory.max"),
        let current = number("\(directory)/memory.current")
      else { continue }
      let left = most > current ? most - current : 0
      least = min(least ?? left, left)
    }
    return least
  }

  /// `RLIMIT_AS`, where there is one.
  private static var addressLimit: UInt64? {
    var limit = rlimit()
    guard unsafe getrlimit(__rlimit_resource_t(RLIMIT_AS.rawValue), &limit) == 0 else {
      return nil
    }
    return limit.rlim_cur == rlim_t.max ? nil : UInt64(limit.rlim_cur)
  }

  private static func number(_ path: String) -> UInt64? {
    text(path).flatMap { UInt64($0.trimmingCharacters(in: .whitespacesAndNewlines)) }
  }

  private static func text(_ path: String) -> String? {
    try? String(contentsOfFile: path, encoding: .utf8)
  }
}
