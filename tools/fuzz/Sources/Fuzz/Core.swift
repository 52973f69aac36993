/// One replica whose peer sends anything with a right header, while clients write, the disk answers
/// in any order and time passes. Nothing traps; each buffer comes back once; each request is
/// answered once.
import BlockTypes
import Metadata
import Replication
import Wire

/// A driver of one replica that carries out effects when the input says so.
private struct Driver: ~Copyable {
  var replica: Replica
  var now = Instant(nanoseconds: 1_000_000_000)
  var entropy: UInt64 = 1
  var connection: ConnectionID?
  var nextConnection: UInt64 = 0
  var isDialing = false
  var disk: [(id: SlotID, serves: Bool)] = []
  var superblockIsPending = false
  /// Buffers that were given and have not come back.
  var held: Set<UInt32> = []
  var nextBuffer: UInt32 = 0
  var openTags: Set<UInt64> = []
  /// Messages that wait for a reply of the peer.
  var unanswered: [MessageHeader] = []
  var chunks = 0
  var nextTag: UInt64 = 0

  init() {
    guard let me = NodeID(0), let other = NodeID(1) else { preconditionFailure("node ids") }
    var options = ReplicaOptions(node: me, resource: "r0", peers: [other], instance: 42)
    options.clientRequestLimit = 8
    options.peerRequestLimit = 4
    options.resyncWindow = 2
    replica = Replica(options: options)
  }

  mutating func takeBuffer() -> BufferID {
    nextBuffer += 1
    held.insert(nextBuffer)
    return BufferID(nextBuffer)
  }

  mutating func step(_ event: Event) {
    entropy &+= 0x9E37_79B9
    replica.step(event, at: now, entropy: entropy)
    drain()
  }

  /// A comparison of digests whose result is the next event.
  private var comparing: SlotID?

  mutating func drain() {
    while let effect = replica.effects.pop() {
      switch effect {
      case .read(let id, _, _), .write(let id, _, _, _), .writeZeroes(let id, _, _, _),
        .flush(let id):
        disk.append((id, false))
      case .serve(let id, _): disk.append((id, true))
      case .writeSuperblock: superblockIsPending = true
      case .writeBitmapPage, .writeActivityLog: writeMetadata(effect)
      case .release(let buffer):
        precondition(held.remove(buffer.value) != nil, "a buffer came back twice")
      case .substitute(let tag, _):
        precondition(openTags.contains(tag), "data for a request that was answered")
      case .complete(let tag, _):
        precondition(openTags.remove(tag) != nil, "a request was answered twice")
      case .close(let closed): if connection == closed { connection = nil }
      case .compareDigests(let id, _, _, _, _): comparing = id
      case .send(_, let header, _), .sendDigests(_, let header, _, _, _):
        unanswered.append(header)
        if unanswered.count > 32 { unanswered.removeFirst() }
      case .sendControl(let connection, let message):
        encode(message, for: connection)
        if case .bitmap = message { chunks += 1 }
      case .dial: isDialing = true
      default: break
      }
    }
    guard let id = comparing else { return }
    comparing = nil
    step(.digestsCompared(id, differing: entropy & 0xFF))
  }

  /// Pages and transactions are on the disk at once.
  mutating func writeMetadata(_ effect: Effect) {
    var bytes = [UInt8](repeating: 0, count: 4096)
    entropy &+= 1
    if case .writeBitmapPage(let entry) = effect {
      bytes.withUnsafeMutableBytes { _ = replica.encodePage(entry, into: $0) }
      replica.step(.bitmapPageWritten(entry, result: 0), at: now, entropy: entropy)
    } else {
      bytes.withUnsafeMutableBytes { _ = replica.encodeActivityLog(into: $0) }
      replica.step(.activityLogWritten(result: 0), at: now, entropy: entropy)
    }
  }

