/// The beginning of a connection as a table: who is let in, who is refused and with which reason.
/// Every row is played in both directions by two real ends.
import Authentication
import BlockTypes
import Digests
import Replication
import TestSupport
import Testing
import Wire

/// One end's configuration in a row of the table.
private struct End: Sendable {
  var node: UInt64
  var peers: [UInt64]
  var resource = "r0"
  var secret: String?
  var algorithm = HashAlgorithm.sha256
  var integrity = IntegrityAlgorithm.none

  static func alpha(_ secret: String? = nil) -> End { End(node: 0, peers: [1], secret: secret) }
  static func beta(_ secret: String? = nil) -> End { End(node: 1, peers: [0], secret: secret) }

  var settings: LinkSettings {
    var settings = LinkSettings(
      node: node(self.node), peers: peers.map { node($0) }, resource: resource)
    settings.integrity = integrity
    if let secret {
      settings.authentication = LinkSettings.Authentication(
        algorithm: algorithm, secret: SharedSecret(secret))
    }
    return settings
  }

  private func node(_ number: UInt64) -> NodeID {
    guard let node = NodeID(number) else { preconditionFailure("a node number of a test") }
    return node
  }
}

/// How a handshake ended at one end.
private enum Ending: Equatable {
  case open(NodeID)
  case refused(Reason)
  case told(Reason)
  case waits
}

private struct Line {
  var dialer: LinkHandshake
  var acceptor: LinkHandshake
  var random: SeededGenerator
  /// Messages, with who sent them, oldest first.
  var sent: [(ConnectionSide, MessageType, [UInt8])] = []
  var guards: [ConnectionSide: FrameGuard] = [:]

  init(_ dialer: End, _ acceptor: End, seed: UInt64 = 1) {
    random = SeededGenerator(seed: seed)
    self.dialer = LinkHandshake(
      dialer.settings, side: .dialer, challenge: Challenge(using: &random))
    self.acceptor = LinkHandshake(
      acceptor.settings, side: .acceptor, challenge: Challenge(using: &random))
  }

  /// Lets both talk until nothing is on its way; `change` may alter what is delivered.
  mutating func play(
    _ change: (ConnectionSide, inout MessageType, inout [UInt8]) -> Void = { _, _, _ in }
  ) -> [ConnectionSide: Ending] {
    var endings: [ConnectionSide: Ending] = [.dialer: .waits, .acceptor: .waits]
    let (type, payload) = dialer.begin()
    var onTheWay: [(ConnectionSide, MessageType, [UInt8], UInt64)] = [(.dialer, type, payload, 0)]
    while !onTheWay.isEmpty {
      var (sender, type, payload, length) = onTheWay.removeFirst()
      sent.append((sender, type, payload))
      change(sender, &type, &payload)
      guard endings[sender.other] == .waits else { continue }
      let step = deliver(type, payload, length, to: sender.other)
      switch step {
      case .send(let type, let payload): onTheWay.append((sender.other, type, payload, 0))
      case .open(let last, let agreement):
        if let (type, payload) = last { onTheWay.append((sender.other, type, payload, 0)) }
        endings[sender.other] = .open(agreement.peer)
        guards[sender.other] = agreement.frameGuard
      case .refuse(let reason):
        endings[sender.other] = .refused(reason)
        onTheWay.append((sender.other, .reject, [], UInt64(reason.rawValue)))
      case .refused(let reason): endings[sender.other] = .told(reason)
      }
    }
    return endings
  }

  mutating func deliver(
    _ type: MessageType, _ payload: [UInt8], _ length: UInt64 = 0, to side: ConnectionSide
  ) -> LinkStep {
    var header = MessageHeader(type, length: length)
    header.payloadBytes = UInt32(payload.count)
    return payload.withUnsafeBytes {
      side == .dialer ? dialer.receive(header, $0) : acceptor.receive(header, $0)
    }
  }
}

private func isOpen(_ step: LinkStep) -> Bool {
  if case .open = step { return true }
  return false
}

private func reason(_ step: LinkStep) -> Reason? {
  if case .refuse(let reason) = step { return reason }
  return nil
}

