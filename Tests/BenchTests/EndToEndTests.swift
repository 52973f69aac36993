import Foundation
import Glibc
import Testing

@testable import Bench

/// Real loads on real targets: a file on the disk, qemu-nbd, and servers that misbehave.
@Suite(.serialized)
struct EndToEndTests {
  private let directory: TemporaryDirectory

  init() throws { directory = try TemporaryDirectory() }

  private func file(_ bytes: UInt64 = 4 << 20) throws -> String {
    let path = directory.path("disk\(UInt32.random(in: 0...999_999))")
    try ScratchFile.create(path: path, bytes: bytes)
    return path
  }

  private func workload(
    _ pattern: AccessPattern, bs: UInt64 = 4096, depth: Int = 8, ios: UInt64 = 2000
  ) -> Workload {
    var workload = Workload()
    workload.pattern = pattern
    workload.blockBytes = bs
    workload.depth = depth
    workload.ioLimit = ios
    workload.runtimeNs = 60_000_000_000
    return workload
  }

  @Test(arguments: AccessPattern.allCases)
  func aFileTakesEveryPatternAndCountsEveryIO(pattern: AccessPattern) throws {
    let session = try openSession(.raw(path: try file()), workload(pattern))
    let result = try session.measure(nil)
    #expect((result.read?.ios ?? 0) + (result.write?.ios ?? 0) == 2000)
    #expect((result.read != nil) == pattern.reads)
    #expect((result.write != nil) == pattern.writes)
    let latency = try #require(result.read ?? result.write).latencyUs
    #expect(latency.min > 0)
    #expect(latency.min <= latency.p50 && latency.p50 <= latency.p99)
    #expect(latency.p99 <= latency.p999 && latency.p999 <= latency.max)
    // Depth 8 over the whole run: Little's law ties rate and mean latency together.
    let concurrency = result.seconds * 8e6 / latency.mean
    #expect(concurrency > 1000, "far fewer I/Os were in flight than the depth says")
  }

  /// Nothing but the region may change, and inside it every block of an ordered write.
  @Test func onlyTheRegionIsWritten() throws {
    let path = try file(1 << 20)
    let before = try Data(contentsOf: URL(fileURLWithPath: path))
    var load = workload(.write, bs: 8192, depth: 4, ios: 64)
    load.regionBytes = 512 << 10
    _ = try openSession(.raw(path: path), load).measure(nil)
    let after = try Data(contentsOf: URL(fileURLWithPath: path))
    #expect(after.count == before.count)
    #expect(after.suffix(512 << 10) == before.suffix(512 << 10))
    for block in 0..<64 {
      let range = block * 8192..<(block + 1) * 8192
      #expect(after.subdata(in: range) != before.subdata(in: range))
    }
  }

  @Test func aLimitedRateIsKept() throws {
    var load = workload(.randread, depth: 4, ios: 0)
    load.rate = .operations(400)
    load.runtimeNs = 500_000_000
    // 200 are due; a machine that stops for a while may answer fewer in time, never more. It does
    // not stop in each of many runs.
    var most: UInt64 = 0
    for _ in 0..<20 where most < 150 {
      let result = try openSession(.raw(path: try file()), load).measure(nil)
      most = max(most, result.read?.ios ?? 0)
      #expect(most <= 201)
    }
    #expect(most >= 150)
  }

  @Test func aVerifiedLoadFindsItsDataRightAndAPlantedCorruptionWrong() throws {
    let path = try file()
    let log = directory.path("log")
    var load = workload(.randrw, bs: 8192, depth: 16, ios: 5000)
    load.verifies = true
    do {
      // While it is open, its lock keeps the next one away.
      let session = try openSession(.raw(path: path), load, verification: .log(path: log))
      _ = try session.measure(nil)
      try session.readBack()
      #expect(session.verification.checkedUnits > 1000)
      #expect(session.verification.wrongUnits == 0)
    }

    let verify = ["verify", "raw:\(path)", "--log", log]
    #expect(try run(program, verify).status == 0)
    let written = try #require(try firstWritten(log))
    let handle = try FileHandle(forUpdating: URL(fileURLWithPath: path))
    try handle.seek(toOffset: UInt64(written) * 4096 + 3000)
    let byte = try #require(try handle.read(upToCount: 1))
    try handle.seek(toOffset: UInt64(written) * 4096 + 3000)
    try handle.write(contentsOf: Data([byte[0] ^ 1]))
    try handle.close()
    let outcome = try run(program, verify)
    #expect(outcome.status == 2)
    #expect(outcome.output.contains("1 WRONG"))
    #expect(outcome.output.contains("at \(written * 4096): damaged"))
  }

