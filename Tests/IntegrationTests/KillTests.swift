/// kill -9 of either daemon, or of both, at random moments under a writer that knows what it was
/// promised; with the cable cut in between.
///
/// The moments come from a seed; replay a run with ASHLAR_TEST_SEED. `tools/soak` runs these tests
/// for hours.
import Foundation
import TestSupport
import Testing

extension Integration {
  @Suite struct Kills {
    @Test(.needsPythonNBD, .needs("cmp", "flock"))
    func `no acknowledged write is lost when a daemon is killed at any moment`() throws {
      try thrash("kills", rounds: (kills + 1) / 2) { thrasher in try thrasher.killAndTakeOver() }
    }

    @Test(.needsNamespaces, .needsPythonNBD, .needs("cmp", "flock"))
    func `nor when the cable is cut in between`() throws {
      let options = ClusterOptions(net: quickNotice, link: try Link())
      try thrash("kills and cuts", rounds: kills / 2, options) { thrasher in
        try thrasher.killAndCut()
      }
    }

    @Test(.needsPythonNBD, .needs("cmp", "flock"))
    func `nor when both daemons are killed at the same moment`() throws {
      let rounds = Machine.count("ASHLAR_TEST_DOUBLE_KILLS", default: 3)
      try thrash("kills of both", rounds: rounds) { thrasher in try thrasher.killBoth() }
    }

    @Test(.needsPythonNBD, .needs("cmp", "flock"))
    func `nothing is lost with the libaio engine either`() throws {
      let options = ClusterOptions(disk: "io-engine libaio;")
      try thrash("kills with libaio", rounds: 3, options) { thrasher in
        #expect(thrasher.cluster.state().contains("libaio"))
        try thrasher.killAndTakeOver()
      }
    }

    @Test(.needs("fio", "flock"))
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

private let kills = Machine.count("ASHLAR_TEST_KILLS", default: 10)

/// Runs rounds of a thrasher on one cluster and says what was done, also when a round fails.
private func thrash(
  _ what: String, rounds: Int, _ options: ClusterOptions = ClusterOptions(),
  _ round: (inout Thrasher) throws -> Void
) throws {
  let seed = UInt64(Machine.count("ASHLAR_TEST_SEED", default: Int.random(in: 1...1_000_000)))
  print("\(what): \(rounds) rounds, seed \(seed)")
  let began = ContinuousClock.now
  try withCluster(options) { cluster in
    var thrasher = Thrasher(cluster: cluster, seed: seed)
    for number in 1...max(1, rounds) {
      do {
        try round(&thrasher)
      } catch {
        let did = thrasher.done.joined(separator: ", ")
        throw Failure("\(what): seed \(seed), round \(number) of \(rounds) (\(did)): \(error)")
      }
      if number % 50 == 0 { print("\(what): \(number) rounds, \(thrasher.counts)") }
    }
    let seconds = (ContinuousClock.now - began).components.seconds
    print("\(what): seed \(seed), \(thrasher.counts) in \(seconds) s; nothing lost, disks equal")
  }
}

/// Kills, cuts, restarts and verifies.
private struct Thrasher {
  /// What was done so far.
  struct Counts: CustomStringConvertible {
    var kills = 0
    var doubleKills = 0
    var takeovers = 0
    var switchovers = 0
    var cuts = 0

    var description: String {
      "\(kills) kills, \(doubleKills) of both at once, \(takeovers) takeovers, "
        + "\(switchovers) switch-overs, \(cuts) cuts"
    }
  }

  let cluster: Cluster
  let writer: Writer
  /// The node whose export the writer uses.
  private var primary: ClusterNode
  private var generator: SeededGenerator
  private(set) var counts = Counts()
  /// What was done in this round.
  private(set) var done: [String] = []

  init(cluster: Cluster, seed: UInt64) {
    self.cluster = cluster
    writer = Writer(cluster: cluster)
    primary = cluster.alpha
    generator = SeededGenerator(seed: seed)
  }

  private var secondary: ClusterNode { cluster.peer(of: primary) }

