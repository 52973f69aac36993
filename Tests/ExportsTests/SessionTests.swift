import BlockTypes
import Testing

@testable import Exports

/// Many requests, few buffers, connections that end at bad moments.
@Suite struct SessionTests {
  private let payload = [UInt8](repeating: 0x5A, count: 4096)

  private func replies(_ harness: Harness, _ client: FakeClient) -> [Reply] {
    var reader = Reader(harness.take(client))
    return reader.replies()
  }

  @Test func disconnectFinishesWhatIsInFlightThenCloses() {
    let harness = Harness()
    let client = harness.open()
    harness.feed(
      client,
      Bytes.write(payload, at: 0, cookie: 1) + Bytes.request(Bytes.read, cookie: 2, length: 512)
        + Bytes.request(Bytes.disconnect) + Bytes.request(Bytes.read, cookie: 3, length: 512))
    harness.collect()
    #expect(harness.pending.count == 2, "nothing is taken after DISC")
    #expect(!harness.isClosed(client))
    harness.complete(1)
    #expect(!harness.isClosed(client))
    harness.complete(0)
    #expect(harness.stream(client).closesAfterSending)
    #expect(replies(harness, client).map(\.cookie) == [2, 1])
    #expect(harness.engine.sessions.count == 0)
    harness.run()
    #expect(harness.notices.last?.kind == .closed(.disconnected))
    #expect(harness.leaks().isEmpty)
  }

  @Test func completionsAfterTheClientIsGoneAreAbsorbed() {
    let harness = Harness()
    let client = harness.open()
    harness.feed(
      client,
      Bytes.write(payload, at: 0) + Bytes.request(Bytes.read, length: 2 << 20)
        + Bytes.request(Bytes.flush))
    harness.collect()
    #expect(harness.pending.count == 4)
    harness.hangUp(client, error: 104)
    #expect(harness.stream(client).isClosed)
    #expect(harness.engine.sessions.count == 1, "the slot stays until the core is done")
    let next = harness.open()
    #expect(next.session.slot != client.session.slot)
    harness.run()
    #expect(harness.engine.sessions.count == 1)
    #expect(harness.volume.prefix(4096) == payload[...], "the write was carried out")
    #expect(harness.leaks().isEmpty)
    #expect(harness.notices.contains { $0.kind == .closed(.connectionLost(errno: 104)) })
  }

  /// A valid session is cut after each of its bytes: nothing traps and nothing is kept.
  @Test func theConnectionMayEndAfterEveryByte() {
    let session =
      Bytes.clientFlags(3) + Bytes.option(8)
      + Bytes.option(10, Bytes.contexts("r0", ["base:allocation"])) + Bytes.option(3)
      + Bytes.option(7, Bytes.info("r0", [3])) + Bytes.write(payload, at: 8192)
      + Bytes.request(Bytes.read, length: 8192) + Bytes.write([1], at: 0)
      + Bytes.request(Bytes.flush) + Bytes.request(Bytes.disconnect)
    for length in 0...session.count {
      for completesFirst in [true, false] {
        let harness = Harness(sizeBytes: 64 << 10)
        let client = harness.connect()!
        harness.feed(client, Array(session.prefix(length)))
        if completesFirst { harness.run(client) }
        harness.hangUp(client)
        harness.run()
        #expect(harness.leaks().isEmpty, "cut after \(length) bytes")
        #expect(harness.engine.sessions.count == 0, "cut after \(length) bytes")
      }
    }
  }

  @Test func aClientHasAtMostItsLimitInFlight() {
    var options = NBDServerOptions()
    options.requestsPerClientMax = 8
    let harness = Harness(options: options)
    let client = harness.open()
    for cookie in 0..<20 {
      harness.feed(client, Bytes.write(payload, at: 0, cookie: UInt64(cookie)))
    }
    harness.collect()
    #expect(harness.pending.count == 8)
    harness.complete(3)
    harness.collect()
    #expect(harness.pending.count == 8, "one ended, one began")
    harness.run(client)
    #expect(Set(replies(harness, client).map(\.cookie)) == Set(0..<20))
    #expect(harness.leaks().isEmpty)
  }

