/// One fault at every point of a small run: before and after each effect of the core, in turn.
///
/// Random seeds meet a window of a microsecond rarely; this enumeration cannot miss it. The run
/// is short (a first sync, a dozen requests, a cut, a switch-over, a restart) and the same each
/// time up to the fault, so a point is named by its node and the number of the effect.

/// What happens at the point.
package enum PointFault: String, CaseIterable, Sendable {
  case kill, powerLoss, powerLossOfBoth, cut, diskError
}

/// Where one fault strikes.
package struct FaultPoint: Equatable, Sendable, CustomStringConvertible {
  /// The node whose effects are counted.
  package var node: Int
  /// The fault comes when so many effects were carried out.
  package var effect: Int
  /// The fault.
  package var fault: PointFault

  /// Joins the parts.
  package init(node: Int, effect: Int, fault: PointFault) {
    self.node = node
    self.effect = effect
    self.fault = fault
  }

  /// Reads "node:effect:fault".
  package init?(_ text: String) {
    let parts = text.split(separator: ":").map(String.init)
    guard parts.count == 3, let node = Int(parts[0]), (0...1).contains(node),
      let effect = Int(parts[1]), effect >= 0, let fault = PointFault(rawValue: parts[2])
    else { return nil }
    self.init(node: node, effect: effect, fault: fault)
  }

  package var description: String { "\(node):\(effect):\(fault.rawValue)" }
}

/// Runs a small scenario once for each point.
package enum FaultPoints {
  /// The small run. Different seeds give different timings.
  package static func options(seed: UInt64) -> SwarmOptions {
    var options = SwarmOptions(quiet: seed)
    var random = SeededGenerator(seed: seed)
    options.volumeBlocks = 8
    options.hotBlocks = 2
    options.clientDepth = 3
    options.clientRequests = 14
    options.requestSectors = 12
    options.readPercent = 15
    options.flushPercent = 15
    options.trimPercent = 8
    options.think = Latency(floorUs: 10, spreadUs: 400_000)
    options.diskLatency = (0...1).map { _ in
      Latency(floorUs: 50, spreadUs: random.coin() ? 100 : 20_000)
    }
    options.networkDelay = Latency(floorUs: 30, spreadUs: random.coin() ? 100 : 10_000)
    options.resyncRequestBytes = 4096
    options.faults = [.cutConnection, .switchOver, .restartCleanly]
    options.faultCount = 3
    options.faultPauseMs = 1_500
    options.faultLastsMs = 500
    return options
  }

  /// How many effects each node carries out in the run of `seed` without a fault.
  package static func count(seed: UInt64) -> [Int] {
    let cluster = Cluster(options: options(seed: seed))
    cluster.runWhole()
    return cluster.nodes.map(\.effectCount)
  }

  /// Runs one point.
  package static func run(
    seed: UInt64, _ point: FaultPoint, isTracing: Bool = false
  ) -> (report: SeedReport, lines: [String]) {
    let cluster = Cluster(options: options(seed: seed))
    cluster.isTracing = isTracing
    cluster.faultPoint = point
    cluster.runWhole()
    return (Runner.report(of: cluster), cluster.trace)
  }

  /// Runs every `stride`-th point and returns the ones that broke a promise, at most `limit`.
  package static func failures(
    seed: UInt64, stride step: Int = 1, limit: Int = 10
  ) -> (points: Int, failures: [(FaultPoint, SeedReport)]) {
    var failures: [(FaultPoint, SeedReport)] = []
    var points = 0
    let counts = count(seed: seed)
    for node in 0...1 {
      for fault in PointFault.allCases {
        for effect in stride(from: 0, through: counts[node], by: step) {
          let point = FaultPoint(node: node, effect: effect, fault: fault)
          let report = run(seed: seed, point).report
          points += 1
          if !report.passed { failures.append((point, report)) }
          if failures.count >= limit { return (points, failures) }
        }
      }
    }
    return (points, failures)
  }
}

extension Cluster {
  /// The fault of `faultPoint` strikes.
  func strike(_ point: FaultPoint) {
    say("fault at point \(point)")
    switch point.fault {
    case .kill: end(point.node, .kill)
    case .powerLoss: end(point.node, .powerLoss)
    case .powerLossOfBoth: for index in 0...1 { end(index, .powerLoss) }
    case .cut: cut(.cutConnection)
    case .diskError: nodes[point.node].disk.faults.failsNext = true
    }
  }
}
