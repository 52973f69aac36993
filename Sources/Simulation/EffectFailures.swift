/// One effect that fails: the n-th read, write, flush, metadata write, message or timer of a node,
/// once or from then on for ever, in each of a few named runs.
///
/// After a failure that happens once everything must come together as if nothing had been. A disk
/// or a link that is dead for ever leaves less: no request may hang, no buffer may be lost, nobody
/// may stop, the other node must keep what was acknowledged; and with a dead disk the two must
/// stay connected.
import BlockTypes
import Replication
import Wire

/// What fails.
package enum EffectKind: String, CaseIterable, Sendable {
  /// EIO for a read, write or flush of the volume.
  case read, write, flush
  /// EIO for a write of superblock, activity log or bitmap.
  case metadata
  /// The connection breaks as the message is sent.
  case send
  /// A timer fires late: by five seconds once, by up to one each time.
  case timer
}

/// One failure.
package struct EffectFailure: Equatable, Sendable, CustomStringConvertible {
  package var run: SmallRun
  package var seed: UInt64
  package var node: Int
  package var kind: EffectKind
  /// The first one has number 1.
  package var number: Int
  package var isForEver: Bool

  package var description: String {
    "\(run):\(seed):\(node):\(kind):\(number):\(isForEver ? "forEver" : "once")"
  }

  init(
    _ run: SmallRun, _ seed: UInt64, _ node: Int, _ kind: EffectKind, _ number: Int, _ ever: Bool
  ) {
    self.run = run
    self.seed = seed
    self.node = node
    self.kind = kind
    self.number = number
    isForEver = ever
  }

  /// Reads what `description` gives.
  package init?(_ text: String) {
    let parts = text.split(separator: ":").map(String.init)
    guard parts.count == 6, let run = SmallRun(rawValue: parts[0]), let seed = UInt64(parts[1]),
      let node = Int(parts[2]), (0...1).contains(node), let kind = EffectKind(rawValue: parts[3]),
      let number = Int(parts[4]), number > 0, ["once", "forEver"].contains(parts[5])
    else { return nil }
    self.init(run, seed, node, kind, number, parts[5] == "forEver")
  }
}

/// The named runs.
package enum SmallRun: String, CaseIterable, Sendable {
  /// The first sync while clients write.
  case firstSync
  /// Clients on a pair that is in sync.
  case writes
  /// The roles change.
  case switchOver
  /// A cut, writes without the Secondary, a resync.
  case cutAndResync
  /// The Primary is killed: its hot extents are copied.
  case crashOfPrimary
  /// The Secondary loses power.
  case powerLossOfSecondary
  /// Both are killed at once.
  case crashOfBoth
  /// The Secondary's data is given up and copied anew.
  case invalidate
  /// Shutdown and start.
  case restart
  /// Both go on without each other; the administrator decides.
  case splitBrain

  /// The options of the run. Different seeds give different timings.
  package func options(seed: UInt64) -> SwarmOptions {
    var options = FaultPoints.options(seed: seed)
    options.faultCount = 1
    options.clientsDuringFirstSync = self == .firstSync
    options.clientRequests = 10
    switch self {
    case .firstSync, .writes:
      options.faults = []
      options.faultCount = 0
    case .switchOver: options.faults = [.switchOver]
    case .cutAndResync:
      options.faults = [.blockBothWays]
      options.faultLastsMs = 8_000
      options.think = Latency(floorUs: 10, spreadUs: 2_000_000)
    case .crashOfPrimary: options.faults = [.killPrimary]
    case .powerLossOfSecondary: options.faults = [.powerSecondary]
    case .crashOfBoth: options.faults = [.killBoth]
    case .invalidate: options.faults = [.invalidateSecondary]
    case .restart: options.faults = [.restartCleanly]
    case .splitBrain:
      options.faults = [.isolateAndPromote]
      options.faultLastsMs = 8_000
      options.pingIntervalMs = 500
      options.think = Latency(floorUs: 10, spreadUs: 2_000_000)
    }
    return options
  }
}

