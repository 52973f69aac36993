/// Planted bugs: each is a mistake that somebody could make, in one line at its place.
///
/// The simulator runs each of them and must find it (`ashlar-sim --canaries`). One that stays
/// hidden shows what the simulator cannot see. Only tests set `ReplicaOptions.sabotage`: no
/// configuration, command or message reaches it.
import BlockTypes
import Wire

/// A planted bug; `none` outside tests.
public enum Sabotage: UInt8, Sendable, BitwiseCopyable, CaseIterable {
  case none

  // MARK: Writes

  /// Acknowledges a write to the client before the peer answered.
  case completeBeforePeer
  /// Ignores a peer's acknowledgement of every 64th write.
  case dropPeerAck
  /// Answers a peer's write when it arrives, not when it is on the disk.
  case answerBeforeApplied
  /// Takes a peer's "failed" for "done".
  case ignorePeerError
  /// Starts a write while an overlapping one is under way.
  case ignoreOverlaps
  /// Serves clients without being Primary.
  case serveAsSecondary
  /// Goes on with a disk that failed a write or a flush.
  case keepFailedDisk

  // MARK: Flush and FUA

  /// A client's flush reaches this node's disk only.
  case flushOnlyHere
  /// A client's FUA counts on this node's disk only.
  case forceUnitAccessOnlyHere
  /// Does not flush before it says what it has.
  case skipHandshakeFlush
  /// Target: does not flush before it calls itself UpToDate.
  case skipSyncDoneFlush
  /// Driver: swallows every flush and reports success.
  case skipFlush

  // MARK: Activity log

  /// Writes to an extent that the activity log does not have.
  case skipLog
  /// Writes while the transaction that makes the extent hot is on its way.
  case writeBeforeHot
  /// Lets extents leave the activity log without their marks on the disk.
  case skipPagesOfLeaving
  /// Lets extents leave the activity log while their marks are on their way to the disk.
  case leaveBeforePages
  /// Lets extents leave the activity log without flushing what was written to them.
  case skipFlushOfLeaving
  /// Lets extents cool without flushing what was written to them.
  case coolWithoutFlush
  /// Lets go of the extents of a write when it begins.
  case releaseLogEarly
  /// Marks nothing after a crash.
  case ignoreHotExtents
  /// Begins a new log before the marks that the old one stands for are on the disk.
  case newRunBeforeMarks
  /// Driver: writes transactions to the disk's cache.
  case cacheActivityLog

  // MARK: Bitmaps

  /// Does not mark what was under way when a connection was lost.
  case forgetDroppedWrites
  /// Unmarks blocks of which a write covers only a part.
  case unmarkWhatIsTouched
  /// Replaces its own marks by the peer's instead of joining them.
  case replaceMarks
  /// Ends a role cleanly without writing the marks to the disk.
  case leaveWithoutMarks
  /// Driver: writes pages of the bitmaps to the disk's cache.
  case cacheBitmapPages

  // MARK: Resync

  /// Source: takes a block for copied when it was sent.
  case unmarkWhenSent
  /// Target: begins a resync where an earlier one ended.
  case keepPullCursor
  /// Source: reads a range for the target without locking it.
  case serveWithoutLock
  /// Source: sends what it could not read.
  case sendUnreadable
  /// Source: says that all was copied while the last block is under way. Target: believes it.
  case finishEarly
  /// Target: calls itself UpToDate before its disk does.
  case upToDateBeforeDurable
  /// Target: believes a flush that began for a connection that is gone.
  case believeOldFlush
  /// Answers a write of a connection that is gone on the one that came after it.
  case answerOnNextConnection

  /// Source: unmarks again what was equal when the target is lost, though a write came between.
  case unmarkLate
  /// Source: takes a whole range for equal when one block of it is.
  case clearWholeRange

  // MARK: Lineage

  /// Goes on without the peer without beginning a generation.
  case skipLineageWrite
  /// Acknowledges before the generation is on the disk.
  case acknowledgeBeforeGeneration
  /// Source: goes on believing, after a resync, that the target has what it had before.
  case keepBase

