/// The oracles: each promise, checked at the moment when it must hold.
import BlockTypes
import Metadata
import Replication
import Wire

extension Cluster {
  /// Whose content counts on `node`.
  func authority(_ node: SimulatedNode) -> Int? {
    let bothPrimary = nodes.allSatisfy { $0.isRunning && $0.role == .primary }
    return history.authority(
      on: node.index, ahead: ahead, isBranched: isBranched || bothPrimary)
  }

  /// A request was answered with success: the promise of its kind must hold now.
  func checkDone(_ node: SimulatedNode, _ pending: PendingRequest) {
    switch pending.operation {
    case .read: checkRead(node, pending)
    case .flush: checkFlush(node, pending)
    case .write, .writeZeroes, .trim: checkChange(node, pending)
    }
  }

  /// The replicas that take part in what `node` acknowledges, as it says itself.
  private func participants(_ node: SimulatedNode) -> Set2 {
    var set: Set2 = node.diskState == .upToDate ? Set2(node.index) : []
    // A Primary that is being synced writes to its source as well.
    let isMirrored = node.replication == .established || node.replication == .syncTarget
    let mirrors = node.connection == .connected && isMirrored
    if mirrors, node.peerDisk == .upToDate { set.insert(Set2(1 - node.index)) }
    return set
  }

  private func checkRead(_ node: SimulatedNode, _ pending: PendingRequest) {
    guard let words = node.buffers.words(pending.buffer) else {
      violate(.buffers, "the data of a read was released before its completion")
      return
    }
    guard words.count == pending.sectors.count else {
      violate(.coherence, "a read of \(pending.sectors) returned \(words.count) sectors")
      return
    }
    for (index, sector) in pending.sectors.enumerated() {
      if node.rotten.contains(sector / 8) { continue }
      let word = words[index]
      let floor = pending.floors[index]
      if let fault = history.judge(word, sector: sector, on: node.index, floor: floor) {
        violate(
          .coherence,
          "node \(node.index) read \(SectorStamp(bits: word)) in sector \(sector), \(fault)")
        return
      }
      history.observe(word, sector: sector, on: node.index)
      hash.mix(word)
    }
  }

  private func checkChange(_ node: SimulatedNode, _ pending: PendingRequest) {
    guard let change = pending.change else { return }
    var holders = participants(node)
    if holders.isEmpty {
      violate(.durability, "node \(node.index) acknowledged w\(change) without an UpToDate disk")
    }
    if node.diskState == .diskless { statistics.disklessChanges += 1 }
    // Without good data of its own the Primary is the one that may lack what its peer has.
    let holder = holders.contains(node.index) ? node : nodes[1 - node.index]
    for other in nodes where holders.contains(other.index) {
      // It had written it and answered, and lost power while the answer was under way.
      if !pending.forceUnitAccess, hasLostPower(other, since: pending.begun) {
        holders.remove(Set2(other.index))
      } else if let text = missing(
        change, pending, on: other, isOwn: other === node, isSure: true)
      {
        return violate(.durability, "w\(change) was acknowledged, but \(text)")
      }
    }
    let answerable = holders
    // A peer that has the write among good data holds it, whatever this node knows of that. Zeroes
    // prove little: they may have been there before, and an older write may still be on its way.
    let peer = nodes[1 - holder.index]
    let peerHasIt = missing(change, pending, on: peer, isOwn: false, isSure: false) == nil
    let peerIsWhole =
      peer.isRunning
      ? peer.diskState.rawValue > DiskState.inconsistent.rawValue
      : peer.durableSuperblock.map { $0.diskState != .inconsistent } ?? false
    let isShared = peerHasIt && peerIsWhole
    if isShared, pending.operation == .write { holders.insert(Set2(peer.index)) }
    history.acknowledge(
      change, holders: holders, durableOn: pending.forceUnitAccess ? answerable : [],
      isShared: isShared)
    if !peerHasIt, !hasLostPower(peer, since: pending.begun) { checkLineage(holder, change) }
  }

