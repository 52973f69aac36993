import BlockIO
import BlockTypes
import Glibc
import Testing

/// Streams over real sockets, with both engines.
struct StreamTests {
  /// Bytes written by the peer come out of the window, and consumed ones do not come again.
  @Test(arguments: engines)
  func receivedBytesAreConsumedInOrder(engine: EngineChoice) throws {
    var reactor = try Reactor(options: smallOptions(engine))
    let (mine, peer) = try makeSocketPair()
    defer { close(peer) }
    let stream = try reactor.open(mine, tag: 5)
    #expect(write(peer, "hello", 5) == 5)
    try reactor.expect(.received(stream: stream, tag: 5))
    #expect(reactor.window(stream) == Array("hello".utf8))
    reactor.consume(stream, 2)
    #expect(write(peer, "!", 1) == 1)
    try reactor.expect(.received(stream: stream, tag: 5))
    #expect(reactor.window(stream) == Array("llo!".utf8))
    reactor.consume(stream, 4)
    reactor.expectNothing()
    reactor.closeStream(stream)
    try reactor.drain()
  }

  /// A full window stops receiving until something is consumed; nothing is lost by it.
  @Test(arguments: engines)
  func fullWindowWaitsForTheOwner(engine: EngineChoice) throws {
    var reactor = try Reactor(options: smallOptions(engine))
    let (mine, peer) = try makeSocketPair()
    defer { close(peer) }
    let stream = try reactor.open(mine, tag: 1, window: 4096)
    let content = pattern(10_000, seed: 1)
    #expect(write(peer, content, content.count) == content.count)
    var received: [UInt8] = []
    while received.count < content.count {
      try reactor.expect(.received(stream: stream, tag: 1))
      _ = reactor.turn(milliseconds: 2)
      let window = reactor.window(stream)
      #expect(window.count <= 4096)
      let bytes = min(window.count, 1111)
      received += window[..<bytes]
      reactor.consume(stream, bytes)
      if received.count + reactor.window(stream).count == content.count {
        received += reactor.window(stream)
        break
      }
    }
    #expect(received == content)
  }

