/// Two nodes, a network, clients and an operator in virtual time: one run of the simulator.
///
/// The cluster drives the shipped core exactly as the reactor does: one event at a time, every
/// effect carried out in order before the next event. Everything that happens follows from the
/// options; the run ends at the first broken promise, or when everything has come together after
/// the last fault.
import BlockTypes
import Metadata
package import Replication
import Wire

/// What waits in the event queue.
enum Occurrence {
  case disk(node: Int, epoch: Int, DiskPurpose, SimulatedDisk.Ticket, SlotRange)
  case network(SimulatedNetwork<WireMessage>.Reminder)
  case sent(node: Int, epoch: Int, BufferID)
  case tick(node: Int, epoch: Int)
  case lateTick(node: Int, epoch: Int)
  case start(node: Int)
  case client(slot: Int)
  case operatorTurn
  case giveWay(node: Int, epoch: Int, peer: Int, heldOpen: Bool)
  case undo(node: Int, epoch: Int, number: UInt64, next: UInt64)
  case fault(Int)
  case strike(FaultKind)
  case aimedEnd(node: Int, epoch: Int, Cluster.End)
  case aimedCut(FaultKind)
  case faultEnds(node: Int, FaultKind)
  case faultsOver
}

/// The sectors of a disk operation.
struct SlotRange: Sendable {
  let start: Int
  let count: Int
}

/// One simulated cluster.
package final class Cluster {
  package let options: SwarmOptions
  package let nodes: [SimulatedNode]
  package var network: SimulatedNetwork<WireMessage>
  package var history: WriteHistory
  var queue = EventQueue<Occurrence>()
  package internal(set) var hash = EventHash()
  package internal(set) var violations: [Violation] = []
  package var statistics = Statistics()

  // One generator a part, so that one part drawing more does not shift all others.
  var diskRandom: [SeededGenerator]
  var networkRandom: SeededGenerator
  var clientRandom: SeededGenerator
  var planRandom: SeededGenerator
  var entropy: SeededGenerator
  var metadataRandom: SeededGenerator

  var clients: [ClientSlot]
  var clientRequestsLeft: Int
  var clientSerial: UInt64 = 0
  /// Clients make no new requests.
  package var clientsAreHeld = false
  /// Requests that clients may still make at full speed.
  var burstLeft: Int
  var faultsLeft: Int
  /// A cut that waits until a target flushes what it has got.
  var aimedCut: FaultKind?
  /// Faults that began and did not end.
  var faultsUnderWay = 0
  /// What keeps resyncs waiting.
  var pausesUnderWay: [FaultKind] = []
  package internal(set) var faultsAreOver = false
  package internal(set) var convergenceDeadline = UInt64.max
  package internal(set) var hasConverged = false
  /// Whether an operator promoted a replica that lacked acknowledged writes.
  var isBranched = false
  var operatorState = OperatorState()
  /// Answers to commands, newest last, for scenarios.
  package internal(set) var lastResult: [CommandResult?] = [nil, nil]

  /// Lines of the trace; empty unless `isTracing`.
  package private(set) var trace: [String] = []
  /// Whether lines are kept.
  package var isTracing = false

  /// A fault at one exact point of the run.
  package var faultPoint: FaultPoint?
  /// An effect that fails.
  package var failure: EffectFailure?
  var faultsOverAt: UInt64 = 0
  /// Effects and events since a small run began, for `CrashStates`.
  var points = 0
  /// The crash that waits for its point.
  var crashState: CrashState?
  /// What survives the crash that is happening, for each node; drawn where it is `nil`.
  var crashFates: [[Fate]?] = [nil, nil]
  /// Sectors of each write that the crash found unsafe.
  var unsafeWrites: [Int] = []
  var eventsAtThisTime = 0
  var lastEventTime: UInt64 = 0

  /// Blocks of one page of a bitmap.
  static let pageBlocks: UInt64 = 64
  static let copySectors = Superblock.byteCount / 512
  static let ringSectors = ActivityLog.ringBytes / 512
  static let pageSectors = BitmapPage.byteCount / 512
  /// A pause that ends releases hundreds of events at once, never this many.
  static let eventsAtOneTime = 100_000

  /// Sectors of the volume.
  package var volumeSectors: Int { options.volumeBlocks * 8 }

  /// Pages of the bitmap of the peer.
  static func pageCount(_ options: SwarmOptions) -> Int {
    (options.volumeBlocks + Int(pageBlocks) - 1) / Int(pageBlocks)
  }

  /// Behind the volume: two copies of the superblock, the activity log, the bitmap.
  static func metadataSectors(_ options: SwarmOptions) -> Int {
    2 * copySectors + ringSectors + pageCount(options) * pageSectors
  }

  /// Two machines with fresh metadata, switched off.
  package init(options: SwarmOptions) {
    self.options = options
    var random = SeededGenerator(seed: options.seed)
    diskRandom = [random.fork(), random.fork()]
    networkRandom = random.fork()
    clientRandom = random.fork()
    planRandom = random.fork()
    entropy = random.fork()
    metadataRandom = random.fork()
    let sectors = options.volumeBlocks * 8
    nodes = (0...1).map { index in
      SimulatedNode(
        index: index, options: options, sectorCount: sectors + Self.metadataSectors(options),
        replica: Replica(options: Self.replicaOptions(options, index, instance: 0)))
    }
    var networkOptions = SimulatedNetwork<WireMessage>.Options()
    networkOptions.delay = options.networkDelay
    network = SimulatedNetwork(options: networkOptions)
    history = WriteHistory(sectorCount: sectors, seed: options.seed)
    clients = (0..<options.clientDepth).map { _ in ClientSlot() }
    clientRequestsLeft = options.clientRequests
    burstLeft = options.burstRequests
    faultsLeft = options.faultCount
    for node in nodes { createMetadata(node) }
  }

  static func replicaOptions(
    _ options: SwarmOptions, _ node: Int, instance: UInt64
  ) -> ReplicaOptions {
    var core = ReplicaOptions(
      node: nodeID(node), resource: "simulated", peers: [nodeID(1 - node)], instance: instance)
    core.timeoutMs = options.timeoutMs
    core.koCount = options.koCount
    core.diskTimeoutMs = options.diskTimeoutMs
    core.pingIntervalMs = options.pingIntervalMs
    core.connectIntervalMs = 3_000
    core.clientRequestLimit = 64
    core.peerRequestLimit = 128
    core.resyncRequestBytes = options.resyncRequestBytes
    core.resyncWindow = options.resyncWindow
    core.bitmapChunkBlocks = options.bitmapChunkBlocks
    core.bitmapPageBlocks = pageBlocks
    core.activityLogScale = options.activityLogScale
    core.coolAfterMs = options.coolAfterMs
    core.resyncBytesPerSecondMost = options.resyncBytesPerSecondMost
    core.resyncBytesPerSecondBusy = options.resyncBytesPerSecondBusy
    core.activityLogSlots = ActivityLog.slotCounts.lowerBound
    core.checksumAlgorithm = options.comparesChecksums[node] ? .xxh3 : nil
    core.verifyAlgorithm = .crc32c
    core.verifyRequestBytes = min(options.resyncRequestBytes, 64 * blockSize)
    core.verifyWindow = options.resyncWindow
    core.policy = options.policies[node]
    core.unixSecondsAtZero = 1_700_000_000
    core.sabotage = options.canary
    return core
  }

  static func nodeID(_ index: Int) -> NodeID {
    guard let id = NodeID(UInt64(index)) else { preconditionFailure("node ids are 0 and 1") }
    return id
  }

  /// Virtual time in nanoseconds.
  package var now: UInt64 { queue.now }

  func say(_ text: @autoclosure () -> String) {
    guard isTracing else { return }
    trace.append("\(seconds(now)) \(text())")
  }

  func violate(_ oracle: Oracle, _ text: String) {
    violations.append(Violation(oracle: oracle, text: text, time: now))
    say("VIOLATION of \(oracle.rawValue): \(text)")
  }

  func draw(_ latency: Latency, _ node: Int) -> UInt64 { latency.draw(&diskRandom[node]) }
}

