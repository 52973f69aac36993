/// The commands that change the state of a running resource: each is one request to the daemon.

import ArgumentParser
import Configuration
import Control
import Glibc

/// A command that asks the daemon the same thing for each resource named.
protocol StateCommand: ParsableCommand {
  var common: CommonOptions { get }
  var named: NamedResources { get }
  /// What to ask.
  static var command: ControlCommand { get }
  /// Whether the daemon needs to know what the file says.
  static var sendsConfiguration: Bool { get }
  /// `--force`, where the command has it.
  var isForced: Bool { get }
}

extension StateCommand {
  static var sendsConfiguration: Bool { false }
  var isForced: Bool { false }

  mutating func run() throws {
    let session = try Session(common)
    let configuration = try session.configuration(showsWarnings: Self.sendsConfiguration)
    try forEach(try session.targets(named.resources, in: configuration)) {
      target throws(CommandFailure) in
      try session.perform(
        ControlRequest(
          Self.command, resource: target.resource.name, volume: target.volume, force: isForced,
          configuration: Self.sendsConfiguration ? target.resource : nil))
    }
  }
}

struct Up: StateCommand {
  static let configuration = CommandConfiguration(
    commandName: "up", abstract: "Create the resource, attach its disk and connect to its peer.")
  static let command = ControlCommand.up
  static let sendsConfiguration = true
  @OptionGroup var common: CommonOptions
  @OptionGroup var named: NamedResources
}

/// Reaches also what is no longer configured, and is content with what is down already. What is not
/// up is asked for as well: the daemon may be about to bring it up.
struct Down: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "down", abstract: "Disconnect, detach and forget the resource.")
  @OptionGroup var common: CommonOptions
  @OptionGroup var named: NamedResources

  mutating func run() throws {
    let session = try Session(common)
    let configuration = try session.configuration()
    let up = Set(try session.status().map(\.name))
    let strangers = named.resources.filter {
      configuration.resource(named: $0) == nil && $0 != "all" && !$0.contains("/")
    }
    let words = named.resources.filter { !strangers.contains($0) }
    var names = strangers
    if !words.isEmpty {
      names += try session.targets(words, in: configuration).map(\.resource.name)
    }
    try forEach(names) { name throws(CommandFailure) in
      let request = ControlRequest(.down, resource: name)
      if up.contains(name) { return try session.perform(request) }
      if !session.dryRun {
        let reply = try session.send(request)
        if reply.refusal != Refusal.unknownResource.code {
          show(reply)
          return reply.exitCode
        }
      }
      // Of what nobody knows, the list of targets says so.
      if strangers.contains(name) { _ = try session.targets([name], in: configuration) }
      return 0
    }
  }
}

struct Attach: StateCommand {
  static let configuration = CommandConfiguration(
    commandName: "attach", abstract: "Attach the backing disk.")
  static let command = ControlCommand.attach
  static let sendsConfiguration = true
  @OptionGroup var common: CommonOptions
  @OptionGroup var named: NamedResources
}

struct Detach: StateCommand {
  static let configuration = CommandConfiguration(
    commandName: "detach", abstract: "Detach the backing disk; the peer's is used from then on.")
  static let command = ControlCommand.detach
  @OptionGroup var common: CommonOptions
  @OptionGroup var named: NamedResources
}

