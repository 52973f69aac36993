/// The log lines of a node: what changed from what to what, in DRBD's form.
import Configuration
import Control
import BlockTypes
import Replication
import Wire

extension NodeLoop {
  func log(_ slot: Int, _ note: Note) {
    guard let box = volumes[slot] else { return }
    let name = box.volume.configuration.name
    func peer(_ index: Int) -> String {
      "\(name) \(box.volume.peerHosts[index].name)"
    }
    switch note {
    case .role(let from, let to):
      options.log(
        .info, "\(name): role( \(from.statusName.rawValue) -> \(to.statusName.rawValue) )")
    case .disk(let from, let to):
      options.log(
        .info, "\(name): disk( \(from.statusName.rawValue) -> \(to.statusName.rawValue) )")
    case .connection(let index, let from, let to, let reason):
      guard from.name != to.name else { return }
      let why = reason == .none ? "" : ": \(reason.text)"
      options.log(
        reason.isPermanent ? .error : .info,
        "\(peer(index)): conn( \(from.name) -> \(to.name) )\(why)")
    case .replication(let index, let from, let to):
      options.log(.info, "\(peer(index)): repl( \(from.name) -> \(to.name) )")
    case .peerDisk(let index, let from, let to):
      options.log(
        .info, "\(peer(index)): pdsk( \(from.statusName.rawValue) -> \(to.statusName.rawValue) )")
    case .peerRole(let index, let from, let to):
      options.log(
        .info, "\(peer(index)): peer( \(from.statusName.rawValue) -> \(to.statusName.rawValue) )")
    case .decision(let index, let decision):
      options.log(.info, "\(peer(index)): handshake: \(decision.text)")
    case .handler: break
    case .mustGiveWay(let index):
      options.log(.warning, "\(peer(index)): an after-sb policy names this Primary as victim")
    case .newGeneration(let generation):
      options.log(
        .info, "\(name): new generation \(generation.number):\(hexadecimal(generation.id))")
    case .resyncDone(let index, let blocks, let equal):
      options.log(.info, "\(peer(index)): Resync done (\(blocks * blockSize / 1024) KiB)")
      logEqual(peer(index), blocks, equal)
    case .resyncPaused(let index):
      let state = box.volume.replica.status(ofPeer: index)
      options.log(.info, "\(peer(index)): resync-suspended( \(state.resyncSuspended) )")
    case .verifyStarted(let index, _), .outOfSync(let index, _), .repaired(let index, _),
      .verifyEnded(let index, _):
      logVerify(peer(index), note)
    case .diskError(_, let errno):
      options.log(.error, "\(name): disk error \(errno)")
    case .rewritten(let range):
      options.log(
        .warning,
        "\(name): sectors \(range.start / sectorSize) +\(range.length / sectorSize) could not be "
          + "read; read from the peer and written anew")
    case .diskTimeout(let milliseconds):
      options.log(
        .error,
        "\(name): the disk has not answered for \(milliseconds) ms (disk-timeout); detaching it")
    case .protocolError(let index, let type):
      options.log(.error, "\(peer(index)): message \(type) makes no sense now; disconnecting")
    }
  }
}
