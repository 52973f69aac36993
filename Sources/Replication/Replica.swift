/// One node's replica of one volume: the core as a state machine without I/O.
///
/// The driver calls `step`, `receive` or `attach`, then carries out every effect in order before
/// the next call. Time and random bits arrive as arguments. Nothing here allocates per I/O.
///
/// Invariants:
/// - a client request is completed exactly once, and its buffer released exactly once;
/// - a write is completed only when the local disk and every connected peer with a disk have
///   written it, and every other peer is recorded, durably, as lacking it (P1, P3);
/// - no write is applied while the superblock on disk could be taken for clean after a crash;
/// - while a handshake is under way no client write starts: what was told stays true (`isFrozen`).
public import BlockTypes
public import Metadata
public import Wire

/// What is fixed for the life of a replica.
public struct ReplicaOptions: Sendable {
  /// This node.
  public var node: NodeID
  /// The resource.
  public var resource: String
  /// The diskful peers, in slot order.
  public var peers: [NodeID]
  /// Random for each run of the program.
  public var instance: UInt64
  /// DRBD's `timeout`: an answer later than this is counted against the peer. Milliseconds.
  public var timeoutMs: UInt64 = 6_000
  /// DRBD's `ko-count`: this many timeouts without progress, and the peer is cut.
  public var koCount: UInt64 = 7
  /// DRBD's `ping-int`: an idle connection is tested this often. Milliseconds.
  public var pingIntervalMs: UInt64 = 10_000
  /// DRBD's `ping-timeout`: no answer to a ping within this, and the peer is lost. Milliseconds.
  public var pingTimeoutMs: UInt64 = 500
  /// DRBD's `disk-timeout`: a disk that does not end an operation within this is given up; 0 waits
  /// for ever. Milliseconds.
  public var diskTimeoutMs: UInt64 = 0
  /// DRBD's `on-io-error`.
  public var errorPolicy = DiskErrorPolicy.detach
  /// DRBD's `connect-int`: the longest pause between attempts to connect. Milliseconds.
  public var connectIntervalMs: UInt64 = 10_000
  /// The whole handshake must end within this. Client writes wait for it. Milliseconds.
  public var handshakeTimeoutMs: UInt64 = 3_000
  /// Client requests in flight or waiting; the export must not submit more.
  public var clientRequestLimit = 1024
  /// Requests one peer may have in flight here.
  public var peerRequestLimit = 1024
  /// Bytes one resync request covers at most.
  public var resyncRequestBytes: UInt64 = UInt64(maxPayloadBytes)
  /// Blocks one chunk of a bitmap describes; a multiple of 8, at most 32768.
  public var bitmapChunkBlocks = BitmapChunk.blockLimit
  /// Resync requests under way: 8 MiB keep a 10 GbE link full at 5 ms.
  public var resyncWindow = 8
  /// Bytes one resync request covers while clients write: a client waits for one of them.
  public var busyResyncRequestBytes: UInt64 = 256 << 10
  /// Resync requests under way while clients write.
  public var busyResyncWindow = 2
  /// DRBD's `csums-alg`: as target of a resync, send digests first and pull only what differs;
  /// `nil`: pull everything that is marked.
  public var checksumAlgorithm: DigestAlgorithm?
  /// What an online verify makes its digests with; `nil` where none is configured.
  public var verifyAlgorithm: DigestAlgorithm?
  /// Bytes one request of a verify covers: whole blocks, 64 at most. Clients that write to one of
  /// them wait until it was compared.
  public var verifyRequestBytes: UInt64 = BlockDigest.blockLimit * blockSize
  /// Requests of a verify under way: 2 MiB keep two disks busy. A quarter while clients are.
  public var verifyWindow = 8
  /// What the configuration decides about conflicting histories.
  public var policy = ConflictPolicy()
  /// A handler is to agree before this node becomes the target of a resync.
  public var asksBeforeResyncTarget = false
  /// What a discard loses is kept first, unless the administrator declines.
  public var keepsUndo = true
  /// Seconds since 1970 when the driver's clock was 0; 0 when unknown. For people only.
  public var unixSecondsAtZero: UInt64 = 0
  /// DRBD's `al-extents`: extents of 4 MiB that may be hot.
  public var activityLogSlots = ActivityLog.defaultSlotCount
  /// Extents that nobody wrote to for so long leave the log. Milliseconds.
  public var coolAfterMs: UInt32 = 20_000
  /// DRBD's `c-max-rate`: bytes of the volume that a resync may copy in a second; 0: as many as the
  /// disks and the link give.
  public var resyncBytesPerSecondMost: UInt64 = 0
  /// DRBD's `c-min-rate`: the same while clients are active, where it is set. 0: clients do not
  /// count. Not set: the resync takes half of the time.
  public var resyncBytesPerSecondBusy: UInt64?
  /// The log counts bytes of the volume so many times. More than 1 makes its extents smaller, for
  /// the small volumes of the simulator.
  public var activityLogScale: UInt64 = 1
  /// Blocks of one page of a bitmap; smaller in the simulator, too.
  public var bitmapPageBlocks = BlockBitmap.blocksPerPage
  /// A planted bug.
  public var sabotage = Sabotage.none

