/// `dump-md`, `restore-md` and `apply-al`: the metadata of volumes that the daemon does not use,
/// out to text, back from text, and made right after a crash.

import ArgumentParser
import BlockTypes
import Configuration
import Control
import Foundation
import Metadata

struct DumpMetadata: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "dump-md", abstract: "Print the metadata of a volume that is not attached.",
    discussion: """
      Lineage, peers, bitmaps, and after a crash the extents that were being written, in the form \
      of drbdmeta. Nothing on the disk is changed.
      """)
  @OptionGroup var common: CommonOptions
  @OptionGroup var named: NamedResources

  mutating func run() throws {
    let session = try Session(common)
    let configuration = try session.configuration()
    let command = CommandLine.arguments.dropFirst().joined(separator: " ")
    try forEach(try session.targets(named.resources, in: configuration)) {
      target throws(CommandFailure) in
      for volume in target.volumes {
        try refuseIfAttached(target, volume, session)
        var disk = try MetadataDisk(volume, readOnly: true)
        let (superblock, copy) = try disk.validSuperblock(of: target)
        let dump = try disk.dump(superblock)
        let layout = disk.layout
        printOutput("# Ashlar meta data dump")
        printOutput("# \(timestamp())")
        printOutput("# \(session.environment.node)> ashlaradm \(command)")
        printOutput("#\n")
        printOutput("# md_offsets \(layout.superblockOffsets.0) \(layout.superblockOffsets.1)")
        printOutput("# al_offset \(layout.activityLogOffset)")
        printOutput("# bm_offset \(layout.bitmapOffset)")
        for note in disk.notes(superblock, copy: copy) { printOutput("# \(note)") }
        write(text: dump.text, to: 1)
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

struct RestoreMetadata: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "restore-md",
    abstract: "Replace the metadata of a volume by what dump-md has printed.",
    discussion: """
      Right only when nothing was written to the data since the dump: what was is not known as \
      different from the peers then. Asks for confirmation.
      """)
  @OptionGroup var common: CommonOptions
  @Flag(help: "Do not ask for confirmation.") var force = false
  @Argument(help: "The resource, with /VOLUME where it has several.") var resource: String
  @Argument(help: "The file with the dump; '-' for standard input.") var file: String

  mutating func run() throws {
    let session = try Session(common)
    let configuration = try session.configuration()
    try forEach(try session.targets([resource], in: configuration)) {
      target throws(CommandFailure) in
      guard let volume = target.volumes.first, target.volumes.count == 1 else {
        throw CommandFailure(
          ExitStatus.usage,
          "\(target.resource.name) has \(target.volumes.count) volumes: name one, as in "
            + "'\(target.resource.name)/0'")
      }
      if session.dryRun {
        printOutput("restore-md \(target.resource.name)/\(volume.number) on \(volume.disk)")
        return 0
      }
      try refuseIfAttached(target, volume, session)
      let dump = try read(file)
      try check(dump, target)
      var disk = try MetadataDisk(volume, readOnly: false)
      try disk.requireSectors()
      try disk.makeRoom(maxPeers: dump.superblock.maxPeers)
      guard disk.layout.volumeBytes == dump.superblock.volumeBytes else {
        throw CommandFailure(
          ExitStatus.usage,
          "the dump is of a volume of \(dump.superblock.volumeBytes) bytes, "
            + "\(disk.dataPath) has room for \(disk.layout.volumeBytes)",
          "Use a disk of the old size, or create-md and a full copy from a peer.")
      }
      try confirmOverwrite(of: disk, volume, force: force)
      try confirm(
        [
          "Whatever was written to the data since this dump is not known to it, and will not be",
          "copied to the peers.", "", "Do you want to restore the meta data?",
        ], force: force)
      try disk.restore(dump)
      printOutput("Successfully restored meta data")
      return 0
    }
  }

  private func read(_ path: String) throws(CommandFailure) -> MetadataDump {
    let bytes: [UInt8]
    do {
      bytes =
        path == "-"
        ? [UInt8](try FileHandle.standardInput.readToEnd() ?? Data())
        : [UInt8](try Data(contentsOf: URL(filePath: path)))
    } catch {
      throw CommandFailure(
        ExitStatus.communication, "cannot read \(path): \(error.localizedDescription)")
    }
    do {
      return try MetadataDump(parsing: bytes)
    } catch {
      throw CommandFailure(
        ExitStatus.invalidConfiguration, "\(path):\(error.line): \(error.reason)")
    }
  }

  private func check(_ dump: MetadataDump, _ target: Target) throws(CommandFailure) {
    let block = dump.superblock
    guard block.resource == target.resource.name, block.node == target.host.nodeID else {
      throw CommandFailure(
        ExitStatus.usage,
        "the dump is of resource '\(block.resource)', node id \(block.node.value), not of "
          + "'\(target.resource.name)', node id \(target.host.nodeID.value)")
    }
  }
}

struct ApplyActivityLog: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "apply-al",
    abstract: "Mark what was being written when the node crashed as out of sync.",
    discussion: """
      The daemon does the same when it attaches the disk, so this is needed only where the \
      metadata is to be looked at or moved. Does nothing after a clean stop.
      """)
  @OptionGroup var common: CommonOptions
  @OptionGroup var named: NamedResources

  mutating func run() throws {
    let session = try Session(common)
    let configuration = try session.configuration()
    let targets = try session.targets(named.resources, in: configuration)
    try changeMetadata(of: targets, session, command: "apply-al") {
      target, _, disk throws(CommandFailure) in
      let (superblock, _) = try disk.validSuperblock(of: target)
      guard superblock.dirty else { return }
      let dump = try disk.dump(superblock)
      try disk.apply(dump)
      guard let extents = dump.hotExtents else {
        printOutput("The activity log is damaged: marked everything as out of sync.")
        return
      }
      let kilobytes = UInt64(extents.count) * ActivityLog.extentBytes / 1024
      printOutput("Marked \(kilobytes) KB as out of sync based on the activity log.")
    }
  }
}