  /// A payload reaches its buffer whole wherever the network cuts it: each number of bytes that can
  /// arrive together with its header, before the rest does.
  @Test(arguments: engines)
  func payloadIsWholeHoweverItArrives(engine: EngineChoice) throws {
    var reactor = try Reactor(options: smallOptions(engine))
    let (mine, peer) = try makeSocketPair()
    defer { close(peer) }
    let stream = try reactor.open(mine, tag: 1)
    let buffer = try reactor.buffer(4096)
    let header = 16
    let length = 96
    let trailer = 5
    for cut in header...(header + length + trailer) {
      let content = pattern(header + length + trailer, seed: UInt64(cut))
      #expect(write(peer, content, cut) == cut)
      try reactor.expect(.received(stream: stream, tag: 1))
      #expect(Array(reactor.window(stream).prefix(header)) == Array(content[..<header]))
      reactor.consume(stream, header)
      let isWhole = reactor.receivePayload(
        stream, into: buffer, bufferOffset: 512, length: UInt32(length))
      #expect(isWhole == (cut >= header + length))
      let rest = Array(content[cut...])
      if !rest.isEmpty { #expect(write(peer, rest, rest.count) == rest.count) }
      if !isWhole { try reactor.expect(.payload(stream: stream, tag: 1)) }
      #expect(reactor.bytes(buffer, 512..<512 + length) == Array(content[header..<header + length]))
      while reactor.window(stream).count < trailer {
        try reactor.expect(.received(stream: stream, tag: 1))
      }
      #expect(reactor.window(stream) == Array(content[(header + length)...]))
      reactor.consume(stream, trailer)
    }
  }

  /// A payload asked for while a receive into the window is already with the kernel takes its bytes
  /// from there first.
  @Test(arguments: engines)
  func payloadAskedForLate(engine: EngineChoice) throws {
    var reactor = try Reactor(options: smallOptions(engine))
    let (mine, peer) = try makeSocketPair()
    defer { close(peer) }
    let stream = try reactor.open(mine, tag: 1)
    let content = pattern(3000, seed: 9)
    #expect(write(peer, content, 100) == 100)
    try reactor.expect(.received(stream: stream, tag: 1))
    // As when the pool is exhausted: the owner leaves the bytes and the loop turns on.
    reactor.expectNothing(milliseconds: 5)
    let buffer = try reactor.buffer(4096)
    let isWhole = reactor.receivePayload(stream, into: buffer, length: 2900)
    #expect(!isWhole)
    let rest = Array(content[100...])
    #expect(write(peer, rest, rest.count) == rest.count)
    try reactor.expect(.payload(stream: stream, tag: 1))
    #expect(reactor.bytes(buffer, 0..<2900) == Array(content[..<2900]))
    while reactor.window(stream).count < 100 {
      try reactor.expect(.received(stream: stream, tag: 1))
    }
    #expect(reactor.window(stream) == Array(content[2900...]))
  }

  /// Behind a large payload little is taken into the window, so that the next one is not copied;
  /// with small messages after it, receives are large again.
  @Test(arguments: engines)
  func windowFollowsTheTraffic(engine: EngineChoice) throws {
    var reactor = try Reactor(options: smallOptions(engine))
    let (mine, peer) = try makeSocketPair()
    defer { close(peer) }
    let stream = try reactor.open(mine, tag: 1)
    let buffer = try reactor.buffer(1 << 20)
    let isWhole = reactor.receivePayload(stream, into: buffer, length: 100_000)
    #expect(!isWhole)
    let content = pattern(150_000, seed: 3)
    #expect(write(peer, content, content.count) == content.count)
    try reactor.expect(.payload(stream: stream, tag: 1))
    #expect(reactor.bytes(buffer, 0..<100_000) == Array(content[..<100_000]))
    var sizes: [Int] = []
    while sizes.last != 50_000 {
      try reactor.expect(.received(stream: stream, tag: 1))
      sizes.append(reactor.window(stream).count)
    }
    #expect(sizes[0] <= 1024)
    #expect(sizes.count < 10, "\(sizes)")
    #expect(reactor.window(stream) == Array(content[100_000...]))
  }

  /// More than the socket takes at once is sent in parts, in order and whole.
  @Test(arguments: engines)
  func partialSendsContinue(engine: EngineChoice) throws {
    var reactor = try Reactor(options: smallOptions(engine))
    let (mine, peer) = try makeSocketPair()
    defer { close(peer) }
    let stream = try reactor.open(mine, tag: 1)
    var expected: [UInt8] = []
    for index in 0..<4 {
      let header = pattern(37, seed: UInt64(index))
      let payload = pattern(1 << 20, seed: UInt64(100 + index))
      reactor.send(stream, bytes: header)
      let buffer = try reactor.buffer(1 << 20)
      reactor.fill(buffer, payload)
      reactor.send(stream, payload: buffer, length: 1 << 20)
      reactor.release(buffer)
      expected += header + payload
    }
    #expect(reactor.freeBuffers(holding: 1 << 20) == 0)
    // The send buffer is 4 MiB at most and less than this, so that several turns are needed.
    var small: Int32 = 65536
    #expect(setsockopt(mine, SOL_SOCKET, SO_SNDBUF, &small, 4) == 0)
    var received: [UInt8] = []
    var piece = [UInt8](repeating: 0, count: 50_000)
    while received.count < expected.count {
      _ = reactor.turn(milliseconds: 1)
      let count = recv(peer, &piece, piece.count, Int32(MSG_DONTWAIT))
      if count > 0 { received += piece[..<count] }
    }
    #expect(received == expected)
    try reactor.awaitHugeBuffers(4)
  }

  /// A queue that grows says so, and says when it has shrunk.
  @Test(arguments: engines)
  func congestionIsToldAndEnds(engine: EngineChoice) throws {
    var reactor = try Reactor(options: smallOptions(engine))
    let (mine, peer) = try makeSocketPair()
    defer { close(peer) }
    let stream = try reactor.open(mine, tag: 3, sendBytes: 65536)
    #expect(reactor.sendIsCongested(stream) == false)
    reactor.send(stream, bytes: pattern(30_000, seed: 1))
    #expect(reactor.sendIsCongested(stream) == false)
    reactor.send(stream, bytes: pattern(10_000, seed: 2))
    #expect(reactor.sendIsCongested(stream) == true)
    try reactor.expect(.drained(stream: stream, tag: 3))
    #expect(reactor.sendIsCongested(stream) == false)
    var received = [UInt8](repeating: 0, count: 50_000)
    #expect(recv(peer, &received, 50_000, 0) == 40_000)
    #expect(
      Array(received[..<40_000]) == pattern(30_000, seed: 1) + pattern(10_000, seed: 2))
  }

