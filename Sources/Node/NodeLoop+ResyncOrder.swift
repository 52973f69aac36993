/// `resync-after`: a resource waits until those before it, in the chain that the configuration
/// makes, are in sync. `--max-parallel-resyncs`: so many of this node's disks are filled at a time.
///
/// What holds: a resource waits only for one that is up on this node and copies, or would, were it
/// not for its own turn. One that is paused by an administrator, down, or without a connection
/// keeps nobody waiting. So the first of those that can go on always does.
///
/// The limit counts targets only: each resync has one, so no two nodes wait for each other's turn.
/// Whoever has a turn keeps it until nothing is left to copy, or until it rests for another reason.
import BlockTypes
import Configuration
import Replication

extension NodeLoop {
  /// Tells every resource whether it has to wait. Called once a turn: what changes has made an
  /// event.
  mutating func orderResyncs() {
    if options.resyncLimit > 0 { giveResyncTurns() }
    for slot in 0..<volumeEnd {
      guard let box = volumes[slot] else { continue }
      let waits = box.volume.replica.waitsForResync
      let hasNoTurn = options.resyncLimit > 0 && !box.volume.hasResyncTurn
      // All but a few resources follow none: no name is looked at for them.
      guard waits || hasNoTurn || box.volume.configuration.disk.resyncAfter != nil
      else { continue }
      let isNotItsTurn = hasNoTurn && box.volume.isTarget
      let mustWait = isNotItsTurn || mustWait(slot)
      guard waits != mustWait else { continue }
      box.volume.step(.resyncOrder(mustWait: mustWait), &reactor, &server)
    }
  }

  /// Takes turns back from those that need none any more, and gives what is free to those that do.
  private mutating func giveResyncTurns() {
    var taken = 0
    for slot in 0..<volumeEnd {
      guard let box = volumes[slot], box.volume.hasResyncTurn else { continue }
      if box.volume.wantsTurn, !mustWait(slot) {
        taken += 1
      } else {
        box.volume.hasResyncTurn = false
      }
    }
    for slot in 0..<volumeEnd where taken < options.resyncLimit {
      guard let box = volumes[slot],
        !box.volume.hasResyncTurn && box.volume.wantsTurn, !mustWait(slot)
      else { continue }
      box.volume.hasResyncTurn = true
      taken += 1
    }
  }

  private func mustWait(_ slot: Int) -> Bool {
    var current = slot
    // A running node may have taken over the files of a circle one by one: it is followed once.
    for _ in 0..<volumeEnd {
      guard let box = volumes[current],
        let name = box.volume.configuration.disk.resyncAfter,
        let next = self.slot(of: name), next != slot, let before = volumes[next]
      else { return false }
      if before.volume.wantsToResync { return true }
      current = next
    }
    return false
  }
}

extension Volume {
  /// Whether this node's disk is being filled, or would be.
  fileprivate var isTarget: Bool {
    for slot in 0..<peerHosts.count where replica.status(ofPeer: slot).replication.isTarget {
      return true
    }
    return false
  }

  /// Whether this node's disk would be filled at once, had it a turn.
  fileprivate var wantsTurn: Bool {
    for slot in 0..<peerHosts.count {
      let state = replica.status(ofPeer: slot)
      let isPaused = state.isPausedHere || state.isPausedByPeer || state.peerWaitsForResync
      if state.replication.isTarget, !isPaused { return true }
    }
    return false
  }

  /// Whether something is copied, or would be if its turn had come.
  fileprivate var wantsToResync: Bool {
    for slot in 0..<peerHosts.count {
      let state = replica.status(ofPeer: slot)
      let isSyncing = state.replication.isSource || state.replication.isTarget
      if isSyncing, !state.isPausedHere, !state.isPausedByPeer { return true }
    }
    return false
  }
}
