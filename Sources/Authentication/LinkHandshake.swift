/// The beginning of a connection, before the core hears of it: the two ends say who they are and
/// how messages are to be protected, and with a secret each proves that it knows it.
///
/// ```
/// dialer                              acceptor
///   greeting, challenge  ------------>
///                        <------------  greeting, challenge
///   proof                ------------>               with a secret only
///                        <------------  proof        with a secret only
/// ```
/// A proof is HMAC(secret, label, who proves, both greetings with their lengths): it is good for
/// this connection, this end, these nodes, this resource and these versions and algorithms, and for
/// nothing else. So
/// - an echoed challenge or proof is refused: the end that proves is part of it, and a node never
///   takes its own number or challenge for a peer's;
/// - a recorded connection is of no use: one of the challenges is always new;
/// - whoever takes an algorithm away on the way changes a greeting, and both proofs fail; a side
///   with a secret never goes on without a proof;
/// - the dialer proves first: a stranger who only calls learns nothing to try passwords on.
///
/// The secret also gives the keys of `FrameGuard`, one for each direction, where
/// `data-integrity-alg sha256` wants the messages protected. Without that the connection can still
/// be taken over by who can change packets on their way.
///
/// What must hold: nothing is believed of a peer before `open`; every input leads to an end or to a
/// state that waits for one message; no memory is kept that depends on what a stranger sends.
public import BlockTypes
import Digests
public import Replication
public import Wire

/// What is to be done after a step.
public enum LinkStep: Sendable {
  /// Send this message and wait for the next one.
  case send(MessageType, [UInt8])
  /// Send the message, if there is one; then the core may hear of the connection.
  case open(send: (MessageType, [UInt8])?, LinkAgreement)
  /// Tell the reason to the other side and close.
  case refuse(Reason)
  /// The other side has told why it does not go on; not proven by anything. Close.
  case refused(Reason)
}

/// What the two ends agreed on.
public struct LinkAgreement: Sendable {
  /// Who is at the other end; proven where there is a secret.
  public var peer: NodeID
  /// Protects the messages from now on.
  public var frameGuard: FrameGuard
}

/// One end of one connection, until it is open.
public struct LinkHandshake: Sendable {
  private enum State {
    case idle, waitsForGreeting, waitsForProof, over
  }

  private let settings: LinkSettings
  private let mine: Greeting
  private var theirs: Greeting?
  /// The greeting of the peer as it came.
  private var theirBytes: [UInt8] = []
  private var state = State.idle

  /// One end of a new connection.
  public init(_ settings: LinkSettings, side: ConnectionSide, challenge: Challenge) {
    self.settings = settings
    var greeting = Greeting(
      node: settings.node, side: side, challenge: challenge, resource: settings.resource)
    greeting.integrity = settings.integrity
    greeting.authentication = settings.authentication?.algorithm
    mine = greeting
    if side == .acceptor { state = .waitsForGreeting }
  }

  /// Which end this is.
  public var side: ConnectionSide { mine.side }

  /// What the dialer says first.
  public mutating func begin() -> (MessageType, [UInt8]) {
    precondition(state == .idle, "only a dialer begins, once")
    state = .waitsForGreeting
    return (.greeting, mine.encoded)
  }

  /// Takes one message.
  @safe
  public mutating func receive(
    _ header: MessageHeader, _ payload: UnsafeRawBufferPointer
  ) -> LinkStep {
    if header.type == .reject {
      state = .over
      let told = UInt8(exactly: header.length).flatMap(Reason.init(rawValue:)) ?? .protocolError
      return .refused(Self.objections.contains(told) ? told : .protocolError)
    }
    switch (state, header.type) {
    case (.waitsForGreeting, .greeting): return unsafe greeted(Array(payload))
    case (.waitsForProof, .proof): return unsafe proven(Array(payload))
    default: return refuse(.protocolError)
    }
  }

  private mutating func refuse(_ reason: Reason) -> LinkStep {
    state = .over
    return .refuse(reason)
  }