  private func firstWritten(_ log: String) throws -> Int? {
    let log = try WriteLog(reading: log)
    for unit in 0..<log.unitCount where log[unit].acknowledged > 0 { return unit }
    return nil
  }

  /// A disk that went back to an earlier state, as after a resync from the wrong side.
  @Test func lostWritesAreFound() throws {
    let path = try file(1 << 20)
    let log = directory.path("log")
    let load = workload(.write, depth: 4, ios: 256)
    var earlier = Data()
    do {
      let session = try openSession(.raw(path: path), load, verification: .log(path: log))
      _ = try session.measure(nil)
      earlier = try Data(contentsOf: URL(fileURLWithPath: path))
      _ = try session.measure(nil)
    }
    try earlier.write(to: URL(fileURLWithPath: path))
    let outcome = try run(program, ["verify", "raw:\(path)", "--log", log, "--json"])
    #expect(outcome.status == 2)
    #expect(outcome.output.contains("\"wrong_units\" : 256"))
    #expect(outcome.output.contains("lost: write"))
  }

  @Test func whatAnEarlierLoadLeftIsNotTakenForThisOnes() throws {
    let path = try file(1 << 20)
    let load = workload(.write, depth: 4, ios: 256)
    var earlier = Data()
    for log in ["first", "second"] {
      earlier = try Data(contentsOf: URL(fileURLWithPath: path))
      let log = directory.path(log)
      let session = try openSession(.raw(path: path), load, verification: .log(path: log))
      _ = try session.measure(nil)
    }
    try earlier.write(to: URL(fileURLWithPath: path))
    let log = directory.path("second")
    let outcome = try run(program, ["verify", "raw:\(path)", "--log", log, "--json"])
    #expect(outcome.status == 2)
    #expect(outcome.output.contains("\"wrong_units\" : 256"))
  }

  @Test func writingNeedsAConfirmationAndChangesNothingWithoutIt() throws {
    let path = try file(1 << 20)
    let before = try Data(contentsOf: URL(fileURLWithPath: path))
    for command in [
      ["run", "raw:\(path)", "--rw", "randwrite"],
      ["--rw", "randread", "--rw", "write", "raw:\(path)"],
      ["limits", "--file", path], ["floor", "raw:\(path)"],
    ] {
      let outcome = try run(program, command)
      #expect(outcome.status == 1)
      #expect(outcome.errors.contains("--destroy-data"))
      #expect(outcome.errors.contains(path))
    }
    #expect(try Data(contentsOf: URL(fileURLWithPath: path)) == before)
  }

