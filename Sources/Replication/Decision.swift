/// Who is right when two replicas meet: a pure function of what both told about themselves.
///
/// Both sides compute it from the same two reports and compare the results before anything is
/// changed, so a disagreement is found, not acted on. The rows stand in the order in which they are
/// tried, and the first that fits decides; their numbers are those of `Rule`:
///
/// | # | mine and theirs                                     | result                           |
/// |---|-----------------------------------------------------|----------------------------------|
/// | 1 | both Primary                                        | refuse; where they part and a    |
/// |   |                                                     | policy that both have names one, |
/// |   |                                                     | that one gives up its role       |
/// | 2 | a disk is missing on either side                    | no sync                          |
/// | 3 | sizes differ                                        | refuse                           |
/// |17 | both sides were asked to discard their data         | refuse                           |
/// |   | one was asked to, and is the source by rows 4 to 19 | refuse: nobody has newer data    |
/// |20 | a Primary's clients use the other side's data       | it is target, if its history is  |
/// |   | (`usesPeerData`), because its own disk was lost     | part of the other's and that is  |
/// |   |                                                     | UpToDate; refused otherwise      |
/// | 4 | neither ever held data                              | no sync, both stay Inconsistent  |
/// | 5 | one never held data                                 | the other is source, if it is    |
/// |   |                                                     | Consistent or UpToDate           |
/// | 6 | no generation in common                             | refuse: unrelated data           |
/// | 7 | both Inconsistent                                   | no sync                          |
/// |17 | one Inconsistent that is ahead or parted, and was   | it is target, if the other is    |
/// |   | asked to discard its data                           | Consistent or UpToDate           |
/// | 8 | one Inconsistent                                    | it is target, if the other is    |
/// |   |                                                     | Consistent or UpToDate; refused  |
/// |   |                                                     | if it is ahead or parted         |
/// |   | parted after a common ancestor, or equal and both   | split brain:                     |
/// |   | say that the other lacks writes:                    |                                  |
/// |17 | - one side was asked to discard its data            | that side is target              |
/// |18 | - a policy that both have names a side              | that side is target              |
/// | 9 | - parted                                            | refuse                           |
/// |11 | - equal                                             | refuse                           |
/// |10 | one extends the other                               | the longer is source             |
/// |12 | equal, one says the other lacks writes              | that one is source, unless it is |
/// |   |                                                     | Outdated and the other is not    |
/// |14 | equal, one crashed                                  | the other one is source          |
/// |15 | equal, both crashed                                 | the old Primary, else the lower  |
/// |   |                                                     | node id, is source               |
/// |13 | equal, no block marked                              | no sync, both UpToDate           |
/// |19 | equal, blocks are marked, both UpToDate, and a      | no sync: they stay marked until  |
/// |   | repair was cut, or both have marked blocks and      | a side is named: by repair or by |
/// |   | nobody is Primary                                   | discarding its data (then 16)    |
/// |16 | equal, blocks are marked                            | the Primary, else who marked     |
/// |   |                                                     | them, else the lower node id, is |
/// |   |                                                     | source                           |
///
/// Last of all a target that is Primary is refused, but for row 20: its clients have seen its
/// data. In row 18 it gives up its role, and meets the other again. How much is copied,
/// `SyncExtent` says; rows 17 and 18 are in `SplitBrain.swift`.
///
/// An Outdated replica is known to lack acknowledged writes. It is never the source for one that
/// has nothing better, because both would end UpToDate without them (P2): the operator has to say
/// that its data counts, with `primary --force`. Where the other replica has a history of its own,
/// the two histories answer what Outdated asks: whether the other one went on.
public import BlockTypes
public import Wire

/// What a node does after the handshake.
public enum Action: UInt8, Sendable, BitwiseCopyable, CaseIterable {
  case noSync = 0
  case syncSource = 1
  case syncTarget = 2
  case refuse = 3

  /// What the peer must have decided.
  public var mirrored: Action {
    switch self {
    case .noSync: .noSync
    case .syncSource: .syncTarget
    case .syncTarget: .syncSource
    case .refuse: .refuse
    }
  }
}

/// Which row of the table decided.
public enum Rule: UInt8, Sendable, BitwiseCopyable, CaseIterable {
  case bothPrimary = 1
  case diskMissing, sizeMismatch, bothEmpty, oneEmpty, unrelated, bothInconsistent, oneInconsistent
  case splitBrain, extends, equalBothUnshared, equalOneUnshared, equalClean, equalOneCrashed
  case equalBothCrashed, equalMarked, discardAsked, discardByPolicy, equalUndecided, primaryFollows

