/// What a replica knows about one peer and the connection to it.
import BlockTypes
import Metadata
import Wire

/// A connection that was accepted and has not said who it is.
struct AcceptedConnection: BitwiseCopyable {
  var connection: ConnectionID?
  /// Who it was proven to be.
  var node: NodeID?
  var deadline: Instant

  static var free: AcceptedConnection {
    AcceptedConnection(connection: nil, node: nil, deadline: .never)
  }
}

/// What a node tells its peer about its decision, for comparison.
struct Verdict: BitwiseCopyable {
  var action: Action
  var extent: SyncExtent
}

/// The steps of a resync between `agree` and the last message: forgotten with the connection. What
/// is left to be copied, the bitmap says.
struct SyncSteps: BitwiseCopyable {
  // Exchange of bitmaps.
  /// The next block to be told; `nil` when all were told.
  var chunkCursor: UInt64?
  var chunksInFlight = 0
  /// Source: everything was told.
  var bitmapDoneSent = false
  /// Target: the source has told everything.
  var bitmapDoneReceived = false
  /// Source: the target is ready, and `base` is being cleared. Target: the source's history is
  /// being made durable.
  var startVersion: UInt64?
  var readySent = false
  /// Target: the sweep after which it takes over the history.
  var startSweep: UInt64?

  // Copying.
  var pullsInFlight = 0
  /// Target: refused blocks are asked for again then.
  var retryPullsAt = Instant.never

  // The end.
  /// Source: everything is sent and `base` is being cleared; target: everything is written.
  var finishVersion: UInt64?
  var doneSent = false
  /// Target: `syncDone` came; the disk is flushed before its lineage is taken over.
  var doneReceived = false
  /// The source's newest lineage arrived with `syncDone` and is being made durable.
  var adoptVersion: UInt64?
}

/// What two nodes have said about a promotion of either: forgotten with the connection.
struct PromotionSteps: BitwiseCopyable {
  // Of ours.
  var isAsked = false
  var isAnswered = false
  /// Earlier promotions of ours that were given up and that the peer has yet to answer.
  var stale = 0

  // Of the peer's.
  /// The peer may be told that it may be Primary when this version is durable.
  var grantVersion: UInt64?
  /// The number of the promotion that is granted then.
  var grantID: UInt64 = 0
}

/// What a replica knows about one peer.
///
/// ```
/// StandAlone --connect--> Connecting --hello--> quiescing --flushed--> WFReportParams
///     ^                      ^  ^                                           | both reports
///     | disconnect, refusal  |  | lost, retry                               v
///     +----------------------+--+--------------- Connected <--agree-- WFVerdict
/// ```
struct Peer: BitwiseCopyable {
  let node: NodeID
  var state = ConnectionState.standAlone
  var reason = Reason.notConfigured
  var replication = ReplicationState.off
  var role = Role.unknown
  var disk = DiskState.unknown

  /// The connection both agreed on.
  var connection: ConnectionID?
  /// Our dial that has not been answered with `helloReply`.
  var dialed: ConnectionID?
  var isDialing = false
  var retryAt = Instant.never
  var retryPauseMs: UInt64 = 0
  var handshakeDeadline = Instant.never
  var connectedAt = Instant(nanoseconds: 0)

  /// Connections to this peer that were lost in this run.
  var epoch: UInt64 = 0
  var peerInstance: UInt64 = 0
  var peerEpoch: UInt64 = 0
  /// The peer was Primary when it said hello.
  var saidPrimary = false

  /// `connect --discard-my-data`: until a resync that follows from it begins.
  var discardsMyData = false
  /// `connect --discard-my-data --no-undo`.
  var declinesUndo = false
  /// The demotion under way is for a policy: the data is given up afterwards.
  var givesWay = false
  /// What is kept before it is discarded.
  var undo = UndoState.none
  /// Nothing describes what is to be kept: all of it is.
  var undoIsWhole = false
  /// `connect --tentative`: until the next meeting.
  var isTentative = false
  /// The connection that was refused in this step: our report must still leave on it, so that the
  /// peer comes to the same decision and can explain it.
  var refusedConnection: ConnectionID?
  /// The handler `before-resync-target` runs: the peer is not met before it has ended.
  var handlerRuns = false
  /// The handler `before-resync-target` has agreed to a resync until then.
  var consentUntil = Instant(nanoseconds: 0)
  /// This node was Primary when it lost the peer.
  var wasLostAsPrimary = false

  var decision: Decision?
  var versionOfVerdict: UInt64 = 0
  var verdictSent = false
  var peerVerdict: Verdict?

  /// The newest generation the peer is known to share; `nil` while it may hold ours.
  var base: Generation?

