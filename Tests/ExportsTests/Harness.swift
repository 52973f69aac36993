/// An engine on a transport of plain memory, with clients made of bytes and a volume that is an
/// array: every byte sequence can be played without a socket, in one thread, deterministically.

@testable import BlockIO
import BlockTypes
import Glibc

@testable import Exports

/// One client's connection as the engine's transport sees it.
final class FakeStream {
  static let windowBytes = 64 << 10
  /// Bytes the client has sent that are not in the window yet.
  var socket: [UInt8] = []
  var socketHead = 0
  let window = UnsafeMutableRawPointer.allocate(byteCount: FakeStream.windowBytes, alignment: 16)
  var head = 0
  var tail = 0
  /// All that was sent to the client.
  var sent: [UInt8] = []
  var isClosed = false
  var closesAfterSending = false
  /// Whether the client has taken what was queued when the stream was closed.
  var allSent = false
  var isCongested = false
  var payload: (buffer: BufferID, at: Int, left: Int)?
  /// Buffers queued to be sent, while the client does not read.
  var held: [BufferID] = []

  deinit { window.deallocate() }

  func compact() {
    guard head > 0 else { return }
    window.copyMemory(from: window + head, byteCount: tail - head)
    tail -= head
    head = 0
  }

  /// Moves bytes from the socket to the window; whether there were any.
  func fillWindow() -> Bool {
    compact()
    let count = min(Self.windowBytes - tail, socket.count - socketHead)
    guard count > 0 else { return false }
    for index in 0..<count {
      window.storeBytes(of: socket[socketHead + index], toByteOffset: tail + index, as: UInt8.self)
    }
    socketHead += count
    tail += count
    return true
  }
}

struct FakeTransport: NBDTransport, ~Copyable {
  var streams: [FakeStream] = []
  /// Clients do not read: what is sent keeps its buffers.
  var holdsSends = false
  /// Most buffers in use at a time.
  var buffersMax = 4096
  private(set) var buffersInUse = 0
  private(set) var buffersPeak = 0
  private var memory: [UnsafeMutableRawPointer] = []
  private var holders: [Int] = []
  private var free: [UInt32] = []

  deinit { for buffer in memory { buffer.deallocate() } }

  func stream(_ id: StreamID) -> FakeStream { streams[Int(id.slot.slot)] }

  mutating func allocate(_ bytes: UInt32, reserve: UInt32) -> BufferID? {
    precondition(bytes > 0 && bytes <= maxPayloadBytes, "a buffer of \(bytes) bytes")
    // What is left for replication is beyond `buffersMax`.
    let kept = Int(reserve) - Int(NBDServerOptions().bufferReserve)
    guard buffersMax - buffersInUse > kept else { return nil }
    buffersInUse += 1
    buffersPeak = max(buffersPeak, buffersInUse)
    if let index = free.popLast() {
      holders[Int(index)] = 1
      return BufferID(index)
    }
    memory.append(.allocate(byteCount: Int(maxPayloadBytes), alignment: 4096))
    holders.append(1)
    return BufferID(UInt32(memory.count - 1))
  }

  mutating func retain(_ buffer: BufferID) { holders[Int(buffer.value)] += 1 }

  mutating func release(_ buffer: BufferID) {
    precondition(holders[Int(buffer.value)] > 0, "released twice")
    holders[Int(buffer.value)] -= 1
    guard holders[Int(buffer.value)] == 0 else { return }
    buffersInUse -= 1
    free.append(buffer.value)
  }

  func memory(of buffer: BufferID) -> UnsafeMutableRawPointer {
    precondition(holders[Int(buffer.value)] > 0, "used after release")
    return memory[Int(buffer.value)]
  }

  func received(_ stream: StreamID) -> UnsafeRawBufferPointer {
    let stream = self.stream(stream)
    precondition(!stream.isClosed, "the stream was closed")
    return UnsafeRawBufferPointer(
      start: stream.window + stream.head, count: stream.tail - stream.head)
  }

  mutating func consume(_ stream: StreamID, _ bytes: Int) {
    let stream = self.stream(stream)
    precondition(bytes >= 0 && stream.head + bytes <= stream.tail, "consumed what is not there")
    stream.head += bytes
  }

