/// What one run is like, drawn from its seed: which faults exist, how often, how big and how fast.
///
/// Every seed enables a random subset (swarm testing): a run without power losses reaches states
/// that constant power losses would hide. A failing run prints its options; the seed alone rebuilds
/// them.
import BlockTypes
import Metadata
package import Replication
package import Wire

/// A planted bug that the oracles are expected to find.
package typealias Canary = Sabotage

extension Canary {
  /// Every bug that can be planted.
  package static var planted: [Canary] { allCases.filter { $0 != .none } }

  /// Bugs that are not found within 1000 seeds: what the simulator is known not to see.
  package static var blindSpots: [Canary] { [] }

  /// What `--canary` takes.
  package static var names: [String] { allCases.map { "\($0)" } }

  /// The bug of a name; `none` is one.
  package init?(named name: String) {
    guard let bug = Self.allCases.first(where: { "\($0)" == name }) else { return nil }
    self = bug
  }
}

/// Kinds of disturbance. Each is switched on or off for a whole run.
package enum FaultKind: Int, CaseIterable, Sendable {
  case killPrimary, killSecondary, killBoth
  case powerPrimary, powerSecondary, powerBoth
  case restartCleanly
  case pauseNode
  case cutConnection, halfOpenConnection
  case blockOneWay, blockBothWays
  case slowDisk
  case readErrors, writeErrors, flushErrors
  case switchOver, demoteAndPromote
  case disconnectCommand
  case invalidateSecondary, invalidateRemote
  case pauseSync
  /// Another resource is to be in sync before.
  case resyncAfter
  case promoteBoth
  case carelessPromote
  /// The path is blocked and the Secondary is promoted, perhaps by force where it was being filled:
  /// a split brain, if both write.
  case isolateAndPromote
  /// One bit of a message on its way is flipped, of its data only where that is protected.
  case corruptMessage
  /// A few sectors cannot be read until they are written again.
  case badSectors
  /// A disk answers nothing for a while, or never again.
  case hangDisk
  /// The Primary's disk is taken away under its clients.
  case detachPrimary
  /// A node's clock leaps ahead, as after a pause of its virtual machine; its date goes anywhere.
  case clockLeap
  /// A bit of one copy of the superblock, of the activity log or of a bitmap on disk flips while
  /// the node is down.
  case rotSuperblock, rotLog, rotBitmap
}

