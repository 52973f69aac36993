/// Machines that start, stop and die, and the superblock on their disks.
import BlockTypes
import Metadata
package import Replication
import Wire

extension Cluster {
  /// Writes fresh metadata, as `create-md` does. The data is whatever the disk holds.
  package func createMetadata(_ node: SimulatedNode) {
    let block = Superblock(
      node: Self.nodeID(node.index), resource: "simulated",
      volumeBytes: UInt64(volumeSectors) * sectorSize, deviceID: entropy.next())
    node.sequence = 0
    var blocks = [block, block]
    blocks[0].sequence = 0
    blocks[1].sequence = 1
    for copy in 0...1 {
      let words = node.disk.words(for: Self.encode(blocks[copy]))
      let ticket = node.disk.submit(
        .write(words), start: volumeSectors + copy * 8, count: 8, forceUnitAccess: true,
        random: &diskRandom[node.index])
      _ = node.disk.finish(ticket, random: &diskRandom[node.index])
    }
    node.durableSuperblock = readSuperblock(node)
  }

  static func encode(_ block: Superblock) -> [UInt8] {
    var bytes = [UInt8](repeating: 0, count: Superblock.byteCount)
    unsafe bytes.withUnsafeMutableBytes { block.encode(into: $0) }
    return bytes
  }

  /// What an attach would find, and which copy the next write goes to.
  func readSuperblock(_ node: SimulatedNode) -> Superblock? {
    let copies = (0...1).map { copy in
      let start = volumeSectors + copy * 8
      return node.disk.bytes(for: (start..<(start + 8)).map { node.disk.word(at: $0) })
    }
    let choice = unsafe copies[0].withUnsafeBytes { first in
      unsafe copies[1].withUnsafeBytes { second in
        SuperblockChoice(copyA: first, copyB: second)
      }
    }
    switch choice {
    case .found(let block, let copy):
      node.nextCopy = 1 - copy
      node.sequence = block.sequence
      return block
    case .none, .damaged:
      violate(.metadata, "node \(node.index) has no valid superblock: \(choice)")
      return nil
    }
  }

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

  /// Gives the core the superblock on the disk.
  package func attach(_ index: Int) {
    let node = nodes[index]
    guard let block = readSuperblock(node) else { return }
    node.durableSuperblock = block
    say(
      """
      node \(index) attaches: \(block.diskState) dirty \(block.dirty) primary \(block.wasPrimary) \
      lineage \(Self.text(block.lineage)) base \(block.peers.first?.base.map(Self.text) ?? "-")
      """)
    node.replica.attach(block, token: 0, at: clock(node), entropy: entropy.next())
    finishStep(node)
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
      let other = nodes[1 - index]
      let metPrimary =
        node.role == .primary || (node.connection == .connected && other.role == .primary)
      if metPrimary { node.mayKnowItIsBehind = true }
      node.isUnreconciled = true
    }
    switch end {
    case .kill, .exit:
      node.disk.kill(random: &diskRandom[index])
      network.processGone(index, now: now, random: &networkRandom)
    case .powerLoss:
      node.disk.powerLoss(random: &diskRandom[index])
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

  /// Gives a command, as an administrator would.
  package func command(_ index: Int, _ command: Command) {
    let node = nodes[index]
    guard node.isRunning else { return }
    node.commandToken += 1
    node.pendingCommand = command
    lastResult[index] = nil
    say("node \(index) is told: \(command)")
    step(node, .command(command, token: node.commandToken))
  }
}