  /// The lock that a daemon holds on its backing disk keeps the benchmark away.
  @Test func aDiskInUseIsRefused() throws {
    let path = try file(1 << 20)
    let holder = try openSession(.raw(path: path), workload(.randwrite))
    #expect(throws: BenchError.self) {
      _ = try openSession(.raw(path: path), workload(.randwrite))
    }
    withExtendedLifetime(holder) {}
  }

  /// Ctrl-C ends a long load with its figures and its check, not with nothing.
  @Test func aSignalEndsALoadEarlyWithItsFigures() throws {
    let path = try file()
    let process = Process()
    process.executableURL = URL(fileURLWithPath: program)
    process.arguments = [
      "raw:\(path)", "--rw", "randwrite", "--runtime", "10m", "--verify", "--destroy-data",
    ]
    let output = Pipe()
    process.standardOutput = output
    let start = monotonicNs()
    try process.run()
    // It listens to signals before it writes.
    try waitUntil("the load writes") { try bytesWritten(by: process.processIdentifier) > 64 << 10 }
    kill(process.processIdentifier, SIGINT)
    let text = String(
      decoding: try output.fileHandleForReading.readToEnd() ?? Data(), as: UTF8.self)
    process.waitUntilExit()
    #expect(process.terminationStatus == 0)
    #expect(text.contains("all right"))
    #expect(text.contains("write"))
    #expect(monotonicNs() - start < 300_000_000_000)
  }

  @Test func pingPongsTakeTwoProcesses() throws {
    for carrier in [PingPong.Carrier.tcp, .unix] {
      let pair = try PingPongPair(carrier, program: program)
      let latency = try pair.measure(durationNs: 50_000_000)
      #expect(latency.min > 0.5, "a round trip between two processes cannot be this short")
    }
  }

  @Test func theFloorIsMeasuredWithAVolumeInOneRun() throws {
    let (path, other) = (try file(), try file())
    let outcome = try run(
      program,
      [
        "floor", "raw:\(path)", "--file", other, "--destroy-data", "--rounds", "2", "--sample",
        "20ms", "--json", "--write-limit", "1000", "--read-limit", "0.000001",
      ])
    #expect(outcome.status == 3, "the read limit cannot be kept: \(outcome.errors)")
    for key in ["volume_write", "volume_read", "tcp_ping_pong", "raw_write", "round_means_us"] {
      #expect(outcome.output.contains("\"\(key)\""))
    }
  }

  @Test func limitsLeaveNothingBehind() throws {
    let outcome = try run(
      program,
      [
        "limits", "--dir", directory.path(""), "--size", "1M", "--rounds", "1", "--sample", "10ms",
      ])
    #expect(outcome.status == 0, "\(outcome.errors)")
    #expect(outcome.output.contains("floor of a write"))
    #expect(try FileManager.default.contentsOfDirectory(atPath: directory.path("")).isEmpty)
  }
}

/// NBD, with QEMU's server and with servers that break the protocol.
@Suite(.serialized)
struct NBDEndToEndTests {
  private let directory: TemporaryDirectory

  init() throws { directory = try TemporaryDirectory() }

  private func file(_ bytes: UInt64 = 4 << 20) throws -> String {
    let path = directory.path("disk\(UInt32.random(in: 0...999_999))")
    try ScratchFile.create(path: path, bytes: bytes)
    return path
  }

  private static let withQemu: ConditionTrait = .enabled(
    if: installed("qemu-nbd") != nil, "qemu-nbd is not installed (package qemu-utils)")

  @Test(
    withQemu,
    arguments: [
      (AccessPattern.randrw, 4096, 32, 1), (.randrw, 65536, 8, 4), (.write, 1 << 20, 4, 1),
      (.randwrite, 512, 16, 2),
    ] as [(AccessPattern, UInt64, Int, Int)])
  func qemuNBDTakesAVerifiedLoad(
    pattern: AccessPattern, bs: UInt64, depth: Int, connections: Int
  ) throws {
    let path = try file()
    let server = try QemuNBD(file: path, in: directory, options: ["-e", "4"])
    var load = Workload()
    load.pattern = pattern
    load.blockBytes = bs
    load.depth = depth
    load.connections = connections
    load.ioLimit = 500
    load.flushEvery = 50
    load.verifies = true
    let log = directory.path("log")
    let session = try openSession(server.address, load, verification: .log(path: log))
    let result = try session.measure(nil)
    #expect((result.read?.ios ?? 0) + (result.write?.ios ?? 0) == 500)
    #expect((result.flush?.ios ?? 0) >= 2)
    try session.readBack()
    #expect(session.verification.wrongUnits == 0)
    #expect(session.verification.checkedUnits > 0)
    session.close()
    // What went through the server is on the file, byte for byte.
    let outcome = try run(program, ["verify", "raw:\(path)", "--log", log])
    #expect(outcome.status == 0, "\(outcome.output)\(outcome.errors)")
  }

