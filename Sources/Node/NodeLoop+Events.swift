/// Who watches with `events2`, and what they are told: every change, in the order it happened.
import BlockTypes
import Configuration
import Control
import Replication
import Wire

extension NodeLoop {
  /// Tells a new watcher what there is, and everything that changes from now on.
  mutating func subscribe(_ sink: EventSink) {
    let reply = ControlReply(
      status: (0..<volumeEnd).compactMap { slot in
        guard let box = volumes[slot], !box.volume.isLeaving else {
          return nil
        }
        return status(of: slot)
      })
    if sink.send(reply) { watchers.append(sink) }
  }

  /// A resource came up or was taken down.
  mutating func publish(_ verb: String, _ slot: Int) {
    guard !watchers.isEmpty, let status = status(of: slot) else { return }
    publish(eventLines(verb, status))
  }

  /// Something changed.
  mutating func publish(_ slot: Int, _ note: Note) {
    guard !watchers.isEmpty, let line = line(slot, note) else { return }
    publish([line])
  }

  /// A handler ended; DRBD shows the status as `wait` gives it.
  mutating func publishHandlerEnd(_ slot: Int, _ peer: Int, _ call: HandlerCall, _ status: Int32) {
    guard !watchers.isEmpty else { return }
    publish(["response helper \(helperKey(slot, peer, call)) status:\(status << 8)"])
  }

  private mutating func publish(_ lines: [String]) {
    let reply = ControlReply(standardOutput: lines)
    watchers.removeAll { !$0.send(reply) }
  }

  private func line(_ slot: Int, _ note: Note) -> String? {
    let name = volumes[slot]?.volume.configuration.name ?? ""
    switch note {
    case .role(_, let new): return "change resource name:\(name) role:\(new.statusName.rawValue)"
    case .disk(_, let new):
      return "change device name:\(name) volume:0 minor:\(slot) disk:\(new.statusName.rawValue)"
    case .connection(let peer, let old, let new, let reason):
      guard old.statusName != new.statusName else { return nil }
      return "change connection \(key(slot, peer)) connection:\(new.statusName.rawValue)"
        + quotedItem("reason", reason.text)
    case .peerRole(let peer, _, let new):
      return "change connection \(key(slot, peer)) role:\(new.statusName.rawValue)"
    case .replication(let peer, _, let new):
      return "change peer-device \(key(slot, peer)) volume:0 "
        + "replication:\(new.statusName.rawValue)"
    case .peerDisk(let peer, _, let new):
      return "change peer-device \(key(slot, peer)) volume:0 peer-disk:\(new.statusName.rawValue)"
    case .decision(let peer, let decision):
      return "change peer-device \(key(slot, peer)) volume:0"
        + quotedItem("decision", decision.text)
    case .handler(let peer, let call):
      guard volumes[slot]?.volume.configuration.handlers[call.name] != nil else {
        return nil
      }
      return "call helper \(helperKey(slot, peer, call))"
    case .outOfSync(let peer, let range):
      let text = "start=\(range.start / sectorSize), size=\(range.length / sectorSize) (sectors)"
      return "change peer-device \(key(slot, peer)) volume:0" + quotedItem("differs", text)
    case .repaired(let peer, let range):
      let text = "start=\(range.start / sectorSize), size=\(range.length / sectorSize) (sectors)"
      return "change peer-device \(key(slot, peer)) volume:0" + quotedItem("repaired", text)
    case .verifyEnded(let peer, let progress):
      let text =
        "\(progress.isComplete ? "done" : "stopped") at sector "
        + "\(progress.position / sectorSize), \(progress.blocksFound) blocks differ"
      return "change peer-device \(key(slot, peer)) volume:0" + quotedItem("verify", text)
    case .resyncPaused(let peer): return pauseLine(slot, peer)
    case .newGeneration, .resyncDone, .diskError, .protocolError, .verifyStarted, .mustGiveWay,
      .rewritten, .diskTimeout:
      return nil
    }
  }

  /// A resync goes on, or rests, and on whose wish.
  private func pauseLine(_ slot: Int, _ peer: Int) -> String? {
    guard let box = volumes[slot] else { return nil }
    let state = box.volume.replica.status(ofPeer: peer)
    return "change peer-device \(key(slot, peer)) volume:0 "
      + "replication:\(state.statusName.rawValue) resync-suspended:\(state.resyncSuspended)"
  }

  private func helperKey(_ slot: Int, _ peer: Int, _ call: HandlerCall) -> String {
    "\(key(slot, peer)) volume:0 minor:\(slot) helper:\(call.name)"
  }

  private func key(_ slot: Int, _ peer: Int) -> String {
    guard let box = volumes[slot] else { return "" }
    let name = box.volume.configuration.name
    let host = box.volume.peerHosts[peer]
    return "name:\(name) peer-node-id:\(host.nodeID.value) conn-name:\(host.name)"
  }
}
