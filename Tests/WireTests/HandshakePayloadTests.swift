/// The two handshake payloads, `Hello` and `StateReport`: bytes, refusals, garbage.

import BlockTypes
import TestSupport
import Testing
import Wire

private let room = Int(maxControlPayloadBytes)

private func bytes(of hello: Hello) -> [UInt8] {
  var count = 0
  let bytes = written(room) { count = hello.encode(into: $0) }
  return Array(bytes.prefix(count))
}

private func bytes(of report: StateReport) -> [UInt8] {
  var count = 0
  let bytes = written(room) { count = report.encode(into: $0) }
  return Array(bytes.prefix(count))
}

private func hello(_ bytes: [UInt8]) -> Result<Hello, WireError> {
  Result { () throws(WireError) in
    try parse(bytes) { raw throws(WireError) in try Hello(parsing: raw) }
  }
}

private func report(_ bytes: [UInt8]) -> Result<StateReport, WireError> {
  Result { () throws(WireError) in
    try parse(bytes) { raw throws(WireError) in try StateReport(parsing: raw) }
  }
}

@Suite struct HelloTests {
  private func sample() throws -> Hello {
    Hello(
      node: node(5), instance: 0x1122_3344_5566_7788, epoch: 9, resource: "r0")
  }

  /// Golden bytes: a change here is a protocol change and needs a new protocol version.
  @Test func encodingIsStable() throws {
    #expect(
      bytes(of: try sample()) == [
        0, 2, 0, 2, 5, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0,
        0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88, 0, 0, 0, 0, 0, 0, 0, 9,
        0x72, 0x30,
      ])
  }

  @Test func everyFieldComesBack() throws {
    var sent = try sample()
    sent.resource = String(repeating: "ä", count: 64)
    sent.features = 0x8000_0000_0000_0001
    sent.versions = 1...7

    #expect(hello(bytes(of: sent)) == .success(sent))
  }

  @Test func tooFewBytesAreTruncated() throws {
    let good = bytes(of: try sample())
    for count in 0..<32 {
      #expect(
        hello(Array(good.prefix(count))) == .failure(.truncated(have: count, need: 32)))
    }
  }

  @Test func versionsInTheWrongOrderAreRefused() throws {
    var bad = bytes(of: try sample())
    bad.replaceSubrange(0..<4, with: [0, 3, 0, 2])

    #expect(hello(bad) == .failure(.fieldOutOfRange(.protocolRange, 3)))
  }

  @Test func nodeNumberAboveTheLimitIsRefused() throws {
    var bad = bytes(of: try sample())
    bad[4] = 32

    #expect(hello(bad) == .failure(.fieldOutOfRange(.nodeID, 32)))
  }

  /// A name's length must be in bounds and must be exactly what follows.
  @Test(arguments: [0, 1, 3, 129, 0xFFFF] as [UInt16])
  func nameLengthThatDoesNotFitIsRefused(length: UInt16) throws {
    var bad = bytes(of: try sample())
    bad[6] = UInt8(length >> 8)
    bad[7] = UInt8(length & 0xFF)

    #expect(hello(bad) == .failure(.fieldOutOfRange(.nameLength, UInt64(length))))
  }

  @Test func nameThatIsNoTextIsRefused() throws {
    var bad = bytes(of: try sample())
    bad[33] = 0xFF

    #expect(hello(bad) == .failure(.fieldOutOfRange(.nameBytes, 2)))
  }

  @Test(arguments: seeds(count: 16))
  func garbageNeverTraps(seed: UInt64) throws {
    var random = SeededGenerator(seed: seed)
    let good = bytes(of: try sample())
    for _ in 0..<2_000 {
      var bad = Array(good.prefix(random.below(good.count + 1)))
      bad += (0..<random.below(4)).map { _ in UInt8(random.below(256)) }
      for _ in 0..<random.below(4) where !bad.isEmpty {
        bad[random.below(bad.count)] = UInt8(random.below(256))
      }
      if case .success(let parsed) = hello(bad) {
        #expect((1...Hello.nameLimit).contains(parsed.resource.utf8.count), "seed \(seed)")
      }
    }
  }
}

