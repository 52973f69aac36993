/// Who is right when two replicas meet: each row of the table by name, then laws over all reports.
import BlockTypes
import Metadata
import Replication
import TestSupport
import Testing
import Wire

private func decide(_ mine: StateReport, _ theirs: StateReport, lower: Bool = true) -> Decision {
  Decision.decide(mine: mine, theirs: theirs, iAmLower: lower)
}

private func report(
  _ disk: DiskState, _ history: Lineage, _ flags: Flags = [], role: Role = .secondary
) -> StateReport {
  var report = peerReport(disk, history, role: role)
  report.crashed = flags.contains(.crashed)
  report.wasPrimary = flags.contains(.wasPrimary)
  if flags.contains(.unshared) { report.base = Generation.beforeAll(other) }
  return report
}

private struct Flags: OptionSet {
  var rawValue: Int
  static let crashed = Flags(rawValue: 1)
  static let wasPrimary = Flags(rawValue: 2)
  static let unshared = Flags(rawValue: 4)
}

extension Decision {
  fileprivate func expect(
    _ action: Action, _ rule: Rule, _ reason: Reason = .none,
    at location: SourceLocation = #_sourceLocation
  ) {
    #expect(self.action == action, sourceLocation: location)
    #expect(self.rule == rule, sourceLocation: location)
    #expect(self.reason == reason, sourceLocation: location)
  }
}

@Suite struct DecisionRowTests {
  private let good = report(.upToDate, lineage(1))
  private let fresh = report(.inconsistent, Lineage())

  @Test func row2WithoutADiskNothingIsSynced() {
    decide(report(.diskless, Lineage()), good).expect(.noSync, .diskMissing)
    decide(good, report(.diskless, Lineage())).expect(.noSync, .diskMissing)
  }

  @Test func row3DifferentSizesAreRefused() {
    var small = good
    small.volumeBytes = 4096
    decide(good, small).expect(.refuse, .sizeMismatch, .sizeMismatch)
  }

  @Test func row1TwoPrimariesAreRefused() {
    let primary = report(.upToDate, lineage(1), role: .primary)
    decide(primary, primary).expect(.refuse, .bothPrimary, .bothPrimary)
  }

  @Test func row4TwoFreshReplicasWaitForTheOperator() {
    decide(fresh, fresh).expect(.noSync, .bothEmpty)
  }

  @Test func row5FreshReplicaIsFilled() {
    decide(good, fresh).expect(.syncSource, .oneEmpty)
    decide(fresh, good).expect(.syncTarget, .oneEmpty)
  }

  /// A disk that was replaced must not make the other's old data count as current.
  @Test func row5OutdatedOrBrokenDataDoesNotFillAFreshReplica() {
    decide(report(.outdated, lineage(1)), fresh).expect(.noSync, .oneEmpty)
    decide(fresh, report(.inconsistent, lineage(1))).expect(.noSync, .oneEmpty)
  }

  @Test func row6UnrelatedDataIsRefused() {
    decide(good, report(.upToDate, lineage(9))).expect(.refuse, .unrelated, .unrelatedData)
  }

  @Test func row7TwoInconsistentReplicasHaveNothingToGive() {
    let broken = report(.inconsistent, lineage(1))
    decide(broken, broken).expect(.noSync, .bothInconsistent)
  }

  @Test func row8InterruptedResyncGoesOn() {
    let broken = report(.inconsistent, lineage(1))
    decide(broken, report(.upToDate, lineage(1, 2))).expect(.syncTarget, .oneInconsistent)
    decide(good, broken).expect(.syncSource, .oneInconsistent)
  }

  @Test func row8InconsistentReplicaThatIsAheadIsNotOverwritten() {
    decide(report(.inconsistent, lineage(1, 2)), good)
      .expect(.refuse, .oneInconsistent, .inconsistentAhead)
  }

  /// What is left of writes that only the broken replica had is the operator's to give up.
  @Test func row8InconsistentReplicaThatPartedIsNotOverwritten() {
    let broken = report(.inconsistent, lineage(1, 2), .unshared)
    decide(broken, report(.upToDate, lineage(1, 3)))
      .expect(.refuse, .oneInconsistent, .splitBrain)
  }

  @Test func row8OutdatedDataDoesNotRepairABrokenReplica() {
    decide(report(.outdated, lineage(1)), report(.inconsistent, lineage(1)))
      .expect(.noSync, .oneInconsistent)
  }

  @Test func row9SplitBrainIsRefused() {
    decide(report(.upToDate, lineage(1, 2)), report(.upToDate, lineage(1, 3)))
      .expect(.refuse, .splitBrain, .splitBrain)
  }

  @Test func row10TheOneThatWentOnAloneIsSource() {
    decide(report(.upToDate, lineage(1, 2), .unshared), good).expect(.syncSource, .extends)
    decide(good, report(.consistent, lineage(1, 2))).expect(.syncTarget, .extends)
  }

  @Test func row11UnsharedWritesOnBothSidesAreRefused() {
    let both = report(.upToDate, lineage(1), .unshared)
    decide(both, both).expect(.refuse, .equalBothUnshared, .bothHoldUnshared)
  }

  @Test func row12UnsharedWritesOnOneSideMakeItSource() {
    decide(report(.upToDate, lineage(1), .unshared), good)
      .expect(.syncSource, .equalOneUnshared)
    decide(good, report(.consistent, lineage(1), [.unshared, .crashed]))
      .expect(.syncTarget, .equalOneUnshared)
  }

