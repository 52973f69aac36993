/// What `connect --discard-my-data --dry-run` prints: what this node would lose, and what would be
/// kept of it.

/// What a discard on this node would lose.
public struct DiscardLoss: Equatable, Sendable {
  /// The peer whose data would replace it.
  public var peer: String
  /// Bytes of the volume.
  public var volumeBytes: UInt64
  /// Blocks of 4 KiB that this node changed alone, or may have.
  public var blocks: UInt64
  /// Ranges that they make.
  public var ranges: UInt64
  /// Extents of 4 MiB that they lie in.
  public var extents: UInt64
  /// The generations that the peer does not have, oldest first.
  public var generations: [GenerationStatus] = []
  /// It is on record that the peer lacks writes of this node.
  public var isAlone = false
  /// A verify has found blocks that differ, or a repair has left them: nobody wrote alone, and this
  /// node's side of them is lost.
  public var isMarked = false
  /// Nothing describes the difference: the whole volume is replaced.
  public var isWhole = false
  /// A Primary's data is not discarded.
  public var isPrimary = false
  /// A connected node has nothing to discard.
  public var isConnected = false
  /// Where an undo file would be kept.
  public var directory = ""
  /// Bytes that it may take; 0 when none is kept.
  public var limit: UInt64 = 0

  /// Joins what has no default.
  public init(
    peer: String, volumeBytes: UInt64, blocks: UInt64, ranges: UInt64, extents: UInt64
  ) {
    self.peer = peer
    self.volumeBytes = volumeBytes
    self.blocks = blocks
    self.ranges = ranges
    self.extents = extents
  }

  /// Bytes of the volume that would be replaced and kept.
  public var bytes: UInt64 { isWhole ? volumeBytes : min(blocks * 4096, volumeBytes) }
  /// Most bytes that an undo file of them takes: a head, a record a range and 1 MiB, the content.
  public var fileBytes: UInt64 {
    4096 + bytes + 32 * ((isWhole ? 1 : ranges) + bytes >> 20 + 1)
  }
}

/// The lines of the dry run.
public func discardLines(_ resource: String, _ loss: DiscardLoss) -> [String] {
  let connect = "connect --discard-my-data"
  var lines: [String] = []
  if loss.isConnected {
    lines.append("\(resource): connected to \(loss.peer): '\(connect)' would be refused")
  } else if loss.isPrimary {
    lines.append(
      "\(resource): this node is Primary: '\(connect)' would be refused; "
        + "run 'ashlaradm secondary \(resource)' first")
  }
  guard loss.isAlone || loss.isWhole || loss.isMarked else {
    lines.append("\(resource): nothing is known that this node wrote and \(loss.peer) lacks")
    lines.append("nothing was changed")
    return lines
  }
  let what =
    loss.isAlone || loss.isWhole
    ? "what this node wrote without \(loss.peer)" : "this node's side of blocks that differ"
  lines.append("\(resource): '\(connect)' gives up \(what):")
  if loss.isWhole {
    lines.append(
      "  no bitmap says what that is: the whole volume is replaced, \(kib(loss.volumeBytes))")
  } else {
    lines.append(
      "  \(count(loss.blocks, "block")) of 4 KiB (\(kib(loss.bytes))), in "
        + "\(count(loss.ranges, "range")) and \(count(loss.extents, "extent")) of 4 MiB")
  }
  for generation in loss.generations {
    lines.append(
      "  generation \(generation.text), written since \(generation.began ?? "an unknown time")")
  }
  lines.append("  " + undoLine(loss))
  lines.append("nothing was changed")
  return lines
}

private func undoLine(_ loss: DiscardLoss) -> String {
  guard loss.limit > 0 else { return "none of it is kept: undo-limit is 0" }
  let file = "an undo file of at most \(kib(loss.fileBytes)) in \(loss.directory)"
  guard loss.fileBytes > loss.limit else { return "kept before in \(file)" }
  return
    "\(file) may not fit undo-limit (\(kib(loss.limit))); then the discard is refused, "
    + "unless it is declined with --no-undo"
}

private func count(_ number: UInt64, _ word: String) -> String {
  "\(number) \(word)\(number == 1 ? "" : "s")"
}

private func kib(_ bytes: UInt64) -> String { "\((bytes + 1023) / 1024) KiB" }
