/// Several exports share buffers and pieces: one whose core completes nothing leaves some to the
/// others.
import BlockTypes
import Testing

@testable import Exports

@Suite struct ShareTests {
  /// A server of r0, r1 and r2, and the slots of the exports.
  private func harness(buffers: Int, pieces: Int) -> Harness {
    var options = NBDServerOptions()
    options.piecesMax = pieces
    let harness = Harness(options: options)
    harness.transport.buffersMax = buffers
    for name in ["r1", "r2"] {
      _ = harness.engine.exports.set(
        NBDExport(name: name, sizeBytes: 4 << 20, state: .writable))
    }
    return harness
  }

  /// Completes everything but what was asked of r0, whose disk hangs.
  private func completeOthers(_ harness: Harness) {
    harness.collect()
    for _ in 0..<3 {
      while let index = harness.pending.firstIndex(where: { $0.export.value != 0 }) {
        harness.complete(index)
        harness.collect()
      }
      harness.engine.tick(&harness.transport)
      harness.collect()
    }
  }

  /// Requests of r0 that the core has.
  private func hanging(_ harness: Harness) -> Int {
    harness.pending.count { $0.export.value == 0 }
  }

  private func cookies(_ harness: Harness, _ client: FakeClient) -> [UInt64] {
    var reader = Reader(harness.take(client))
    return reader.replies().map(\.cookie)
  }

