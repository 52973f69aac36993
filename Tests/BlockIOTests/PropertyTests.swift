import BlockIO
import BlockTypes
import Glibc
import TestSupport
import Testing

/// Random traffic between two streams of one reactor: whatever sizes are sent, however they are
/// cut, paused and consumed, what arrives is what was sent.
struct PropertyTests {
  /// One message: a header of eight bytes (length of the payload, number), then the payload.
  private static func message(_ number: Int, _ length: Int, seed: UInt64) -> [UInt8] {
    var bytes = withUnsafeBytes(of: UInt32(length).littleEndian) { Array($0) }
    bytes += withUnsafeBytes(of: UInt32(number).littleEndian) { Array($0) }
    return bytes + pattern(length, seed: seed &+ UInt64(number))
  }

  /// What the receiver is doing.
  private struct Receiver {
    var number = 0
    /// The payload that is being received: where, and how long.
    var pending: (buffer: BufferID, offset: Int, length: Int)?
    var isPaused = false
  }

  /// Replay one seed with: ASHLAR_SEED=0x2a swift test --filter PropertyTests
  @Test(arguments: engines, seeds(count: 24))
  func trafficArrivesAsSent(engine: EngineChoice, seed: UInt64) throws {
    var generator = SeededGenerator(seed: seed)
    var reactor = try Reactor(options: smallOptions(engine))
    let (first, second) =
      Bool.random(using: &generator) ? try makeSocketPair() : try makeTCPPair()
    let window = [4096, 8192, 65536].randomElement(using: &generator) ?? 4096
    let source = try reactor.open(first, tag: 1, sendBytes: 1 << 17)
    let sink = try reactor.open(second, tag: 2, window: window)
    if Bool.random(using: &generator) {
      var small: Int32 = 8192
      setsockopt(first, SOL_SOCKET, SO_SNDBUF, &small, 4)
    }
    let total = 150
    let largest = [100, 5000, 100_000, 1 << 20].randomElement(using: &generator) ?? 100
    var sent = 0
    var receiver = Receiver()
    var progress = (at: reactor.now, number: 0)
    while receiver.number < total {
      while sent < total, !reactor.sendIsCongested(source),
        Int.random(in: 0..<4, using: &generator) > 0
      {
        let length = Int.random(in: 0...largest, using: &generator)
        guard try send(&reactor, source, sent, length, seed: seed, &generator) else { break }
        sent += 1
      }
      let patience: UInt64 = sent == total || reactor.sendIsCongested(source) ? 5 : 0
      reactor.wait(until: reactor.now.advanced(milliseconds: patience))
      while let event = reactor.nextEvent() {
        switch event {
        case .received(sink, 2): break
        case .payload(sink, 2): try finishPayload(&reactor, &receiver, seed: seed)
        case .drained(source, 1): break
        default: Issue.record("seed \(seed): unexpected \(event)")
        }
      }
      try receive(&reactor, sink, &receiver, seed: seed, &generator)
      if receiver.number > progress.number { progress = (reactor.now, receiver.number) }
      try #require(
        reactor.now.milliseconds(since: progress.at) < patienceMs,
        "seed \(seed): no progress at \(receiver.number) of \(sent)")
    }
    reactor.closeStream(source)
    reactor.closeStream(sink)
    try reactor.drain()
    #expect(reactor.freeBuffers(holding: 1 << 20) == 4)
    #expect(reactor.freeBuffers(holding: 4096) == 64)
  }

  /// Queues a message: by copying, as payload, or in pieces. `false` without a buffer.
  private func send(
    _ reactor: inout Reactor, _ stream: StreamID, _ number: Int, _ length: Int, seed: UInt64,
    _ generator: inout SeededGenerator
  ) throws -> Bool {
    let message = Self.message(number, length, seed: seed)
    if length == 0 || (length < 10_000 && Bool.random(using: &generator)) {
      let cut = Int.random(in: 0...message.count, using: &generator)
      reactor.send(stream, bytes: Array(message[..<cut]))
      reactor.send(stream, bytes: Array(message[cut...]))
      return true
    }
    guard let buffer = reactor.allocate(UInt32(length), reserve: 1) else { return false }
    reactor.fill(buffer, Array(message[8...]))
    reactor.send(stream, bytes: Array(message[..<8]))
    let cut = UInt32.random(in: 0...UInt32(length), using: &generator)
    reactor.send(stream, payload: buffer, length: cut)
    reactor.send(stream, payload: buffer, bufferOffset: cut, length: UInt32(length) - cut)
    reactor.release(buffer)
    return true
  }

  /// Parses what is in the window, sometimes only a part of it, sometimes pausing.
  private func receive(
    _ reactor: inout Reactor, _ stream: StreamID, _ receiver: inout Receiver, seed: UInt64,
    _ generator: inout SeededGenerator
  ) throws {
    if receiver.isPaused {
      guard Int.random(in: 0..<3, using: &generator) == 0 else { return }
      receiver.isPaused = false
      reactor.resumeReceiving(stream)
    }
    while receiver.pending == nil {
      if Int.random(in: 0..<10, using: &generator) == 0 {
        receiver.isPaused = true
        reactor.pauseReceiving(stream)
        return
      }
      let window = reactor.window(stream)
      guard window.count >= 8 else { return }
      let header = window.withUnsafeBytes {
        ($0.load(as: UInt32.self), $0.load(fromByteOffset: 4, as: UInt32.self))
      }
      #expect(header.1 == UInt32(receiver.number), "seed \(seed)")
      let length = Int(header.0)
      let offset =
        length < 1 << 20 ? Int.random(in: 0...min(512, (1 << 20) - length), using: &generator) : 0
      if length == 0 {
        reactor.consume(stream, 8)
        receiver.number += 1
        continue
      }
      guard let buffer = reactor.allocate(UInt32(length + offset)) else { return }
      reactor.consume(stream, 8)
      receiver.pending = (buffer, offset, length)
      let isWhole = reactor.receivePayload(
        stream, into: buffer, bufferOffset: UInt32(offset), length: UInt32(length))
      if isWhole { try finishPayload(&reactor, &receiver, seed: seed) }
    }
  }

  private func finishPayload(
    _ reactor: inout Reactor, _ receiver: inout Receiver, seed: UInt64
  ) throws {
    let (buffer, offset, length) = try #require(receiver.pending)
    let expected = pattern(length, seed: seed &+ UInt64(receiver.number))
    let memory = reactor.memory(of: buffer)
    let isEqual = expected.withUnsafeBytes {
      memcmp($0.baseAddress!, memory.baseAddress! + offset, length) == 0
    }
    #expect(isEqual, "seed \(seed): payload \(receiver.number) of \(length) bytes differs")
    reactor.release(buffer)
    receiver.pending = nil
    receiver.number += 1
  }
}

/// A connected pair of TCP sockets on loopback.
func makeTCPPair() throws -> (Int32, Int32) {
  let listener = try Listener(address: .ipv4(0x7F00_0001, port: 0))
  guard case .ipv4(_, let port) = listener.address else { return (-1, -1) }
  let client = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
  var form = sockaddr_in()
  form.sin_family = sa_family_t(AF_INET)
  form.sin_port = port.bigEndian
  form.sin_addr.s_addr = UInt32(0x7F00_0001).bigEndian
  let result = withUnsafePointer(to: &form) {
    $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
      connect(client, $0, socklen_t(MemoryLayout<sockaddr_in>.size))
    }
  }
  try #require(result == 0)
  let server = accept(listener.descriptor, nil, nil)
  try #require(server >= 0)
  return (client, server)
}
