internal import ArgumentParser

/// `ashlar-bench limits` and `ashlar-bench floor`: what the machine allows, and how near a volume
/// comes to it.

/// Options of both.
struct FloorOptions: ParsableArguments {
  @Option(
    help: ArgumentHelp(
      "Directory for a temporary file on the disk to measure (default: here).", valueName: "dir"))
  var dir: String?

  @Option(
    help: ArgumentHelp(
      "Measure this file or device instead; its data is lost (--destroy-data).", valueName: "file"))
  var file: String?

  @Option(help: "Size of the temporary file.", transform: parseSize)
  var size: UInt64 = 256 << 20

  @Option(help: "Rounds; figures are medians.")
  var rounds = 5

  @Option(help: "How long each sample takes.", transform: parseDuration)
  var sample: UInt64 = 1_000_000_000

  @OptionGroup var output: OutputOptions

  func check() throws {
    guard (1...RunCommand.roundLimit).contains(rounds) else {
      throw ValidationError("--rounds \(rounds) is not possible: 1 to \(RunCommand.roundLimit)")
    }
    guard sample >= 10_000_000, sample <= 600_000_000_000 else {
      throw ValidationError("--sample \(sample / 1_000_000) ms is not possible: 10 ms to 600 s")
    }
    guard size >= 1 << 20, size % 4096 == 0 else {
      throw ValidationError(
        "--size \(sizeText(size)) is not possible: a multiple of 4 KiB of at least 1 MiB")
    }
    guard dir == nil || file == nil else { throw ValidationError("give --dir or --file, not both") }
  }

  /// The load of every sample.
  var workload: Workload {
    var workload = Workload()
    workload.pattern = .randwrite
    workload.runtimeNs = sample
    return workload
  }

  /// Opens the disk. A temporary file loses its name at once, so nothing is left of it however this
  /// program ends.
  func openRaw() throws -> any Measurable {
    if let file {
      guard output.destroyData else { throw BenchError.wouldDestroyData(target: "raw:\(file)") }
      return try openSession(.raw(path: file), workload)
    }
    let path = ScratchFile.freshPath(in: dir ?? ".")
    Progress.show("making a temporary file of \(sizeText(size))")
    try ScratchFile.create(path: path, bytes: size)
    defer { ScratchFile.unlinkNow(path) }
    return try openSession(.raw(path: path), workload)
  }
}

/// The machine alone.
struct LimitsCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "limits",
    abstract: "Measure the machine's floor: raw disk, TCP and Unix-socket round trips.")

  @OptionGroup var floor: FloorOptions

  mutating func validate() throws { try floor.check() }

  func run() throws {
    let raw = try floor.openRaw()
    let meter = FloorMeter(
      raw: raw, volume: nil, rounds: floor.rounds, sampleNs: floor.sample)
    let report = try meter.run()
    raw.close()
    print(try floor.output.json ? json(report) : report.text)
  }
}

/// The machine and a volume, in one run.
struct FloorCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "floor",
    abstract: "Measure a volume at depth 1 interleaved with the machine's floor.",
    discussion: """
      Each round samples raw write, raw read, TCP and Unix ping-pong, and random write and read of \
      4 KiB at depth 1 on the volume. The ratios are write / (raw write + TCP + Unix) and \
      read / (raw read + Unix).
      """)

  @OptionGroup var target: TargetOptions
  @OptionGroup var floor: FloorOptions

  @Option(help: "Exit with 3 when the write ratio is greater.")
  var writeLimit: Double?

  @Option(help: "Exit with 3 when the read ratio is greater.")
  var readLimit: Double?

  mutating func validate() throws {
    try floor.check()
    for limit in [writeLimit, readLimit].compactMap({ $0 }) where !(limit > 0) {
      throw ValidationError("a limit of \(limit) is not possible: greater than 0")
    }
  }

  func run() throws {
    let address = try target.address()
    guard floor.output.destroyData else {
      throw BenchError.wouldDestroyData(target: address.description)
    }
    let volume = try openSession(address, floor.workload)
    let raw = try floor.openRaw()
    let meter = FloorMeter(
      raw: raw, volume: volume, rounds: floor.rounds, sampleNs: floor.sample,
      writeLimit: writeLimit, readLimit: readLimit)
    let report = try meter.run()
    raw.close()
    volume.close()
    print(try floor.output.json ? json(report) : report.text)
    if !report.isWithinLimits { throw BenchExit.aboveLimit }
  }
}
