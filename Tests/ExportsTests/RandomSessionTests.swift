import BlockTypes
import TestSupport
import Testing

@testable import Exports

/// Seeded sessions. Replay one seed with `ASHLAR_SEED=0x2a swift test --filter RandomSessionTests`.
@Suite struct RandomSessionTests {
  /// A session of valid and refused requests, each with its own cookie.
  private func session(_ generator: inout SeededGenerator, requests: Int) -> [UInt8] {
    var bytes =
      Bytes.clientFlags(3) + Bytes.option(77, [1, 2, 3]) + Bytes.option(8)
      + Bytes.option(10, Bytes.contexts("r0", ["base:allocation"]))
      + Bytes.option(7, Bytes.info("r0"))
    for cookie in 1...requests {
      let offset = UInt64.random(in: 0...2100, using: &generator) * 512
      let sectors = UInt32.random(in: 0...40, using: &generator)
      let command = UInt16.random(in: 0...8, using: &generator)
      let flags = UInt16.random(in: 0...2, using: &generator)
      switch command {
      case 2: continue
      case 1:
        let data = (0..<sectors * 512).map { _ in
          UInt8.random(in: 0...255, using: &generator)
        }
        bytes += Bytes.write(data, at: offset, flags: flags, cookie: UInt64(cookie))
      default:
        bytes += Bytes.request(
          command, flags: flags, cookie: UInt64(cookie), offset: offset, length: sectors * 512)
      }
    }
    return bytes + Bytes.request(Bytes.disconnect)
  }

  /// Replies in order of arrival must not depend on how the bytes were cut.
  @Test(arguments: seeds(count: 40))
  func repliesDoNotDependOnHowTheBytesWereCut(seed: UInt64) {
    var generator = SeededGenerator(seed: seed)
    let bytes = session(&generator, requests: 60)
    let whole = Harness(sizeBytes: 1 << 20)
    let first = whole.connect()!
    // One request at a time in the core, so that the order of replies is the order of requests.
    for byte in bytes { whole.feed(first, [byte]); whole.run(first) }
    let expected = whole.take(first)

    for _ in 0..<3 {
      let harness = Harness(sizeBytes: 1 << 20)
      let client = harness.connect()!
      var start = 0
      while start < bytes.count {
        let longest = [3, 100, 5000, 70_000].randomElement(using: &generator)!
        let end = min(start + Int.random(in: 1...longest, using: &generator), bytes.count)
        harness.feed(client, Array(bytes[start..<end]))
        start = end
        // A piece refused at once may overtake one in the core; let the core be quick.
        harness.run(client)
      }
      let sent = harness.take(client)
      #expect(sorted(sent) == sorted(expected), "seed \(seed)")
      #expect(harness.volume == whole.volume, "seed \(seed)")
      #expect(harness.stream(client).closesAfterSending, "seed \(seed)")
      #expect(harness.leaks().isEmpty, "seed \(seed): \(harness.leaks())")
    }
  }

  /// The replies of transmission by cookie, after the handshake's bytes.
  private func sorted(_ sent: [UInt8]) -> [Reply] {
    var reader = Reader(sent)
    _ = reader.take(18)
    for _ in 0..<7 { _ = reader.optionReply() }
    return reader.replies().sorted { $0.cookie < $1.cookie }
  }

