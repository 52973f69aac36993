internal import ArgumentParser

/// `ashlar-bench run`: one load on a target, alone or against another.
struct RunCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "run", abstract: "Put a load on a target and measure it (the default command).")

  @OptionGroup var target: TargetOptions
  @OptionGroup var load: LoadOptions
  @OptionGroup var output: OutputOptions

  @Flag(help: "Stamp every block that is written and check every block that is read.")
  var verify = false

  @Option(
    help: ArgumentHelp(
      "With --verify: keep in this file what was written, for 'verify' and for further runs.",
      valueName: "file"))
  var log: String?

  @Option(
    help: ArgumentHelp(
      "Run the same load on this target too, in turn, and print the ratio.", valueName: "target"))
  var against: String?

  @Option(help: "Rounds; figures are medians (default: 1, with --against 5).")
  var rounds: Int?

  @Option(
    help: ArgumentHelp(
      "Also show the processor time per I/O of these processes: ids or names.",
      valueName: "pid,..."))
  var cpuOf: String?

  @Flag(help: "Make the file of raw:FILE, --size long and all written, if there is none.")
  var create = false

  /// Most rounds: more say nothing that fewer do not.
  static let roundLimit = 1000

  mutating func validate() throws {
    try usage { try load.workload(verifies: verify).checked() }
    guard log == nil || verify else { throw ValidationError("--log needs --verify") }
    guard against == nil || !verify else {
      throw ValidationError("--verify costs time: it cannot be combined with --against")
    }
    if let rounds, !(1...Self.roundLimit).contains(rounds) {
      throw ValidationError("--rounds \(rounds) is not possible: 1 to \(Self.roundLimit)")
    }
  }

  func run() throws {
    let workload = load.workload(verifies: verify)
    let address = try target.address()
    let otherAddress = try against.map { try TargetAddress($0) }
    guard address != otherAddress else {
      throw ValidationError("--against names the target itself")
    }
    for address in [address, otherAddress].compactMap({ $0 }) {
      try prepare(address, workload)
    }
    let processes = [MeasuredProcess.own] + (try cpuOf.map { try MeasuredProcess.parse($0) } ?? [])
    let session = try openSession(
      address, workload, verification: verification(workload), processes: processes)
    let other = try otherAddress.map {
      try openSession($0, workload, processes: [MeasuredProcess.own])
    }
    let report = try measure(session, other, workload)
    session.close()
    other?.close()
    print(try output.json ? json(report) : report.text(workload: workload))
    if let verification = report.verification, verification.wrongUnits > 0 {
      throw BenchExit.wrongData
    }
  }

  private func verification(_ workload: Workload) -> Verification {
    guard verify else { return .off }
    return workload.pattern.writes || log != nil ? .log(path: log) : .alone
  }

  /// Makes the file if that is wanted; insists on a confirmation before data is lost.
  private func prepare(_ address: TargetAddress, _ workload: Workload) throws {
    if create, case .raw(let path) = address, !ScratchFile.exists(path) {
      guard workload.regionBytes > 0 else {
        throw ValidationError("--create needs --size: how large to make the file")
      }
      Progress.show("making \(path)")
      try ScratchFile.create(path: path, bytes: workload.regionBytes)
      Progress.clear()
      return
    }
    guard !workload.pattern.writes || output.destroyData else {
      throw BenchError.wouldDestroyData(target: address.description)
    }
  }

  private func measure(
    _ session: any Measurable, _ other: (any Measurable)?, _ workload: Workload
  ) throws -> RunReport {
    let count = rounds ?? (other == nil ? 1 : 5)
    var runs: [Measurement] = []
    var otherRuns: [Measurement] = []
    Interruption.watch()
    for round in 1...count {
      Progress.show("\(session.name), round \(round) of \(count)")
      runs.append(try session.measure(nil))
      if let other {
        Progress.show("\(other.name), round \(round) of \(count)")
        otherRuns.append(try other.measure(nil))
      }
      if Interruption.take() { break }
    }
    if verify, workload.pattern.writes {
      Progress.show("reading back what was written")
      try session.readBack()
    }
    Progress.clear()
    return RunReport(
      WorkloadFigures(workload, targetBytes: session.byteCount), runs: runs, against: otherRuns,
      verification: verify ? session.verification : nil)
  }
}
