/// The local disk and its superblock: attach, change, failure.
public import Metadata
public import BlockTypes
import Wire

extension Replica {
  /// Makes room for the bitmaps of a disk that is about to be attached, so that they can be read
  /// into memory; `false` when `attach` would be refused.
  public mutating func prepareAttach(_ block: Superblock) -> Bool {
    guard refusal(ofAttaching: block) == nil else { return false }
    for slot in 0..<peers.count {
      bitmaps[slot] = BlockBitmap(
        blockCount: (block.volumeBytes + blockSize - 1) / blockSize,
        pageBlocks: options.bitmapPageBlocks)
    }
    return true
  }

  /// Pages in the bitmap of a peer, after `prepareAttach`.
  public func bitmapPageCount(_ slot: Int) -> Int { bitmaps[slot].pageCount }

  /// Takes a page of a bitmap as it was read from the disk, after `prepareAttach`. A damaged page
  /// marks everything that it describes, and so does one that could not be read (`nil`).
  @safe
  public mutating func loadPage(
    _ page: Int, ofPeer slot: Int, _ block: Superblock, _ bytes: UnsafeRawBufferPointer?
  ) {
    guard let bytes = unsafe bytes else { return bitmaps[slot].loadDamagedPage(page) }
    let name = BitmapPage(
      deviceID: block.deviceID, slot: slot, node: peers[slot].node, number: page)
    // What is wrong with a page makes no difference: its blocks are marked.
    try? name.load(bytes, into: &bitmaps[slot])
  }

  /// Whether the pages of a peer's bitmap say anything: if not, they need not be read.
  public func hasBitmap(ofPeer slot: Int, in block: Superblock) -> Bool {
    guard slot < block.peers.count else { return false }
    return block.peers[slot].node == peers[slot].node && !block.peers[slot].isFull
  }

  /// Takes the superblock that the driver read from a disk it has opened, after `prepareAttach` and
  /// the pages of all bitmaps that say anything.
  ///
  /// A replica found dirty may lack writes that it acknowledged (its host may have lost power) or
  /// that the peer has by now. It is Consistent, not UpToDate, until the peer was asked; unless it
  /// is on record that the peer lacks writes of ours, so that nobody can be ahead (P2).
  ///
  /// - Parameter hot: what the activity log said; `none` when the superblock is clean.
  public mutating func attach(
    _ block: Superblock, hot: ActivityLogRecovery, token: UInt64, at now: Instant, entropy: UInt64
  ) {
    beginStep(now, entropy)
    attach(block, hot, token)
    finishStep()
  }

  private func refusal(ofAttaching block: Superblock) -> Refusal? {
    guard disk == .diskless else { return .alreadyAttached }
    // What the disk before this one still owes must not be taken for an answer of this one.
    guard !hasMetadataWrites, !hasDiskOperations, command == nil else { return .transient }
    // Only a peer with what the clients have seen can fill the disk under them.
    if let exposed {
      guard goodPeer != nil else { return .nobodyFillsTheDisk }
      guard block.lineage.newest.map({ exposed.generations.contains($0) }) ?? true else {
        return .dataNotCurrent
      }
      guard block.volumeBytes == exposedBytes else { return .dataNotCurrent }
    }
    let isOurs =
      block.node == options.node && block.resource == options.resource
      && block.maxPeers >= peers.count
    return isOurs ? nil : .wrongMetadata
  }

  private mutating func attach(
    _ block: Superblock, _ hot: ActivityLogRecovery, _ token: UInt64
  ) {
    if let refusal = refusal(ofAttaching: block) {
      reply(token, .refused(refusal))
      return
    }
    superblock = block
    if block.diskState != .inconsistent, !lacksWhatWasLost(block.lineage) { lost = nil }
    exposedBytes = block.volumeBytes
    crashed = block.dirty
    forgetUndo()
    var peerMayBeAhead = false
    for slot in 0..<peers.count {
      peers[slot].base = block.peers.first { $0.node == peers[slot].node }?.base
      // The peer may have taken the newest generation over at the end of a resync: a write that it
      // lacks begins another.
      peers[slot].mayShareNewest = peers[slot].base != nil
      peers[slot].isFull = false
      if peers[slot].base == nil { peerMayBeAhead = true }
      if !hasBitmap(ofPeer: slot, in: block) { markAll(slot) }
    }
    if crashed, options.sabotage != .ignoreHotExtents { mark(hot, block.volumeBytes) }
    beginLog(block)
    become(disk: .diskless)
    switch block.diskState {
    case .inconsistent: become(disk: .inconsistent)
    case .outdated: become(disk: .outdated)
    case .upToDate:
      let isSure = !(crashed && peerMayBeAhead) && exposed == nil
      become(disk: isSure ? .upToDate : .consistent)
    }
    reply(token, .done)
    for slot in 0..<peers.count
    where peers[slot].state == .connected || peers[slot].state.isHandshake {
      loseConnection(slot, .renegotiate)
    }
  }