  @Test func aClientThatDoesNotReadIsNotReadFrom() {
    let harness = Harness()
    let client = harness.open()
    harness.stream(client).isCongested = true
    harness.feed(client, Bytes.request(Bytes.read, length: 512))
    harness.run(client)
    #expect(harness.log.isEmpty)
    harness.stream(client).isCongested = false
    harness.engine.drained(client.session.slot, &harness.transport)
    harness.run(client)
    #expect(harness.log.count == 1)
  }

  @Test func withOneBufferEveryRequestIsStillAnswered() {
    let harness = Harness()
    harness.transport.buffersMax = 1
    let clients = (0..<5).map { _ in harness.open() }
    for (index, client) in clients.enumerated() {
      for cookie in 0..<10 {
        harness.feed(client, Bytes.write(payload, at: UInt64(index) * 4096, cookie: UInt64(cookie)))
        harness.feed(
          client,
          Bytes.request(Bytes.read, cookie: 100 + UInt64(cookie), offset: 0, length: 3 << 20))
      }
    }
    harness.run(clients[0], clients[1], clients[2], clients[3], clients[4])
    for client in clients {
      let all = replies(harness, client)
      let ends = all.filter { if case .chunk(0, _, _, _) = $0 { false } else { true } }
      #expect(ends.count == 20)
      #expect(ends.allSatisfy { $0.error == 0 })
    }
    #expect(harness.transport.buffersPeak == 1)
    #expect(harness.engine.statistics.waits > 0)
    #expect(harness.leaks().isEmpty)
  }

  @Test func sessionsThatWaitAreServedInOrder() {
    let harness = Harness()
    harness.transport.buffersMax = 1
    let clients = (0..<4).map { _ in harness.open() }
    for client in clients { harness.feed(client, Bytes.request(Bytes.read, length: 512)) }
    // Another request of the first client must queue up behind the others.
    harness.feed(clients[0], Bytes.request(Bytes.read, cookie: 1, offset: 512, length: 512))
    var order: [UInt32] = []
    harness.collect()
    while !harness.pending.isEmpty {
      let piece = harness.engine.pieces[SlotID(tag: harness.pending[0].tag)]
      order.append(piece.session)
      harness.complete(0)
      harness.engine.tick(&harness.transport)
      harness.collect()
    }
    let slots = clients.map(\.session.slot)
    #expect(order == slots + [slots[0]])
  }

  @Test func twoLongSimpleReadsDoNotStarveEachOther() {
    let harness = Harness()
    harness.transport.buffersMax = 4
    let first = harness.open(structured: false)
    let second = harness.open(structured: false)
    let third = harness.open(structured: false)
    for client in [first, second] {
      harness.feed(client, Bytes.request(Bytes.read, cookie: 1, length: 4 << 20))
    }
    harness.feed(third, Bytes.request(Bytes.read, cookie: 1, length: 512))
    harness.collect()
    #expect(harness.pending.count == 4)
    #expect(harness.transport.buffersInUse == 4, "the second took none of its buffers")
    harness.complete(0)
    harness.complete(0)
    harness.run(first, second, third)
    #expect(harness.take(first).count == 16 + 4 << 20)
    #expect(harness.take(second).count == 16 + 4 << 20)
    #expect(harness.take(third).count == 16 + 512)
    #expect(harness.leaks().isEmpty)
  }

  @Test func aSessionThatWaitsMayEnd() {
    let harness = Harness()
    harness.transport.buffersMax = 1
    let holder = harness.open()
    let waiter = harness.open()
    let next = harness.open()
    harness.feed(holder, Bytes.request(Bytes.read, length: 512))
    harness.feed(waiter, Bytes.write(payload, at: 0))
    harness.feed(next, Bytes.request(Bytes.read, cookie: 9, length: 512))
    harness.collect()
    #expect(harness.engine.waiting.count == 2)
    harness.hangUp(waiter)
    harness.run(holder, next)
    #expect(replies(harness, next).map(\.cookie) == [9])
    #expect(harness.leaks().isEmpty)
  }