  /// Joins what has no default.
  public init(node: NodeID, resource: String, peers: [NodeID], instance: UInt64) {
    self.node = node
    self.resource = resource
    self.peers = peers
    self.instance = instance
  }
}

/// A command that waits for handshakes, the peer, the disk or the superblock.
struct PendingCommand: BitwiseCopyable {
  /// The commands that wait; the others are done at once.
  enum Kind: BitwiseCopyable {
    case primary(force: Bool)
    case secondary
    case detach
    case shutdown
    case skipFirstSync
  }
  enum Stage: BitwiseCopyable {
    /// Waits for a handshake to end.
    case queued
    /// Waits for the peers' answers to `promoteRequest`.
    case asking
    /// Waits until superblock `version` is durable.
    case persisting(version: UInt64)
    /// Waits for the last requests in flight.
    case draining
    /// Waits for this flush of the disk.
    case flushing(SlotID)
    /// Waits for this sweep of the bitmaps.
    case sweeping(UInt64)
  }
  var kind: Kind
  var token: UInt64
  var stage = Stage.queued
  var deadline: Instant
}

/// One node's replica of one volume.
public struct Replica: ~Copyable {
  /// What was configured. Only times may change while the replica runs.
  public var options: ReplicaOptions
  /// What the superblock on disk says, or will say when the write under way has ended.
  public internal(set) var superblock: Superblock?
  /// The state of the local disk.
  public internal(set) var disk = DiskState.diskless
  /// The role of this node.
  public internal(set) var role = Role.secondary
  /// Effects to be carried out, oldest first.
  public var effects: FIFO<Effect>

  var peers: FixedArray<Peer>
  /// What each peer told last, and what it was told: the decision is made from exactly these.
  var reports: [StateReport?]
  var sentReports: [StateReport?]
  /// The last meeting with each peer, also after the connection was given up.
  var meetings: [Meeting?]
  /// Blocks that may differ from each peer's: what a resync has left to do.
  var bitmaps: FixedArray<BlockBitmap>
  var requests: Slab<Request>
  var active: ActiveRanges
  /// Requests that overlap an earlier one or wait for a handshake, oldest first.
  var waiting: FIFO<SlotID>
  /// Writes done everywhere they can be, which wait until the generation is durable.
  var waitingBase: FIFO<SlotID>
  /// Changes whose extents are not hot yet.
  var waitingLog: FIFO<SlotID>
  var clientWrites = 0
  var clientRequests = 0
  var accepted: FixedArray<AcceptedConnection>

