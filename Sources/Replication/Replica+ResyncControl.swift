/// How fast a resync goes, who may pause it, and what happens to blocks that cannot be read.
///
/// The controller. While no client is active the target's window of requests is served at once:
/// the link or a disk is the limit. A client is active while it waits for an answer and for 100 ms
/// after its last request. Then one range at a time is served, and after each the resync rests as
/// long as that range took, 50 ms at most. So the resync takes at most half of the time, and never
/// stops. The target, which sees the writes of clients, asks for short ranges meanwhile: 256 KiB is
/// what a client's request then waits for, on each disk and on the link. A client's write may pass
/// a range that rests: what is read later is newer.
///
/// Two rates may be configured beside it. `c-max-rate` is never exceeded. `c-min-rate` takes the
/// place of the half of the time: it is what the resync drops to while clients are active. Both are
/// kept by the source, which puts off the begin of a range; a range is at most a quarter of a
/// second long at the rate, so that a slow rate is no silence that the peer takes for death. A
/// verify keeps to the same two, where it is led.
///
/// A block that the source cannot read stays marked. The target goes on with the others, asks for
/// what was refused block by block, and then again every 10 s: a write of a client may have
/// repaired the block, or settled it.
import BlockTypes
import Metadata
import Wire

/// What a target asks for.
struct PullSize: BitwiseCopyable {
  /// Requests under way.
  var window: Int
  /// Blocks in each, at most.
  var blocks: UInt64
}

extension Replica {
  /// A client counts as active for so long after its last request. Milliseconds.
  private static var activityMs: UInt64 { 100 }
  /// The longest rest between two ranges. Nanoseconds.
  private static var restLimit: UInt64 { 50_000_000 }
  /// What a rate was not used for is lost after so long; a timer may be so late. Nanoseconds.
  private static var credit: UInt64 { 20_000_000 }
  /// The longest that a rate may put off a range: the load may have begun with a long one under
  /// way. Nanoseconds.
  private static var debtLimit: UInt64 { 3_000_000_000 }
  /// Pause before unreadable blocks are asked for again. Milliseconds.
  private static var unreadableRetryMs: UInt64 { 10_000 }

  private var clientsAreActive: Bool {
    guard role == .primary else { return false }
    return clientRequests > 0 || now < activityEnds
  }

  private var activityEnds: Instant { lastClientAt.advanced(milliseconds: Self.activityMs) }

  /// Whether clients come first now.
  private var yieldsToClients: Bool { options.resyncBytesPerSecondBusy != 0 && clientsAreActive }

  /// Whether the source may begin with another range now.
  var mayServe: Bool {
    guard now >= servesNotBefore else { return false }
    return !yieldsToClients || servesActive == 0 && now >= nextServeAt
  }

  mutating func serveBegins(_ bytes: UInt64) {
    servesActive += 1
    serveBegan = now
    if options.resyncBytesPerSecondMost > 0 {
      servesNotBefore = paced(servesNotBefore, bytes, options.resyncBytesPerSecondMost)
    }
    if yieldsToClients, let busy = options.resyncBytesPerSecondBusy {
      nextServeAt = paced(nextServeAt, bytes, busy)
    }
  }

  /// When the next range may begin at a rate, after one of so many bytes that begins now.
  private func paced(_ last: Instant, _ bytes: UInt64, _ bytesPerSecond: UInt64) -> Instant {
    let earliest = now.nanoseconds - min(now.nanoseconds, Self.credit)
    let takes = min(bytes * 1_000_000_000 / bytesPerSecond, Self.debtLimit)
    return Instant(nanoseconds: max(last.nanoseconds, earliest) + takes)
  }

  mutating func serveEnded() {
    servesActive -= 1
    guard yieldsToClients, options.resyncBytesPerSecondBusy == nil else { return }
    let took = now.nanoseconds - min(serveBegan.nanoseconds, now.nanoseconds)
    nextServeAt = Instant(nanoseconds: now.nanoseconds + min(took, Self.restLimit))
  }

  /// When a range that rests may begin; `.never` when none does.
  var serveDeadline: Instant {
    var deadline = servesNotBefore
    if yieldsToClients {
      deadline = max(deadline, servesActive == 0 ? nextServeAt : .never)
      // Clients that do nothing more do not count then.
      if clientRequests == 0 { deadline = min(deadline, max(servesNotBefore, activityEnds)) }
    }
    guard deadline > now else { return .never }
    for slot in 0..<peers.count where peers[slot].servesHere > servesActive { return deadline }
    return .never
  }

  /// What the target asks for now: as much as keeps the link busy, or little while the source's
  /// clients write; never more than a quarter of a second at a rate that was configured.
  var pullSize: PullSize {
    var size = PullSize(window: options.resyncWindow, blocks: options.resyncRequestBytes)
    let most = options.resyncBytesPerSecondMost
    if most > 0 { size.blocks = min(size.blocks, most / 4) }
    let busy = options.resyncBytesPerSecondBusy ?? .max
    // A Primary that is being synced locks what it asks for: its own clients wait for it.
    if busy != 0, clientsWriteSomewhere {
      size.window = min(size.window, options.busyResyncWindow)
      size.blocks = min(size.blocks, min(options.busyResyncRequestBytes, busy / 4))
    }
    size.blocks = max(1, size.blocks / blockSize)
    return size
  }

  /// Whether clients of this node are active, or write through the peer.
  private var clientsWriteSomewhere: Bool {
    let isNearWrite =
      lastPeerWriteAt.map { now < $0.advanced(milliseconds: Self.activityMs) } ?? false
    return isNearWrite || clientsAreActive
  }