  /// An owner that ignores congestion loses the connection, not the process and not bytes in
  /// between.
  @Test(arguments: engines)
  func overflowEndsTheStream(engine: EngineChoice) throws {
    var reactor = try Reactor(options: smallOptions(engine))
    let (mine, peer) = try makeSocketPair()
    defer { close(peer) }
    let stream = try reactor.open(mine, tag: 3, sendBytes: 4096)
    reactor.send(stream, bytes: pattern(4000, seed: 1))
    reactor.send(stream, bytes: pattern(200, seed: 1))
    reactor.send(stream, bytes: pattern(50, seed: 1))
    try reactor.expect(.closed(stream: stream, tag: 3, error: ENOBUFS))
    reactor.closeStream(stream)
    try reactor.drain()
  }

  /// The peer's orderly end comes after its bytes, which can still be read and answered.
  @Test(arguments: engines)
  func orderlyEndComesLast(engine: EngineChoice) throws {
    var reactor = try Reactor(options: smallOptions(engine))
    let (mine, peer) = try makeSocketPair()
    defer { close(peer) }
    let stream = try reactor.open(mine, tag: 3)
    #expect(write(peer, "last", 4) == 4)
    shutdown(peer, Int32(SHUT_WR))
    try reactor.expect(.received(stream: stream, tag: 3))
    try reactor.expect(.closed(stream: stream, tag: 3, error: 0))
    #expect(reactor.window(stream) == Array("last".utf8))
    reactor.consume(stream, 4)
    reactor.send(stream, bytes: Array("answer".utf8))
    reactor.expectNothing(milliseconds: 5)
    var answer = [UInt8](repeating: 0, count: 16)
    #expect(recv(peer, &answer, 16, 0) == 6)
    reactor.closeStream(stream)
    try reactor.drain()
    #expect(recv(peer, &answer, 16, 0) == 0)
  }

  /// A peer that is gone ends the stream once, whether it shows when receiving or when sending.
  @Test(arguments: engines)
  func brokenConnectionIsToldOnce(engine: EngineChoice) throws {
    var reactor = try Reactor(options: smallOptions(engine))
    let (mine, peer) = try makeSocketPair()
    let stream = try reactor.open(mine, tag: 3)
    reactor.expectNothing(milliseconds: 2)
    close(peer)
    reactor.send(stream, bytes: pattern(100, seed: 1))
    let event = try reactor.awaitEvent()
    guard case .closed(stream, 3, _) = event else {
      Issue.record("expected the end, got \(event)")
      return
    }
    reactor.expectNothing()
    reactor.send(stream, bytes: pattern(100, seed: 1))
    reactor.expectNothing()
    reactor.closeStream(stream)
    try reactor.drain()
  }