  /// What `other` lacks of an acknowledged change, in words.
  private func missing(
    _ change: Int, _ pending: PendingRequest, on other: SimulatedNode, isOwn: Bool,
    isSure: Bool
  ) -> String? {
    let words = history.words(change)
    for (index, sector) in pending.sectors.enumerated() {
      let word = other.disk.word(at: sector)
      if word != words[index] {
        // An old answer: the peer was promoted meanwhile, and its own clients write there now.
        if !isOwn, history.isNewer(word, sector: sector, than: change) { continue }
        return "sector \(sector) of node \(other.index) holds \(SectorStamp(bits: word))"
      }
      if isSure, pending.forceUnitAccess, !other.disk.isStable(at: sector) {
        return "sector \(sector) is not stable on node \(other.index) in spite of FUA"
      }
    }
    return nil
  }

  private func hasLostPower(_ node: SimulatedNode, since begun: UInt64) -> Bool {
    node.lostPowerAt.map { $0 >= begun } ?? false
  }

  /// P7: no write begins while a crash now would leave a superblock that looks clean.
  func checkMarkedDirty(_ node: SimulatedNode, _ range: ByteRange) {
    guard let block = node.durableSuperblock, !block.dirty else { return }
    violate(
      .metadata,
      "node \(node.index) writes at \(range.start) while its superblock is clean on disk")
  }

  /// The Primary went on alone: its disk must say so, or a crash would make both look equal.
  private func checkLineage(_ node: SimulatedNode, _ change: Int) {
    guard options.checksLineage, let mine = node.durableSuperblock,
      let theirs = nodes[1 - node.index].durableSuperblock
    else { return }
    switch mine.lineage.relation(to: theirs.lineage) {
    case .extends, .otherEmpty, .parted, .unrelated: return
    case .equal where mine.peers.first?.base != nil: return
    case .equal where theirs.diskState == .inconsistent: return
    case .bothEmpty, .selfEmpty, .equal, .extended:
      violate(
        .proof,
        """
        w\(change) was acknowledged by node \(node.index) alone, but its lineage on disk \
        \(Self.text(mine.lineage)) does not go beyond \(Self.text(theirs.lineage))
        """)
    }
  }

  private func checkFlush(_ node: SimulatedNode, _ pending: PendingRequest) {
    let holders = participants(node)
    for other in nodes where holders.contains(other.index) {
      let floors = other.index == 0 ? pending.floors : pending.otherFloors
      if let (sector, text) = unstableSector(of: other, floors) {
        violate(
          .durability,
          """
          a flush was acknowledged, but stable sector \(sector) of node \(other.index) holds \
          \(text)
          """)
        return
      }
      history.flushed(other.index, floors: floors)
    }
  }

  /// After a power loss, what a flush covered must still be there.
  func checkDurable(_ index: Int) {
    let floors = history.durableFloors(on: index)
    for sector in 0..<volumeSectors where floors[sector] > 0 {
      let word = nodes[index].disk.word(at: sector)
      if let fault = history.judge(word, sector: sector, on: index, floor: floors[sector]),
        fault != .crossed
      {
        violate(
          .durability,
          """
          after a power loss sector \(sector) of node \(index) holds \
          \(SectorStamp(bits: word)), \(fault), though it was flushed
          """)
        return
      }
    }
  }

  /// P1: what a flush covered at the source of a resync is stable at its target when that calls
  /// itself UpToDate, or a power loss would take it back.
  private func checkStable(_ node: SimulatedNode) {
    let floors = history.durableFloors(on: node.index)
    guard let (sector, text) = unstableSector(of: node, floors) else { return }
    violate(
      .durability,
      "node \(node.index) is UpToDate after a resync, but stable sector \(sector) holds \(text)")
  }

  /// A sector whose stable content lacks what `floors` asks for, if there is one.
  private func unstableSector(of node: SimulatedNode, _ floors: [UInt64]) -> (Int, String)? {
    for sector in 0..<volumeSectors
    where floors[sector] > 0 && !node.everRotten.contains(sector / 8) {
      let word = node.disk.stableWord(at: sector)
      let fault = history.judge(word, sector: sector, on: node.index, floor: floors[sector])
      if let fault, fault != .crossed { return (sector, "\(SectorStamp(bits: word)), \(fault)") }
    }
    return nil
  }

