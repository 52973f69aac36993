/// Split brain: who gives way by order or by policy, what the victim gives up, and that nobody does
/// by default. The names begin with the scenario of the checklist where there is one.
import BlockTypes
import Replication
import TestSupport
import Testing
import Wire

/// A side that wrote `blocks` blocks alone since generation 1.
private func side(
  _ id: UInt64, blocks: UInt64 = 10, role: Role = .secondary, wasPrimaryBefore: Bool = false,
  _ change: (inout ConflictPolicy) -> Void = { _ in }
) -> StateReport {
  var history = lineage(1)
  history.begin(id: id, author: other, at: 100, continuesPrimary: wasPrimaryBefore)
  var report = peerReport(.upToDate, history, role: role)
  report.base = lineage(1).newest
  report.outOfSyncBlocks = blocks
  change(&report.policy)
  return report
}

/// The victim: "mine", "theirs", or the reason why there is none. Both orders must agree.
private func victim(_ mine: StateReport, _ theirs: StateReport, lower: Bool = true) -> String {
  let decision = Decision.decide(mine: mine, theirs: theirs, iAmLower: lower)
  let mirror = Decision.decide(mine: theirs, theirs: mine, iAmLower: !lower)
  #expect(mirror.action == decision.action.mirrored && mirror.reason == decision.reason)
  #expect(decision.extent == mirror.extent && decision.cut == mirror.cut)
  switch decision.action {
  case .syncTarget: return "mine"
  case .syncSource: return "theirs"
  case .noSync: return "no sync"
  case .refuse: return "\(decision.reason)"
  }
}

@Suite struct SplitBrainPolicyTests {
  @Test func b07NobodyIsDiscardedWithoutConfiguration() {
    #expect(victim(side(2), side(3)) == "splitBrain")
    #expect(victim(side(2, blocks: 0), side(3)) == "splitBrain")
    #expect(victim(side(2, role: .primary), side(3)) == "splitBrain")
    #expect(victim(side(2, role: .primary), side(3, role: .primary)) == "splitBrain")
  }

  /// One row: policy, changed blocks of both, who was Primary before, and the victim for the lower
  /// node and for the higher one.
  @Test(arguments: [
    (NoPrimaryPolicy.disconnect, 0, 9, (false, false), "splitBrain", "splitBrain"),
    (.discardYoungerPrimary, 9, 1, (true, false), "theirs", "theirs"),
    (.discardYoungerPrimary, 1, 9, (false, true), "mine", "mine"),
    (.discardYoungerPrimary, 1, 9, (true, true), "mine", "mine"),
    (.discardYoungerPrimary, 9, 1, (false, false), "theirs", "theirs"),
    (.discardOlderPrimary, 9, 1, (true, false), "mine", "mine"),
    (.discardOlderPrimary, 1, 9, (false, true), "theirs", "theirs"),
    (.discardOlderPrimary, 1, 9, (false, false), "mine", "mine"),
    (.discardZeroChanges, 0, 9, (false, false), "mine", "mine"),
    (.discardZeroChanges, 9, 0, (false, false), "theirs", "theirs"),
    (.discardZeroChanges, 1, 9, (false, false), "splitBrain", "splitBrain"),
    (.discardZeroChanges, 0, 0, (false, false), "theirs", "mine"),
    (.discardLeastChanges, 1, 9, (false, false), "mine", "mine"),
    (.discardLeastChanges, 9, 1, (false, false), "theirs", "theirs"),
    (.discardLeastChanges, 9, 9, (false, false), "theirs", "mine"),
  ])
  func b04WithoutAPrimary(
    policy: NoPrimaryPolicy, own: UInt64, others: UInt64, before: (Bool, Bool), lower: String,
    higher: String
  ) {
    let mine = side(2, blocks: own, wasPrimaryBefore: before.0) { $0.noPrimary = policy }
    let theirs = side(3, blocks: others, wasPrimaryBefore: before.1) { $0.noPrimary = policy }
    #expect(victim(mine, theirs, lower: true) == lower)
    #expect(victim(mine, theirs, lower: false) == higher)
  }

  @Test func b04LocalAndRemoteMustMirrorEachOther() {
    let local = side(2) { $0.noPrimary = .discardLocal }
    let remote = side(3) { $0.noPrimary = .discardRemote }
    #expect(victim(local, remote) == "mine")
    #expect(victim(remote, local) == "theirs")
    #expect(victim(local, side(3) { $0.noPrimary = .discardLocal }) == "policiesDiffer")
  }

  @Test func nothingIsDecidedByAPolicyThatOnlyOneSideHas() {
    let mine = side(2) { $0.noPrimary = .discardLeastChanges }
    #expect(victim(mine, side(3)) == "policiesDiffer")
    let primary = side(2, role: .primary) { $0.onePrimary = .discardSecondary }
    #expect(victim(primary, side(3)) == "policiesDiffer")
  }

