/// What a victim loses: kept by its driver, in a place that outlives the machine, and checked
/// against what it had acknowledged alone.
import BlockTypes
import Replication
import Wire

extension Cluster {
  /// Sectors that are read in one go.
  private static let undoPiece: UInt64 = 8 * blockSize

  func keepUndo(_ node: SimulatedNode, _ number: UInt64) {
    node.undoPart = [:]
    undoGoesOn(node, number, from: 0)
  }

  private func undoGoesOn(_ node: SimulatedNode, _ number: UInt64, from next: UInt64) {
    let due = now + draw(options.diskLatency[node.index], node.index)
    queue.schedule(
      at: due, .undo(node: node.index, epoch: node.epoch, number: number, next: next))
  }

  /// Reads the next blocks, or ends.
  func undoTurn(_ node: SimulatedNode, _ number: UInt64, _ next: UInt64) {
    // The core has gone on without it: what was read may be of two moments.
    guard node.replica.awaitsUndo(number, peer: 0) else { return }
    guard let range = node.replica.nextToKeep(from: next, peer: 0) else {
      return undoEnds(node, number)
    }
    let end = min(range.end, range.start + Self.undoPiece)
    for sector in Int(range.start / sectorSize)..<Int(end / sectorSize) {
      node.undoPart[sector] = node.disk.word(at: sector)
    }
    undoGoesOn(node, number, from: end)
  }

  private func undoEnds(_ node: SimulatedNode, _ number: UInt64) {
    var outcome = UndoOutcome.kept
    if !faultsAreOver, planRandom.chance(options.undoFailure) {
      outcome = [.tooLarge, .noSpace, .failed][planRandom.index(3)]
    }
    say("node \(node.index) has kept \(node.undoPart.count) sectors: \(outcome)")
    if outcome == .kept {
      node.undo = node.undoPart
      statistics.undos += 1
    }
    node.undoPart = [:]
    step(node, .undoEnded(peer: 0, number: number, outcome))
  }

  /// The two have met, and `decision` follows from what they told.
  func decided(_ node: SimulatedNode, _ decision: Decision) {
    let givesUp = decision.givesDataUp && decision.action == .syncTarget
    node.pendingDiscard = givesUp ? decision : nil
  }

  /// From the next superblock on the victim's own writes are gone.
  func givesUpIfVictim(_ node: SimulatedNode, _ new: ConnectionState) {
    guard let decision = node.pendingDiscard, new != .wfReportParams else { return }
    node.pendingDiscard = nil
    guard new == .wfVerdict else { return }
    checkDiscard(node, decision)
    history.gaveUp(node.index)
    isBranched = false
  }

  /// A policy names this Primary. Whether a client holds it open is the driver's to know.
  func mustGiveWay(_ node: SimulatedNode, _ peer: Int) {
    if options.policies[node.index] == ConflictPolicy() {
      violate(.divergence, "node \(node.index) gives way though nobody asked for it")
    }
    let heldOpen = planRandom.chance(Ratio(1, of: 3))
    queue.schedule(
      at: now, .giveWay(node: node.index, epoch: node.epoch, peer: peer, heldOpen: heldOpen))
  }

  func givesWay(_ node: SimulatedNode, _ peer: Int, heldOpen: Bool) {
    node.mayDiscard = true
    step(node, .command(.giveWay(peer: peer, heldOpen: heldOpen), token: 0))
  }

  private func checkDiscard(_ node: SimulatedNode, _ decision: Decision) {
    if decision.rule == .discardByPolicy, options.policies[node.index] == ConflictPolicy() {
      violate(.divergence, "node \(node.index) discards its data though nobody asked for it")
    }
    if decision.rule == .discardAsked {
      if !node.mayDiscard {
        violate(.divergence, "node \(node.index) discards its data, and nobody asked for that")
      }
      node.mayDiscard = false
    }
    guard !node.declinesUndo else { return }
    for sector in 0..<volumeSectors {
      let word = node.disk.word(at: sector)
      guard history.isOnly(word, sector: sector, on: node.index),
        nodes[1 - node.index].disk.word(at: sector) != word, node.undo[sector] != word
      else { continue }
      let kept = node.undo[sector].map { "\(SectorStamp(bits: $0))" } ?? "nothing"
      return violate(
        .undo,
        """
        node \(node.index) gives up \(SectorStamp(bits: word)) in sector \(sector), which it had \
        acknowledged alone, and has kept \(kept)
        """)
    }
  }
}