/// What a run did, for reports and for tests that ask whether a fault was ever injected.
package struct Statistics: Equatable, Sendable {
  package var reads = 0
  package var writes = 0
  package var flushes = 0
  package var failed = 0
  package var refused = 0
  package var abandoned = 0
  package var messages = 0
  /// Bytes of content that resyncs have moved.
  package var resyncBytes: UInt64 = 0
  /// Marked blocks that a target found equal and did not pull.
  package var equalBlocks: UInt64 = 0
  /// Ranges that resyncs have moved, zeroes included.
  package var resyncRanges = 0
  package var faults = [Int](repeating: 0, count: FaultKind.allCases.count)
  /// Faults that had an effect: something was running, open, under way.
  package var struck = [Int](repeating: 0, count: FaultKind.allCases.count)
  /// What was reached, by `Milestone`.
  package var milestones = [Int](repeating: 0, count: Milestone.allCases.count)
  /// What the two replicas found when they met, by `Rule`.
  package var rules = [Int](repeating: 0, count: Rule.allCases.count)
  package var resyncs = 0
  /// What victims lose was kept so many times.
  package var undos = 0
  /// Reads that the peer served, and what was written anew after one.
  package var peerReads = 0
  package var repairs = 0
  /// Changes that a Primary without a disk acknowledged, and disks attached under its clients.
  package var disklessChanges = 0
  package var attachedUnderClients = 0
  /// Disks that were given up because they did not answer.
  package var diskTimeouts = 0
  /// Refusals that wait for an administrator, by reason: while both replicas hold acknowledged
  /// writes that the other lacks, and while they do not.
  package var refusedForked = [Int](repeating: 0, count: 256)
  package var refusedWhole = [Int](repeating: 0, count: 256)
  package var promotions = 0
  package var steps = 0

  /// What failing disks led to, for the report of many runs.
  package var diskCounts: [(name: String, count: Int)] {
    [
      ("reads from the peer", peerReads), ("repairs", repairs),
      ("changes without a disk", disklessChanges), ("timeouts", diskTimeouts),
      ("attached under clients", attachedUnderClients),
    ]
  }

  /// Refusals for this reason, whether the data gave one or not.
  package func refusals(_ reason: Reason) -> Int {
    refusedForked[Int(reason.rawValue)] + refusedWhole[Int(reason.rawValue)]
  }

  /// Adds another run.
  package mutating func add(_ other: Statistics) {
    reads += other.reads
    writes += other.writes
    flushes += other.flushes
    failed += other.failed
    refused += other.refused
    abandoned += other.abandoned
    messages += other.messages
    resyncBytes += other.resyncBytes
    resyncRanges += other.resyncRanges
    equalBlocks += other.equalBlocks
    for kind in faults.indices { faults[kind] += other.faults[kind] }
    add(reached: other)
    resyncs += other.resyncs
    undos += other.undos
    peerReads += other.peerReads
    repairs += other.repairs
    disklessChanges += other.disklessChanges
    attachedUnderClients += other.attachedUnderClients
    diskTimeouts += other.diskTimeouts
    for reason in refusedForked.indices {
      refusedForked[reason] += other.refusedForked[reason]
      refusedWhole[reason] += other.refusedWhole[reason]
    }
    promotions += other.promotions
    steps += other.steps
  }

  package init() {}
}
