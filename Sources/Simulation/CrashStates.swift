/// Every state that a crash can leave: small runs, a crash at every point of them, and at each
/// point every subset of the writes that might or might not have survived.
///
/// A point lies after each effect and after each event. The unsafe writes of a node at a point are
/// those in flight, and after a power loss also those that completed and no flush covered. Each is
/// kept or lost, in every combination while there are at most `unitLimit` of them; and each that
/// has more than one sector is torn in two ways besides, with all others kept and all others lost.
/// Then the machines start again, and every promise is checked until the pair is whole.
import BlockTypes
import Replication
import Wire

/// What becomes of one unsafe write.
package enum Fate: Character, Sendable {
  case kept = "k"
  case lost = "l"
  /// Only the first half of its sectors, and only the second.
  case firstHalf = "f"
  case secondHalf = "s"

  func offsets(_ count: Int) -> Range<Int> {
    switch self {
    case .kept: 0..<count
    case .lost: 0..<0
    case .firstHalf: 0..<(count + 1) / 2
    case .secondHalf: (count + 1) / 2..<count
    }
  }
}

/// Who crashes and how.
package enum CrashKind: String, CaseIterable, Sendable {
  case killFirst, killSecond, killBoth, powerFirst, powerSecond, powerBoth

  var nodes: [Int] {
    switch self {
    case .killFirst, .powerFirst: [0]
    case .killSecond, .powerSecond: [1]
    case .killBoth, .powerBoth: [0, 1]
    }
  }

  var end: Cluster.End {
    switch self {
    case .killFirst, .killSecond, .killBoth: .kill
    case .powerFirst, .powerSecond, .powerBoth: .powerLoss
    }
  }
}

/// One state: a crash at a point, and what survives it.
package struct CrashState: Sendable, CustomStringConvertible {
  package var scenario: CrashScenario
  package var point: Int
  package var kind: CrashKind
  /// Of the unsafe writes of the nodes that crash, one node after the other; what is not named is
  /// kept.
  package var fates: [Fate] = []

  package var description: String {
    "\(scenario)@\(point):\(kind.rawValue):\(String(fates.map(\.rawValue)))"
  }

  init(_ scenario: CrashScenario, point: Int, _ kind: CrashKind, fates: [Fate] = []) {
    self.scenario = scenario
    self.point = point
    self.kind = kind
    self.fates = fates
  }

  /// Reads what `description` gives.
  package init?(_ text: String) {
    let halves = text.split(separator: "@", omittingEmptySubsequences: false).map(String.init)
    guard halves.count == 2, let scenario = CrashScenario(halves[0]) else { return nil }
    let parts = halves[1].split(separator: ":", omittingEmptySubsequences: false).map(String.init)
    guard parts.count == 3, let point = Int(parts[0]), point >= 0,
      let kind = CrashKind(rawValue: parts[1])
    else { return nil }
    let fates = parts[2].compactMap(Fate.init(rawValue:))
    guard fates.count == parts[2].count else { return nil }
    self.init(scenario, point: point, kind, fates: fates)
  }
}

/// What was tried.
package struct CrashTally: Equatable, Sendable {
  package var scenarios = 0
  package var points = 0
  package var states = 0
  /// Points with more unsafe writes than `unitLimit`, where not every subset was tried.
  package var pointsCutShort = 0

  /// Nothing yet.
  package init() {}
}

/// The enumeration.
package enum CrashStates {
  /// Unsafe writes at a point of which every subset is tried.
  package static let unitLimit = 8

  /// Tries every state of `scenario`, or those of one in `share` points. Calls `report` for each
  /// state that breaks a promise, until it returns false.
  package static func tryAll(
    of scenario: CrashScenario, oneIn share: UInt64 = 1, salt: UInt64 = 0,
    canary: Canary? = nil, into tally: inout CrashTally,
    report: (CrashState, Violation) -> Bool
  ) {
    tally.scenarios += 1
    let plain = CrashRun(scenario, nil, canary: canary)
    if let violation = plain.violation {
      let none = CrashState(scenario, point: plain.points + 1, .killFirst)
      guard report(none, violation) else { return }
    }
    var random = SeededGenerator(seed: scenario.options.seed ^ salt)
    for point in 0...plain.points {
      for kind in CrashKind.allCases where random.below(share) == 0 {
        tally.points += 1
        var state = CrashState(scenario, point: point, kind)
        let first = CrashRun(scenario, state, canary: canary)
        let fates = combinations(first.units)
        if first.units.count > unitLimit { tally.pointsCutShort += 1 }
        for fate in fates {
          tally.states += 1
          state.fates = fate
          let run =
            fate.allSatisfy({ $0 == .kept }) ? first : CrashRun(scenario, state, canary: canary)
          guard let violation = run.violation else { continue }
          guard report(state, violation) else { return }
        }
      }
    }
  }

  /// Runs one state.
  package static func run(
    _ state: CrashState, canary: Canary? = nil
  ) -> (violation: Violation?, lines: [String]) {
    let run = CrashRun(state.scenario, state, canary: canary, isTracing: true)
    return (run.violation, run.lines)
  }

  /// Every fate of writes with so many sectors each.
  static func combinations(_ units: [Int]) -> [[Fate]] {
    let free = min(units.count, unitLimit)
    var all: [[Fate]] = []
    for bits in 0..<(1 << free) {
      // The newest come first in the list of flights: those beyond the limit are kept.
      all.append(
        units.indices.map { $0 < free && bits & (1 << $0) != 0 ? .lost : .kept })
    }
    for index in units.indices where units[index] > 1 {
      for torn in [Fate.firstHalf, .secondHalf] {
        for others in units.count > 1 ? [Fate.kept, .lost] : [.kept] {
          var fates = [Fate](repeating: others, count: units.count)
          fates[index] = torn
          all.append(fates)
        }
      }
    }
    return all
  }
}

