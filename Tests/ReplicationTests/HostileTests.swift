/// A peer that sends anything, at any moment, over a disk that may be slow or fail, with clients
/// and an operator who do not wait. Nothing may trap, leak, answer twice or stop (P8).
import BlockTypes
import Metadata
import Replication
import TestSupport
import Testing
import Wire

/// One random run. The limits are small, so that every bound is met many times.
private final class HostileRun {
  let rig: Rig
  var random: SeededGenerator
  var live: [ConnectionID] = []
  var headers: [MessageHeader] = []
  /// Where the run has been, to show that it got somewhere.
  var visited: Set<String> = []

  init(seed: UInt64) {
    random = SeededGenerator(seed: seed)
    let limit = 1 + random.below(4)
    rig = Rig {
      $0.clientRequestLimit = limit
      $0.peerRequestLimit = limit
      $0.resyncWindow = 1 + limit / 2
      $0.resyncRequestBytes = 1 << 20
    }
  }

  /// The peer has said `bitmapDone` on this connection.
  private var hasToldBitmap = false

  func step() {
    switch random.below(18) {
    case 0...1: submit()
    case 2...5: answerDisk()
    case 6: passTime()
    case 8: if random.oneIn(4) { giveCommand() }
    case 9: answerDial()
    case 10: accept()
    case 7, 11...14: plausibleMessage()
    case 15: if random.oneIn(4) { anyMessage() }
    case 16: if random.oneIn(8) { breakOne() }
    default: attach()
    }
    headers += rig.takeSent()
    if headers.count > 40 { headers.removeFirst(headers.count - 40) }
    live.removeAll { rig.closed.contains($0) }
    let role = rig.replica.role == .primary ? "Primary" : "Secondary"
    visited.insert("\(role) \(rig.state) \(rig.replication)")
  }

  private func submit() {
    guard rig.replica.clientRequestCount < rig.replica.options.clientRequestLimit else { return }
    let operations: [Operation] = [.read, .write, .write, .writeZeroes, .trim, .flush]
    let start = UInt64(random.below(6))
    rig.submit(
      operations[random.below(operations.count)], blocks: start..<(start + 1 + random.next() % 3),
      fua: random.oneIn(4), tag: random.next())
  }

  private func answerDisk() {
    if rig.superblockIsPending, rig.disk.isEmpty || random.oneIn(3) {
      return rig.finishSuperblock(result: random.oneIn(50) ? -5 : 0)
    }
    guard !rig.disk.isEmpty else { return }
    let index = random.below(rig.disk.count)
    rig.finishDisk(at: index, result: random.oneIn(40) ? -5 : 0)
  }

  private func passTime() {
    if random.oneIn(2) {
      rig.now = rig.now.advanced(milliseconds: UInt64(random.below(100)))
      return
    }
    guard rig.replica.nextDeadline != .never else { return }
    rig.passDeadline()
    // A tick may begin what is due at once, such as the dial after a loss; then time must pass.
    if rig.replica.nextDeadline <= rig.now { rig.passDeadline() }
    let next = rig.replica.nextDeadline
    #expect(next > rig.now, "the driver would spin")
  }

  private func giveCommand() {
    let commands: [Command] = [
      .connect, .connect, .connect, .connect, .disconnect, .primary(force: false),
      .primary(force: true), .secondary(heldOpen: false), .secondary(heldOpen: true), .detach,
      .invalidate, .shutdown,
    ]
    rig.command(commands[random.below(commands.count)])
  }

  private func attach() {
    guard rig.replica.disk == .diskless else { return }
    let histories = [Lineage(), lineage(1), lineage(1, 2), lineage(1, 3)]
    let states = StoredDiskState.allCases
    rig.attach(
      superblock(
        states[random.below(states.count)], histories[random.below(histories.count)],
        dirty: random.oneIn(2)))
  }

