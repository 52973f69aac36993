/// `resync-after`: a resource waits until those before it, in the chain that the configuration
/// makes, are in sync.
///
/// What holds: a resource waits only for one that is up on this node and copies, or would, were it
/// not for its own turn. One that is paused by an administrator, down, or without a connection
/// keeps nobody waiting. So the first of those that can go on always does.
import BlockTypes
import Configuration
import Replication

extension NodeLoop {
  /// Tells every resource whether it has to wait. Called once a turn: what changes has made an
  /// event.
  mutating func orderResyncs() {
    for slot in 0..<volumeEnd {
      guard let volume = unsafe volumes[slot] else { continue }
      let waits = unsafe volume.pointee.replica.waitsForResync
      // All but a few resources follow none: no name is looked at for them.
      guard unsafe waits || volume.pointee.configuration.disk.resyncAfter != nil else { continue }
      let mustWait = mustWait(slot)
      guard waits != mustWait else { continue }
      unsafe volume.pointee.step(.resyncOrder(mustWait: mustWait), &reactor, &server)
    }
  }

  private func mustWait(_ slot: Int) -> Bool {
    var current = slot
    // A running node may have taken over the files of a circle one by one: it is followed once.
    for _ in 0..<volumeEnd {
      guard let volume = unsafe volumes[current],
        let name = unsafe volume.pointee.configuration.disk.resyncAfter,
        let next = self.slot(of: name), next != slot, let before = unsafe volumes[next]
      else { return false }
      if unsafe before.pointee.wantsToResync { return true }
      current = next
    }
    return false
  }
}

extension Volume {
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
