/// What a load does: which blocks, in which order, how many at once, how fast, for how long.

/// The access pattern, in fio's words.
public enum AccessPattern: String, CaseIterable, BitwiseCopyable, Sendable {
  /// Reads at random blocks.
  case randread
  /// Writes at random blocks.
  case randwrite
  /// Reads and writes at random blocks.
  case randrw
  /// Reads in order, again from the start after the end.
  case read
  /// Writes in order, again from the start after the end.
  case write

  /// Whether it changes data.
  public var writes: Bool { self != .randread && self != .read }
  /// Whether it reads.
  public var reads: Bool { self != .randwrite && self != .write }
  /// Whether blocks come in order.
  public var isSequential: Bool { self == .read || self == .write }
}

/// One load, as the user asked for it. `checked()` must have passed before it runs.
public struct Workload: Equatable, Sendable {
  /// Which blocks in which order.
  public var pattern = AccessPattern.randread
  /// Bytes of one I/O.
  public var blockBytes: UInt64 = 4096
  /// I/Os in flight, over all connections.
  public var depth = 1
  /// How long to measure.
  public var runtimeNs: UInt64 = 10_000_000_000
  /// How long to run before measuring.
  public var warmupNs: UInt64 = 0
  /// Bytes of the target that are used, from its start; 0 is the whole target.
  public var regionBytes: UInt64 = 0
  /// The limit on the rate at which I/Os are issued, if any.
  public var rate: Rate?
  /// Percentage of reads in `randrw`.
  public var readPercent = 50
  /// NBD connections.
  public var connections = 1
  /// One FLUSH after this many writes; 0 sends none.
  public var flushEvery: UInt64 = 0
  /// Whether each write is durable before it is answered.
  public var fua = false
  /// Whether blocks are stamped when written and checked when read.
  public var verifies = false
  /// Stop after this many I/Os, even before the time is over; 0 is no limit.
  public var ioLimit: UInt64 = 0
  /// Where the random numbers start.
  public var seed: UInt64 = 1

  /// The defaults of the program.
  public init() {}

  /// Most I/Os in flight: twice what any front end of ours takes.
  public static let depthLimit = 1024
  /// Most NBD connections of one load.
  public static let connectionLimit = 64
  /// Most bytes of one I/O: the largest payload buffer.
  public static let blockBytesLimit: UInt64 = 1 << 20
  /// Longest run: a day. Longer ones belong to a soak test that restarts.
  public static let runtimeLimitNs: UInt64 = 86_400_000_000_000

  /// Checks everything that does not depend on the target.
  public func checked() throws(BenchError) {
    guard blockBytes >= 512, blockBytes <= Self.blockBytesLimit, blockBytes % 512 == 0 else {
      throw .badValue(
        option: "--bs", value: sizeText(blockBytes), allowed: "a multiple of 512 from 512 to 1 MiB")
    }
    guard (1...Self.depthLimit).contains(depth) else {
      throw .badValue(
        option: "--iodepth", value: "\(depth)", allowed: "1 to \(Self.depthLimit)")
    }
    guard (1...Self.connectionLimit).contains(connections) else {
      throw .badValue(
        option: "--connections", value: "\(connections)", allowed: "1 to \(Self.connectionLimit)")
    }
    guard connections <= depth else {
      throw .badValue(
        option: "--connections", value: "\(connections)",
        allowed: "at most --iodepth (\(depth)), or some connections would have nothing to do")
    }
    guard runtimeNs > 0, runtimeNs <= Self.runtimeLimitNs else {
      throw .badValue(
        option: "--runtime", value: "\(runtimeNs / 1_000_000) ms", allowed: "1 ms to 24 h")
    }
    guard warmupNs <= Self.runtimeLimitNs else {
      throw .badValue(
        option: "--warmup", value: "\(warmupNs / 1_000_000) ms", allowed: "at most 24 h")
    }
    guard (0...100).contains(readPercent) else {
      throw .badValue(option: "--rwmixread", value: "\(readPercent)", allowed: "0 to 100")
    }
    switch rate {
    case .operations(0), .bytes(0):
      throw .badValue(option: "--rate", value: "0", allowed: "at least 1 a second")
    case .operations, .bytes, nil: break
    }
    if fua || flushEvery > 0, !pattern.writes {
      throw .badValue(
        option: fua ? "--fua" : "--flush-every", value: "with --rw \(pattern.rawValue)",
        allowed: "it needs a load that writes")
    }
  }

  /// Blocks of `blockBytes` that the load uses on a target of `targetBytes`.
  public func blockCount(targetBytes: UInt64) throws(BenchError) -> UInt64 {
    let region = regionBytes == 0 ? targetBytes : regionBytes
    guard region <= targetBytes else {
      throw .badValue(
        option: "--size", value: sizeText(region),
        allowed: "at most the size of the target, \(sizeText(targetBytes))")
    }
    let blocks = region / blockBytes
    guard blocks > 0 else {
      throw .badValue(
        option: regionBytes == 0 ? "--bs" : "--size",
        value: sizeText(regionBytes == 0 ? blockBytes : region),
        allowed: "at least one block of \(sizeText(blockBytes)) must fit into \(sizeText(region))")
    }
    return blocks
  }

  /// `randwrite, 4 KiB, depth 32`: for the head of a report.
  public var summary: String {
    var parts = [pattern.rawValue, sizeText(blockBytes), "depth \(depth)"]
    if pattern == .randrw { parts.append("\(readPercent) % reads") }
    if connections > 1 { parts.append("\(connections) connections") }
    switch rate {
    case .operations(let count): parts.append("at most \(count) IOPS")
    case .bytes(let bytes): parts.append("at most \(sizeText(bytes))/s")
    case nil: break
    }
    if fua { parts.append("FUA") }
    if flushEvery > 0 { parts.append("a flush every \(flushEvery) writes") }
    if verifies { parts.append("verified") }
    return parts.joined(separator: ", ")
  }
}