  /// What the driver of a node does before the next event; the bytes are a message.
  func encode(_ message: ControlMessage, for connection: ConnectionID) {
    var bytes = [UInt8](
      repeating: 0, count: MessageHeader.byteCount + Int(maxControlPayloadBytes))
    let count = bytes.withUnsafeMutableBytes {
      replica.encode(message, for: connection, into: $0)
    }
    guard count > 0 else { return }
    let header = bytes.withUnsafeBytes { try? MessageHeader(parsing: $0) }
    precondition(
      header.map { Int($0.payloadBytes) + MessageHeader.byteCount } == count,
      "a message that no peer would take")
  }

  mutating func receive(_ header: MessageHeader, _ control: [UInt8], on connection: ConnectionID) {
    var buffer = BufferID.none
    if header.type.carriesData, header.payloadBytes > 0 { buffer = takeBuffer() }
    entropy &+= 1
    control.withUnsafeBytes {
      replica.receive(
        connection, header, control: $0, buffer: buffer, at: now, entropy: entropy)
    }
    drain()
  }

  mutating func finishDisk(_ index: Int, fails: Bool) {
    guard !disk.isEmpty else { return }
    let (id, serves) = disk.remove(at: index % disk.count)
    step(.diskCompleted(id, result: fails ? -5 : 0, buffer: serves ? takeBuffer() : .none))
  }

  mutating func finishSuperblock(fails: Bool) {
    guard superblockIsPending else { return }
    superblockIsPending = false
    step(.superblockWritten(result: fails ? -5 : 0))
  }
}

func fuzzCore(_ bytes: UnsafeRawBufferPointer) {
  var input = Input(bytes)
  var driver = Driver()
  let start = input.below(8)
  if start < 4 { begin(&driver, start) } else { attach(&driver, &input) }
  while !input.isAtEnd {
    switch input.below(16) {
    case 0, 1: submit(&driver, &input)
    case 2, 3: driver.finishDisk(Int(input.byte()), fails: input.below(64) == 63)
    case 4: driver.finishSuperblock(fails: input.below(64) == 63)
    case 5: connect(&driver, &input)
    case 6: command(&driver, input.below(9))
    case 7:
      driver.now = driver.now.advanced(milliseconds: UInt64(input.byte()) * 20)
      if driver.now >= driver.replica.nextDeadline { driver.step(.tick) }
    case 8:
      if let connection = driver.connection, input.below(4) == 0 {
        driver.connection = nil
        driver.step(.closed(connection))
      }
    case 9...12: answer(&driver, &input)
    default: message(&driver, &input)
    }
  }
}

/// Goes to where most of the core is: connected to a peer with the same data, as Primary, as source
/// or as target of a resync. Nobody finds the way by chance.
private func begin(_ driver: inout Driver, _ start: Int) {
  guard let me = NodeID(0), let other = NodeID(1) else { return }
  var old = Lineage()
  old.begin(id: 1, author: other)
  var new = old
  new.begin(id: 2, author: other)
  let isSource = start == 2
  let isTarget = start == 3
  var block = Superblock(node: me, resource: "r0", volumeBytes: 8 << 20, deviceID: 7)
  block.diskState = .upToDate
  block.lineage = isSource ? new : old
  if isSource { block.peers = [PeerSlotRecord(node: other, base: old.newest)] }
  _ = driver.replica.prepareAttach(block)
  driver.replica.attach(block, hot: .none, token: 1, at: driver.now, entropy: 1)
  driver.drain()
  settle(&driver)
  driver.step(.command(.connect, token: 2))
  driver.now = max(driver.now, driver.replica.nextDeadline)
  driver.step(.tick)
  driver.nextConnection += 1
  let connection = ConnectionID(driver.nextConnection)
  driver.connection = connection
  driver.step(.dialed(peer: 0, connection))
  var hello = Hello(node: other, instance: 1, epoch: 0, resource: "r0")
  hello.isPrimary = isTarget
  send(.helloReply, encoded(hello.encode), &driver)
  settle(&driver)
  var report = StateReport(
    volumeBytes: 8 << 20, disk: .upToDate, role: isTarget ? .primary : .secondary)
  report.lineage = isTarget ? new : old
  if isTarget { report.base = old.newest }
  send(.state, encoded(report.encode), &driver)
  settle(&driver)
  if start == 1 {
    driver.step(.command(.primary(force: false), token: 3))
    settle(&driver)
  }
}