  /// One daemon, or both one after the other; a killed Primary or its peer is the next Primary.
  mutating func killAndTakeOver() throws {
    done = []
    let victims = randomVictims()
    let load = try start()
    pause(1000)
    try kill(victims, atOnce: false)
    let isTakenOver = victims == [.primary] && generator.oneIn(2)
    if isTakenOver {
      done.append("takeover")
      counts.takeovers += 1
      primary = secondary
      try cluster.promote(primary)
      try cluster.start(secondary)
    } else {
      try restart(victims)
    }
    try end(load, victims, needsPromotion: !isTakenOver)
  }

  /// As above, but the cable is cut before, during or after the kill, or not at all. Nobody takes
  /// over: the other node may lack what was acknowledged while the cable was cut.
  mutating func killAndCut() throws {
    done = []
    if generator.oneIn(4) { try switchOver() }
    let victims = randomVictims()
    let load = try start()
    pause(500)
    let moment = generator.below(4)
    if moment == 0 { try cut() }
    if moment <= 1 { pause(4000) }
    if moment == 1 { try cut() }
    try kill(victims, atOnce: generator.oneIn(2))
    if moment == 2 { try cut() }
    if generator.oneIn(2) { try cluster.link?.heal() }
    try restart(victims)
    pause(1500)
    try cluster.link?.heal()
    try end(load, victims, needsPromotion: true)
  }

  /// Both daemons at the same moment; either may become Primary, as both have all that was
  /// acknowledged.
  mutating func killBoth() throws {
    done = []
    let load = try start()
    pause(1000)
    try kill([.primary, .secondary], atOnce: true)
    try writer.wait(for: load, .serverGone)
    try restart([.primary, .secondary])
    try cluster.waitForSync()
    if generator.oneIn(2) {
      // The old Primary may have taken up its role again.
      done.append("the other is Primary")
      try cluster.tell(primary, "secondary", cluster.resource)
      primary = secondary
    }
    try cluster.promote(primary)
    try expectNothingLost()
  }

  // MARK: Steps

  private enum Victim: String { case primary, secondary }

  private mutating func randomVictims() -> [Victim] {
    switch generator.below(5) {
    case 0, 1: [.primary]
    case 2, 3: [.secondary]
    default: [.primary, .secondary]
    }
  }

  private func node(_ victim: Victim) -> ClusterNode { victim == .primary ? primary : secondary }

  /// Sleeps for a random time below so many milliseconds.
  private mutating func pause(_ milliseconds: Int) {
    usleep(UInt32(generator.below(milliseconds) * 1000))
  }

  private mutating func start() throws -> BackgroundProcess {
    try writer.start(at: primary, seed: generator.next() % 1_000_000)
  }

  private mutating func kill(_ victims: [Victim], atOnce: Bool) throws {
    done.append("kill \(victims.map(\.rawValue).joined(separator: " and "))")
    counts.kills += victims.count
    if atOnce && victims.count == 2 {
      done.append("at once")
      counts.doubleKills += 1
      for victim in victims { node(victim).daemon?.signal(SIGKILL) }
    }
    for victim in victims { try cluster.kill(node(victim)) }
  }

  private func restart(_ victims: [Victim]) throws {
    for victim in victims { try cluster.start(node(victim)) }
  }

  private mutating func cut() throws {
    let cut = Link.Cut.allCases[generator.below(Link.Cut.allCases.count)]
    done.append("cut \(cut)")
    counts.cuts += 1
    try cluster.link?.cut(cut)
  }

  /// The Primary hands over to its peer; both have everything.
  private mutating func switchOver() throws {
    done.append("switch-over")
    counts.switchovers += 1
    try cluster.tell(primary, "secondary", cluster.resource)
    primary = secondary
    try cluster.promote(primary)
  }

  private func end(
    _ load: BackgroundProcess, _ victims: [Victim], needsPromotion: Bool
  ) throws {
    if victims.contains(.primary) {
      try writer.wait(for: load, .serverGone)
      if needsPromotion { try cluster.promote(primary) }
    } else {
      try writer.stop(load)
    }
    try expectNothingLost()
  }

  private func expectNothingLost() throws {
    try writer.verify(at: primary)
    try cluster.waitForSync()
    try writer.verify(at: primary)
    try cluster.expectIdenticalDisks()
  }
}
