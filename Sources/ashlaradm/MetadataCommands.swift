/// `create-md` and `wipe-md`: metadata comes and goes, on disks that the daemon does not use.

import ArgumentParser
import BlockTypes
import Configuration
import Control
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
  @Option(
    help: ArgumentHelp(
      "Make room for the bitmaps of so many peers (default: as many as are configured).",
      valueName: "n"))
  var maxPeers: Int?
  @OptionGroup var named: NamedResources

  mutating func validate() throws {
    if let maxPeers, !(1...Superblock.peerSlotLimit).contains(maxPeers) {
      throw ValidationError("--max-peers \(maxPeers) is outside 1-\(Superblock.peerSlotLimit)")
    }
  }

  mutating func run() throws {
    let session = try Session(common)
    let configuration = try session.configuration(showsWarnings: true)
    let targets = try session.targets(named.resources, in: configuration)
    try changeMetadata(of: targets, session, command: "create-md") {
      target, volume, disk throws(CommandFailure) in
      try create(target, volume, &disk)
    }
  }

  private func create(
    _ target: Target, _ volume: VolumeConfiguration, _ disk: inout MetadataDisk
  ) throws(CommandFailure) {
    let peers = target.resource.peers(of: target.host.name)
    let maxPeers = max(1, peers.count, self.maxPeers ?? 1)
    guard maxPeers <= Superblock.peerSlotLimit else {
      throw CommandFailure(
        ExitStatus.usage,
        "\(target.resource.name) has \(peers.count) peers, the metadata has room for "
          + "\(Superblock.peerSlotLimit)")
    }
    try disk.requireSectors()
    try disk.makeRoom(maxPeers: maxPeers)
    try confirmOverwrite(of: disk, volume, force: force)
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
}

struct WipeMetadata: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "wipe-md", abstract: "Remove the metadata of a volume that is not attached.",
    discussion: """
      Asks for confirmation. The data stays, but nothing knows any more how old it is: to use the \
      disk again, create-md and a full copy from a peer are needed.
      """)
  @OptionGroup var common: CommonOptions
  @Flag(help: "Do not ask for confirmation.") var force = false
  @OptionGroup var named: NamedResources

  mutating func run() throws {
    let session = try Session(common)
    let configuration = try session.configuration()
    let targets = try session.targets(named.resources, in: configuration)
    try changeMetadata(of: targets, session, command: "wipe-md") {
      _, _, disk throws(CommandFailure) in
      let owner: String
      switch try disk.superblock() {
      case .none:
        printError("There appears to be no ashlar meta data to wipe out on \(disk.metadataPath)")
        return
      case .found(let superblock, _): owner = "of resource '\(superblock.resource)' "
      case .damaged: owner = "(damaged) "
      }
      try confirm(
        [
          "",
          "Do you really want to wipe out the ashlar meta data \(owner)on \(disk.metadataPath)?",
        ], force: force)
      printOutput("Wiping meta data...")
      try disk.wipe()
      printOutput("ashlar meta data block successfully wiped out.")
    }
  }
}
