/// A cluster that a test leads by hand: nothing happens but what the test asks for.
///
/// Every step of a scenario still passes all oracles: `finish` fails on any broken promise.
import BlockTypes
import Metadata
import Replication
import Testing
import Wire

@testable import Simulation

/// A cluster that a test leads by hand.
final class Scenario {
  let cluster: Cluster

  /// Two machines, switched off. `change` sets what the scenario needs to be different.
  init(seed: UInt64 = 1, _ change: (inout SwarmOptions) -> Void = { _ in }) {
    var options = SwarmOptions(quiet: seed)
    options.clientDepth = 16
    options.clientRequests = 0
    options.pingIntervalMs = 1_000
    options.timeoutMs = 500
    options.koCount = 2
    options.think = Latency(floorUs: 10, spreadUs: 10)
    change(&options)
    cluster = Cluster(options: options)
    cluster.isTracing = true
  }

  var first: SimulatedNode { cluster.nodes[0] }
  var second: SimulatedNode { cluster.nodes[1] }

  func start(_ nodes: Int...) { for node in nodes { cluster.start(node) } }

  /// Lets time pass.
  func run(milliseconds: UInt64) { cluster.run(until: cluster.now + milliseconds * 1_000_000) }

  /// Lets time pass until `condition` holds; false when it does not within the bound.
  @discardableResult
  func run(atMostMs bound: UInt64 = 30_000, until condition: (Scenario) -> Bool) -> Bool {
    let end = cluster.now + bound * 1_000_000
    while cluster.violations.isEmpty, !condition(self) {
      guard cluster.now < end else { return false }
      cluster.run(until: min(end, cluster.now + 100_000))
    }
    return condition(self)
  }

  /// Gives a command and waits for its answer.
  @discardableResult
  func tell(_ node: Int, _ command: Command) -> CommandResult? {
    cluster.command(node, command)
    run { $0.cluster.nodes[node].pendingCommand == nil }
    return cluster.lastResult[node]
  }

  /// Both nodes started, node 0 Primary, node 1 synced: where most scenarios begin.
  func makePair() {
    start(0, 1)
    run { $0.first.connection == .connected }
    tell(0, .primary(force: true))
    #expect(run { $0.isInSync })
  }

  /// From a pair to a split brain that both have found out. Node 0 writes sectors 8 to 15 alone,
  /// node 1 sectors 16 to 23.
  func split() {
    for node in 0...1 { cluster.setBlocked(true, from: node) }
    run { $0.first.connection != .connected && $0.second.connection != .connected }
    #expect(tell(1, .primary(force: false))?.isDone == true)
    #expect(write(0, 8..<16) == .done)
    #expect(write(1, 16..<24) == .done)
    for node in 0...1 { tell(node, .secondary(heldOpen: false)) }
    for node in 0...1 { cluster.setBlocked(false, from: node) }
    #expect(run { $0.first.connection == .standAlone && $0.second.connection == .standAlone })
  }

  var isInSync: Bool {
    cluster.nodes.allSatisfy {
      $0.connection == .connected && $0.replication == .established && $0.diskState == .upToDate
        && $0.peerDisk == .upToDate
    }
  }

  /// Writes through a node and waits for the answer.
  @discardableResult
  func write(_ node: Int, _ sectors: Range<Int>, forceUnitAccess: Bool = false) -> Outcome? {
    request(node, .write, sectors, forceUnitAccess: forceUnitAccess)
  }

  @discardableResult
  func request(
    _ node: Int, _ operation: Replication.Operation, _ sectors: Range<Int> = 0..<0,
    forceUnitAccess: Bool = false
  ) -> Outcome? {
    cluster.request(
      client: 0, node: node, operation, sectors, forceUnitAccess: forceUnitAccess)
    run { !$0.cluster.isPending(client: 0) }
    return cluster.outcome(client: 0)
  }

  /// Begins a write without waiting.
  func begin(client: Int, _ node: Int, _ sectors: Range<Int>) {
    cluster.request(client: client, node: node, .write, sectors)
  }

  var areIdentical: Bool {
    (0..<cluster.volumeSectors).allSatisfy { first.disk.word(at: $0) == second.disk.word(at: $0) }
  }

  func generations(_ node: Int) -> Int {
    cluster.nodes[node].replica.superblock?.lineage.generations.count ?? 0
  }

  /// Everything that had to hold, held; both replicas are equal and hold what was acknowledged.
  func finish(sourceLocation: SourceLocation = #_sourceLocation) {
    #expect(run { $0.isInSync }, "not in sync", sourceLocation: sourceLocation)
    run { $0.cluster.pendingRequests == 0 && $0.isAtRest }
    #expect(areIdentical, sourceLocation: sourceLocation)
    for node in 0...1 {
      let missing = cluster.missingSector(on: node, authority: nil)
      #expect(missing == nil, sourceLocation: sourceLocation)
      #expect(cluster.nodes[node].buffers.takenCount == 0, sourceLocation: sourceLocation)
    }
    expectNoViolation(sourceLocation: sourceLocation)
  }

  func expectNoViolation(sourceLocation: SourceLocation = #_sourceLocation) {
    if let violation = cluster.violations.first {
      let tail = cluster.trace.suffix(30).joined(separator: "\n")
      Issue.record("\(violation)\n\(tail)", sourceLocation: sourceLocation)
    }
  }

  private var isAtRest: Bool {
    cluster.nodes.allSatisfy { $0.replica.requestCount == 0 && $0.disk.inFlight == 0 }
  }
}

extension CommandResult {
  var isDone: Bool {
    if case .done = self { true } else { false }
  }
  var refusal: Refusal? {
    if case .refused(let refusal) = self { refusal } else { nil }
  }
}
