/// The administrator: starts what is down, promotes, reconnects, resolves a split brain.
///
/// He sees the machines, and what a careful administrator knows of their history: he promotes a
/// node without force only when it has every acknowledged write, except where a run wants him
/// careless.
import BlockTypes
import Metadata
import Replication
import Wire

/// What the administrator remembers.
struct OperatorState {
  /// The first `primary --force` was done.
  var hasInitialised = false
  /// Somebody was told that two fresh disks are equal, and nobody was promoted since.
  var takesForEqual = false
  /// The node that he wants as Primary.
  var preferred = 0
  /// Since when no node has been Primary.
  var withoutPrimarySince: UInt64?
  /// The resolution of a split brain under way: the victim.
  var victim: Int?
  /// The victim's data is given up by `connect --discard-my-data`, not by `invalidate`.
  var discardsOnConnect = false
  /// Nodes that he leaves disconnected until then.
  var disconnectedUntil: [UInt64] = [0, 0]
  /// He looks at the cluster by himself.
  var isActive = false
  /// A switch-over under way: who becomes Primary when the other is Secondary.
  var switchTo: Int?
  /// He lets the two nodes meet before he promotes one.
  var promotesFrom: UInt64 = 0
  /// A node that he promotes as soon as it has lost its peer, whatever the peer does.
  var promoteWhenAlone: Int?
  /// Turns in which a node was diskless.
  var disklessTurns = [0, 0]
}

extension Cluster {
  /// Lets the administrator look at the cluster from time to time.
  package func startOperator() {
    operatorState.isActive = true
    queue.schedule(at: now + 100_000_000, .operatorTurn)
  }

  func operate() {
    guard operatorState.isActive else { return }
    hash.event(at: now, 12 << 56)
    for node in nodes { lookAfter(node) }
    if let alone = operatorState.promoteWhenAlone { promote(alone) }
    if operatorState.victim != nil { resolve() } else { lookForSplitBrain() }
    if operatorState.victim == nil { lookForPrimary() }
    if faultsAreOver, clientRequestsLeft == 0, isConverged { checkEnd() }
    queue.schedule(at: now + planRandom.within(50_000_000...600_000_000), .operatorTurn)
  }

  private func promote(_ alone: Int) {
    let node = nodes[alone]
    guard node.isRunning, node.connection != .connected, node.pendingCommand == nil else { return }
    operatorState.promoteWhenAlone = nil
    struck(.isolateAndPromote)
    // Careless: what a resync has begun to replace is taken for good.
    let isBroken =
      node.diskState == .inconsistent && node.durableSuperblock?.lineage.isEmpty == false
    command(alone, .primary(force: isBroken && planRandom.coin()))
  }

  private func lookAfter(_ node: SimulatedNode) {
    let index = node.index
    guard node.isRunning else {
      if !node.startIsScheduled {
        node.startIsScheduled = true
        queue.schedule(at: now + planRandom.below(5_000_000_000), .start(node: index))
      }
      return
    }
    guard node.pendingCommand == nil, node.pausedUntil <= now else { return }
    if node.diskState == .diskless, !isDead(index) {
      operatorState.disklessTurns[index] += 1
      if operatorState.disklessTurns[index] > options.disklessTurns { reattach(node) }
      return
    }
    operatorState.disklessTurns[index] = 0
    if node.connection == .standAlone, operatorState.victim == nil,
      now >= operatorState.disconnectedUntil[index], !needsResolution(node)
    {
      command(index, .connect)
    }
  }

  /// A disk failed: the daemon is restarted on it, as after replacing a cable.
  private func reattach(_ node: SimulatedNode) {
    operatorState.disklessTurns[node.index] = 0
    node.disk.faults = DiskFaults()
    if node.role == .primary { return reattachUnderClients(node) }
    if node.disk.hasDoomedWrites || planRandom.coin() {
      end(node.index, .kill)
    } else {
      attach(node.index)
    }
  }