  /// One side is Primary: policies, changed blocks of the Primary and of the Secondary.
  @Test(arguments: [
    (OnePrimaryPolicy.disconnect, NoPrimaryPolicy.discardLeastChanges, 9, 1, "splitBrain"),
    (.discardSecondary, .disconnect, 1, 9, "theirs"),
    (.consensus, .discardLeastChanges, 9, 1, "theirs"),
    (.consensus, .discardLeastChanges, 1, 9, "splitBrain"),
    (.consensus, .disconnect, 9, 1, "splitBrain"),
    (.callPrimaryLost, .discardLeastChanges, 9, 1, "theirs"),
    (.callPrimaryLost, .discardLeastChanges, 1, 9, "primaryMustYieldAfterSplitBrain"),
    (.callPrimaryLost, .disconnect, 1, 9, "splitBrain"),
    (.asNoPrimary, .discardLeastChanges, 9, 1, "theirs"),
    (.asNoPrimary, .discardLeastChanges, 1, 9, "primaryMustYieldAfterSplitBrain"),
    (.asNoPrimary, .disconnect, 1, 9, "splitBrain"),
  ])
  func b05WithOnePrimary(
    one: OnePrimaryPolicy, zero: NoPrimaryPolicy, own: UInt64, others: UInt64, expected: String
  ) {
    let set = { (policy: inout ConflictPolicy) in
      policy.onePrimary = one
      policy.noPrimary = zero
    }
    let primary = side(2, blocks: own, role: .primary, set)
    #expect(victim(primary, side(3, blocks: others, set)) == expected)
  }

  @Test func b06TwoPrimariesAreNeverOverruled() {
    for policy in NoPrimaryPolicy.allCases {
      let set = { (all: inout ConflictPolicy) in
        all.noPrimary = policy
        all.onePrimary = .discardSecondary
      }
      #expect(victim(side(2, role: .primary, set), side(3, role: .primary, set)) == "splitBrain")
    }
  }

  /// Both sides are Primary: policies, changed blocks of each side, whether it is this side that
  /// has to give way.
  @Test(arguments: [
    (TwoPrimariesPolicy.disconnect, NoPrimaryPolicy.disconnect, 1, 9, "splitBrain", false),
    (.disconnect, .discardLeastChanges, 1, 9, "splitBrain", false),
    (.callPrimaryLost, .discardLeastChanges, 1, 9, "primaryMustYieldAfterSplitBrain", true),
    (.callPrimaryLost, .discardLeastChanges, 9, 1, "primaryMustYieldAfterSplitBrain", false),
    (.callPrimaryLost, .disconnect, 1, 9, "splitBrain", false),
    (.callPrimaryLost, .discardZeroChanges, 1, 9, "splitBrain", false),
    (.asNoPrimary, .discardLeastChanges, 1, 9, "primaryMustYieldAfterSplitBrain", true),
    (.asNoPrimary, .discardLeastChanges, 9, 1, "primaryMustYieldAfterSplitBrain", false),
    (.asNoPrimary, .disconnect, 1, 9, "splitBrain", false),
  ])
  func b06WithTwoPrimaries(
    two: TwoPrimariesPolicy, zero: NoPrimaryPolicy, own: UInt64, others: UInt64, expected: String,
    givesWay: Bool
  ) {
    let set = { (policy: inout ConflictPolicy) in
      policy.twoPrimaries = two
      policy.noPrimary = zero
    }
    let mine = side(2, blocks: own, role: .primary, set)
    let theirs = side(3, blocks: others, role: .primary, set)
    #expect(victim(mine, theirs) == expected)
    let decision = Decision.decide(mine: mine, theirs: theirs, iAmLower: true)
    let mirror = Decision.decide(mine: theirs, theirs: mine, iAmLower: false)
    #expect(decision.givesWay == givesWay)
    #expect(mirror.reason == decision.reason && mirror.rule == decision.rule)
    if expected == "primaryMustYieldAfterSplitBrain" { #expect(mirror.givesWay != givesWay) }
  }

  @Test func b06TwoPrimariesNeedTheSamePolicyAndBitmapsThatCover() {
    let set = { (policy: inout ConflictPolicy) in
      policy.twoPrimaries = .callPrimaryLost
      policy.noPrimary = .discardLeastChanges
    }
    var mine = side(2, blocks: 1, role: .primary, set)
    let theirs = side(3, blocks: 9, role: .primary, set)
    #expect(victim(mine, side(3, blocks: 9, role: .primary)) == "policiesDiffer")
    mine.isFull = true
    #expect(victim(mine, theirs) == "bitmapsDoNotCover")
    mine.isFull = false
    mine.disk = .diskless
    mine.volumeBytes = 0
    #expect(victim(mine, theirs) == "splitBrain")
  }

  /// A policy decides on known numbers only.
  @Test func policyNeedsBitmapsThatCoverAllThatChanged() {
    var mine = side(2, blocks: 1) { $0.noPrimary = .discardLeastChanges }
    let theirs = side(3) { $0.noPrimary = .discardLeastChanges }
    #expect(victim(mine, theirs) == "mine")
    mine.isFull = true
    #expect(victim(mine, theirs) == "bitmapsDoNotCover")
    mine.isFull = false
    mine.base = nil
    #expect(victim(mine, theirs) == "bitmapsDoNotCover")
  }

  /// A Primary that would have to be target of a plain resync.
  @Test(arguments: [
    (PrimaryIsTargetPolicy.disconnect, Reason.primaryWouldBeTarget),
    (.retryConnect, .primaryWouldBeTargetForNow),
    (.callPrimaryLost, .primaryMustYield),
  ])
  func primaryThatIsBehindFollowsItsOwnPolicy(policy: PrimaryIsTargetPolicy, reason: Reason) {
    var primary = peerReport(.upToDate, lineage(1), role: .primary)
    primary.policy.primaryIsTarget = policy
    let ahead = peerReport(.upToDate, lineage(1, 2))
    let decision = Decision.decide(mine: primary, theirs: ahead, iAmLower: true)
    #expect(decision.action == .refuse && decision.reason == reason)
  }
}

@Suite struct DiscardTests {
  private func discarding(_ report: StateReport) -> StateReport {
    var report = report
    report.discardMyData = true
    return report
  }

