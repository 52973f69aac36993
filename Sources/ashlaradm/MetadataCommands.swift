/// `create-md` and `dump-md`: metadata on disks that the daemon does not use.

import ArgumentParser
import BlockTypes
import Configuration
import Control
import Foundation
import Glibc
import Metadata

struct CreateMetadata: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "create-md", abstract: "Initialise the metadata of a volume.",
    discussion: """
      Asks for confirmation where metadata or something else is found on the disk. Refuses where a \
      file system would lose its end, and while the daemon has the disk attached.
      """)
  @OptionGroup var common: CommonOptions
  @Flag(help: "Do not ask for confirmation.") var force = false
  @Argument(help: resourcesHelp) var resources: [String] = []

  mutating func validate() throws {
    if resources.isEmpty { throw ValidationError("No resource names specified") }
  }

  mutating func run() throws {
    let session = try Session(common)
    let configuration = try session.configuration(showsWarnings: true)
    try forEach(try session.targets(resources, in: configuration)) {
      target throws(CommandFailure) in
      for volume in target.volumes {
        if session.dryRun {
          printOutput("create-md \(target.resource.name)/\(volume.number) on \(volume.disk)")
          continue
        }
        try refuseIfAttached(target, volume, session)
        try create(target, volume)
      }
      return 0
    }
  }

  private func create(
    _ target: Target, _ volume: VolumeConfiguration
  ) throws(CommandFailure) {
    var disk = try MetadataDisk(volume, readOnly: false)
    let peers = target.resource.peers(of: target.host.name)
    let maxPeers = max(1, peers.count)
    try disk.makeRoom(maxPeers: maxPeers)
    try examine(disk, volume)
    var generator = SystemRandomNumberGenerator()
    var superblock = Superblock(
      node: target.host.nodeID, resource: target.resource.name,
      volumeBytes: disk.layout.volumeBytes, deviceID: generator.next())
    superblock.sequence = 1
    superblock.maxPeers = maxPeers
    superblock.peers = peers.map { PeerSlotRecord(node: $0.nodeID, base: nil, isFull: true) }
    printOutput("initializing activity log")
    let bitmapBytes = disk.layout.bitmapSlotBytes * UInt64(maxPeers)
    printOutput("initializing bitmap (\(bitmapBytes / 1024) KB) to all out of sync")
    printOutput("Writing meta data...")
    try disk.initialize(superblock)
    printOutput("New ashlar meta data block successfully created.")
  }

  /// Asks before anything that looks used is overwritten.
  private func examine(
    _ disk: borrowing MetadataDisk, _ volume: VolumeConfiguration
  ) throws(CommandFailure) {
    switch try disk.superblock() {
    case .none: break
    case .found(let superblock, _):
      try confirm([
        "There appears to be an ashlar meta data block of resource '\(superblock.resource)'",
        "already in place on \(disk.metadataPath) at byte offset "
          + "\(disk.layout.superblockOffsets.0)",
        "", "Do you really want to overwrite the existing meta-data?",
      ])
    case .damaged:
      try confirm([
        "There appears to be a damaged ashlar meta data block",
        "on \(disk.metadataPath) at byte offset \(disk.layout.superblockOffsets.0)",
        "", "Do you really want to overwrite the existing meta-data?",
      ])
    }
    let isInternal = volume.metaDisk == .internal
    for (path, finding) in try disk.findings() {
      printOutput("")
      printOutput("Found \(finding.what) on \(path)")
      if let used = finding.usedBytes, isInternal {
        printOutput("    \(used / 1024) kB data area apparently used")
        printOutput("    \(disk.layout.volumeBytes / 1024) kB left usable by current configuration")
        if used > disk.layout.volumeBytes { throw Self.wouldTruncate(path) }
      }
      try confirm([
        "Even though it looks like the meta data would not overwrite it,", "this is only a guess.",
        "", "Do you want to proceed?",
      ])
    }
  }

  private static func wouldTruncate(_ path: String) -> CommandFailure {
    var failure = CommandFailure(ExitStatus.wouldDestroy)
    failure.lines = [
      "", "The end of \(path) would be overwritten, which would corrupt data and result in",
      "'access beyond end of device' errors. You need to either",
      "   * use external meta data (recommended)",
      "   * shrink that file system first",
      "   * zero out the device (destroy the file system)", "Operation refused.",
    ]
    return failure
  }

  /// Prints the question and goes on only on `yes`, or with `--force`.
  private func confirm(_ question: [String]) throws(CommandFailure) {
    for line in question { printError(line) }
    if force {
      printError("*** confirmation forced via --force option ***")
      return
    }
    guard isatty(0) == 1 else {
      throw CommandFailure(
        ExitStatus.usage, "stdin not a TTY, not waiting for confirmation", "Operation cancelled.")
    }
    write(text: "[need to type 'yes' to confirm] ", to: 2)
    guard readLine() == "yes" else {
      throw CommandFailure(ExitStatus.usage, "", "Operation cancelled.")
    }
    printError("")
  }
}

