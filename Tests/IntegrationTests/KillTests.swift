/// kill -9 of either daemon at random moments under a writer that knows what it was promised.
///
/// The moments come from a seed; replay a run with ASHLAR_TEST_SEED.
import Foundation
import Testing

extension Integration {
  @Suite struct Kills {
    @Test(.needsPythonNBD, .needs("cmp"))
    func `no acknowledged write is lost when a daemon is killed at any moment`() throws {
      let kills = Machine.count("ASHLAR_TEST_KILLS", default: 10)
      let seed = UInt64(Machine.count("ASHLAR_TEST_SEED", default: Int.random(in: 1...1_000_000)))
      print("kill test: \(kills) kills, seed \(seed)")
      try withCluster { cluster in
        var thrasher = try Thrasher(cluster: cluster, seed: seed)
        for round in 1...kills {
          do {
            try thrasher.round(round)
          } catch {
            throw Failure("seed \(seed), kill \(round) of \(kills): \(error)")
          }
        }
      }
    }

    @Test(.needsPythonNBD, .needs("cmp"))
    func `nothing is lost with the libaio engine either`() throws {
      try withCluster(disk: "io-engine libaio;") { cluster in
        #expect(cluster.state().contains("libaio"))
        var thrasher = try Thrasher(cluster: cluster, seed: 7)
        for round in 1...3 { try thrasher.round(round) }
      }
    }

    @Test(.needs("fio"))
    func `fio goes on and verifies while the peer is killed and returns`() throws {
      try withCluster { cluster in
        let load = try BackgroundProcess(
          [
            "fio", "--name=load", "--ioengine=nbd", "--uri=\(cluster.uri(cluster.alpha))",
            "--rw=randwrite", "--bs=4k", "--iodepth=32", "--size=48m", "--time_based",
            "--runtime=8", "--verify=crc32c", "--verify_backlog=1024", "--verify_fatal=1",
          ], log: cluster.directory.appending(path: "fio.log"))
        for _ in 0..<2 {
          usleep(1_000_000)
          try cluster.kill(cluster.beta)
          usleep(500_000)
          try cluster.start(cluster.beta)
          try cluster.waitForSync()
        }
        #expect(try load.wait() == 0, "\(load.text)")
        try cluster.waitForSync()
        try cluster.expectIdenticalDisks()
      }
    }

    @Test(.needsPythonNBD)
    func `both daemons end cleanly on SIGTERM and come back in sync`() throws {
      try withCluster { cluster in
        let uri = try cluster.uri(cluster.alpha)
        try scriptNBD(uri, "h.pwrite(b'x' * 1048576, 0)")
        try cluster.stop(cluster.beta)
        try scriptNBD(uri, "h.pwrite(b'y' * 1048576, 524288)")
        try cluster.stop(cluster.alpha)
        try cluster.start(cluster.beta)
        try cluster.start(cluster.alpha)
        try cluster.waitForSync()
        try cluster.promote(cluster.alpha)
        let check = "assert h.pread(1572864, 0) == b'x' * 524288 + b'y' * 1048576"
        try scriptNBD(uri, check)
        try cluster.expectIdenticalDisks()
      }
    }
  }
}

/// Kills, restarts and verifies, one round a kill.
private struct Thrasher {
  let cluster: Cluster
  /// The node whose export the writer uses.
  var primary: ClusterNode
  var generator: SeededGenerator

  init(cluster: Cluster, seed: UInt64) throws {
    self.cluster = cluster
    primary = cluster.alpha
    generator = SeededGenerator(seed: seed)
  }

  private static let writer = Machine.package.appending(
    path: "Tests/IntegrationTests/Clients/writer.py"
  ).path
  private var state: String { cluster.directory.appending(path: "writer.state").path }
  private var secondary: ClusterNode {
    primary === cluster.alpha ? cluster.beta : cluster.alpha
  }

  /// Kills one daemon, or both, under load. When the Primary died, it or its peer is the next one.
  mutating func round(_ number: Int) throws {
    let victims: [ClusterNode]
    switch generator.next() % 5 {
    case 0, 1: victims = [primary]
    case 2, 3: victims = [secondary]
    default: victims = [primary, secondary]
    }
    let isPrimaryKilled = victims.contains { $0 === primary }
    let isTakenOver = isPrimaryKilled && victims.count == 1 && generator.next() % 2 == 0
    let load = try startWriter()
    usleep(UInt32(generator.next() % 1_000_000))
    for victim in victims { try cluster.kill(victim) }
    if isTakenOver {
      primary = secondary
      try cluster.promote(primary)
    }
    for victim in victims { try cluster.start(victim) }
    if !isPrimaryKilled { try load.write("stop") }
    try expectEnd(of: load, status: isPrimaryKilled ? 3 : 0)
    if isPrimaryKilled && !isTakenOver { try cluster.promote(primary) }
    try verify()
    try cluster.waitForSync()
    try verify()
    try cluster.expectIdenticalDisks()
  }

  /// Starts a writer and waits until its first write was acknowledged.
  private mutating func startWriter() throws -> BackgroundProcess {
    let load = try BackgroundProcess(
      [
        Self.writer, "write", try cluster.uri(primary), state, "\(10 * patience)",
        "\(generator.next() % 1_000_000)",
      ], log: cluster.directory.appending(path: "writer.log"), input: true)
    try waitUntil("the writer writes", explanation: { load.text }) {
      // Asked before its words are read, as it may write and end at once.
      let hadEnded = !load.isRunning
      if load.text.contains("writing") { return true }
      if hadEnded { throw Failure("the writer ended with \(load.status)") }
      return false
    }
    return load
  }

  /// The writer ends by itself: when its server is gone (3), or when it was told to stop and every
  /// write was answered well (0).
  private func expectEnd(of load: BackgroundProcess, status: Int32) throws {
    guard try load.wait() == status else {
      throw Failure("the writer ended with \(load.status), not \(status)\n\(load.text)")
    }
  }

  private func verify() throws {
    let output = try run([Self.writer, "verify", try cluster.uri(primary), state])
    guard output.status == 0 else { throw Failure("\(output)") }
  }
}

/// SplitMix64: small, and the same sequence everywhere.
private struct SeededGenerator: RandomNumberGenerator {
  private var state: UInt64

  init(seed: UInt64) { state = seed }

  mutating func next() -> UInt64 {
    state &+= 0x9E37_79B9_7F4A_7C15
    var word = state
    word = (word ^ (word >> 30)) &* 0xBF58_476D_1CE4_E5B9
    word = (word ^ (word >> 27)) &* 0x94D0_49BB_1331_11EB
    return word ^ (word >> 31)
  }
}