  // MARK: Rate of a verify

  /// Bytes a second that a verify may compare now; `nil` for as many as it can.
  private var verifyRate: UInt64? {
    let most = options.resyncBytesPerSecondMost
    guard let busy = options.resyncBytesPerSecondBusy, busy > 0, clientsWriteSomewhere else {
      return most > 0 ? most : nil
    }
    return most > 0 ? min(most, busy) : busy
  }

  /// How much a verify compares at once: a quarter of a second at its rate, whole blocks.
  var verifyBytes: UInt64 {
    let most = options.verifyRequestBytes
    guard let rate = verifyRate else { return most }
    return max(blockSize, min(most, rate / 4) / blockSize * blockSize)
  }

  mutating func verifyBegins(_ bytes: UInt64) {
    if let rate = verifyRate { verifiesNotBefore = paced(verifiesNotBefore, bytes, rate) }
  }

  /// When a verify that rests for its rate goes on; `.never` when none does.
  var verifyDeadline: Instant {
    guard verifiesNotBefore > now else { return .never }
    for slot in 0..<peers.count where peers[slot].replication == .verifyS {
      return verifiesNotBefore
    }
    return .never
  }

  // MARK: Unreadable blocks

  mutating func receivedUnreadable(_ slot: Int, _ header: MessageHeader) {
    let id = SlotID(tag: header.id)
    guard requests.contains(id), requests[id].origin == .resyncPull,
      requests[id].pendingPeers.contains(slot), requests[id].range.start == header.offset
    else { return protocolViolation(slot, .resyncUnreadable) }
    gotAnswer(slot)
    remove(id)
    peers[slot].sync.pullsInFlight -= 1
    peers[slot].wasRefusedBlocks = true
    pullMore(slot)
    flushForSyncDone(slot)
  }

  /// The target has asked for every marked block: `true` when it shall begin anew at once.
  mutating func beginsAnotherPass(_ slot: Int) -> Bool {
    guard peers[slot].sync.pullsInFlight == 0, bitmaps[slot].setCount > 0 else { return false }
    peers[slot].pullCursor = 0
    guard peers[slot].wasRefusedBlocks else { return true }
    guard peers[slot].pullsSingly else {
      peers[slot].pullsSingly = true
      peers[slot].wasRefusedBlocks = false
      return true
    }
    if peers[slot].sync.retryPullsAt == .never {
      peers[slot].sync.retryPullsAt = now.advanced(milliseconds: Self.unreadableRetryMs)
    }
    return false
  }

  mutating func retryPulls(_ slot: Int) {
    peers[slot].sync.retryPullsAt = .never
    peers[slot].wasRefusedBlocks = false
    pullMore(slot)
  }

  // MARK: Pausing

  /// Whether one of the two sides wants the resync to rest.
  func isResting(_ slot: Int) -> Bool {
    waitsForResync || peers[slot].isPausedHere || peers[slot].isPausedByPeer
      || peers[slot].peerWaitsForResync
  }

  /// `pause-sync` and `resume-sync`: both sides must want it to go on.
  mutating func pauseSync(_ isPaused: Bool, _ token: UInt64) {
    reply(token, .done)
    for slot in 0..<peers.count where peers[slot].isPausedHere != isPaused {
      peers[slot].isPausedHere = isPaused
      tellPause(slot)
      pullMore(slot)
    }
  }

  /// `resync-after`: another resource of this node is to be in sync before.
  mutating func orderResync(_ mustWait: Bool) {
    guard waitsForResync != mustWait else { return }
    waitsForResync = mustWait
    for slot in 0..<peers.count {
      tellPause(slot)
      pullMore(slot)
    }
  }

  /// Bit 0: an administrator has paused it here. Bit 1: another resource comes first.
  mutating func tellPause(_ slot: Int) {
    effects.push(.note(.resyncPaused(peer: slot)))
    guard peers[slot].state == .connected, let connection = peers[slot].connection else { return }
    let reasons: UInt64 = (peers[slot].isPausedHere ? 1 : 0) | (waitsForResync ? 2 : 0)
    effects.push(.send(connection, MessageHeader(.syncPause, length: reasons), .none))
  }

  mutating func receivedPause(_ slot: Int, _ header: MessageHeader) {
    guard header.length <= 3 else { return protocolViolation(slot, .syncPause) }
    peers[slot].isPausedByPeer = header.length & 1 != 0
    peers[slot].peerWaitsForResync = header.length & 2 != 0
    effects.push(.note(.resyncPaused(peer: slot)))
    pullMore(slot)
  }

  // MARK: Invalidating the peer

  mutating func beginInvalidateRemote(_ token: UInt64) {
    var asked = false
    for slot in 0..<peers.count {
      guard disk == .upToDate, peers[slot].replication == .established,
        peers[slot].role == .secondary, peers[slot].takesWrites,
        let connection = peers[slot].connection
      else { continue }
      effects.push(.send(connection, MessageHeader(.invalidate), .none))
      asked = true
    }
    reply(token, asked ? .done : .refused(.noRemoteDisk))
  }

  /// The peer takes our data for bad. Nothing happens where that cannot be right any more.
  mutating func receivedInvalidate(_ slot: Int) {
    guard role == .secondary, command == nil, disk != .diskless, disk != .failed,
      peers[slot].replication == .established, peers[slot].disk == .upToDate
    else { return }
    invalidateData()
  }
}
