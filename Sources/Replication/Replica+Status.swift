/// What people and tests may look at.
public import BlockTypes
public import Wire

/// A peer as this node sees it now.
public struct PeerStatus: Equatable, Sendable, BitwiseCopyable {
  /// The peer.
  public var node: NodeID
  /// State of the connection.
  public var connection: ConnectionState
  /// Why it is not Connected, or was lost last.
  public var reason: Reason
  /// What is replicated over it.
  public var replication: ReplicationState
  /// The peer's role.
  public var role: Role
  /// The peer's disk.
  public var disk: DiskState
  /// Blocks of 4 KiB that may differ and will be copied by the resync under way, or at the next
  /// one.
  public var blocksOutOfSync: UInt64
  /// Blocks the resync under way began with.
  public var syncBlocksTotal: UInt64
  /// Of them, those that were found equal by their digests and need not be copied.
  public var syncBlocksEqual: UInt64
  /// The resync rests, because this node was told `pause-sync`.
  public var isPausedHere: Bool
  /// The resync rests, because the peer was told `pause-sync`.
  public var isPausedByPeer: Bool
  /// The resync rests, because another resource is to resync before it (`resync-after`) here.
  public var waitsForResync: Bool
  /// The same on the peer.
  public var peerWaitsForResync: Bool
  /// When the resync under way began.
  public var syncStarted: Instant
  /// Requests sent and not answered.
  public var outstanding: Int
  /// The newest generation the peer shares, when this node went on without it.
  public var base: Generation?
  /// The verify under way here, or the last one.
  public var verify: VerifyProgress?
}

extension Replica {
  /// The peer in `slot` as this node sees it now.
  public func status(ofPeer slot: Int) -> PeerStatus {
    PeerStatus(
      node: peers[slot].node, connection: peers[slot].state, reason: peers[slot].reason,
      replication: peers[slot].replication, role: peers[slot].role, disk: peers[slot].disk,
      blocksOutOfSync: bitmaps[slot].setCount, syncBlocksTotal: peers[slot].syncBlocksTotal,
      syncBlocksEqual: peers[slot].syncBlocksEqual,
      isPausedHere: peers[slot].isPausedHere, isPausedByPeer: peers[slot].isPausedByPeer,
      waitsForResync: waitsForResync, peerWaitsForResync: peers[slot].peerWaitsForResync,
      syncStarted: peers[slot].syncStarted, outstanding: peers[slot].outstanding,
      base: peers[slot].base, verify: verifyProgress(slot))
  }

  /// Requests of clients that are under way or wait.
  public var clientRequestCount: Int { clientRequests }

  /// Whether it was found dirty at attach and has not been compared with a peer since.
  public var hasCrashed: Bool { crashed }

  /// Whether a command is under way: another one would be refused as transient.
  public var hasCommand: Bool { command != nil }

  /// Requests of all kinds that are under way or wait. 0 when the replica is at rest.
  public var requestCount: Int { requests.count }

  /// Whether a range that is all zeroes is told to the peer as such: a resync does so, a verify
  /// wants the bytes.
  public func tellsZeroes(_ id: SlotID) -> Bool { requests[id].origin == .resyncServe }

  /// Slots for requests: the `slot` of every disk effect is below this.
  public var requestCapacity: Int { requests.capacity }

  /// Whether data may come on this connection: a buffer is given to agreed peers only.
  public func expectsData(on connection: ConnectionID) -> Bool {
    for slot in 0..<peers.count where peers[slot].connection == connection {
      return peers[slot].state == .connected
    }
    return false
  }

  /// Whether the block counts as different from the peer's.
  public func mayDiffer(_ block: BlockIndex, fromPeer slot: Int) -> Bool { bitmaps[slot][block] }

  /// Whether a change of the block is under way or waits. Looks at every request: for tests.
  public func isChanging(_ block: BlockIndex) -> Bool {
    let range = ByteRange(offset: block.offset, length: blockSize)
    for index in 0..<requests.capacity {
      guard let id = requests.id(at: index) else { continue }
      let request = requests[id]
      let isAsked = request.origin == .resyncPull || request.origin == .repairPull
      if request.operation.changesData || request.isRepair, !isAsked,
        request.range.overlaps(range)
      {
        return true
      }
    }
    return false
  }

  /// Whether new client writes wait for a handshake to end.
  public var isSuspended: Bool { isFrozen }
}