  mutating func receivePayload(
    _ id: StreamID, into buffer: BufferID, bufferOffset: UInt32, length: UInt32
  ) -> Bool {
    let stream = self.stream(id)
    precondition(stream.payload == nil, "a payload is already being received")
    stream.payload = (buffer, Int(bufferOffset), Int(length))
    retain(buffer)
    return movePayload(stream)
  }

  /// Moves window bytes to the payload; whether that completed it.
  mutating func movePayload(_ stream: FakeStream) -> Bool {
    guard let payload = stream.payload else { return false }
    let count = min(stream.tail - stream.head, payload.left)
    (memory(of: payload.buffer) + payload.at).copyMemory(
      from: stream.window + stream.head, byteCount: count)
    stream.head += count
    if count == payload.left {
      stream.payload = nil
      release(payload.buffer)
      return true
    }
    stream.payload = (payload.buffer, payload.at + count, payload.left - count)
    return false
  }

  mutating func send(_ stream: StreamID, _ bytes: UnsafeRawBufferPointer) {
    let stream = self.stream(stream)
    precondition(!stream.isClosed && !stream.closesAfterSending, "sent after the end")
    stream.sent.append(contentsOf: bytes)
  }

  mutating func send(
    _ id: StreamID, payload buffer: BufferID, bufferOffset: UInt32, length: UInt32
  ) {
    let bytes = UnsafeRawBufferPointer(
      start: memory(of: buffer) + Int(bufferOffset), count: Int(length))
    send(id, bytes)
    guard holdsSends else { return }
    retain(buffer)
    stream(id).held.append(buffer)
  }

  /// The client has read everything.
  mutating func releaseSends(_ stream: FakeStream) {
    for buffer in stream.held { release(buffer) }
    stream.held = []
  }

  func sendIsCongested(_ stream: StreamID) -> Bool { self.stream(stream).isCongested }

  func unsentBytes(_ stream: StreamID) -> Int {
    self.stream(stream).held.count * Int(maxPayloadBytes)
  }

  func streamExists(_ stream: StreamID) -> Bool {
    let stream = self.stream(stream)
    return !stream.isClosed && !(stream.closesAfterSending && stream.allSent)
  }

  mutating func closeStream(_ id: StreamID) {
    let stream = self.stream(id)
    stream.isClosed = true
    releaseSends(stream)
    if let payload = stream.payload {
      release(payload.buffer)
      stream.payload = nil
    }
  }

  mutating func closeAfterSending(_ id: StreamID) {
    let stream = self.stream(id)
    stream.closesAfterSending = true
    if let payload = stream.payload {
      release(payload.buffer)
      stream.payload = nil
    }
  }
}

/// A client of the harness.
struct FakeClient {
  let session: SlotID
  let stream: StreamID
}

/// The engine, its transport, and a core that completes requests on an array.
final class Harness {
  var engine: NBDEngine
  var transport = FakeTransport()
  var volume: [UInt8]
  var notices: [NBDNotice] = []
  /// Requests taken from the engine and not completed.
  var pending: [ExportRequest] = []
  /// Every request ever taken.
  var log: [ExportRequest] = []
  /// Whether requests change the array; off for exports larger than it.
  var appliesData = true
  /// Error for a request, 0 for success.
  var fault: (ExportRequest) -> Int32 = { _ in 0 }

  init(
    options: NBDServerOptions = Harness.smallOptions, sizeBytes: Int = 4 << 20,
    state: NBDExport.State = .writable
  ) {
    engine = NBDEngine(options: options)
    volume = [UInt8](repeating: 0, count: sizeBytes)
    _ = engine.exports.set(NBDExport(name: "r0", sizeBytes: UInt64(sizeBytes), state: state))
  }

  /// The defaults, but quick to set up: tests make thousands of servers.
  static var smallOptions: NBDServerOptions {
    var options = NBDServerOptions()
    options.clientsMax = 8
    options.piecesMax = 256
    return options
  }

  /// Connects; `nil` when the server turns the client away.
  func connect() -> FakeClient? {
    guard let id = engine.reserveSession() else { return nil }
    transport.streams.append(FakeStream())
    let stream = StreamID(SlotID(slot: UInt32(transport.streams.count - 1), generation: 1))
    engine.begin(id, stream: stream, &transport)
    return FakeClient(session: id, stream: stream)
  }

  func stream(_ client: FakeClient) -> FakeStream { transport.stream(client.stream) }

  func isClosed(_ client: FakeClient) -> Bool {
    stream(client).isClosed || stream(client).closesAfterSending
  }

