/// Conflicting histories: what an administrator gives up, asks about or lets a handler prepare, and
/// what this node remembers of the last meeting so that `status` can explain it.
public import BlockTypes
public import Wire

/// What two replicas told each other when they last met, and what followed from it.
public struct Meeting: Equatable, Sendable {
  /// What this node told.
  public var mine: StateReport
  /// What the peer told.
  public var theirs: StateReport
  /// What both decided.
  public var decision: Decision

  /// The newest generation that both have.
  public var ancestor: Generation? { mine.lineage.commonAncestor(theirs.lineage) }
  /// Whether the set bits of both sides are all that differs.
  public var bitmapsCover: Bool { SyncExtent.covers(mine, theirs) }
  /// Whether both wrote without each other and nobody has decided whose data counts.
  public var isUnresolved: Bool { decision.reason.isSplitBrain }
}

/// Why the handler of a name is to be run.
public enum HandlerCall: UInt8, Sendable, BitwiseCopyable, CaseIterable {
  case initialSplitBrain, splitBrain, beforeResyncTarget, afterResyncTarget
  case primaryLost, primaryLostAfterSplitBrain, localIOError, outOfSync

  /// DRBD's name of the handler.
  public var name: String {
    switch self {
    case .initialSplitBrain: "initial-split-brain"
    case .splitBrain: "split-brain"
    case .beforeResyncTarget: "before-resync-target"
    case .afterResyncTarget: "after-resync-target"
    case .primaryLost: "pri-lost"
    case .primaryLostAfterSplitBrain: "pri-lost-after-sb"
    case .localIOError: "local-io-error"
    case .outOfSync: "out-of-sync"
    }
  }
}

extension Replica {
  /// How long the consent of `before-resync-target` counts. Milliseconds.
  private static var consentMs: UInt64 { 60_000 }

  /// What was told and decided when this node last met the peer in `slot`.
  public func lastMeeting(withPeer slot: Int) -> Meeting? { meetings[slot] }

  /// Adds to a report what the administrator and the configuration say about conflicts.
  func addWishes(to report: inout StateReport, for slot: Int) {
    report.discardMyData = peers[slot].discardsMyData && role != .primary
    report.isTentative = peers[slot].isTentative
    report.policy = options.policy
  }

  /// `connect --discard-my-data`, or `connect --tentative` without a plan.
  mutating func beginSpecialConnect(_ plan: DiscardPlan?, _ token: UInt64) {
    // Its clients have seen the data that would be given up.
    if plan != nil, role == .primary { return refuseConnect(token, .discardOnPrimary) }
    for slot in 0..<peers.count {
      if peers[slot].state == .connected { return refuseConnect(token, .alreadyConnected) }
      if peers[slot].state.isHandshake { return refuseConnect(token, .transient) }
    }
    for slot in 0..<peers.count {
      peers[slot].discardsMyData = plan != nil
      peers[slot].declinesUndo = plan?.keepsUndo == false
      peers[slot].isTentative = plan == nil
      peers[slot].givesWay = false
      if peers[slot].declinesUndo { forgetUndo(slot) }
      beginConnecting(slot)
    }
    reply(token, .done)
  }

  private mutating func refuseConnect(_ token: UInt64, _ refusal: Refusal) {
    reply(token, .refused(refusal))
  }

