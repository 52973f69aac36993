/// Ways into the states that tests begin from.
import BlockTypes
import Metadata
import Replication
import TestSupport
import Testing
import Wire

extension Rig {
  /// A Secondary that dialed, and whose dial the peer has answered: the handshake begins.
  func dialAndGreet(isPrimary: Bool = false) {
    command(.connect)
    passDeadline()
    connection = newConnection()
    step(.dialed(peer: 0, connection))
    receiveHello(.helloReply, on: connection, isPrimary: isPrimary)
  }

  /// Goes through a handshake up to `Connected` and through the exchange of bitmaps; the peer
  /// decides the mirror of what we did.
  func shakeHands(_ report: StateReport) {
    agree(report)
    exchangeBitmaps()
  }

  /// Goes through a handshake up to `Connected`.
  func agree(_ report: StateReport) {
    settle()
    receive(report)
    settle()
    guard let verdict = sent(.verdict), let action = Action(rawValue: UInt8(verdict.length)) else {
      Issue.record("no verdict was sent in \(state)")
      return
    }
    receiveVerdict(action.mirrored, SyncExtent(rawValue: UInt8(verdict.offset)) ?? .none)
    settle()
    #expect(state == .connected)
  }

  /// The peer answers chunks, marks nothing of its own, and starts the resync if there is one.
  func exchangeBitmaps() {
    while replication == .wfBitMapS || replication == .wfBitMapT {
      exchangeOne()
      settle()
    }
  }

  /// The next message of the peer in the exchange of bitmaps.
  func exchangeOne() {
    if let chunk = controls.firstIndex(where: { $0.isBitmap }) {
      controls.remove(at: chunk)
      return receive(.bitmapAck)
    }
    if replication == .wfBitMapS { return receive(.syncReady) }
    if let ready = sent.firstIndex(where: { $0.type == .syncReady }) {
      sent.remove(at: ready)
      return receive(.syncStart)
    }
    receive(.bitmapDone)
  }

  func receiveVerdict(_ action: Action, _ extent: SyncExtent = .none) {
    receive(
      MessageHeader(
        .verdict, offset: UInt64(extent.rawValue), length: UInt64(action.rawValue)))
  }

  /// Attached and Connected with a peer that reports `report`.
  static func connected(
    _ block: Superblock = superblock(), to report: StateReport = peerReport(),
    _ change: (inout ReplicaOptions) -> Void = { _ in }
  ) -> Rig {
    let rig = Rig(change)
    rig.attach(block)
    rig.dialAndGreet(isPrimary: report.role == .primary)
    rig.shakeHands(report)
    return rig
  }

  /// Primary, Connected to an UpToDate Secondary.
  static func primary(_ change: (inout ReplicaOptions) -> Void = { _ in }) -> Rig {
    let rig = connected(superblock(), to: peerReport(), change)
    rig.promote()
    return rig
  }

  /// Primary without its peer.
  static func lonePrimary() -> Rig {
    let rig = Rig()
    rig.attach(superblock())
    let token = rig.command(.primary(force: false))
    rig.settle()
    #expect(rig.replies[token] == .done)
    return rig
  }

  /// Primary and source of a resync to a peer that has old data.
  static func source(_ change: (inout ReplicaOptions) -> Void = { _ in }) -> Rig {
    let rig = connected(
      superblock(.upToDate, lineage(1, 2)), to: peerReport(.upToDate, lineage(1)), change)
    rig.promote()
    #expect(rig.replication == .syncSource)
    return rig
  }

  /// Target of a resync from a Primary that went on alone.
  static func target(_ change: (inout ReplicaOptions) -> Void = { _ in }) -> Rig {
    let rig = connected(
      superblock(), to: peerReport(.upToDate, lineage(1, 2), role: .primary), change)
    #expect(rig.replication == .syncTarget)
    return rig
  }

  /// Source of a partial resync, whose only chunk of the bitmap is under way.
  static func tellingSource() -> Rig {
    let rig = Rig()
    var block = superblock(.upToDate, lineage(1, 2))
    block.peers = [PeerSlotRecord(node: other, base: lineage(1).newest)]
    rig.attach(block, marked: 3..<9)
    rig.dialAndGreet()
    rig.agree(peerReport())
    #expect(rig.replication == .wfBitMapS)
    return rig
  }