  private func answerDial() {
    guard rig.dialing > 0 else {
      if random.oneIn(3), rig.state == .standAlone { rig.command(.connect) }
      return
    }
    rig.dialing -= 1
    guard !random.oneIn(4) else { return rig.step(.dialFailed(peer: 0)) }
    rig.connection = rig.newConnection()
    live.append(rig.connection)
    rig.step(.dialed(peer: 0, rig.connection))
    if !random.oneIn(6) { greet(.helloReply, rig.connection) }
  }

  private func accept() {
    guard random.oneIn(3) else { return }
    let connection = rig.newConnection()
    live.append(connection)
    rig.step(.accepted(connection))
    if !random.oneIn(4) { greet(.hello, connection) }
  }

  private func greet(_ type: MessageType, _ connection: ConnectionID) {
    guard !rig.closed.contains(connection) else { return }
    // What was said on an earlier connection gets no answer on this one.
    rig.controls = []
    headers = []
    hasToldBitmap = false
    rig.connection = connection
    rig.receiveHello(
      type, on: connection, instance: 70 + UInt64(random.below(3)), epoch: UInt64(random.below(4)),
      from: random.oneIn(20) ? node(5) : other, isPrimary: random.oneIn(2))
  }

  private func breakOne() {
    guard !live.isEmpty else { return }
    rig.step(.closed(live.remove(at: random.below(live.count))))
  }

  /// What a correct peer might send now: an answer to something that was sent, or the next step.
  private func plausibleMessage() {
    guard live.contains(rig.connection) else { return }
    if rig.state.isHandshake { return handshakeMessage() }
    guard rig.state == .connected else { return }
    let isExchanging = rig.replication == .wfBitMapS || rig.replication == .wfBitMapT
    if isExchanging, !random.oneIn(6) { return exchangeMessage() }
    if random.oneIn(3) { return ask() }
    guard let header = headers.popLast() else { return ask() }
    switch header.type {
    case .write, .writeZeroes, .trim, .flush: rig.acknowledge(header, failed: random.oneIn(30))
    case .resyncRequest: sendData(for: header)
    case .resyncData:
      rig.receive(MessageHeader(.resyncAck, id: header.length, offset: header.offset))
    case .promoteRequest:
      rig.receive(.promoteReply, id: header.id, length: random.oneIn(4) ? 0 : 1)
    case .ping: rig.receive(.pong)
    default: ask()
    }
  }

  /// What a correct peer says next while the bitmaps travel, if it is its turn.
  private func exchangeMessage() {
    if let chunk = rig.controls.firstIndex(where: { $0.isBitmap }) {
      rig.controls.remove(at: chunk)
      rig.receive(.bitmapAck)
    } else if let done = headers.firstIndex(where: { $0.type == .bitmapDone }) {
      headers.remove(at: done)
      rig.receive(.syncReady)
    } else if let ready = headers.firstIndex(where: { $0.type == .syncReady }) {
      headers.remove(at: ready)
      rig.receive(.syncStart)
    } else if rig.replication == .wfBitMapT, !hasToldBitmap {
      hasToldBitmap = true
      rig.receive(.bitmapDone)
    }
  }

  private func handshakeMessage() {
    guard random.oneIn(2) else {
      let verdict = headers.last { $0.type == .verdict }
      let action = Action(rawValue: UInt8(verdict?.length ?? UInt64(random.below(3)))) ?? .noSync
      let extent = SyncExtent(rawValue: UInt8(verdict?.offset ?? 0)) ?? .none
      return rig.receiveVerdict(random.oneIn(9) ? action : action.mirrored, extent)
    }
    let disks: [DiskState] = [
      .upToDate, .upToDate, .inconsistent, .outdated, .consistent, .diskless,
    ]
    let histories = [Lineage(), lineage(1), lineage(1, 2), rig.replica.superblock?.lineage]
    rig.receive(
      peerReport(
        disks[random.below(disks.count)], histories[random.below(histories.count)] ?? lineage(1),
        role: random.oneIn(3) ? .primary : .secondary, crashed: random.oneIn(3)))
  }

