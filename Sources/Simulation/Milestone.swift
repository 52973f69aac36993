/// What the runs of a swarm should reach, counted: a fault that never strikes and a state that is
/// never seen test nothing.
import BlockTypes
import Metadata
import Replication
import Wire

/// Something that a run can reach besides its faults.
package enum Milestone: Int, CaseIterable, Sendable {
  case promotion, resync, interruptedResync, splitBrain, severalFaults, lateHello
  case tornWrite, lostWrite, crashDuringMetadata, cutDuringFlush
}

extension Statistics {
  /// What `reached` counts: faults that had an effect, milestones, and what the two replicas found
  /// when they met, by the row of the table.
  package static var namesOfReached: [String] {
    FaultKind.allCases.map { "\($0)" } + Milestone.allCases.map { "\($0)" }
      + Rule.allCases.map { "met: \($0)" }
  }

  /// How often each of `namesOfReached` happened.
  package var reached: [Int] { struck + milestones + rules }

  mutating func add(reached other: Statistics) {
    for index in struck.indices { struck[index] += other.struck[index] }
    for index in milestones.indices { milestones[index] += other.milestones[index] }
    for index in rules.indices { rules[index] += other.rules[index] }
  }
}

extension Cluster {
  func met(_ rule: Rule) {
    if let index = Rule.allCases.firstIndex(of: rule) { statistics.rules[index] += 1 }
  }

  func reach(_ milestone: Milestone) { statistics.milestones[milestone.rawValue] += 1 }

  /// A fault had an effect.
  func struck(_ kind: FaultKind) { statistics.struck[kind.rawValue] += 1 }

  /// What a disk met, before it goes or when the faults are over.
  func countErrors(of node: SimulatedNode) {
    let counters = node.disk.counters
    if counters.readErrors > counters.badReads { struck(.readErrors) }
    if counters.badReads > 0 { struck(.badSectors) }
    if counters.writeErrors > 0 { struck(.writeErrors) }
    if counters.flushErrors > 0 { struck(.flushErrors) }
    if counters.torn > 0 { reach(.tornWrite) }
    if counters.lost > 0 { reach(.lostWrite) }
  }

  /// A message that cannot get through shows that a path is blocked.
  func noteBlocked(_ reminder: SimulatedNetwork<WireMessage>.Reminder) {
    guard case .deliver(_, let side) = reminder, network.isBlocked(from: 1 - side) else { return }
    struck(network.isBlocked(from: side) ? .blockBothWays : .blockOneWay)
  }
}

// Faults that are more than a switch of the disk or of the network.
extension Cluster {
  /// A crash at once, or while the node writes metadata next.
  func crash(_ kind: FaultKind, _ index: Int, _ how: End) {
    guard nodes[index].isRunning else { return }
    struck(kind)
    guard planRandom.chance(options.aimedCrashes) else { return end(index, how) }
    nodes[index].aimedEnd = how
  }

  /// The node has begun to write metadata: a crash that waits for that comes while it is under way,
  /// or soon after it.
  func aim(_ node: SimulatedNode) {
    guard let how = node.aimedEnd else { return }
    node.aimedEnd = nil
    reach(.crashDuringMetadata)
    let time = draw(options.diskLatency[node.index], node.index) * 2
    queue.schedule(
      at: now + planRandom.below(time + 1), .aimedEnd(node: node.index, epoch: node.epoch, how))
  }

  /// A cut at once, or at the end of the next resync, or both.
  func aimableCut(_ kind: FaultKind) {
    let isSyncing = nodes.contains { $0.replication.isTarget || $0.replication.isSource }
    let isAimed = aimedCut == nil && planRandom.chance(options.aimedCuts)
    if isAimed { aimedCut = kind }
    if !isAimed || !isSyncing { cut(kind) }
  }

  /// The node has begun to flush. At the end of a resync a cut may have waited for that: the flush
  /// takes long, and what it ends belongs to a connection that is gone. Returns how long.
  func aimCut(_ node: SimulatedNode) -> UInt64 {
    guard let kind = aimedCut, node.replication == .syncTarget,
      nodes[1 - node.index].promisedContent != nil
    else { return 0 }
    aimedCut = nil
    reach(.cutDuringFlush)
    let time = draw(options.diskLatency[node.index], node.index)
    queue.schedule(at: now + planRandom.below(time + 1), .aimedCut(kind))
    return planRandom.below(3_000_000_000)
  }

  /// The monotonic clock leaps ahead, and the date is set to anything.
  func leap(_ index: Int) {
    let node = nodes[index]
    guard node.isRunning, node.pausedUntil <= now else { return }
    struck(.clockLeap)
    let mostMs: UInt64 = [1_000, 60_000, 3_600_000][planRandom.index(3)]
    node.clockOffset += planRandom.below(mostMs * 1_000_000)
    node.replica.options.unixSecondsAtZero = planRandom.below(2 << 32)
    armTick(node)
  }

  /// A node is killed, and a bit of its metadata flips before it starts again. Both copies of the
  /// superblock are whole and equal at that moment: the rot of one is what they are two for.
  func rotMetadata(_ kind: FaultKind, _ index: Int) {
    let node = nodes[index]
    guard node.isRunning else { return }
    let isAtRest = !node.isWritingCopy && !node.wantsSuperblock && node.mirrored == nil
    let hasWritten = node.wroteCopyInEpoch == node.epoch
    end(index, .kill)
    let sector: Int
    switch kind {
    case .rotSuperblock:
      let copies = (0...1).map { bytes(node, copyStart($0), Self.copySectors) }
      guard copies[0] == copies[1] else {
        if isAtRest, hasWritten {
          violate(.metadata, "the superblock copies of node \(index) differ while nothing changes")
        }
        return
      }
      sector = copyStart(planRandom.index(2)) + planRandom.index(Self.copySectors)
    case .rotLog:
      // Where transactions were written: the rest of the ring says nothing.
      let written = (0..<Self.ringSectors).filter { node.disk.word(at: ringStart + $0) != 0 }
      guard !written.isEmpty else { return }
      sector = ringStart + written[planRandom.index(written.count)]
      node.logHasRotted = true
    default:
      let page = planRandom.index(Self.pageCount(options))
      sector = pageStart(page) + planRandom.index(Self.pageSectors)
    }
    struck(kind)
    say("sector \(sector) of the metadata of node \(index) rots")
    node.disk.rotMetadata(sector, bit: planRandom.index(512 * 8))
    isDurable(readSuperblock(node), node)
    readMarks(node)
    checkCoverage()
  }
}
