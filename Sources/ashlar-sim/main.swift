/// `ashlar-sim`: runs seeds of the deterministic simulator and reports the ones that break a
/// promise.
///
/// Seeds run in child processes, one a job. A child that traps takes no other seed with it: the
/// parent knows which seed it was running, reports that one, and starts a new child behind it.
import ArgumentParser
import Foundation
import Simulation

struct AshlarSim: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "ashlar-sim",
    abstract: "Simulates two nodes with the shipped core, from seeds.",
    discussion: """
      Exit status: 0 when every seed kept every promise, 1 otherwise.
      """)

  @Option(help: "Run this seed alone; when it fails, print options and trace.")
  var seed: UInt64?

  @Option(help: "Run so many seeds.")
  var seeds: UInt64 = 1000

  @Option(name: .customLong("from"), help: "The first of them.")
  var first: UInt64 = 0

  @Option(help: "Processes at once.")
  var jobs: Int = max(1, ProcessInfo.processInfo.activeProcessorCount)

  @Option(help: "Plant a bug: \(Canary.names.joined(separator: ", ")).")
  var canary: String?

  @Flag(help: "Plant every bug in turn: each must be found within --seeds seeds.")
  var canaries = false

  @Option(help: "Begin no new seed after so many seconds.")
  var duration: UInt64?

  @Option(help: "Stop after so many failures.")
  var failures: Int = 5

  @Option(help: "Lines of the trace to print for a failing seed.")
  var lines: Int = 60

  @Flag(help: "One fault at every point of a small run, for --seeds runs from --from on.")
  var points = false

  @Flag(help: "Every crash of small runs, with every subset of the unsafe writes.")
  var crashes = false

  @Flag(help: "Every effect of a few named runs fails, once and for ever; --seeds timings each.")
  var effects = false

  @Option(help: "Run one failure of --effects again.")
  var effect: String?

  @Option(help: "With --crashes: one in so many points; --from chooses which.")
  var share: UInt64 = 1

  @Option(help: "Run one state of --crashes again.")
  var crash: String?

  @Option(help: .hidden)
  var part = 0

  @Flag(help: "Runs about online verify, for --seeds runs from --from on, or for --seed.")
  var verify = false

  @Option(help: "With --seed: the small run with a fault at this point (node:effect:fault).")
  var at: String?

  @Flag(help: "Print the whole trace of --seed, even when it passes.")
  var trace = false

  @Flag(help: "Do not inspect the lineage on disk; find what a missing generation leads to.")
  var withoutLineageCheck = false

  @Flag(help: "Say in which share of the seeds each fault existed and had an effect.")
  var coverage = false

  @Flag(help: .hidden)
  var worker = false

  mutating func validate() throws {
    if let canary, Canary(named: canary) == nil {
      throw ValidationError("unknown canary '\(canary)'")
    }
    guard crash == nil || crash.flatMap(CrashState.init) != nil else {
      throw ValidationError("--crash takes what --crashes prints")
    }
    guard effect == nil || effect.flatMap(EffectFailure.init) != nil else {
      throw ValidationError("--effect takes what --effects prints")
    }
    guard share > 0 else { throw ValidationError("--share must be at least 1") }
    guard jobs > 0 else { throw ValidationError("--jobs must be at least 1") }
    guard seeds > 0 else { throw ValidationError("--seeds must be at least 1") }
    guard at == nil || at.flatMap(FaultPoint.init) != nil else {
      throw ValidationError("--at is node:effect:fault")
    }
    guard first <= UInt64.max - seeds else { throw ValidationError("--from is too large") }
  }

  var plantedBug: Canary? { canary.flatMap(Canary.init(named:)) }

  func run() throws {
    if worker { return crashes ? try tryCrashes() : effects ? try tryFailures() : try work() }
    if crashes || effects { return try enumerateInParts() }
    if let failure = effect.flatMap(EffectFailure.init) { return try showFailure(failure) }
    if let state = crash.flatMap(CrashState.init) { return try showCrash(state) }
    if canaries { return try plantEveryBug() }
    if points { return try enumeratePoints() }
    if verify { return try runVerifies() }
    if let seed {
      if let point = at.flatMap(FaultPoint.init) { return try show(seed, point) }
      guard try show(seed) else { throw ExitCode(1) }
      return
    }
    var parent = Parent(command: self, canary: plantedBug)
    guard try parent.run() else { throw ExitCode(1) }
  }

  /// A child: one line before each seed and one after it.
  private func work() throws {
    let end = duration.map { Date().addingTimeInterval(TimeInterval($0)) }
    for seed in first..<(first + seeds) {
      if let end, Date() > end { return }
      print("begin \(seed)")
      flushOutput()
      let report =
        verify
        ? VerifyRuns.run(seed: seed, canary: plantedBug).report
        : Runner.run(seed: seed, canary: plantedBug, checksLineage: !withoutLineageCheck)
      let fields = [
        "end", "\(seed)", report.passed ? "ok" : "failed", "\(report.events)",
        "\(report.duration)", "\(report.hash)",
      ]
      let faults = report.statistics.faults.map { "\($0)" }.joined(separator: ",")
      let refusals = report.refusals.map { "\($0.reason)=\($0.forked)/\($0.whole)" }
      let text = report.violations.first.map { "\($0)" } ?? ""
      let last = refusals.isEmpty ? "-" : refusals.joined(separator: ",")
      let disks = report.statistics.diskCounts.map { "\($0.count)" }.joined(separator: ",")
      let reached = report.statistics.reached.map { "\($0)" }.joined(separator: ",")
      print(fields.joined(separator: " "), faults, last, disks, reached, text)
    }
  }

  /// Runs one seed and prints what is worth reading. Returns whether it passed.
  func show(_ seed: UInt64) throws -> Bool {
    let (report, options, all) = Runner.trace(
      seed: seed, canary: plantedBug, checksLineage: !withoutLineageCheck)
    if trace {
      print(all.joined(separator: "\n"))
    } else if !report.passed {
      print(all.suffix(lines).joined(separator: "\n"))
    }
    print(options)
    print(
      """
      seed \(seed): \(report.events) events in \(Simulation.seconds(report.duration)) of virtual \
      time, hash \(String(report.hash, radix: 16))
      """)
    for violation in report.violations { print("BROKEN \(violation)") }
    print(report.passed ? "passed" : "again: \(repeating(seed)) --trace")
    return report.passed
  }

  /// Runs every point of the small runs.
  private func enumeratePoints() throws {
    var total = 0
    var found = 0
    for seed in first..<(first + seeds) where found < failures {
      let (points, failed) = FaultPoints.failures(seed: seed, limit: failures)
      total += points
      found += failed.count
      for (point, report) in failed {
        print("seed \(seed) at \(point): \(report.violations[0])")
        print("  ashlar-sim --seed \(seed) --at \(point)")
      }
      flushOutput()
    }
    print("\(total) points, \(found) failed")
    if found > 0 { throw ExitCode(1) }
  }

  /// Runs the runs about online verify.
  private func runVerifies() throws {
    var found = 0
    for seed in seed.map({ $0..<($0 + 1) }) ?? first..<(first + seeds) where found < failures {
      let (report, all) = VerifyRuns.run(
        seed: seed, canary: plantedBug, isTracing: self.seed != nil)
      if self.seed != nil { print(all.suffix(trace ? all.count : lines).joined(separator: "\n")) }
      guard let violation = report.violations.first else { continue }
      found += 1
      print("seed \(seed): BROKEN \(violation)\n  ashlar-sim --verify --seed \(seed) --trace")
      flushOutput()
    }
    print("\(found) failed")
    if found > 0 { throw ExitCode(1) }
  }

  private func show(_ seed: UInt64, _ point: FaultPoint) throws {
    let (report, all) = FaultPoints.run(seed: seed, point, isTracing: true)
    if trace || !report.passed {
      print(all.suffix(trace ? all.count : lines).joined(separator: "\n"))
    }
    for violation in report.violations { print("BROKEN \(violation)") }
    print(report.passed ? "passed" : "again: ashlar-sim --seed \(seed) --at \(point) --trace")
    if !report.passed { throw ExitCode(1) }
  }

  /// The command that repeats a seed.
  func repeating(_ seed: UInt64) -> String {
    var words = ["ashlar-sim --seed \(seed)"]
    if let canary { words.append("--canary \(canary)") }
    if withoutLineageCheck { words.append("--without-lineage-check") }
    return words.joined(separator: " ")
  }
}

/// Lets a reader of a pipe see what was printed.
func flushOutput() { _ = fflush(nil) }

AshlarSim.main()
