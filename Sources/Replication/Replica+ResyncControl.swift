/// How fast a resync goes, who may pause it, and what happens to blocks that cannot be read.
///
/// The controller. While no client is active the target's window of requests is served at once:
/// the link or a disk is the limit. A client is active while it waits for an answer and for 100 ms
/// after its last request. Then one range at a time is served, and after each the resync rests as
/// long as that range took, 50 ms at most. So a client's request waits for at most one range of
/// the resync (1 MiB) on each disk and on the link, and the resync takes at most half of the time;
/// it never stops. A client's write may pass a range that rests: what is read later is newer.
///
/// A block that the source cannot read stays marked. The target goes on with the others, asks for
/// what was refused block by block, and then again every 10 s: a write of a client may have
/// repaired the block, or settled it.
import BlockTypes
import Metadata
import Wire

extension Replica {
  /// A client counts as active for so long after its last request. Milliseconds.
  private static var activityMs: UInt64 { 100 }
  /// The longest rest between two ranges. Nanoseconds.
  private static var restLimit: UInt64 { 50_000_000 }
  /// Pause before unreadable blocks are asked for again. Milliseconds.
  private static var unreadableRetryMs: UInt64 { 10_000 }

  private var clientsAreActive: Bool {
    guard role == .primary else { return false }
    return clientRequests > 0 || now < lastClientAt.advanced(milliseconds: Self.activityMs)
  }

  /// Whether the source may begin with another range now.
  var mayServe: Bool {
    !clientsAreActive || servesActive == 0 && now >= nextServeAt
  }

  mutating func serveBegins() {
    servesActive += 1
    serveBegan = now
  }

  mutating func serveEnded() {
    servesActive -= 1
    guard clientsAreActive else { return }
    let took = now.nanoseconds - min(serveBegan.nanoseconds, now.nanoseconds)
    nextServeAt = Instant(nanoseconds: now.nanoseconds + min(took, Self.restLimit))
  }

  /// When a range that rests may begin; `.never` when none does.
  var serveDeadline: Instant {
    guard nextServeAt > now else { return .never }
    for slot in 0..<peers.count where peers[slot].servesHere > 0 { return nextServeAt }
    return .never
  }

  // MARK: Unreadable blocks

  mutating func receivedUnreadable(_ slot: Int, _ header: MessageHeader) {
    let id = SlotID(tag: header.id)
    guard requests.contains(id), requests[id].origin == .resyncPull,
      Int(requests[id].peer) == slot, requests[id].range.start == header.offset
    else { return protocolViolation(slot, .resyncUnreadable) }
    gotAnswer(slot)
    remove(id)
    peers[slot].pullsInFlight -= 1
    peers[slot].wasRefusedBlocks = true
    pullMore(slot)
    flushForSyncDone(slot)
  }

  /// The target has asked for every marked block: `true` when it shall begin anew at once.
  mutating func beginsAnotherPass(_ slot: Int) -> Bool {
    guard peers[slot].pullsInFlight == 0, bitmaps[slot].setCount > 0 else { return false }
    peers[slot].pullCursor = 0
    guard peers[slot].wasRefusedBlocks else { return true }
    guard peers[slot].pullsSingly else {
      peers[slot].pullsSingly = true
      peers[slot].wasRefusedBlocks = false
      return true
    }
    if peers[slot].retryPullsAt == .never {
      peers[slot].retryPullsAt = now.advanced(milliseconds: Self.unreadableRetryMs)
    }
    return false
  }

  mutating func retryPulls(_ slot: Int) {
    peers[slot].retryPullsAt = .never
    peers[slot].wasRefusedBlocks = false
    pullMore(slot)
  }

  // MARK: Pausing

  /// `pause-sync` and `resume-sync`: both sides must want it to go on.
  mutating func pauseSync(_ isPaused: Bool, _ token: UInt64) {
    effects.push(.reply(token: token, .done))
    for slot in 0..<peers.count where peers[slot].isPausedHere != isPaused {
      peers[slot].isPausedHere = isPaused
      tellPause(slot)
      if !isPaused { pullMore(slot) }
    }
  }

  mutating func tellPause(_ slot: Int) {
    guard peers[slot].state == .connected, let connection = peers[slot].connection else { return }
    let header = MessageHeader(.syncPause, length: peers[slot].isPausedHere ? 1 : 0)
    effects.push(.send(connection, header, .none))
  }

  mutating func receivedPause(_ slot: Int, _ header: MessageHeader) {
    guard header.length <= 1 else { return protocolViolation(slot, .syncPause) }
    peers[slot].isPausedByPeer = header.length == 1
    if header.length == 0 { pullMore(slot) }
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
    effects.push(.reply(token: token, asked ? .done : .refused(.noRemoteDisk)))
  }

  /// The peer takes our data for bad. Nothing happens where that cannot be right any more.
  mutating func receivedInvalidate(_ slot: Int) {
    guard role == .secondary, command == nil, disk != .diskless, disk != .failed,
      peers[slot].replication == .established, peers[slot].disk == .upToDate
    else { return }
    invalidateData()
  }
}
