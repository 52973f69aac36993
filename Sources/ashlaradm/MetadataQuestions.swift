/// What is asked and refused before metadata on a disk is overwritten.

import Configuration
import Control
import Glibc
import Metadata

/// Refuses while the daemon has the disk. A daemon that cannot be asked does not run: the lock on
/// the disk is the last word.
func refuseIfAttached(
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

/// Changes the metadata of each volume of `targets` that the daemon does not use; with `--dry-run`
/// only says so.
func changeMetadata(
  of targets: [Target], _ session: Session, command: String,
  _ change: (Target, VolumeConfiguration, inout MetadataDisk) throws(CommandFailure) -> Void
) throws {
  try forEach(targets) { target throws(CommandFailure) in
    for volume in target.volumes {
      if session.dryRun {
        printOutput("\(command) \(target.resource.name)/\(volume.number) on \(volume.disk)")
        continue
      }
      try refuseIfAttached(target, volume, session)
      var disk = try MetadataDisk(volume, readOnly: false)
      try change(target, volume, &disk)
    }
    return 0
  }
}

/// Asks before anything that looks used is overwritten.
func confirmOverwrite(
  of disk: borrowing MetadataDisk, _ volume: VolumeConfiguration, force: Bool
) throws(CommandFailure) {
  switch try disk.superblock() {
  case .none: break
  case .found(let superblock, _):
    try confirm(
      [
        "There appears to be an ashlar meta data block of resource '\(superblock.resource)'",
        "already in place on \(disk.metadataPath) at byte offset "
          + "\(disk.layout.superblockOffsets.0)",
        "", "Do you really want to overwrite the existing meta-data?",
      ], force: force)
  case .damaged:
    try confirm(
      [
        "There appears to be a damaged ashlar meta data block",
        "on \(disk.metadataPath) at byte offset \(disk.layout.superblockOffsets.0)",
        "", "Do you really want to overwrite the existing meta-data?",
      ], force: force)
  }
  let isInternal = volume.metaDisk == .internal
  for (path, finding) in try disk.findings() {
    printOutput("")
    printOutput("Found \(finding.what) on \(path)")
    if let used = finding.usedBytes, isInternal {
      printOutput("    \(used / 1024) kB data area apparently used")
      printOutput("    \(disk.layout.volumeBytes / 1024) kB left usable by current configuration")
      if used > disk.layout.volumeBytes { throw wouldTruncate(path) }
    }
    try confirm(
      [
        "Even though it looks like the meta data would not overwrite it,",
        "this is only a guess.", "", "Do you want to proceed?",
      ], force: force)
  }
}

private func wouldTruncate(_ path: String) -> CommandFailure {
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
func confirm(_ question: [String], force: Bool) throws(CommandFailure) {
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
