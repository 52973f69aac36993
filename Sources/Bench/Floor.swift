/// The machine's floor: what one I/O costs that nothing can take away, and how far above it a
/// volume is, measured in one run.
///
/// A replicated write cannot be faster than one write of the disk, one round trip to the peer and
/// one to the client; a read not faster than one read of the disk and one round trip to the
/// client. Disk and processor change their speed from second to second, and a round trip takes
/// four times as long when it has to wake a processor, so all parts are sampled in turn, several
/// times, and medians of the rounds are compared.

/// Means, medians and tails of one part of the floor, each a median over the rounds; microseconds.
public struct FloorFigures: Codable, Equatable, Sendable {
  /// The mean latency.
  public var meanUs: Double
  /// The median latency.
  public var p50Us: Double
  /// The latency that 99 % stayed below.
  public var p99Us: Double
  /// The mean latency of each round, in order.
  public var roundMeansUs: [Double]

  init(_ rounds: [LatencySummary]) {
    meanUs = median(rounds.map(\.mean))
    p50Us = median(rounds.map(\.p50))
    p99Us = median(rounds.map(\.p99))
    roundMeansUs = rounds.map(\.mean)
  }
}

/// How far a volume is above the floor.
public struct FloorRatio: Codable, Equatable, Sendable {
  /// Mean latency at depth 1.
  public var volume: FloorFigures
  /// The sum of the parts that nothing can take away, in microseconds.
  public var floorUs: Double
  /// The volume's mean divided by the floor.
  public var ratio: Double
  /// The greatest ratio that was asked for.
  public var limit: Double?

  init(_ rounds: [LatencySummary], floorUs: Double, limit: Double?) {
    volume = FloorFigures(rounds)
    self.floorUs = floorUs
    ratio = volume.meanUs / floorUs
    self.limit = limit
  }

  /// Whether the ratio is within the limit, or there is none.
  public var isWithinLimit: Bool { limit.map { ratio <= $0 } ?? true }
}

/// The result of `ashlar-bench limits` and `ashlar-bench floor`.
public struct FloorReport: Codable, Equatable, Sendable {
  /// Version of this form.
  public var formatVersion = 1
  /// Rounds of which the figures are medians.
  public var rounds: Int
  /// Seconds of each sample.
  public var sampleSeconds: Double
  /// Where the raw file was.
  public var rawTarget: String
  /// Write of 4 KiB past the page cache.
  public var rawWrite: FloorFigures
  /// Read of 4 KiB past the page cache.
  public var rawRead: FloorFigures
  /// 4 KiB there and 64 bytes back over loopback TCP between two processes.
  public var tcpPingPong: FloorFigures
  /// The same over a Unix socket.
  public var unixPingPong: FloorFigures
  /// The volume, when one was measured.
  public var volumeTarget: String?
  /// Its writes against raw write + TCP + Unix socket.
  public var volumeWrite: FloorRatio?
  /// Its reads against raw read + Unix socket.
  public var volumeRead: FloorRatio?

  /// Disk, peer and client of one replicated write.
  public var writeFloorUs: Double { rawWrite.meanUs + tcpPingPong.meanUs + unixPingPong.meanUs }
  /// Disk and client of one read.
  public var readFloorUs: Double { rawRead.meanUs + unixPingPong.meanUs }
  /// Whether every limit that was asked for is kept.
  public var isWithinLimits: Bool {
    (volumeWrite?.isWithinLimit ?? true) && (volumeRead?.isWithinLimit ?? true)
  }
}

/// Samples the parts in turn.
struct FloorMeter {
  /// The parts, in the order of a round.
  enum Part: CaseIterable {
    case rawWrite
    case rawRead
    case tcp
    case unix
    case volumeWrite
    case volumeRead

    var text: String {
      switch self {
      case .rawWrite: "raw write"
      case .rawRead: "raw read"
      case .tcp: "TCP ping-pong"
      case .unix: "Unix ping-pong"
      case .volumeWrite: "volume write"
      case .volumeRead: "volume read"
      }
    }
  }

  let raw: any Measurable
  let volume: (any Measurable)?
  let rounds: Int
  let sampleNs: UInt64
  /// The second process's program.
  var program = "/proc/self/exe"
  var writeLimit: Double?
  var readLimit: Double?

  /// Samples everything.
  func run() throws(BenchError) -> FloorReport {
    let tcp = try PingPongPair(.tcp, program: program)
    let unix = try PingPongPair(.unix, program: program)
    let parts = Part.allCases.filter {
      volume != nil || ($0 != .volumeWrite && $0 != .volumeRead)
    }
    var samples: [Part: [LatencySummary]] = [:]
    // Round 0 warms up and is thrown away. Each round starts with another part, so that none always
    // follows the same one.
    for round in 0...rounds {
      for index in parts.indices {
        let part = parts[(index + round) % parts.count]
        Progress.show("\(part.text), round \(round) of \(rounds)")
        let duration = round == 0 ? min(sampleNs, 200_000_000) : sampleNs
        let sample: LatencySummary?
        switch part {
        case .rawWrite: sample = try raw.measure(.randwrite).write?.latencyUs
        case .rawRead: sample = try raw.measure(.randread).read?.latencyUs
        case .tcp: sample = try tcp.measure(durationNs: duration)
        case .unix: sample = try unix.measure(durationNs: duration)
        case .volumeWrite: sample = try volume?.measure(.randwrite).write?.latencyUs
        case .volumeRead: sample = try volume?.measure(.randread).read?.latencyUs
        }
        guard let sample else {
          throw .helperFailed(reason: "no \(part.text) ended within the time of a sample")
        }
        if round > 0 { samples[part, default: []].append(sample) }
      }
    }
    Progress.clear()
    return report(samples)
  }

  private func report(_ samples: [Part: [LatencySummary]]) -> FloorReport {
    func figures(_ part: Part) -> FloorFigures { FloorFigures(samples[part] ?? []) }
    var report = FloorReport(
      rounds: rounds, sampleSeconds: Double(sampleNs) / 1e9, rawTarget: raw.name,
      rawWrite: figures(.rawWrite), rawRead: figures(.rawRead), tcpPingPong: figures(.tcp),
      unixPingPong: figures(.unix))
    guard let volume else { return report }
    report.volumeTarget = volume.name
    report.volumeWrite = FloorRatio(
      samples[.volumeWrite] ?? [], floorUs: report.writeFloorUs, limit: writeLimit)
    report.volumeRead = FloorRatio(
      samples[.volumeRead] ?? [], floorUs: report.readFloorUs, limit: readLimit)
    return report
  }
}
