/// The commands that show the state of what runs.

import ArgumentParser
import Configuration
import Control
import Foundation
import Glibc

/// When `status` uses colours.
enum ColorChoice: String, ExpressibleByArgument, CaseIterable {
  case auto, always, never

  /// Whether to colour what goes to standard output.
  var isOn: Bool {
    switch self {
    case .always: true
    case .never: false
    case .auto:
      isatty(1) == 1 && ProcessInfo.processInfo.environment["NO_COLOR", default: ""].isEmpty
        && ProcessInfo.processInfo.environment["TERM"] != "dumb"
    }
  }
}

struct Status: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "status", abstract: "Show the state of resources; all of them by default.")
  @OptionGroup var common: CommonOptions
  @Flag(help: "Print JSON with the keys of 'drbdsetup status --json'.") var json = false
  @Flag(name: [.short, .long], help: "Also show what is as it should be.") var verbose = false
  @Flag(name: [.short, .long], help: "Also show counters, in KiB.") var statistics = false
  @Option(help: "Use colours: auto, always or never.") var color = ColorChoice.auto
  @Argument(help: resourcesHelp) var resources: [String] = []

  mutating func run() throws {
    let session = try Session(common)
    let (shown, missing) = try selectStatus(session, resources, isJSON: json)
    if json {
      try printJSON(shown)
    } else {
      let width = terminalWidth()
      let options = StatusTextOptions(
        verbose: verbose, statistics: statistics, color: color.isOn, width: max(80, width ?? 80))
      write(text: statusText(shown, options: options), to: 1)
    }
    for name in missing {
      printError("\(name): No such resource")
      printError("\(name) is not up: run 'ashlaradm up \(name)'")
    }
    guard missing.isEmpty else { throw ExitCode(ExitStatus.invalidConfiguration) }
  }

  private func printJSON(_ status: [ResourceStatus]) throws {
    let encoder = JSONEncoder()
    encoder.outputFormatting = [.prettyPrinted, .sortedKeys, .withoutEscapingSlashes]
    write(text: String(decoding: try encoder.encode(status), as: UTF8.self) + "\n", to: 1)
  }
}

/// What is up of what `words` name, and the names of what is not. No words: all that is up, and,
/// but for JSON, all that should be.
func selectStatus(
  _ session: Session, _ words: [String], isJSON: Bool = false
) throws(CommandFailure) -> (shown: [ResourceStatus], missing: [String]) {
  if words.isEmpty && isJSON { return (try session.status(), []) }
  let configuration = try session.configuration()
  let targets = try session.targets(words.isEmpty ? ["all"] : words, in: configuration)
  let up = try session.status()
  var shown: [ResourceStatus] = []
  var missing: [String] = []
  for target in targets {
    guard var status = up.first(where: { $0.name == target.resource.name }) else {
      missing.append(target.resource.name)
      continue
    }
    if let volume = target.volume.map(Int.init) {
      status.devices.removeAll { $0.volume != volume }
      for index in status.connections.indices {
        status.connections[index].peerDevices.removeAll { $0.volume != volume }
      }
    }
    shown.append(status)
  }
  if words.isEmpty {
    // What runs without being configured any more must not be hidden.
    shown += up.filter { other in !targets.contains { $0.resource.name == other.name } }
  }
  return (shown, missing)
}

/// Columns of the terminal on a descriptor; `nil` when it is none.
func terminalWidth(of descriptor: Int32 = 1) -> Int? {
  var size = winsize()
  guard unsafe ioctl(descriptor, UInt(TIOCGWINSZ), &size) == 0, size.ws_col > 0 else { return nil }
  return Int(size.ws_col)
}

/// A command that prints one line for each volume.
protocol LineCommand: ParsableCommand {
  var common: CommonOptions { get }
  var named: NamedResources { get }
  /// The line for one volume.
  static func line(_ resource: ResourceStatus, _ device: DeviceStatus) -> String
}

extension LineCommand {
  mutating func run() throws {
    let session = try Session(common)
    let (shown, missing) = try selectStatus(session, named.resources)
    for resource in shown {
      for device in resource.devices { printOutput(Self.line(resource, device)) }
    }
    for name in missing {
      for line in Refusal.unknownResource.lines(object: name) { printError(line) }
    }
    guard missing.isEmpty else { throw ExitCode(Refusal.unknownResource.exitCode) }
  }

  /// The volume on the peer. DRBD 8.4's forms know one.
  static func peer(
    _ resource: ResourceStatus, _ device: DeviceStatus
  ) -> PeerDeviceStatus? {
    resource.connections.first?.peerDevices.first { $0.volume == device.volume }
  }
}

struct Role: LineCommand {
  static let configuration = CommandConfiguration(
    commandName: "role", abstract: "Show this node's role and the peer's: Primary/Secondary.")
  @OptionGroup var common: CommonOptions
  @OptionGroup var named: NamedResources

  static func line(_ resource: ResourceStatus, _ device: DeviceStatus) -> String {
    "\(resource.role.rawValue)/\((resource.connections.first?.peerRole ?? .unknown).rawValue)"
  }
}

struct ConnectionState: LineCommand {
  static let configuration = CommandConfiguration(
    commandName: "cstate", abstract: "Show the state of the connection: Connected.")
  @OptionGroup var common: CommonOptions
  @OptionGroup var named: NamedResources

  static func line(_ resource: ResourceStatus, _ device: DeviceStatus) -> String {
    legacyConnectionState(
      resource.connections.first?.connectionState ?? .standAlone,
      peer(resource, device)?.replicationState ?? .off)
  }
}

struct DiskState: LineCommand {
  static let configuration = CommandConfiguration(
    commandName: "dstate",
    abstract: "Show the state of this node's disk and of the peer's: UpToDate/UpToDate.")
  @OptionGroup var common: CommonOptions
  @OptionGroup var named: NamedResources

  static func line(_ resource: ResourceStatus, _ device: DeviceStatus) -> String {
    let peer = peer(resource, device)?.peerDiskState ?? .unknown
    return "\(device.diskState.rawValue)/\(peer.rawValue)"
  }
}

struct Proc: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "proc", abstract: "Show what /proc/drbd of DRBD 8.4 would show.")
  @OptionGroup var common: CommonOptions

  mutating func run() throws {
    let session = try Session(common)
    write(
      text: procText(
        try session.status(), version: ashlarVersion, protocolVersion: peerProtocolVersion),
      to: 1)
  }
}