  @Test func b01VictimCopiesOnlyWhatChangedAndForgetsItsOwnHistory() throws {
    let decision = Decision.decide(mine: discarding(side(2)), theirs: side(3), iAmLower: true)
    #expect(decision.action == .syncTarget)
    #expect(decision.rule == .discardAsked)
    #expect(decision.extent == .bitmap)
    #expect(decision.cut == .after(try #require(lineage(1).newest)))
  }

  /// The bitmap of one side does not count from the common ancestor: nothing less than all will do.
  @Test(arguments: [true, false])
  func b01CopiesEverythingWhereABitmapDoesNotReachBack(isMine: Bool) {
    var (mine, theirs) = (discarding(side(2)), side(3))
    if isMine { mine.base = nil } else { theirs.base = theirs.lineage.newest }
    let decision = Decision.decide(mine: mine, theirs: theirs, iAmLower: true)
    #expect(decision.action == .syncTarget)
    #expect(decision.extent == .full)
    #expect(decision.cut == .everything)
  }

  @Test func b02DiscardingOnAPrimaryIsRefused() {
    let primary = discarding(side(2, role: .primary))
    #expect(victim(primary, side(3)) == "primaryWouldBeTarget")
  }

  @Test func b02BothAskingIsRefused() {
    #expect(victim(discarding(side(2)), discarding(side(3))) == "bothDiscard")
    let equal = discarding(peerReport())
    #expect(victim(equal, equal) == "bothDiscard")
  }

  /// The order is meant for a split brain. Newer data that nobody else has is not lost by mistake.
  @Test func newerDataIsNotDiscardedWhereThePeerHasNothingNew() {
    var ahead = side(2)
    ahead.discardMyData = true
    #expect(victim(ahead, peerReport()) == "nothingToDiscard")
  }

  @Test func whoIsBehindAnywayJustResyncs() {
    #expect(victim(discarding(peerReport()), side(2)) == "mine")
    #expect(victim(discarding(peerReport()), peerReport()) == "no sync")
  }

  /// What is left after discarding must be good data.
  @Test(arguments: [DiskState.outdated, .inconsistent])
  func nothingIsDiscardedForDataThatIsNotGood(disk: DiskState) {
    var source = side(3)
    source.disk = disk
    let expected = disk == .outdated ? "noGoodSource" : "splitBrain"
    #expect(victim(discarding(side(2)), source) == expected)
  }

  /// An interrupted resync of a replica that has writes of its own: given up by order only.
  @Test func inconsistentReplicaThatPartedIsGivenUpByOrder() {
    var broken = side(2)
    broken.disk = .inconsistent
    #expect(victim(broken, side(3)) == "splitBrain")
    #expect(victim(discarding(broken), side(3)) == "mine")
    #expect(victim(broken, peerReport()) == "inconsistentAhead")
    #expect(victim(discarding(broken), peerReport()) == "mine")
    let decision = Decision.decide(mine: discarding(broken), theirs: side(3), iAmLower: true)
    #expect(decision.extent == .full)
  }

  @Test func unrelatedDataIsNotMergedByOrder() {
    let stranger = discarding(peerReport(.upToDate, lineage(9)))
    #expect(victim(stranger, peerReport()) == "unrelatedData")
  }
}
