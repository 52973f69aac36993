/// The tag between header and payload: its length and bytes, and that every change is found.
import BlockTypes
import Digests
import TestSupport
import Testing
import Wire

/// A header with this many bytes of payload, and the payload.
private func message(_ type: MessageType, _ bytes: Int) -> (MessageHeader, [UInt8]) {
  var header = MessageHeader(type, id: 1, offset: 4096, length: UInt64(bytes))
  header.payloadBytes = UInt32(bytes)
  return (header, (0..<bytes).map { UInt8(truncatingIfNeeded: $0 &* 7) })
}

/// What goes onto the wire.
private func frame(_ frameGuard: FrameGuard, _ type: MessageType, _ bytes: Int) -> [UInt8] {
  var frameGuard = frameGuard
  let (header, payload) = message(type, bytes)
  var place = [UInt8](repeating: 0, count: MessageHeader.byteCount + bytes + FrameTag.limit)
  place.withUnsafeMutableBytes { header.encode(into: $0) }
  place.replaceSubrange(MessageHeader.byteCount..<(MessageHeader.byteCount + bytes), with: payload)
  let count = place.withUnsafeMutableBytes { frameGuard.insertTag(header, into: $0) }
  return Array(place.prefix(count))
}

/// Whether a receiver takes the bytes.
private func isTaken(_ bytes: [UInt8], _ frameGuard: FrameGuard) -> Bool {
  var frameGuard = frameGuard
  return bytes.withUnsafeBytes { raw in
    guard let header = try? MessageHeader(parsing: raw) else { return false }
    let tagBytes = frameGuard.format.tagBytes(header)
    let start = MessageHeader.byteCount + tagBytes
    guard raw.count == start + Int(header.payloadBytes) else { return false }
    let tag = FrameTag(
      UnsafeRawBufferPointer(rebasing: raw[MessageHeader.byteCount...]), count: tagBytes)
    return frameGuard.opens(header, tag, UnsafeRawBufferPointer(rebasing: raw[start...]))
  }
}

private let keys = (
  SessionKey((0..<32).map { UInt8($0) }), SessionKey((32..<64).map { UInt8($0) })
)
private let sender = FrameGuard(sending: keys.0, receiving: keys.1)
private let receiver = FrameGuard(sending: keys.1, receiving: keys.0)

@Suite struct FrameGuardTests {
  @Test func `the length of a tag follows from the algorithm and the message`() {
    let expected: [(FrameGuard, Int, Int, Int)] = [
      (.initial, 0, 0, 4), (FrameGuard(.crc32c), 0, 4, 4), (FrameGuard(.xxh3), 0, 16, 16),
      (FrameGuard(.sha256), 0, 32, 32), (sender, 32, 32, 32),
    ]
    for (frameGuard, empty, data, control) in expected {
      #expect(frameGuard.format.tagBytes(message(.ack, 0).0) == empty)
      for type in [MessageType.write, .resyncData, .repairData, .readData] {
        #expect(frameGuard.format.tagBytes(message(type, 512).0) == data)
      }
      for type in [MessageType.hello, .state, .bitmap, .verifyDigests] {
        #expect(frameGuard.format.tagBytes(message(type, 16).0) == control)
      }
    }
  }

