import BlockIO
import BlockTypes
import Glibc
import Testing

/// Listening, accepting, connecting, and being woken.
struct ConnectionTests {
  static let loopback = SocketAddress.ipv4(0x7F00_0001, port: 0)

  /// A connection over TCP and over a Unix socket carries bytes both ways.
  @Test(arguments: engines, ["tcp4", "tcp6", "unix"])
  func connectionsCarryBytes(engine: EngineChoice, kind: String) throws {
    let place = try TemporaryFile(bytes: 0)
    let address: SocketAddress =
      switch kind {
      case "tcp4": Self.loopback
      case "tcp6": .ipv6(high: 0, low: 1, port: 0, scope: 0)
      default: .unix(path: place.path + ".socket")
      }
    let listener = try Listener(address: address)
    var reactor = try Reactor(options: smallOptions(engine))
    reactor.accept(listener.descriptor, tag: 1)
    reactor.connect(listener.address, tag: 2)
    var descriptors: [UInt64: Int32] = [:]
    while descriptors.count < 2 {
      guard case .completion(let tag, let result) = try reactor.awaitEvent() else { continue }
      try #require(result >= 0, "tag \(tag): \(errnoText(-result))")
      descriptors[tag] = result
    }
    let server = try reactor.open(try #require(descriptors[1]), tag: 10)
    let client = try reactor.open(try #require(descriptors[2]), tag: 20)
    reactor.send(client, bytes: Array("question".utf8))
    try reactor.expect(.received(stream: server, tag: 10))
    #expect(reactor.window(server) == Array("question".utf8))
    reactor.send(server, bytes: Array("answer".utf8))
    try reactor.expect(.received(stream: client, tag: 20))
    #expect(reactor.window(client) == Array("answer".utf8))
    if kind != "unix" {
      var noDelay: Int32 = 0
      var size: socklen_t = 4
      getsockopt(try #require(descriptors[2]), Int32(IPPROTO_TCP), TCP_NODELAY, &noDelay, &size)
      #expect(noDelay != 0, "small messages must not wait for acknowledgements")
    }
    reactor.closeStream(client)
    try reactor.expect(.closed(stream: server, tag: 10, error: 0))
    reactor.closeStream(server)
    try reactor.drain()
  }

  /// Nobody there: the reason arrives, and no descriptor is left behind.
  @Test(arguments: engines)
  func refusedConnectionsSaySo(engine: EngineChoice) throws {
    let unused: SocketAddress
    do {
      let listener = try Listener(address: Self.loopback)
      unused = listener.address
    }
    var reactor = try Reactor(options: smallOptions(engine))
    reactor.connect(unused, tag: 1)
    try reactor.expectCompletion(tag: 1, -ECONNREFUSED)
    reactor.connect(.unix(path: "/nonexistent/socket"), tag: 2)
    try reactor.expectCompletion(tag: 2, -ENOENT)
    reactor.connect(.unix(path: "/" + String(repeating: "x", count: 200)), tag: 3)
    try reactor.expectCompletion(tag: 3, -ENAMETOOLONG)
    // An address of a network that is kept for documentation: not this host's.
    reactor.connect(unused, from: .ipv4(0xC000_0201, port: 0), tag: 4)
    try reactor.expectCompletion(tag: 4, -EADDRNOTAVAIL)
    reactor.connect(unused, from: Self.loopback, tag: 5)
    try reactor.expectCompletion(tag: 5, -ECONNREFUSED)
    #expect(reactor.operationsInFlight == 0)
  }

  /// A reset is an error of the stream, not an orderly end.
  @Test(arguments: engines)
  func resetIsAnError(engine: EngineChoice) throws {
    let listener = try Listener(address: Self.loopback)
    var reactor = try Reactor(options: smallOptions(engine))
    reactor.connect(listener.address, tag: 1)
    guard case .completion(1, let descriptor) = try reactor.awaitEvent(), descriptor >= 0 else {
      Issue.record("could not connect")
      return
    }
    let stream = try reactor.open(descriptor, tag: 9)
    let peer = accept(listener.descriptor, nil, nil)
    try #require(peer >= 0)
    var abrupt = linger(l_onoff: 1, l_linger: 0)
    setsockopt(peer, SOL_SOCKET, SO_LINGER, &abrupt, socklen_t(MemoryLayout<linger>.size))
    close(peer)
    try reactor.expect(.closed(stream: stream, tag: 9, error: ECONNRESET))
    reactor.closeStream(stream)
    try reactor.drain()
  }

  /// A cancelled accept completes as cancelled; the next one works.
  @Test(arguments: engines)
  func acceptsCanBeCancelled(engine: EngineChoice) throws {
    let listener = try Listener(address: Self.loopback)
    var reactor = try Reactor(options: smallOptions(engine))
    reactor.accept(listener.descriptor, tag: 1)
    reactor.expectNothing(milliseconds: 5)
    reactor.cancel(tag: 77)
    reactor.expectNothing(milliseconds: 5)
    reactor.cancel(tag: 1)
    reactor.cancel(tag: 1)
    try reactor.expectCompletion(tag: 1, -ECANCELED)
    // Cancelled before the kernel has seen it.
    reactor.accept(listener.descriptor, tag: 2)
    reactor.cancel(tag: 2)
    try reactor.expectCompletion(tag: 2, -ECANCELED)
    try reactor.drain()
    reactor.accept(listener.descriptor, tag: 3)
    reactor.connect(listener.address, tag: 4)
    var found: Set<UInt64> = []
    while found.count < 2 {
      guard case .completion(let tag, let result) = try reactor.awaitEvent() else { continue }
      #expect(result >= 0)
      close(result)
      found.insert(tag)
    }
    #expect(found == [3, 4])
  }

  /// A connect that nobody answers is ended by cancelling it.
  @Test(arguments: engines)
  func connectsCanBeCancelled(engine: EngineChoice) throws {
    // A listener whose queue is full lets further connection attempts wait.
    let listener = try Listener(address: Self.loopback, backlog: 0)
    var reactor = try Reactor(options: smallOptions(engine))
    for tag in 1...4 { reactor.connect(listener.address, tag: UInt64(tag)) }
    // Those for which the queue has room end soon, the first of them at the latest here.
    var results: [UInt64: Int32] = [:]
    func note(_ event: ReactorEvent) {
      guard case .completion(let tag, let result) = event else { return }
      results[tag] = result
      if result >= 0 { close(result) }
    }
    note(try reactor.awaitEvent())
    for event in reactor.turn(milliseconds: 50) { note(event) }
    for tag in 1...4 where results[UInt64(tag)] == nil { reactor.cancel(tag: UInt64(tag)) }
    while results.count < 4 { note(try reactor.awaitEvent()) }
    #expect(results.values.contains { $0 >= 0 })
    #expect(results.values.contains(-ECANCELED), "the queue took all")
    #expect(results.values.allSatisfy { $0 >= 0 || $0 == -ECANCELED }, "\(results)")
    try reactor.drain()
  }

  /// A socket file that nobody answers on is replaced, one that is answered on is not.
  @Test func staleSocketFilesAreReplaced() throws {
    let place = try TemporaryFile(bytes: 0)
    let address = SocketAddress.unix(path: place.path + ".socket")
    // Left behind: bound, and closed without removing the file.
    let stale = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue), 0)
    var form = sockaddr_un()
    form.sun_family = sa_family_t(AF_UNIX)
    withUnsafeMutableBytes(of: &form.sun_path) { $0.copyBytes(from: address.description.utf8) }
    let length = socklen_t(MemoryLayout<sockaddr_un>.size)
    let bound = withUnsafePointer(to: &form) {
      $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { bind(stale, $0, length) }
    }
    #expect(bound == 0)
    close(stale)
    do {
      let listener = try Listener(address: address, mode: 0o600)
      #expect(listener.address == address)
      var status = stat()
      #expect(stat(address.description, &status) == 0)
      #expect(status.st_mode & 0o777 == 0o600)
      #expect(throws: SystemError(call: "bind", errno: EADDRINUSE, path: address.description)) {
        _ = try Listener(address: address)
      }
    }
    // Gone with the listener.
    #expect(access(address.description, F_OK) != 0)
  }