  private func sendData(for header: MessageHeader) {
    var data = MessageHeader(.resyncData, id: header.id, offset: header.offset, length: 1)
    data.payloadBytes = UInt32(header.length)
    rig.receive(data, buffer: rig.takeBuffer())
  }

  /// Something a peer may begin by itself.
  private func ask() {
    let start = UInt64(random.below(6))
    switch random.below(9) {
    case 0...2: rig.peerWrites(blocks: start..<(start + 1), id: random.next() % 4)
    case 3: rig.receive(.flush, id: 3)
    case 4, 5:
      rig.receive(
        MessageHeader(.resyncRequest, id: 7, offset: start << 20, length: 1 << 20))
    case 6: rig.receive(.promoteRequest, id: random.next() % 3)
    case 7: rig.receive(.roleChanged, length: random.next() % 4)
    default:
      rig.receive(peerReport(.upToDate, lineage(1, 2)), as: random.oneIn(2) ? .syncDone : .state)
    }
  }

  /// Any type, any numbers, on any connection that is open.
  private func anyMessage() {
    guard !live.isEmpty else { return }
    let type = MessageType.allCases[random.below(MessageType.allCases.count)]
    var header = MessageHeader(type)
    header.id = random.oneIn(2) ? headers.last?.id ?? 0 : random.next()
    header.offset = random.oneIn(2) ? UInt64(random.below(2048)) * 4096 : random.next()
    header.length = random.oneIn(2) ? UInt64(random.below(9)) * 512 : random.next()
    var buffer = BufferID.none
    if type.carriesData, !random.oneIn(4) {
      header.payloadBytes = UInt32(random.below(9)) * 512
      if header.payloadBytes > 0 { buffer = rig.takeBuffer() }
    }
    var control: [UInt8] = []
    if type.payloadLimit == maxControlPayloadBytes, !type.carriesData {
      control = (0..<random.below(80)).map { _ in UInt8(random.below(256)) }
      header.payloadBytes = UInt32(control.count)
    }
    rig.receive(
      header, control: control, buffer: buffer, on: live[random.below(live.count)])
  }

  /// Ends everything: the operator disconnects, the disk answers, and nothing may be left.
  func end() {
    for _ in 0..<8 {
      rig.settle()
      rig.passDeadline()
    }
    rig.command(.disconnect)
    rig.settle()
    for connection in live where !rig.closed.contains(connection) {
      rig.step(.closed(connection))
    }
    for _ in 0..<8 {
      rig.settle()
      rig.passDeadline()
    }
  }
}

@Suite struct HostileTests {
  /// Replay one seed with: ASHLAR_SEED=0x2a swift test --filter HostileTests
  @Test(arguments: seeds(count: 300))
  func nothingAPeerSendsTrapsLeaksOrStops(seed: UInt64) {
    let run = HostileRun(seed: seed)
    for _ in 0..<600 { run.step() }
    run.end()
    run.rig.expectSettled("seed \(seed)")
  }

  /// Garbage that gets nowhere protects nothing.
  @Test func hostileRunsReachEveryState() {
    var visited: Set<String> = []
    for seed: UInt64 in 0..<500 {
      let run = HostileRun(seed: seed)
      for _ in 0..<600 { run.step() }
      visited.formUnion(run.visited)
    }
    let states = [
      "standAlone off", "connecting off", "quiescing off", "wfReportParams off", "wfVerdict off",
      "connected established", "connected wfBitMapS", "connected syncSource",
    ]
    for role in ["Primary", "Secondary"] {
      for state in states { #expect(visited.contains("\(role) \(state)")) }
    }
    #expect(visited.contains("Secondary connected wfBitMapT"))
    #expect(visited.contains("Secondary connected syncTarget"))
  }
}