  /// The rule in words, for the log and `status`.
  public var text: String {
    switch self {
    case .diskMissing: "a disk is missing"
    case .sizeMismatch: "sizes differ"
    case .bothPrimary: "both are Primary"
    case .bothEmpty: "neither ever held data"
    case .oneEmpty: "one side never held data"
    case .unrelated: "no generation in common"
    case .bothInconsistent: "both are Inconsistent"
    case .oneInconsistent: "one side is Inconsistent"
    case .splitBrain: "both went on after a common generation"
    case .extends: "one side went on alone"
    case .equalBothUnshared: "same generation, both hold unshared writes"
    case .equalOneUnshared: "same generation, one holds unshared writes"
    case .equalClean: "same generation, no crash"
    case .equalOneCrashed: "same generation, one side crashed"
    case .equalBothCrashed: "same generation, both sides crashed"
    case .equalMarked: "same generation, blocks are marked as different"
    case .equalUndecided:
      "same generation, blocks differ, and nobody knows which side is right: "
        + "'verify --repair --marked --from NODE'"
    case .discardAsked: "the administrator discards one side's data"
    case .discardByPolicy: "an after-sb policy discards one side's data"
    case .primaryFollows: "the Primary's clients use the other side's data"
    }
  }
}

/// What a target gives up of its history before it takes the source's data.
public enum LineageCut: Equatable, Sendable, BitwiseCopyable {
  case nothing
  /// What came after this generation, which the source has, too.
  case after(Generation)
  /// All of it: nothing describes any more what the disk holds.
  case everything
}

extension Decision {
  /// What is done and why, for the log and `status`.
  public var text: String {
    let copies = extent == .bitmap ? "the blocks that differ" : "everything"
    let given =
      switch cut {
      case .nothing: ""
      case .after(let ancestor): "; what came after generation \(ancestor.number) is given up"
      case .everything: "; its history is given up"
      }
    return switch action {
    case .noSync: "no sync (\(rule.text))"
    case .refuse: "refused (\(rule.text)): \(reason.text)"
    case .syncSource: "Sync from this node, \(copies) (\(rule.text))\(given)"
    case .syncTarget: "Sync from peer node, \(copies) (\(rule.text))\(given)"
    }
  }
}

/// What to do, and why.
public struct Decision: Equatable, Sendable, BitwiseCopyable {
  /// What this node does.
  public var action: Action
  /// Why a refusal; `none` otherwise.
  public var reason: Reason
  /// The row of the table.
  public var rule: Rule
  /// What the target copies; `none` when there is no target.
  public var extent = SyncExtent.none
  /// What the target gives up of its history.
  public var cut = LineageCut.nothing
  /// This node is the Primary that a policy names: it has to give up its role first.
  public var givesWay = false

  init(_ action: Action, _ rule: Rule, _ reason: Reason = .none) {
    self.action = action
    self.reason = reason
    self.rule = rule
  }

  /// Decides for the node that sent `mine`.
  ///
  /// - Parameter iAmLower: whether this node has the lower node id; both sides know that.
  public static func decide(
    mine: StateReport, theirs: StateReport, iAmLower: Bool
  ) -> Decision {
    let relation = mine.lineage.relation(to: theirs.lineage)
    // A Primary that lost its disk is a Primary all the same.
    if mine.role == .primary, theirs.role == .primary {
      guard case .parted = relation else { return Decision(.refuse, .bothPrimary, .bothPrimary) }
      return twoPrimaries(mine, theirs, iAmLower)
    }
    if mine.disk == .diskless || theirs.disk == .diskless { return Decision(.noSync, .diskMissing) }
    if mine.volumeBytes != theirs.volumeBytes {
      return Decision(.refuse, .sizeMismatch, .sizeMismatch)
    }
    if mine.discardMyData && theirs.discardMyData {
      return Decision(.refuse, .discardAsked, .bothDiscard)
    }
    var decision = byLineage(mine, theirs, relation, iAmLower)
    let discardsNewest =
      mine.discardMyData && decision.action == .syncSource
      || theirs.discardMyData && decision.action == .syncTarget
    if discardsNewest { return Decision(.refuse, decision.rule, .nothingToDiscard) }
    if mine.usesPeerData || theirs.usesPeerData {
      decision = followingPeer(mine, theirs, relation)
    }
    decision = decision.sparingPrimary(mine, theirs)
    switch decision.action {
    case .noSync, .refuse: break
    case .syncSource: decision.measure(source: mine, target: theirs)
    case .syncTarget: decision.measure(source: theirs, target: mine)
    }
    return decision
  }