  /// A sector of `node` that lacks an acknowledged write, if there is one.
  package func missingSector(on index: Int, authority: Int?) -> (Int, String)? {
    let floors = history.floors(authority: authority)
    for sector in 0..<volumeSectors where !nodes[index].rotten.contains(sector / 8) {
      let word = nodes[index].disk.word(at: sector)
      if let fault = history.judge(word, sector: sector, on: index, floor: floors[sector]) {
        return (sector, "\(SectorStamp(bits: word)), \(fault)")
      }
    }
    return nil
  }

  func becamePrimary(_ node: SimulatedNode) {
    statistics.promotions += 1
    operatorState.takesForEqual = false
    reach(.promotion)
    let other = nodes[1 - node.index]
    var forced = false
    if case .primary(force: true)? = node.pendingCommand { forced = true }
    let bothConnected = node.connection == .connected && other.connection == .connected
    if other.isRunning, other.role == .primary, bothConnected {
      violate(.oneWriter, "node \(node.index) became Primary while its connected peer is Primary")
    }
    let counted = history.authority(
      on: node.index, ahead: ahead,
      isBranched: isBranched || history.isForked || node.hadPartedBefore)
    if let (sector, text) = missingSector(on: node.index, authority: counted) {
      if !forced, node.mayKnowItIsBehind || bothConnected {
        violate(
          .promotion,
          "node \(node.index) was promoted without force, but sector \(sector) holds \(text)")
      }
      say("node \(node.index) is promoted without all acknowledged writes")
      isBranched = true
    } else if other.isRunning && other.role == .primary || node.hadPartedBefore {
      isBranched = true
    }
  }

  func becameTarget(_ node: SimulatedNode) {
    statistics.resyncs += 1
    reach(.resync)
    for kind in pausesUnderWay { struck(kind) }
    if history.isExclusive(node.index) {
      violate(
        .divergence,
        "node \(node.index) becomes SyncTarget though it alone holds acknowledged writes")
    }
    history.gaveUp(node.index, keepsSeen: node.role == .primary)
    nodes[1 - node.index].promisedContent = nil
  }

  /// Whether somebody writes, as far as a node knows. Its disk can know it only while it is there.
  func meetsPrimary(_ node: SimulatedNode) -> Bool {
    let isLinked = node.connection == .connected
    return node.role == .primary || isLinked && nodes[1 - node.index].role == .primary
  }

  func connected(_ node: SimulatedNode) {
    if node.diskState != .diskless { node.mayKnowItIsBehind = false }
    for other in nodes {
      other.isUnreconciled = false
      other.lostPower = false
    }
    if history.isForked, nodes.allSatisfy({ $0.diskState != .diskless }) {
      violate(.divergence, "node \(node.index) is Connected though both hold writes of their own")
    }
  }

  /// Both sides are in step, without or after a resync.
  func established(_ node: SimulatedNode) {
    guard node.diskState == .upToDate, node.peerDisk == .upToDate else { return }
    isBranched = false
    guard history.isExclusive(node.index) || history.isExclusive(1 - node.index) else { return }
    // The source of a resync says so after its target, which has cleared the marks by then.
    if node.replication == .established, nodes[1 - node.index].diskState == .upToDate,
      nodes[1 - node.index].connection == .connected,
      (0...1).contains(where: { missingSector(on: $0, authority: nil) != nil })
    {
      violate(
        .divergence,
        "node \(node.index) is Established without a resync though a replica lacks writes")
    }
  }

  /// What a reader of the disk of `node` finds from now on.
  func isDurable(_ block: Superblock?, _ node: SimulatedNode) {
    let old = node.durableSuperblock
    node.durableSuperblock = block
    // A power loss may bring an older copy back, when the newer one was left by a failed write.
    guard let old, let block, block.sequence > old.sequence, old.diskState == .inconsistent,
      block.diskState == .upToDate
    else { return }
    // A forced promotion records that the peer lacks something; the end of a resync does not.
    if block.peers.first?.base == nil, !operatorState.takesForEqual { syncEnded(node) }
  }