  /// A Primary's disk comes back, or a new one takes its place, while clients go on.
  private func reattachUnderClients(_ node: SimulatedNode) {
    // He looks at both machines: the node may not have noticed yet that its peer is gone.
    let other = nodes[1 - node.index]
    let isServed =
      node.connection == .connected && other.connection == .connected
      && other.diskState == .upToDate && node.peerDisk == .upToDate
    guard isServed, planRandom.index(4) != 0 else { return end(node.index, .kill) }
    // The kernel has not let go of the old one yet.
    guard node.disk.inFlight == 0 else { return }
    // One that failed a flush may read well and keep nothing: a power cycle would show it.
    let isNew = planRandom.coin() || node.disk.hasDoomedWrites
    if isNew { replaceDisk(node.index) }
    attach(node.index)
    if node.replica.superblock == nil { return end(node.index, .kill) }
    statistics.attachedUnderClients += 1
  }

  /// Puts an empty disk in the place of the old one, with fresh metadata.
  package func replaceDisk(_ index: Int) {
    let node = nodes[index]
    say("node \(index) gets a new disk")
    if history.isExclusive(index) {
      violate(.divergence, "the disk of node \(index) alone holds acknowledged writes")
    }
    history.gaveUp(index, keepsSeen: node.role == .primary)
    countErrors(of: node)
    node.disk = SimulatedDisk(sectorCount: node.disk.sectorCount)
    (node.ring, node.ringWords) = ([], [])
    node.logHasRotted = false
    node.mirrored = nil
    node.wroteCopyInEpoch = -1
    node.everRotten = []
    node.hungUntil = 0
    createMetadata(node)
    readMarks(node)
  }

  private func needsResolution(_ node: SimulatedNode) -> Bool {
    switch node.reason {
    case .splitBrain, .bothHoldUnshared, .inconsistentAhead, .primaryWouldBeTarget, .bothPrimary,
      .policiesDiffer, .bitmapsDoNotCover, .primaryCannotYield, .undoTooLarge,
      .undoNoSpace, .undoFailed, .exposedDataDiffers, .unrelatedData:
      true
    default: false
    }
  }

  private func lookForSplitBrain() {
    guard nodes.allSatisfy({ $0.isRunning && $0.connection != .connected }) else { return }
    guard let node = nodes.first(where: { $0.connection == .standAlone && needsResolution($0) })
    else { return }
    let other = nodes[1 - node.index]
    switch node.reason {
    case .splitBrain, .bothHoldUnshared, .policiesDiffer, .bitmapsDoNotCover,
      .primaryCannotYield, .undoTooLarge, .undoNoSpace, .undoFailed:
      operatorState.victim = chooseVictim()
      operatorState.discardsOnConnect = planRandom.index(4) != 0
    case .inconsistentAhead:
      operatorState.victim = node.diskState == .inconsistent ? node.index : other.index
      operatorState.discardsOnConnect = planRandom.coin()
    case .unrelatedData:
      operatorState.victim = chooseVictim()
      operatorState.discardsOnConnect = false
    case .bothPrimary, .primaryWouldBeTarget:
      // One of the two has to give up the role; it is the one with less to lose.
      let victim = chooseVictim()
      operatorState.promotesFrom = now + 10_000_000_000
      if nodes[victim].role == .primary { return demote(victim) }
      if nodes[1 - victim].role == .primary, node.reason == .primaryWouldBeTarget {
        return demote(1 - victim)
      }
      for index in 0...1 where nodes[index].connection == .standAlone { command(index, .connect) }
    case .exposedDataDiffers:
      // The clients of a Primary without a disk have to begin anew.
      if let primary = nodes.first(where: { $0.role == .primary }) { return demote(primary.index) }
      for index in 0...1 where nodes[index].connection == .standAlone { command(index, .connect) }
    default: return
    }
    if let victim = operatorState.victim { say("the operator gives up the data of node \(victim)") }
  }

  private func chooseVictim() -> Int {
    if history.isExclusive(0) != history.isExclusive(1) { return history.isExclusive(0) ? 1 : 0 }
    if let ahead { return 1 - ahead }
    return planRandom.index(2)
  }

  private func demote(_ index: Int) {
    guard nodes[index].pendingCommand == nil else { return }
    command(index, .secondary(heldOpen: false))
  }

