/// Both sides wrote without each other: who gives way, and what it gives up.
///
/// Nobody does by default (P3). An administrator names the victim with `--discard-my-data`; a
/// policy names it only if both nodes have the same one and the bitmaps of both cover all that
/// changed since the common ancestor, so that the decision is made on known numbers.
import BlockTypes
import Wire

/// The side that a policy names.
private enum Victim {
  case nobody, mine, theirs
}

extension Decision {
  /// Rows 9, 11, 17 and 18. `rule` is the row that found the split brain.
  static func splitBrain(
    _ mine: StateReport, _ theirs: StateReport, _ rule: Rule, _ iAmLower: Bool
  ) -> Decision {
    let unresolved = rule == .equalBothUnshared ? Reason.bothHoldUnshared : .splitBrain
    if mine.discardMyData || theirs.discardMyData {
      let source = mine.discardMyData ? theirs : mine
      guard source.isGoodSource else { return Decision(.refuse, rule, .noGoodSource) }
      return Decision(mine.discardMyData ? .syncTarget : .syncSource, .discardAsked)
    }
    guard agrees(mine, theirs) else { return Decision(.refuse, rule, .policiesDiffer) }
    let victim = victim(mine, theirs, iAmLower)
    let source = victim == .mine ? theirs : mine
    guard victim != .nobody, source.isGoodSource else {
      return Decision(.refuse, rule, unresolved)
    }
    guard SyncExtent.covers(mine, theirs) else {
      return Decision(.refuse, rule, .bitmapsDoNotCover)
    }
    return Decision(victim == .mine ? .syncTarget : .syncSource, .discardByPolicy)
  }

  /// Both are Primary, and their histories part. Nobody's data is replaced under its clients: the
  /// side that a policy names has to give up its role first, and meets the other one again.
  static func twoPrimaries(
    _ mine: StateReport, _ theirs: StateReport, _ iAmLower: Bool
  ) -> Decision {
    let policy = mine.policy.twoPrimaries
    if policy == .disconnect && theirs.policy.twoPrimaries == .disconnect {
      return Decision(.refuse, .bothPrimary, .splitBrain)
    }
    guard policy == theirs.policy.twoPrimaries,
      mine.policy.noPrimary == theirs.policy.noPrimary.mirrored
    else { return Decision(.refuse, .bothPrimary, .policiesDiffer) }
    let victim = noPrimaryVictim(mine, theirs, iAmLower)
    let source = victim == .mine ? theirs : mine
    let target = victim == .mine ? mine : theirs
    guard victim != .nobody, source.isGoodSource, target.disk != .diskless,
      mine.volumeBytes == theirs.volumeBytes
    else { return Decision(.refuse, .bothPrimary, .splitBrain) }
    guard SyncExtent.covers(mine, theirs) else {
      return Decision(.refuse, .bothPrimary, .bitmapsDoNotCover)
    }
    var refusal = Decision(.refuse, .bothPrimary, .primaryMustYieldAfterSplitBrain)
    refusal.givesWay = victim == .mine
    return refusal
  }

  /// Fills in what is copied and given up.
  mutating func measure(source: StateReport, target: StateReport) {
    guard rule == .discardAsked || rule == .discardByPolicy else {
      extent = SyncExtent(source: source, target: target)
      return
    }
    guard SyncExtent.covers(source, target), target.disk != .inconsistent,
      let ancestor = source.lineage.commonAncestor(target.lineage)
    else {
      extent = .full
      cut = .everything
      return
    }
    extent = .bitmap
    cut = .after(ancestor)
  }

  /// Whether both nodes have the policy that is asked now.
  private static func agrees(_ mine: StateReport, _ theirs: StateReport) -> Bool {
    let isNoPrimary = mine.role != .primary && theirs.role != .primary
    let isSame = mine.policy.noPrimary == theirs.policy.noPrimary.mirrored
    if isNoPrimary { return isSame }
    guard mine.policy.onePrimary == theirs.policy.onePrimary else { return false }
    switch mine.policy.onePrimary {
    case .disconnect, .discardSecondary: return true
    case .consensus, .callPrimaryLost, .asNoPrimary: return isSame
    }
  }

  private static func victim(
    _ mine: StateReport, _ theirs: StateReport, _ iAmLower: Bool
  ) -> Victim {
    let byNumbers = { noPrimaryVictim(mine, theirs, iAmLower) }
    if mine.role != .primary, theirs.role != .primary { return byNumbers() }
    switch mine.policy.onePrimary {
    case .disconnect: return .nobody
    case .discardSecondary: return mine.role == .primary ? .theirs : .mine
    case .callPrimaryLost, .asNoPrimary: return byNumbers()
    case .consensus:
      let victim = byNumbers()
      let isPrimary = (victim == .mine ? mine : theirs).role == .primary
      return isPrimary ? .nobody : victim
    }
  }

  private static func noPrimaryVictim(
    _ mine: StateReport, _ theirs: StateReport, _ iAmLower: Bool
  ) -> Victim {
    let iAmOlder = mine.continuedPrimary(since: theirs)
    let theyAreOlder = theirs.continuedPrimary(since: mine)
    switch mine.policy.noPrimary {
    case .disconnect: return .nobody
    case .discardLocal: return .mine
    case .discardRemote: return .theirs
    case .discardYoungerPrimary where iAmOlder != theyAreOlder:
      return iAmOlder ? .theirs : .mine
    case .discardOlderPrimary where iAmOlder != theyAreOlder:
      return iAmOlder ? .mine : .theirs
    case .discardZeroChanges:
      let (own, other) = (mine.outOfSyncBlocks, theirs.outOfSyncBlocks)
      if own > 0 && other > 0 { return .nobody }
      if own != other { return own == 0 ? .mine : .theirs }
    case .discardLeastChanges, .discardYoungerPrimary, .discardOlderPrimary:
      // DRBD, too, counts blocks where both or none was Primary before.
      let (own, other) = (mine.outOfSyncBlocks, theirs.outOfSyncBlocks)
      if own != other { return own < other ? .mine : .theirs }
    }
    return iAmLower ? .theirs : .mine
  }
}

extension StateReport {
  /// Whether this side went on as the Primary that it had been while connected.
  fileprivate func continuedPrimary(since other: StateReport) -> Bool {
    guard let ancestor = lineage.commonAncestor(other.lineage) else { return false }
    return lineage.generations(after: ancestor).first?.continuesPrimary ?? false
  }
}

extension Lineage {
  /// The newest generation that both have.
  func commonAncestor(_ other: Lineage) -> Generation? {
    generations.last { other.generations.contains($0) }
  }
}

extension SyncExtent {
  /// Whether the set bits of both sides are all that differs: both slots count from the newest
  /// common generation or an earlier one.
  static func covers(_ one: StateReport, _ other: StateReport) -> Bool {
    guard !one.isFull, !other.isFull, let ancestor = one.lineage.commonAncestor(other.lineage),
      let base = one.base, let otherBase = other.base
    else { return false }
    return one.lineage.holds(ancestor, from: base)
      && other.lineage.holds(ancestor, from: otherBase)
  }
}
