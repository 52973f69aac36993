/// Online verify in the simulator: digests of sectors' words, and content that rots on a disk.
import BlockTypes
import Metadata
import Replication
import Wire

extension Cluster {
  func carryOutVerify(_ effect: Effect, _ node: SimulatedNode) {
    switch effect {
    case .sendDigests(let connection, let header, let buffer, let bytes, let algorithm):
      guard let words = payload(node, buffer, UInt64(bytes)) else { return }
      let digests = Self.digests(words)
      if digests.count * algorithm.byteCount != Int(header.payloadBytes) {
        violate(.conduct, "node \(node.index) announces other digests than it sends")
      }
      var encoded = [UInt8](repeating: 0, count: MessageHeader.byteCount)
      unsafe encoded.withUnsafeMutableBytes { header.encode(into: $0) }
      transmit(node, connection, WireMessage(bytes: encoded, words: digests))
    case .compareDigests(let id, let data, let bytes, let digests, _):
      guard let words = payload(node, data, UInt64(bytes)),
        let theirs = node.buffers.words(digests)
      else { return violate(.buffers, "node \(node.index) compares buffers that are free") }
      let mine = Self.digests(words)
      guard mine.count == theirs.count, node.compared == nil else {
        return violate(.conduct, "node \(node.index) compares what does not belong together")
      }
      var differing: UInt64 = 0
      for block in mine.indices where mine[block] != theirs[block] {
        differing |= 1 << UInt64(block)
      }
      node.compared = (id, differing)
    default: preconditionFailure("no effect of a verify")
    }
  }

  /// One word for each block: its sectors' words, each mixed so that all of its bits reach all
  /// of the digest (SplitMix64). Stamps differ in their upper bits, which a product alone keeps
  /// there: two blocks of 24 such bits then have equal digests now and then (seed 37224).
  static func digests(_ words: [UInt64]) -> [UInt64] {
    stride(from: 0, to: words.count, by: 8).map { start in
      words[start..<min(start + 8, words.count)].reduce(0xCBF2_9CE4_8422_2325) { digest, word in
        var mixed = (digest ^ word) &+ 0x9E37_79B9_7F4A_7C15
        mixed = (mixed ^ (mixed >> 30)) &* 0xBF58_476D_1CE4_E5B9
        mixed = (mixed ^ (mixed >> 27)) &* 0x94D0_49BB_1331_11EB
        return mixed ^ (mixed >> 31)
      }
    }
  }

  func verifyNoted(_ node: SimulatedNode, _ note: Note) {
    switch note {
    case .verifyStarted:
      node.foundToDiffer = []
      node.lastVerify = nil
    case .outOfSync(_, let range):
      for block in (range.start / blockSize)..<((range.end + blockSize - 1) / blockSize) {
        foundToDiffer(Int(block), node)
      }
    case .repaired(_, let range):
      // From here on each of the two has what the administrator called right.
      for block in (range.start / blockSize)..<((range.end + blockSize - 1) / blockSize) {
        node.rotten.remove(Int(block))
      }
    case .verifyEnded(_, let progress): node.lastVerify = progress
    default: preconditionFailure("no note of a verify")
    }
  }

  /// No false positives: what a verify finds is what has rotted.
  private func foundToDiffer(_ block: Int, _ node: SimulatedNode) {
    node.foundToDiffer.insert(block)
    guard !nodes.contains(where: { $0.everRotten.contains(block) }) else { return }
    violate(.verify, "a verify found block \(block) to differ, which is the same on both nodes")
  }

  /// Changes one sector of a block on the disk of a node, as no write does. Returns whether the
  /// block was quiet: no write to it is under way on either node.
  package func rot(_ block: Int, on index: Int) -> Bool {
    let sector = block * 8 + diskRandom[index].index(8)
    for sector in (block * 8)..<(block * 8 + 8) {
      if isInFlight(sector, node: 0) || isInFlight(sector, node: 1) { return false }
    }
    say("block \(block) rots on node \(index)")
    nodes[index].disk.rot(sector)
    nodes[index].everRotten.insert(block)
    nodes[index].rotten.insert(block)
    return true
  }
}
