/// Effects of the core, carried out in order as the reactor does it.
import BlockTypes
import Metadata
import Replication
import Wire

extension Cluster {
  func carryOut(_ effect: Effect, _ node: SimulatedNode) {
    switch effect {
    case .read(let id, let range, let buffer):
      hold(node, buffer)
      submit(node, .request(id, buffer), .read, range)
    case .serve(let id, let range): serve(node, id, range)
    case .write(let id, let range, let buffer, let durable):
      hold(node, buffer)
      checkMarkedDirty(node, range)
      guard let words = payload(node, buffer, range.length) else { return }
      submit(node, .request(id, buffer), .write(words), range, forceUnitAccess: durable)
    case .writeZeroes(let id, let range, _, let durable):
      checkMarkedDirty(node, range)
      submit(node, .request(id, .none), .zero, range, forceUnitAccess: durable)
    case .flush(let id): flush(node, id)
    case .writeSuperblock:
      writeSuperblock(node)
      aim(node)
    case .writeBitmapPage(let entry):
      writeBitmapPage(node, entry)
      aim(node)
    case .writeActivityLog:
      writeActivityLog(node)
      aim(node)
    case .send(let connection, let header, let buffer): send(node, connection, header, buffer)
    case .sendControl(let connection, let message): sendControl(node, connection, message)
    case .sendDigests, .compareDigests: carryOutVerify(effect, node)
    case .keepUndo(_, let number): keepUndo(node, number)
    case .dial:
      _ = network.dial(from: node.index, now: now, random: &networkRandom)
      drainNetwork()
    case .close(let connection):
      say("node \(node.index) closes connection \(connection.value)")
      let id = SimulatedNetwork<WireMessage>.ConnectionID(number: Int(connection.value))
      network.close(id, node: node.index, now: now, random: &networkRandom)
      drainNetwork()
    case .release(let buffer): give(node, buffer)
    case .substitute(let tag, let buffer): substitute(node, tag, buffer)
    case .complete(let tag, let outcome): completed(node, tag, outcome)
    case .reply(let token, let result): replied(node, token, result)
    case .detachDisk:
      if meetsPrimary(node) { node.mayKnowItIsBehind = true }
      say("node \(node.index) detaches its disk")
      readMarks(node)
    case .note(let note): noted(node, note)
    }
  }

  func payload(_ node: SimulatedNode, _ buffer: BufferID, _ bytes: UInt64) -> [UInt64]? {
    guard let words = node.buffers.words(buffer) else {
      violate(.buffers, "node \(node.index) reads buffer \(buffer.value), which is free")
      return nil
    }
    guard UInt64(words.count) * sectorSize == bytes else {
      violate(
        .buffers,
        "node \(node.index): buffer \(buffer.value) has \(words.count) sectors for \(bytes) bytes")
      return nil
    }
    return words
  }

  private func flush(_ node: SimulatedNode, _ id: SlotID) {
    let none = SlotRange(start: 0, count: 0)
    guard options.canary == .skipFlush else {
      return submit(
        node, .request(id, .none), .flush, none, forceUnitAccess: false)
    }
    submit(node, .swallowed(id), .read, none, forceUnitAccess: false)
  }

  private func send(
    _ node: SimulatedNode, _ connection: ConnectionID, _ header: MessageHeader,
    _ buffer: BufferID
  ) {
    var words: [UInt64] = []
    if buffer != .none {
      hold(node, buffer)
      guard let payload = payload(node, buffer, UInt64(header.payloadBytes)) else { return }
      words = payload
      // The kernel has taken the bytes a little later; until then the buffer must not change.
      queue.schedule(
        at: now + networkRandom.below(50_000),
        .sent(node: node.index, epoch: node.epoch, buffer))
    }
    var bytes = [UInt8](repeating: 0, count: MessageHeader.byteCount)
    unsafe bytes.withUnsafeMutableBytes { header.encode(into: $0) }
    transmit(node, connection, WireMessage(bytes: bytes, words: words))
  }