  /// Numeric hosts are parsed, shown, and nothing is looked up.
  @Test func addressesAreNumeric() {
    #expect(SocketAddress(host: "10.0.0.1", port: 7789) == .ipv4(0x0A00_0001, port: 7789))
    #expect(SocketAddress(host: "10.0.0.1", port: 7789)?.description == "10.0.0.1:7789")
    #expect(SocketAddress(host: "::1", port: 1)?.description == "[::1]:1")
    #expect(SocketAddress(host: "fe80::1%1", port: 2)?.description == "[fe80::1]:2")
    #expect(SocketAddress(host: "localhost", port: 1) == nil)
    #expect(SocketAddress(host: "10.0.0.256", port: 1) == nil)
    #expect(SocketAddress(host: "", port: 1) == nil)
  }

  /// Messages of another thread wake a sleeping reactor, in order, and a full box says so.
  @Test(arguments: engines)
  func mailboxWakesTheReactor(engine: EngineChoice) throws {
    var reactor = try Reactor(options: smallOptions(engine))
    let mailbox = Mailbox<Int>(capacity: 8, doorbell: reactor.doorbell)
    reactor.expectNothing(milliseconds: 5)
    for round in 0..<20 {
      let thread = BackgroundThread {
        usleep(500)
        for index in 0..<4 { while !mailbox.post(round * 4 + index) { usleep(100) } }
      }
      var messages: [Int] = []
      while messages.count < 4 {
        try reactor.expect(.mailbox)
        messages += mailbox.drain()
      }
      #expect(messages == Array(round * 4..<round * 4 + 4))
      thread.join()
      // A ring may still be on its way for messages that the last drain found already.
      for event in reactor.turn(milliseconds: 1) { #expect(event == .mailbox) }
      #expect(mailbox.drain() == [])
    }
    for index in 0..<8 { #expect(mailbox.post(index)) }
    #expect(!mailbox.post(8))
    #expect(mailbox.drain() == Array(0..<8))
  }

  /// An idle reactor sleeps until the deadline and is woken by nothing else.
  @Test(arguments: engines)
  func idleReactorsSleep(engine: EngineChoice) throws {
    let listener = try Listener(address: Self.loopback)
    let (mine, peer) = try makeSocketPair()
    defer { close(peer) }
    var reactor = try Reactor(options: smallOptions(engine))
    reactor.accept(listener.descriptor, tag: 1)
    let stream = try reactor.open(mine, tag: 2)
    reactor.expectNothing(milliseconds: 5)
    var before = rusage()
    getrusage(perThread, &before)
    reactor.expectNothing(milliseconds: 200)
    var after = rusage()
    getrusage(perThread, &after)
    // One sleep, and what a busy kernel makes of it; polling would make thousands.
    #expect(after.ru_nvcsw - before.ru_nvcsw <= 20, "it must sleep, not poll")
    reactor.closeStream(stream)
  }

  /// io_uring that cannot be used is replaced by libaio, and the description says why.
  @Test func automaticFallsBackAndSaysWhy() throws {
    for (error, reason) in [
      (ENOSYS, "libaio (io_uring is not available: Function not implemented)"),
      (EPERM, "libaio (io_uring is "),
    ] {
      var options = smallOptions(.automatic)
      options.forcedRingFailure = error
      let reactor = try Reactor(options: options)
      let description = reactor.engineDescription
      #expect(description.hasPrefix(reason), "\(description)")
      options.engine = .ioUring
      #expect(throws: SystemError(call: "io_uring_setup", errno: error, path: nil)) {
        _ = try Reactor(options: options)
      }
    }
    let reactor = try Reactor(options: smallOptions(.libaio))
    #expect(reactor.engineDescription == "libaio")
  }
}

/// A thread with a closure, joined by hand.
final class BackgroundThread {
  private var thread = pthread_t()

  private final class Body {
    let run: @Sendable () -> Void
    init(_ run: @escaping @Sendable () -> Void) { self.run = run }
  }

  init(_ run: @escaping @Sendable () -> Void) {
    let body = Unmanaged.passRetained(Body(run)).toOpaque()
    pthread_create(
      &thread, nil,
      { argument in
        guard let argument else { return nil }
        Unmanaged<Body>.fromOpaque(argument).takeRetainedValue().run()
        return nil
      }, body)
  }

  func join() { pthread_join(thread, nil) }
}

/// `RUSAGE_THREAD`, which the Glibc module does not have.
private let perThread: Int32 = 1
