internal import BlockIO
internal import BlockTypes

/// A target that is open and ready for loads. What a command works with; not on the path of an I/O.
protocol Measurable: AnyObject {
  /// Its name.
  var name: String { get }
  /// Its size.
  var byteCount: UInt64 { get }
  /// Runs the load for its time, with its own pattern or another.
  func measure(_ pattern: AccessPattern?) throws(BenchError) -> Measurement
  /// Reads and checks everything that was written.
  func readBack() throws(BenchError)
  /// What checking has found so far.
  var verification: VerificationResult { get }
  /// Takes leave of the target.
  func close()
}

/// How a session checks data.
enum Verification: Equatable, Sendable {
  /// Not at all.
  case off
  /// Blocks are stamped and checked; what was written is remembered in memory or in a file.
  case log(path: String?)
  /// Reads are checked for whole stamps of their own address.
  case alone
  /// Nothing is written; the disk is compared with a log.
  case compare(path: String, allowsTorn: Bool)
}

/// Opens a target for a load.
///
/// - Parameter isWriter: whether the session will write, whatever the load's own pattern is.
func openSession(
  _ address: TargetAddress, _ workload: Workload, verification: Verification = .off,
  isWriter: Bool? = nil, processes: [MeasuredProcess] = []
) throws(BenchError) -> any Measurable {
  try workload.checked()
  var reactor = try makeReactor(workload)
  switch address {
  case .raw(let path):
    let writes = isWriter ?? workload.pattern.writes
    let target = try RawTarget(path: path, readOnly: !writes)
    return try Session(reactor, target, workload, verification, processes)
  case .nbdUnix, .nbdTCP:
    let target = try NBDTarget(address, connections: workload.connections, reactor: &reactor)
    return try Session(reactor, target, workload, verification, processes)
  }
}

/// A reactor with just the buffers and slots that the load needs.
private func makeReactor(_ workload: Workload) throws(BenchError) -> Reactor {
  var sizes = BufferPoolSizes(small: 0, medium: 0, large: 0, huge: 0)
  switch workload.blockBytes {
  case ...(4 << 10): sizes.small = workload.depth
  case ...(32 << 10): sizes.medium = workload.depth
  case ...(256 << 10): sizes.large = workload.depth
  default: sizes.huge = workload.depth
  }
  let options = ReactorOptions(
    operationSlots: workload.depth + 16, streamSlots: workload.connections, buffers: sizes)
  do throws(SystemError) {
    return try Reactor(options: options)
  } catch {
    throw .system(error)
  }
}

/// A session on one kind of target.
final class Session<Target: BlockTarget & ~Copyable>: Measurable {
  private var loop: LoadLoop<Target>
  private let workload: Workload
  private let processes: [MeasuredProcess]
  let name: String
  let byteCount: UInt64

  init(
    _ reactor: consuming Reactor, _ target: consuming Target, _ workload: Workload,
    _ verification: Verification, _ processes: [MeasuredProcess]
  ) throws(BenchError) {
    name = target.name
    byteCount = target.byteCount
    try target.check(workload)
    let verifier = try Self.makeVerifier(verification, workload, targetBytes: target.byteCount)
    loop = try LoadLoop(
      reactor: reactor, target: target, workload: workload, verifier: verifier)
    self.workload = workload
    self.processes = processes
  }

  private static func makeVerifier(
    _ verification: Verification, _ workload: Workload, targetBytes: UInt64
  ) throws(BenchError) -> Verifier {
    let region = try workload.blockCount(targetBytes: targetBytes) * workload.blockBytes
    switch verification {
    case .off:
      let log = try WriteLog(path: nil, seed: 0, blockBytes: 4096, regionBytes: 4096)
      return Verifier(mode: .off, log: log, depth: workload.depth)
    case .alone, .log:
      var path: String?
      if case .log(let given) = verification { path = given }
      // A number of its own: what an earlier run left must not be taken for this one's.
      let log = try WriteLog(
        path: path, seed: .random(in: .min ... .max), blockBytes: workload.blockBytes,
        regionBytes: region)
      let mode = verification == .alone ? Verifier.Mode.alone : .log
      // A read that meets a write may return parts of both: no disk promises more, and a server
      // that reads through the page cache does it. Read back later, the block must be whole.
      return Verifier(mode: mode, log: log, depth: workload.depth, allowsTorn: true)
    case .compare(let path, let allowsTorn):
      let log = try WriteLog(reading: path)
      guard log.regionBytes <= targetBytes else {
        throw .badLog(
          path: path,
          reason: "it covers \(sizeText(log.regionBytes)), the target has only "
            + sizeText(targetBytes))
      }
      return Verifier(mode: .log, log: log, depth: workload.depth, allowsTorn: allowsTorn)
    }
  }

  func measure(_ pattern: AccessPattern?) throws(BenchError) -> Measurement {
    let pattern = pattern ?? workload.pattern
    if workload.warmupNs > 0 { _ = try loop.run(pattern, durationNs: workload.warmupNs) }
    let before = processes.map { $0.processorNs() }
    let counts = try loop.run(pattern, durationNs: workload.runtimeNs)
    let used = zip(processes, before).map { process, earlier in
      ProcessFigures(process, usedNs: process.processorNs() - earlier, counts)
    }
    return Measurement(target: name, counts, processor: used)
  }

  func readBack() throws(BenchError) { _ = try loop.readBack() }

  var verification: VerificationResult { loop.verifier.result }

  func close() { loop.close() }
}
