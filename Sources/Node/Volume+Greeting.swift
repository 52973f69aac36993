/// The beginning of a connection: whoever is at the other end says who it is, and with a secret
/// proves it, before the core hears of the connection.
///
/// What must hold: a stranger gets no more than one of a few places, for a few seconds; nothing
/// that is not proven ends a connection or stops the volume from dialing; the log gets a line now
/// and then, however often somebody calls.
import Authentication
import BlockIO
import BlockTypes
import Configuration
import Digests
import Exports
import Glibc
import Replication
import Wire

/// A line for the log that strangers can cause: the same one is not repeated before its time, and
/// what was left out is counted.
struct RareWarning {
  private var text = ""
  private var nextAt = Instant(nanoseconds: 0)
  private var suppressed = 0

  /// Between two equal lines. Milliseconds.
  static let pauseMs: UInt64 = 60_000
  /// Between two lines of any kind. Milliseconds.
  static let shortPauseMs: UInt64 = 1_000

  /// The line to write, if it is time for one.
  mutating func line(_ new: String, at now: Instant) -> String? {
    let due =
      new == text ? nextAt.advanced(milliseconds: Self.pauseMs - Self.shortPauseMs) : nextAt
    guard now >= due || nextAt == Instant(nanoseconds: 0) else {
      suppressed += 1
      return nil
    }
    let left = suppressed == 0 ? "" : " (\(suppressed) more like this)"
    text = new
    nextAt = now.advanced(milliseconds: Self.shortPauseMs)
    suppressed = 0
    return new + left
  }
}

extension NetOptions {
  /// Whether this program can protect connections as is wanted. What it does not know, it must not
  /// leave out.
  var isProtectionKnown: Bool {
    if let name = dataIntegrityAlgorithm, IntegrityAlgorithm(named: name) == nil { return false }
    guard let name = authenticationAlgorithm else { return sharedSecret == nil }
    return HashAlgorithm(named: name) != nil && sharedSecret?.isEmpty == false
  }
}

extension LinkSettings {
  /// What the configuration says, for connections between `node` and `peers`.
  init(_ net: NetOptions, node: NodeID, peers: [NodeID], resource: String) {
    self.init(node: node, peers: peers, resource: resource)
    integrity = net.dataIntegrityAlgorithm.flatMap { IntegrityAlgorithm(named: $0) } ?? .none
    if let name = net.authenticationAlgorithm, let algorithm = HashAlgorithm(named: name),
      let secret = net.sharedSecret
    {
      authentication = Authentication(algorithm: algorithm, secret: SharedSecret(secret))
    }
  }
}

/// A link that is not open yet.
struct LinkBeginning {
  var handshake: LinkHandshake
  /// The peer that was dialed; `nil` for a connection that was accepted.
  let dialedPeer: Int?
  /// When the other side must have said who it is.
  let deadline: Instant
}

extension Volume {
  /// Connections that were accepted and have not said who they are.
  static var strangerLimit: Int { 8 }
  /// How long the beginning of a connection may take. Milliseconds.
  static var greetingMs: UInt64 { 3_000 }

  private func challenge() -> Challenge {
    // From the kernel: what comes next must not follow from what was sent before.
    var generator = SystemRandomNumberGenerator()
    return Challenge(using: &generator)
  }

  /// The peers that a caller at this address may be. Everybody else is no peer.
  private func peers(at caller: SocketAddress?) -> [NodeID] {
    guard let caller else { return [] }
    return peerHosts.indices.filter { peerAddresses[$0].hasSameHost(as: caller) }
      .map { peerHosts[$0].nodeID }
  }

  /// Somebody connected.
  mutating func beginAccepting(_ descriptor: Int32, _ reactor: inout Reactor) {
    let caller = SocketAddress(peerOf: descriptor)
    let peers = peers(at: caller)
    guard !peers.isEmpty else {
      let name = caller?.host ?? "an unknown address"
      warnRarely("refused a connection from \(name): no peer has this address", reactor.now)
      _ = Glibc.close(descriptor)
      return
    }
    guard strangers < Self.strangerLimit else {
      warnRarely("refused a connection: too many have not said who they are", reactor.now)
      _ = Glibc.close(descriptor)
      return
    }
    guard let connection = openLink(descriptor, &reactor) else { return }
    let settings = LinkSettings(
      configuration.net, node: host.nodeID, peers: peers, resource: configuration.name)
    strangers += 1
    let handshake = LinkHandshake(settings, side: .acceptor, challenge: challenge())
    beginGreeting(connection, handshake, dialed: nil, &reactor)
  }

