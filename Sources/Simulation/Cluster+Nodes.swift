/// Machines that start, stop and die, and the superblock on their disks.
import BlockTypes
import Metadata
package import Replication
import Wire

extension Cluster {
  /// Starts the daemon: attach, connect.
  package func start(_ index: Int) {
    let node = nodes[index]
    guard !node.isRunning else { return }
    node.forgetRun(bufferCount: options.bufferCount)
    node.isRunning = true
    node.startIsScheduled = false
    node.clockOffset = entropy.next() >> 20
    node.replica = Replica(
      options: Self.replicaOptions(options, index, instance: entropy.next()))
    network.setListening(true, node: index)
    say("node \(index) starts")
    attach(index)
    command(index, .connect)
  }

  static func text(_ generation: Generation) -> String {
    "\(generation.number)/\(generation.id & 0xFFF)by\(generation.author.value)"
  }

  static func text(_ lineage: Lineage) -> String {
    "[\(lineage.generations.map(text).joined(separator: " "))]"
  }

  func clock(_ node: SimulatedNode) -> Instant {
    Instant(nanoseconds: now + node.clockOffset)
  }

  /// How the process of a node ends.
  package enum End: Sendable {
    /// kill -9: the machine goes on.
    case kill
    /// The machine loses power.
    case powerLoss
    /// After a clean shutdown.
    case exit
  }

  /// Ends the process on a node.
  package func end(_ index: Int, _ wanted: End) {
    let node = nodes[index]
    guard node.isRunning else { return }
    // A disk that failed a flush is not used again before a power cycle has shown what it lost.
    let end = node.disk.hasDoomedWrites ? End.powerLoss : wanted
    say("node \(index) ends: \(end)")
    if end != .exit {
      if node.diskState != .diskless, meetsPrimary(node) { node.mayKnowItIsBehind = true }
      node.isUnreconciled = true
    }
    switch end {
    case .exit:
      // The driver lets go of the disk when nothing is under way.
      node.disk.finishAll(random: &diskRandom[index])
      network.processGone(index, now: now, random: &networkRandom)
    case .kill:
      if let fates = crashFates[index] {
        node.disk.crash(losesPower: false, fates)
      } else {
        node.disk.kill(random: &diskRandom[index])
      }
      network.processGone(index, now: now, random: &networkRandom)
    case .powerLoss:
      if let fates = crashFates[index] {
        node.disk.crash(losesPower: true, fates)
      } else {
        node.disk.powerLoss(random: &diskRandom[index])
      }
      network.powerGone(index, random: &networkRandom)
      node.lostPower = true
      node.lostPowerAt = now
      history.powerLost(index)
      checkDurable(index)
    }
    drainNetwork()
    history.processEnded(index)
    node.forgetRun(bufferCount: options.bufferCount)
    isDurable(readSuperblock(node), node)
    readMarks(node)
    checkCoverage()
    relaxAfterCrashes()
    abandonClients(of: index)
  }

  /// When both crashed and one of them lost power, nobody can tell which of the writes that no
  /// flush covered are left where: only what was flushed is promised.
  private func relaxAfterCrashes() {
    guard nodes.allSatisfy({ $0.isUnreconciled }), nodes.contains(where: { $0.lostPower }) else {
      return
    }
    guard !history.isExclusive(0), !history.isExclusive(1), ahead == nil else { return }
    for node in 0...1 { history.powerLost(node) }
  }

  /// Which replica's lineage on disk goes further than the other's; `nil` when neither does.
  var ahead: Int? {
    guard let first = nodes[0].durableSuperblock, let second = nodes[1].durableSuperblock else {
      return nil
    }
    switch first.lineage.relation(to: second.lineage) {
    case .extends, .otherEmpty: return 0
    case .extended, .selfEmpty: return 1
    case .equal:
      let firstIs = first.peers.first?.base != nil
      let secondIs = second.peers.first?.base != nil
      if firstIs == secondIs { return nil }
      return firstIs ? 0 : 1
    case .bothEmpty, .parted, .unrelated: return nil
    }
  }

  /// Whether each replica's lineage on disk has a generation that the other one lacks. Then neither
  /// can know what the other acknowledged, and an administrator may take either.
  var haveParted: Bool {
    guard let first = nodes[0].durableSuperblock, let second = nodes[1].durableSuperblock else {
      return false
    }
    if case .parted = first.lineage.relation(to: second.lineage) { return true }
    return false
  }

  /// Gives a command, as an administrator would.
  package func command(_ index: Int, _ command: Command) {
    let node = nodes[index]
    guard node.isRunning else { return }
    node.commandToken += 1
    node.pendingCommand = command
    lastResult[index] = nil
    switch command {
    case .discard: node.mayDiscard = true
    case .primary: node.hadPartedBefore = haveParted
    case .skipFirstSync: operatorState.takesForEqual = true
    case .connect, .disconnect: node.mayDiscard = false
    default: break
    }
    say("node \(index) is told: \(command)")
    step(node, .command(command, token: node.commandToken))
  }
}