  /// Found dirty at attach, and not compared with the peer since.
  var crashed = false
  /// Counts changes of the superblock: wanted, being written, durable.
  var versionWanted: UInt64 = 0
  var versionWriting: UInt64 = 0
  var versionDurable: UInt64 = 0
  var superblockIsBeingWritten = false
  /// The version that made the newest `base` durable.
  var versionOfBase: UInt64 = 0
  var command: PendingCommand?
  var now = Instant(nanoseconds: 0)
  var entropy: UInt64 = 0
  var sabotageCounter: UInt64 = 0
  /// Numbers the promotions, so that a late answer to an earlier one is recognised.
  var promotionNumber: UInt64 = 0
  /// Numbers what is kept for a discard, so that a late answer is recognised.
  var undoNumber: UInt64 = 0
  /// The promotion under way declares data as good that was not known to be.
  var isForcing = false
  /// Flushes under way for a command and for marking the disk clean: one of each at most, so that
  /// a disk that hangs cannot fill the slab.
  var commandFlush: SlotID?
  var cleanFlush: SlotID?
  /// A peer's write came after `cleanFlush` began, or another end of writing: it proves nothing.
  var cleanFlushIsStale = false
  /// The same of `commandFlush`: the disk stays dirty, and is flushed again.
  var commandFlushIsStale = false
  var cleanFlushIsWantedAgain = false
  var cleanSweep: UInt64?
  var pageWrites: FixedArray<PageWrite>
  var sweep = Sweep()
  /// The sweep after which the marks of the run before are on the disk.
  var attachSweep: UInt64?
  /// When a client asked for something last.
  var lastClientAt = Instant(nanoseconds: 0)
  /// Ranges that are being served: begun and not written by the target.
  var servesActive = 0
  var serveBegan = Instant(nanoseconds: 0)
  var nextServeAt = Instant(nanoseconds: 0)
  /// No range is begun before, or the resync would go faster than it may.
  var servesNotBefore = Instant(nanoseconds: 0)
  /// No range is compared before, or a verify would go faster than it may.
  var verifiesNotBefore = Instant(nanoseconds: 0)
  /// When the peer's clients wrote last.
  var lastPeerWriteAt: Instant?
  /// Another resource is to resync first.
  public internal(set) var waitsForResync = false
  /// When what a resync has copied is written to the bitmap on disk next.
  var progressSweepAt = Instant(nanoseconds: 0)
  var log: ActivityLog
  var logState = LogState.off
  var logIsBeingWritten = false
  var logFlush: SlotID?
  var logFlushNumber: UInt64 = 0
  var versionOfRun: UInt64?
  /// A Primary without good data of its own: the history of what its clients have seen.
  var exposed: Lineage?
  /// The history of good data on a disk that this node has lost while no peer had it all.
  var lost: Lineage?
  /// Bytes of the volume that a Primary's clients see, also when its disk is gone.
  public internal(set) var exposedBytes: UInt64 = 0
  /// When requests that wait for good data fail; `.never` while there is some.
  var accessDeadline = Instant.never
  /// When operations of the disk are looked at: one may have taken too long.
  var diskCheckAt = Instant.never
  var superblockBegan = Instant(nanoseconds: 0)
  var logBegan = Instant(nanoseconds: 0)
  /// Transactions of the activity log that were planned.
  var logPlan: UInt64 = 0
  /// What became of errors of the disk.
  public internal(set) var diskErrors = DiskErrors()
  /// A disk failed a flush since this process began, or a write that is one as well: with FUA, or
  /// of the metadata. What it returns may be what it does not keep.
  var hasFailedFlush = false
  /// The disk is being let go: peers' writes are answered as failed.
  var isDetaching = false

  /// A replica without a disk, StandAlone.
  public init(options: ReplicaOptions) {
    precondition(options.peers.count <= Superblock.peerSlotLimit, "more peers than slots on disk")
    self.options = options
    // Every kind of request is bounded, so the slab can never be full: clients by the export,
    // what a peer asks for by the checks in `receive`, flushes by one of each kind.
    let flushes = 3 + 2 * options.peers.count
    let ofOnePeer =
      Self.requestLimit(ofOnePeer: options) + Self.serveLimit + 3 * options.resyncWindow
      + options.verifyWindow
    // Twice: what a disk that was given up has not answered keeps its slots.
    let capacity = 2 * (options.clientRequestLimit + ofOnePeer * options.peers.count + flushes)
    peers = FixedArray(count: options.peers.count) { Peer(node: options.peers[$0]) }
    reports = Array(repeating: nil, count: options.peers.count)
    sentReports = Array(repeating: nil, count: options.peers.count)
    meetings = Array(repeating: nil, count: options.peers.count)
    bitmaps = FixedArray(count: options.peers.count) { _ in BlockBitmap(blockCount: 0) }
    requests = Slab(capacity: capacity, filler: Request.filler)
    active = ActiveRanges(capacity: capacity)
    waiting = FIFO(capacity: capacity, filler: SlotID(slot: 0, generation: 0))
    waitingBase = FIFO(capacity: capacity, filler: SlotID(slot: 0, generation: 0))
    waitingLog = FIFO(capacity: capacity, filler: SlotID(slot: 0, generation: 0))
    pageWrites = FixedArray(count: Self.pageWriteLimit) { _ in PageWrite() }
    log = ActivityLog(slotCount: ActivityLog.slotCounts.lowerBound, deviceID: 0, run: 0)
    // A step emits at most 4 effects a request in flight and some for each peer.
    effects = FIFO(capacity: capacity * 4 + 256, filler: .writeSuperblock)
    accepted = FixedArray(count: 8) { _ in AcceptedConnection.free }
  }

  /// Takes one event and leaves its effects in `effects`.
  ///
  /// - Parameters:
  ///   - now: monotonic; never before an earlier step's.
  ///   - entropy: 64 random bits, new for every step.
  public mutating func step(_ event: Event, at now: Instant, entropy: UInt64) {
    beginStep(now, entropy)
    switch event {
    case .submit(let request): submit(request)
    case .diskCompleted(let id, let result, let buffer): diskCompleted(id, result, buffer)
    case .superblockWritten(let result): superblockWritten(result)
    case .superblockCopyFailed: metadataFailed()
    case .bitmapPageWritten(let entry, let result): pageWritten(entry, result)
    case .activityLogWritten(let result): activityLogWritten(result)
    case .digestsCompared(let id, let differing): digestsCompared(id, differing)
    case .dialed(let peer, let connection): dialed(peer, connection)
    case .dialFailed(let peer): dialFailed(peer)
    case .dialRefused(let peer, let reason): dialFailed(peer, reason)
    case .accepted(let connection, let node): acceptedConnection(connection, node)
    case .closed(let connection): connectionClosed(connection, .peerClosed)
    case .corrupted(let connection): connectionClosed(connection, .digestMismatch)
    case .command(let command, let token): take(command, token)
    case .resyncOrder(let mustWait): orderResync(mustWait)
    case .undoEnded(let peer, let number, let outcome): undoEnded(peer, number, outcome)
    case .tick: tick()
    }
    finishStep()
  }

