/// `verify`: compare the replicas of a volume while it is in use.

import ArgumentParser
import Configuration
import Control

/// A place on a volume as DRBD writes it: sectors of 512 bytes, or bytes with a unit.
struct VolumePlace: ExpressibleByArgument, Equatable, Sendable {
  /// From the begin of the volume.
  let bytes: UInt64

  init?(argument: String) {
    guard let value = sizeValue(argument) else { return nil }
    guard argument.allSatisfy(\.isNumber) else {
      bytes = value
      return
    }
    let (product, overflow) = value.multipliedReportingOverflow(by: 512)
    guard !overflow else { return nil }
    bytes = product
  }
}

struct Verify: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "verify",
    abstract: "Compare this node's data with the peer's while it is in use.",
    discussion: """
      What differs is counted as out of sync, logged with its place, and copied by the next resync \
      ('disconnect', then 'connect'). Nothing is changed before that. Which side is right a \
      comparison cannot know: '--repair --from NODE' copies what differs from the side you name, \
      whatever the roles, while both are in use; with '--dry-run' it says what of the known \
      differences would be copied, and does nothing. PLACE is in sectors of 512 bytes, or in bytes \
      with a unit: 8000, 4000k, 10g.
      """)
  @OptionGroup var common: CommonOptions
  @Option(
    name: [.customShort("s"), .long], help: ArgumentHelp("Begin here.", valueName: "place"))
  var start: VolumePlace?
  @Option(
    name: [.customShort("S"), .long], help: ArgumentHelp("Stop here.", valueName: "place"))
  var stop: VolumePlace?
  @Flag(help: "Copy what differs from the node that --from names to the other one.")
  var repair = false
  @Option(help: ArgumentHelp("The node whose data is right.", valueName: "node"))
  var from: String?
  @Flag(help: "Compare nothing: repair what an earlier verify has found.")
  var marked = false
  @OptionGroup var named: NamedResources

  mutating func validate() throws {
    if repair, from == nil {
      throw ValidationError(
        "--repair overwrites one side: name the node whose data is right with --from")
    }
    if !repair, from != nil || marked {
      throw ValidationError("--from and --marked belong to --repair")
    }
  }

  mutating func run() throws {
    let session = try Session(common)
    let configuration = try session.configuration()
    let request = VerifyRequest(
      start: start?.bytes, stop: stop?.bytes, repairFrom: from, onlyMarked: marked ? true : nil,
      explainsOnly: repair && session.dryRun ? true : nil)
    try forEach(try session.targets(named.resources, in: configuration)) {
      target throws(CommandFailure) in
      var message = ControlRequest(
        .verify, resource: target.resource.name, volume: target.volume)
      message.verify = request
      guard request.explainsOnly == true else { return try session.perform(message) }
      let reply = try session.send(message)
      show(reply)
      return reply.exitCode
    }
  }
}
