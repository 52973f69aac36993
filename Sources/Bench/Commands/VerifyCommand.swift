internal import ArgumentParser

/// `ashlar-bench verify`: compares a target with the log of an earlier load.
struct VerifyCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "verify",
    abstract: "Check that a target holds what a load with --verify --log has written.",
    discussion: """
      Every block must hold the last write that was acknowledged, or a later one that was sent, \
      whole and at its own address. Reads only. Use it after a crash, on each replica.
      """)

  @OptionGroup var target: TargetOptions

  @Option(help: ArgumentHelp("The log.", valueName: "file"))
  var log: String

  @Flag(help: "Accept a torn block where a write was unanswered: after a loss of power.")
  var allowTorn = false

  @Option(help: "I/Os in flight.")
  var iodepth = 32

  @Flag(help: "Print JSON.")
  var json = false

  func run() throws {
    let address = try target.address()
    let geometry = try WriteLog.geometry(of: log)
    var workload = Workload()
    workload.depth = iodepth
    workload.blockBytes = geometry.blockBytes
    workload.regionBytes = geometry.regionBytes
    let session = try openSession(
      address, workload, verification: .compare(path: log, allowsTorn: allowTorn))
    Progress.show("checking \(session.name)")
    try session.readBack()
    session.close()
    Progress.clear()
    let result = session.verification
    print(try json ? Bench.json(result) : result.text)
    if result.wrongUnits > 0 { throw BenchExit.wrongData }
  }

  mutating func validate() throws {
    try usage {
      var workload = Workload()
      workload.depth = iodepth
      try workload.checked()
    }
  }
}