/// What one run is like.
package struct SwarmOptions: Equatable, Sendable {
  /// The seed that everything follows from.
  package var seed: UInt64
  /// Blocks of 4 KiB in the volume.
  package var volumeBlocks = 64
  /// Requests that clients keep in flight.
  package var clientDepth = 4
  /// Requests that clients make in all.
  package var clientRequests = 400
  /// Clients prefer the first so many blocks, which makes ranges overlap.
  package var hotBlocks = 16
  /// Sectors in one request, at most.
  package var requestSectors = 32
  /// Pause of a client between requests.
  package var think = Latency(floorUs: 10, spreadUs: 2_000)
  /// Of 100 requests: reads, flushes, trims, write-zeroes; the rest are writes.
  package var readPercent: UInt64 = 25
  package var flushPercent: UInt64 = 5
  package var trimPercent: UInt64 = 3
  package var zeroPercent: UInt64 = 3
  /// Requests that clients make at full speed, from the start and again from shortly before each
  /// disturbance; between, they only trickle. 0: they always go at full speed.
  package var burstRequests = 0
  /// How often a crash waits until the node writes metadata, and strikes while that is under way or
  /// soon after it.
  package var aimedCrashes = Ratio.never
  /// How often a cut comes at the end of a resync, while its target flushes.
  package var aimedCuts = Ratio.never
  /// For how many of his looks the administrator leaves a node without its disk.
  package var disklessTurns = 3
  /// Writes with FUA.
  package var forceUnitAccess = Ratio(1, of: 10)
  /// Requests that go to the Secondary, which must refuse them.
  package var wrongNode = Ratio.never
  /// Time of one disk operation, for each node.
  package var diskLatency = [
    Latency(floorUs: 50, spreadUs: 100), Latency(floorUs: 50, spreadUs: 100),
  ]
  /// Time that a message is on its way.
  package var networkDelay = Latency(floorUs: 30, spreadUs: 70)
  /// Disturbances that this run has.
  package var faults: [FaultKind] = []
  /// Disturbances in all.
  package var faultCount = 0
  /// Pause between disturbances, in milliseconds, at most.
  package var faultPauseMs: UInt64 = 3_000
  /// How long a disturbance lasts, in milliseconds, at most.
  package var faultLastsMs: UInt64 = 4_000
  /// Whether the second replica starts empty and is synced while clients write.
  package var clientsDuringFirstSync = true
  /// Whether the surviving node is promoted when the Primary is gone.
  package var failsOver = true
  /// Bytes that one resync request covers.
  package var resyncRequestBytes: UInt64 = 16 * blockSize
  /// Resync requests under way at once.
  package var resyncWindow = 2
  /// Whether each node compares digests before it pulls blocks (`csums-alg`).
  package var comparesChecksums = [false, false]
  /// Blocks in one chunk of a bitmap that is told to the peer.
  package var bitmapChunkBlocks: UInt64 = 64
  /// How much smaller than 4 MiB the extents of the activity log are.
  package var activityLogScale: UInt64 = 512
  /// Extents that nobody wrote to for so long leave the activity log, in milliseconds.
  package var coolAfterMs: UInt32 = 20_000
  /// The core's `c-max-rate` and `c-min-rate` in bytes a second; 0 where the one, `nil` where the
  /// other is not set.
  package var resyncBytesPerSecondMost: UInt64 = 0
  package var resyncBytesPerSecondBusy: UInt64?
  /// The core's `ping-int`, `timeout` and `ko-count`.
  package var pingIntervalMs: UInt64 = 2_000
  package var timeoutMs: UInt64 = 1_000
  package var koCount: UInt64 = 3
  /// What the configuration of each node decides about a split brain.
  package var policies = [ConflictPolicy(), ConflictPolicy()]
  /// How often a page of the bitmap cannot be read at an attach, though the next one can read it.
  package var passingReadErrors = Ratio.never
  /// How often what is kept for a discard cannot be kept.
  package var undoFailure = Ratio.never
  /// The core's `disk-timeout`; 0: none.
  package var diskTimeoutMs: UInt64 = 0
  /// Buffers of one node. The export takes one a client at most, so a few are always left to the
  /// peer and the resync.
  package var bufferCount = 256
  /// Whether the lineage on disk is inspected when a write is acknowledged by one node alone. Off,
  /// a missing generation is found only by what it leads to.
  package var checksLineage = true
  /// `data-integrity-alg` of both nodes.
  package var integrity = IntegrityAlgorithm.none
  /// The planted bug.
  package var canary = Canary.none

  /// A quiet run: no faults. Named scenarios start from here.
  package init(quiet seed: UInt64) { self.seed = seed }

  /// The run that belongs to `seed`.
  package init(seed: UInt64) {
    self.seed = seed
    var random = SeededGenerator(seed: seed ^ 0x5357_4152_4D00_0000)
    volumeBlocks = Int(random.within(16...160))
    if random.chance(Ratio(1, of: 5)) { volumeBlocks *= 3 }
    clientDepth = Int(random.within(1...10))
    clientRequests = Int(random.within(150...600))
    hotBlocks = random.coin() ? volumeBlocks : Int(random.within(2...16))
    requestSectors = [1, 8, 16, 64, 256][random.index(5)]
    let spreads: [UInt64] = [200, 2_000, 20_000, 100_000]
    think = Latency(
      floorUs: 10, spreadUs: spreads[random.index(4)], tail: Ratio(1, of: 50), tailUs: 500_000)
    readPercent = random.within(5...50)
    flushPercent = random.coin() ? random.within(1...15) : 0
    trimPercent = random.coin() ? random.within(1...8) : 0
    zeroPercent = random.coin() ? random.within(1...8) : 0
    forceUnitAccess = random.coin() ? Ratio(1, of: 8) : .never
    wrongNode = random.coin() ? Ratio(1, of: 40) : .never
    diskLatency = [Self.drawDisk(&random), Self.drawDisk(&random)]
    networkDelay = Self.drawNetwork(&random)
    faults = FaultKind.allCases.filter { _ in random.below(3) == 0 }
    if !random.chance(Ratio(1, of: 3)) {
      faults.removeAll { $0 == .carelessPromote || $0 == .isolateAndPromote }
    }
    if !random.chance(Ratio(1, of: 4)) {
      faults.removeAll { $0 == .writeErrors || $0 == .flushErrors }
    }
    faultCount = faults.isEmpty ? 0 : Int(random.within(1...12))
    burstRequests = random.below(4) == 0 ? 0 : Int(random.within(5...60))
    aimedCrashes = random.coin() ? Ratio(1, of: 2) : .never
    faultPauseMs = [100, 500, 2_000, 8_000][random.index(4)]
    faultLastsMs = [50, 500, 3_000, 12_000][random.index(4)]
    bufferCount = clientDepth + (random.coin() ? 256 : Int(random.within(8...32)))
    clientsDuringFirstSync = random.coin()
    failsOver = random.coin()
    resyncRequestBytes = [1, 4, 16, 64][random.index(4)] * blockSize
    resyncWindow = Int(random.within(1...6))
    pingIntervalMs = [500, 2_000, 10_000][random.index(3)]
    timeoutMs = [500, 1_000, 6_000][random.index(3)]
    koCount = random.within(1...7)
    diskTimeoutMs = [0, 300, 2_000][random.index(3)]
    activityLogScale = [256, 512, 1_024][random.index(3)]
    coolAfterMs = [20, 200, 2_000, 20_000][random.index(4)]
    if random.chance(Ratio(1, of: 4)) {
      resyncBytesPerSecondMost = random.within(1...64) * 16_384
    }
    if random.chance(Ratio(1, of: 4)) {
      resyncBytesPerSecondBusy = random.within(0...16) * 16_384
    }
    // More chunks than may be under way at once: writes pass between them.
    bitmapChunkBlocks = [8, 16, 64][random.index(3)]
    integrity = [.none, .crc32c, .crc32c, .xxh3][random.index(4)]
    // A change must fit the activity log at once.
    resyncRequestBytes = min(resyncRequestBytes, ActivityLog.rangeBytesLimit / activityLogScale)
    comparesChecksums = [random.coin(), random.coin()]
    undoFailure = random.coin() ? Ratio(1, of: 4) : .never
    if random.chance(Ratio(1, of: 4)) { policies = Self.drawPolicies(&random) }
    if random.chance(Ratio(1, of: 6)) { splitOften() }
    aimedCuts = random.coin() ? Ratio(1, of: 3) : .never
    drawTheme(&random)
    passingReadErrors = random.chance(Ratio(1, of: 4)) ? Ratio(1, of: 2) : .never
  }

  /// A third of the runs have little else than one kind of trouble, again and again: what needs
  /// several rare events in a row happens there.
  private mutating func drawTheme(_ random: inout SeededGenerator) {
    switch random.below(18) {
    case 0: isolate(&random)
    case 1: promoteCarelessly(&random)
    case 2: cutWhileDisksAreSlow(&random)
    case 3: wearDisks(&random)
    case 4: loseDiskAndPeer(&random)
    case 5: crashWhileMarksAreWritten(&random)
    default: break
    }
  }

  /// Few cuts end in a split brain: some runs have hardly anything else, and clients that go on
  /// writing on both sides until the last one.
  private mutating func splitOften() {
    faults += Array(repeating: .isolateAndPromote, count: max(2, faults.count))
    faultCount = max(faultCount, 6)
    faultPauseMs = 8_000
    faultLastsMs = 3_000
    (pingIntervalMs, timeoutMs, koCount) = (500, 500, min(koCount, 2))
    clientDepth = max(clientDepth, 2)
    clientRequests = 1_000
    think = Latency(floorUs: 1_000, spreadUs: 60_000 * UInt64(clientDepth))
  }

  /// Mostly the same on both nodes: where they differ nothing is decided.
  private static func drawPolicies(_ random: inout SeededGenerator) -> [ConflictPolicy] {
    var policy = ConflictPolicy()
    policy.noPrimary = NoPrimaryPolicy.allCases[random.index(NoPrimaryPolicy.allCases.count)]
    policy.onePrimary = OnePrimaryPolicy.allCases[random.index(OnePrimaryPolicy.allCases.count)]
    policy.twoPrimaries = TwoPrimariesPolicy.allCases[random.index(3)]
    var other = policy
    other.noPrimary = policy.noPrimary.mirrored
    if random.chance(Ratio(1, of: 10)) { other = ConflictPolicy() }
    return [policy, other]
  }

  /// A run in which both sides go on without each other, again and again.
  private mutating func isolate(_ random: inout SeededGenerator) {
    faults = [.isolateAndPromote] + faults.prefix(Int(random.below(3)))
    faultCount = Int(random.within(2...8))
    burstRequests = Int(random.within(5...60))
    pingIntervalMs = 500
    faultLastsMs = 3_000
    faultPauseMs = 16_000
  }

  /// A run in which nodes are disconnected and the wrong one is promoted.
  private mutating func promoteCarelessly(_ random: inout SeededGenerator) {
    faults = [.disconnectCommand, .carelessPromote] + faults.prefix(Int(random.below(3)))
    faultCount = Int(random.within(6...14))
    burstRequests = Int(random.within(5...60))
    faultLastsMs = 12_000
    faultPauseMs = 2_000
  }

  /// A run in which what the disks end may belong to a connection that is gone.
  private mutating func cutWhileDisksAreSlow(_ random: inout SeededGenerator) {
    faults = [.slowDisk, .cutConnection, .cutConnection] + faults.prefix(Int(random.below(3)))
    faultCount = Int(random.within(8...20))
    faultLastsMs = 12_000
    faultPauseMs = 2_000
    clientsDuringFirstSync = true
    aimedCuts = Ratio(1, of: 2)
    flushPercent = max(flushPercent, 8)
  }

  /// A run in which clients crowd on blocks that cannot be read.
  private mutating func wearDisks(_ random: inout SeededGenerator) {
    faults = [.badSectors, .badSectors, .readErrors] + faults.prefix(Int(random.below(2)))
    faultCount = Int(random.within(10...20))
    (faultLastsMs, faultPauseMs) = (500, 500)
    clientsDuringFirstSync = false
    burstRequests = 0
    hotBlocks = Int(random.within(2...6))
    requestSectors = [8, 16, 64][random.index(3)]
    bufferCount += 10
    clientDepth = 10
    clientRequests = 600
    readPercent = 40
    think = Latency(floorUs: 10, spreadUs: 20_000)
  }

  /// A run in which a Primary lives on its peer's data, and the peer fails, too.
  private mutating func loseDiskAndPeer(_ random: inout SeededGenerator) {
    faults = [.detachPrimary, .detachPrimary, .powerSecondary, .cutConnection]
    faults += random.coin() ? [.killSecondary] : [.writeErrors]
    faultCount = Int(random.within(8...20))
    faultLastsMs = 500
    faultPauseMs = [500, 2_000][random.index(2)]
    clientsDuringFirstSync = false
    failsOver = false
    disklessTurns = 30
    hotBlocks = Int(random.within(2...16))
    flushPercent = random.below(3)
    readPercent = 40
    (pingIntervalMs, timeoutMs, koCount) = (500, 500, 2)
  }

  /// A run in which extents leave the activity log all the time while the peer is away, and the
  /// node that writes their marks crashes.
  private mutating func crashWhileMarksAreWritten(_ random: inout SeededGenerator) {
    faults = [.blockBothWays, .killPrimary, .powerPrimary] + faults.prefix(Int(random.below(2)))
    faultCount = Int(random.within(8...20))
    faultLastsMs = 12_000
    faultPauseMs = 2_000
    burstRequests = Int(random.within(5...60))
    aimedCrashes = Ratio(1, of: 1)
    coolAfterMs = 20
    failsOver = false
    (pingIntervalMs, timeoutMs, koCount) = (500, 500, 1)
  }

  private static func drawDisk(_ random: inout SeededGenerator) -> Latency {
    let floor: UInt64 = [10, 50, 500][random.index(3)]
    let spread: UInt64 = [20, 200, 3_000, 20_000][random.index(4)]
    let tail = random.coin() ? Ratio(1, of: 200) : .never
    return Latency(floorUs: floor, spreadUs: spread, tail: tail, tailUs: 400_000)
  }

  private static func drawNetwork(_ random: inout SeededGenerator) -> Latency {
    let floor: UInt64 = [10, 30, 200][random.index(3)]
    let spread: UInt64 = [20, 100, 2_000, 20_000][random.index(4)]
    let tail = random.coin() ? Ratio(1, of: 100) : .never
    return Latency(floorUs: floor, spreadUs: spread, tail: tail, tailUs: 200_000)
  }
}

