/// What a load did on a target, as figures that a table or JSON can show. Values only.

/// I/Os of one kind.
public struct DirectionFigures: Codable, Equatable, Sendable {
  /// I/Os done.
  public var ios: UInt64
  /// I/Os per second.
  public var iops: Double
  /// MiB per second.
  public var mibPerSecond: Double
  /// Latencies in microseconds.
  public var latencyUs: LatencySummary
}

/// Processor time of one process.
public struct ProcessFigures: Codable, Equatable, Sendable {
  /// Its name.
  public var name: String
  /// Its id.
  public var pid: Int32
  /// Microseconds per I/O of the load.
  public var usPerIo: Double
  /// Percent of one processor.
  public var percent: Double

  init(_ process: MeasuredProcess, usedNs: UInt64, _ counts: PhaseCounts) {
    name = process.name
    pid = process.pid
    let ios = counts.reads + counts.writes
    usPerIo = ios > 0 ? Double(usedNs) / 1000 / Double(ios) : 0
    percent = 100 * Double(usedNs) / Double(counts.elapsedNs)
  }

  init(name: String, pid: Int32, usPerIo: Double, percent: Double) {
    self.name = name
    self.pid = pid
    self.usPerIo = usPerIo
    self.percent = percent
  }
}

/// One run of a load on a target, or the medians of several.
public struct Measurement: Codable, Equatable, Sendable {
  /// The target.
  public var target: String
  /// How long it took, until the last I/O was answered.
  public var seconds: Double
  /// The reads, if there were any.
  public var read: DirectionFigures?
  /// The writes, if there were any.
  public var write: DirectionFigures?
  /// The flushes, if there were any.
  public var flush: DirectionFigures?
  /// Processor time of this program and of others that were named.
  public var cpu: [ProcessFigures]

  init(target: String, _ counts: PhaseCounts, processor: [ProcessFigures]) {
    self.target = target
    seconds = Double(counts.elapsedNs) / 1e9
    cpu = processor
    let elapsed = seconds
    func figures(_ ios: UInt64, _ bytes: UInt64, _ latency: LatencySummary?) -> DirectionFigures? {
      guard let latency else { return nil }
      return DirectionFigures(
        ios: ios, iops: Double(ios) / elapsed,
        mibPerSecond: Double(ios * bytes) / elapsed / 1_048_576, latencyUs: latency)
    }
    read = figures(counts.reads, counts.blockBytes, counts.readLatency)
    write = figures(counts.writes, counts.blockBytes, counts.writeLatency)
    flush = figures(counts.flushes, 0, counts.flushLatency)
  }

  init(
    target: String, seconds: Double, read: DirectionFigures?, write: DirectionFigures?,
    flush: DirectionFigures?, cpu: [ProcessFigures]
  ) {
    self.target = target
    self.seconds = seconds
    self.read = read
    self.write = write
    self.flush = flush
    self.cpu = cpu
  }

  /// Each figure's median over several runs of the same load on the same target.
  static func median(of runs: [Measurement]) -> Measurement {
    precondition(!runs.isEmpty, "a median of nothing")
    func figures(_ part: KeyPath<Measurement, DirectionFigures?>) -> DirectionFigures? {
      let parts = runs.compactMap { $0[keyPath: part] }
      guard !parts.isEmpty else { return nil }
      func middle(_ value: (DirectionFigures) -> Double) -> Double {
        Bench.median(parts.map(value))
      }
      return DirectionFigures(
        ios: UInt64(middle { Double($0.ios) }), iops: middle { $0.iops },
        mibPerSecond: middle { $0.mibPerSecond },
        latencyUs: LatencySummary(
          min: middle { $0.latencyUs.min }, mean: middle { $0.latencyUs.mean },
          p50: middle { $0.latencyUs.p50 }, p99: middle { $0.latencyUs.p99 },
          p999: middle { $0.latencyUs.p999 }, max: middle { $0.latencyUs.max }))
    }
    let cpu = runs[0].cpu.indices.map { index in
      ProcessFigures(
        name: runs[0].cpu[index].name, pid: runs[0].cpu[index].pid,
        usPerIo: Bench.median(runs.map { $0.cpu[index].usPerIo }),
        percent: Bench.median(runs.map { $0.cpu[index].percent }))
    }
    return Measurement(
      target: runs[0].target, seconds: Bench.median(runs.map(\.seconds)), read: figures(\.read),
      write: figures(\.write), flush: figures(\.flush), cpu: cpu)
  }
}

/// The middle value, or the mean of the two middle ones.
func median(_ values: [Double]) -> Double {
  precondition(!values.isEmpty, "a median of nothing")
  let sorted = values.sorted()
  let middle = sorted.count / 2
  return sorted.count % 2 == 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2
}

/// The target's figures divided by those of what it is compared with.
public struct Ratio: Codable, Equatable, Sendable {
  /// I/Os per second: more is better.
  public var iops: Double
  /// Mean latency: less is better.
  public var meanLatency: Double
  /// Latency that 99 % stayed below: less is better.
  public var p99Latency: Double

  init?(_ target: DirectionFigures?, _ other: DirectionFigures?) {
    guard let target, let other else { return nil }
    iops = target.iops / other.iops
    meanLatency = target.latencyUs.mean / other.latencyUs.mean
    p99Latency = target.latencyUs.p99 / other.latencyUs.p99
  }
}

/// The load of a report.
public struct WorkloadFigures: Codable, Equatable, Sendable {
  /// The access pattern.
  public var rw: String
  /// Bytes of one I/O.
  public var blockBytes: UInt64
  /// I/Os in flight.
  public var iodepth: Int
  /// NBD connections.
  public var connections: Int
  /// Percentage of reads.
  public var readPercent: Int
  /// Bytes of the target that were used.
  public var regionBytes: UInt64
  /// Planned seconds of one round.
  public var runtimeSeconds: Double
  /// Writes between two flushes; 0 is no flush.
  public var flushEvery: UInt64
  /// Whether writes were durable before they were answered.
  public var fua: Bool
  /// The seed.
  public var seed: UInt64

  init(_ workload: Workload, targetBytes: UInt64) {
    rw = workload.pattern.rawValue
    blockBytes = workload.blockBytes
    iodepth = workload.depth
    connections = workload.connections
    readPercent = workload.readPercent
    regionBytes = workload.regionBytes == 0 ? targetBytes : workload.regionBytes
    runtimeSeconds = Double(workload.runtimeNs) / 1e9
    flushEvery = workload.flushEvery
    fua = workload.fua
    seed = workload.seed
  }
}

/// The result of `ashlar-bench run`.
public struct RunReport: Codable, Equatable, Sendable {
  /// Version of this form: keys may be added under a number, never change their meaning.
  public var formatVersion = 1
  /// The load.
  public var workload: WorkloadFigures
  /// Rounds of which the figures are medians.
  public var rounds: Int
  /// The target's figures.
  public var result: Measurement
  /// The figures of what it is compared with.
  public var against: Measurement?
  /// The target's reads divided by the other's.
  public var readRatio: Ratio?
  /// The target's writes divided by the other's.
  public var writeRatio: Ratio?
  /// What verification found.
  public var verification: VerificationResult?

  init(
    _ workload: WorkloadFigures, runs: [Measurement], against: [Measurement],
    verification: VerificationResult?
  ) {
    self.workload = workload
    rounds = runs.count
    result = Measurement.median(of: runs)
    self.against = against.isEmpty ? nil : Measurement.median(of: against)
    readRatio = Ratio(result.read, self.against?.read)
    writeRatio = Ratio(result.write, self.against?.write)
    self.verification = verification
  }
}