  /// Takes one message of a peer.
  ///
  /// - Parameters:
  ///   - control: the payload of a handshake message, empty otherwise.
  ///   - buffer: the payload of a data message, or `none`. The core releases it.
  @safe
  public mutating func receive(
    _ connection: ConnectionID, _ header: MessageHeader, control: UnsafeRawBufferPointer,
    buffer: BufferID, at now: Instant, entropy: UInt64
  ) {
    beginStep(now, entropy)
    unsafe received(connection, header, control, buffer)
    finishStep()
  }

  /// Whether there is a disk whose superblock was read. Asked in every step; comparing the
  /// superblock with `nil` would copy it each time.
  var hasSuperblock: Bool {
    if case .some = superblock { true } else { false }
  }

  /// What every step begins with.
  mutating func beginStep(_ now: Instant, _ entropy: UInt64) {
    self.now = now
    self.entropy = entropy
    log.clockMs = UInt32(truncatingIfNeeded: now.nanoseconds / 1_000_000)
  }

  /// What every step ends with: new state may allow commands, waiting requests and metadata.
  ///
  /// All of it is decided by the state as it is, not by what led to it: nothing that may go on can
  /// be forgotten.
  mutating func finishStep() {
    if disk != .upToDate || accessDeadline != .never { watchAccess() }
    repeat {
      continueQuiescing()
      if command != nil {
        advanceCommand()
        continueQuiescing()
      }
      if !waiting.isEmpty { startWaiting() }
    } while sweepHasEnded()
    continueLog()
    if versionWanted > versionDurable, !superblockIsBeingWritten, hasSuperblock {
      superblockIsBeingWritten = true
      superblockBegan = now
      watchDisk()
      versionWriting = versionWanted
      effects.push(.writeSuperblock)
    }
  }

  private mutating func sweepHasEnded() -> Bool {
    guard continueSweep() else { return false }
    finishSwept()
    return true
  }

  /// Ranges that one target may ask for at once; our own targets keep `resyncWindow`.
  static var serveLimit: Int { 64 }

  /// Writes and flushes of one peer that may be under way here, data of a resync included.
  static func requestLimit(ofOnePeer options: ReplicaOptions) -> Int {
    options.peerRequestLimit + options.resyncWindow
  }

  /// When the next `tick` is due; `.never` when only events can change anything.
  public var nextDeadline: Instant {
    var deadline = min(commandDeadline, min(serveDeadline, coolingDeadline))
    if !waiting.isEmpty, accessDeadline > now { deadline = min(deadline, accessDeadline) }
    deadline = min(deadline, min(diskCheckAt, verifyDeadline))
    for slot in 0..<peers.count { deadline = min(deadline, peers[slot].deadline(options)) }
    for slot in 0..<accepted.count where accepted[slot].connection != nil {
      deadline = min(deadline, accepted[slot].deadline)
    }
    return deadline
  }

  private mutating func tick() {
    expireAccepted()
    if now >= diskCheckAt { checkDisk() }
    for slot in 0..<peers.count { tickPeer(slot) }
    if logState == .ready { log.continueCooling() }
    if let pending = command, now >= commandDeadline { expireCommand(pending) }
  }

  /// Whether what this node told or is about to tell a peer must stay true: client writes wait.
  var isFrozen: Bool {
    if options.sabotage == .writeDuringHandshake { return false }
    for slot in 0..<peers.count where peers[slot].state.isHandshake && !waitsForReport(slot) {
      return true
    }
    return false
  }

  /// Whether a handshake is under way: commands that change the role wait for its end.
  var isShakingHands: Bool {
    for slot in 0..<peers.count where peers[slot].state.isHandshake { return true }
    return false
  }

  /// Whether clients may write: Primary on good data.
  public var isWritable: Bool { role == .primary && (disk == .upToDate || exposed != nil) }

  mutating func become(role new: Role) {
    guard new != role else { return }
    effects.push(.note(.role(from: role, to: new)))
    role = new
    if new != .primary { exposed = nil }
  }

  mutating func become(disk new: DiskState) {
    guard new != disk else { return }
    effects.push(.note(.disk(from: disk, to: new)))
    disk = new
    if new == .upToDate { exposed = nil }
  }
}