  @Test func aDiskThatHangsLeavesBuffersToOtherVolumes() {
    let harness = harness(buffers: 12, pieces: 256)
    let stuck = (0..<4).map { _ in harness.open() }
    let others = ["r1", "r2"].map { harness.open(export: $0) }
    for client in stuck {
      for cookie in 0..<10 {
        harness.feed(client, Bytes.request(Bytes.read, cookie: UInt64(cookie), length: 4096))
      }
    }
    completeOthers(harness)
    #expect(hanging(harness) == 6, "half of them")
    for cookie in UInt64(0)..<50 {
      for client in others {
        harness.feed(client, Bytes.request(Bytes.read, cookie: cookie, length: 4096))
      }
      completeOthers(harness)
      for client in others { #expect(cookies(harness, client) == [cookie]) }
    }
    #expect(hanging(harness) == 6)
    // The disk answers after all.
    harness.run(stuck[0], stuck[1], stuck[2], stuck[3])
    for client in stuck { #expect(Set(cookies(harness, client)) == Set(0..<10)) }
    #expect(harness.leaks().isEmpty, "\(harness.leaks())")
  }

  @Test func aDiskThatHangsLeavesPiecesToOtherVolumes() {
    let harness = harness(buffers: 12, pieces: 64)
    let stuck = harness.open()
    let other = harness.open(export: "r1")
    for cookie in 0..<100 {
      harness.feed(stuck, Bytes.request(Bytes.flush, cookie: UInt64(cookie)))
    }
    completeOthers(harness)
    #expect(hanging(harness) == 32)
    for cookie in UInt64(0)..<50 {
      harness.feed(other, Bytes.request(Bytes.flush, cookie: cookie))
      completeOthers(harness)
      #expect(cookies(harness, other) == [cookie])
    }
    harness.run(stuck)
    #expect(Set(cookies(harness, stuck)) == Set(0..<100))
    #expect(harness.leaks().isEmpty, "\(harness.leaks())")
  }

  /// Two that hang leave a third of it.
  @Test func eachDiskThatHangsLeavesSomething() {
    let harness = harness(buffers: 12, pieces: 256)
    let clients = ["r0", "r1", "r2"].map { harness.open(export: $0) }
    for client in clients.prefix(2) {
      for _ in 0..<20 { harness.feed(client, Bytes.request(Bytes.read, length: 4096)) }
    }
    harness.collect()
    harness.engine.tick(&harness.transport)
    harness.collect()
    #expect(harness.pending.count < 12)
    harness.feed(clients[2], Bytes.request(Bytes.read, cookie: 7, length: 4096))
    harness.collect()
    #expect(harness.pending.last?.export.value == 2)
    harness.run(clients[0], clients[1], clients[2])
    #expect(harness.leaks().isEmpty, "\(harness.leaks())")
  }

  /// A long READ with one reply wants more than the disk that hangs has left: others pass it after
  /// a second, and it gets its turn when the buffers are back.
  @Test func whoWantsMoreThanThereIsIsPassedAfterASecond() {
    let harness = harness(buffers: 8, pieces: 256)
    let stuck = harness.open()
    let long = harness.open(structured: false, export: "r1")
    let other = harness.open(export: "r2")
    for _ in 0..<10 { harness.feed(stuck, Bytes.request(Bytes.read, length: 4096)) }
    harness.collect()
    #expect(hanging(harness) == 4)
    harness.feed(long, Bytes.request(Bytes.read, cookie: 1, length: 4 << 20))
    harness.feed(long, Bytes.request(Bytes.read, cookie: 2, length: 4096))
    completeOthers(harness)
    #expect(harness.take(long).count == 2 * 16 + 4 << 20 + 4096)
    harness.transport.buffersMax = 7
    harness.feed(long, Bytes.request(Bytes.read, cookie: 3, length: 4 << 20))
    completeOthers(harness)
    harness.feed(other, Bytes.request(Bytes.read, cookie: 9, length: 4096))
    completeOthers(harness)
    #expect(cookies(harness, other).isEmpty)
    harness.engine.now = Instant(nanoseconds: 1_000_000_000)
    completeOthers(harness)
    completeOthers(harness)
    #expect(cookies(harness, other) == [9])
    harness.run(stuck, long)
    #expect(harness.take(long).count == 16 + 4 << 20)
    #expect(harness.leaks().isEmpty, "\(harness.leaks())")
  }

  /// A node with one volume has all of it for that.
  @Test func aSingleVolumeHasEverything() {
    let harness = harness(buffers: 12, pieces: 256)
    for name in ["r1", "r2"] { _ = harness.engine.exports.remove(name: name) }
    let client = harness.open()
    for _ in 0..<20 { harness.feed(client, Bytes.request(Bytes.read, length: 4096)) }
    harness.collect()
    #expect(harness.pending.count == 12)
    harness.run(client)
    #expect(harness.leaks().isEmpty)
  }

  /// A client that asks for the export, while the core completes nothing.
  private func enter(_ harness: Harness, _ export: String) -> FakeClient {
    let client = harness.connect()!
    harness.feed(
      client, Bytes.clientFlags(3) + Bytes.option(8) + Bytes.option(7, Bytes.info(export)))
    return client
  }

  /// A volume that hangs is asked again and again by clients that give up, as a monitoring would:
  /// it alone takes no more of them, and says why.
  @Test func clientsThatGaveUpOnAHungVolumeKeepNobodyOutOfOthers() {
    let harness = harness(buffers: 512, pieces: 8192)
    for _ in 0..<250 {
      let client = enter(harness, "r0")
      harness.feed(client, Bytes.request(Bytes.read, length: 4096))
      harness.collect()
      harness.hangUp(client)
    }
    let limit = Int(NBDServerOptions().goneClientsPerExportMax)
    #expect(harness.pending.count == limit)
    #expect(harness.engine.sessions.count == limit)
    let client = harness.connect()!
    harness.feed(client, Bytes.clientFlags(3))
    _ = harness.take(client)
    for option in [UInt32(6), 7] {
      harness.feed(client, Bytes.option(option, Bytes.info("r0")))
      var reader = Reader(harness.take(client))
      let answer = reader.optionReply()
      #expect(answer.option == option)
      #expect(answer.type == 0x8000_0002, "not permitted by policy")
      let text = String(decoding: answer.data, as: UTF8.self)
      #expect(text.contains("32 clients of r0 have left requests"), "\(text)")
    }
    harness.hangUp(client)
    // EXPORT_NAME can only close.
    let old = harness.connect()!
    harness.feed(old, Bytes.clientFlags(1) + Bytes.option(1, Array("r0".utf8)))
    #expect(harness.isClosed(old))
    let other = enter(harness, "r1")
    _ = harness.take(other)
    harness.feed(other, Bytes.request(Bytes.read, cookie: 5, length: 4096))
    completeOthers(harness)
    #expect(cookies(harness, other) == [5])
    while let notice = harness.engine.notices.pop() { harness.notices.append(notice) }
    #expect(harness.notices.count { $0.kind == .refusesClients } == 1)
    // The disk answers after all, and one that left is enough for one to come.
    harness.complete(0)
    let next = enter(harness, "r0")
    #expect(harness.engine.sessions[next.session.slot].phase == .transmission)
    harness.run(next, other)
    #expect(harness.engine.sessions.count == 2)
    #expect(harness.leaks().isEmpty, "\(harness.leaks())")
  }

  /// Nor do those of several volumes that hang take all that the core may hold, one piece each.
  @Test func clientsThatGaveUpLeavePiecesToOthers() {
    let harness = harness(buffers: 12, pieces: 64)
    for _ in 0..<50 {
      for export in ["r0", "r1"] {
        let client = enter(harness, export)
        harness.feed(client, Bytes.request(Bytes.flush))
        harness.collect()
        harness.hangUp(client)
      }
    }
    #expect(harness.pending.count < 64)
    let other = enter(harness, "r2")
    _ = harness.take(other)
    harness.feed(other, Bytes.request(Bytes.flush, cookie: 5))
    harness.collect()
    #expect(harness.pending.last?.export.value == 2)
    harness.run(other)
    #expect(cookies(harness, other) == [5])
    #expect(harness.engine.sessions.count == 1)
    #expect(harness.leaks().isEmpty, "\(harness.leaks())")
  }
}
