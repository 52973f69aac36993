/// P2 between any two events: a block that differs between the replicas is marked by one of them,
/// or a change of it is under way.
import BlockTypes
import Replication

extension Cluster {
  /// Looks for a block that differs and that nobody knows about.
  func checkCoverage() {
    // A disk that was let go still carries out what it had been given.
    for node in nodes where !hasCore(node) && node.disk.inFlight > 0 { return }
    let differing = nodes[0].disk.blocksDiffering(from: nodes[1].disk, count: options.volumeBlocks)
    for block in differing {
      let sectors = (block * 8)..<(block * 8 + 8)
      // What rots, nobody knows.
      guard !nodes.contains(where: { $0.everRotten.contains(block) }) else { continue }
      let isMarked = nodes.contains { covers($0, block) }
      guard !isMarked || isTakenForCopied(block) else { continue }
      if sectors.contains(where: { isInFlight($0, node: 0) || isInFlight($0, node: 1) }) {
        continue
      }
      violate(
        .proof,
        isMarked
          ? "block \(block) differs, and the source of the resync has unmarked it"
          : "block \(block) differs, and no replica has it marked")
      return
    }
  }

  /// Whether the source of a resync believes that its target has a block that differs. Both have
  /// told their marks before, so each must have it marked until it is copied.
  private func isTakenForCopied(_ block: Int) -> Bool {
    guard let source = nodes.first(where: { $0.replication == .syncSource }) else { return false }
    let target = nodes[1 - source.index]
    guard target.replication == .syncTarget, hasCore(source), hasCore(target) else { return false }
    return !covers(source, block)
  }

  private func hasCore(_ node: SimulatedNode) -> Bool {
    node.isRunning && node.replica.superblock != nil
  }

  private func covers(_ node: SimulatedNode, _ block: Int) -> Bool {
    guard hasCore(node) else { return node.marksOnDisk[block] }
    let index = BlockIndex(UInt64(block))
    return node.replica.mayDiffer(index, fromPeer: 0) || node.replica.isChanging(index)
  }
}
