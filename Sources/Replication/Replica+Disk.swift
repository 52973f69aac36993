/// The local disk and its superblock: attach, change, failure.
public import Metadata
public import BlockTypes
import Wire

extension Replica {
  /// Takes the superblock that the driver read from a disk it has opened.
  ///
  /// A replica found dirty may lack writes that it acknowledged (its host may have lost power) or
  /// that the peer has by now. It is Consistent, not UpToDate, until the peer was asked; unless it
  /// is on record that the peer lacks writes of ours, so that nobody can be ahead (P2).
  public mutating func attach(
    _ block: Superblock, token: UInt64, at now: Instant, entropy: UInt64
  ) {
    self.now = now
    self.entropy = entropy
    attach(block, token)
    finishStep()
  }

  private mutating func attach(_ block: Superblock, _ token: UInt64) {
    guard disk == .diskless else {
      effects.push(.reply(token: token, .refused(.alreadyAttached)))
      return
    }
    // What the disk before this one still owes must not be taken for an answer of this one.
    guard !superblockIsBeingWritten, !hasDiskOperations, command == nil else {
      effects.push(.reply(token: token, .refused(.transient)))
      return
    }
    guard block.node == options.node, block.resource == options.resource else {
      effects.push(.reply(token: token, .refused(.wrongMetadata)))
      return
    }
    guard peers.count <= block.maxPeers else {
      effects.push(.reply(token: token, .refused(.wrongMetadata)))
      return
    }
    superblock = block
    crashed = block.dirty
    var peerMayBeAhead = false
    for slot in 0..<peers.count {
      peers[slot].base = block.peers.first { $0.node == peers[slot].node }?.base
      if peers[slot].base == nil { peerMayBeAhead = true }
      bitmaps[slot] = BlockBitmap(blockCount: (block.volumeBytes + blockSize - 1) / blockSize)
      // Until bitmaps are kept on disk, what may differ after a restart is everything.
      if crashed || peers[slot].base != nil || block.diskState == .inconsistent {
        bitmaps[slot].setAll()
      }
    }
    become(disk: .diskless)
    switch block.diskState {
    case .inconsistent: become(disk: .inconsistent)
    case .outdated: become(disk: .outdated)
    case .upToDate: become(disk: crashed && peerMayBeAhead ? .consistent : .upToDate)
    }
    effects.push(.reply(token: token, .done))
    for slot in 0..<peers.count
    where peers[slot].state == .connected || peers[slot].state.isHandshake {
      loseConnection(slot, .renegotiate)
    }
  }

  private var hasDiskOperations: Bool {
    for index in 0..<requests.capacity {
      guard let id = requests.id(at: index) else { continue }
      if requests[id].isLocalPending { return true }
    }
    return false
  }

  /// Marks the superblock as changed and returns the version whose durability to wait for.
  @discardableResult
  mutating func changeSuperblock() -> UInt64 {
    var records: [PeerSlotRecord] = []
    for slot in 0..<peers.count {
      records.append(PeerSlotRecord(node: peers[slot].node, base: peers[slot].base))
    }
    superblock?.peers = records
    versionWanted += 1
    return versionWanted
  }

  mutating func superblockWritten(_ result: Int32) {
    precondition(superblockIsBeingWritten, "no superblock was being written")
    superblockIsBeingWritten = false
    guard disk != .diskless else { return }
    guard result >= 0 else { return failDisk() }
    versionDurable = versionWriting
    completeWaitingBase()
    for slot in 0..<peers.count {
      sendVerdictWhenDurable(slot)
      grantWhenDurable(slot)
      continueStarting(slot)
      continueFinishing(slot)
    }
  }

  /// The disk failed: it is never used again, and what waits for it fails.
  mutating func failDisk() {
    become(disk: .failed)
    tellDisk(.diskless)
    dropDisk()
    for slot in 0..<peers.count {
      let isSyncing = peers[slot].replication.isSource || peers[slot].replication.isTarget
      if isSyncing || peers[slot].state.isHandshake { loseConnection(slot, .diskFailed) }
    }
  }

  /// Lets the disk go, if there still is one.
  mutating func dropDisk() {
    guard superblock != nil else { return }
    become(disk: .diskless)
    superblock = nil
    crashed = false
    versionDurable = versionWanted
    effects.push(.detachDisk)
    completeWaitingBase()
    for slot in 0..<peers.count { grantWhenDurable(slot) }
  }
}