  // MARK: Handshake

  /// Lets clients write while it tells its peer what it has.
  case writeDuringHandshake
  /// Agrees before what was decided is on the disk.
  case agreeBeforeDurable
  /// Copies from the shorter history to the longer one.
  case wrongDirection
  /// Takes equal generations for equal data after a crash.
  case trustEqualLineages

  // MARK: Split brain

  /// Takes the side with more generations for the newer one.
  case longerHistoryWins
  /// Gives up its data again at the next split brain, for one order of the administrator.
  case discardAgain
  /// Gives data up while what is lost is still being kept.
  case skipUndo
  /// Keeps the first run of what a discard loses, and no more.
  case keepFirstRun
  /// Lets a side give way though no policy says so.
  case discardWithoutPolicy
  /// Where the administrator named a victim, both give way.
  case bothGiveWay

  // MARK: Roles

  /// Becomes Primary without waiting for the peer's consent.
  case promoteUnasked
  /// Becomes Primary with Outdated data.
  case promoteOutdated
  /// Goes on from the history of the source that was filling it when it is forced to Primary.
  case succeedSource
  /// Lets the peer become Primary before its own disk says that writes may come.
  case grantBeforeDirty
  /// Leaves a Primary that goes on, and still calls itself UpToDate.
  case leaveUpToDate

  // MARK: Disks that fail

  /// Takes writes of a Primary without a disk as if it had one.
  case skipGenerationForPeer
  /// A Primary without a disk takes any peer's data for what its clients saw.
  case trustAnyPeerData
  /// A Primary that is being synced reads its own stale blocks.
  case readStaleBlocks
  /// A Primary that is being synced does not lock what it asks for.
  case pullWithoutLock
  /// Writes over a block that could not be read while clients may write to it.
  case rewriteWithoutLock
  /// Uses the buffer of a read that a disk that was given up may still fill.
  case reuseAbandonedBuffer

  // MARK: Verify

  /// Compares ranges that clients may be writing to.
  case verifyWithoutLock
  /// Marks what differs on its own side only.
  case markDifferenceHere
  /// Repairs from the side that was not named.
  case repairWrongWay
  /// Repairs ranges that clients may be writing to.
  case repairWithoutLock

  // MARK: Connection

  /// Driver: takes data whose digest does not fit.
  case ignoreDigestMismatch

  // MARK: Superblock

  /// Driver: writes the superblock to the same copy each time.
  case writeOneCopy
  /// Driver: writes both copies at once.
  case writeBothCopies
  /// Driver: leaves the other copy as it was.
  case leaveOtherCopy
  /// Driver: writes the superblock to the disk's cache.
  case cacheSuperblock
}

extension Decision {
  /// Planted bugs in what both nodes decide.
  mutating func sabotage(
    _ bug: Sabotage, mine: StateReport, theirs: StateReport, iAmLower: Bool
  ) {
    switch bug {
    case .wrongDirection where rule == .extends: action = action.mirrored
    case .trustEqualLineages where rule == .equalOneCrashed:
      self = Decision(.noSync, .equalClean)
    case .discardWithoutPolicy where rule == .splitBrain && action == .refuse:
      self = Decision(iAmLower ? .syncTarget : .syncSource, .discardByPolicy)
      measure(source: iAmLower ? theirs : mine, target: iAmLower ? mine : theirs)
    case .bothGiveWay where rule == .discardAsked && action == .syncSource: action = .syncTarget
    case .longerHistoryWins where rule == .splitBrain && action == .refuse:
      let (mine, theirs) = (mine.lineage.newest?.number ?? 0, theirs.lineage.newest?.number ?? 0)
      let iAmSource = mine == theirs ? iAmLower : mine > theirs
      self = Decision(iAmSource ? .syncSource : .syncTarget, .extends)
      extent = .full
    default: break
    }
  }
}
