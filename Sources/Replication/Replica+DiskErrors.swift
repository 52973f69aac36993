/// What an error of the disk, or its silence, leads to: DRBD's `on-io-error` and `disk-timeout`.
///
/// A failed flush or change of the metadata always ends a disk, and so does a failed FUA write,
/// which is a flush as well, and any failed write on a Secondary: nobody can say any more what the
/// disk holds. A disk that is silent for too long is given up in the same way. What it had been
/// asked for stays in its hands: the buffers belong to it until it answers, and its answer,
/// whenever it comes, meets a slot that nobody else has taken (`Request.isAbandoned`). No other
/// disk is attached before that.
import BlockTypes
import Wire

/// DRBD's `on-io-error`.
public enum DiskErrorPolicy: UInt8, Sendable, BitwiseCopyable, CaseIterable {
  /// A write that fails ends the disk; the peer's is used.
  case detach
  /// A Primary's clients hear of a write that fails, and the disk is kept.
  case passOn
  /// As `detach`; the handler `local-io-error` is called.
  case callLocalIOError
}

extension Replica {
  /// Whether the failure of this change ends the disk.
  func condemnsDisk(_ request: Request) -> Bool {
    guard options.sabotage != .keepFailedDisk else { return false }
    let isClients = request.origin == .client && !request.isDurable
    return options.errorPolicy != .passOn || !isClients || disk != .upToDate
  }

  /// `pass_on`: a client's write failed here and may be on the peer. Nobody was promised anything,
  /// but the two replicas differ. A target that has told all its marks would never ask for this
  /// block, and the source would wait for that: both tell each other again what differs.
  mutating func markFailedWrite(_ request: Request) {
    guard request.operation.changesData else { return }
    for slot in 0..<peers.count {
      markOutOfSync(slot, request.range)
      if peers[slot].replication.isSource { loseConnection(slot, .renegotiate) }
    }
  }

  /// Something was given to the disk.
  mutating func watchDisk() {
    guard options.diskTimeoutMs > 0, diskCheckAt == .never else { return }
    diskCheckAt = now.advanced(milliseconds: options.diskTimeoutMs)
  }

  /// Gives up a disk that has not answered for too long. Called once in `disk-timeout` at most.
  mutating func checkDisk() {
    diskCheckAt = .never
    guard hasSuperblock, options.diskTimeoutMs > 0, let oldest = oldestOperation else { return }
    let limit = oldest.advanced(milliseconds: options.diskTimeoutMs)
    guard now >= limit else {
      diskCheckAt = limit
      return
    }
    diskErrors.timeouts += 1
    effects.push(.note(.diskTimeout(milliseconds: now.milliseconds(since: oldest))))
    failDisk()
  }

  /// When the oldest operation began that the disk has not ended.
  private var oldestOperation: Instant? {
    var oldest = Instant.never
    for index in 0..<requests.capacity {
      guard let id = requests.id(at: index), requests[id].isLocalPending else { continue }
      oldest = min(oldest, requests[id].diskBegan)
    }
    if superblockIsBeingWritten { oldest = min(oldest, superblockBegan) }
    if logIsBeingWritten { oldest = min(oldest, logBegan) }
    for entry in 0..<pageWrites.count where pageWrites[entry].isBusy {
      oldest = min(oldest, pageWrites[entry].began)
    }
    return oldest == .never ? nil : oldest
  }
}