  /// The same, or a refusal when a Primary would be target.
  private func sparingPrimary(_ mine: StateReport, _ theirs: StateReport) -> Decision {
    let target: StateReport
    switch action {
    case .noSync, .refuse: return self
    case .syncSource: target = theirs
    case .syncTarget: target = mine
    }
    guard target.role == .primary, !target.usesPeerData else { return self }
    if rule == .discardByPolicy {
      var refusal = Decision(.refuse, .splitBrain, .primaryMustYieldAfterSplitBrain)
      refusal.givesWay = action == .syncTarget
      return refusal
    }
    switch target.policy.primaryIsTarget {
    case .disconnect: return Decision(.refuse, rule, .primaryWouldBeTarget)
    case .retryConnect: return Decision(.refuse, rule, .primaryWouldBeTargetForNow)
    case .callPrimaryLost: return Decision(.refuse, rule, .primaryMustYield)
    }
  }

  /// A Primary whose clients live on the other side's data is target, never source: what its disk
  /// has may be older than what they have seen.
  private static func followingPeer(
    _ mine: StateReport, _ theirs: StateReport, _ relation: LineageRelation
  ) -> Decision {
    let iAmTarget = mine.usesPeerData
    let isBehind: Bool
    switch relation {
    case .equal: isBehind = true
    case .extended, .selfEmpty: isBehind = iAmTarget
    case .extends, .otherEmpty: isBehind = !iAmTarget
    case .bothEmpty, .parted, .unrelated: isBehind = false
    }
    let source = iAmTarget ? theirs : mine
    guard isBehind, source.disk == .upToDate else {
      return Decision(.refuse, .primaryFollows, .exposedDataDiffers)
    }
    guard !source.discardMyData else {
      return Decision(.refuse, .primaryFollows, .nothingToDiscard)
    }
    return Decision(iAmTarget ? .syncTarget : .syncSource, .primaryFollows)
  }

  private static func byLineage(
    _ mine: StateReport, _ theirs: StateReport, _ relation: LineageRelation, _ iAmLower: Bool
  ) -> Decision {
    switch relation {
    case .bothEmpty: return Decision(.noSync, .bothEmpty)
    case .otherEmpty: return Decision(mine.isGoodSource ? .syncSource : .noSync, .oneEmpty)
    case .selfEmpty: return Decision(theirs.isGoodSource ? .syncTarget : .noSync, .oneEmpty)
    case .unrelated: return Decision(.refuse, .unrelated, .unrelatedData)
    case .equal, .extends, .extended, .parted: break
    }
    if mine.disk == .inconsistent && theirs.disk == .inconsistent {
      return Decision(.noSync, .bothInconsistent)
    }
    if mine.disk == .inconsistent || theirs.disk == .inconsistent {
      return oneInconsistent(mine, theirs, relation)
    }
    switch relation {
    case .parted: return splitBrain(mine, theirs, .splitBrain, iAmLower)
    case .extends: return mine.isGoodSource ? Decision(.syncSource, .extends) : .noGoodSource
    case .extended: return theirs.isGoodSource ? Decision(.syncTarget, .extends) : .noGoodSource
    case .equal, .bothEmpty, .otherEmpty, .selfEmpty, .unrelated:
      return equalLineages(mine, theirs, iAmLower)
    }
  }

  private static func oneInconsistent(
    _ mine: StateReport, _ theirs: StateReport, _ relation: LineageRelation
  ) -> Decision {
    let iAmTarget = mine.disk == .inconsistent
    let target = iAmTarget ? mine : theirs
    let isGood = (iAmTarget ? theirs : mine).isGoodSource
    let isAhead = relation == (iAmTarget ? .extends : .extended)
    var isParted = false
    if case .parted = relation { isParted = true }
    // What is left of writes that the other side never had is the operator's to give up.
    if isAhead || isParted {
      guard target.discardMyData else {
        return Decision(.refuse, .oneInconsistent, isAhead ? .inconsistentAhead : .splitBrain)
      }
      guard isGood else { return Decision(.refuse, .oneInconsistent, .noGoodSource) }
      return Decision(iAmTarget ? .syncTarget : .syncSource, .discardAsked)
    }
    guard isGood else { return Decision(.noSync, .oneInconsistent) }
    return Decision(iAmTarget ? .syncTarget : .syncSource, .oneInconsistent)
  }