  /// Demotes the victim, throws its data away, connects both.
  private func resolve() {
    guard let victim = operatorState.victim else { return }
    let node = nodes[victim]
    let other = nodes[1 - victim]
    guard node.isRunning, other.isRunning, node.pendingCommand == nil else { return }
    // They have met by themselves, and the victim was copied before he looked again.
    let isOver = nodes.allSatisfy { $0.replication == .established && $0.diskState == .upToDate }
    if isOver {
      operatorState.victim = nil
      isBranched = false
      return
    }
    if other.diskState != .upToDate, other.role != .primary, !hasGoodData(other.index) {
      operatorState.victim = nil
      return
    }
    if node.role == .primary { return demote(victim) }
    if operatorState.discardsOnConnect, other.diskState == .upToDate {
      // Should the two not come together, the split brain is found again.
      operatorState.victim = nil
      let isCareless = planRandom.chance(Ratio(1, of: 6))
      command(victim, .discard(isCareless ? .withoutUndo : DiscardPlan()))
      if other.connection == .standAlone, other.pendingCommand == nil {
        command(other.index, .connect)
      }
      return
    }
    if node.diskState != .inconsistent || node.replica.superblock?.lineage.isEmpty == false {
      command(victim, .invalidate)
      return
    }
    if other.diskState != .upToDate, other.pendingCommand == nil {
      command(other.index, .primary(force: true))
      return
    }
    operatorState.victim = nil
    isBranched = false
    for index in 0...1 where nodes[index].connection == .standAlone { command(index, .connect) }
  }

  private func hasGoodData(_ index: Int) -> Bool {
    nodes[index].diskState != .diskless && nodes[index].diskState != .inconsistent
  }

  /// Whether `index` has every acknowledged write that a careful administrator knows of.
  func hasEverything(_ index: Int) -> Bool {
    let counted = history.authority(on: index, ahead: ahead, isBranched: false)
    if history.isForked { return false }
    return missingSector(on: index, authority: counted) == nil
  }

  private func lookForPrimary() {
    let running = nodes.filter { $0.isRunning && $0.pausedUntil <= now }
    if nodes.contains(where: { $0.isRunning && $0.role == .primary }) {
      operatorState.withoutPrimarySince = nil
      return
    }
    let since = operatorState.withoutPrimarySince ?? now
    operatorState.withoutPrimarySince = since
    guard !running.contains(where: { $0.pendingCommand != nil }) else { return }
    let hasData = nodes.contains {
      $0.durableSuperblock?.lineage.isEmpty == false && !isDead($0.index)
    }
    guard operatorState.hasInitialised || hasData else { return initialise() }
    guard now >= operatorState.promotesFrom else { return }
    if let target = operatorState.switchTo {
      operatorState.preferred = target
      operatorState.switchTo = nil
    }
    let waited = now - since
    for node in running where node.diskState == .upToDate && hasEverything(node.index) {
      let mayTake =
        node.index == operatorState.preferred || (options.failsOver && waited > 1_000_000_000)
        || waited > 60_000_000_000
      guard mayTake else { continue }
      operatorState.preferred = node.index
      command(node.index, .primary(force: false))
      return
    }
    // Nobody is UpToDate and nothing moves: after a while he takes the best copy by force.
    guard waited > 40_000_000_000, running.count == 2 else { return }
    // He may also have invalidated one node while the other could not know, and outdated itself.
    for node in running where hasGoodData(node.index) && hasEverything(node.index) {
      let other = nodes[1 - node.index]
      guard node.connection != .connected || other.diskState == .inconsistent else { continue }
      command(node.index, .primary(force: true))
      return
    }
  }

  private func initialise() {
    let first = isDead(0) ? 1 : 0
    let node = nodes[first]
    guard node.isRunning, node.diskState == .inconsistent else { return }
    guard node.pendingCommand == nil, !node.replica.isSuspended else { return }
    command(first, .primary(force: true))
  }

  func replied(_ node: SimulatedNode, _ token: UInt64, _ result: CommandResult) {
    guard token == node.commandToken, token > 0, let command = node.pendingCommand else { return }
    node.pendingCommand = nil
    lastResult[node.index] = result
    say("node \(node.index) answers \(command): \(result)")
    hash.event(at: now, 13 << 56 | UInt64(node.index))
    guard case .done = result else { return }
    switch command {
    case .primary(let force):
      if force { operatorState.hasInitialised = true }
    case .invalidate: history.gaveUp(node.index)
    case .discard(let plan): node.declinesUndo = !plan.keepsUndo
    case .connect, .connectTentatively: node.declinesUndo = false
    case .disconnect: break
    case .shutdown: end(node.index, .exit)
    case .resyncAllowed, .giveWay, .secondary, .detach, .invalidateRemote, .skipFirstSync,
      .pauseSync,
      .resumeSync, .verify:
      break
    }
  }
}
