/// Small runs for the enumeration of crashes: up to three requests of clients on a pair.
///
/// The volume has four blocks and each is an extent of the activity log, so that the second write
/// to a block finds its extent hot and the first one does not.
import BlockTypes
import Replication

/// A request of a client in a small run.
package enum CrashRequest: String, CaseIterable, Sendable {
  /// Writes a whole block.
  case write
  /// Writes half of that block and half of the next one.
  case overlap
  /// Writes another block.
  case other
  /// Writes the first block with FUA.
  case durable
  /// Trims the first block.
  case trim
  case flush

  var operation: Replication.Operation {
    switch self {
    case .write, .overlap, .other, .durable: .write
    case .trim: .trim
    case .flush: .flush
    }
  }

  var sectors: Range<Int> {
    switch self {
    case .write, .durable, .trim: 0..<8
    case .overlap: 4..<12
    case .other: 16..<24
    case .flush: 0..<0
    }
  }
}

/// What the pair is doing when the requests come.
package enum CrashSituation: String, CaseIterable, Sendable {
  /// Both are connected and equal.
  case pair
  /// The Secondary is gone.
  case alone
  /// The Secondary is being synced.
  case resync
}

/// One small run.
package struct CrashScenario: Equatable, Sendable, CustomStringConvertible {
  package var requests: [CrashRequest]
  /// All at once, or each when the one before is done.
  package var isTogether: Bool
  package var situation: CrashSituation
  /// The node that is Primary.
  package var primary: Int

  init(
    _ requests: [CrashRequest], isTogether: Bool, _ situation: CrashSituation, primary: Int
  ) {
    self.requests = requests
    self.isTogether = isTogether
    self.situation = situation
    self.primary = primary
  }

  /// Reads "write,flush/together/pair/0".
  package init?(_ text: String) {
    let parts = text.split(separator: "/").map(String.init)
    guard parts.count == 4, ["together", "inTurn"].contains(parts[1]),
      let situation = CrashSituation(rawValue: parts[2]), let primary = Int(parts[3]),
      (0...1).contains(primary)
    else { return nil }
    let names = parts[0].split(separator: ",").map(String.init)
    let requests = names.compactMap(CrashRequest.init(rawValue:))
    guard requests.count == names.count, (1...3).contains(requests.count) else { return nil }
    self.init(requests, isTogether: parts[1] == "together", situation, primary: primary)
  }

  package var description: String {
    let names = requests.map(\.rawValue).joined(separator: ",")
    return "\(names)/\(isTogether ? "together" : "inTurn")/\(situation)/\(primary)"
  }

  /// All of them: every sequence of one to three requests on a pair, and every sequence of one or
  /// two with the other node as Primary, without the Secondary, and during a resync.
  package static let all: [CrashScenario] = {
    var all: [CrashScenario] = []
    for requests in sequences(upTo: 3) {
      for isTogether in requests.count == 1 ? [true] : [true, false] {
        all.append(CrashScenario(requests, isTogether: isTogether, .pair, primary: 0))
        guard requests.count < 3 else { continue }
        for situation in CrashSituation.allCases {
          for primary in 0...1 where situation != .pair || primary == 1 {
            all.append(CrashScenario(requests, isTogether: isTogether, situation, primary: primary))
          }
        }
      }
    }
    return all
  }()

  private static func sequences(upTo length: Int) -> [[CrashRequest]] {
    var all: [[CrashRequest]] = []
    var longest: [[CrashRequest]] = [[]]
    for _ in 0..<length {
      longest = longest.flatMap { first in CrashRequest.allCases.map { first + [$0] } }
      all += longest
    }
    return all
  }
}

extension CrashScenario {
  /// The options of the run. Timings differ from scenario to scenario.
  var options: SwarmOptions {
    var seed: UInt64 = 0xCBF2_9CE4_8422_2325
    for byte in description.utf8 { seed = (seed ^ UInt64(byte)) &* 0x100_0000_01B3 }
    var options = SwarmOptions(quiet: seed)
    var random = SeededGenerator(seed: seed)
    options.volumeBlocks = 4
    options.hotBlocks = 4
    options.clientDepth = 3
    options.clientRequests = 0
    options.resyncRequestBytes = blockSize
    options.resyncWindow = 1
    options.activityLogScale = 1_024
    options.bufferCount = 64
    options.diskLatency = (0...1).map { _ in
      Latency(floorUs: random.coin() ? 50 : 200, spreadUs: 100)
    }
    options.networkDelay = Latency(floorUs: random.coin() ? 30 : 150, spreadUs: 50)
    return options
  }
}