  /// The client sends bytes; the engine sees them.
  func feed(_ client: FakeClient, _ bytes: [UInt8]) {
    stream(client).socket.append(contentsOf: bytes)
    deliver(client)
  }

  /// Delivers what the client's socket holds, as the reactor would.
  func deliver(_ client: FakeClient) {
    let stream = stream(client)
    while !isClosed(client), let slot = engine.sessions.slot(client.session) {
      guard stream.fillWindow() else { return }
      if stream.payload != nil {
        if transport.movePayload(stream) { engine.payloadReceived(slot, &transport) }
      } else {
        engine.received(slot, &transport)
      }
    }
  }

  /// The connection ends from the client's side.
  func hangUp(_ client: FakeClient, error: Int32 = 0) {
    guard !isClosed(client), let slot = engine.sessions.slot(client.session) else { return }
    engine.closed(slot, error: error, &transport)
  }

  /// Takes new requests from the engine.
  func collect() {
    while let request = engine.requests.pop() {
      pending.append(request)
      log.append(request)
    }
  }

  /// Completes the request at `index` of `pending`.
  func complete(_ index: Int) {
    let request = pending.remove(at: index)
    let error = fault(request)
    if error == 0, appliesData { apply(request) }
    engine.complete(request.tag, error: error, &transport)
  }

  private func apply(_ request: ExportRequest) {
    let start = Int(request.offset.bytes)
    let count = Int(request.length)
    switch request.operation {
    case .read:
      volume.withUnsafeBytes {
        transport.memory(of: request.buffer).copyMemory(
          from: $0.baseAddress! + start, byteCount: count)
      }
    case .write:
      let memory = transport.memory(of: request.buffer)
      volume.withUnsafeMutableBytes {
        ($0.baseAddress! + start).copyMemory(from: memory, byteCount: count)
      }
    case .trim, .writeZeroes:
      volume.withUnsafeMutableBytes { _ = memset($0.baseAddress! + start, 0, count) }
    case .flush: break
    }
  }

  /// Runs everything to its end: requests, ticks, and bytes that could not be taken before.
  func run(_ clients: FakeClient?...) {
    var isBusy = true
    while isBusy {
      isBusy = false
      for client in clients.compactMap({ $0 }) { deliver(client) }
      collect()
      while !pending.isEmpty {
        isBusy = true
        complete(0)
        collect()
      }
      let waiting = engine.waiting.count
      engine.tick(&transport)
      if engine.waiting.count < waiting { isBusy = true }
      collect()
      if !pending.isEmpty { isBusy = true }
    }
    while let notice = engine.notices.pop() { notices.append(notice) }
  }

  /// What must be so when all clients are gone or idle and nothing is pending.
  func leaks() -> [String] {
    var found: [String] = []
    if transport.buffersInUse != 0 { found.append("\(transport.buffersInUse) buffers") }
    if engine.pieces.count != 0 { found.append("\(engine.pieces.count) pieces") }
    if !engine.waiting.isEmpty { found.append("\(engine.waiting.count) waiting") }
    let gate = engine.exports[gate: 0]
    if gate.inFlight != 0 { found.append("\(gate.inFlight) in flight") }
    if gate.pieces != 0 { found.append("\(gate.pieces) pieces of the export") }
    if gate.waiting != 0 { found.append("\(gate.waiting) waiting for the export") }
    if (0..<4).contains(where: { gate.held[$0] != 0 }) { found.append("buffers of the export") }
    let live = (0..<engine.sessions.usedEnd).filter {
      let session = engine.sessions[UInt32($0)]
      return session.phase == .transmission && session.export.value == 0
    }
    if gate.statistics.clients != live.count { found.append("client count") }
    return found
  }

  /// Everything sent to the client since the last call.
  func take(_ client: FakeClient) -> [UInt8] {
    let bytes = stream(client).sent
    stream(client).sent = []
    return bytes
  }

  /// A client in transmission.
  func open(
    structured: Bool = true, context: Bool = false, export: String = "r0"
  ) -> FakeClient {
    let client = connect()!
    var bytes = Bytes.clientFlags(3)
    if structured { bytes += Bytes.option(8) }
    if context { bytes += Bytes.option(10, Bytes.contexts("r0", ["base:allocation"])) }
    bytes += Bytes.option(7, Bytes.info(export))
    feed(client, bytes)
    run(client)
    _ = take(client)
    return client
  }
}