@Suite struct StateReportTests {
  private func sample() throws -> StateReport {
    var report = StateReport(volumeBytes: 1 << 30, disk: .upToDate, role: .primary)
    report.crashed = true
    report.base = Generation(number: 1, id: 0xA1, author: node(0))
    report.outOfSyncBlocks = 0x102
    report.policy.noPrimary = .discardLeastChanges
    report.policy.onePrimary = .consensus
    report.policy.primaryIsTarget = .retryConnect
    report.lineage = try #require(
      Lineage([
        Generation(number: 1, id: 0xA1, author: node(0)),
        Generation(number: 3, id: 0xB2, author: node(31)),
      ]))
    return report
  }

  /// Golden bytes: a change here is a protocol change and needs a new protocol version.
  @Test func encodingIsStable() throws {
    #expect(
      bytes(of: try sample()) == [
        0, 0, 0, 0, 0x40, 0, 0, 0, 4, 1, 5, 2, 4, 1, 1, 0,
        0, 0, 0, 0, 0, 0, 1, 2,
        0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0xA1, 0, 0, 0, 0, 0, 0, 0, 0,
        0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0xA1, 0, 0, 0, 0, 0, 0, 0, 0,
        0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0xB2, 31, 0, 0, 0, 0, 0, 0, 0,
      ])
  }

  /// The numbers of roles and disk states go over the wire and to disk of the peer's log.
  @Test func numbersOfStatesAreStable() {
    #expect(DiskState.allCases.map(\.rawValue) == [0, 1, 2, 3, 4, 5, 6])
    #expect(Role.allCases.map(\.rawValue) == [0, 1, 2])
  }

  @Test func everyCombinationComesBack() throws {
    for disk in [DiskState.diskless, .inconsistent, .outdated, .consistent, .upToDate] {
      for role in [Role.primary, .secondary] {
        for flags in 0..<256 {
          var sent = try sample()
          sent.disk = disk
          sent.role = role
          sent.crashed = flags & 1 != 0
          sent.wasPrimary = flags & 2 != 0
          if flags & 4 == 0 { sent.base = nil }
          sent.isFull = flags & 8 != 0
          sent.discardMyData = flags & 16 != 0
          sent.isTentative = flags & 32 != 0
          sent.repairWasCut = flags & 64 != 0
          sent.usesPeerData = flags & 128 != 0
          #expect(report(bytes(of: sent)) == .success(sent))
        }
      }
    }
  }

  /// What is known about a generation travels with it, and says nothing about which one it is.
  @Test func beginOfAGenerationComesBack() throws {
    var sent = try sample()
    sent.lineage.begin(id: 7, author: node(1), at: 1_700_000_000, continuesPrimary: true)
    guard case .success(let parsed) = report(bytes(of: sent)) else {
      Issue.record("refused")
      return
    }
    let newest = try #require(parsed.lineage.newest)
    #expect(newest.beganAt == 1_700_000_000 && newest.continuesPrimary)
    var unknown = sent.lineage
    unknown.cut(after: try #require(sent.lineage.generations.dropLast().last))
    unknown.begin(id: 7, author: node(1))
    #expect(unknown.newest == newest)
  }

  /// The longest report must fit into what the receiver allows for a control payload.
  @Test func longestLineageFitsAndComesBack() throws {
    var sent = try sample()
    for id in 0..<UInt64(Lineage.limit) {
      sent.lineage.begin(id: id, author: node(1))
    }
    #expect(bytes(of: sent).count == 48 + 32 * 24)
    #expect(bytes(of: sent).count <= room)
    #expect(report(bytes(of: sent)) == .success(sent))
  }

  @Test func tooFewBytesAreTruncated() throws {
    let good = bytes(of: try sample())
    for count in 0..<48 {
      #expect(
        report(Array(good.prefix(count))) == .failure(.truncated(have: count, need: 48)))
    }
  }

  /// One byte of a good report changed, and the error that names it.
  @Test(arguments: [
    (7, 1, WireError.fieldOutOfRange(.volumeBytes, (1 << 30) + 1)),
    (8, 5, .fieldOutOfRange(.diskState, 5)),
    (8, 6, .fieldOutOfRange(.diskState, 6)),
    (8, 255, .fieldOutOfRange(.diskState, 255)),
    (9, 0, .fieldOutOfRange(.role, 0)),
    (9, 3, .fieldOutOfRange(.role, 3)),
    (12, 7, .fieldOutOfRange(.policy, 0x0701_0100)),
    (13, 5, .fieldOutOfRange(.policy, 0x0405_0100)),
    (14, 3, .fieldOutOfRange(.policy, 0x0401_0300)),
    (15, 3, .fieldOutOfRange(.policy, 0x0401_0103)),
    (18, 1, .fieldOutOfRange(.outOfSyncBlocks, 1 << 40 | 0x102)),
    (24, 0x40, .fieldOutOfRange(.generationNumber, 1 << 62 | 1)),
    (40, 32, .fieldOutOfRange(.nodeID, 32)),
    (11, 1, .fieldOutOfRange(.lineageCount, 1)),
    (11, 3, .fieldOutOfRange(.lineageCount, 3)),
    (11, 33, .fieldOutOfRange(.lineageCount, 33)),
    (88, 32, .fieldOutOfRange(.nodeID, 32)),
    (79, 1, .fieldOutOfRange(.generationOrder, 2)),
  ])
  func badFieldIsNamed(offset: Int, value: UInt8, error: WireError) throws {
    var bad = bytes(of: try sample())
    bad[offset] = value

    #expect(report(bad) == .failure(error))
  }

  /// A number near the end would make the next generation overflow (P8).
  @Test func generationNumberNearTheEndIsRefused() throws {
    var bad = bytes(of: try sample())
    bad[72] = 0xFF

    #expect(report(bad) == .failure(.fieldOutOfRange(.generationNumber, 0xFF00_0000_0000_0003)))
    let limit = Lineage.peerNumberLimit
    var sent = try sample()
    sent.lineage = try #require(
      Lineage([Generation(number: limit + 1, id: 1, author: node(0))]))
    #expect(report(bytes(of: sent)) == .failure(.fieldOutOfRange(.generationNumber, limit + 1)))
  }

  @Test(arguments: seeds(count: 16))
  func garbageNeverTraps(seed: UInt64) throws {
    var random = SeededGenerator(seed: seed)
    let good = bytes(of: try sample())
    var understood = 0
    for _ in 0..<2_000 {
      var bad = good
      if random.oneIn(3) { bad = Array(bad.prefix(random.below(bad.count))) }
      for _ in 0..<random.below(4) where !bad.isEmpty {
        bad[random.below(bad.count)] = UInt8(random.below(256))
      }
      guard case .success(var parsed) = report(bad) else { continue }
      understood += 1
      // What was accepted can be used: relation and the next generation do not trap.
      _ = parsed.lineage.relation(to: try sample().lineage)
      parsed.lineage.begin(id: 1, author: node(0))
      #expect(Lineage(parsed.lineage.generations) != nil, "seed \(seed)")
    }
    #expect(understood > 0, "seed \(seed): nothing got past the first check")
  }
}