/// Runs each failure.
package enum EffectFailures {
  /// Runs every failure in `run`, and calls `report` for each that breaks a promise until it
  /// returns false. Returns how many were tried.
  package static func tryAll(
    _ run: SmallRun, seed: UInt64, canary: Canary? = nil,
    report: (EffectFailure, Violation) -> Bool
  ) -> Int {
    var tried = 0
    let plain = cluster(run, seed, nil, canary)
    plain.runWhole()
    for node in 0...1 {
      for kind in EffectKind.allCases {
        let count = plain.nodes[node].effectsOfKind[kind.index]
        for number in 0..<count {
          for isForEver in [false, true] {
            let failure = EffectFailure(run, seed, node, kind, number + 1, isForEver)
            tried += 1
            guard let violation = Self.run(failure, canary: canary).violation else { continue }
            guard report(failure, violation) else { return tried }
          }
        }
      }
    }
    return tried
  }

  /// Runs one failure.
  package static func run(
    _ failure: EffectFailure, canary: Canary? = nil, isTracing: Bool = false
  ) -> (violation: Violation?, lines: [String]) {
    let cluster = cluster(failure.run, failure.seed, failure, canary)
    cluster.isTracing = isTracing
    cluster.runWhole()
    return (cluster.violations.first, cluster.trace)
  }

  private static func cluster(
    _ run: SmallRun, _ seed: UInt64, _ failure: EffectFailure?, _ canary: Canary?
  ) -> Cluster {
    var options = run.options(seed: seed)
    options.canary = canary ?? .none
    let cluster = Cluster(options: options)
    cluster.failure = failure
    return cluster
  }
}

extension EffectKind {
  var index: Int { Self.allCases.firstIndex(of: self) ?? 0 }

  init?(_ purpose: DiskPurpose, _ operation: SimulatedDisk.Operation) {
    switch purpose {
    case .superblock, .mirror, .bitmapPage, .activityLog: self = .metadata
    case .swallowed, .untimely: return nil
    default:
      switch operation {
      case .read: self = .read
      case .write, .zero: self = .write
      case .flush: self = .flush
      }
    }
  }
}

extension Cluster {
  /// Counts an effect, and says whether it fails.
  func failsNow(_ node: SimulatedNode, _ kind: EffectKind) -> Bool {
    node.effectsOfKind[kind.index] += 1
    guard let failure, failure.node == node.index, failure.kind == kind else { return false }
    let count = node.effectsOfKind[kind.index]
    let fails = failure.isForEver ? count >= failure.number : count == failure.number
    if fails, count == failure.number { say("the failure strikes: \(failure)") }
    return fails
  }

  /// Whether the disk or the link of a node is dead for ever.
  func isDead(_ index: Int) -> Bool {
    guard let failure, failure.isForEver, failure.node == index, failure.kind != .timer else {
      return false
    }
    return nodes[index].effectsOfKind[failure.kind.index] >= failure.number
  }

  /// With something dead for ever the run ends when what is left has come to rest.
  func judgeRest() {
    guard let failure, isDead(failure.node), clientRequestsLeft == 0,
      now >= faultsOverAt + 60_000_000_000
    else { return }
    let dead = nodes[failure.node]
    let other = nodes[1 - failure.node]
    let isAtRest =
      pendingRequests == 0
      && nodes.allSatisfy { $0.isRunning && $0.pendingCommand == nil && $0.disk.inFlight == 0 }
    let staysConnected = failure.kind == .send || dead.connection == .connected
    guard isAtRest, staysConnected, nodes.allSatisfy({ $0.buffers.takenCount == 0 }) else { return }
    // What it held when it lost power last, if it did: the dead disk brings nothing back.
    if !history.isExclusive(failure.node), other.diskState == .upToDate,
      let (sector, text) = missingSector(on: other.index, authority: other.index)
    {
      violate(.durability, "at the end sector \(sector) of node \(other.index) holds \(text)")
    }
    hasConverged = true
  }
}
