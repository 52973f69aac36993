/// Disturbances, the end of them, and what a whole run consists of.
import BlockTypes
import Replication
import Wire

extension Cluster {
  /// Runs everything that the options describe and returns what was broken, if anything.
  package func runWhole() {
    for index in 0...1 { queue.schedule(at: UInt64(index) * 10_000_000, .start(node: index)) }
    nodes[0].startIsScheduled = true
    nodes[1].startIsScheduled = true
    startOperator()
    if options.clientsDuringFirstSync {
      startClients()
    } else {
      for slot in clients.indices { queue.schedule(at: 20_000_000_000, .client(slot: slot)) }
    }
    if faultsLeft > 0 {
      let begin = options.clientsDuringFirstSync ? 200_000_000 : 20_000_000_000 as UInt64
      queue.schedule(at: begin + planRandom.below(options.faultPauseMs * 1_000_000), .fault(0))
    } else {
      queue.schedule(at: 30_000_000_000, .faultsOver)
    }
    run(until: 40 * 3_600_000_000_000)
    if violations.isEmpty, !hasConverged { violate(.progress, "nothing is left to happen") }
  }

  func disturb(_ number: Int) {
    guard faultsLeft > 0 else { return }
    faultsLeft -= 1
    let kind = options.faults[planRandom.index(options.faults.count)]
    burstLeft = options.burstRequests
    // The clients are at work when it strikes.
    queue.schedule(at: now + planRandom.below(30_000_000), .strike(kind))
    let pause = planRandom.below(options.faultPauseMs * 1_000_000)
    queue.schedule(
      at: now + pause + (faultsLeft == 0 ? options.faultLastsMs * 1_000_000 : 0),
      faultsLeft == 0 ? .faultsOver : .fault(number + 1))
  }

  func strike(_ kind: FaultKind) {
    guard !faultsAreOver else { return }
    hash.event(at: now, 14 << 56 | UInt64(kind.rawValue))
    say("fault: \(kind)")
    statistics.faults[kind.rawValue] += 1
    apply(kind)
  }

  private var primaryIndex: Int {
    nodes.first { $0.role == .primary }?.index ?? planRandom.index(2)
  }

  private func lasts(_ node: Int, _ kind: FaultKind) {
    var length = 1_000_000 + planRandom.below(options.faultLastsMs * 1_000_000)
    // Long enough for some operation to meet it.
    if kind == .readErrors || kind == .writeErrors || kind == .flushErrors {
      length += 3_000_000_000
    }
    queue.schedule(at: now + length, .faultEnds(node: node, kind))
    faultsUnderWay += 1
    if faultsUnderWay > 1 { reach(.severalFaults) }
  }

  private func apply(_ kind: FaultKind) {
    let primary = primaryIndex
    let node = planRandom.index(2)
    switch kind {
    case .killPrimary: crash(kind, primary, .kill)
    case .killSecondary: crash(kind, 1 - primary, .kill)
    case .killBoth: for index in 0...1 { crash(kind, index, .kill) }
    case .powerPrimary: crash(kind, primary, .powerLoss)
    case .powerSecondary: crash(kind, 1 - primary, .powerLoss)
    case .powerBoth: for index in 0...1 { crash(kind, index, .powerLoss) }
    case .rotSuperblock, .rotLog, .rotBitmap: rotMetadata(kind, node)
    case .clockLeap: leap(node)
    case .restartCleanly:
      guard nodes[node].isRunning, nodes[node].pendingCommand == nil else { return }
      struck(kind)
      command(node, .shutdown)
    case .pauseNode:
      guard nodes[node].isRunning else { return }
      let until = now + planRandom.below(options.faultLastsMs * 1_000_000)
      nodes[node].pausedUntil = max(nodes[node].pausedUntil, until)
    case .cutConnection, .halfOpenConnection: aimableCut(kind)
    case .corruptMessage: network.corruptNext = true
    case .isolateAndPromote:
      for index in 0...1 { setBlocked(true, from: index) }
      operatorState.promoteWhenAlone = 1 - primary
      faultsUnderWay += 1
      let length = (options.faultLastsMs + 3 * options.pingIntervalMs) * 1_000_000
      queue.schedule(at: now + planRandom.below(length), .faultEnds(node: node, kind))
    case .blockOneWay:
      setBlocked(true, from: node)
      lasts(node, kind)
    case .blockBothWays:
      for index in 0...1 { setBlocked(true, from: index) }
      lasts(node, kind)
    case .slowDisk, .readErrors, .writeErrors, .flushErrors, .badSectors, .hangDisk:
      disturbDisk(kind, primary)
    case .pauseSync:
      if nodes[node].replication.isSource || nodes[node].replication.isTarget { struck(kind) }
      step(nodes[node], .command(.pauseSync, token: 0))
      pausesUnderWay.append(kind)
      lasts(node, kind)
    case .resyncAfter:
      if nodes[node].replication.isSource || nodes[node].replication.isTarget { struck(kind) }
      step(nodes[node], .resyncOrder(mustWait: true))
      pausesUnderWay.append(kind)
      lasts(node, kind)
    case .switchOver, .demoteAndPromote, .disconnectCommand, .invalidateSecondary,
      .invalidateRemote, .promoteBoth, .carelessPromote, .detachPrimary:
      administer(kind, primary)
    }
  }