  /// What a decision becomes by what was asked besides it.
  mutating func concluded(_ decision: Decision, _ slot: Int, _ meeting: Meeting) -> Decision {
    meetings[slot] = meeting
    // Once it is kept what will be lost, the two meet again: nothing new was found out.
    if decision.reason.isSplitBrain || decision.givesDataUp && peers[slot].undo != .kept {
      effects.push(.note(.handler(peer: slot, .initialSplitBrain)))
    }
    if meeting.mine.isTentative || meeting.theirs.isTentative {
      return Decision(.refuse, decision.rule, .tentative)
    }
    guard hasExposed(meeting.theirs, slot) else {
      return Decision(.refuse, decision.rule, .exposedDataDiffers)
    }
    if let handler = decision.reason.handler(role: role) {
      effects.push(.note(.handler(peer: slot, handler)))
    }
    if decision.reason == .primaryMustYieldAfterSplitBrain {
      guard decision.givesWay else {
        return Decision(.refuse, decision.rule, .peerMustYield)
      }
      effects.push(.note(.mustGiveWay(peer: slot)))
      return decision
    }
    if keepsUndoFirst(decision, slot) {
      return Decision(.refuse, decision.rule, .undoIsKept)
    }
    // Not of a Primary whose new disk is filled: its clients live on this connection meanwhile.
    guard decision.action == .syncTarget, options.asksBeforeResyncTarget, role != .primary else {
      return decision
    }
    // It counts for one resync.
    let isAllowed = now < peers[slot].consentUntil
    peers[slot].consentUntil = Instant(nanoseconds: 0)
    guard !isAllowed else { return decision }
    // What is known by now counts whatever becomes of the handler: the peer has more.
    if decision.rule == .extends || decision.rule == .equalOneUnshared { markOutdated() }
    peers[slot].handlerRuns = true
    effects.push(.note(.handler(peer: slot, .beforeResyncTarget)))
    return Decision(.refuse, decision.rule, .handlerRuns)
  }

  /// A policy names this Primary, and the driver says whether a client holds it open. One that is
  /// not becomes Secondary and then meets its peer as if it had been told to discard its data.
  mutating func giveWay(_ slot: Int, heldOpen: Bool, _ token: UInt64) {
    guard slot < peers.count, peers[slot].state == .connecting, role == .primary,
      let meeting = meetings[slot], meeting.decision.givesWay
    else { return reply(token, .done) }
    guard heldOpen else {
      peers[slot].givesWay = true
      return queue(.secondary, token)
    }
    let isHandled =
      meeting.theirs.role == .primary
      ? options.policy.twoPrimaries == .callPrimaryLost
      : options.policy.onePrimary == .callPrimaryLost
    let call = isHandled ? HandlerCall.primaryLostAfterSplitBrain : .splitBrain
    effects.push(.note(.handler(peer: slot, call)))
    loseConnection(slot, .primaryCannotYield)
    reply(token, .refused(.heldOpen))
  }

  /// The role is given up; so is the data at the next meeting.
  mutating func hasGivenWay() {
    for slot in 0..<peers.count where peers[slot].givesWay {
      peers[slot].givesWay = false
      peers[slot].discardsMyData = true
      peers[slot].declinesUndo = false
      peers[slot].retryPauseMs = 0
      scheduleRetry(slot)
    }
  }

  /// The handler `before-resync-target` has ended.
  mutating func resyncIsAllowed(_ slot: Int, _ isAllowed: Bool) {
    guard slot < peers.count, peers[slot].handlerRuns else { return }
    peers[slot].handlerRuns = false
    guard peers[slot].state == .connecting else { return }
    guard isAllowed else { return loseConnection(slot, .handlerRefused) }
    peers[slot].consentUntil = now.advanced(milliseconds: Self.consentMs)
    peers[slot].retryPauseMs = 0
    scheduleRetry(slot)
  }

  /// The time for people, in seconds since 1970; 0 when unknown.
  var unixSeconds: UInt32 {
    guard options.unixSecondsAtZero > 0 else { return 0 }
    return UInt32(clamping: options.unixSecondsAtZero + now.nanoseconds / 1_000_000_000)
  }

  /// Gives up, as target, what the decision says. The caller makes it durable.
  mutating func cutLineage(_ lineage: inout Lineage, _ slot: Int, _ cut: LineageCut) {
    switch cut {
    case .nothing: break
    case .after(let ancestor): lineage.cut(after: ancestor)
    case .everything:
      lineage = Lineage()
      peers[slot].base = nil
    }
  }
}

extension Reason {
  /// The handler that a refusal for this reason calls on a node with this role.
  fileprivate func handler(role: Role) -> HandlerCall? {
    switch self {
    case .primaryMustYield: role == .primary ? .primaryLost : nil
    case .primaryMustYieldAfterSplitBrain: nil
    default: isSplitBrain ? .splitBrain : nil
    }
  }
}