struct Connect: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "connect", abstract: "Start to connect to the peer.",
    discussion: """
      After a split brain both nodes stand alone. Decide whose data counts, make the other node \
      Secondary, run 'ashlaradm connect --discard-my-data' there and 'ashlaradm connect' on the \
      survivor; 'ashlaradm split-brain' shows what each side wrote, and 'ashlaradm connect \
      --discard-my-data --dry-run' what would be lost. What is given up is kept first in an undo \
      file; see 'ashlaradm undo'.
      """)
  @OptionGroup var common: CommonOptions
  @Flag(
    help: "Give up what this node wrote without its peer, if both did. Refused on a Primary.")
  var discardMyData = false
  @Flag(help: "Do not keep in an undo file what --discard-my-data gives up.")
  var noUndo = false
  @Flag(help: "Print what the two nodes would do, change nothing and stand alone again.")
  var tentative = false
  @OptionGroup var named: NamedResources

  mutating func validate() throws {
    if discardMyData && tentative {
      throw ValidationError("--discard-my-data and --tentative exclude each other")
    }
    if noUndo && !discardMyData {
      throw ValidationError("--no-undo belongs to --discard-my-data")
    }
  }

  mutating func run() throws {
    let session = try Session(common)
    let configuration = try session.configuration(showsWarnings: true)
    try forEach(try session.targets(named.resources, in: configuration)) {
      target throws(CommandFailure) in
      var request = ControlRequest(
        .connect, resource: target.resource.name, volume: target.volume,
        configuration: target.resource)
      request.discardMyData = discardMyData
      request.noUndo = noUndo
      if discardMyData, session.dryRun { return try explain(request, session) }
      request.tentative = tentative
      let exitCode = try session.perform(request)
      guard tentative, exitCode == 0, !session.dryRun else { return exitCode }
      return try showDecision(target.resource.name, session)
    }
  }

  /// With --dry-run: what the daemon would be asked, and what would be lost.
  private func explain(
    _ request: ControlRequest, _ session: Session
  ) throws(CommandFailure) -> Int32 {
    printOutput(dryRunLine(request))
    let reply = try session.send(ControlRequest(.explainDiscard, resource: request.resource))
    show(reply)
    return reply.exitCode
  }

  /// Waits until the two have met, and prints what they would do.
  private func showDecision(
    _ name: String, _ session: Session
  ) throws(CommandFailure) -> Int32 {
    let start = monotonicSeconds()
    var last = "the peer was not reached"
    while monotonicSeconds() - start < Self.patienceSeconds {
      let status = try session.status().first { $0.name == name }
      guard let connection = status?.connections.first else { break }
      if connection.connectionState == .standAlone {
        printOutput("\(name): \(connection.decision ?? connection.reason ?? "no decision")")
        return connection.decision == nil ? ExitStatus.timeout : 0
      }
      if let reason = connection.reason { last = reason }
      usleep(100_000)
    }
    _ = try session.send(ControlRequest(.disconnect, resource: name))
    throw CommandFailure(ExitStatus.timeout, "\(name): \(last)")
  }

  /// Longer than two nodes take from dialing to a decision.
  private static let patienceSeconds = 15.0
}

struct Disconnect: StateCommand {
  static let configuration = CommandConfiguration(
    commandName: "disconnect", abstract: "Disconnect from the peer and stand alone.")
  static let command = ControlCommand.disconnect
  @OptionGroup var common: CommonOptions
  @Flag(help: "Taken as DRBD takes it; the peer is never waited for.") var force = false
  @OptionGroup var named: NamedResources
  var isForced: Bool { force }
}

struct Primary: StateCommand {
  static let configuration = CommandConfiguration(
    commandName: "primary", abstract: "Make this node Primary: it may read and write.")
  static let command = ControlCommand.primary
  @OptionGroup var common: CommonOptions
  @Flag(
    name: [.long, .customLong("overwrite-data-of-peer")],
    help: "Take this node's data for good even where nothing proves it. The peer's is overwritten.")
  var force = false
  @OptionGroup var named: NamedResources
  var isForced: Bool { force }
}

struct Secondary: StateCommand {
  static let configuration = CommandConfiguration(
    commandName: "secondary", abstract: "Make this node Secondary.")
  static let command = ControlCommand.secondary
  @OptionGroup var common: CommonOptions
  @OptionGroup var named: NamedResources
}

struct Invalidate: StateCommand {
  static let configuration = CommandConfiguration(
    commandName: "invalidate", abstract: "Take this node's data for bad and copy the peer's.")
  static let command = ControlCommand.invalidate
  @OptionGroup var common: CommonOptions
  @OptionGroup var named: NamedResources
}