  /// Many clients, few buffers, random completion order and faults: every request is answered once,
  /// everything comes back, and a read returns what was written last.
  @Test(arguments: seeds(count: 40))
  func everyRequestIsAnsweredOnce(seed: UInt64) {
    var generator = SeededGenerator(seed: seed)
    var options = NBDServerOptions()
    options.requestsPerClientMax = UInt32.random(in: 1...16, using: &generator)
    options.piecesMax = Int.random(in: 32...64, using: &generator)
    let harness = Harness(options: options, sizeBytes: 8 << 20)
    harness.transport.buffersMax = Int.random(in: 4...12, using: &generator)
    if seed % 3 == 0 {
      // Each export has a share then, and this one is all the same served to the end.
      let other = NBDExport(name: "r1", sizeBytes: 1 << 20, state: .writable)
      _ = harness.engine.exports.set(other)
    }
    let clients = (0..<4).map { index in harness.open(structured: index < 3) }
    var asked: [[UInt64: UInt32]] = clients.map { _ in [:] }
    harness.fault = { $0.offset.bytes % (1 << 16) == 512 ? 5 : 0 }
    for cookie in UInt64(1)...40 {
      for (index, client) in clients.enumerated() {
        let offset = UInt64.random(in: 0..<8192, using: &generator) * 512
        let command = [0, 1, 3, 4, 6].randomElement(using: &generator)!
        let isLong = UInt32.random(in: 0..<8, using: &generator) == 0
        let length = UInt32.random(in: 1...(isLong ? 6000 : 40), using: &generator) * 512
        asked[index][cookie] = UInt32(command)
        if command == 1 {
          let data = [UInt8](repeating: UInt8(truncatingIfNeeded: cookie), count: Int(length))
          harness.feed(client, Bytes.write(data, at: offset, cookie: cookie))
        } else {
          harness.feed(
            client,
            Bytes.request(UInt16(command), cookie: cookie, offset: offset, length: length))
        }
        harness.collect()
        if !harness.pending.isEmpty, Bool.random(using: &generator) {
          harness.complete(Int.random(in: 0..<harness.pending.count, using: &generator))
        }
        harness.engine.tick(&harness.transport)
      }
    }
    let goner = seed % 2 == 0 ? clients[2] : nil
    if let goner { harness.hangUp(goner) }
    harness.run(clients[0], clients[1], goner == nil ? clients[2] : nil, clients[3])
    for index in [0, 1] {
      var reader = Reader(harness.take(clients[index]))
      var ends: [UInt64: Int] = [:]
      for reply in reader.replies() {
        if case .chunk(0, _, _, _) = reply { continue }
        ends[reply.cookie, default: 0] += 1
      }
      #expect(ends.count == 40, "seed \(seed)")
      #expect(ends.values.allSatisfy { $0 == 1 }, "seed \(seed)")
    }
    #expect(harness.leaks().isEmpty, "seed \(seed): \(harness.leaks())")
  }

  /// Garbage, and valid messages with bytes changed: nothing traps, and no more is kept than a
  /// handshake option.
  @Test(arguments: seeds(count: 40))
  func garbageNeverTrapsAndIsNotHoarded(seed: UInt64) {
    var generator = SeededGenerator(seed: seed)
    for round in 0..<30 {
      let harness = Harness(sizeBytes: 1 << 20)
      let client = harness.connect()!
      var bytes: [UInt8]
      if round % 3 == 0 {
        bytes = (0..<Int.random(in: 1...20_000, using: &generator)).map { _ in
          UInt8.random(in: 0...255, using: &generator)
        }
        if round % 2 == 0 { bytes = Bytes.clientFlags(3) + bytes }
      } else {
        bytes = session(&generator, requests: 10)
        for _ in 0..<Int.random(in: 1...12, using: &generator) {
          let index = Int.random(in: 0..<min(bytes.count, 2000), using: &generator)
          bytes[index] = UInt8.random(in: 0...255, using: &generator)
        }
      }
      var start = 0
      while start < bytes.count {
        let end = min(start + Int.random(in: 1...3000, using: &generator), bytes.count)
        harness.feed(client, Array(bytes[start..<end]))
        start = end
        if round % 2 == 1 { harness.run(client) }
        let kept = harness.engine.handshakes[Int(client.session.slot)].pendingByteCount
        #expect(kept <= NBDLimit.optionBytes)
      }
      harness.run(client)
      harness.hangUp(client)
      harness.run()
      #expect(harness.leaks().isEmpty, "seed \(seed), round \(round): \(harness.leaks())")
      #expect(harness.engine.sessions.count == 0, "seed \(seed), round \(round)")
      #expect(harness.transport.buffersPeak <= 512 + 1)
    }
  }
}
