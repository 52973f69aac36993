/// Runs about online verify: content rots on the Secondary's disk, clients write, and a verify from
/// either node must find exactly what differs; then reconnecting must mend it.
///
/// Rot is not among the faults of an ordinary run: a replica that lies about acknowledged data
/// breaks promises that hold for honest disks, until a verify has found it.
import BlockTypes
import Replication
import Wire

extension Canary {
  /// Whether only runs about online verify can find it.
  package var isFoundByVerifying: Bool {
    self == .verifyWithoutLock || self == .markDifferenceHere || self == .repairWrongWay
      || self == .repairWithoutLock
  }
}

/// Runs about online verify.
package enum VerifyRuns {
  /// What the run of `seed` is like: an ordinary one without its faults.
  package static func options(seed: UInt64, canary: Canary? = nil) -> SwarmOptions {
    var options = SwarmOptions(seed: seed)
    options.faults = []
    options.faultCount = 0
    options.canary = canary ?? .none
    options.clientRequests = 4_000
    options.clientsDuringFirstSync = false
    options.wrongNode = .never
    // A disk that is merely slow is not to be given up: nothing disturbs these runs.
    options.diskTimeoutMs = 0
    return options
  }

  /// Runs one seed.
  package static func run(
    seed: UInt64, canary: Canary? = nil, isTracing: Bool = false
  ) -> (report: SeedReport, lines: [String]) {
    let cluster = Cluster(options: options(seed: seed, canary: canary))
    cluster.isTracing = isTracing
    cluster.runVerifies()
    return (Runner.report(of: cluster), cluster.trace)
  }

  /// The first seed that breaks a promise; `nil` when none of `count` does.
  package static func firstFailure(
    from first: UInt64, count: UInt64, canary: Canary
  ) -> SeedReport? {
    for seed in first..<(first + count) {
      let report = run(seed: seed, canary: canary).report
      if !report.passed { return report }
    }
    return nil
  }
}

extension Cluster {
  /// Lets time pass until `condition` holds; a violation when it does not within a minute.
  private func pass(_ what: String, until condition: () -> Bool) -> Bool {
    let end = now + 60_000_000_000
    while violations.isEmpty, !condition() {
      guard now < end else {
        violate(.progress, "never came: \(what)")
        return false
      }
      run(until: min(end, now + 1_000_000))
    }
    return violations.isEmpty
  }

  private var arePaired: Bool {
    nodes.allSatisfy {
      $0.connection == .connected && $0.replication == .established && $0.diskState == .upToDate
        && $0.peerDisk == .upToDate
    }
  }

  private func give(_ node: Int, _ command: Command) -> Bool {
    self.command(node, command)
    return pass("the answer to \(command)") { nodes[node].pendingCommand == nil }
  }

  func runVerifies() {
    for index in 0...1 { start(index) }
    guard pass("a connection", until: { nodes.allSatisfy { $0.connection == .connected } }),
      give(0, .primary(force: true)), pass("the first sync", until: { arePaired })
    else { return }
    for slot in clients.indices { queue.schedule(at: now + 1_000_000, .client(slot: slot)) }
    var primary = 0
    for _ in 0..<4 {
      run(until: now + planRandom.within(1_000_000...300_000_000))
      let isHeld =
        switch planRandom.below(3) {
        case 0: rotAndMend(primary)
        case 1: rotAndRepair(&primary)
        default: disturbVerify(&primary)
        }
      guard isHeld else { return }
    }
    finishClients(primary)
  }

  /// Blocks rot on the Secondary; a verify from either side finds those that still differ.
  private func rotAndMend(_ primary: Int) -> Bool {
    for _ in 0...planRandom.index(6) {
      _ = rot(planRandom.index(options.volumeBlocks), on: 1 - primary)
    }
    let leader = planRandom.index(2)
    guard verify(leader, VerifyPlan()) else { return false }
    guard nodes[leader].lastVerify?.isComplete == true else {
      violate(.verify, "a verify that nothing disturbed is not complete")
      return false
    }
    guard checkMarks() else { return false }
    // What was found is mended by a reconnect, and nothing else is copied.
    guard give(planRandom.index(2), .disconnect) else { return false }
    for index in 0...1 where nodes[index].connection == .standAlone {
      guard give(index, .connect) else { return false }
    }
    guard pass("the resync of what was found", until: { arePaired }) else { return false }
    forgetRot()
    return true
  }

  private func forgetRot() {
    for node in nodes {
      node.everRotten = []
      node.rotten = []
    }
  }

