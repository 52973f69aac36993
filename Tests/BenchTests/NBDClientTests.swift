import Testing

@testable import Bench

/// The NBD client on bytes: what a right server sends, and what a wrong or hostile one may send. No
/// input may trap, hang, or be taken for something else.
struct NBDClientTests {
  private func bigEndian<Number: FixedWidthInteger>(_ number: Number) -> [UInt8] {
    stride(from: Number.bitWidth - 8, through: 0, by: -8).map {
      UInt8(truncatingIfNeeded: number >> Number($0))
    }
  }

  private let greeting: [UInt8] = Array("NBDMAGICIHAVEOPT".utf8) + [0, 3]

  private func reply(_ type: UInt32, _ data: [UInt8], option: UInt32 = 7) -> [UInt8] {
    bigEndian(NBDNumber.optionReplyMagic) + bigEndian(option) + bigEndian(type)
      + bigEndian(UInt32(data.count)) + data
  }

  private func exportInformation(bytes: UInt64, flags: UInt16) -> [UInt8] {
    bigEndian(UInt16(0)) + bigEndian(bytes) + bigEndian(flags)
  }

  /// Feeds a whole server side, in pieces of `piece` bytes; returns what the client sent and
  /// learned.
  private func converse(
    _ bytes: [UInt8], piece: Int, export: String = "r0"
  ) throws -> (sent: [UInt8], export: NBDExport?, rest: Int) {
    var handshake = NBDHandshake(exportName: export)
    var window: [UInt8] = []
    var sent: [UInt8] = []
    var position = 0
    while true {
      switch try handshake.step(window.span.bytes) {
      case .needMore:
        guard position < bytes.count else { return (sent, nil, window.count) }
        let end = min(position + piece, bytes.count)
        window += bytes[position..<end]
        position = end
      case .consume(let count): window.removeFirst(count)
      case .send(let out, let count):
        sent += out
        window.removeFirst(count)
      case .ready(let found, let count):
        window.removeFirst(count)
        return (sent, found, window.count + bytes.count - position)
      }
    }
  }

  private var goodServer: [UInt8] {
    greeting + reply(3, exportInformation(bytes: 1 << 30, flags: 0x010D))
      + reply(3, bigEndian(UInt16(1)) + Array("name".utf8))
      + reply(
        3,
        bigEndian(UInt16(3)) + bigEndian(UInt32(512)) + bigEndian(UInt32(4096))
          + bigEndian(UInt32(1 << 20)))
      + reply(1, [])
  }

  @Test(arguments: [1, 2, 7, 19, 1000])
  func theHandshakeLearnsTheExportHoweverTheBytesArrive(piece: Int) throws {
    let (sent, export, rest) = try converse(goodServer + [1, 2, 3], piece: piece)
    #expect(
      sent == bigEndian(UInt32(3)) + Array("IHAVEOPT".utf8) + bigEndian(UInt32(7))
        + bigEndian(UInt32(10)) + bigEndian(UInt32(2)) + Array("r0".utf8) + [0, 1, 0, 3])
    let found = try #require(export)
    #expect(found.byteCount == 1 << 30)
    #expect(found.minimumBlockBytes == 512)
    #expect(found.maximumPayloadBytes == 1 << 20)
    #expect(found.canFlush && found.canFUA && found.canMultiConn && !found.isReadOnly)
    #expect(rest == 3, "what follows the handshake belongs to the transmission")
  }

  @Test func brokenHandshakesAreNamed() {
    let information = exportInformation(bytes: 4096, flags: 1)
    let cases: [([UInt8], NBDError)] = [
      (
        Array("SSH-2.0-OpenSSH".utf8),
        .badMagic(place: "greeting", found: 0x5353_482D_322E_302D)
      ),
      (
        Array("NBDMAGIC".utf8) + bigEndian(UInt64(0x42_0281_8612_53)) + [0, 0],
        .badMagic(place: "handshake", found: 0x42_0281_8612_53)
      ),
      (Array("NBDMAGICIHAVEOPT".utf8) + [0, 2], .notFixedNewstyle(flags: 2)),
      (greeting + Array(repeating: 0, count: 20), .badMagic(place: "option reply", found: 0)),
      (greeting + reply(1, [], option: 3), .unexpectedOption(3)),
      (greeting + reply(2, []), .unexpectedReplyType(2)),
      (greeting + reply(1, []), .noExportSize),
      (greeting + reply(3, [0]), .badInformation(type: .max, length: 1)),
      (greeting + reply(3, information + [0]), .badInformation(type: 0, length: 13)),
      (greeting + reply(3, [0, 3, 0]), .badInformation(type: 3, length: 3)),
      (
        greeting + reply(0x8000_0006, Array("no \u{1B}[31mr0".utf8)),
        .refused(export: "r0", type: 0x8000_0006, text: "no ?[31mr0")
      ),
      (
        greeting + bigEndian(NBDNumber.optionReplyMagic) + bigEndian(UInt32(7))
          + bigEndian(UInt32(3)) + bigEndian(UInt32.max),
        .replyTooLong(.max, limit: NBDHandshake.longestReply)
      ),
      (
        greeting + Array(repeatElement(reply(3, [9, 9]), count: 65).joined()),
        .tooManyReplies(limit: NBDHandshake.mostReplies)
      ),
    ]
    for (bytes, expected) in cases {
      #expect(throws: expected) { try converse(bytes, piece: 5) }
      #expect(!expected.description.isEmpty)
    }
  }

  @Test func everyPrefixOfAGoodServerOnlyWaitsForMore() throws {
    for length in 0..<goodServer.count {
      let (_, export, _) = try converse(Array(goodServer.prefix(length)), piece: 1000)
      #expect(export == nil)
    }
  }

  /// Random damage: an error or a wait, never a trap. The bytes are the seed's.
  @Test func damagedServersNeverTrap() {
    var random = SeededGenerator(seed: 3)
    for _ in 0..<5000 {
      var bytes = goodServer
      for _ in 0...random.below(3) {
        bytes[Int(random.below(UInt64(bytes.count)))] = UInt8(truncatingIfNeeded: random.next())
      }
      _ = try? converse(bytes, piece: 1 + Int(random.below(40)))
    }
  }

  @Test func requestsAreEncodedAsTheProtocolSays() {
    var request = NBDRequest(command: NBDNumber.commandWrite, cookie: 0x0102_0304_0506_0708)
    request.flags = NBDNumber.flagFUA
    request.offset = 0x1000
    request.length = 512
    let encoded = request.encoded
    #expect(
      encoded.indices.map { encoded[$0] } == [
        0x25, 0x60, 0x95, 0x13, 0, 1, 0, 1, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 0, 0, 0, 0x10, 0, 0, 0,
        2, 0,
      ])
  }

  @Test func repliesAreParsedAndAStructuredOneIsRefused() throws {
    let good = bigEndian(NBDNumber.simpleReplyMagic) + bigEndian(UInt32(28)) + bigEndian(UInt64(9))
    let reply = try NBDReply(parsing: good.span.bytes)
    #expect(reply.error == 28)
    #expect(reply.cookie == 9)
    let structured = bigEndian(UInt32(0x668e_33ef)) + Array(repeating: 0, count: 16)
    #expect(throws: NBDError.badMagic(place: "reply", found: 0x668e_33ef)) {
      try NBDReply(parsing: structured.span.bytes)
    }
  }
}
