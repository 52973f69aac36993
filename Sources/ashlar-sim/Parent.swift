/// Divides seeds among child processes and gathers what they say.
///
/// Each job takes the next range of seeds when it is done with its own. The parent reads the lines
/// of all children; a child that ends between `begin` and `end` died in that seed.
import Foundation
import Simulation

/// The parent of the children that run seeds.
struct Parent {
  private let command: AshlarSim
  /// Nothing is printed, and nothing goes on after the last failure that is wanted.
  private let isQuiet: Bool
  private let canary: Canary?
  private var next: UInt64
  private let last: UInt64
  private var passed = 0
  private(set) var failed: [(seed: UInt64, text: String)] = []
  private var events: UInt64 = 0
  private var virtualNanoseconds: UInt64 = 0
  private var faults = [Int](repeating: 0, count: FaultKind.allCases.count)
  private var refusals: [String: (forked: Int, whole: Int)] = [:]
  private var disks = [Int](repeating: 0, count: Statistics().diskCounts.count)
  private var coverage = Coverage()
  private let deadline: Date?

  /// Seeds a child gets at once.
  private static let share: UInt64 = 50

  init(command: AshlarSim, canary: Canary?, isQuiet: Bool = false) {
    self.command = command
    self.isQuiet = isQuiet
    self.canary = canary
    next = command.first
    last = command.first + command.seeds
    deadline = command.duration.map { Date().addingTimeInterval(TimeInterval($0)) }
  }

  private final class Child {
    let process = Process()
    let pipe = Pipe()
    var seeds: Range<UInt64>
    var running: UInt64?
    var rest = Data()
    /// Everything that it printed was read.
    var isAtEnd = false

    init(seeds: Range<UInt64>) { self.seeds = seeds }
  }

  /// Runs all seeds. Returns whether all passed.
  mutating func run() throws -> Bool {
    let began = Date()
    var children: [Child] = []
    while true {
      while children.count < command.jobs, let seeds = takeShare() {
        children.append(try start(seeds))
      }
      guard !children.isEmpty else { break }
      for child in children { read(child) }
      for child in children where child.isAtEnd {
        if let again = try finish(child) { children.append(again) }
        children.removeAll { $0 === child }
        break
      }
      guard isQuiet, failed.count >= command.failures else { continue }
      for child in children {
        child.process.terminate()
        child.process.waitUntilExit()
      }
      return false
    }
    if !isQuiet { report(Date().timeIntervalSince(began)) }
    return failed.isEmpty
  }

  private mutating func takeShare() -> Range<UInt64>? {
    guard next < last, failed.count < command.failures else { return nil }
    if let deadline, Date() > deadline { return nil }
    let end = min(last, next + Self.share)
    defer { next = end }
    return next..<end
  }

  private func start(_ seeds: Range<UInt64>) throws -> Child {
    let child = Child(seeds: seeds)
    child.process.executableURL = URL(fileURLWithPath: "/proc/self/exe").resolvingSymlinksInPath()
    var arguments = [
      "--worker", "--from", "\(seeds.lowerBound)", "--seeds", "\(seeds.count)",
    ]
    if let canary {
      arguments += ["--canary", "\(canary)"]
      if canary.isFoundByVerifying { arguments.append("--verify") }
    }
    if command.withoutLineageCheck { arguments.append("--without-lineage-check") }
    child.process.arguments = arguments
    child.process.standardOutput = child.pipe
    child.process.standardError = FileHandle.nullDevice
    // A trap is reported here with its seed; repeating the seed shows the backtrace.
    var environment = ProcessInfo.processInfo.environment
    environment["SWIFT_BACKTRACE"] = "enable=no"
    child.process.environment = environment
    try child.process.run()
    return child
  }

  private mutating func read(_ child: Child) {
    let data = child.pipe.fileHandleForReading.availableData
    child.rest.append(data)
    while let end = child.rest.firstIndex(of: 10) {
      let line = String(decoding: child.rest[child.rest.startIndex..<end], as: UTF8.self)
      child.rest = Data(child.rest[(end + 1)...])
      take(line, child)
    }
    child.isAtEnd = data.isEmpty
  }

  private mutating func take(_ line: String, _ child: Child) {
    let words = line.split(separator: " ", maxSplits: 10).map(String.init)
    guard words.count >= 2, let seed = UInt64(words[1]) else { return }
    if words[0] == "begin" {
      child.running = seed
      return
    }
    guard words[0] == "end", words.count >= 10 else { return }
    child.running = nil
    child.seeds = (seed + 1)..<child.seeds.upperBound
    events += UInt64(words[3]) ?? 0
    virtualNanoseconds += UInt64(words[4]) ?? 0
    for (index, count) in words[6].split(separator: ",").enumerated() where index < faults.count {
      faults[index] += Int(count) ?? 0
    }
    coverage.add(faults: words[6], reached: words[9])
    take(refusals: words[7])
    for (index, count) in words[8].split(separator: ",").enumerated() where index < disks.count {
      disks[index] += Int(count) ?? 0
    }
    if words[2] == "ok" {
      passed += 1
    } else {
      fail(seed, words.count > 10 ? words[10] : "")
    }
  }

  /// Adds "reason=forked/whole,...".
  private mutating func take(refusals text: String) {
    for entry in text.split(separator: ",") where entry != "-" {
      let parts = entry.split(whereSeparator: { "=/".contains($0) })
      guard parts.count == 3, let forked = Int(parts[1]), let whole = Int(parts[2]) else {
        continue
      }
      let old = refusals[String(parts[0])] ?? (0, 0)
      refusals[String(parts[0])] = (old.0 + forked, old.1 + whole)
    }
  }

  private mutating func fail(_ seed: UInt64, _ text: String) {
    guard failed.count < command.failures else { return }
    failed.append((seed, text))
    guard !isQuiet else { return }
    print("seed \(seed) FAILED: \(text)")
    flushOutput()
  }

  /// A child ended. One that died in a seed leaves the rest of its range.
  private mutating func finish(_ child: Child) throws -> Child? {
    child.process.waitUntilExit()
    guard let seed = child.running else { return nil }
    fail(seed, "the core stopped itself: a precondition failed")
    guard failed.count < command.failures, seed + 1 < child.seeds.upperBound else { return nil }
    return try start((seed + 1)..<child.seeds.upperBound)
  }

  private func report(_ elapsed: TimeInterval) {
    let hours = Double(virtualNanoseconds) / 3.6e12
    for failure in failed {
      print("\nseed \(failure.seed): \(failure.text)\n  \(command.repeating(failure.seed))")
    }
    print(
      """

      \(passed) seeds passed, \(failed.count) failed; \(events) events, \
      \(String(format: "%.1f", hours)) simulated hours, \(String(format: "%.1f", elapsed)) s
      """)
    let counts = FaultKind.allCases.map { "\($0) \(faults[$0.rawValue])" }
    let names = Statistics().diskCounts.map(\.name)
    print("disks: \(zip(names, disks).map { "\($0) \($1)" }.joined(separator: ", "))")
    print("faults: \(counts.joined(separator: ", "))")
    if command.coverage { coverage.report() }
    let reasons = refusals.sorted { $0.key < $1.key }
      .map { "\($0.key) \($0.value.forked)/\($0.value.whole)" }
    print("refusals (both sides hold own writes/not): \(reasons.joined(separator: ", "))")
  }
}