  private func sendControl(
    _ node: SimulatedNode, _ connection: ConnectionID, _ message: ControlMessage
  ) {
    if message == .syncDone { node.promisedContent = history.syncDone(from: node.index) }
    var bytes = [UInt8](
      repeating: 0, count: MessageHeader.byteCount + Int(maxControlPayloadBytes))
    let count = unsafe bytes.withUnsafeMutableBytes {
      node.replica.encode(message, for: connection, into: $0)
    }
    guard count > 0 else { return }
    transmit(node, connection, WireMessage(bytes: Array(bytes[0..<count]), words: []))
  }

  func transmit(
    _ node: SimulatedNode, _ connection: ConnectionID, _ message: WireMessage
  ) {
    let id = SimulatedNetwork<WireMessage>.ConnectionID(number: Int(connection.value))
    var message = message
    seal(&message)
    if network.corruptNext {
      network.corruptNext = false
      flipBit(of: &message)
    }
    if failsNow(node, .send) {
      network.cut(id, .bothTold, now: now, random: &networkRandom)
    } else {
      network.send(message, on: id, from: node.index, now: now, random: &networkRandom)
    }
    drainNetwork()
  }

  private func noted(_ node: SimulatedNode, _ note: Note) {
    say("node \(node.index) notes \(Self.text(note))")
    switch note {
    case .role(_, let new):
      node.role = new
      if new == .secondary { history.clientsLeft(node.index) }
      if new == .primary { becamePrimary(node) }
    case .disk(let old, let new):
      node.diskState = new
      if old == .inconsistent, new == .upToDate, node.durableSuperblock?.diskState != .upToDate {
        violate(.metadata, "node \(node.index) is UpToDate, but not on its disk")
      }
    case .connection(_, let old, let new, let reason):
      if old == .connected { node.losses += 1 }
      node.connection = new
      node.reason = reason
      givesUpIfVictim(node, new)
      if new == .connected { connected(node) }
      if new == .standAlone { stoodAlone(node, reason) }
      if new == .standAlone, reason.text.isEmpty {
        violate(.conduct, "node \(node.index) stands alone and does not say why")
      }
      if reason == .protocolError {
        violate(.conduct, "node \(node.index) met a protocol error from a correct peer")
      }
    case .replication(_, let old, let new):
      if node.replication.isTarget, new == .off { reach(.interruptedResync) }
      node.replication = new
      if new == .wfBitMapT { becameTarget(node) }
      if old == .syncTarget, new == .established {
        statistics.equalBlocks += node.replica.status(ofPeer: 0).syncBlocksEqual
      }
      if new == .established, !old.isVerifying { established(node) }
    case .peerDisk(_, _, let new): node.peerDisk = new
    case .protocolError(_, let type):
      violate(.conduct, "node \(node.index) took a \(type) for a protocol error")
    case .verifyStarted, .outOfSync, .repaired, .verifyEnded: verifyNoted(node, note)
    case .decision(_, let decision):
      met(decision.rule)
      decided(node, decision)
    case .mustGiveWay(let peer): mustGiveWay(node, peer)
    case .rewritten: statistics.repairs += 1
    case .diskTimeout: statistics.diskTimeouts += 1
    case .peerRole, .handler, .newGeneration, .resyncDone, .resyncPaused, .diskError: break
    }
  }

  static func text(_ note: Note) -> String {
    switch note {
    case .newGeneration(let generation): "generation \(text(generation))"
    case .decision(_, let decision):
      "decision \(decision.action) by rule \(decision.rule) \(decision.reason)"
    case .role, .disk, .connection, .replication, .peerDisk, .peerRole, .handler, .mustGiveWay,
      .resyncDone, .resyncPaused, .diskError, .protocolError, .verifyStarted, .outOfSync, .repaired,
      .verifyEnded, .rewritten, .diskTimeout:
      "\(note)"
    }
  }
}