  @Test(withQemu) func exportsThatCannotTakeTheLoadRefuseIt() throws {
    let path = try file(1 << 20)
    let readOnly = try QemuNBD(file: path, in: directory, options: ["-r", "-e", "4"])
    var write = Workload()
    write.pattern = .randwrite
    #expect(
      throws: BenchError.unsupported(
        target: readOnly.address.description, reason: "the export is read-only")
    ) { _ = try openSession(readOnly.address, write) }
    var missing = readOnly.address
    if case .nbdUnix(let socket, _) = missing { missing = .nbdUnix(socket: socket, export: "no") }
    do {
      _ = try openSession(missing, Workload())
      Issue.record("an export that does not exist was opened")
    } catch {
      #expect("\(error)".contains("export 'no' refused: no such export"))
    }
  }

  @Test func aServerThatIsNotThereIsNamed() throws {
    let address = TargetAddress.nbdUnix(socket: directory.path("none"), export: "r0")
    do {
      _ = try openSession(address, Workload())
      Issue.record("connected to nothing")
    } catch {
      #expect("\(error)".contains(directory.path("none")))
      #expect("\(error)".contains("No such file"))
    }
  }

  /// The reply with the cookie of `request`, and zeroes as the data of a read.
  private static func reply(
    _ request: [UInt8], error: UInt8 = 0, data: Int = 4096
  ) -> [UInt8] {
    [0x67, 0x44, 0x66, 0x98, 0, 0, 0, error] + request[8..<16] + Array(repeating: 0, count: data)
  }

  private func error(
    flags: UInt16 = 0x010D, depth: Int = 1, connections: Int = 1, closesAfter: Int = .max,
    _ answer: @escaping @Sendable ([UInt8]) -> [UInt8]?
  ) -> BenchError? {
    var load = Workload()
    load.depth = depth
    load.connections = connections
    load.ioLimit = 100
    do throws(BenchError) {
      guard
        let address = try? FalseServer.start(
          in: directory, flags: flags, closesAfter: closesAfter, answer: answer)
      else { return .badTarget("", reason: "the server did not start") }
      _ = try openSession(address, load).measure(nil)
      return nil
    } catch {
      return error
    }
  }

  @Test func aRightServerIsNoError() {
    #expect(error { Self.reply($0) } == nil)
  }

  @Test func aReplyThatNobodyWaitsForEndsTheLoad() {
    let wrongCookie = error { Self.reply(Array($0.prefix(8)) + [9, 9, 9, 9, 9, 9, 9, 9]) }
    guard case .server(_, .unknownCookie(0x0909_0909_0909_0909)) = wrongCookie else {
      Issue.record("\(String(describing: wrongCookie))")
      return
    }
    let twice = error { Self.reply($0) + Self.reply($0) }
    guard case .server(_, .unknownCookie) = twice else {
      Issue.record("\(String(describing: twice))")
      return
    }
  }

  @Test func garbageInsteadOfAReplyEndsTheLoad() {
    let garbage = error { _ in Array(repeating: 0x41, count: 64) }
    guard case .server(_, .badMagic(place: "reply", found: 0x4141_4141)) = garbage else {
      Issue.record("\(String(describing: garbage))")
      return
    }
  }

  @Test func anErrorReplyNamesOperationPlaceAndReason() throws {
    let failed = try #require(error { Self.reply($0, error: 5, data: 0) })
    #expect("\(failed)".contains("read of 4096 bytes at "))
    #expect("\(failed)".contains("input/output error (EIO)"))
  }

  @Test func aServerThatClosesIsAnErrorEvenInTheMiddleOfAPayload() {
    let closed = error { _ in nil }
    guard case .connectionLost(_, errno: 0) = closed else {
      Issue.record("\(String(describing: closed))")
      return
    }
    let cut = error(closesAfter: 1) { Self.reply($0, data: 100) }
    guard case .connectionLost(_, errno: 0) = cut else {
      Issue.record("\(String(describing: cut))")
      return
    }
  }

  @Test func severalConnectionsNeedTheServersPermission() throws {
    #expect(error(flags: 0x010D, depth: 2, connections: 2) { Self.reply($0) } == nil)
    let refused = try #require(
      error(flags: 0x000D, depth: 2, connections: 2) { Self.reply($0) })
    #expect("\(refused)".contains("CAN_MULTI_CONN"))
  }
}
