import BlockTypes
import TestSupport
import Testing

@testable import Exports

/// Requests and replies of one client.
@Suite struct TransmissionTests {
  private func pattern(_ count: Int, seed: UInt64 = 1) -> [UInt8] {
    var generator = SeededGenerator(seed: seed)
    return (0..<count).map { _ in UInt8.random(in: 0...255, using: &generator) }
  }

  private func replies(_ harness: Harness, _ client: FakeClient, _ bytes: [UInt8]) -> [Reply] {
    harness.feed(client, bytes)
    harness.run(client)
    var reader = Reader(harness.take(client))
    return reader.replies()
  }

  @Test func writtenDataIsReadBackInChunks() {
    let harness = Harness()
    let client = harness.open()
    let data = pattern(8192)
    #expect(
      replies(harness, client, Bytes.write(data, at: 4096, cookie: 7))
        == [.simple(error: 0, cookie: 7)])
    let read = replies(
      harness, client, Bytes.request(Bytes.read, cookie: 8, offset: 4096, length: 8192))
    #expect(
      read == [.chunk(flags: 1, type: 1, cookie: 8, payload: Bytes.u64(4096) + data)])
    #expect(harness.leaks().isEmpty)
    let statistics = harness.engine.exports[gate: 0].statistics
    #expect(statistics.reads == 1 && statistics.writes == 1)
    #expect(statistics.bytesRead == 8192 && statistics.bytesWritten == 8192)
  }

  @Test func aSimpleClientGetsSimpleReplies() {
    let harness = Harness()
    let client = harness.open(structured: false)
    let data = pattern(512)
    harness.feed(
      client,
      Bytes.write(data, at: 0, cookie: 1)
        + Bytes.request(Bytes.read, cookie: 2, offset: 0, length: 512))
    harness.run(client)
    var reader = Reader(harness.take(client))
    #expect(reader.reply() == .simple(error: 0, cookie: 1))
    #expect(reader.reply() == .simple(error: 0, cookie: 2))
    #expect(reader.take(512) == data)
    #expect(reader.isEmpty)
  }

  @Test func aLongReadIsCutAndItsPiecesAreAnsweredAsTheyCome() {
    let harness = Harness()
    harness.volume = pattern(4 << 20)
    let client = harness.open()
    let length = 3 << 20 | 512
    harness.feed(
      client, Bytes.request(Bytes.read, cookie: 5, offset: 512, length: UInt32(length)))
    harness.collect()
    #expect(harness.pending.map(\.length) == [1 << 20, 1 << 20, 1 << 20, 512])
    #expect(harness.pending.map(\.offset.bytes) == [0, 1, 2, 3].map { 512 + $0 << 20 })
    for index in [2, 0, 1, 0] { harness.complete(index) }
    var reader = Reader(harness.take(client))
    let chunks = reader.replies()
    #expect(chunks.count == 4)
    var assembled = [UInt8](repeating: 0, count: length)
    for (index, chunk) in chunks.enumerated() {
      guard case .chunk(let flags, 1, 5, let payload) = chunk else {
        Issue.record("not a data chunk: \(chunk)")
        continue
      }
      #expect(flags == (index == 3 ? 1 : 0), "only the last chunk ends the reply")
      let offset: UInt64 = Reader.number(payload[0..<8])
      assembled.replaceSubrange(
        Int(offset) - 512..<Int(offset) - 512 + payload.count - 8, with: payload[8...])
    }
    #expect(assembled == Array(harness.volume[512..<512 + length]))
    #expect(harness.leaks().isEmpty)
  }

  @Test func aLongSimpleReadIsAnsweredAtOnceInOrder() {
    let harness = Harness()
    harness.volume = pattern(4 << 20)
    let client = harness.open(structured: false)
    harness.feed(client, Bytes.request(Bytes.read, cookie: 5, length: 4 << 20))
    harness.collect()
    #expect(harness.pending.count == 4)
    for index in [3, 0, 1] { harness.complete(index) }
    #expect(harness.take(client).isEmpty, "nothing is sent before the last piece")
    harness.complete(0)
    var reader = Reader(harness.take(client))
    #expect(reader.reply() == .simple(error: 0, cookie: 5))
    #expect(reader.take(4 << 20) == harness.volume)
    #expect(harness.leaks().isEmpty)
  }

  @Test func aLongReadThatFailsEndsWithOneError() {
    for isStructured in [true, false] {
      let harness = Harness()
      let client = harness.open(structured: isStructured)
      harness.fault = { $0.offset.bytes == 1 << 20 ? -5 : ($0.offset.bytes == 2 << 20 ? 28 : 0) }
      harness.feed(client, Bytes.request(Bytes.read, cookie: 6, length: 4 << 20))
      harness.run(client)
      var reader = Reader(harness.take(client))
      let all = reader.replies()
      #expect(all.filter { $0.error != 0 }.map(\.error) == [5], "the first error wins")
      #expect(all.last?.error == 5)
      #expect(all.count == (isStructured ? 3 : 1))
      #expect(harness.leaks().isEmpty)
    }
  }

  @Test func aLongWriteIsCutGivenOnAsItArrivesAndAnsweredOnce() {
    let harness = Harness()
    let client = harness.open()
    let data = pattern(2 << 20 | 1024)
    let message = Bytes.write(data, at: 1024, flags: 1, cookie: 9)
    harness.feed(client, Array(message.prefix(28 + 1 << 20)))
    harness.collect()
    #expect(harness.pending.count == 1, "the first piece does not wait for the rest")
    harness.complete(0)
    #expect(harness.take(client).isEmpty)
    harness.feed(client, Array(message.dropFirst(28 + 1 << 20)))
    harness.collect()
    #expect(harness.pending.map(\.length) == [1 << 20, 1024])
    #expect(harness.log.allSatisfy { $0.fua }, "FUA is on every piece")
    harness.complete(1)
    #expect(harness.take(client).isEmpty)
    harness.complete(0)
    var reader = Reader(harness.take(client))
    #expect(reader.replies() == [.simple(error: 0, cookie: 9)])
    #expect(Array(harness.volume[1024..<1024 + data.count]) == data)
    #expect(harness.leaks().isEmpty)
  }

  @Test func anErrorOfOnePieceFailsTheWholeWrite() {
    let harness = Harness()
    let client = harness.open()
    harness.fault = { $0.offset.bytes == 0 ? 28 : 5 }
    let answer = replies(
      harness, client, Bytes.write(pattern(2 << 20), at: 0, cookie: 1))
    #expect(answer.map(\.error) == [28], "the first error wins")
    #expect(harness.leaks().isEmpty)
  }

  @Test func flagsAndOperationsReachTheCore() {
    let harness = Harness()
    let client = harness.open()
    let zeroes = Bytes.writeZeroes
    let answer = replies(
      harness, client,
      Bytes.request(Bytes.flush, cookie: 1)
        + Bytes.request(Bytes.flush, flags: 1, cookie: 2, offset: 77, length: 99)
        + Bytes.request(Bytes.trim, flags: 1, cookie: 3, offset: 512, length: 1024)
        + Bytes.request(zeroes, cookie: 4, offset: 512, length: 1024)
        + Bytes.request(zeroes, flags: 2, cookie: 5, offset: 512, length: 1024)
        + Bytes.request(Bytes.read, flags: 1, cookie: 6, length: 512)
        + Bytes.request(Bytes.cache, flags: 1, cookie: 7, length: 512))
    #expect(answer.allSatisfy { $0.error == 0 })
    #expect(answer.map(\.cookie).sorted() == [1, 2, 3, 4, 5, 6, 7])
    #expect(
      harness.log.map(\.operation) == [.flush, .flush, .trim, .writeZeroes, .writeZeroes, .read])
    #expect(harness.log.map(\.fua) == [false, false, true, false, false, false])
    #expect(harness.log.map(\.mayUnmap) == [false, false, true, true, false, false])
    #expect(harness.log[1].offset.bytes == 0 && harness.log[1].length == 0)
    #expect(harness.log[2].offset.bytes == 512 && harness.log[2].length == 1024)
    #expect(harness.log[2].buffer == .none)
  }

  @Test func theLongestTrimAndZeroesAreCutTo128MiB() {
    let harness = Harness()
    harness.appliesData = false
    _ = harness.engine.exports.set(
      NBDExport(name: "r0", sizeBytes: 1 << 40, state: .writable))
    let client = harness.open()
    for command in [Bytes.trim, Bytes.writeZeroes] {
      harness.log = []
      let answer = replies(
        harness, client,
        Bytes.request(command, cookie: 1, offset: 1 << 39, length: UInt32.max - 511))
      #expect(answer == [.simple(error: 0, cookie: 1)])
      #expect(harness.log.count == 32)
      var total: UInt64 = 0
      for request in harness.log { total += UInt64(request.length) }
      #expect(total == UInt64(UInt32.max) - 511)
      #expect(harness.log.allSatisfy { $0.length <= 128 << 20 })
      #expect(harness.log[31].offset.bytes == 1 << 39 + 31 << 27)
    }
    #expect(harness.leaks().isEmpty)
  }

  @Test func blockStatusSaysAllocated() {
    let harness = Harness()
    let client = harness.open(context: true)
    let status = Bytes.blockStatus
    let answer = replies(
      harness, client,
      Bytes.request(status, cookie: 1, offset: 512, length: 65536)
        + Bytes.request(status, flags: 8, cookie: 2, length: 4 << 20)
        + Bytes.request(status, cookie: 3))
    func extent(_ length: UInt32) -> [UInt8] { Bytes.u32(1) + Bytes.u32(length) + Bytes.u32(0) }
    #expect(answer[0] == .chunk(flags: 1, type: 5, cookie: 1, payload: extent(65536)))
    #expect(answer[1] == .chunk(flags: 1, type: 5, cookie: 2, payload: extent(4 << 20)))
    #expect(answer[2].error == 22, "an empty range has no status")
    let without = harness.open()
    #expect(
      replies(harness, without, Bytes.request(status, length: 512)).map(\.error) == [22])
  }

  @Test func requestsOfNothingSucceedWithoutTheCore() {
    for isStructured in [true, false] {
      let harness = Harness()
      let client = harness.open(structured: isStructured)
      let commands = [Bytes.read, Bytes.write, Bytes.trim, Bytes.writeZeroes, Bytes.cache]
      for offset: UInt64 in [0, 512, 4 << 20] {
        for command in commands {
          let answer = replies(
            harness, client, Bytes.request(command, cookie: 3, offset: offset))
          #expect(answer.map(\.error) == [0], "command \(command) at \(offset)")
        }
      }
      #expect(harness.log.isEmpty)
      // A chunk of data may not be empty.
      let read = replies(harness, client, Bytes.request(Bytes.read, cookie: 3))
      #expect(
        read == [
          isStructured
            ? .chunk(flags: 1, type: 0, cookie: 3, payload: []) : .simple(error: 0, cookie: 3)
        ])
    }
  }

  struct Refused: Sendable, CustomTestStringConvertible {
    var testDescription: String { what }
    var what: String
    var command: UInt16
    var flags: UInt16 = 0
    var offset: UInt64 = 0
    var length: UInt32 = 512
    var error: UInt32
  }

  static let size: UInt64 = 4 << 20
  static let refused: [Refused] = [
    Refused(what: "unknown command", command: 9, error: 22),
    Refused(what: "RESIZE", command: 8, error: 22),
    Refused(what: "command 65535", command: .max, error: 22),
    Refused(what: "unknown flag", command: 0, flags: 1 << 15, error: 22),
    Refused(what: "FAST_ZERO was not offered", command: 6, flags: 1 << 4, error: 22),
    Refused(what: "NO_HOLE on TRIM", command: 4, flags: 2, error: 22),
    Refused(what: "DF on WRITE", command: 1, flags: 4, error: 22),
    Refused(what: "REQ_ONE on READ", command: 0, flags: 8, error: 22),
    Refused(what: "payload length flag", command: 1, flags: 1 << 5, error: 22),
    Refused(what: "READ at an odd offset", command: 0, offset: 1, error: 22),
    Refused(what: "READ of an odd length", command: 0, length: 513, error: 22),
    Refused(what: "WRITE at an odd offset", command: 1, offset: 511, error: 22),
    Refused(what: "WRITE of an odd length", command: 1, length: 1, error: 22),
    Refused(what: "TRIM at an odd offset", command: 4, offset: 100, error: 22),
    Refused(what: "WRITE_ZEROES of an odd length", command: 6, length: 100, error: 22),
    Refused(what: "READ past the end", command: 0, offset: size, error: 22),
    Refused(what: "READ over the end", command: 0, offset: size - 512, length: 1024, error: 22),
    Refused(what: "WRITE past the end", command: 1, offset: size, error: 28),
    Refused(what: "WRITE over the end", command: 1, offset: size - 512, length: 1024, error: 28),
    Refused(what: "WRITE_ZEROES over the end", command: 6, offset: size, error: 28),
    Refused(what: "TRIM over the end", command: 4, offset: size, error: 22),
    Refused(what: "CACHE over the end", command: 5, offset: size, error: 22),
    Refused(what: "BLOCK_STATUS over the end", command: 7, offset: size, error: 22),
    Refused(what: "READ whose end overflows", command: 0, offset: .max - 511, error: 22),
    Refused(what: "WRITE whose end overflows", command: 1, offset: .max - 511, error: 28),
    Refused(what: "READ at the last offset", command: 0, offset: .max, length: 1, error: 22),
    Refused(what: "TRIM whose end is 2^64", command: 4, offset: 0 &- 512, length: 512, error: 22),
    Refused(what: "nothing past the end", command: 0, offset: size + 512, length: 0, error: 22),
    Refused(
      what: "unfragmented READ above 1 MiB", command: 0, flags: 4, length: 1 << 20 | 512,
      error: 75),
  ]

  @Test(arguments: refused)
  func aFaultyRequestGetsItsErrorAndTheSessionStaysInStep(_ request: Refused) {
    let harness = Harness()
    let client = harness.open(context: true)
    var bytes = Bytes.request(
      request.command, flags: request.flags, cookie: 0xAB, offset: request.offset,
      length: request.length)
    if request.command == 1 { bytes += pattern(Int(request.length)) }
    bytes += Bytes.request(Bytes.read, cookie: 0xCD, length: 512)
    let answer = replies(harness, client, bytes)
    #expect(answer.map(\.cookie) == [0xAB, 0xCD], "\(request.what)")
    #expect(answer.map(\.error) == [request.error, 0], "\(request.what)")
    guard case .chunk(1, 0x8001, _, let payload) = answer[0] else {
      Issue.record("errors are chunks for a client that agreed to them")
      return
    }
    #expect(payload.count > 6, "\(request.what): the reason is told")
    #expect(harness.log.count == 1, "\(request.what): the core saw only the good request")
    #expect(harness.leaks().isEmpty)

    let plain = harness.open(structured: false)
    let simple = replies(
      harness, plain,
      Bytes.request(
        request.command, flags: request.flags, cookie: 0xAB, offset: request.offset,
        length: request.command == 1 ? 0 : request.length))
    if request.command != 1, request.flags & 4 == 0 {
      #expect(simple == [.simple(error: request.error, cookie: 0xAB)], "\(request.what)")
    }
  }

  @Test func aReadAboveTheMaximumIsInvalid() {
    let harness = Harness(sizeBytes: 64 << 20)
    let client = harness.open()
    let answer = replies(
      harness, client, Bytes.request(Bytes.read, length: 32 << 20 | 512))
    #expect(answer.map(\.error) == [22])
  }

  @Test func aPayloadAboveTheMaximumEndsTheSession() {
    for length: UInt32 in [32 << 20 | 512, .max] {
      let harness = Harness()
      let client = harness.open()
      harness.feed(client, Bytes.request(Bytes.write, length: length) + [1, 2, 3])
      harness.run(client)
      #expect(harness.stream(client).isClosed)
      #expect(
        harness.notices.last?.kind == .closed(.payloadTooLong(length, limit: 32 << 20)))
    }
  }

  @Test func aRefusedPayloadIsSkippedToTheByteHoweverItArrives() {
    for step in [1, 3, 511, 4096, 100_000] {
      let harness = Harness()
      let client = harness.open()
      let bytes =
        Bytes.write(pattern(3000), at: 4 << 20, cookie: 1)
        + Bytes.request(Bytes.flush, cookie: 2)
      for start in stride(from: 0, to: bytes.count, by: step) {
        harness.feed(client, Array(bytes[start..<min(start + step, bytes.count)]))
      }
      harness.run(client)
      var reader = Reader(harness.take(client))
      #expect(reader.replies().map(\.cookie) == [1, 2], "step \(step)")
    }
  }

  @Test func aWrongRequestMagicEndsTheSession() {
    let harness = Harness()
    let client = harness.open()
    harness.feed(client, Bytes.request(0, magic: 0x2560_9514))
    harness.run(client)
    #expect(harness.stream(client).isClosed)
    #expect(harness.notices.last?.kind == .closed(.badMagic(0x2560_9514)))
  }

  @Test func requestsMayFollowGoInTheSameBytes() {
    let harness = Harness()
    let client = harness.connect()!
    harness.feed(
      client,
      Bytes.clientFlags(3) + Bytes.option(8) + Bytes.option(7, Bytes.info("r0"))
        + Bytes.write(pattern(512), at: 0, cookie: 4) + Bytes.request(Bytes.disconnect))
    harness.run(client)
    #expect(harness.log.map(\.operation) == [.write])
    #expect(harness.stream(client).closesAfterSending)
    #expect(harness.engine.sessions.count == 0)
  }
}
