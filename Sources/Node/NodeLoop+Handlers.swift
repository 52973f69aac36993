/// Which handler is called when, and with what in its environment.
import BlockIO
import BlockTypes
import Configuration
import Control
import Replication
import Wire

extension NodeLoop {
  /// Calls the handlers that a change is about.
  mutating func callHandlers(_ slot: Int, _ note: Note) {
    switch note {
    case .handler(let peer, let call): callHandler(slot, peer, call)
    case .mustGiveWay(let peer):
      guard let box = volumes[slot] else { return }
      let token = register(.silent, slot) { _ in }
      box.volume.step(
        .command(.giveWay(peer: peer, heldOpen: isOpen(slot)), token: token), &reactor, &server)
    case .disk(_, .failed):
      guard let box = volumes[slot],
        box.volume.configuration.disk.onIOError == .callLocalIOError
      else { return }
      handlerIsDue(slot, 0, .localIOError)
    case .replication(let peer, .syncTarget, .established):
      handlerIsDue(slot, peer, .afterResyncTarget)
    case .role, .disk, .connection, .replication, .peerDisk, .peerRole, .decision,
      .newGeneration, .resyncDone, .resyncPaused, .diskError, .protocolError, .verifyStarted,
      .outOfSync, .repaired, .verifyEnded, .rewritten, .diskTimeout:
      break
    }
  }

  /// A handler that the core does not ask for itself.
  private mutating func handlerIsDue(_ slot: Int, _ peer: Int, _ call: HandlerCall) {
    publish(slot, .handler(peer: peer, call))
    callHandler(slot, peer, call)
  }

  private func callHandler(_ slot: Int, _ peer: Int, _ call: HandlerCall) {
    guard let box = volumes[slot] else { return }
    let configuration = box.volume.configuration
    guard let command = configuration.handlers[call.name] else { return }
    let host = box.volume.host
    let peerHost = box.volume.peerHosts[peer]
    let name = configuration.name
    let mailbox = mailbox
    let life = box.volume.life
    options.runHandler(
      HandlerJob(
        name: call.name, command: command,
        environment: handlerEnvironment(configuration, host, peerHost, minor: slot),
        subject: "\(name) \(peerHost.name)",
        ended: { status in
          mailbox.postPatiently(.handlerEnded(life, peer: peer, call, status: status))
        }))
  }

  private func handlerEnvironment(
    _ configuration: ResourceConfiguration, _ host: HostConfiguration,
    _ peer: HostConfiguration, minor: Int
  ) -> [String: String] {
    let disk = host.volume(0)?.disk ?? ""
    var environment = [
      "DRBD_RESOURCE": configuration.name, "DRBD_CONF": configuration.file,
      "DRBD_VOLUME": "0", "DRBD_MINOR": "\(minor)", "DRBD_LL_DISK": disk,
      "DRBD_BACKING_DEV": disk, "DRBD_MY_NODE_ID": "\(host.nodeID.value)",
      "DRBD_PEER": peer.name, "DRBD_PEERS": peer.name,
      "DRBD_PEER_NODE_ID": "\(peer.nodeID.value)", "DRBD_PEER_ADDRESS": peer.address.host,
      "DRBD_PEER_AF": peer.address.family,
      "ASHLAR_NODE": options.node, "ASHLAR_RUN_DIR": options.paths.runDirectory,
    ]
    for host in configuration.hosts {
      environment["DRBD_NODE_ID_\(host.nodeID.value)"] = host.name
    }
    return environment
  }

  /// A handler has ended. On `before-resync-target` depends what the core does next.
  mutating func handlerEnded(
    _ life: VolumeLife, _ peer: Int, _ call: HandlerCall, _ status: Int32
  ) {
    guard let slot = slot(of: life), let box = volumes[slot] else { return }
    publishHandlerEnd(slot, peer, call, status)
    guard call == .beforeResyncTarget else { return }
    let token = register(.silent, slot) { _ in }
    box.volume.step(
      .command(.resyncAllowed(peer: peer, status == 0), token: token), &reactor, &server)
  }
}