  /// While paused nothing is announced; on resume everything is.
  @Test(arguments: engines)
  func pauseHoldsAndResumeAnnounces(engine: EngineChoice) throws {
    var reactor = try Reactor(options: smallOptions(engine))
    let (mine, peer) = try makeSocketPair()
    defer { close(peer) }
    let stream = try reactor.open(mine, tag: 3)
    reactor.expectNothing(milliseconds: 2)
    reactor.pauseReceiving(stream)
    #expect(write(peer, "one", 3) == 3)
    reactor.expectNothing()
    reactor.resumeReceiving(stream)
    try reactor.expect(.received(stream: stream, tag: 3))
    #expect(reactor.window(stream) == Array("one".utf8))
    reactor.pauseReceiving(stream)
    reactor.expectNothing(milliseconds: 2)
    #expect(write(peer, "two", 3) == 3)
    reactor.resumeReceiving(stream)
    reactor.resumeReceiving(stream)
    try reactor.expect(.received(stream: stream, tag: 3))
    if reactor.window(stream).count < 6 {
      try reactor.expect(.received(stream: stream, tag: 3))
    }
    #expect(reactor.window(stream) == Array("onetwo".utf8))
  }

  /// Closing gives back descriptor, memory and buffers, whatever the kernel was doing with them.
  @Test(arguments: engines)
  func closingWithEverythingInFlight(engine: EngineChoice) throws {
    var reactor = try Reactor(options: smallOptions(engine))
    for _ in 0..<40 {
      let (mine, peer) = try makeSocketPair()
      let stream = try reactor.open(mine, tag: 3)
      let buffer = try reactor.buffer(1 << 20)
      for _ in 0..<8 { reactor.send(stream, payload: buffer, length: 1 << 20) }
      let target = try reactor.buffer(1 << 20)
      let isWhole = reactor.receivePayload(stream, into: target, length: 1 << 20)
      #expect(!isWhole)
      reactor.release(buffer)
      reactor.release(target)
      _ = reactor.turn(milliseconds: 1)
      #expect(write(peer, "some", 4) == 4)
      reactor.closeStream(stream)
      reactor.closeStream(stream)
      try reactor.drain()
      #expect(reactor.freeBuffers(holding: 1 << 20) == 4)
      // The descriptor is closed: the peer sees the end of what was sent.
      var piece = [UInt8](repeating: 0, count: 1 << 16)
      var count = 1
      while count > 0 { count = recv(peer, &piece, piece.count, 0) }
      #expect(count == 0 || errno == ECONNRESET)
      close(peer)
    }
  }

