/// The commands that wait for a state. They ask the daemon at most twice a second, say what they
/// wait for, and give up at once where waiting cannot help.

import ArgumentParser
import Configuration
import Control
import Glibc

/// How one resource stands to what is waited for.
enum WaitOutcome: Equatable {
  case reached
  /// Not yet; what is shown meanwhile, where there is anything to show.
  case waiting(progress: SyncProgress?)
  /// Not yet, and nothing moves: given up when it stays so.
  case stuck(String)
  /// Never, without an operator.
  case hopeless(String)
}

/// A command that polls until every resource is where it should be.
protocol WaitCommand: ParsableCommand {
  var common: CommonOptions { get }
  var timeout: UInt32 { get }
  var named: NamedResources { get }
  static func outcome(_ status: ResourceStatus) -> WaitOutcome
}

/// Seconds after which a resource that is connected but does not move is given up: several times as
/// long as a node takes from a command to the first message of the resync it causes.
private let patienceSeconds = 5.0

extension WaitCommand {
  mutating func run() throws {
    let session = try Session(common)
    let configuration = try session.configuration()
    let names = try session.targets(named.resources, in: configuration).map(\.resource.name)
    let start = monotonicSeconds()
    var stuckSince: Double?
    let display = ProgressDisplay()
    while true {
      let outcomes = try outcomes(of: names, session)
      let now = monotonicSeconds()
      if outcomes.allSatisfy({ $0.outcome == .reached }) {
        display.finish()
        return
      }
      for (name, outcome) in outcomes {
        if case .hopeless(let reason) = outcome {
          display.finish()
          throw CommandFailure(ExitStatus.timeout, "\(name): \(reason)")
        }
      }
      stuckSince = firstStuck(outcomes) == nil ? nil : stuckSince ?? now
      if let (name, reason) = firstStuck(outcomes), let since = stuckSince,
        now - since >= patienceSeconds
      {
        display.finish()
        throw CommandFailure(ExitStatus.timeout, "\(name): \(reason)")
      }
      if timeout > 0 && now - start >= Double(timeout) {
        display.finish()
        throw CommandFailure(ExitStatus.timeout, "\(names.joined(separator: " ")): timed out")
      }
      display.show(outcomes)
      let left = timeout > 0 ? Double(timeout) - (now - start) : 0.5
      usleep(UInt32(max(1000, min(0.5, left) * 1e6)))
    }
  }

  private func outcomes(
    of names: [String], _ session: Session
  ) throws(CommandFailure) -> [(name: String, outcome: WaitOutcome)] {
    let up = try session.status()
    return names.map { name in
      guard let status = up.first(where: { $0.name == name }) else {
        return (name, .hopeless("not up: run 'ashlaradm up \(name)'"))
      }
      return (name, Self.outcome(status))
    }
  }

  private func firstStuck(
    _ outcomes: [(name: String, outcome: WaitOutcome)]
  ) -> (name: String, reason: String)? {
    for (name, outcome) in outcomes {
      if case .stuck(let reason) = outcome { return (name, reason) }
    }
    return nil
  }
}

/// Waits for every connection of a resource, or says why one will not come by itself.
func connectionOutcome(_ status: ResourceStatus) -> WaitOutcome {
  for connection in status.connections where connection.connectionState == .standAlone {
    let reason = connection.reason.map { " (\($0))" } ?? ""
    return .hopeless(
      "StandAlone\(reason): it does not connect by itself; run 'ashlaradm connect \(status.name)'")
  }
  let isConnected = status.connections.allSatisfy { $0.connectionState == .connected }
  return isConnected ? .reached : .waiting(progress: nil)
}

/// Waits until nothing resyncs, all disks are UpToDate and no block is known to differ.
func syncOutcome(_ status: ResourceStatus) -> WaitOutcome {
  let connection = connectionOutcome(status)
  guard connection == .reached else { return connection }
  let peers = status.connections.flatMap(\.peerDevices)
  if let syncing = peers.first(where: { $0.replicationState.isSyncing }) {
    return .waiting(progress: SyncProgress(syncing))
  }
  if let bad = status.devices.first(where: { $0.diskState != .upToDate }) {
    return .stuck(
      "no resync runs, but this node's disk is \(bad.diskState.rawValue); where both are "
        + "Inconsistent run 'ashlaradm primary --force \(status.name)' on the node with good data")
  }
  if let bad = peers.first(where: { $0.peerDiskState != .upToDate }) {
    return .stuck("no resync runs, but the peer's disk is \(bad.peerDiskState.rawValue)")
  }
  // What a verify found, or a repair that was cut left, no resync copies by itself.
  if let bad = peers.first(where: { $0.outOfSync > 0 }) {
    return .stuck(
      "no resync runs, but \(bad.outOfSync) KiB differ; run 'ashlaradm verify --repair --marked "
        + "--from NODE \(status.name)' with the node whose data is right")
  }
  return .reached
}

struct WaitConnect: WaitCommand {
  static let configuration = CommandConfiguration(
    commandName: "wait-connect", abstract: "Wait until the peer is connected.")
  @OptionGroup var common: CommonOptions
  @Option(name: [.short, .long], help: "Seconds to wait; 0 is for ever. Exits with 5 after that.")
  var timeout: UInt32 = 0
  @OptionGroup var named: NamedResources

  static func outcome(_ status: ResourceStatus) -> WaitOutcome { connectionOutcome(status) }
}

struct WaitSync: WaitCommand {
  static let configuration = CommandConfiguration(
    commandName: "wait-sync", abstract: "Wait until all replicas are the same.")
  @OptionGroup var common: CommonOptions
  @Option(name: [.short, .long], help: "Seconds to wait; 0 is for ever. Exits with 5 after that.")
  var timeout: UInt32 = 0
  @OptionGroup var named: NamedResources

  static func outcome(_ status: ResourceStatus) -> WaitOutcome { syncOutcome(status) }
}

/// The moving line on a terminal; nothing elsewhere.
private final class ProgressDisplay {
  private let isTerminal = isatty(2) == 1
  private var isShown = false

  func show(_ outcomes: [(name: String, outcome: WaitOutcome)]) {
    guard isTerminal else { return }
    for (name, outcome) in outcomes {
      guard case .waiting(let progress) = outcome else { continue }
      let width = (terminalWidth(of: 2) ?? 80) - 1
      let line =
        progress.map { progressLine(name: name, progress: $0, width: width) }
        ?? "\(name)  waiting for the peer"
      write(text: "\r\u{1B}[K\(line.prefix(width))", to: 2)
      isShown = true
      return
    }
  }

  /// Leaves a clean line behind.
  func finish() {
    if isShown { write(text: "\r\u{1B}[K", to: 2) }
    isShown = false
  }
}

/// Seconds on a clock that no operator sets.
func monotonicSeconds() -> Double {
  var time = timespec()
  unsafe clock_gettime(CLOCK_MONOTONIC, &time)
  return Double(time.tv_sec) + Double(time.tv_nsec) / 1e9
}
