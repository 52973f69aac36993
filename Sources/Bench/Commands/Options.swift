internal import ArgumentParser
internal import Control

/// Option groups that several commands share.

/// Which target, and which node's volumes.
struct TargetOptions: ParsableArguments {
  @Argument(help: "nbd+unix:///EXPORT?socket=PATH, nbd://HOST[:PORT]/EXPORT or raw:FILE.")
  var target: String?

  @Option(
    help: ArgumentHelp(
      "A volume that this node exports: RESOURCE or RESOURCE/VOLUME.", valueName: "resource"))
  var volume: String?

  @Option(help: ArgumentHelp("Configuration file.", valueName: "file"))
  var config: String?

  @Option(help: ArgumentHelp("This node's name (default: host name).", valueName: "name"))
  var node: String?

  @Option(help: ArgumentHelp("Directory of the daemons' sockets.", valueName: "dir"))
  var runDir: String?

  /// The target that was named.
  func address() throws -> TargetAddress {
    switch (target, volume) {
    case (let target?, nil): return try TargetAddress(target)
    case (nil, let volume?):
      let environment = try NodeEnvironment(
        configurationFile: config, node: node, runDirectory: runDir)
      return try TargetAddress(volume: volume, environment: environment)
    case (nil, nil): throw ValidationError("name a target, or a volume with --volume")
    case (_?, _?): throw ValidationError("name a target or a volume, not both")
    }
  }
}

/// The load.
struct LoadOptions: ParsableArguments {
  @Option(help: "randread, randwrite, randrw, read or write.", transform: pattern)
  var rw = AccessPattern.randread

  @Option(help: "Bytes of one I/O, at most 1M.", transform: parseSize)
  var bs: UInt64 = 4096

  @Option(help: "I/Os in flight, over all connections.")
  var iodepth = 1

  @Option(help: "How long to measure: seconds, or 500ms, 2m, 1h.", transform: parseDuration)
  var runtime: UInt64 = 10_000_000_000

  @Option(help: "How long to run before measuring.", transform: parseDuration)
  var warmup: UInt64 = 0

  @Option(
    help: "Bytes of the target to use, from its start (default: all).", transform: parseSize)
  var size: UInt64 = 0

  @Option(
    help:
      "Most I/Os per second, or bandwidth as 20MiB/s; latency counts from when an I/O was due.",
    transform: parseRate)
  var rate: Rate?

  @Option(help: "Percentage of reads in randrw.")
  var rwmixread = 50

  @Option(help: "NBD connections.")
  var connections = 1

  @Option(help: "Send a FLUSH after each so many writes (default: none).")
  var flushEvery: UInt64 = 0

  @Flag(help: "Write with FUA: each write is durable before it is answered.")
  var fua = false

  @Option(help: "Stop after so many I/Os, even before the time is over.")
  var numberIos: UInt64 = 0

  @Option(help: "Where the random numbers start: the same seed gives the same I/Os.")
  var seed: UInt64 = 1

  private static func pattern(_ text: String) throws -> AccessPattern {
    guard let pattern = AccessPattern(rawValue: text) else {
      let all = AccessPattern.allCases.map(\.rawValue).joined(separator: ", ")
      throw ValidationError("possible are \(all)")
    }
    return pattern
  }

  /// The load that the options describe.
  func workload(verifies: Bool) -> Workload {
    var workload = Workload()
    workload.pattern = rw
    workload.blockBytes = bs
    workload.depth = iodepth
    workload.runtimeNs = runtime
    workload.warmupNs = warmup
    workload.regionBytes = size
    workload.rate = rate
    workload.readPercent = rwmixread
    workload.connections = connections
    workload.flushEvery = flushEvery
    workload.fua = fua
    workload.ioLimit = numberIos
    workload.seed = seed
    workload.verifies = verifies
    return workload
  }
}

/// What every command that writes or prints has.
struct OutputOptions: ParsableArguments {
  @Flag(help: "Print JSON.")
  var json = false

  @Flag(help: "Confirm that the data of the target may be overwritten.")
  var destroyData = false
}

/// An error of ours as one of wrong usage.
func usage(_ check: () throws -> Void) throws {
  do {
    try check()
  } catch let error as BenchError {
    throw ValidationError("\(error)")
  }
}
