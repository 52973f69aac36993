/// Who is right when two replicas meet: a pure function of what both told about themselves.
///
/// Both sides compute it from the same two reports and compare the results before anything is
/// changed, so a disagreement is found, not acted on. The rules, first match wins:
///
/// | # | mine and theirs                                     | result                           |
/// |---|-----------------------------------------------------|----------------------------------|
/// | 1 | both Primary                                        | refuse                           |
/// | 2 | a disk is missing on either side                    | no sync                          |
/// | 3 | sizes differ                                        | refuse                           |
/// | 4 | neither ever held data                              | no sync, both stay Inconsistent  |
/// | 5 | one never held data                                 | the other is source, if it is    |
/// |   |                                                     | Consistent or UpToDate           |
/// | 6 | no generation in common                             | refuse: unrelated data           |
/// | 7 | both Inconsistent                                   | no sync                          |
/// | 8 | one Inconsistent                                    | it is target, if the other is    |
/// |   |                                                     | Consistent or UpToDate; refused  |
/// |   |                                                     | if it is ahead or parted         |
/// | 9 | parted after a common ancestor                      | refuse: split brain              |
/// |10 | one extends the other                               | the longer is source             |
/// |11 | equal, both say the other lacks writes              | refuse                           |
/// |12 | equal, one says the other lacks writes              | that one is source               |
/// |13 | equal, none crashed, no block marked                | no sync, both UpToDate           |
/// |14 | equal, one crashed                                  | the other one is source          |
/// |15 | equal, both crashed                                 | the old Primary, else the lower  |
/// |   |                                                     | node id, is source               |
/// |16 | equal, none crashed, blocks are marked              | the Primary, else who marked     |
/// |   |                                                     | them, else the lower node id, is |
/// |   |                                                     | source                           |
///
/// A target that is Primary is refused in every row: its clients have seen its data. How much is
/// copied, `SyncExtent` says.
///
/// An Outdated replica is known to lack acknowledged writes. It is never the source for one that
/// has nothing better, because both would end UpToDate without them (P2): the operator has to say
/// that its data counts, with `primary --force`.
import BlockTypes
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
  case equalBothCrashed, equalMarked

  /// The rule in words, for the log.
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
    // A Primary that lost its disk is a Primary all the same.
    if mine.role == .primary, theirs.role == .primary {
      return Decision(.refuse, .bothPrimary, .bothPrimary)
    }
    if mine.disk == .diskless || theirs.disk == .diskless { return Decision(.noSync, .diskMissing) }
    if mine.volumeBytes != theirs.volumeBytes {
      return Decision(.refuse, .sizeMismatch, .sizeMismatch)
    }
    var decision = byLineage(mine, theirs, iAmLower)
    let targetIsPrimary =
      decision.action == .syncTarget && mine.role == .primary
      || decision.action == .syncSource && theirs.role == .primary
    guard !targetIsPrimary else {
      return Decision(.refuse, decision.rule, .primaryWouldBeTarget)
    }
    switch decision.action {
    case .noSync, .refuse: break
    case .syncSource: decision.extent = SyncExtent(source: mine, target: theirs)
    case .syncTarget: decision.extent = SyncExtent(source: theirs, target: mine)
    }
    return decision
  }

  private static func byLineage(
    _ mine: StateReport, _ theirs: StateReport, _ iAmLower: Bool
  ) -> Decision {
    let relation = mine.lineage.relation(to: theirs.lineage)
    let iAmInconsistent = mine.disk == .inconsistent
    let theyAreInconsistent = theirs.disk == .inconsistent
    switch relation {
    case .bothEmpty: return Decision(.noSync, .bothEmpty)
    case .otherEmpty: return Decision(mine.isGoodSource ? .syncSource : .noSync, .oneEmpty)
    case .selfEmpty: return Decision(theirs.isGoodSource ? .syncTarget : .noSync, .oneEmpty)
    case .unrelated: return Decision(.refuse, .unrelated, .unrelatedData)
    case .equal, .extends, .extended, .parted: break
    }
    if iAmInconsistent && theyAreInconsistent { return Decision(.noSync, .bothInconsistent) }
    if iAmInconsistent || theyAreInconsistent {
      let inconsistentIsAhead = relation == (iAmInconsistent ? .extends : .extended)
      if inconsistentIsAhead { return Decision(.refuse, .oneInconsistent, .inconsistentAhead) }
      // What is left of writes that the other side never had is the operator's to give up.
      if case .parted = relation { return Decision(.refuse, .oneInconsistent, .splitBrain) }
      guard (iAmInconsistent ? theirs : mine).isGoodSource else {
        return Decision(.noSync, .oneInconsistent)
      }
      return Decision(iAmInconsistent ? .syncTarget : .syncSource, .oneInconsistent)
    }
    switch relation {
    case .parted: return Decision(.refuse, .splitBrain, .splitBrain)
    case .extends: return Decision(.syncSource, .extends)
    case .extended: return Decision(.syncTarget, .extends)
    case .equal, .bothEmpty, .otherEmpty, .selfEmpty, .unrelated:
      return equalLineages(mine, theirs, iAmLower)
    }
  }

  private static func equalLineages(
    _ mine: StateReport, _ theirs: StateReport, _ iAmLower: Bool
  ) -> Decision {
    if mine.holdsUnshared && theirs.holdsUnshared {
      return Decision(.refuse, .equalBothUnshared, .bothHoldUnshared)
    }
    if mine.holdsUnshared { return Decision(.syncSource, .equalOneUnshared) }
    if theirs.holdsUnshared { return Decision(.syncTarget, .equalOneUnshared) }
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

extension StateReport {
  /// Whether the data is all of an unbroken history, as far as the replica knows.
  fileprivate var isGoodSource: Bool { disk == .consistent || disk == .upToDate }

  /// Whether blocks count as different from the receiver's.
  fileprivate var hasMarks: Bool { isFull || outOfSyncBlocks > 0 }
}