  private mutating func greeted(_ bytes: [UInt8]) -> LinkStep {
    guard let greeting = unsafe bytes.withUnsafeBytes({ try? Greeting(parsing: $0) }) else {
      return refuse(.protocolError)
    }
    if let reason = objection(to: greeting) { return refuse(reason) }
    theirs = greeting
    theirBytes = bytes
    if side == .acceptor {
      guard settings.authentication != nil else {
        return open(send: (.greeting, mine.encoded))
      }
      state = .waitsForProof
      return .send(.greeting, mine.encoded)
    }
    guard settings.authentication != nil else { return open(send: nil) }
    state = .waitsForProof
    return .send(.proof, proof(of: side))
  }

  /// All that a peer says against a connection that is not open. A stranger may say anything, and
  /// an administrator who reads of a split brain must be able to believe it.
  private static let objections: Set<Reason> = [
    .protocolError, .ownChallenge, .noCommonVersion, .wrongResource, .unknownNode,
    .authenticationUnexpected, .authenticationMissing, .authenticationAlgorithm,
    .authenticationFailed, .integrityAlgorithm,
  ]

  /// Why there can be no connection with who sent this greeting; `nil` when there can.
  private func objection(to greeting: Greeting) -> Reason? {
    guard greeting.side == side.other else { return .protocolError }
    guard greeting.challenge != mine.challenge, greeting.node != settings.node else {
      return .ownChallenge
    }
    guard greeting.versions.overlaps(mine.versions) else { return .noCommonVersion }
    guard greeting.resource == settings.resource else { return .wrongResource }
    guard settings.peers.contains(greeting.node) else { return .unknownNode }
    switch (mine.authentication, greeting.authentication) {
    case (nil, nil): break
    case (nil, .some): return .authenticationUnexpected
    case (.some, nil): return .authenticationMissing
    case (.some(let here), .some(let there)):
      guard here == there else { return .authenticationAlgorithm }
    }
    guard greeting.integrity == mine.integrity else { return .integrityAlgorithm }
    return nil
  }

  private mutating func proven(_ bytes: [UInt8]) -> LinkStep {
    let (algorithm, secret) = authentication
    let proven = message(Self.proofLabel, side.other)
    guard algorithm.isValid(bytes, for: proven, key: secret) else {
      return refuse(.authenticationFailed)
    }
    return open(send: side == .acceptor ? (.proof, proof(of: side)) : nil)
  }

  private mutating func open(send: (MessageType, [UInt8])?) -> LinkStep {
    guard let theirs else { preconditionFailure("nobody has greeted") }
    state = .over
    var frameGuard = FrameGuard(settings.integrity)
    if settings.integrity == .sha256, settings.authentication != nil {
      frameGuard = FrameGuard(sending: key(of: side), receiving: key(of: side.other))
    }
    return .open(send: send, LinkAgreement(peer: theirs.node, frameGuard: frameGuard))
  }

  private static var proofLabel: StaticString { "ashlar peer authentication" }

  private var authentication: (HashAlgorithm, secret: [UInt8]) {
    guard let authentication = settings.authentication else {
      preconditionFailure("there is no secret")
    }
    return (authentication.algorithm, authentication.secret.bytes)
  }

  /// That `prover` knows the secret.
  private func proof(of prover: ConnectionSide) -> [UInt8] {
    let (algorithm, secret) = authentication
    return algorithm.authenticationCode(message(Self.proofLabel, prover), key: secret)
  }

  /// The key of what `sender` sends.
  private func key(of sender: ConnectionSide) -> SessionKey {
    SessionKey(
      HashAlgorithm.sha256.authenticationCode(
        message("ashlar session key", sender), key: authentication.secret))
  }

  /// What the HMACs are over: what it is for, whose it is, both greetings.
  private func message(_ label: StaticString, _ whose: ConnectionSide) -> [UInt8] {
    var message = Array("\(label)\0".utf8)
    message.append(whose.rawValue)
    let greetings = side == .dialer ? [mine.encoded, theirBytes] : [theirBytes, mine.encoded]
    for greeting in greetings {
      message.append(UInt8(greeting.count >> 8))
      message.append(UInt8(greeting.count & 0xFF))
      message += greeting
    }
    return message
  }
}
