/// `undo list|show|export|remove`: what discards gave up, while its undo files are kept.

import ArgumentParser
import BlockIO
import BlockTypes
import Configuration
import Control
import Foundation
import Glibc
import Metadata

struct Undo: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "undo",
    abstract: "List, show, export and remove what discards gave up.",
    discussion: """
      Before 'connect --discard-my-data' or an after-sb policy lets a node's data be overwritten, \
      what it alone wrote is kept in an undo file. Files stay until they are removed.
      """,
    subcommands: [UndoList.self, UndoShow.self, UndoExport.self, UndoRemove.self])
}

struct UndoList: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "list", abstract: "List the undo files of resources.")
  @OptionGroup var common: CommonOptions
  @Argument(help: resourcesHelp) var resources: [String] = ["all"]

  mutating func run() throws {
    let session = try Session(common)
    let configuration = try session.configuration()
    for target in try session.targets(resources, in: configuration) {
      for path in undoFiles(of: target.resource) {
        do throws(CommandFailure) {
          let header = try UndoFile(path: path).header
          guard header.resource == target.resource.name else { continue }
          printOutput(line(path, header, target.resource))
        } catch {
          for line in error.lines { printError(line) }
        }
      }
    }
  }

  private func line(
    _ path: String, _ header: UndoHeader, _ resource: ResourceConfiguration
  ) -> String {
    let node = resource.host(nodeID: header.node)?.name ?? "node \(header.node.value)"
    let date = isoTime(UInt32(clamping: header.keptAt)) ?? "-"
    return "\(path)  \(node)  \(date)  \(header.keptBytes / 1024) KiB"
      + (header.isWhole ? "  (whole volume)" : "")
  }
}

/// The files in the directory of a resource that bear its name, oldest first.
private func undoFiles(of resource: ResourceConfiguration) -> [String] {
  let directory = resource.options.undoDirectory
  let names = (try? FileManager.default.contentsOfDirectory(atPath: directory)) ?? []
  return names.filter { $0.hasPrefix(resource.name + "-") && $0.hasSuffix(".undo") }.sorted()
    .map { "\(directory)/\($0)" }
}

struct UndoShow: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "show", abstract: "Show what an undo file holds, and check all of it.")
  @OptionGroup var common: CommonOptions
  @Argument(help: "The undo file.") var file: String

  mutating func run() throws {
    let undo = try UndoFile(path: file)
    let header = undo.header
    let names = { (generation: Generation?) in
      guard let generation else { return "none" }
      let id = String(generation.id, radix: 16, uppercase: true)
      return "\(generation.number):\(String(repeating: "0", count: 16 - id.count))\(id)"
        + (isoTime(generation.beganAt).map { " (\($0))" } ?? "")
    }
    printOutput("resource      \(header.resource)/\(header.volume)")
    printOutput("kept on node  \(header.node.value)")
    printOutput("replaced by   node \(header.peer.value)")
    printOutput("kept at       \(isoTime(UInt32(clamping: header.keptAt)) ?? "unknown")")
    printOutput("volume        \(header.volumeBytes / 1024) KiB")
    printOutput("given up      \(names(header.newest))")
    printOutput("common        \(names(header.ancestor))")
    printOutput("survivor      \(names(header.survivor))")
    printOutput(
      "kept          \(header.keptBytes / 1024) KiB, \(header.recordCount) ranges"
        + (header.isWhole ? ", the whole volume" : ""))
    try undo.forEachRecord { record, _ in
      printOutput(
        "  \(record.range.start) +\(record.range.length)" + (record.isZeroes ? " zeroes" : ""))
    }
  }
}

