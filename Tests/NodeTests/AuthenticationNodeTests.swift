/// Hostile and clumsy callers at the peer port of a real node: who is let in, what they are told,
/// and that they are thrown out.
import Authentication
import BlockTypes
import Configuration
import Control
import Digests
import Foundation
import Replication
import Testing
import Wire

/// The other end of a connection, which speaks the beginning of the peer protocol.
private struct Caller {
  let socket: Socket
  var handshake: LinkHandshake
  var frameGuard = FrameGuard.initial

  /// Calls the node.
  init(_ node: RunningNode, secret: String?, integrity: IntegrityAlgorithm = .none) throws {
    handshake = try Self.handshake(.dialer, secret, integrity)
    socket = try Socket(port: node.port)
  }

  /// Waits until the node calls.
  init(at listener: Socket, secret: String?, integrity: IntegrityAlgorithm = .none) throws {
    handshake = try Self.handshake(.acceptor, secret, integrity)
    socket = try listener.accept()
  }

  private static func handshake(
    _ side: ConnectionSide, _ secret: String?, _ integrity: IntegrityAlgorithm
  ) throws -> LinkHandshake {
    let me = try #require(NodeID(1))
    var settings = LinkSettings(node: me, peers: [try #require(NodeID(0))], resource: "r0")
    settings.integrity = integrity
    if let secret {
      settings.authentication = LinkSettings.Authentication(
        algorithm: .sha256, secret: SharedSecret(secret))
    }
    var generator = SystemRandomNumberGenerator()
    return LinkHandshake(settings, side: side, challenge: Challenge(using: &generator))
  }

  mutating func say(_ type: MessageType, _ payload: [UInt8], length: UInt64 = 0) throws {
    try socket.send(sealed(type, payload, length: length))
  }

  /// The bytes of a message, with its tag.
  mutating func sealed(_ type: MessageType, _ payload: [UInt8], length: UInt64 = 0) -> [UInt8] {
    var header = MessageHeader(type, length: length)
    header.payloadBytes = UInt32(payload.count)
    var bytes = [UInt8](
      repeating: 0, count: MessageHeader.byteCount + payload.count + FrameTag.limit)
    bytes.withUnsafeMutableBytes { header.encode(into: $0) }
    bytes.replaceSubrange(
      MessageHeader.byteCount..<(MessageHeader.byteCount + payload.count), with: payload)
    let count = bytes.withUnsafeMutableBytes { frameGuard.insertTag(header, into: $0) }
    return Array(bytes.prefix(count))
  }

  mutating func hear() throws -> (MessageHeader, [UInt8]) {
    let head = try socket.receive(MessageHeader.byteCount)
    let header = try head.withUnsafeBytes { try MessageHeader(parsing: $0) }
    let tagBytes = frameGuard.format.tagBytes(header)
    let tag = try socket.receive(tagBytes).withUnsafeBytes { FrameTag($0, count: tagBytes) }
    let payload = try socket.receive(Int(header.payloadBytes))
    let isSound = payload.withUnsafeBytes { frameGuard.opens(header, tag, $0) }
    try #require(isSound, "a tag of the node does not fit")
    return (header, payload)
  }

  /// Plays the handshake to its end; the reason, if it is refused.
  mutating func greet() throws -> Reason? {
    if handshake.side == .dialer {
      let (type, payload) = handshake.begin()
      try say(type, payload)
    }
    while true {
      let (header, answer) = try hear()
      switch answer.withUnsafeBytes({ handshake.receive(header, $0) }) {
      case .send(let type, let payload): try say(type, payload)
      case .open(let last, let agreement):
        if let (type, payload) = last { try say(type, payload) }
        frameGuard = agreement.frameGuard
        return nil
      case .refuse(let reason):
        try say(.reject, [], length: UInt64(reason.rawValue))
        return reason
      case .refused(let reason): return reason
      }
    }
  }

  /// The reason of the reject that comes next; the node closes the connection after it.
  mutating func refusal() throws -> Reason? {
    let header = try hear().0
    guard header.type == .reject, socket.isClosed() else { return nil }
    return UInt8(exactly: header.length).flatMap(Reason.init(rawValue:))
  }

  /// A greeting of the peer that knows of no secret.
  static func looseGreeting() throws -> [UInt8] {
    var generator = SystemRandomNumberGenerator()
    var greeting = Greeting(
      node: try #require(NodeID(1)), side: .acceptor, challenge: Challenge(using: &generator),
      resource: "r0")
    greeting.integrity = .sha256
    return greeting.encoded
  }

  /// The peer's hello.
  static func hello() throws -> [UInt8] {
    let hello = Hello(
      node: try #require(NodeID(1)), instance: .random(in: 1 ... .max), epoch: .max,
      resource: "r0")
    var bytes = [UInt8](repeating: 0, count: 64)
    let count = bytes.withUnsafeMutableBytes { hello.encode(into: $0) }
    return Array(bytes.prefix(count))
  }

  /// Says hello as the peer, and returns the type of the answer.
  mutating func sayHello() throws -> MessageType {
    try say(.hello, Self.hello())
    return try hear().0.type
  }
}

@Suite(.serialized) struct AuthenticationNodeTests {
  private static var guarded: NetOptions {
    var net = NetOptions()
    net.authenticationAlgorithm = "sha256"
    net.sharedSecret = "s3cret"
    net.dataIntegrityAlgorithm = "sha256"
    net.connectIntervalSeconds = 1
    return net
  }

  @Test func `only who knows the secret is let in, and everybody is told why`() async throws {
    try await withNode(net: Self.guarded) { node in
      try node.tell(.up)
      var wrong = try Caller(node, secret: "secret", integrity: .sha256)
      #expect(try wrong.greet() == .authenticationFailed)
      #expect(wrong.socket.isClosed())
      var none = try Caller(node, secret: nil, integrity: .sha256)
      #expect(try none.greet() == .authenticationMissing)
      #expect(none.socket.isClosed())
      var loose = try Caller(node, secret: "s3cret", integrity: .crc32c)
      #expect(try loose.greet() == .integrityAlgorithm)

      var right = try Caller(node, secret: "s3cret", integrity: .sha256)
      #expect(try right.greet() == nil)
      #expect(right.frameGuard.format.isKeyed)
      #expect(try right.sayHello() == .helloReply)
    }
  }

  /// The other direction: the node calls, and who answers must prove who it is.
  @Test func `who answers is not believed without a proof`() async throws {
    try await withNode(net: Self.guarded) { node in
      let listener = try Socket(listeningAt: node.peerPort, backlog: 8)
      try node.tell(.up)
      // It says that there is no secret.
      var loose = try Caller(at: listener, secret: nil, integrity: .sha256)
      var (header, greeting) = try loose.hear()
      #expect(header.type == .greeting)
      try loose.say(.greeting, Caller.looseGreeting())
      #expect(try loose.refusal() == .authenticationMissing)
      // It knows another one.
      var wrong = try Caller(at: listener, secret: "secret", integrity: .sha256)
      #expect(try wrong.greet() == .authenticationFailed)
      // It says the right things up to the proof, and then a wrong one.
      var bold = try Caller(at: listener, secret: "secret", integrity: .sha256)
      (header, greeting) = try bold.hear()
      guard
        case .send(let type, let answer) = greeting.withUnsafeBytes({
          bold.handshake.receive(header, $0)
        })
      else {
        Issue.record("the greeting of the node is refused")
        return
      }
      try bold.say(type, answer)
      #expect(try bold.hear().0.type == .proof)
      try bold.say(.proof, [UInt8](repeating: 0, count: 32))
      #expect(try bold.refusal() == .authenticationFailed)
      // It says what the node says.
      var mirror = try Caller(at: listener, secret: nil)
      let (_, echo) = try mirror.hear()
      try mirror.say(.greeting, echo)
      #expect(try mirror.refusal() == .protocolError)

      var right = try Caller(at: listener, secret: "s3cret", integrity: .sha256)
      #expect(try right.greet() == nil)
      #expect(try right.hear().0.type == .hello)
    }
  }

  @Test func `messages are of no use twice, nor on another connection`() async throws {
    try await withNode(net: Self.guarded) { node in
      try node.tell(.up)
      var first = try Caller(node, secret: "s3cret", integrity: .sha256)
      #expect(try first.greet() == nil)
      var second = try Caller(node, secret: "s3cret", integrity: .sha256)
      #expect(try second.greet() == nil)
      let hello = try first.sealed(.hello, Caller.hello())
      try second.socket.send(hello)
      #expect(second.socket.isClosed(), "it was sealed for the first connection")
      try first.socket.send(hello)
      #expect(try first.hear().0.type == .helloReply)
      let ping = first.sealed(.ping, [])
      try first.socket.send(ping)
      while try first.hear().0.type != .pong {}
      try first.socket.send(ping)
      #expect(first.socket.isClosed(), "the same ping again")
    }
  }

  @Test func `a hello without a greeting is refused`() async throws {
    for net in [NetOptions(), Self.guarded] {
      try await withNode(net: net) { node in
        try node.tell(.up)
        var caller = try Caller(node, secret: nil)
        #expect(try caller.sayHello() == .reject)
        #expect(caller.socket.isClosed())
      }
    }
  }

  @Test func `a forged hello does not end a connection that answers`() async throws {
    try await withNode { node in
      try node.tell(.up)
      var peer = try Caller(node, secret: nil)
      #expect(try peer.greet() == nil)
      #expect(try peer.sayHello() == .helloReply)
      for _ in 0..<3 {
        var forged = try Caller(node, secret: nil)
        #expect(try forged.greet() == nil)
        #expect(try forged.sayHello() == .reject)
        // The real one is asked, and answers.
        while try peer.hear().0.type != .ping {}
        try peer.say(.pong, [])
      }
    }
  }

  @Test func `a caller whose address is no peer's is sent away without a word`() async throws {
    try await withNode { node in
      try node.tell(.up)
      // More of them than there are places for callers.
      for _ in 0..<20 {
        let foreign = try Socket(port: node.port, from: 0x7F00_0002)
        let began = ContinuousClock.now
        #expect(foreign.isClosed())
        #expect(ContinuousClock.now - began < .seconds(60))
      }
      var caller = try Caller(node, secret: nil)
      #expect(try caller.greet() == nil)
    }
  }

  @Test func `who says nothing has few places and little time`() async throws {
    try await withNode { node in
      let listener = try Socket(listeningAt: node.peerPort, backlog: 8)
      try node.tell(.up)
      let began = ContinuousClock.now
      let silent = try (0..<12).map { _ in try Socket(port: node.port) }
      // The node still finds its peer.
      var peer = try Caller(at: listener, secret: nil)
      #expect(try peer.greet() == nil)
      #expect(silent.allSatisfy { $0.isClosed() })
      #expect(ContinuousClock.now - began < .seconds(60))
      var caller = try Caller(node, secret: nil)
      #expect(try caller.greet() == nil)
    }
  }

  @Test func `a message whose digest does not fit ends the connection`() async throws {
    var net = NetOptions()
    net.dataIntegrityAlgorithm = "crc32c"
    try await withNode(net: net) { node in
      try node.tell(.up)
      var caller = try Caller(node, secret: nil, integrity: .crc32c)
      #expect(try caller.greet() == nil)
      #expect(try caller.sayHello() == .helloReply)
      // Protected by another algorithm than was agreed on.
      caller.frameGuard = FrameGuard(.xxh3)
      try caller.say(.state, [UInt8](repeating: 0, count: 48))
      #expect(caller.socket.isClosed())
    }
  }
}