private func refusal(
  _ dialer: End, _ acceptor: End, sourceLocation: SourceLocation = #_sourceLocation
) -> Reason? {
  var line = Line(dialer, acceptor)
  let endings = line.play()
  guard case .refused(let reason) = endings[.acceptor] ?? .waits else {
    guard case .refused(let reason) = endings[.dialer] ?? .waits else { return nil }
    #expect(endings[.acceptor] == .told(reason), sourceLocation: sourceLocation)
    return reason
  }
  #expect(endings[.dialer] == .told(reason), sourceLocation: sourceLocation)
  return reason
}

@Suite struct LinkHandshakeTests {
  @Test func `two that agree are let in, each as the other knows it`() {
    for secret in [nil, "s3cret"] {
      var line = Line(.alpha(secret), .beta(secret))
      let endings = line.play()
      #expect(endings[.dialer] == .open(NodeID(1)!))
      #expect(endings[.acceptor] == .open(NodeID(0)!))
      #expect(line.sent.count == (secret == nil ? 2 : 4))
    }
  }

  @Test(arguments: HashAlgorithm.allCases)
  func `every hash proves`(algorithm: HashAlgorithm) {
    var alpha = End.alpha("s3cret")
    var beta = End.beta("s3cret")
    alpha.algorithm = algorithm
    beta.algorithm = algorithm
    #expect(refusal(alpha, beta) == nil)
    beta.secret = "s3creT"
    #expect(refusal(alpha, beta) == .authenticationFailed)
  }

  /// Each row: what differs, and what both are told.
  @Test func `who does not agree is refused, and both know why`() {
    #expect(refusal(.alpha("one"), .beta("two")) == .authenticationFailed)
    #expect(refusal(.alpha("one"), .beta("one ")) == .authenticationFailed)
    #expect(refusal(.alpha(), .beta("two")) == .authenticationMissing)
    #expect(refusal(.alpha("one"), .beta()) == .authenticationUnexpected)
    var other = End.alpha("one")
    other.algorithm = .sha1
    #expect(refusal(other, .beta("one")) == .authenticationAlgorithm)
    other = .alpha("one")
    other.integrity = .crc32c
    #expect(refusal(other, .beta("one")) == .integrityAlgorithm)
    other = .alpha("one")
    other.resource = "r1"
    #expect(refusal(other, .beta("one")) == .wrongResource)
    other = .alpha("one")
    other.node = 5
    #expect(refusal(other, .beta("one")) == .unknownNode)
    other = .alpha("one")
    other.node = 1
    #expect(refusal(other, .beta("one")) == .ownChallenge)
    // The dialer checks who answers just as well.
    var stranger = End.beta("one")
    stranger.node = 7
    #expect(refusal(.alpha("one"), stranger) == .unknownNode)
  }

  @Test func `a side with a secret never goes on without a proof`() {
    for side in ConnectionSide.allCases {
      var line = Line(.alpha("one"), .beta("one"))
      let endings = line.play { sender, type, payload in
        // The answer to the greeting says that there is no secret to prove.
        if sender == side, type == .greeting { payload[7] = 0 }
      }
      #expect(!endings.values.contains { if case .open = $0 { true } else { false } })
    }
  }

  /// V12: a stranger who has only what we say ourselves.
  @Test func `an echoed challenge is refused`() throws {
    var line = Line(.alpha("one"), .beta("one"))
    var (type, greeting) = line.dialer.begin()
    // As it is, and made to look like an acceptor's.
    #expect(reason(line.deliver(type, greeting, to: .dialer)) == .protocolError)
    line = Line(.alpha("one"), .beta("one"))
    (type, greeting) = line.dialer.begin()
    greeting[5] = ConnectionSide.acceptor.rawValue
    #expect(reason(line.deliver(type, greeting, to: .dialer)) == .ownChallenge)
    // And with another number in it.
    line = Line(.alpha("one"), .beta("one"))
    (type, greeting) = line.dialer.begin()
    greeting[5] = ConnectionSide.acceptor.rawValue
    greeting[4] = 1
    #expect(reason(line.deliver(type, greeting, to: .dialer)) == .ownChallenge)
  }