  private static func equalLineages(
    _ mine: StateReport, _ theirs: StateReport, _ iAmLower: Bool
  ) -> Decision {
    if mine.holdsUnshared && theirs.holdsUnshared {
      return splitBrain(mine, theirs, .equalBothUnshared, iAmLower)
    }
    if mine.holdsUnshared || theirs.holdsUnshared {
      let holder = mine.holdsUnshared ? mine : theirs
      let other = mine.holdsUnshared ? theirs : mine
      // The end of a resync was missed: the other side took the generation over only when it had
      // all of it, and went on from there.
      let isStale = holder.disk == .outdated && other.isGoodSource
      let iAmSource = mine.holdsUnshared != isStale
      return Decision(iAmSource ? .syncSource : .syncTarget, .equalOneUnshared)
    }
    if !mine.crashed && !theirs.crashed { return equalAndQuiet(mine, theirs, iAmLower) }
    if !mine.crashed { return Decision(.syncSource, .equalOneCrashed) }
    if !theirs.crashed { return Decision(.syncTarget, .equalOneCrashed) }
    if mine.wasPrimary != theirs.wasPrimary {
      return Decision(mine.wasPrimary ? .syncSource : .syncTarget, .equalBothCrashed)
    }
    return Decision(iAmLower ? .syncSource : .syncTarget, .equalBothCrashed)
  }

  /// Marked blocks are never dropped because two ids are equal: only content clears them (P2).
  private static func equalAndQuiet(
    _ mine: StateReport, _ theirs: StateReport, _ iAmLower: Bool
  ) -> Decision {
    guard mine.hasMarks || theirs.hasMarks else { return Decision(.noSync, .equalClean) }
    if isUndecided(mine, theirs) {
      // Who gives up its data names the other side.
      if mine.discardMyData { return Decision(.syncTarget, .equalMarked) }
      if theirs.discardMyData { return Decision(.syncSource, .equalMarked) }
      return Decision(.noSync, .equalUndecided)
    }
    let iAmSource: Bool
    if mine.role != theirs.role {
      iAmSource = mine.role == .primary
    } else if mine.hasMarks != theirs.hasMarks {
      iAmSource = mine.hasMarks
    } else {
      iAmSource = iAmLower
    }
    return Decision(iAmSource ? .syncSource : .syncTarget, .equalMarked)
  }
}

extension Decision {
  /// Whether copying would take one side's word against an equal one's. Marks on both sides of an
  /// idle pair come from a verify, which cannot know what is right; after a repair that was cut the
  /// administrator has said what is, and it need not be the Primary's. Both are UpToDate, as they
  /// were when the blocks were found; one that left its peer behind meanwhile has missed nothing.
  private static func isUndecided(_ mine: StateReport, _ theirs: StateReport) -> Bool {
    guard !mine.isFull, !theirs.isFull else { return false }
    if mine.repairWasCut || theirs.repairWasCut { return true }
    guard mine.disk == .upToDate, theirs.disk == .upToDate else { return false }
    let nobodyIsPrimary = mine.role != .primary && theirs.role != .primary
    return nobodyIsPrimary && mine.outOfSyncBlocks > 0 && theirs.outOfSyncBlocks > 0
  }

  /// Whether both sides have all of the history, though nothing is copied: each calls itself
  /// UpToDate, and the other one, too.
  var makesBothUpToDate: Bool { rule == .equalClean || rule == .equalUndecided }

  /// One side goes further, and knows that it is not the newest itself: what it lacks was on a disk
  /// that is not there any more. The administrator says what counts.
  private static var noGoodSource: Decision { Decision(.refuse, .extends, .noGoodSource) }
}

extension StateReport {
  /// Whether the data is all of an unbroken history, as far as the replica knows.
  var isGoodSource: Bool { disk == .consistent || disk == .upToDate }

  /// Whether blocks count as different from the receiver's.
  fileprivate var hasMarks: Bool { isFull || outOfSyncBlocks > 0 }
}
