/// `new-current-uuid --clear-bitmap`: the first sync of two fresh disks is skipped, because the
/// administrator says that both hold the same.
///
/// What must hold: it is believed of disks that never held data only, on both sides, and nobody is
/// Primary. Each side takes the same first generation down by itself, the one that was asked before
/// it answers, the other one when it is told:
///
/// ```
/// asked: generation on disk, UpToDate        told: generation on disk, UpToDate, meets again
///   assumeEqual --------------------------->
/// ```
/// If the news is lost, the side that was to be told is empty still, and is filled by the other.
/// If both were asked at once and the news of both is lost, each has a first generation of its own,
/// and nothing tells that nobody wrote: they are refused as unrelated until one is invalidated.
import BlockTypes
import Metadata
import Wire

extension Replica {
  /// The command, when no handshake is under way any more.
  mutating func skipFirstSync() -> Refusal? {
    guard isFresh, role == .secondary, let block = superblock else { return .dataNotFresh }
    guard hasBitmaps else { return .transient }
    for slot in 0..<peers.count {
      guard peers[slot].state == .connected, peers[slot].replication == .established else {
        return .needConnection
      }
      guard peers[slot].disk == .inconsistent, peers[slot].role == .secondary,
        reports[slot]?.lineage.isEmpty == true
      else { return .dataNotFresh }
    }
    var lineage = block.lineage
    lineage.begin(id: entropy, author: options.node, at: unixSeconds)
    guard let first = lineage.newest else { return .dataNotFresh }
    let version = assumeEqual(lineage)
    command?.stage = .persisting(version: version)
    for slot in 0..<peers.count {
      guard let connection = peers[slot].connection else { continue }
      let header = MessageHeader(
        .assumeEqual, id: first.id, offset: first.number, length: UInt64(first.author.value))
      effects.push(.send(connection, header, .none))
    }
    return nil
  }

  /// Its generation is on the disk.
  mutating func skippedFirstSync() {
    guard superblock?.diskState == .upToDate, disk == .inconsistent else { return }
    become(disk: .upToDate)
  }

  /// The administrator said it at the peer. Nothing happens where that cannot be right any more:
  /// then this side is filled by the other, or the other way round.
  mutating func receivedAssumeEqual(_ slot: Int, _ header: MessageHeader) {
    guard let author = NodeID(header.length), author == peers[slot].node, header.offset == 1 else {
      return protocolViolation(slot, .assumeEqual)
    }
    let first = Generation(number: header.offset, id: header.id, author: author)
    // Both were asked at once: the generation of the lower node id is taken by both.
    if hasSkippedFirstSync(slot) {
      guard author < options.node, let lineage = Lineage([first]) else { return }
      peers[slot].versionOfEqual = assumeEqual(lineage)
      return
    }
    guard isFresh, hasBitmaps, role == .secondary, command == nil,
      peers[slot].replication == .established,
      peers[slot].disk == .inconsistent, let lineage = Lineage([first])
    else { return loseConnection(slot, .renegotiate) }
    peers[slot].versionOfEqual = assumeEqual(lineage)
  }

  /// This side was told, and has it on its disk: both meet again, as equals.
  mutating func meetAsEqualWhenDurable(_ slot: Int) {
    guard let version = peers[slot].versionOfEqual, versionDurable >= version else { return }
    peers[slot].versionOfEqual = nil
    skippedFirstSync()
    if peers[slot].state == .connected { loseConnection(slot, .renegotiate) }
  }

  /// Whether this side was asked as well, on this connection, and nothing was written since.
  private func hasSkippedFirstSync(_ slot: Int) -> Bool {
    guard let block = superblock, let only = block.lineage.newest else { return false }
    return role == .secondary && !block.dirty && block.lineage.generations.count == 1
      && only.author == options.node && peers[slot].state == .connected
      && peers[slot].replication == .established && reports[slot]?.lineage.isEmpty == true
  }

  /// Whether the disk never held data.
  private var isFresh: Bool {
    disk == .inconsistent && superblock?.lineage.isEmpty == true && superblock?.dirty == false
  }

  /// Whether the bitmaps on the disk say anything by now: it takes a moment after the first attach.
  private var hasBitmaps: Bool {
    for slot in 0..<peers.count where peers[slot].isFull { return false }
    return true
  }

  private mutating func assumeEqual(_ lineage: Lineage) -> UInt64 {
    for slot in 0..<peers.count {
      peers[slot].base = nil
      bitmaps[slot].clearAll()
    }
    if var block = superblock {
      block.lineage = lineage
      block.diskState = .upToDate
      superblock = block
    }
    return changeSuperblock()
  }
}
