internal import BlockIO
internal import BlockTypes

/// An NBD export as the target of a load, over one or several connections.
///
/// Invariants:
/// - slot `s` uses connection `s % connections`, so the in-flight I/Os spread evenly;
/// - an answer is taken only for an I/O that is waiting for one on that connection; anything else
///   ends
///   the load with an error.
struct NBDTarget: BlockTarget, ~Copyable {
  private struct Connection: BitwiseCopyable {
    var stream: StreamID
    /// The slot whose payload is arriving.
    var receiving: UInt32
  }

  private static var nobody: UInt32 { .max }
  /// How long connecting and the handshake may take. QEMU gives its clients as long.
  static let handshakeLimitNs: UInt64 = 10_000_000_000
  /// Most bytes received ahead on a connection: many replies, or 60 blocks of 4 KiB.
  private static let windowBytes = 256 << 10
  /// Room for the headers of the deepest load twice over.
  private static let sendBytes = 64 << 10

  private var connections: FixedArray<Connection>
  private let export: NBDExport
  let name: String

  var byteCount: UInt64 { export.byteCount }

  /// Connects and shakes hands.
  init(
    _ address: TargetAddress, connections count: Int, reactor: inout Reactor
  ) throws(BenchError) {
    let socket = try resolve(address)
    let name = address.description
    var export = NBDExport()
    var streams: [StreamID] = []
    for index in 0..<count {
      let deadline = monotonicNs() + Self.handshakeLimitNs
      let stream = try Self.connect(
        socket, name, tag: UInt64(index), deadline: deadline, reactor: &reactor)
      let found = try Self.shakeHands(
        stream, address, deadline: deadline, reactor: &reactor)
      if index > 0, found.byteCount != export.byteCount {
        throw .unsupported(target: name, reason: "the export's size changed between connections")
      }
      export = found
      streams.append(stream)
    }
    self.export = export
    self.name = name
    connections = FixedArray(count: count) {
      Connection(stream: streams[$0], receiving: Self.nobody)
    }
  }

  private static func connect(
    _ socket: SocketAddress, _ name: String, tag: UInt64, deadline: UInt64,
    reactor: inout Reactor
  ) throws(BenchError) -> StreamID {
    reactor.connect(socket, tag: tag)
    var descriptor: Int32?
    while descriptor == nil {
      guard monotonicNs() < deadline else {
        reactor.cancel(tag: tag)
        throw .stalled(target: name, inFlight: 1, seconds: handshakeLimitNs / 1_000_000_000)
      }
      reactor.wait(until: Instant(nanoseconds: deadline))
      while let event = reactor.nextEvent() {
        if case .completion(tag, let result) = event { descriptor = result }
      }
    }
    guard let descriptor, descriptor >= 0 else {
      throw .system(
        SystemError(call: "connect", errno: -(descriptor ?? 0), path: socket.description))
    }
    let stream = reactor.openStream(
      descriptor, tag: tag, window: windowBytes, sendBytes: sendBytes)
    guard let stream else {
      throw .unsupported(target: name, reason: "no memory for another connection")
    }
    return stream
  }

  private static func shakeHands(
    _ stream: StreamID, _ address: TargetAddress, deadline: UInt64, reactor: inout Reactor
  ) throws(BenchError) -> NBDExport {
    let name = address.description
    var handshake = NBDHandshake(exportName: address.exportName)
    while true {
      switch try step(&handshake, stream, name, reactor: &reactor) {
      case .ready(let export, let consumed):
        reactor.consume(stream, consumed)
        return export
      case .send(let bytes, let consumed):
        reactor.consume(stream, consumed)
        unsafe reactor.send(stream, bytes.span.bytes)
      case .consume(let consumed): reactor.consume(stream, consumed)
      case .needMore:
        guard monotonicNs() < deadline else {
          throw .stalled(target: name, inFlight: 1, seconds: handshakeLimitNs / 1_000_000_000)
        }
        reactor.wait(until: Instant(nanoseconds: deadline))
        while let event = reactor.nextEvent() {
          guard case .closed(stream, _, let error) = event else { continue }
          // What the server said before it closed matters more: a refusal says why.
          if case .needMore = try step(&handshake, stream, name, reactor: &reactor) {
            throw .connectionLost(target: name, errno: error)
          }
        }
      }
    }
  }

  private static func step(
    _ handshake: inout NBDHandshake, _ stream: StreamID, _ name: String, reactor: inout Reactor
  ) throws(BenchError) -> NBDHandshake.Step {
    do throws(NBDError) {
      let received = unsafe reactor.received(stream)
      return try handshake.step(unsafe received.bytes)
    } catch {
      throw .server(target: name, error)
    }
  }