  /// Blocks rot on either node; a repair that either node leads copies them from the other one,
  /// while clients go on and, sometimes, roles change.
  private func rotAndRepair(_ primary: inout Int) -> Bool {
    let victim = planRandom.index(2)
    for _ in 0...planRandom.index(12) {
      _ = rot(planRandom.index(options.volumeBlocks), on: victim)
    }
    let leader = planRandom.index(2)
    var plan = VerifyPlan()
    plan.repairSource = leader == victim ? .peer : .local
    if planRandom.coin() {
      guard verify(planRandom.index(2), VerifyPlan()) else { return false }
      plan.onlyMarked = true
    }
    guard give(leader, .verify(plan)) else { return false }
    guard lastResult[leader] == .done else {
      violate(.verify, "a repair between two UpToDate nodes was refused: \(lastResult)")
      return false
    }
    switch planRandom.below(4) {
    case 0, 1:
      run(until: now + planRandom.below(10_000_000))
      guard switchOver(&primary) else { return false }
    case 2 where victim != primary:
      // A Primary that goes on alone is the source of the resync, and its rot would count.
      run(until: now + planRandom.below(10_000_000))
      plan.onlyMarked = false
      guard cutAndWait(), pass("peace after a cut", until: { arePaired }),
        give(leader, .verify(plan))
      else { return false }
    default: break
    }
    guard
      pass(
        "the end of a repair", until: { nodes.allSatisfy { $0.replication == .established } }),
      checkRepaired(leader)
    else { return false }
    // A flush that was under way when a block was repaired does not cover it.
    run(until: now + 2_000_000_000)
    forgetRot()
    return violations.isEmpty
  }

  private func checkRepaired(_ leader: Int) -> Bool {
    let last = nodes[leader].lastVerify
    guard last?.isComplete == true else {
      violate(
        .verify, "a repair that no cut disturbed is not complete: \(String(describing: last))")
      return false
    }
    for block in 0..<options.volumeBlocks {
      let sectors = (block * 8)..<(block * 8 + 8)
      if sectors.contains(where: { isInFlight($0, node: 0) || isInFlight($0, node: 1) }) {
        continue
      }
      let differs = sectors.contains { nodes[0].disk.word(at: $0) != nodes[1].disk.word(at: $0) }
      let isMarked = nodes.contains {
        $0.replica.mayDiffer(BlockIndex(UInt64(block)), fromPeer: 0)
      }
      guard differs || isMarked else { continue }
      violate(
        .verify,
        "after a repair block \(block) \(differs ? "differs" : "is the same") and is "
          + "\(isMarked ? "" : "not ")marked")
      return false
    }
    return true
  }

  private func cutAndWait() -> Bool {
    let before = nodes.map(\.losses)
    cut(.cutConnection)
    return pass("word of the cut") {
      zip(nodes, before).allSatisfy { $0.losses > $1 || $0.connection != .connected }
    }
  }

  private func switchOver(_ primary: inout Int) -> Bool {
    guard give(primary, .secondary(heldOpen: false)) else { return false }
    primary = 1 - primary
    // Refused while the word of the other one's demotion is under way.
    repeat {
      run(until: now + 1_000_000)
      guard give(primary, .primary(force: false)) else { return false }
    } while lastResult[primary] != .done
    return true
  }

  /// A verify that meets a cut or a change of roles ends, and finds nothing where nothing differs.
  private func disturbVerify(_ primary: inout Int) -> Bool {
    let leader = planRandom.index(2)
    var plan = VerifyPlan()
    plan.start = planRandom.below(UInt64(options.volumeBlocks)) * blockSize
    plan.stop = plan.start + planRandom.below(UInt64(options.volumeBlocks) * blockSize) + 1
    guard give(leader, .verify(plan)) else { return false }
    run(until: now + planRandom.below(20_000_000))
    switch planRandom.below(3) {
    case 0:
      guard cutAndWait() else { return false }
    case 1: guard switchOver(&primary) else { return false }
    default: break
    }
    return pass("the end of a disturbed verify") {
      nodes.allSatisfy { !$0.replication.isVerifying } && arePaired
    }
  }

  private func verify(_ leader: Int, _ plan: VerifyPlan) -> Bool {
    guard give(leader, .verify(plan)) else { return false }
    guard lastResult[leader] == .done else {
      violate(.verify, "a verify between two UpToDate nodes was refused: \(lastResult)")
      return false
    }
    return pass("the end of a verify") {
      nodes.allSatisfy { $0.replication == .established } && nodes[leader].lastVerify != nil
    }
  }

  /// Every block that differs is marked on both sides, and nothing is that never differed.
  private func checkMarks() -> Bool {
    for block in 0..<options.volumeBlocks {
      let sectors = (block * 8)..<(block * 8 + 8)
      if sectors.contains(where: { isInFlight($0, node: 0) || isInFlight($0, node: 1) }) {
        continue
      }
      let differs = sectors.contains { nodes[0].disk.word(at: $0) != nodes[1].disk.word(at: $0) }
      for node in nodes {
        let isMarked = node.replica.mayDiffer(BlockIndex(UInt64(block)), fromPeer: 0)
        // A write may have covered what had rotted, but not all of the block.
        let mayDiffer = differs || nodes.contains { $0.everRotten.contains(block) }
        guard isMarked ? !mayDiffer : differs else { continue }
        violate(
          .verify,
          "after a verify block \(block) \(differs ? "differs" : "is the same") and is "
            + "\(isMarked ? "" : "not ")marked on node \(node.index)")
        return false
      }
    }
    return true
  }

  private func finishClients(_ primary: Int) {
    clientRequestsLeft = 0
    guard pass("the last answers", until: { pendingRequests == 0 && isConverged }) else { return }
    checkEnd()
  }
}