/// Refuses while the daemon has the disk. A daemon that cannot be asked does not run: the lock on
/// the disk is the last word.
private func refuseIfAttached(
  _ target: Target, _ volume: VolumeConfiguration, _ session: Session
) throws(CommandFailure) {
  guard let up = try? session.status() else { return }
  let name = target.resource.name
  let status = up.first { $0.name == name }
  let device = status?.devices.first { $0.volume == Int(volume.number) }
  guard let device, device.diskState != .diskless else { return }
  throw CommandFailure(
    ExitStatus.communication, "Device '\(name)/\(volume.number)' is configured!",
    "its disk is \(device.diskState.rawValue): run 'ashlaradm down \(name)' first")
}

struct DumpMetadata: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "dump-md", abstract: "Print the metadata of a volume that is not attached.")
  @OptionGroup var common: CommonOptions
  @Argument(help: resourcesHelp) var resources: [String] = []

  mutating func validate() throws {
    if resources.isEmpty { throw ValidationError("No resource names specified") }
  }

  mutating func run() throws {
    let session = try Session(common)
    let configuration = try session.configuration()
    let command = CommandLine.arguments.dropFirst().joined(separator: " ")
    try forEach(try session.targets(resources, in: configuration)) {
      target throws(CommandFailure) in
      for volume in target.volumes {
        try refuseIfAttached(target, volume, session)
        let disk = try MetadataDisk(volume, readOnly: true)
        switch try disk.superblock() {
        case .found(let superblock, let copy):
          printOutput("# Ashlar meta data dump")
          printOutput("# \(timestamp())")
          printOutput("# \(session.environment.node)> ashlaradm \(command)")
          printOutput("#\n")
          write(text: metadataText(superblock, disk.layout, copy: copy), to: 1)
        case .none:
          throw CommandFailure(
            ExitStatus.usage, "No valid meta data found",
            "on \(disk.metadataPath): run 'ashlaradm create-md \(target.resource.name)'")
        case .damaged(let first, let second):
          throw CommandFailure(
            ExitStatus.usage, "No valid meta data found",
            "on \(disk.metadataPath): copy 0: \(first); copy 1: \(second)")
        }
      }
      return 0
    }
  }

  /// `2026-11-21 05:39:15 +0000 [1795239555]`.
  private func timestamp() -> String {
    let formatter = DateFormatter()
    formatter.locale = Locale(identifier: "en_US_POSIX")
    formatter.timeZone = TimeZone(secondsFromGMT: 0)
    formatter.dateFormat = "yyyy-MM-dd HH:mm:ss +0000"
    let now = Date()
    return "\(formatter.string(from: now)) [\(Int(now.timeIntervalSince1970))]"
  }
}

/// A superblock in the form of `drbdmeta dump-md`.
func metadataText(_ superblock: Superblock, _ layout: MetadataLayout, copy: Int) -> String {
  func hexadecimal(_ number: UInt64) -> String {
    let digits = String(number, radix: 16, uppercase: true)
    return "0x" + String(repeating: "0", count: 16 - digits.count) + digits
  }
  func generation(_ generation: Generation) -> String {
    "\(generation.number) \(hexadecimal(generation.id)) author \(generation.author.value)"
  }
  let state =
    switch superblock.diskState {
    case .inconsistent: DiskStateName.inconsistent
    case .outdated: DiskStateName.outdated
    case .upToDate: DiskStateName.upToDate
    }
  let (first, second) = layout.superblockOffsets
  var lines = [
    "version \"v\(Superblock.version)\";", "",
    "# md_offsets \(first) \(second), copy \(copy) counts, sequence \(superblock.sequence)",
    "# al_offset \(layout.activityLogOffset)", "# bm_offset \(layout.bitmapOffset)", "",
    "resource \"\(superblock.resource)\";", "node-id \(superblock.node.value);",
    "la-size-sect \(superblock.volumeBytes / sectorSize);", "bm-byte-per-bit \(blockSize);",
    "device-uuid \(hexadecimal(superblock.deviceID));", "disk-state \(state.rawValue);",
    "dirty \(superblock.dirty ? "yes" : "no");",
    "was-primary \(superblock.wasPrimary ? "yes" : "no");",
  ]
  lines.append("lineage {")
  lines += superblock.lineage.generations.map { "    generation \(generation($0));" }
  lines.append("}")
  for peer in superblock.peers {
    lines.append("peer \(peer.node.value) {")
    if let base = peer.base { lines.append("    base \(generation(base));") }
    lines.append("}")
  }
  return lines.joined(separator: "\n") + "\n"
}