  /// Events of a stream that were waiting when it was closed do not come any more, and what comes
  /// late does not reach the stream that has its slot now.
  @Test(arguments: engines)
  func closedStreamsAreSilent(engine: EngineChoice) throws {
    var reactor = try Reactor(options: smallOptions(engine))
    let (first, firstPeer) = try makeSocketPair()
    let (second, secondPeer) = try makeSocketPair()
    defer { for peer in [firstPeer, secondPeer] { close(peer) } }
    let streams = [try reactor.open(first, tag: 1), try reactor.open(second, tag: 2)]
    reactor.expectNothing(milliseconds: 2)
    for peer in [firstPeer, secondPeer] { #expect(write(peer, "x", 1) == 1) }
    reactor.wait(until: reactor.now.advanced(milliseconds: patienceMs))
    // Both are ready in this turn, or the other one a turn later; the second is closed first.
    guard case .received(let found, _)? = reactor.nextEvent() else {
      Issue.record("expected bytes")
      return
    }
    let other = found == streams[0] ? streams[1] : streams[0]
    reactor.closeStream(other)
    var events: [ReactorEvent] = []
    while let event = reactor.nextEvent() { events.append(event) }
    #expect(events == [])
    let (third, thirdPeer) = try makeSocketPair()
    defer { close(thirdPeer) }
    let replacement = try reactor.open(third, tag: 4)
    #expect(replacement != other)
    reactor.expectNothing(milliseconds: 5)
    #expect(write(thirdPeer, "y", 1) == 1)
    try reactor.expect(.received(stream: replacement, tag: 4))
    #expect(reactor.window(replacement) == Array("y".utf8))
  }

  /// What was queued before `closeAfterSending` arrives in full, then the end.
  @Test(arguments: engines)
  func closingAfterSendingLosesNothing(engine: EngineChoice) throws {
    var reactor = try Reactor(options: smallOptions(engine))
    let (mine, peer) = try makeSocketPair()
    defer { close(peer) }
    let stream = try reactor.open(mine, tag: 3)
    let payload = pattern(1 << 20, seed: 5)
    let buffer = try reactor.buffer(1 << 20)
    reactor.fill(buffer, payload)
    for _ in 0..<8 { reactor.send(stream, payload: buffer, length: 1 << 20) }
    reactor.send(stream, bytes: [1, 2, 3])
    reactor.closeAfterSending(stream)
    reactor.release(buffer)
    var received: [UInt8] = []
    var piece = [UInt8](repeating: 0, count: 1 << 18)
    while true {
      reactor.expectNothing(milliseconds: 1)
      let count = recv(peer, &piece, piece.count, Int32(MSG_DONTWAIT))
      if count == 0 { break }
      if count > 0 { received += piece[..<count] }
    }
    #expect(received.count == 8 * payload.count + 3)
    #expect(Array(received[(7 * payload.count)...]) == payload + [1, 2, 3])
    #expect(reactor.operationsInFlight == 0)
    // A peer that never reads is cut off by closing for good.
    let (stuck, stuckPeer) = try makeSocketPair()
    defer { close(stuckPeer) }
    let second = try reactor.open(stuck, tag: 3)
    let again = try reactor.buffer(1 << 20)
    for _ in 0..<16 { reactor.send(second, payload: again, length: 1 << 20) }
    reactor.release(again)
    reactor.closeAfterSending(second)
    reactor.expectNothing(milliseconds: 5)
    #expect(reactor.operationsInFlight > 0)
    reactor.closeStream(second)
    try reactor.drain()
    #expect(reactor.freeBuffers(holding: 1 << 20) == 4)
  }

  /// A last message is not lost to a reset because the peer had sent more than was read.
  @Test(arguments: engines)
  func lastMessageOutlivesUnreadBytes(engine: EngineChoice) throws {
    for _ in 0..<20 {
      var reactor = try Reactor(options: smallOptions(engine))
      let (mine, peer) = try makeTCPPair()
      defer { close(peer) }
      let stream = try reactor.open(mine, tag: 3, window: 4096)
      let unread = pattern(100_000, seed: 1)
      #expect(write(peer, unread, unread.count) == unread.count)
      try reactor.expect(.received(stream: stream, tag: 3))
      reactor.send(stream, bytes: Array("refused".utf8))
      reactor.closeAfterSending(stream)
      try reactor.drain()
      var answer = [UInt8](repeating: 0, count: 16)
      #expect(recv(peer, &answer, 16, 0) == 7)
      #expect(recv(peer, &answer, 16, 0) == 0)
    }
  }

  /// Sends that are done bring no event, but an owner who waits for a buffer must get his turn when
  /// one of them frees it.
  @Test(arguments: engines)
  func freedBuffersEndTheWait(engine: EngineChoice) throws {
    var reactor = try Reactor(options: smallOptions(engine))
    let (mine, peer) = try makeSocketPair()
    defer { close(peer) }
    let stream = try reactor.open(mine, tag: 3)
    var buffers: [BufferID] = []
    for _ in 0..<4 { buffers.append(try reactor.buffer(1 << 20)) }
    reactor.send(stream, payload: buffers[0], length: 4096)
    reactor.release(buffers[0])
    #expect(reactor.freeBuffers(holding: 1 << 20) == 0)
    let start = reactor.now
    reactor.wait(until: start.advanced(milliseconds: patienceMs))
    #expect(reactor.nextEvent() == nil)
    #expect(reactor.freeBuffers(holding: 1 << 20) == 1)
    #expect(reactor.now.milliseconds(since: start) < patienceMs)
  }

  /// So must an owner who waits for a stream to be gone, while others live on.
  @Test(arguments: engines)
  func goneStreamsEndTheWait(engine: EngineChoice) throws {
    var reactor = try Reactor(options: smallOptions(engine))
    let (first, firstPeer) = try makeSocketPair()
    let (second, secondPeer) = try makeSocketPair()
    defer { for peer in [firstPeer, secondPeer] { close(peer) } }
    let leaving = try reactor.open(first, tag: 1)
    _ = try reactor.open(second, tag: 2)
    reactor.expectNothing(milliseconds: 2)
    reactor.closeStream(leaving)
    #expect(reactor.streamExists(leaving) == true)
    let start = reactor.now
    while reactor.streamExists(leaving), reactor.now.milliseconds(since: start) < patienceMs {
      reactor.wait(until: start.advanced(milliseconds: patienceMs))
      #expect(reactor.nextEvent() == nil)
    }
    #expect(reactor.now.milliseconds(since: start) < patienceMs)
  }

  /// Bytes that were found before the owner paused the stream are announced after he resumed it.
  @Test(arguments: engines)
  func pausingBeforeTheEventKeepsTheBytes(engine: EngineChoice) throws {
    var reactor = try Reactor(options: smallOptions(engine))
    let (mine, peer) = try makeSocketPair()
    defer { close(peer) }
    let stream = try reactor.open(mine, tag: 3)
    #expect(write(peer, "early", 5) == 5)
    reactor.wait(until: reactor.now.advanced(milliseconds: patienceMs))
    reactor.pauseReceiving(stream)
    reactor.expectNothing(milliseconds: 5)
    reactor.resumeReceiving(stream)
    try reactor.expect(.received(stream: stream, tag: 3))
    #expect(reactor.window(stream) == Array("early".utf8))
  }

  /// The number of streams is bounded; a refused descriptor stays the caller's.
  @Test(arguments: engines)
  func streamSlotsAreBounded(engine: EngineChoice) throws {
    var options = smallOptions(engine)
    options.streamSlots = 2
    var reactor = try Reactor(options: options)
    var peers: [Int32] = []
    defer { for peer in peers { close(peer) } }
    for _ in 0..<2 {
      let (mine, peer) = try makeSocketPair()
      peers.append(peer)
      _ = try reactor.open(mine, tag: 1)
    }
    let (mine, peer) = try makeSocketPair()
    peers += [mine, peer]
    let refused = reactor.openStream(mine, tag: 2, window: 4096, sendBytes: 4096)
    #expect(refused == nil)
    #expect(fcntl(mine, F_GETFD) >= 0)
  }

  /// Dropping a reactor with open streams frees everything.
  @Test(arguments: engines)
  func droppingWithOpenStreams(engine: EngineChoice) throws {
    let (mine, peer) = try makeSocketPair()
    defer { close(peer) }
    do {
      var reactor = try Reactor(options: smallOptions(engine))
      let stream = try reactor.open(mine, tag: 1)
      let buffer = try reactor.buffer(1 << 20)
      for _ in 0..<8 { reactor.send(stream, payload: buffer, length: 1 << 20) }
      _ = reactor.turn(milliseconds: 1)
    }
    var piece = [UInt8](repeating: 0, count: 1 << 16)
    var count = 1
    while count > 0 { count = recv(peer, &piece, piece.count, 0) }
    #expect(count == 0 || errno == ECONNRESET)
  }
}

extension Reactor {
  /// A stream that must find room.
  mutating func open(
    _ descriptor: Int32, tag: UInt64, window: Int = 65536, sendBytes: Int = 262_144,
    sourceLocation: SourceLocation = #_sourceLocation
  ) throws -> StreamID {
    let stream = openStream(descriptor, tag: tag, window: window, sendBytes: sendBytes)
    return try #require(stream, "no room for a stream", sourceLocation: sourceLocation)
  }
}