  var outstanding = 0
  /// Writes and flushes of this peer in the slab, also those of a connection that is gone.
  var requestsHere = 0
  /// Ranges that are read for this peer, also those of a connection that is gone.
  var servesHere = 0
  /// The flush of a handshake with this peer, perhaps of one that was given up.
  var handshakeFlush: SlotID?
  var lastReceived = Instant(nanoseconds: 0)
  var lastProgress = Instant(nanoseconds: 0)
  var pingSentAt: Instant?

  /// The peer may have taken over our newest generation, though `base` says that it is behind.
  var mayShareNewest = false

  /// How far the resync on this connection has come.
  var sync = SyncSteps()

  /// The disk counts every block as marked, until `fullSweep` has ended.
  var isFull = false
  var fullSweep: UInt64?

  // Resync. Which blocks are left, the peer's bitmap in `Replica.bitmaps` says.
  var pullCursor: UInt64 = 0
  /// Target: parts of the volume whose extents are held hot, for what is asked for now and next.
  var heldNow: ByteRange?
  var heldNext: ByteRange?
  var syncBlocksTotal: UInt64 = 0
  var syncStarted = Instant(nanoseconds: 0)
  /// Target of a resync by checksum: what the digests are made with, the next block to be compared,
  /// and where everything is compared up to. What is marked before that is pulled.
  var checksumAlgorithm: DigestAlgorithm?
  var compareCursor: UInt64 = 0
  var comparedUpTo = UInt64.max
  /// Comparisons in the slab, also those of a connection that is gone.
  var comparesHere = 0
  /// Marked blocks that a comparison found equal, in this resync.
  var syncBlocksEqual: UInt64 = 0
  /// What the planted bug `unmarkLate` believes in.
  var lastChecked: (range: ByteRange, differing: UInt64)?
  /// What was asked for in this pass was refused in part; in the next, each block for itself.
  var wasRefusedBlocks = false
  var pullsSingly = false
  var isPausedHere = false
  var isPausedByPeer = false
  /// The peer has another resource to resync first.
  var peerWaitsForResync = false
  /// Target: `syncDone` came, and the disk is flushed before its lineage is taken over.
  var syncDoneFlush: SlotID?

  // Verify.
  /// What this node compares, or asks the peer to let it compare.
  var verify: Verification?
  /// What the peer asked the digests to be made with.
  var digestAlgorithm = DigestAlgorithm.crc32c
  /// Ranges that are compared here, also those of a verify that was given up.
  var verifiesHere = 0
  /// Whose data a repair copies, once what is compared is marked.
  var repairSource: RepairSource?
  /// One was cut in this run, or left marks behind: what is marked is not copied before a side is
  /// named again.
  var repairWasCut = false
  /// Target: what a repair has left to do.
  var repair: Repair?
  /// Ranges of repairs in the slab, also those of a connection that is gone.
  var repairsHere = 0
  /// The last verify that began here.
  var lastVerify: VerifyProgress?

  /// A Primary whose disk is gone told this peer, and waits until the peer has put on record what
  /// it lacks from now on. What the peer still sends of a resync is late.
  var awaitsDiskAck = false
  /// It has been connected since this Primary lost its disk: it may have begun a generation for
  /// what this node lacks, of which nothing was heard.
  var mayFollowExposed = false
  /// The peer lost its disk and goes on through this node: told when this version is durable.
  var versionOfDiskAck: UInt64?
  /// The peer said that both fresh disks are equal: they meet again when this version is durable.
  var versionOfEqual: UInt64?

  var promotion = PromotionSteps()

  init(node: NodeID) { self.node = node }

  /// Whether writes go to this peer: agreed, and it has a disk that takes them.
  var takesWrites: Bool {
    state == .connected && replication != .off && disk != .diskless && disk != .failed
      && disk != .unknown
  }

  /// When something about this peer must be looked at again.
  func deadline(_ options: ReplicaOptions) -> Instant {
    switch state {
    case .standAlone: return .never
    case .connecting:
      if dialed != nil { return handshakeDeadline }
      return isDialing ? .never : retryAt
    case .quiescing, .wfReportParams, .wfVerdict:
      guard let pingSentAt else { return handshakeDeadline }
      return min(handshakeDeadline, pingSentAt.advanced(milliseconds: options.pingTimeoutMs))
    case .connected:
      if let pingSentAt { return pingSentAt.advanced(milliseconds: options.pingTimeoutMs) }
      let silence = lastReceived.advanced(milliseconds: pingPauseMs(options))
      let ping = min(silence, sync.retryPullsAt)
      guard outstanding > 0 else { return ping }
      let limit = lastProgress.advanced(milliseconds: options.timeoutMs * options.koCount)
      return min(ping, limit)
    }
  }

  /// How long silence may last before a ping: short while an answer is due.
  func pingPauseMs(_ options: ReplicaOptions) -> UInt64 {
    outstanding > 0 ? min(1_000, options.pingIntervalMs) : options.pingIntervalMs
  }
}