/// One run of a scenario, with a crash or without.
struct CrashRun {
  /// Points that the requests took, without a crash.
  let points: Int
  /// Sectors of each unsafe write at the crash.
  let units: [Int]
  let violation: Violation?
  let lines: [String]

  init(
    _ scenario: CrashScenario, _ state: CrashState?, canary: Canary?, isTracing: Bool = false
  ) {
    var options = scenario.options
    options.canary = canary ?? .none
    let cluster = Cluster(options: options)
    cluster.isTracing = isTracing
    let isReady = cluster.prepare(scenario)
    var counted = 0
    if isReady {
      counted = cluster.serve(scenario, state)
      cluster.recover()
    }
    points = counted
    units = cluster.unsafeWrites
    violation = cluster.violations.first
    lines = cluster.trace
  }
}

extension Cluster {
  /// Lets time pass until `condition` holds; a violation when it does not within ten seconds.
  private func pass(_ what: String, until condition: () -> Bool) -> Bool {
    let end = now + 10_000_000_000
    while violations.isEmpty, !condition() {
      guard now < end else {
        violate(.progress, "never came: \(what)")
        return false
      }
      run(until: min(end, now + 50_000))
    }
    return violations.isEmpty
  }

  /// Brings the pair into the situation of the scenario.
  fileprivate func prepare(_ scenario: CrashScenario) -> Bool {
    let (primary, secondary) = (scenario.primary, 1 - scenario.primary)
    for index in 0...1 { start(index) }
    guard pass("a connection", until: { nodes.allSatisfy { $0.connection == .connected } }) else {
      return false
    }
    command(primary, .primary(force: true))
    let isPaired = { [nodes] in
      nodes.allSatisfy {
        $0.replication == .established && $0.diskState == .upToDate && $0.peerDisk == .upToDate
      }
    }
    guard pass("the first sync", until: isPaired) else { return false }
    operatorState.hasInitialised = true
    operatorState.preferred = primary
    // Whatever came before is safe: only what the scenario does is at stake.
    let isQuiet = { [nodes] in
      nodes.allSatisfy { $0.disk.inFlight == 0 && $0.replica.requestCount == 0 }
    }
    guard pass("silence", until: isQuiet) else { return false }
    for node in nodes { node.disk.crash(losesPower: true, []) }
    switch scenario.situation {
    case .pair: return true
    case .alone:
      end(secondary, .kill)
      return pass("word of it", until: { nodes[primary].connection != .connected })
    case .resync:
      command(secondary, .invalidate)
      return pass("a resync", until: { nodes[secondary].replication == .syncTarget })
    }
  }

  /// Makes the requests, with the crash of `state`; returns how many points they took.
  fileprivate func serve(_ scenario: CrashScenario, _ state: CrashState?) -> Int {
    points = 0
    crashState = state
    passPoint()
    let node = nodes[scenario.primary]
    for (slot, request) in scenario.requests.enumerated() where node.isRunning {
      submit(
        slot, node, request.operation, request.sectors,
        forceUnitAccess: request == .durable)
      guard !scenario.isTogether else { continue }
      _ = pass("an answer", until: { clients[slot].pending == nil })
    }
    _ = pass("the answers", until: { pendingRequests == 0 || crashState == nil && state != nil })
    run(until: now + 20_000_000)
    let count = points
    crashState = nil
    return count
  }

  /// One more effect or event has been carried out: the crash may strike here.
  func passPoint() {
    defer { points += 1 }
    guard let state = crashState, state.point == points else { return }
    crashState = nil
    say("crash \(state)")
    var fates = state.fates[...]
    for index in state.kind.nodes where nodes[index].isRunning {
      let units = nodes[index].disk.unsafeWrites(losesPower: state.kind.end == .powerLoss)
      unsafeWrites += units
      crashFates[index] = Array(fates.prefix(units.count))
      fates = fates.dropFirst(units.count)
      end(index, state.kind.end)
      crashFates[index] = nil
    }
  }

  /// The machines start again, and everything must come together.
  fileprivate func recover() {
    clientRequestsLeft = 0
    faultsAreOver = true
    convergenceDeadline = now + 600_000_000_000
    for node in nodes where !node.isRunning {
      node.startIsScheduled = true
      queue.schedule(at: now + 1_000_000 * UInt64(1 + node.index), .start(node: node.index))
    }
    startOperator()
    run(until: now + 3_600_000_000_000)
    if violations.isEmpty, !hasConverged { violate(.progress, "nothing is left to happen") }
  }
}