extension SwarmOptions: CustomStringConvertible {
  package var description: String {
    """
    seed \(seed), \(volumeBlocks) blocks, canary \(canary)
      clients: depth \(clientDepth), \(clientRequests) requests of at most \(requestSectors) \
    sectors, \(hotBlocks) hot blocks, think \(think)
      bursts: \(burstRequests) requests, crashes aimed at metadata: \(aimedCrashes), cuts at \
    flushes: \(aimedCuts)
      mix: \(readPercent)% read, \(flushPercent)% flush, \(trimPercent)% trim, \
    \(zeroPercent)% write-zeroes, FUA \(forceUnitAccess), wrong node \(wrongNode)
      disks: \(diskLatency[0]) | \(diskLatency[1]), pages that cannot be read once \
    \(passingReadErrors)
      network: \(networkDelay)
      faults: \(faultCount) of \(faults.map { "\($0)" }.joined(separator: " ")), every \
    \(faultPauseMs) ms, lasting \(faultLastsMs) ms
      split brain: \(policies[0].noPrimary) \(policies[0].onePrimary) | \(policies[1].noPrimary) \
    \(policies[1].onePrimary), undo fails \(undoFailure)
      operator: \(failsOver ? "fails over" : "waits for the Primary"), clients \
    \(clientsDuringFirstSync ? "during" : "after") the first sync
      core: ping \(pingIntervalMs) ms, timeout \(timeoutMs) ms x \(koCount), disk \
    \(diskTimeoutMs) ms, resync \
    \(resyncRequestBytes / 1024) KiB x \(resyncWindow), checksums \(comparesChecksums), \
    \(bufferCount) buffers, log extents of \
    \(4_096 / activityLogScale) KiB that cool after \(coolAfterMs) ms, resync rate at most \
    \(resyncBytesPerSecondMost), with clients \
    \(resyncBytesPerSecondBusy.map { "\($0)" } ?? "adaptive"), integrity \(integrity.name)
    """
  }
}