  /// Golden bytes: a change here is a protocol change and needs a new protocol version.
  @Test func `tags are stable`() {
    func tag(_ frameGuard: FrameGuard) -> [UInt8] {
      Array(frame(frameGuard, .write, 8).dropFirst(MessageHeader.byteCount).dropLast(8))
    }
    let whole = frame(FrameGuard(.none), .write, 8)
    let crc = slowCRC32C(whole[...])
    #expect(tag(FrameGuard(.crc32c)) == withUnsafeBytes(of: crc.bigEndian) { Array($0) })
    #expect(hex(tag(FrameGuard(.crc32c))) == "771e6e6c")
    #expect(hex(tag(FrameGuard(.xxh3))) == "85a8b7ab5b9ee1be42f7674329f9dd69")
    #expect(
      hex(tag(FrameGuard(.sha256)))
        == "c2bbb9d6c75afe58d2a40cd6fb9b3082" + "5e2cad49b7d631e61b7e50a1ff96636a")
    #expect(hex(tag(sender)) == "efba24c82a6e36fcd59cd2f5d33a9b056d822577e4489fcbbfc2ffd2259807f9")
  }

  @Test func `every changed bit is found`() {
    let cases: [(FrameGuard, FrameGuard, MessageType, Int)] = [
      (.initial, .initial, .state, 48), (FrameGuard(.crc32c), FrameGuard(.crc32c), .write, 512),
      (FrameGuard(.xxh3), FrameGuard(.xxh3), .resyncData, 512),
      (FrameGuard(.sha256), FrameGuard(.sha256), .write, 512), (sender, receiver, .write, 512),
      (sender, receiver, .ack, 0),
    ]
    for (sending, receiving, type, bytes) in cases {
      let good = frame(sending, type, bytes)
      #expect(isTaken(good, receiving))
      for bit in 0..<(good.count * 8) {
        var bad = good
        bad[bit / 8] ^= 1 << UInt8(bit % 8)
        #expect(!isTaken(bad, receiving), "\(sending.format.algorithm), bit \(bit)")
      }
    }
  }

  @Test func `without integrity a flipped bit of data is not found: that is what it is for`() {
    var bytes = frame(.initial, .write, 512)
    bytes[MessageHeader.byteCount] ^= 1
    #expect(isTaken(bytes, .initial))
  }

  @Test func `a payload behind the header of another message is refused`() {
    for integrity in IntegrityAlgorithm.allCases where integrity != .none {
      var bytes = frame(FrameGuard(integrity), .write, 512)
      var (header, _) = message(.write, 512)
      header.offset += 4096
      bytes.withUnsafeMutableBytes { header.encode(into: $0) }
      #expect(!isTaken(bytes, FrameGuard(integrity)))
    }
  }
}

@Suite struct GreetingTests {
  private func sample() -> Greeting {
    var random = SeededGenerator(seed: 3)
    var greeting = Greeting(
      node: node(5), side: .acceptor, challenge: Challenge(using: &random), resource: "r0")
    greeting.integrity = .xxh3
    greeting.authentication = .sha256
    return greeting
  }

  private func parsed(_ bytes: [UInt8]) -> Result<Greeting, WireError> {
    Result { () throws(WireError) in
      try parse(bytes) { raw throws(WireError) in try Greeting(parsing: raw) }
    }
  }

  /// Golden bytes: a change here is a protocol change and needs a new protocol version.
  @Test func `the encoding is stable`() {
    let bytes = sample().encoded
    #expect(bytes.count == 50)
    #expect(Array(bytes[0..<16]) == [0, 2, 0, 2, 5, 2, 2, 2, 0, 2, 0, 0, 0, 0, 0, 0])
    #expect(Array(bytes[48...]) == [0x72, 0x30])
    var random = SeededGenerator(seed: 3)
    for word in 0..<4 {
      let expected = withUnsafeBytes(of: random.next().bigEndian) { Array($0) }
      #expect(Array(bytes[(16 + 8 * word)..<(24 + 8 * word)]) == expected)
    }
    #expect(parsed(bytes) == .success(sample()))
  }

  @Test func `what is out of range is refused by name`() {
    func refused(_ index: Int, _ value: UInt8) -> WireError? {
      var bytes = sample().encoded
      bytes[index] = value
      if case .failure(let error) = parsed(bytes) { return error }
      return nil
    }
    #expect(refused(1, 9) == .fieldOutOfRange(.protocolRange, 9))
    #expect(refused(4, 32) == .fieldOutOfRange(.nodeID, 32))
    #expect(refused(5, 0) == .fieldOutOfRange(.side, 0))
    #expect(refused(5, 3) == .fieldOutOfRange(.side, 3))
    #expect(refused(6, 4) == .fieldOutOfRange(.integrity, 4))
    #expect(refused(7, 5) == .fieldOutOfRange(.authentication, 5))
    #expect(refused(9, 0) == .fieldOutOfRange(.nameLength, 0))
    #expect(refused(9, 3) == .fieldOutOfRange(.nameLength, 3))
    #expect(refused(48, 0xFF) == .fieldOutOfRange(.nameBytes, 2))
    #expect(parsed([]) == .failure(.truncated(have: 0, need: 48)))
  }
}

private func hex(_ bytes: [UInt8]) -> String {
  bytes.map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined()
}