  /// Clients that give up behind one that stays: a monitor with a time limit at a hung disk.
  @Test func sessionsThatWaitAndEndLeaveNothingBehindTheOneAtTheFront() {
    let harness = Harness()
    harness.transport.buffersMax = 1
    let holder = harness.open()
    let front = harness.open()
    harness.feed(holder, Bytes.request(Bytes.read, length: 512))
    harness.feed(front, Bytes.request(Bytes.read, cookie: 8, length: 512))
    for round in 0..<1000 {
      let waiter = harness.connect()!
      harness.feed(
        waiter,
        Bytes.clientFlags(3) + Bytes.option(7, Bytes.info("r0"))
          + Bytes.request(Bytes.read, length: 512))
      harness.engine.tick(&harness.transport)
      #expect(harness.engine.waiting.count == 2, "round \(round)")
      harness.hangUp(waiter)
      #expect(harness.engine.waiting.count == 1, "round \(round)")
    }
    harness.run(holder, front)
    #expect(replies(harness, front).map(\.cookie) == [8])
    #expect(harness.leaks().isEmpty)
  }

  /// Whoever leaves, from whichever place, the others keep theirs.
  @Test func theLineKeepsItsOrderWhoeverLeavesIt() {
    for leaver in 0..<4 {
      let harness = Harness()
      harness.transport.buffersMax = 1
      let holder = harness.open()
      let clients = (0..<4).map { _ in harness.open() }
      let late = harness.open()
      for client in [holder] + clients {
        harness.feed(client, Bytes.request(Bytes.read, length: 512))
      }
      harness.hangUp(clients[leaver])
      harness.feed(late, Bytes.request(Bytes.read, length: 512))
      var order: [UInt32] = []
      harness.collect()
      while !harness.pending.isEmpty {
        order.append(harness.engine.pieces[SlotID(tag: harness.pending[0].tag)].session)
        harness.complete(0)
        harness.engine.tick(&harness.transport)
        harness.collect()
      }
      var expected = [holder] + clients + [late]
      expected.remove(at: leaver + 1)
      #expect(order == expected.map(\.session.slot), "client \(leaver) left")
      #expect(harness.leaks().isEmpty)
    }
  }

  @Test func whenPiecesRunOutRequestsWaitAndEnd() {
    var options = NBDServerOptions()
    options.piecesMax = 32
    let harness = Harness(options: options)
    let client = harness.open()
    for cookie in 0..<100 {
      harness.feed(client, Bytes.request(Bytes.flush, cookie: UInt64(cookie)))
    }
    harness.collect()
    #expect(harness.pending.count == 32)
    harness.run(client)
    #expect(replies(harness, client).count == 100)
    #expect(harness.leaks().isEmpty)
  }

  @Test func buffersHeldByUnsentRepliesComeBackWhenTheyAreSent() {
    let harness = Harness()
    harness.transport.buffersMax = 2
    harness.transport.holdsSends = true
    let slow = harness.open()
    let other = harness.open()
    harness.feed(slow, Bytes.request(Bytes.read, length: 4 << 20))
    harness.run(slow)
    harness.feed(other, Bytes.request(Bytes.read, cookie: 3, length: 512))
    harness.run(slow, other)
    #expect(harness.take(other).isEmpty)
    #expect(harness.engine.nextDeadline < Instant.never, "the owner is asked to look again")
    while harness.transport.buffersInUse > 0 {
      harness.transport.releaseSends(harness.stream(slow))
      harness.transport.releaseSends(harness.stream(other))
      harness.run(slow, other)
    }
    #expect(replies(harness, other).map(\.cookie) == [3])
  }