  @Test func `a node is not let in by its own proofs from another connection`() throws {
    // Alpha dials the stranger, who calls alpha with what alpha says.
    var outward = Line(.alpha("one"), .beta("one"), seed: 1)
    var inward = Line(.beta("one"), .alpha("one"), seed: 2)
    var (type, greeting) = outward.dialer.begin()
    #expect(reason(inward.deliver(type, greeting, to: .acceptor)) == .ownChallenge)
    // With beta's number in it the challenges are answered, but the proof says who proves.
    inward = Line(.beta("one"), .alpha("one"), seed: 2)
    greeting[4] = 1
    guard case .send(_, var answer) = inward.deliver(type, greeting, to: .acceptor) else {
      Issue.record("not answered")
      return
    }
    answer[4] = 1
    guard case .send(_, let proof) = outward.deliver(.greeting, answer, to: .dialer) else {
      Issue.record("not proven")
      return
    }
    #expect(reason(inward.deliver(.proof, proof, to: .acceptor)) == .authenticationFailed)
    type = .proof
    #expect(reason(outward.deliver(type, proof, to: .dialer)) == .authenticationFailed)
  }

  @Test func `a recorded connection is of no use`() {
    var recorded = Line(.alpha("one"), .beta("one"), seed: 1)
    _ = recorded.play()
    var line = Line(.alpha("one"), .beta("one"), seed: 2)
    for (sender, type, payload) in recorded.sent where sender == .dialer {
      let step = line.deliver(type, payload, to: .acceptor)
      #expect(!isOpen(step))
      if type == .proof { #expect(reason(step) == .authenticationFailed) }
    }
    _ = line.dialer.begin()
    for (sender, type, payload) in recorded.sent where sender == .acceptor {
      let step = line.deliver(type, payload, to: .dialer)
      #expect(!isOpen(step))
      if type == .proof { #expect(reason(step) == .authenticationFailed) }
    }
  }

  /// Any bit of any message that is changed on the way: nobody is let in by it who trusts it, and
  /// whoever was already let in has sent the last proof, which the other side then refuses.
  @Test func `every changed bit is found when there is a secret`() {
    var clean = Line(.alpha("one"), .beta("one"))
    _ = clean.play()
    for (number, message) in clean.sent.enumerated() {
      for bit in 0..<(message.2.count * 8) {
        var line = Line(.alpha("one"), .beta("one"))
        var count = 0
        let endings = line.play { _, _, payload in
          if count == number { payload[bit / 8] ^= 1 << UInt8(bit % 8) }
          count += 1
        }
        let receiver = message.0.other
        if case .open = endings[receiver] ?? .waits {
          Issue.record("message \(number), bit \(bit): \(receiver) is open")
        }
      }
    }
  }

  @Test func `a version that only one side speaks is refused, a lie about it is found`() {
    var line = Line(.alpha("one"), .beta("one"))
    var endings = line.play { sender, type, payload in
      guard sender == .dialer, type == .greeting else { return }
      payload.replaceSubrange(0..<4, with: [0, 1, 0, 1])
    }
    #expect(endings[.acceptor] == .refused(.noCommonVersion))
    line = Line(.alpha("one"), .beta("one"))
    endings = line.play { sender, type, payload in
      if sender == .dialer, type == .greeting { payload.replaceSubrange(0..<2, with: [0, 0]) }
    }
    #expect(endings[.acceptor] == .refused(.authenticationFailed))
  }

  @Test func `truncated and overlong messages are refused`() {
    var clean = Line(.alpha("one"), .beta("one"))
    _ = clean.play()
    for (number, message) in clean.sent.enumerated() {
      for length in [0, 1, message.2.count - 1, message.2.count + 1] {
        var line = Line(.alpha("one"), .beta("one"))
        var count = 0
        let endings = line.play { _, _, payload in
          if count == number {
            payload = Array((payload + [0]).prefix(length))
          }
          count += 1
        }
        if case .open = endings[message.0.other] ?? .waits {
          Issue.record("message \(number) of \(length) bytes is taken")
        }
      }
    }
  }

  @Test(arguments: MessageType.allCases)
  func `nothing else is taken before the end of the handshake`(type: MessageType) {
    for side in ConnectionSide.allCases where type != .greeting {
      var line = Line(.alpha("one"), .beta("one"))
      if side == .dialer { _ = line.dialer.begin() }
      let step = line.deliver(type, [], to: side)
      if type == .reject {
        guard case .refused = step else {
          Issue.record("a reject is an end")
          return
        }
      } else {
        #expect(reason(step) == .protocolError)
      }
      // Whatever comes after the end changes nothing.
      #expect(!isOpen(line.deliver(.proof, [], to: side)))
    }
  }

  @Test(arguments: seeds(count: 8))
  func `garbage never traps and opens nothing`(seed: UInt64) {
    var random = SeededGenerator(seed: seed)
    for _ in 0..<2_000 {
      var line = Line(.alpha("one"), .beta("one"), seed: random.next())
      let (_, greeting) = line.dialer.begin()
      for _ in 0..<3 {
        var bytes = greeting
        for _ in 0..<random.below(4) {
          bytes[random.below(bytes.count)] = UInt8(random.below(256))
        }
        if random.oneIn(3) { bytes = (0..<random.below(177)).map { _ in UInt8(random.below(256)) } }
        let type: MessageType = random.oneIn(2) ? .greeting : .proof
        let side: ConnectionSide = random.oneIn(2) ? .dialer : .acceptor
        #expect(!isOpen(line.deliver(type, bytes, to: side)), "seed \(seed)")
      }
    }
  }

  /// Nobody has proven anything yet, so only what concerns the connection is repeated to people.
  @Test func `a stranger cannot report a split brain`() {
    for raw in UInt8.min...UInt8.max {
      var line = Line(.alpha("one"), .beta("one"))
      _ = line.dialer.begin()
      guard case .refused(let told) = line.deliver(.reject, [], UInt64(raw), to: .dialer) else {
        Issue.record("a reject is an end")
        return
      }
      #expect(!told.isPermanent && !told.isSplitBrain, "\(told)")
    }
    var line = Line(.alpha("one"), .beta("one"))
    _ = line.dialer.begin()
    let length = UInt64(Reason.authenticationFailed.rawValue)
    if case .refused(let told) = line.deliver(.reject, [], length, to: .dialer) {
      #expect(told == .authenticationFailed)
    }
  }

  @Test func `the secret is in no text`() {
    let end = End.alpha("s3cret")
    var text = ""
    dump(end.settings, to: &text)
    text += "\(end.settings) \(SharedSecret("s3cret"))"
    dump(SharedSecret("s3cret"), to: &text)
    #expect(!text.contains("s3cret"))
    #expect(!text.contains("115"), "the numbers of its bytes neither")
  }
}

@Suite struct SessionKeyTests {
  private func guards(_ integrity: IntegrityAlgorithm, seed: UInt64) throws -> (
    FrameGuard, FrameGuard
  ) {
    var alpha = End.alpha("one")
    var beta = End.beta("one")
    alpha.integrity = integrity
    beta.integrity = integrity
    var line = Line(alpha, beta, seed: seed)
    _ = line.play()
    return (try #require(line.guards[.dialer]), try #require(line.guards[.acceptor]))
  }

  @Test func `sha256 with a secret protects each message by a key of its direction`() throws {
    var (dialer, acceptor) = try guards(.sha256, seed: 1)
    #expect(dialer.format.isKeyed && acceptor.format.isKeyed)
    let header = MessageHeader(.ack, id: 7)
    let nothing = UnsafeRawBufferPointer(start: nil, count: 0)
    let first = dialer.seal(header, nothing)
    let second = dialer.seal(header, nothing)
    #expect(first != second, "the same message again is another one")
    var copy = acceptor
    var isTaken = copy.opens(header, first, nothing)
    #expect(isTaken)
    isTaken = copy.opens(header, second, nothing)
    #expect(isTaken)
    copy = acceptor
    isTaken = copy.opens(header, second, nothing)
    #expect(!isTaken, "one was left out")
    // What a node says itself does not count as the peer's.
    var echoed = dialer
    isTaken = echoed.opens(header, first, nothing)
    #expect(!isTaken)
    // Nor does what was said on another connection.
    let (other, _) = try guards(.sha256, seed: 2)
    var foreign = other
    let stolen = foreign.seal(header, nothing)
    isTaken = acceptor.opens(header, stolen, nothing)
    #expect(!isTaken)
  }

  @Test(arguments: [IntegrityAlgorithm.none, .crc32c, .xxh3])
  func `the others find accidents and need no key`(integrity: IntegrityAlgorithm) throws {
    let (dialer, acceptor) = try guards(integrity, seed: 1)
    #expect(!dialer.format.isKeyed && !acceptor.format.isKeyed)
    #expect(dialer.format.algorithm == integrity && acceptor.format.algorithm == integrity)
  }
}
