/// The enumeration of crashes, divided among child processes.
///
/// A child takes every n-th scenario and prints a line for each state that breaks a promise, and
/// its totals at the end. One that ends without totals has stopped itself in the scenario that it
/// named last.
import ArgumentParser
import Foundation
import Simulation

extension AshlarSim {
  /// A child, or the only process: every `parts`-th scenario from `part` on.
  func tryCrashes() throws {
    var tally = CrashTally()
    var failed = 0
    for (index, scenario) in CrashScenario.all.enumerated() where index % jobs == part {
      print("scenario \(scenario)")
      flushOutput()
      CrashStates.tryAll(
        of: scenario, oneIn: share, salt: first, canary: plantedBug, into: &tally
      ) { state, violation in
        failed += 1
        print("BROKEN \(violation)\n  ashlar-sim --crash '\(state)'")
        flushOutput()
        return failed < failures
      }
      if failed >= failures { break }
    }
    print(
      "tally \(tally.scenarios) \(tally.points) \(tally.states) \(tally.pointsCutShort) \(failed)")
  }

  /// The same for effects that fail: every `jobs`-th pair of a named run and a seed.
  func tryFailures() throws {
    var tried = 0
    var failed = 0
    var index = 0
    for run in SmallRun.allCases {
      for seed in first..<(first + seeds) where failed < failures {
        defer { index += 1 }
        guard index % jobs == part else { continue }
        print("scenario \(run):\(seed)")
        flushOutput()
        tried += EffectFailures.tryAll(run, seed: seed, canary: plantedBug) { failure, violation in
          failed += 1
          print("BROKEN \(violation)\n  ashlar-sim --effect \(failure)")
          flushOutput()
          return failed < failures
        }
      }
    }
    print("tally 0 \(tried) 0 0 \(failed)")
  }

  /// One failure again, with its trace.
  func showFailure(_ failure: EffectFailure) throws {
    let (violation, all) = EffectFailures.run(failure, canary: plantedBug, isTracing: true)
    print(all.suffix(trace ? all.count : lines).joined(separator: "\n"))
    print(violation.map { "BROKEN \($0)" } ?? "passed")
    if violation != nil { throw ExitCode(1) }
  }

  /// One state again, with its trace.
  func showCrash(_ state: CrashState) throws {
    let (violation, all) = CrashStates.run(state, canary: plantedBug)
    print(all.suffix(trace ? all.count : lines).joined(separator: "\n"))
    print(violation.map { "BROKEN \($0)" } ?? "passed")
    if violation != nil { throw ExitCode(1) }
  }

  /// Runs `tryCrashes` or `tryFailures` in `jobs` processes and adds up what they say.
  func enumerateInParts() throws {
    let began = Date()
    var children: [(process: Process, pipe: Pipe)] = []
    for part in 0..<jobs {
      let process = Process()
      process.executableURL = URL(fileURLWithPath: "/proc/self/exe").resolvingSymlinksInPath()
      process.arguments = [
        "--worker", crashes ? "--crashes" : "--effects", "--seeds", "\(seeds)", "--share",
        "\(share)", "--from", "\(first)", "--jobs", "\(jobs)",
        "--part", "\(part)", "--failures", "\(failures)",
      ]
      if let canary { process.arguments? += ["--canary", canary] }
      // A run takes a few megabytes and gives them back: the system would clear them each time.
      process.environment = ProcessInfo.processInfo.environment.merging([
        "MALLOC_MMAP_THRESHOLD_": "67108864", "MALLOC_TRIM_THRESHOLD_": "268435456",
      ]) { old, _ in old }
      let pipe = Pipe()
      process.standardOutput = pipe
      try process.run()
      children.append((process, pipe))
    }
    var totals = [Int](repeating: 0, count: 5)
    for child in children {
      let text = String(
        decoding: child.pipe.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
      child.process.waitUntilExit()
      add(text.split(separator: "\n").map(String.init), to: &totals)
    }
    let seconds = String(format: "%.1f", Date().timeIntervalSince(began))
    guard crashes else {
      print("\(totals[1]) effects that fail, \(totals[4]) failed; \(seconds) s")
      if totals[4] > 0 { throw ExitCode(1) }
      return
    }
    print(
      """
      \(totals[0]) scenarios, \(totals[1]) points, \(totals[2]) states of the disks, \
      \(totals[4]) failed (\(totals[3]) points with more than \(CrashStates.unitLimit) unsafe \
      writes); \(seconds) s
      """)
    if totals[4] > 0 { throw ExitCode(1) }
  }

  private func add(_ lines: [String], to totals: inout [Int]) {
    for line in lines where !line.hasPrefix("scenario") && !line.hasPrefix("tally") { print(line) }
    guard let last = lines.last, last.hasPrefix("tally") else {
      let scenario = lines.last { $0.hasPrefix("scenario") } ?? "scenario unknown"
      print("the core stopped itself in \(scenario): a precondition failed")
      totals[4] += 1
      return
    }
    for (index, number) in last.split(separator: " ").dropFirst().enumerated()
    where index < totals.count {
      totals[index] += Int(number) ?? 0
    }
  }
}