  @Test func aClientThatStopsInThePayloadIsClosedOnlyWhenOthersWait() {
    let harness = Harness()
    harness.transport.buffersMax = 1
    let stopped = harness.open()
    harness.feed(stopped, Array(Bytes.write(payload, at: 0).prefix(100)))
    harness.engine.now = Instant(nanoseconds: 60_000_000_000)
    harness.run(stopped)
    #expect(!harness.isClosed(stopped), "nobody minds")
    let other = harness.open()
    harness.feed(other, Bytes.request(Bytes.read, cookie: 2, length: 512))
    harness.run(other)
    #expect(harness.stream(stopped).isClosed)
    #expect(replies(harness, other).map(\.cookie) == [2])
    #expect(harness.notices.contains { $0.kind == .closed(.stalled) })
    #expect(harness.leaks().isEmpty)
  }

  @Test func aClientThatDoesNotReadItsAnswersIsClosedOnlyWhenOthersWait() {
    let harness = Harness()
    harness.transport.buffersMax = 2
    harness.transport.holdsSends = true
    let slow = harness.open()
    harness.feed(slow, Bytes.request(Bytes.read, length: 2 << 20))
    harness.run(slow)
    harness.engine.now = Instant(nanoseconds: 60_000_000_000)
    harness.run(slow)
    #expect(!harness.isClosed(slow), "nobody minds")
    let other = harness.open()
    harness.feed(other, Bytes.request(Bytes.read, cookie: 2, length: 512))
    harness.run(slow, other)
    #expect(!harness.isClosed(slow), "what is unsent was looked at for the first time")
    harness.engine.now = Instant(nanoseconds: 89_000_000_000)
    harness.run(slow, other)
    #expect(!harness.isClosed(slow))
    harness.engine.now = Instant(nanoseconds: 91_000_000_000)
    harness.run(slow, other)
    #expect(harness.stream(slow).isClosed)
    #expect(replies(harness, other).map(\.cookie) == [2])
  }

  @Test func closingAnExportAnswersTheCoreAndRefusesTheRest() {
    let harness = Harness()
    let idle = harness.open()
    let busy = harness.open()
    let sending = harness.open()
    harness.feed(busy, Bytes.write(payload, at: 0, cookie: 1))
    harness.feed(sending, Bytes.write(payload, at: 0, cookie: 2).dropLast(1))
    harness.collect()
    #expect(harness.engine.exports[gate: 0].statistics.clients == 3)
    harness.engine.drainSessions(of: ExportSlot(0), &harness.transport)
    #expect(harness.stream(idle).closesAfterSending)
    #expect(!harness.isClosed(busy))
    #expect(!harness.isClosed(sending))
    harness.complete(0)
    #expect(harness.stream(busy).closesAfterSending)
    #expect(replies(harness, busy).map(\.error) == [0])
    harness.feed(sending, [0])
    #expect(harness.stream(sending).closesAfterSending)
    #expect(replies(harness, sending).map(\.error) == [108])
    harness.run()
    #expect(harness.engine.sessions.count == 0)
    #expect(harness.leaks().isEmpty)
    #expect(harness.notices.filter { $0.kind == .closed(.exportClosed) }.count == 3)
  }

  @Test func aLongWriteCutOffByClosingIsAnsweredWhenItsPiecesAreDone() {
    let harness = Harness()
    let client = harness.open()
    let bytes = Bytes.write([UInt8](repeating: 1, count: 2 << 20), at: 0, cookie: 5)
    harness.feed(client, Array(bytes.prefix(28 + 1 << 20 + 77)))
    harness.collect()
    #expect(harness.pending.count == 1)
    harness.engine.drainSessions(of: nil, &harness.transport)
    harness.feed(client, Array(bytes.dropFirst(28 + 1 << 20 + 77)))
    #expect(harness.take(client).isEmpty)
    harness.complete(0)
    #expect(replies(harness, client).map(\.error) == [108])
    #expect(harness.stream(client).closesAfterSending)
    #expect(harness.leaks().isEmpty)
  }

