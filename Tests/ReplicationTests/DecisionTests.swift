/// Who is right when two replicas meet: each row of the table by name. The laws that hold in all of
/// them are in `DecisionTableTests`.
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
    #expect(Rule.allCases.map(\.rawValue) == Array(1...20))
  }
}