/// Answers disk and peer until nothing is left to answer.
private func settle(_ driver: inout Driver) {
  let nothing = UnsafeRawBufferPointer(start: nil, count: 0)
  for _ in 0..<100 {
    if !driver.disk.isEmpty {
      driver.finishDisk(0, fails: false)
    } else if driver.superblockIsPending {
      driver.finishSuperblock(fails: false)
    } else if driver.chunks > 0 || !driver.unanswered.isEmpty {
      var zeroes = Input(nothing)
      answer(&driver, &zeroes)
    } else if driver.replica.status(ofPeer: 0).replication == .wfBitMapT {
      guard let connection = driver.connection else { return }
      driver.receive(MessageHeader(.bitmapDone), [], on: connection)
    } else {
      return
    }
  }
}

private func attach(_ driver: inout Driver, _ input: inout Input) {
  guard let me = NodeID(0), let other = NodeID(1) else { return }
  var block = Superblock(node: me, resource: "r0", volumeBytes: 8 << 20, deviceID: 7)
  let states = StoredDiskState.allCases
  block.diskState = states[input.below(states.count)]
  block.dirty = input.flag()
  block.wasPrimary = input.flag()
  for number in 0..<input.below(3) {
    block.lineage.begin(id: UInt64(number + 1), author: number == 1 ? me : other)
  }
  if input.flag() { block.peers = [PeerSlotRecord(node: other, base: block.lineage.newest)] }
  let hot: ActivityLogRecovery = block.dirty && input.flag() ? .extents([0]) : .none
  guard driver.replica.prepareAttach(block) else { return }
  driver.replica.attach(block, hot: hot, token: 1, at: driver.now, entropy: 1)
  driver.drain()
}

private func submit(_ driver: inout Driver, _ input: inout Input) {
  guard driver.replica.clientRequestCount < driver.replica.options.clientRequestLimit else {
    return
  }
  let operations: [Operation] = [.write, .read, .flush, .trim, .writeZeroes]
  let operation = operations[input.below(5)]
  let start = UInt64(input.below(8)) * 2048
  let range =
    operation == .flush
    ? ByteRange(start: 0, end: 0) : ByteRange(start: start, end: start + 4096)
  driver.nextTag += 1
  driver.openTags.insert(driver.nextTag)
  var request = ClientRequest(operation, range, tag: driver.nextTag)
  request.forceUnitAccess = input.flag()
  if operation == .write || operation == .read { request.buffer = driver.takeBuffer() }
  driver.step(.submit(request))
}

private func command(_ driver: inout Driver, _ number: Int) {
  let commands: [Command] = [
    .connect, .connect, .disconnect, .primary(force: false), .primary(force: true),
    .secondary(heldOpen: false), .detach, .invalidate, .shutdown,
  ]
  driver.step(.command(commands[number], token: 1_000_000 + driver.entropy))
}

/// A connection, dialed or accepted, and in most cases a good hello on it.
private func connect(_ driver: inout Driver, _ input: inout Input) {
  guard driver.connection == nil, let other = NodeID(1) else { return }
  driver.nextConnection += 1
  let connection = ConnectionID(driver.nextConnection)
  driver.connection = connection
  let isDialed = driver.isDialing
  driver.isDialing = false
  driver.step(isDialed ? .dialed(peer: 0, connection) : .accepted(connection))
  guard input.below(8) > 0 else { return }
  var hello = Hello(
    node: other, instance: UInt64(input.below(3)), epoch: UInt64(input.below(3)), resource: "r0")
  hello.isPrimary = input.flag()
  send(isDialed ? .helloReply : .hello, encoded(hello.encode), &driver)
}