  /// A dial of this node has come through; `false`, and the socket is closed, when there are too
  /// many links.
  mutating func beginDialed(
    _ descriptor: Int32, _ peer: Int, _ reactor: inout Reactor
  ) -> Bool {
    guard let connection = openLink(descriptor, &reactor) else { return false }
    let settings = LinkSettings(
      configuration.net, node: host.nodeID, peers: [peerHosts[peer].nodeID],
      resource: configuration.name)
    var handshake = LinkHandshake(settings, side: .dialer, challenge: challenge())
    let (type, payload) = handshake.begin()
    beginGreeting(connection, handshake, dialed: peer, &reactor)
    sendGreeting(connection, type, payload, &reactor)
    return true
  }

  private mutating func beginGreeting(
    _ connection: ConnectionID, _ handshake: LinkHandshake, dialed peer: Int?,
    _ reactor: inout Reactor
  ) {
    greetingLinks += 1
    beginnings[PeerLink.index(of: connection)] = LinkBeginning(
      handshake: handshake, dialedPeer: peer,
      deadline: reactor.now.advanced(milliseconds: Self.greetingMs))
  }

  /// Does what a message of the beginning leads to.
  mutating func goOn(
    _ index: Int, _ step: LinkStep, _ reactor: inout Reactor, _ server: inout NBDServer
  ) {
    guard let link = links[index] else { return }
    switch step {
    case .send(let type, let payload):
      sendGreeting(link.connection, type, payload, &reactor)
    case .open(let last, let agreement):
      if let (type, payload) = last { sendGreeting(link.connection, type, payload, &reactor) }
      let dialed = beginnings[index]?.dialedPeer
      endGreeting(index)
      links[index]?.format = agreement.frameGuard.format
      guards[index] = agreement.frameGuard
      let event: Event =
        if let dialed {
          .dialed(peer: dialed, link.connection)
        } else {
          .accepted(link.connection, from: agreement.peer)
        }
      self.step(event, &reactor, &server)
    case .refuse(let reason):
      var reject = MessageHeader(.reject)
      reject.length = UInt64(reason.rawValue)
      send(link.connection, reject, .none, &reactor)
      failGreeting(index, reason, isTold: false, &reactor, &server)
    case .refused(let reason): failGreeting(index, reason, isTold: true, &reactor, &server)
    }
  }

  /// The two do not agree, or nothing came in time.
  mutating func failGreeting(
    _ index: Int, _ reason: Reason, isTold: Bool, _ reactor: inout Reactor,
    _ server: inout NBDServer
  ) {
    guard let link = links[index] else { return }
    let peer = beginnings[index]?.dialedPeer
    endGreeting(index)
    close(link.connection, &reactor)
    let name = peer.map { "\(peerHosts[$0].name): " } ?? "incoming connection: "
    let who = isTold ? "the other side says: " : ""
    // A peer that is down or StandAlone is no cause for alarm.
    if reason != .peerClosed { warnRarely(name + who + reason.text, reactor.now) }
    if let peer { step(.dialRefused(peer: peer, reason), &reactor, &server) }
  }

  /// The link is no stranger's any more: it is open, or it ends.
  mutating func endGreeting(_ index: Int) {
    guard let beginning = beginnings[index] else { return }
    beginnings[index] = nil
    greetingLinks -= 1
    if beginning.dialedPeer == nil { strangers -= 1 }
  }

  /// Throws out who has not said who it is in time, or everybody when the volume is left.
  mutating func expireGreetings(
    all: Bool = false, _ reactor: inout Reactor, _ server: inout NBDServer
  ) {
    for index in 0..<beginnings.count {
      guard let beginning = beginnings[index], all || reactor.now >= beginning.deadline else {
        continue
      }
      failGreeting(
        index, all ? .peerClosed : .handshakeTimeout, isTold: false, &reactor, &server)
    }
  }

  private mutating func sendGreeting(
    _ connection: ConnectionID, _ type: MessageType, _ payload: [UInt8],
    _ reactor: inout Reactor
  ) {
    var header = MessageHeader(type)
    header.payloadBytes = UInt32(payload.count)
    unsafe header.encode(into: scratch)
    let place = unsafe UnsafeMutableRawBufferPointer(
      rebasing: scratch[MessageHeader.byteCount..<(MessageHeader.byteCount + payload.count)])
    unsafe place.copyBytes(from: payload)
    sendScratch(connection, header, &reactor)
  }

  /// Writes a line that strangers can cause.
  mutating func warnRarely(_ text: String, _ now: Instant) {
    if let line = strangerWarning.line(text, at: now) { reports.append(.warning(line)) }
  }
}