  @Test func row13EqualAndCleanNeedsNoResync() {
    decide(good, good).expect(.noSync, .equalClean)
    decide(report(.outdated, lineage(1)), report(.upToDate, lineage(1), role: .primary))
      .expect(.noSync, .equalClean)
  }

  @Test func row14TheOneThatDidNotCrashIsSource() {
    let crashed = report(.consistent, lineage(1), [.crashed, .wasPrimary])
    decide(good, crashed).expect(.syncSource, .equalOneCrashed)
    decide(crashed, good).expect(.syncTarget, .equalOneCrashed)
  }

  @Test func row15OfTwoCrashedTheOldPrimaryIsSource() {
    let primary = report(.consistent, lineage(1), [.crashed, .wasPrimary])
    let secondary = report(.consistent, lineage(1), .crashed)
    decide(primary, secondary, lower: false).expect(.syncSource, .equalBothCrashed)
    decide(secondary, primary, lower: true).expect(.syncTarget, .equalBothCrashed)
  }

  @Test func row15OfTwoCrashedSecondariesTheLowerNodeIsSource() {
    let crashed = report(.consistent, lineage(1), .crashed)
    decide(crashed, crashed, lower: true).expect(.syncSource, .equalBothCrashed)
    decide(crashed, crashed, lower: false).expect(.syncTarget, .equalBothCrashed)
  }

  /// Its clients have seen its data.
  @Test func primaryIsNeverTarget() {
    decide(report(.upToDate, lineage(1), role: .primary), report(.upToDate, lineage(1, 2)))
      .expect(.refuse, .extends, .primaryWouldBeTarget)
  }

  @Test func everyRuleHasItsOwnWords() {
    #expect(Set(Rule.allCases.map(\.text)).count == Rule.allCases.count)
    #expect(Rule.allCases.map(\.rawValue) == Array(1...16))
  }
}

@Suite struct DecisionLawTests {
  /// All histories of at most three generations over two ids: equal, longer, parted, unrelated.
  private static let histories: [Lineage] = {
    var all: [[UInt64]] = [[]]
    var longest: [[UInt64]] = [[]]
    for _ in 0..<3 {
      longest = longest.flatMap { prefix in [1, 2].map { prefix + [$0] } }
      all += longest
    }
    return all.map { ids in
      var history = Lineage()
      for id in ids { history.begin(id: id, author: other) }
      return history
    }
  }()

  /// Every report that a replica with this history can be given, sensible or not.
  private static func reports(_ history: Lineage) -> [StateReport] {
    [DiskState.diskless, .inconsistent, .outdated, .consistent, .upToDate].flatMap { disk in
      [Role.primary, .secondary].flatMap { role in
        (0..<8).map { report(disk, history, Flags(rawValue: $0), role: role) }
      }
    }
  }

  /// The whole table: 15 x 15 histories, 80 x 80 reports; both orders of each pair.
  @Test(arguments: histories)
  func lawsHoldForEveryPairOfReports(history: Lineage) {
    var broken = 0
    for otherHistory in Self.histories {
      for mine in Self.reports(history) {
        for theirs in Self.reports(otherHistory) where broken < 5 {
          guard let law = brokenLaw(mine, theirs) else { continue }
          broken += 1
          Issue.record("\(law): \(mine) meets \(theirs)")
        }
      }
    }
  }

  /// The name of the first law that the decision breaks.
  private func brokenLaw(_ mine: StateReport, _ theirs: StateReport) -> String? {
    let decision = decide(mine, theirs, lower: true)
    let mirror = decide(theirs, mine, lower: false)
    if mirror.action != decision.action.mirrored { return "the two sides disagree" }
    if mirror.reason != decision.reason || mirror.rule != decision.rule {
      return "the two sides say different reasons"
    }
    if (decision.action == .refuse) != (decision.reason != .none) {
      return "a refusal without a reason, or a reason without a refusal"
    }
    if decision.action == .refuse, !decision.reason.isPermanent { return "a refusal that retries" }
    let source = decision.action == .syncSource ? mine : theirs
    let target = decision.action == .syncSource ? theirs : mine
    guard decision.action == .syncSource || decision.action == .syncTarget else {
      return decision.rule == .equalClean ? brokenEquality(mine, theirs) : nil
    }
    if target.role == .primary { return "a Primary is target" }
    if source.disk == .inconsistent || source.disk == .diskless { return "a source without data" }
    if target.disk == .diskless { return "a target without a disk" }
    if source.disk == .outdated, target.disk == .inconsistent || target.lineage.isEmpty {
      return "Outdated data becomes the only data"
    }
    if let newest = target.lineage.newest, !source.lineage.generations.contains(newest) {
      return "the target has a generation that the source lacks"
    }
    if target.holdsUnshared, !target.lineage.isEmpty, source.lineage == target.lineage,
      target.disk != .inconsistent
    {
      return "unshared writes are dropped"
    }
    return nil
  }

  private func brokenEquality(_ mine: StateReport, _ theirs: StateReport) -> String? {
    let isEqual = mine.lineage.newest == theirs.lineage.newest && !mine.lineage.isEmpty
    let isClean = !mine.crashed && !theirs.crashed && !mine.holdsUnshared && !theirs.holdsUnshared
    let isWhole = mine.disk != .inconsistent && theirs.disk != .inconsistent
    return isEqual && isClean && isWhole ? nil : "no resync although the replicas may differ"
  }
}