/// What a correct peer replies to something it was sent.
private func answer(_ driver: inout Driver, _ input: inout Input) {
  guard let connection = driver.connection else { return }
  if driver.chunks > 0 {
    driver.chunks -= 1
    return driver.receive(MessageHeader(.bitmapAck), [], on: connection)
  }
  guard !driver.unanswered.isEmpty else { return }
  let asked = driver.unanswered.remove(at: Int(input.byte()) % driver.unanswered.count)
  var reply: MessageHeader
  switch asked.type {
  case .write, .writeZeroes, .trim, .flush: reply = MessageHeader(.ack, id: asked.id)
  case .verdict:
    let action = Action(rawValue: UInt8(truncatingIfNeeded: asked.length)) ?? .noSync
    reply = asked
    reply.length = UInt64(action.mirrored.rawValue)
  case .resyncRequest:
    reply = MessageHeader(.resyncData, id: asked.id, offset: asked.offset, length: 1)
    reply.payloadBytes = UInt32(truncatingIfNeeded: asked.length)
  case .resyncData: reply = MessageHeader(.resyncAck, id: asked.length, offset: asked.offset)
  case .promoteRequest: reply = MessageHeader(.promoteReply, id: asked.id, length: 1)
  case .verifyRequest, .verifyRequestLocked:
    reply = MessageHeader(.verifyDigests, id: asked.id, offset: asked.offset, length: 1)
    reply.payloadBytes = UInt32(truncatingIfNeeded: BlockDigest.blocks(asked.length) * 4)
  case .verifyDigests:
    reply = MessageHeader(.verifyResult, id: asked.length, offset: asked.offset, length: 1)
  case .resyncDigests:
    reply = MessageHeader(.resyncCompared, id: asked.id, offset: asked.offset, length: 1)
  case .repairRequest, .repairRequestLocked:
    reply = MessageHeader(.repairData, id: asked.id, offset: asked.offset, length: 1)
    reply.payloadBytes = UInt32(truncatingIfNeeded: asked.length)
  case .repairData:
    reply = MessageHeader(
      .repairAck, id: asked.length, offset: asked.offset, length: UInt64(asked.payloadBytes))
  case .bitmapDone: reply = MessageHeader(.syncReady)
  case .syncReady: reply = MessageHeader(.syncStart)
  case .ping: reply = MessageHeader(.pong)
  default: return
  }
  driver.receive(reply, [], on: connection)
}

private func send(_ type: MessageType, _ payload: [UInt8], _ driver: inout Driver) {
  guard let connection = driver.connection else { return }
  var header = MessageHeader(type)
  header.payloadBytes = UInt32(payload.count)
  driver.receive(header, payload, on: connection)
}

/// A message with a right header and any contents; a report is mostly a good one.
private func message(_ driver: inout Driver, _ input: inout Input) {
  guard let connection = driver.connection else { return }
  let types = MessageType.allCases
  let type = types[input.below(types.count)]
  if type == .state || type == .syncDone, input.flag() { return report(type, &driver, &input) }
  var header = MessageHeader(type)
  header.id = input.flag() ? UInt64(input.byte()) : input.number()
  header.offset = input.flag() ? UInt64(input.below(16)) * 2048 : input.number()
  header.length = input.flag() ? UInt64(input.below(9)) * 2048 : input.number()
  header.forceUnitAccess = input.flag()
  var payload: [UInt8] = []
  if type.carriesData {
    header.payloadBytes = UInt32(input.below(9)) * 512
  } else {
    payload = Array(input.take(min(Int(input.byte()), Int(type.payloadLimit))))
    header.payloadBytes = UInt32(payload.count)
  }
  driver.receive(header, payload, on: connection)
}

private func report(_ type: MessageType, _ driver: inout Driver, _ input: inout Input) {
  guard let me = NodeID(0), let other = NodeID(1) else { return }
  let disks = DiskState.allCases.filter { $0.rawValue <= DiskState.upToDate.rawValue }
  var report = StateReport(
    volumeBytes: 8 << 20, disk: disks[input.below(disks.count)],
    role: input.flag() ? .primary : .secondary)
  if input.flag() { report.base = Generation.beforeAll(other) }
  for number in 0..<input.below(4) {
    report.lineage.begin(id: UInt64(number + 1), author: number == 1 ? me : other)
  }
  report.crashed = input.flag()
  report.wasPrimary = input.flag()
  send(type, encoded(report.encode), &driver)
}
