/// One machine of a simulated cluster: the shipped core, and what its driver would keep.
///
/// Everything but the disk belongs to one run of the process: `epoch` rises with each start and
/// each end, and what was scheduled for an earlier run is dropped when its time comes.
package import BlockTypes
package import Metadata
package import Replication
package import Wire

/// A message on its way: encoded as on the wire, with stamps for the payload.
package struct WireMessage: Sendable {
  /// The encoded header and, for a handshake message, its payload.
  package var bytes: [UInt8]
  /// Payload of a data message, one word a sector.
  package var words: [UInt64]
  /// What protects the payload, see `FrameGuard`. It is over the words, not over the sectors that
  /// they stand for.
  package var tag = FrameTag.none
  /// A bit was flipped on the way: it must not be taken for a message.
  package var isCorrupt = false
}

/// What an operation of a disk is for.
package enum DiskPurpose: Sendable {
  case request(SlotID, BufferID)
  /// A read that fills a buffer that the driver took for it.
  case serve(SlotID, BufferID)
  case superblock
  /// The second copy of a superblock.
  case mirror
  case bitmapPage(UInt8)
  case activityLog
  /// A flush that the planted bug left out.
  case swallowed(SlotID)
  /// The second copy of a superblock, which a planted bug writes too early.
  case untimely
}

/// One machine.
package final class SimulatedNode {
  /// 0 or 1.
  package let index: Int
  package var replica: Replica
  package var disk: SimulatedDisk
  package var buffers: BufferLedger
  /// Which run of the process this is.
  package var epoch = 0
  package var isRunning = false
  /// Effects of the core that were carried out, in all runs of the process.
  package var effectCount = 0
  /// The same by `EffectKind`: those that can fail.
  var effectsOfKind = [Int](repeating: 0, count: EffectKind.allCases.count)
  /// Events for this node wait until then.
  package var pausedUntil: UInt64 = 0
  /// Disk operations take up to this much longer, in nanoseconds.
  package var slowByNs: UInt64 = 0
  /// Only flushes do.
  var slowsFlushesOnly = false
  /// The disk answers nothing until then; what it would have said is kept.
  package var hungUntil: UInt64 = 0
  var hungAnswers: [Occurrence] = []
  /// When the earliest scheduled tick fires.
  package var tickAt = UInt64.max
  package var idleTicks = 0
  /// The node's own clock is this far from the virtual time.
  package var clockOffset: UInt64 = 0

  /// The driver's knowledge of the superblock copies.
  package var nextCopy = 0
  package var sequence: UInt64 = 0
  package var pendingSuperblock: Superblock?
  /// A copy is being written.
  package var isWritingCopy = false
  /// The core wants its superblock written while the second copy is.
  package var wantsSuperblock = false
  /// What was written to one copy and is to be written to the other.
  package var mirrored: [UInt64]?
  /// The run of the process in which a copy was written last, and none failed since.
  var wroteCopyInEpoch = -1
  /// What a reader of the disk would find now.
  package var durableSuperblock: Superblock?
  /// Reads for a resync that wait for a free buffer.
  package var waitingServes: [(SlotID, ByteRange)] = []

  /// What comparing digests gave, the core's next event.
  package var compared: (SlotID, UInt64)?
  /// Blocks that a verify led here found to differ, and what the last one came to.
  package var foundToDiffer: Set<Int> = []
  package var lastVerify: VerifyProgress?
  /// Blocks whose content on this disk has rotted at some time.
  package var everRotten: Set<Int> = []
  /// Blocks that have rotted and were not repaired: a client reads what the disk has.
  package var rotten: Set<Int> = []

  // What the notes of the core said, in order: the state as of the effect that is carried out.
  package var role = Role.secondary
  package var diskState = DiskState.diskless
  package var connection = ConnectionState.standAlone
  package var reason = Reason.notConfigured
  package var replication = ReplicationState.off
  package var peerDisk = DiskState.unknown
  package var connectionID: ConnectionID?
  /// Connections that this node has lost.
  package var losses = 0

  /// The command that was given and not answered.
  package var pendingCommand: Command?
  /// The two lineages had parted when the node was last told to become Primary.
  package var hadPartedBefore = false
  package var commandToken: UInt64 = 0
  /// A restart is scheduled.
  package var startIsScheduled = false
  /// The node ended without a clean shutdown and has not met its peer since.
  package var isUnreconciled = false
  package var lostPower = false
  /// When the machine lost power last.
  package var lostPowerAt: UInt64?
  /// The node's disk knows, or must assume, that its peer went on without it.
  package var mayKnowItIsBehind = false
  /// The activity log on disk as it was read last, and the sectors' words then.
  var ring: [UInt8] = []
  var ringWords: [UInt64] = []
  /// A crash that waits until the node writes metadata.
  var aimedEnd: Cluster.End?
  /// Its activity log on disk has rotted at some time.
  package var logHasRotted = false
  /// The administrator gave its data up, if it is the victim of a split brain.
  package var mayDiscard = false
  /// Blocks that the disk alone, without a running core, says may differ from the peer's.
  package var marksOnDisk: [Bool]
  /// Sectors that were kept before a discard, and those that are being kept.
  package var undo: [Int: UInt64] = [:]
  var undoPart: [Int: UInt64] = [:]
  /// `--no-undo` was said with the last order to connect.
  var declinesUndo = false
  /// The node is the victim of the meeting under way.
  var pendingDiscard: Decision?
  /// Content that the node promised its sync target with `syncDone`.
  package var promisedContent: SyncedContent?

  init(index: Int, options: SwarmOptions, sectorCount: Int, replica: consuming Replica) {
    self.index = index
    self.replica = replica
    disk = SimulatedDisk(sectorCount: sectorCount)
    buffers = BufferLedger(count: options.bufferCount)
    marksOnDisk = Array(repeating: true, count: options.volumeBlocks)
  }

  /// Forgets what belonged to a run of the process.
  func forgetRun(bufferCount: Int) {
    isRunning = false
    epoch += 1
    tickAt = .max
    idleTicks = 0
    pausedUntil = 0
    pendingSuperblock = nil
    isWritingCopy = false
    wantsSuperblock = false
    mirrored = nil
    waitingServes = []
    hungAnswers = []
    compared = nil
    undoPart = [:]
    pendingDiscard = nil
    buffers = BufferLedger(count: bufferCount)
    role = .secondary
    diskState = .diskless
    connection = .standAlone
    reason = .notConfigured
    replication = .off
    peerDisk = .unknown
    pendingCommand = nil
  }
}