  func check(_ workload: Workload) throws(BenchError) {
    func refuse(_ reason: String) throws(BenchError) {
      throw .unsupported(target: name, reason: reason)
    }
    let minimum = UInt64(max(export.minimumBlockBytes, 1))
    if workload.blockBytes % minimum != 0 {
      throw .badValue(
        option: "--bs", value: sizeText(workload.blockBytes),
        allowed: "the server takes multiples of \(minimum) bytes")
    }
    if workload.blockBytes > UInt64(export.maximumPayloadBytes) {
      throw .badValue(
        option: "--bs", value: sizeText(workload.blockBytes),
        allowed: "the server takes at most \(export.maximumPayloadBytes) bytes")
    }
    if workload.pattern.writes, export.isReadOnly { try refuse("the export is read-only") }
    if workload.flushEvery > 0, !export.canFlush { try refuse("the server has no FLUSH") }
    if workload.fua, !export.canFUA { try refuse("the server has no FUA") }
    if workload.connections > 1, !export.canMultiConn {
      try refuse("the server does not allow several connections (CAN_MULTI_CONN is not set)")
    }
  }

  @inline(__always)
  mutating func submit(
    _ slot: Int, _ slots: borrowing FixedArray<SlotIO>, _ reactor: inout Reactor
  ) {
    let io = slots[slot]
    let stream = connections[slot % connections.count].stream
    let cookie = UInt64(io.generation) << 32 | UInt64(slot)
    var request = NBDRequest(command: NBDNumber.commandRead, cookie: cookie)
    request.offset = io.offset
    request.length = io.length
    switch io.kind {
    case .read: break
    case .write: request.command = NBDNumber.commandWrite
    case .durableWrite:
      request.command = NBDNumber.commandWrite
      request.flags = NBDNumber.flagFUA
    case .flush:
      request = NBDRequest(command: NBDNumber.commandFlush, cookie: cookie)
    }
    let bytes = request.encoded
    unsafe reactor.send(stream, bytes.span.bytes)
    if io.kind == .write || io.kind == .durableWrite {
      reactor.send(stream, payload: io.buffer, length: io.length)
    }
  }

  @inline(__always)
  mutating func take(
    _ event: ReactorEvent, _ slots: inout FixedArray<SlotIO>, _ reactor: inout Reactor,
    _ done: inout FIFO<UInt32>
  ) throws(BenchError) {
    switch event {
    case .received(_, let tag): try parse(Int(tag), &slots, &reactor, &done)
    case .payload(_, let tag):
      let index = Int(tag)
      let slot = connections[index].receiving
      precondition(slot != Self.nobody, "a payload that nobody waits for")
      connections[index].receiving = Self.nobody
      slots[Int(slot)].phase = .done
      done.push(slot)
      try parse(index, &slots, &reactor, &done)
    case .closed(_, _, let error): throw .connectionLost(target: name, errno: error)
    case .completion, .drained, .mailbox: break
    }
  }

  /// Takes the replies that are whole.
  @inline(__always)
  private mutating func parse(
    _ index: Int, _ slots: inout FixedArray<SlotIO>, _ reactor: inout Reactor,
    _ done: inout FIFO<UInt32>
  ) throws(BenchError) {
    let stream = connections[index].stream
    while true {
      let window = unsafe reactor.received(stream)
      guard window.count >= NBDReply.byteCount else { return }
      let slot = try slotAnswered(by: unsafe window.bytes, on: index, slots)
      reactor.consume(stream, NBDReply.byteCount)
      if slots[slot].kind == .read {
        slots[slot].phase = .receiving
        let isHere = reactor.receivePayload(
          stream, into: slots[slot].buffer, length: slots[slot].length)
        guard isHere else {
          connections[index].receiving = UInt32(slot)
          return
        }
      }
      slots[slot].phase = .done
      done.push(UInt32(slot))
    }
  }

  /// The slot to which the reply at the start of `bytes` belongs.
  @inline(__always)
  private func slotAnswered(
    by bytes: RawSpan, on index: Int, _ slots: borrowing FixedArray<SlotIO>
  ) throws(BenchError) -> Int {
    let reply: NBDReply
    do throws(NBDError) {
      reply = try NBDReply(parsing: bytes)
    } catch {
      throw .server(target: name, error)
    }
    let slot = Int(reply.cookie & 0xFFFF_FFFF)
    let generation = UInt32(reply.cookie >> 32)
    guard slot < slots.count, slot % connections.count == index, slots[slot].phase == .sent,
      slots[slot].generation == generation
    else { throw .server(target: name, .unknownCookie(reply.cookie)) }
    guard reply.error == 0 else {
      let io = slots[slot]
      throw .ioFailed(
        target: name, operation: io.kind.name, offset: io.offset, length: io.length,
        reason: NBDReply.errorText(reply.error))
    }
    return slot
  }

  mutating func close(_ reactor: inout Reactor) {
    let request = NBDRequest(command: NBDNumber.commandDisconnect, cookie: 0)
    let bytes = request.encoded
    for index in 0..<connections.count {
      unsafe reactor.send(connections[index].stream, bytes.span.bytes)
      reactor.closeAfterSending(connections[index].stream)
    }
    let limit = monotonicNs() + 1_000_000_000
    while reactor.operationsInFlight > 0, monotonicNs() < limit {
      reactor.wait(until: Instant(nanoseconds: limit))
      while reactor.nextEvent() != nil {}
    }
  }
}
