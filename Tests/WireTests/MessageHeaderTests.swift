/// The message header: its bytes, what is refused, and that no bytes trap.

import BlockTypes
import TestSupport
import Testing
import Wire

private func encoded(_ header: MessageHeader) -> [UInt8] {
  written(MessageHeader.byteCount) { header.encode(into: $0) }
}

/// The error of parsing `bytes`, or `nil` when they are a header.
private func refusal(of bytes: [UInt8]) -> WireError? {
  do throws(WireError) {
    _ = try parse(bytes) { raw throws(WireError) in try MessageHeader(parsing: raw) }
    return nil
  } catch { return error }
}

/// Recomputes the checksum of a header that a test has changed, so that the field is reached.
private func resealed(_ bytes: [UInt8]) -> [UInt8] {
  var bytes = bytes
  for index in 12..<16 { bytes[index] = 0 }
  let crc = slowCRC32C(bytes[0..<MessageHeader.byteCount])
  for index in 0..<4 { bytes[12 + index] = UInt8(truncatingIfNeeded: crc >> (24 - 8 * index)) }
  return bytes
}

@Suite struct MessageHeaderTests {
  private func sample() -> MessageHeader {
    var header = MessageHeader(
      .write, id: 0x0102_0304_0506_0708, offset: 0x1000, length: 0x2000)
    header.forceUnitAccess = true
    header.volume = 0x0A0B
    header.payloadBytes = 0x2000
    return header
  }

  /// Golden bytes: a change here is a protocol change and needs a new protocol version.
  @Test func encodingIsStable() {
    #expect(
      encoded(sample()) == [
        0x41, 0x53, 0x48, 0x4C, 10, 1, 0x0A, 0x0B, 0, 0, 0x20, 0,
        0x44, 0x7F, 0x6A, 0x09, 1, 2, 3, 4, 5, 6, 7, 8,
        0, 0, 0, 0, 0, 0, 0x10, 0, 0, 0, 0, 0, 0, 0, 0x20, 0,
      ])
  }

  /// The checksum is CRC32C of the header with the field 0, by a second implementation.
  @Test func checksumIsCRC32COfTheHeader() {
    let bytes = encoded(sample())

    #expect(resealed(bytes) == bytes)
  }

  /// Golden numbers: the meaning of a type byte may never change.
  @Test func typeNumbersAreStable() {
    #expect(
      MessageType.allCases.map(\.rawValue) == [
        1, 2, 3, 4, 5, 6, 7, 10, 11, 12, 13, 14, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 32,
        33, 34, 35, 36, 37, 38, 40, 41, 50, 51, 52, 53, 54, 55, 56, 57, 58, 59, 60, 61,
        62, 63, 64, 65, 66, 67, 68, 69, 70, 71,
      ])
  }

  @Test(arguments: MessageType.allCases)
  func everyTypeAndFlagComesBack(type: MessageType) throws {
    for flags in 0..<4 {
      var header = MessageHeader(type, id: .max, offset: .max - 1, length: .max - 2)
      header.forceUnitAccess = flags & 1 != 0
      header.mayUnmap = flags & 2 != 0
      header.volume = .max
      header.payloadBytes = type.payloadLimit
      let parsed = try parse(encoded(header)) { raw throws(WireError) in
        try MessageHeader(parsing: raw)
      }
      #expect(parsed == header)
    }
  }

  @Test func tooFewBytesAreTruncated() {
    for count in 0..<MessageHeader.byteCount {
      let bytes = Array(encoded(sample()).prefix(count))
      #expect(refusal(of: bytes) == .truncated(have: count, need: 40))
    }
  }

  @Test func anotherMagicIsRefused() {
    var bytes = encoded(sample())
    bytes[0] = 0x42

    #expect(refusal(of: bytes) == .badMagic(0x4253_484C))
  }

  /// A parser that lost its place in the stream must not believe a length or an offset.
  @Test func everyFlippedBitIsFound() {
    let good = encoded(sample())
    for bit in 0..<(good.count * 8) {
      var bytes = good
      bytes[bit / 8] ^= 1 << (bit % 8)
      #expect(refusal(of: bytes) != nil, "bit \(bit)")
    }
  }

  @Test func wrongChecksumNamesBoth() {
    var bytes = encoded(sample())
    bytes[15] ^= 1

    #expect(
      refusal(of: bytes) == .badChecksum(found: 0x447F_6A08, computed: 0x447F_6A09))
  }

  @Test func everyOtherTypeNumberIsRefused() {
    for number in UInt8.min...UInt8.max where MessageType(rawValue: number) == nil {
      var bytes = encoded(sample())
      bytes[4] = number
      #expect(refusal(of: resealed(bytes)) == .unknownType(number))
    }
  }

  @Test func unknownFlagsAreRefused() {
    for flags in UInt8(4)...UInt8.max {
      var bytes = encoded(sample())
      bytes[5] = flags
      #expect(refusal(of: resealed(bytes)) == .unknownFlags(flags))
    }
  }

  /// Bound before anybody allocates: a peer's length field must not choose our memory use.
  @Test(arguments: MessageType.allCases)
  func payloadAboveTheLimitOfItsTypeIsRefused(type: MessageType) {
    for payload in [type.payloadLimit + 1, .max] {
      var header = MessageHeader(type)
      header.payloadBytes = payload
      #expect(
        refusal(of: encoded(header)) == .payloadTooLong(type, payload, limit: type.payloadLimit))
    }
  }

  /// Only volume data may be large, and nothing that carries data is a control message.
  @Test func limitsFollowFromWhatATypeCarries() {
    for type in MessageType.allCases {
      #expect(type.payloadLimit <= maxPayloadBytes)
      let isLarge = type.payloadLimit > maxControlPayloadBytes
      let isDigests = type == .verifyDigests || type == .resyncDigests
      #expect(type.carriesData == (isLarge || isDigests), "\(type)")
    }
  }

  /// Garbage with a right magic and checksum is a header or a typed error, never a trap.
  @Test(arguments: seeds(count: 16))
  func garbageNeverTraps(seed: UInt64) {
    var random = SeededGenerator(seed: seed)
    var understood = 0
    for round in 0..<2_000 {
      var bytes = (0..<MessageHeader.byteCount).map { _ in UInt8(random.below(256)) }
      bytes.replaceSubrange(0..<4, with: [0x41, 0x53, 0x48, 0x4C])
      if random.oneIn(2) { bytes[4] = UInt8(random.below(60)) }
      if random.oneIn(2) { bytes[5] = UInt8(random.below(4)) }
      if random.oneIn(2) { bytes.replaceSubrange(8..<12, with: [0, 0, 0, 0]) }
      if round % 8 != 0 { bytes = resealed(bytes) }
      if refusal(of: bytes) == nil { understood += 1 }
    }
    #expect(understood > 0, "seed \(seed): the garbage never got past the first check")
  }

  @Test func encodingIntoTooLittleRoomTraps() async {
    await #expect(processExitsWith: .failure) {
      _ = written(39) { MessageHeader(.ping).encode(into: $0) }
    }
  }
}