  /// From here on `node` may be taken for UpToDate: it must have what its source had.
  private func syncEnded(_ node: SimulatedNode) {
    let source = nodes[1 - node.index]
    // A target that lost power with the record on its way may lack what came after the last flush.
    let isLinked =
      node.isRunning && node.diskState != .diskless && source.isRunning
      && source.connection == .connected && source.replication != .off
    guard let promised = source.promisedContent else {
      if source.isRunning {
        violate(.proof, "node \(node.index) is UpToDate before its source said it was done")
      }
      return
    }
    // A source that died or was cut off after its word may have acknowledged more, here too or not.
    var content = promised
    if isLinked {
      content = history.syncDone(from: source.index)
    } else if missingSector(on: node.index, authority: source.index) == nil {
      content = history.syncDone(from: source.index, stable: promised)
    }
    if isLinked {
      for sector in 0..<volumeSectors
      where node.disk.word(at: sector) != source.disk.word(at: sector) {
        if isInFlight(sector, node: 0) || isInFlight(sector, node: 1) { continue }
        // What rotted and was not found is not known to differ.
        if node.rotten.contains(sector / 8) || source.rotten.contains(sector / 8) { continue }
        violate(
          .proof,
          """
          node \(node.index) is UpToDate after a resync, but sector \(sector) holds \
          \(SectorStamp(bits: node.disk.word(at: sector))), its source \
          \(SectorStamp(bits: source.disk.word(at: sector)))
          """)
        return
      }
    }
    history.synced(node.index, from: source.index, content: content)
    checkStable(node)
    source.promisedContent = nil
    isBranched = false
  }

  /// An administrator is needed: counted, with whether the data gives a reason for it.
  func stoodAlone(_ node: SimulatedNode, _ reason: Reason) {
    guard reason.isPermanent else { return }
    if reason.isSplitBrain { reach(.splitBrain) }
    let index = Int(reason.rawValue)
    if history.isForked {
      statistics.refusedForked[index] += 1
    } else {
      statistics.refusedWhole[index] += 1
    }
  }

  /// What must hold between any two events.
  func checkAfterEvent() {
    let isDual = nodes.allSatisfy {
      $0.isRunning && $0.role == .primary && $0.connection == .connected
    }
    if statistics.steps % 8 == 0 { checkCoverage() }
    if isDual { violate(.oneWriter, "both nodes are Primary and connected") }
    if failure != nil, faultsAreOver { judgeRest() }
    if hasConverged { return }
    if now >= convergenceDeadline { judgeConvergence() }
  }
}

extension Cluster {
  /// Whether everything has come together.
  var isConverged: Bool {
    pendingRequests == 0
      && nodes.allSatisfy { node in
        node.isRunning && node.connection == .connected && node.replication == .established
          && node.diskState == .upToDate && node.peerDisk == .upToDate
          && node.replica.requestCount == 0 && node.disk.inFlight == 0
          && node.pendingCommand == nil && node.buffers.takenCount == 0
      }
  }

  /// The bound is reached: say what is missing.
  func judgeConvergence() {
    for node in nodes {
      if node.isRunning, node.connection == .connected, node.replica.requestCount == 0,
        pendingRequests == 0, node.buffers.takenCount > 0
      {
        violate(.buffers, "node \(node.index) never gave back \(node.buffers.takenCount) buffers")
      }
    }
    for slot in clients where slot.pending != nil {
      guard let pending = slot.pending else { continue }
      violate(
        .completion,
        """
        a \(pending.operation) of \(pending.sectors) on node \(pending.node) is unanswered since \
        \(seconds(pending.begun))
        """)
    }
    let states = nodes.map { node in
      """
      node \(node.index): running \(node.isRunning) \(node.role) \(node.connection) \
      (\(node.reason)) \(node.replication) \(node.diskState)/\(node.peerDisk), \
      \(node.replica.requestCount) requests, command \
      \(node.pendingCommand.map { "\($0)" } ?? "none")
      """
    }
    violate(.convergence, states.joined(separator: "; "))
  }

  /// The state at the end of a run that converged.
  func checkEnd() {
    for sector in 0..<volumeSectors {
      let left = nodes[0].disk.word(at: sector)
      let right = nodes[1].disk.word(at: sector)
      guard left == right else {
        violate(
          .convergence,
          """
          sector \(sector) differs at the end: \(SectorStamp(bits: left)) and \
          \(SectorStamp(bits: right))
          """)
        return
      }
    }
    for node in nodes {
      if let (sector, text) = missingSector(on: node.index, authority: nil) {
        violate(.durability, "at the end sector \(sector) of node \(node.index) holds \(text)")
        return
      }
    }
    hasConverged = true
  }
}