  @Test func drainingHasADeadline() {
    let harness = Harness()
    let client = harness.open()
    harness.feed(client, Bytes.write(payload, at: 0))
    harness.collect()
    harness.engine.drainSessions(of: nil, &harness.transport)
    harness.engine.now = harness.engine.nextDeadline
    harness.engine.tick(&harness.transport)
    #expect(harness.stream(client).isClosed)
    #expect(harness.engine.sessions.count == 1, "the core still holds its write")
    harness.run()
    #expect(harness.engine.sessions.count == 0)
    #expect(harness.leaks().isEmpty)
  }

  @Test func aStreamThatOnlyWaitsToBeSentIsCutAtItsDeadline() {
    let harness = Harness()
    let client = harness.open()
    harness.feed(client, Bytes.request(Bytes.disconnect))
    #expect(harness.stream(client).closesAfterSending)
    #expect(harness.engine.nextDeadline == Instant(nanoseconds: 10_000_000_000))
    harness.engine.now = Instant(nanoseconds: 10_000_000_000)
    harness.engine.tick(&harness.transport)
    #expect(harness.stream(client).isClosed)
    #expect(harness.engine.nextDeadline == .never)
  }

  @Test func aStreamWhoseLastBytesHaveLeftIsForgotten() {
    let harness = Harness()
    let client = harness.open()
    harness.feed(client, Bytes.request(Bytes.disconnect))
    harness.engine.tick(&harness.transport)
    #expect(harness.engine.lingering.count == 1)
    harness.stream(client).allSent = true
    harness.engine.tick(&harness.transport)
    #expect(harness.engine.lingering.count == 0)
  }

  /// A completion lets the next request in after the owner has looked for requests: it must not
  /// sleep over it.
  @Test func requestsThatNobodyHasTakenAreDueAtOnce() {
    var options = Harness.smallOptions
    options.requestsPerClientMax = 1
    let harness = Harness(options: options)
    let client = harness.open()
    harness.engine.now = Instant(nanoseconds: 5)
    harness.feed(client, Bytes.request(Bytes.flush) + Bytes.request(Bytes.flush))
    #expect(harness.engine.nextDeadline == Instant(nanoseconds: 5))
    harness.collect()
    #expect(harness.engine.nextDeadline > Instant(nanoseconds: 5))
    harness.complete(0)
    #expect(harness.engine.nextDeadline == Instant(nanoseconds: 5))
    harness.run(client)
    #expect(harness.leaks().isEmpty)
  }

  @Test func requestsToARefusedOrRemovedExportFail() {
    for removes in [true, false] {
      let harness = Harness()
      let client = harness.open()
      harness.feed(client, Bytes.write(payload, at: 0, cookie: 1))
      harness.collect()
      if removes {
        _ = harness.engine.exports.remove(name: "r0")
        // The slot may not be given to another volume while a request is in the core.
        let slot = harness.engine.exports.set(
          NBDExport(name: "r1", sizeBytes: 512, state: .writable))
        #expect(slot == ExportSlot(1))
      } else {
        _ = harness.engine.exports.set(
          NBDExport(name: "r0", sizeBytes: 4 << 20, state: .refused(reason: "Secondary")))
      }
      harness.feed(
        client,
        Bytes.write(payload, at: 0, cookie: 2) + Bytes.request(Bytes.read, cookie: 3, length: 512)
          + Bytes.request(Bytes.flush, cookie: 4))
      harness.run(client)
      let all = replies(harness, client)
      #expect(all.map(\.cookie) == [2, 3, 4, 1])
      #expect(all.map(\.error) == [108, 108, 108, 0])
    }
  }

  @Test func anExportThatGrowsIsSeenByConnectedClients() {
    let harness = Harness()
    let client = harness.open()
    harness.volume += [UInt8](repeating: 9, count: 512)
    _ = harness.engine.exports.set(
      NBDExport(name: "r0", sizeBytes: 4 << 20 + 512, state: .writable))
    harness.feed(client, Bytes.request(Bytes.read, offset: 4 << 20, length: 512))
    harness.run(client)
    #expect(replies(harness, client).map(\.error) == [0])
  }
}