  /// Marks what could have been written when the node crashed.
  private mutating func mark(_ hot: ActivityLogRecovery, _ volumeBytes: UInt64) {
    for slot in 0..<peers.count {
      switch hot {
      case .none: break
      case .damaged: markAll(slot)
      case .extents(let extents):
        for extent in extents {
          let range = ActivityLog.range(ofExtent: extent)
          let start = min(range.start / options.activityLogScale, volumeBytes)
          let end = min(range.end / options.activityLogScale, volumeBytes)
          bitmaps[slot].set(ByteRange(start: start, end: end))
          // These marks may have been on their way to the disk when the process died. The log that
          // stands for them goes only when they have been written again.
          bitmaps[slot].distrustPages(covering: ByteRange(start: start, end: end))
        }
      }
    }
  }

  /// A new run of the log. It voids the one before, whose hot extents must be marked on disk first.
  private mutating func beginLog(_ block: Superblock) {
    let bytes = block.volumeBytes * options.activityLogScale
    log = ActivityLog(
      slotCount: ActivityLog.slotCount(wanted: options.activityLogSlots, volumeBytes: bytes),
      deviceID: block.deviceID, run: block.activityLogRun + 1,
      extentCount: Int(bytes / ActivityLog.extentBytes) + 1)
    log.cooling.patienceLeastMs = options.coolAfterMs
    log.cooling.pauseMs = options.coolAfterMs / 2
    log.clockMs = UInt32(truncatingIfNeeded: now.nanoseconds / 1_000_000)
    logState = .preparing
    var isDurable = true
    for slot in 0..<peers.count where !bitmaps[slot].isDurable && !peers[slot].isFull {
      isDurable = false
    }
    if options.sabotage == .newRunBeforeMarks { isDurable = true }
    if isDurable { raiseRun() } else { attachSweep = wantSweep() }
  }

  private var hasDiskOperations: Bool {
    for index in 0..<requests.capacity {
      guard let id = requests.id(at: index) else { continue }
      let request = requests[id]
      if request.isLocalPending || request.isAbandoned || request.origin == .abandoned {
        return true
      }
    }
    return false
  }

  /// Marks the superblock as changed and returns the version whose durability to wait for.
  @discardableResult
  mutating func changeSuperblock() -> UInt64 {
    // In place: assigning a new array through the optional leaks the old one (Swift 6.3).
    superblock?.peers.removeAll(keepingCapacity: true)
    for slot in 0..<peers.count {
      superblock?.peers.append(
        PeerSlotRecord(
          node: peers[slot].node, base: peers[slot].base, isFull: peers[slot].isFull))
    }
    versionWanted += 1
    return versionWanted
  }

  mutating func superblockWritten(_ result: Int32) {
    precondition(superblockIsBeingWritten, "no superblock was being written")
    superblockIsBeingWritten = false
    guard result >= 0 else { return metadataFailed() }
    guard disk != .diskless else { return }
    versionDurable = versionWriting
    continueRun()
    completeWaitingBase()
    for slot in 0..<peers.count {
      sendVerdictWhenDurable(slot)
      grantWhenDurable(slot)
      acknowledgeDiskWhenDurable(slot)
      meetAsEqualWhenDurable(slot)
      continueStarting(slot)
      continueFinishing(slot)
      repairMore(slot)
    }
  }

  /// A change of the metadata failed, perhaps of a disk that was let go meanwhile.
  mutating func metadataFailed() {
    hasFailedFlush = true
    guard hasSuperblock else { return }
    diskErrors.writeErrors += 1
    failDisk()
  }

  /// The disk failed: it is never used again. A Primary goes on through an UpToDate peer; what has
  /// no other way fails.
  ///
  /// - Parameter current: the request whose failure this is; it is looked at afterwards.
  mutating func failDisk(except current: SlotID? = nil) {
    become(disk: .failed)
    loseDisk(except: current)
  }

  /// Lets the disk go, and tells the peers.
  mutating func loseDisk(except current: SlotID? = nil) {
    tellDisk(.diskless)
    dropDisk(except: current)
    leaveSyncs()
  }

  /// Ends what needed the disk.
  mutating func leaveSyncs() {
    for slot in 0..<peers.count {
      let isSyncing = peers[slot].replication.isSource || peers[slot].replication.isTarget
      if isSyncing, peers[slot].awaitsDiskAck {
        leaveSync(slot)
      } else if isSyncing || peers[slot].state.isHandshake {
        loseConnection(slot, .diskFailed)
      }
    }
  }

  /// Lets the disk go, if there still is one.
  mutating func dropDisk(except current: SlotID? = nil) {
    guard hasSuperblock else { return }
    keepExposed()
    diskCheckAt = .never
    for slot in 0..<peers.count { stopVerify(slot, .noLocalDisk) }
    become(disk: .diskless)
    superblock = nil
    for slot in 0..<peers.count { peers[slot].versionOfEqual = nil }
    crashed = false
    forgetUndo()
    versionDurable = versionWanted
    effects.push(.detachDisk)
    forgetSweeps()
    leaveLog()
    abandonDisk(except: current)
    completeWaitingBase()
    for slot in 0..<peers.count { grantWhenDurable(slot) }
  }
}