struct UndoExport: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "export", abstract: "Take the kept blocks out of an undo file.",
    discussion: """
      --to makes a new sparse image of the volume's size that holds the kept blocks in their \
      places and zeroes elsewhere. --onto writes them over a raw copy of the volume that exists: \
      of a copy of the survivor's data it makes what the victim had there.
      """)
  @OptionGroup var common: CommonOptions
  @Argument(help: "The undo file.") var file: String
  @Option(help: ArgumentHelp("A file that does not exist.", valueName: "image")) var to: String?
  @Option(help: ArgumentHelp("A raw image of the volume.", valueName: "image")) var onto: String?

  mutating func validate() throws {
    if (to == nil) == (onto == nil) { throw ValidationError("Give --to or --onto") }
  }

  mutating func run() throws {
    let undo = try UndoFile(path: file)
    // All of it is checked before the first byte is written.
    try undo.forEachRecord { _, _ in }
    let path = to ?? onto ?? ""
    if common.dryRun {
      return printOutput("undo export \(file) \(to == nil ? "onto" : "to") \(path)")
    }
    let target = try open(path, undo.header)
    defer { close(target) }
    let isNew = to != nil
    try undo.forEachRecord { record, content throws(CommandFailure) in
      if record.isZeroes, isNew { return }
      try put(record, content, target, path)
    }
    guard fsync(target) == 0 else { throw UndoFile.failure("fsync", path) }
    printOutput("\(path): \(undo.header.keptBytes / 1024) KiB of \(undo.header.resource)")
  }

  private func open(_ path: String, _ header: UndoHeader) throws(CommandFailure) -> Int32 {
    var flags = O_WRONLY | O_CLOEXEC
    if to != nil { flags |= O_CREAT | O_EXCL }
    let target = unsafe Glibc.open(path, flags, 0o600)
    guard target >= 0 else { throw UndoFile.failure("open", path) }
    do throws(CommandFailure) {
      // A backing disk in use is locked by its daemon, and is not to be changed behind it.
      guard flock(target, LOCK_EX | LOCK_NB) == 0 else {
        throw CommandFailure(ExitStatus.communication, "\(path) is in use by another process")
      }
      var facts = stat()
      guard unsafe fstat(target, &facts) == 0 else { throw UndoFile.failure("fstat", path) }
      guard facts.st_mode & S_IFMT == S_IFREG else {
        throw CommandFailure(ExitStatus.usage, "\(path) is no regular file")
      }
      if to != nil {
        guard ftruncate(target, off_t(header.volumeBytes)) == 0 else {
          throw UndoFile.failure("ftruncate", path)
        }
      } else {
        try refuseBackingDisk(path, facts)
        try refuseOtherSize(path, UInt64(facts.st_size), header.volumeBytes)
      }
    } catch {
      close(target)
      throw error
    }
    return target
  }

  /// A file that the configuration names as a disk is one whose bitmaps, which may be in another
  /// file, would not know of the change.
  private func refuseBackingDisk(_ path: String, _ facts: stat) throws(CommandFailure) {
    // An undo file can be read without a configuration, too.
    guard let configuration = try? Session(common).configuration() else { return }
    for resource in configuration.resources {
      for disk in resource.hosts.flatMap(\.volumes).map(\.disk) {
        var other = stat()
        guard unsafe stat(disk, &other) == 0, other.st_dev == facts.st_dev,
          other.st_ino == facts.st_ino
        else { continue }
        throw CommandFailure(
          ExitStatus.usage, "\(path) is the backing disk \(disk) of \(resource.name)",
          "Make a copy of the volume, and export onto that.")
      }
    }
  }

  /// A file that is larger may be a backing disk with its metadata, whose bitmaps would not know of
  /// the change.
  private func refuseOtherSize(
    _ path: String, _ bytes: UInt64, _ volumeBytes: UInt64
  ) throws(CommandFailure) {
    guard bytes != volumeBytes else { return }
    var failure = CommandFailure(
      ExitStatus.usage, "\(path) has \(bytes) bytes, a copy of the volume has \(volumeBytes)")
    if bytes > volumeBytes {
      failure.lines.append(
        "If it is a copy of a backing disk, cut off the metadata first: "
          + "truncate -s \(volumeBytes) \(path)")
    }
    throw failure
  }

  private func put(
    _ record: UndoRecord, _ content: [UInt8], _ target: Int32, _ path: String
  ) throws(CommandFailure) {
    let zeroes = [UInt8](
      repeating: 0, count: record.isZeroes ? Int(min(record.range.length, 1 << 20)) : 0)
    var offset = record.range.start
    while offset < record.range.end {
      let done = Int(offset - record.range.start)
      let piece = record.isZeroes ? zeroes[...] : content[done...]
      let length = min(piece.count, Int(record.range.end - offset))
      let count = unsafe piece.withUnsafeBytes { bytes in
        unsafe pwrite(target, bytes.baseAddress, length, off_t(offset))
      }
      if count < 0 && errno == EINTR { continue }
      guard count > 0 else { throw UndoFile.failure("pwrite", path) }
      offset += UInt64(count)
    }
  }
}

struct UndoRemove: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "remove", abstract: "Remove undo files.")
  @OptionGroup var common: CommonOptions
  @Argument(help: "The undo files.") var files: [String]

  mutating func run() throws {
    try forEach(files) { file throws(CommandFailure) in
      // Nothing but an undo file is removed by a mistyped name.
      _ = try UndoFile(path: file)
      if common.dryRun {
        printOutput("undo remove \(file)")
        return 0
      }
      guard unsafe unlink(file) == 0 else { throw UndoFile.failure("unlink", file) }
      return 0
    }
  }
}