  private func disturbDisk(_ kind: FaultKind, _ primary: Int) {
    let node = planRandom.index(2)
    switch kind {
    case .slowDisk:
      let mostMs: UInt64 = [30, 300, 3_000][planRandom.index(3)]
      nodes[node].slowByNs = planRandom.below(mostMs * 1_000_000)
      nodes[node].slowsFlushesOnly = planRandom.index(3) == 0
      lasts(node, kind)
    case .readErrors:
      nodes[node].disk.faults.readError = Ratio(1, of: planRandom.within(1...20))
      lasts(node, kind)
    case .writeErrors:
      nodes[node].disk.faults.writeError = Ratio(1, of: planRandom.within(1...50))
      lasts(node, kind)
    case .flushErrors:
      nodes[node].disk.faults.flushError = Ratio(1, of: planRandom.within(1...5))
      lasts(node, kind)
    case .badSectors:
      // Where clients read: elsewhere nobody would notice.
      let sectors = min(options.hotBlocks, options.volumeBlocks) * 8
      let victim = planRandom.coin() ? primary : node
      for _ in 0...planRandom.index(16) { nodes[victim].disk.spoil(planRandom.index(sectors)) }
    case .hangDisk:
      nodes[node].hungUntil = .max
      // Half of them hang until the last fault is over.
      if planRandom.coin() { lasts(node, kind) }
    default: preconditionFailure("\(kind) is not of a disk")
    }
  }

  private func administer(_ kind: FaultKind, _ primary: Int) {
    guard nodes[primary].pendingCommand == nil, nodes[1 - primary].pendingCommand == nil else {
      return
    }
    struck(kind)
    switch kind {
    case .switchOver:
      operatorState.switchTo = 1 - primary
      command(primary, .secondary(heldOpen: false))
    case .detachPrimary: command(primary, .detach)
    case .demoteAndPromote: command(primary, .secondary(heldOpen: pendingRequests > 0))
    case .disconnectCommand:
      let node = planRandom.index(2)
      operatorState.disconnectedUntil[node] =
        now + planRandom.below(options.faultLastsMs * 1_000_000)
      if nodes[node].connection == .connected, nodes[1 - node].role == .primary {
        nodes[node].mayKnowItIsBehind = true
      }
      command(node, .disconnect)
    case .invalidateSecondary, .invalidateRemote:
      // Only where the other replica has everything: else this would be an operator's mistake.
      guard nodes[1 - primary].isRunning, nodes[primary].isRunning else { return }
      guard nodes[primary].diskState == .upToDate, hasEverything(primary) else { return }
      if kind == .invalidateRemote { return command(primary, .invalidateRemote) }
      command(1 - primary, .invalidate)
    case .promoteBoth:
      for index in 0...1 { command(index, .primary(force: false)) }
    case .carelessPromote: command(1 - primary, .primary(force: false))
    default: preconditionFailure("\(kind) is not for the administrator")
    }
  }

  /// Blocks or opens a path.
  package func setBlocked(_ value: Bool, from node: Int) {
    network.setBlocked(value, from: node, now: now, random: &networkRandom)
    drainNetwork()
  }

  /// Cuts every open connection.
  package func cut(_ kind: FaultKind) {
    if nodes.contains(where: { $0.connection == .connected }) { struck(kind) }
    for id in network.openConnections {
      let how: SimulatedNetwork<WireMessage>.Cut =
        kind == .cutConnection ? .bothTold : .halfOpen(untold: planRandom.index(2))
      network.cut(id, how, now: now, random: &networkRandom)
    }
    drainNetwork()
  }

  func endFault(_ kind: FaultKind, _ node: Int) {
    say("fault ends: \(kind)")
    faultsUnderWay -= 1
    if let first = pausesUnderWay.firstIndex(of: kind) { pausesUnderWay.remove(at: first) }
    switch kind {
    case .blockOneWay: setBlocked(false, from: node)
    case .isolateAndPromote:
      // Often nobody is Primary any more when the two meet.
      for index in 0...1 where planRandom.coin() { stepDown(index) }
      for index in 0...1 { setBlocked(false, from: index) }
    case .blockBothWays:
      for index in 0...1 { setBlocked(false, from: index) }
    case .pauseSync: step(nodes[node], .command(.resumeSync, token: 0))
    case .resyncAfter: step(nodes[node], .resyncOrder(mustWait: false))
    case .slowDisk: nodes[node].slowByNs = 0
    case .hangDisk: endHang(node)
    case .readErrors, .writeErrors, .flushErrors: nodes[node].disk.faults = DiskFaults()
    default: break
    }
  }

  private func stepDown(_ index: Int) {
    guard nodes[index].role == .primary, nodes[index].pendingCommand == nil else { return }
    command(index, .secondary(heldOpen: false))
  }

  /// The disk answers again, in an order of its own.
  package func endHang(_ index: Int) {
    let node = nodes[index]
    node.hungUntil = 0
    for answer in node.hungAnswers {
      queue.schedule(at: now + diskRandom[index].below(1_000_000), answer)
    }
    node.hungAnswers = []
  }

  /// From now on the world behaves; clients end soon, and everything must come together.
  func endFaults() {
    say("faults are over")
    faultsAreOver = true
    faultsOverAt = now
    faultsLeft = 0
    network.corruptNext = false
    for node in nodes {
      node.aimedEnd = nil
      countErrors(of: node)
    }
    aimedCut = nil
    operatorState.promoteWhenAlone = nil
    for node in nodes {
      step(node, .command(.resumeSync, token: 0))
      step(node, .resyncOrder(mustWait: false))
      node.slowByNs = 0
      node.disk.faults = DiskFaults()
      node.disk.heal()
      endHang(node.index)
      operatorState.disconnectedUntil[node.index] = 0
    }
    for index in 0...1 { setBlocked(false, from: index) }
    clientRequestsLeft = min(clientRequestsLeft, 100)
    convergenceDeadline = now + 600_000_000_000
  }
}
