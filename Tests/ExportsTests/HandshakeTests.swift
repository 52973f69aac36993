import BlockTypes
import Testing

@testable import Exports

/// The handshake, message by message; each malformed one has its own expectation.
@Suite struct HandshakeTests {
  private let ack: UInt32 = 1
  private let unsupported: UInt32 = 0x8000_0001
  private let policy: UInt32 = 0x8000_0002
  private let invalid: UInt32 = 0x8000_0003
  private let unknown: UInt32 = 0x8000_0006

  /// The answers to `bytes` after greeting and client flags.
  private func answers(
    _ bytes: [UInt8], _ harness: Harness = Harness(), flags: UInt32 = 3
  ) -> (replies: [OptionReply], client: FakeClient) {
    let client = harness.connect()!
    harness.feed(client, Bytes.clientFlags(flags))
    #expect(harness.take(client) == Array("NBDMAGICIHAVEOPT".utf8) + [0, 3])
    harness.feed(client, bytes)
    harness.run(client)
    var reader = Reader(harness.take(client))
    return (reader.optionReplies(), client)
  }

  private func closeReason(_ harness: Harness) -> NBDCloseReason? {
    for notice in harness.notices {
      if case .closed(let reason) = notice.kind { return reason }
    }
    return nil
  }

  @Test func goAnswersExportAndBlockSizesAndMovesOn() {
    let harness = Harness()
    let (replies, client) = answers(Bytes.option(7, Bytes.info("r0")), harness)
    // HAS_FLAGS, FLUSH, FUA, TRIM, WRITE_ZEROES, CAN_MULTI_CONN, CACHE; no DF without chunks.
    let flags: UInt16 = 0b101_0110_1101
    #expect(
      replies == [
        OptionReply(
          option: 7, type: 3, data: Bytes.u16(0) + Bytes.u64(4 << 20) + Bytes.u16(flags)),
        OptionReply(
          option: 7, type: 3,
          data: Bytes.u16(3) + Bytes.u32(512) + Bytes.u32(4096) + Bytes.u32(32 << 20)),
        OptionReply(option: 7, type: ack, data: []),
      ])
    #expect(harness.engine.sessions[client.session.slot].phase == .transmission)
    #expect(harness.notices.map(\.kind) == [.opened])
  }

  @Test func infoAnswersLikeGoAndStaysInTheHandshake() {
    let harness = Harness()
    let (info, client) = answers(Bytes.option(6, Bytes.info("r0", [0, 3])), harness)
    let (go, _) = answers(Bytes.option(7, Bytes.info("r0", [0, 3])))
    #expect(info.map(\.data) == go.map(\.data))
    #expect(harness.engine.sessions[client.session.slot].phase == .handshake)
  }

  @Test func structuredClientsAreOfferedDontFragment() {
    let (replies, _) = answers(Bytes.option(8) + Bytes.option(7, Bytes.info("r0")))
    #expect(replies[0] == OptionReply(option: 8, type: ack, data: []))
    #expect(replies[1].data.suffix(2) == [0b101, 0b1110_1101])
  }

  @Test func theEmptyNameIsTheOnlyExportAndItsNameIsTold() {
    let (replies, _) = answers(Bytes.option(6, Bytes.info("", [1])))
    #expect(replies[1].data == Bytes.u16(1) + Array("r0".utf8))
  }

  @Test func theEmptyNameIsUnknownWhenThereAreTwoExports() {
    let harness = Harness()
    _ = harness.engine.exports.set(
      NBDExport(name: "r0/1", sizeBytes: 512, state: .writable))
    let (replies, _) = answers(Bytes.option(7, Bytes.info("")), harness)
    #expect(replies.map(\.type) == [unknown])
    let (second, _) = answers(Bytes.option(6, Bytes.info("r0/1")), harness)
    #expect(second[0].data[2..<10] == Bytes.u64(512)[...])
  }

  @Test func anUnknownExportIsRefusedAndTheClientMayTryAnother() {
    let (replies, _) = answers(
      Bytes.option(7, Bytes.info("nope")) + Bytes.option(7, Bytes.info("r0")))
    #expect(replies.map(\.type) == [unknown, 3, 3, ack])
  }

  @Test func aSecondaryRefusesWithItsReason() {
    let reason = "r0 is Secondary on this node; promote it first"
    let harness = Harness(state: .refused(reason: reason))
    let bytes =
      Bytes.option(6, Bytes.info("r0")) + Bytes.option(8)
      + Bytes.option(10, Bytes.contexts("r0", ["base:allocation"]))
      + Bytes.option(7, Bytes.info("r0"))
    let (replies, _) = answers(bytes, harness)
    #expect(replies.map(\.type) == [policy, ack, policy, policy])
    #expect(replies[0].text == reason)
    #expect(replies[3].text == reason)
  }

  @Test func listShowsEveryExportAndWhyOneIsRefused() {
    let harness = Harness()
    _ = harness.engine.exports.set(
      NBDExport(name: "r1", sizeBytes: 512, state: .refused(reason: "Secondary")))
    let (replies, _) = answers(Bytes.option(3), harness)
    #expect(
      replies == [
        OptionReply(option: 3, type: 2, data: Bytes.string("r0")),
        OptionReply(option: 3, type: 2, data: Bytes.string("r1") + Array("Secondary".utf8)),
        OptionReply(option: 3, type: ack, data: []),
      ])
  }

  @Test func aListTooLongToSendDropsReasonsThenSaysSo() {
    let harness = Harness()
    for index in 0..<250 {
      let reason = String(repeating: "x", count: 1000)
      _ = harness.engine.exports.set(
        NBDExport(name: "n\(index)", sizeBytes: 512, state: .refused(reason: reason)))
    }
    #expect(answers(Bytes.option(3), harness).replies.count == 252)
    for index in 0..<5 {
      _ = harness.engine.exports.set(
        NBDExport(
          name: "\(index)" + String(repeating: "y", count: 4095), sizeBytes: 512,
          state: .writable))
    }
    #expect(answers(Bytes.option(3), harness).replies.count == 257)
    let full = Harness()
    for index in 0..<20 {
      let name = String(repeating: "z", count: 4000) + "\(index)"
      _ = full.engine.exports.set(NBDExport(name: name, sizeBytes: 512, state: .writable))
    }
    #expect(answers(Bytes.option(3), full).replies.map(\.type) == [0x8000_0009])
  }

  @Test func listWithDataIsInvalid() {
    #expect(answers(Bytes.option(3, [0])).replies.map(\.type) == [invalid])
  }

  @Test func unknownOptionsAreConsumedAndRefused() {
    let bytes =
      Bytes.option(5) + Bytes.option(11) + Bytes.option(4, Array(repeating: 7, count: 65536))
      + Bytes.option(0xFFFF_FFFF, [1, 2, 3]) + Bytes.option(3)
    #expect(
      answers(bytes).replies.map(\.type)
        == [unsupported, unsupported, unsupported, unsupported, 2, ack])
  }

  @Test func abortIsAcknowledgedAndEndsTheSession() {
    let harness = Harness()
    let (replies, client) = answers(Bytes.option(2, [1, 2]) + Bytes.option(3), harness)
    #expect(replies == [OptionReply(option: 2, type: ack, data: [])])
    #expect(harness.stream(client).closesAfterSending)
    #expect(closeReason(harness) == .disconnected)
    #expect(harness.engine.sessions.count == 0)
  }

  @Test func aSecondStructuredReplyIsInvalid() {
    let bytes = Bytes.option(8) + Bytes.option(8) + Bytes.option(8, [0])
    #expect(answers(bytes).replies.map(\.type) == [ack, invalid, invalid])
  }

  @Test func unknownClientFlagsEndTheSession() {
    for flags: UInt32 in [4, 0x8000_0000, 7] {
      let harness = Harness()
      let (replies, client) = answers(Bytes.option(3), harness, flags: flags)
      #expect(replies.isEmpty)
      #expect(harness.isClosed(client))
      #expect(closeReason(harness) == .unknownClientFlags(flags))
    }
  }

  @Test func aWrongOptionMagicEndsTheSession() {
    let harness = Harness()
    let (_, client) = answers(Array("IHAVEOPX".utf8) + Bytes.u32(3) + Bytes.u32(0), harness)
    #expect(harness.isClosed(client))
    #expect(closeReason(harness) == .badMagic(0x4948_4156_454f_5058))
  }

  @Test func anOptionLongerThanTheLimitEndsTheSessionBeforeItsDataIsRead() {
    for length: UInt32 in [65537, 0x7FFF_FFFF, .max] {
      let harness = Harness()
      let (_, client) = answers(Bytes.option(7, [], length: length), harness)
      #expect(harness.isClosed(client))
      #expect(closeReason(harness) == .optionTooLong(length, limit: 65536))
    }
  }

  @Test func tooManyOptionsEndTheSession() {
    let harness = Harness()
    let client = harness.connect()!
    harness.feed(client, Bytes.clientFlags(3))
    for _ in 0..<1024 { harness.feed(client, Bytes.option(99)) }
    #expect(!harness.isClosed(client))
    harness.feed(client, Bytes.option(99))
    harness.run(client)
    #expect(closeReason(harness) == .tooManyOptions(limit: 1024))
  }

  @Test func withoutFixedNewstyleOnlyExportNameIsUnderstood() {
    let harness = Harness()
    let (_, client) = answers(Bytes.option(3), harness, flags: 0)
    #expect(harness.isClosed(client))
    #expect(closeReason(harness) == .optionNeedsFixedNewstyle(3))
  }

  @Test func exportNameAnswersSizeFlagsAndZeroes() {
    for (flags, zeroes) in [(UInt32(1), 124), (3, 0), (0, 124)] {
      let harness = Harness()
      let client = harness.connect()!
      harness.feed(client, Bytes.clientFlags(flags) + Bytes.option(1, Array("r0".utf8)))
      let bytes = harness.take(client).dropFirst(18)
      #expect(bytes.count == 10 + zeroes)
      #expect(Array(bytes.prefix(8)) == Bytes.u64(4 << 20))
      #expect(harness.engine.sessions[client.session.slot].phase == .transmission)
    }
  }

  @Test func exportNameOfNothingUsableClosesTheConnection() {
    let names: [[UInt8]] = [
      Array("nope".utf8), [0xFF, 0xFE], Array(repeating: 0x61, count: 5000),
    ]
    for name in names {
      let harness = Harness()
      let (_, client) = answers(Bytes.option(1, name), harness)
      #expect(harness.isClosed(client))
      #expect(closeReason(harness) == .exportNameRefused)
    }
    let secondary = Harness(state: .refused(reason: "Secondary"))
    let (_, client) = answers(Bytes.option(1, Array("r0".utf8)), secondary)
    #expect(secondary.isClosed(client))
  }

  /// Option data and what is wrong with it.
  struct Malformed: Sendable, CustomTestStringConvertible {
    var what: String
    var data: [UInt8]
    var testDescription: String { what }

    init(_ what: String, _ data: [UInt8]) {
      self.what = what
      self.data = data
    }
  }

  static let malformedInfos: [Malformed] = [
    Malformed("no data", []),
    Malformed("half a name length", [0, 0, 0]),
    Malformed("name longer than the data", Bytes.u32(10) + [0x72, 0x30]),
    Malformed("name length of 4 GiB", Bytes.u32(.max) + [0x72, 0x30, 0, 0]),
    Malformed("name above 4096 bytes", Bytes.info(String(repeating: "n", count: 4097))),
    Malformed("no number of infos", Bytes.string("r0")),
    Malformed("fewer infos than declared", Bytes.string("r0") + Bytes.u16(2) + Bytes.u16(0)),
    Malformed("65535 infos declared", Bytes.string("r0") + Bytes.u16(.max)),
    Malformed("more infos than declared", Bytes.string("r0") + Bytes.u16(0) + Bytes.u16(0)),
    Malformed("name that is not UTF-8", Bytes.u32(2) + [0xC0, 0x80] + Bytes.u16(0)),
    Malformed("name with NUL", Bytes.u32(3) + [0x72, 0, 0x30] + Bytes.u16(0)),
  ]

  @Test(arguments: malformedInfos)
  func malformedInfoIsInvalidAndTheSessionGoesOn(_ malformed: Malformed) {
    let (what, data) = (malformed.what, malformed.data)
    for option: UInt32 in [6, 7] {
      let (replies, _) = answers(Bytes.option(option, data) + Bytes.option(8))
      #expect(replies.map(\.type) == [invalid, ack], "\(what)")
      #expect(!replies[0].text.isEmpty, "\(what)")
    }
  }

  static let malformedContexts: [Malformed] = [
    Malformed("no data", []),
    Malformed("no number of queries", Bytes.string("r0")),
    Malformed(
      "fewer queries than declared", Bytes.string("r0") + Bytes.u32(2) + Bytes.string("base:")),
    Malformed("4 G queries declared", Bytes.string("r0") + Bytes.u32(.max)),
    Malformed(
      "query longer than the data", Bytes.string("r0") + Bytes.u32(1) + Bytes.u32(9) + [0x62]),
    Malformed(
      "query above 4096 bytes", Bytes.contexts("r0", [String(repeating: "q", count: 4097)])),
    Malformed("bytes after the last query", Bytes.contexts("r0", ["base:allocation"]) + [0]),
  ]

  @Test(arguments: malformedContexts)
  func malformedContextQueryIsInvalidAndDropsTheSelection(_ malformed: Malformed) {
    let (what, data) = (malformed.what, malformed.data)
    let harness = Harness()
    let bytes =
      Bytes.option(8) + Bytes.option(10, Bytes.contexts("r0", ["base:allocation"]))
      + Bytes.option(10, data) + Bytes.option(7, Bytes.info("r0"))
    let (replies, client) = answers(bytes, harness)
    #expect(replies.map(\.type) == [ack, 4, ack, invalid, 3, 3, ack], "\(what)")
    #expect(!harness.engine.sessions[client.session.slot].allocationContext, "\(what)")
  }

  @Test func contextsNeedStructuredReplies() {
    let data = Bytes.contexts("r0", ["base:allocation"])
    let (replies, _) = answers(Bytes.option(9, data) + Bytes.option(10, data))
    #expect(replies.map(\.type) == [invalid, invalid])
  }

  @Test func contextQueriesSelectWhatTheyName() {
    let cases: [(UInt32, [String], Bool)] = [
      (9, [], true), (9, ["base:"], true), (9, ["base:allocation"], true),
      (9, ["qemu:dirty-bitmap:x"], false), (10, [], false), (10, ["base:"], false),
      (10, ["base:allocation"], true), (10, ["x:y", "base:allocation", "base:other"], true),
      (10, ["base:allocatio"], false), (10, ["nonsense"], false),
    ]
    for (option, queries, isListed) in cases {
      let (replies, _) = answers(
        Bytes.option(8) + Bytes.option(option, Bytes.contexts("r0", queries)))
      #expect(
        replies.map(\.type) == (isListed ? [ack, 4, ack] : [ack, ack]), "\(option) \(queries)")
      if isListed {
        let id: UInt32 = option == 10 ? 1 : 0
        #expect(replies[1].data == Bytes.u32(id) + Array("base:allocation".utf8))
      }
    }
  }

  @Test func aContextOfAnotherExportIsNotSelectedForThisOne() {
    let harness = Harness()
    _ = harness.engine.exports.set(NBDExport(name: "r1", sizeBytes: 512, state: .writable))
    let bytes =
      Bytes.option(8) + Bytes.option(10, Bytes.contexts("r1", ["base:allocation"]))
      + Bytes.option(7, Bytes.info("r0"))
    let (_, client) = answers(bytes, harness)
    #expect(harness.engine.sessions[client.session.slot].phase == .transmission)
    #expect(!harness.engine.sessions[client.session.slot].allocationContext)
  }

  @Test func aClientThatDoesNotReadGetsNoMoreAnswers() {
    let harness = Harness()
    let client = harness.connect()!
    harness.feed(client, Bytes.clientFlags(3))
    harness.stream(client).isCongested = true
    _ = harness.take(client)
    for _ in 0..<100 { harness.feed(client, Bytes.option(3)) }
    #expect(harness.take(client).isEmpty)
    harness.stream(client).isCongested = false
    harness.engine.drained(client.session.slot, &harness.transport)
    var reader = Reader(harness.take(client))
    #expect(reader.optionReplies().count == 200)
  }

  @Test func aSilentClientIsClosedAtTheHandshakeDeadline() {
    let harness = Harness()
    let client = harness.connect()!
    harness.feed(client, Bytes.clientFlags(3))
    #expect(harness.engine.nextDeadline == Instant(nanoseconds: 10_000_000_000))
    harness.engine.now = Instant(nanoseconds: 9_999_999_999)
    harness.run(client)
    #expect(!harness.isClosed(client))
    harness.engine.now = Instant(nanoseconds: 10_000_000_000)
    harness.run(client)
    #expect(harness.isClosed(client))
    #expect(closeReason(harness) == .handshakeTimeout)
    #expect(harness.engine.nextDeadline == .never)
  }

  @Test func aClientInTransmissionHasNoDeadline() {
    let harness = Harness()
    let client = harness.open()
    harness.engine.now = Instant(nanoseconds: 1_000_000_000_000)
    harness.run(client)
    #expect(!harness.isClosed(client))
    #expect(harness.engine.nextDeadline == .never)
  }

  @Test func clientsBeyondTheLimitAreTurnedAwayAndPlacesComeBack() {
    var options = NBDServerOptions()
    options.clientsMax = 3
    let harness = Harness(options: options)
    let clients = (0..<3).map { _ in harness.connect()! }
    #expect(harness.connect() == nil)
    harness.run()
    #expect(harness.notices.last?.kind == .closed(.tooManyClients(limit: 3)))
    harness.hangUp(clients[1])
    #expect(harness.connect() != nil)
    #expect(harness.engine.statistics.clientsRefused == 1)
  }
}