struct InvalidateRemote: StateCommand {
  static let configuration = CommandConfiguration(
    commandName: "invalidate-remote",
    abstract: "Take the peer's data for bad and copy this node's.")
  static let command = ControlCommand.invalidateRemote
  @OptionGroup var common: CommonOptions
  @OptionGroup var named: NamedResources
}

struct NewCurrentUUID: StateCommand {
  static let configuration = CommandConfiguration(
    commandName: "new-current-uuid",
    abstract: "Skip the first sync of two fresh disks that hold the same.",
    discussion: """
      Both nodes must be connected, with new metadata, and neither Primary. Nothing is compared: \
      where the disks differ, clients will read one thing or the other. 'ashlaradm verify' finds \
      what differs.
      """)
  static let command = ControlCommand.newCurrentUUID
  @OptionGroup var common: CommonOptions
  @OptionGroup var named: NamedResources
  @Flag(help: "Take all blocks for equal. Without it there is nothing to do.")
  var clearBitmap = false

  mutating func validate() throws {
    guard clearBitmap else {
      throw ValidationError(
        "new-current-uuid needs --clear-bitmap: Ashlar begins generations by itself")
    }
  }
}

struct PauseSync: StateCommand {
  static let configuration = CommandConfiguration(
    commandName: "pause-sync", abstract: "Let resyncs rest.")
  static let command = ControlCommand.pauseSync
  @OptionGroup var common: CommonOptions
  @OptionGroup var named: NamedResources
}

struct ResumeSync: StateCommand {
  static let configuration = CommandConfiguration(
    commandName: "resume-sync",
    abstract: "Let resyncs go on. One that the peer has paused as well waits for the peer.")
  static let command = ControlCommand.resumeSync
  @OptionGroup var common: CommonOptions
  @OptionGroup var named: NamedResources
}

struct Adjust: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "adjust",
    abstract: "Apply a changed configuration file with the least changes to what runs.")
  @OptionGroup var common: CommonOptions
  @OptionGroup var named: NamedResources

  mutating func run() throws {
    let session = try Session(common)
    let configuration = try session.configuration(showsWarnings: true)
    let targets = try session.targets(named.resources, in: configuration)
    let status = try session.status()
    let reply = try session.send(ControlRequest(.show))
    guard reply.exitCode == 0, let running = reply.configurations else {
      show(reply)
      throw ExitCode(reply.exitCode == 0 ? ExitStatus.communication : reply.exitCode)
    }
    try forEach(targets) { target throws(CommandFailure) in
      let name = target.resource.name
      let requests: [ControlRequest]
      do throws(AdjustmentError) {
        requests = try adjustment(
          wanted: target.resource, running: running.first { $0.name == name },
          status: status.first { $0.name == name }, node: session.environment.node)
      } catch {
        throw CommandFailure(ExitStatus.invalidConfiguration, "\(name): \(error.text)")
      }
      for request in requests {
        let exitCode =
          request.command == .attach
          ? try attach(request, session) : try session.perform(request)
        // The next step may depend on this one: a disk is not attached before the old one is gone.
        if exitCode != 0 { return exitCode }
      }
      return 0
    }
  }

  /// Attaches a disk when the one before has answered everything: that takes it a moment.
  private func attach(
    _ request: ControlRequest, _ session: Session
  ) throws(CommandFailure) -> Int32 {
    guard !session.dryRun else { return try session.perform(request) }
    let start = monotonicSeconds()
    while true {
      let reply = try session.send(request)
      let isTransient = reply.refusal == Refusal.transient.code
      guard isTransient, monotonicSeconds() - start < Self.patienceSeconds else {
        show(reply)
        return reply.exitCode
      }
      usleep(100_000)
    }
  }

  /// Longer than a disk that works takes to answer.
  private static let patienceSeconds = 5.0
}