  /// Target of a partial resync, which the source has not told its bitmap.
  static func toldTarget(_ change: (inout ReplicaOptions) -> Void = { _ in }) -> Rig {
    let rig = Rig(change)
    rig.attach(superblock())
    rig.dialAndGreet(isPrimary: true)
    var report = peerReport(.upToDate, lineage(1, 2), role: .primary)
    report.base = lineage(1).newest
    rig.agree(report)
    #expect(rig.replication == .wfBitMapT)
    return rig
  }

  /// Secondary, Connected to a Primary.
  static func secondary(_ change: (inout ReplicaOptions) -> Void = { _ in }) -> Rig {
    connected(superblock(), to: peerReport(role: .primary), change)
  }

  /// Asks for the Primary role; the peer grants it.
  func promote() {
    let token = command(.primary(force: false))
    let request = sent(.promoteRequest)
    receive(.promoteReply, id: request?.id ?? 0, length: 1)
    settle()
    #expect(replies[token] == .done)
    #expect(replica.role == .primary)
    _ = takeSent()
  }

  /// The peer acknowledges a request of ours.
  func acknowledge(_ header: MessageHeader, failed: Bool = false) {
    receive(.ack, id: header.id, length: failed ? 1 : 0)
  }

  /// The peer has put on record that this node's disk is gone, as generation 2.
  func acknowledgeDisk() {
    receive(MessageHeader(.diskChangedAck, id: 99, offset: 2, length: 1))
  }

  /// A write of the peer over `blocks`.
  func peerWrites(blocks: Range<UInt64>, id: UInt64 = 9, fua: Bool = false) {
    var header = MessageHeader(
      .write, id: id, offset: blocks.lowerBound * blockSize,
      length: UInt64(blocks.count) * blockSize)
    header.payloadBytes = UInt32(header.length)
    header.forceUnitAccess = fua
    receive(header, buffer: takeBuffer())
  }

  /// Answers a resync request of ours with data, and lets the disk write it.
  func answerPull(_ asked: MessageHeader) {
    var data = MessageHeader(.resyncData, id: asked.id, offset: asked.offset, length: 5)
    data.payloadBytes = UInt32(asked.length)
    receive(data, buffer: takeBuffer())
    settle()
  }

  /// Answers every resync request of ours that was sent with data, and lets the disk write it.
  func feedResync() {
    while let request = sent.firstIndex(where: { $0.type == .resyncRequest }) {
      let asked = sent.remove(at: request)
      var data = MessageHeader(.resyncData, id: asked.id, offset: asked.offset, length: 5)
      data.payloadBytes = UInt32(asked.length)
      receive(data, buffer: takeBuffer())
      settle()
    }
  }

  /// Pulls everything as a target would, and acknowledges it.
  func drainSource() {
    var offset: UInt64 = 0
    while offset < volumeBytes {
      receive(MessageHeader(.resyncRequest, id: 1, offset: offset, length: 1 << 20))
      settleDisk()
      guard let data = sent(.resyncData) else {
        Issue.record("no data for \(offset)")
        return
      }
      receive(
        MessageHeader(.resyncAck, id: data.length, offset: data.offset, length: 1 << 20))
      offset += 1 << 20
    }
  }

  /// Answers disk effects only; superblocks stay under way.
  func settleDisk() {
    while !disk.isEmpty { finishDisk() }
  }

  /// Breaks the connection as a network does.
  func breakConnection() { step(.closed(connection)) }
}

extension Rig {
  /// Dials again after a loss, and is greeted.
  func dialAndGreetAgain(isPrimary: Bool = false) {
    while state == .connecting, !effects.kinds.contains("dial") { passDeadline() }
    connection = newConnection()
    step(.dialed(peer: 0, connection))
    receiveHello(.helloReply, on: connection, isPrimary: isPrimary)
    _ = takeSent()
  }
}
