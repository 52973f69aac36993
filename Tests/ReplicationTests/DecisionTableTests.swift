/// The whole table of the decision, enumerated: every pair of histories up to four generations,
/// with every state of both sides. What must hold in each case is said here without the decision's
/// code.
import BlockTypes
import Replication
import Testing
import Wire

/// Two histories as they really were, and what of them both sides still remember.
struct Histories: Sendable, CustomTestStringConvertible {
  /// Generations both passed through, then those of each side alone.
  let common: Int
  let mineAlone: Int
  let theirsAlone: Int
  /// The oldest ones that each side has forgotten.
  let mineForgotten: Int
  let theirsForgotten: Int

  var testDescription: String {
    "\(common)+\(mineAlone)-\(mineForgotten) meets \(common)+\(theirsAlone)-\(theirsForgotten)"
  }

  static func generation(_ index: Int, of side: UInt64) -> Generation {
    Generation(number: UInt64(index + 1), id: side << 8 | UInt64(index), author: other)
  }

  private func history(_ alone: Int, _ side: UInt64, forgotten: Int) -> Lineage {
    let all =
      (0..<common).map { Self.generation($0, of: 0) }
      + (common..<(common + alone)).map { Self.generation($0, of: side) }
    return Lineage(Array(all[forgotten...])) ?? Lineage()
  }

  var mine: Lineage { history(mineAlone, 1, forgotten: mineForgotten) }
  var theirs: Lineage { history(theirsAlone, 2, forgotten: theirsForgotten) }

  /// All that are at most four generations deep; at least the newest one is remembered.
  static let all: [Histories] = {
    var all: [Histories] = []
    for common in 0...4 {
      for mineAlone in 0...(4 - common) {
        for theirsAlone in 0...(4 - common) {
          for mineForgotten in 0..<max(1, common + mineAlone) {
            for theirsForgotten in 0..<max(1, common + theirsAlone) {
              all.append(
                Histories(
                  common: common, mineAlone: mineAlone, theirsAlone: theirsAlone,
                  mineForgotten: mineForgotten, theirsForgotten: theirsForgotten))
            }
          }
        }
      }
    }
    return all
  }()

  /// One of each kind: empty, equal, longer, parted, unrelated.
  static let kinds: [Histories] = [
    (0, 0, 0), (0, 1, 0), (0, 0, 1), (0, 1, 1), (2, 0, 0), (2, 1, 0), (2, 0, 1), (2, 1, 1),
  ].map {
    Histories(
      common: $0.0, mineAlone: $0.1, theirsAlone: $0.2, mineForgotten: 0, theirsForgotten: 0)
  }
}

/// What one side may say besides its history.
private struct SideStates {
  var disks: [DiskState] = [.diskless, .inconsistent, .outdated, .consistent, .upToDate]
  var roles: [Role] = [.primary, .secondary]
  /// Not crashed, crashed as Secondary, crashed as Primary.
  var crashes = 0...2
  /// No block marked, some, all.
  var marks = 0...2
  /// No base, older than everything, the common ancestor, one that nobody remembers.
  var bases = 0...3
  var discards = [false]
  /// A Primary's clients use the other side's data.
  var usesPeerData = [false]

  func reports(_ history: Lineage, ancestor: Generation?) -> [StateReport] {
    var reports: [StateReport] = []
    for disk in disks {
      for role in roles {
        for crash in crashes {
          for mark in marks {
            for base in bases {
              for (discards, uses) in wishes(role) {
                var report = peerReport(disk, history, role: role)
                report.crashed = crash > 0
                report.wasPrimary = crash > 1
                report.outOfSyncBlocks = mark == 1 ? 3 : 0
                report.isFull = mark == 2
                report.base = Self.base(base, ancestor ?? history.newest)
                report.discardMyData = discards
                report.usesPeerData = uses
                reports.append(report)
              }
            }
          }
        }
      }
    }
    return reports
  }

  private func wishes(_ role: Role) -> [(Bool, Bool)] {
    discards.flatMap { discards in
      usesPeerData.filter { !$0 || role == .primary }.map { (discards, $0) }
    }
  }

  private static func base(_ kind: Int, _ ancestor: Generation?) -> Generation? {
    switch kind {
    case 1: Generation.beforeAll(other)
    case 2: ancestor
    case 3: Generation(number: 1, id: 0xDEAD, author: other)
    default: nil
    }
  }
}

@Suite struct DecisionTableTests {
  /// Histories in full depth, with every disk state, role, crash and base.
  @Test(arguments: Histories.all)
  func lawsHoldForEveryPairOfHistories(histories: Histories) {
    var states = SideStates()
    states.disks.removeFirst()
    states.crashes = 0...1
    states.marks = 0...0
    states.bases = 0...2
    check(histories, states)
  }

  /// One history of each kind, with everything that the two sides may say.
  @Test(arguments: Histories.kinds)
  func lawsHoldForEveryPairOfStates(histories: Histories) { check(histories, SideStates()) }

  /// The administrator gives up one side's data, the other's, or both.
  @Test(arguments: Histories.kinds)
  func lawsHoldForEveryWishToDiscard(histories: Histories) {
    var states = SideStates()
    states.crashes = 0...0
    states.discards = [false, true]
    check(histories, states)
  }

  /// A Primary without good data of its own is target or refused, never source, never left alone
  /// with a disk that nobody fills.
  @Test(arguments: Histories.all)
  func lawsHoldForPrimariesOnTheOtherSidesData(histories: Histories) {
    var states = SideStates()
    states.crashes = 0...1
    states.marks = 0...0
    states.bases = 0...1
    states.discards = histories.common % 2 == 0 ? [false] : [false, true]
    states.usesPeerData = [false, true]
    check(histories, states)
  }

  private func check(_ histories: Histories, _ states: SideStates) {
    let ancestor =
      histories.common > 0 ? Histories.generation(histories.common - 1, of: 0) : nil
    let mine = states.reports(histories.mine, ancestor: ancestor)
    let theirs = states.reports(histories.theirs, ancestor: ancestor)
    var broken = 0
    for mine in mine {
      for theirs in theirs where broken < 3 {
        guard let law = brokenLaw(histories, mine, theirs) else { continue }
        broken += 1
        Issue.record("\(law): \(mine) meets \(theirs)")
      }
    }
  }

  /// The first law that the decision breaks, in words.
  private func brokenLaw(
    _ histories: Histories, _ mine: StateReport, _ theirs: StateReport
  ) -> String? {
    let decision = Decision.decide(mine: mine, theirs: theirs, iAmLower: true)
    let mirror = Decision.decide(mine: theirs, theirs: mine, iAmLower: false)
    if let law = brokenForm(decision, mirror) { return law }
    let follows = mine.usesPeerData || theirs.usesPeerData
    if follows, mine.disk != .diskless, theirs.disk != .diskless, decision.action == .noSync {
      return "a Primary on the other side's data is left with an old disk"
    }
    switch decision.action {
    case .refuse: return nil
    case .noSync: return brokenRest(decision, mine, theirs)
    case .syncSource:
      return brokenResync(decision, source: mine, target: theirs, alone: histories.theirsAlone)
    case .syncTarget:
      return brokenResync(decision, source: theirs, target: mine, alone: histories.mineAlone)
    }
  }

  /// Both sides decide the same, and a result is complete.
  private func brokenForm(_ decision: Decision, _ mirror: Decision) -> String? {
    if mirror.action != decision.action.mirrored { return "the two sides disagree" }
    if mirror.rule != decision.rule || mirror.reason != decision.reason {
      return "the two sides say different reasons"
    }
    if mirror.extent != decision.extent || mirror.cut != decision.cut {
      return "the two sides copy or give up different things"
    }
    let isRefusal = decision.action == .refuse
    if isRefusal != (decision.reason != .none) { return "a refusal without a reason, or reverse" }
    if decision.rule.text.isEmpty || isRefusal && decision.reason.text.isEmpty {
      return "no words"
    }
    let isResync = decision.action == .syncSource || decision.action == .syncTarget
    if isResync != (decision.extent != .none) { return "a resync of nothing, or reverse" }
    if decision.cut != .nothing, decision.rule != .discardAsked { return "history is given up" }
    return nil
  }

  /// No resync: either there is nothing to copy from, or nothing differs.
  private func brokenRest(
    _ decision: Decision, _ mine: StateReport, _ theirs: StateReport
  ) -> String? {
    let isWhole = { (report: StateReport) in
      report.disk != .diskless && report.disk != .inconsistent && !report.lineage.isEmpty
    }
    if decision.rule == .equalUndecided { return brokenIndecision(mine, theirs) }
    if decision.rule == .equalClean {
      let isQuiet = { (report: StateReport) in
        !report.crashed && report.base == nil && !report.isFull && report.outOfSyncBlocks == 0
      }
      let isEqual = mine.lineage.newest == theirs.lineage.newest
      guard isEqual, isWhole(mine), isWhole(theirs), isQuiet(mine), isQuiet(theirs) else {
        return "called equal without proof"
      }
      return nil
    }
    return isWhole(mine) && isWhole(theirs) ? "two whole replicas are left unequal" : nil
  }

  /// Two that are UpToDate, and both say that blocks differ: only somebody's word may choose.
  private func brokenIndecision(_ mine: StateReport, _ theirs: StateReport) -> String? {
    for report in [mine, theirs] {
      let isMarked = report.outOfSyncBlocks > 0 && !report.isFull
      guard report.disk == .upToDate, report.role != .primary, isMarked, !report.crashed,
        report.base == nil, !report.discardMyData
      else { return "left undecided without need" }
    }
    return mine.lineage.newest == theirs.lineage.newest ? nil : "left unequal"
  }

  private func brokenResync(
    _ decision: Decision, source: StateReport, target: StateReport, alone: Int
  ) -> String? {
    if source.usesPeerData { return "a source whose clients have seen newer data" }
    if target.role == .primary, !target.usesPeerData { return "a Primary is target" }
    if target.usesPeerData, source.disk != .upToDate { return "a Primary follows bad data" }
    if target.disk == .diskless { return "a target without a disk" }
    if source.discardMyData { return "the data that was to be discarded is the source" }
    if source.disk == .diskless || source.disk == .inconsistent || source.lineage.isEmpty {
      return "a source without data"
    }
    let isOnlyCopy =
      target.disk == .inconsistent || target.lineage.isEmpty || decision.rule == .discardAsked
    if source.disk == .outdated, isOnlyCopy { return "Outdated data becomes the only data" }
    if let law = brokenLoss(decision, source, target, alone) { return law }
    if decision.extent == .bitmap, !isCovered(decision, source, target) {
      return "part is copied without proof that it suffices"
    }
    return nil
  }

  /// Acknowledged writes that only the target has are given up by order alone.
  private func brokenLoss(
    _ decision: Decision, _ source: StateReport, _ target: StateReport, _ alone: Int
  ) -> String? {
    guard !target.discardMyData else { return nil }
    // Its clients have seen the source's data last, and it checks that itself.
    guard !target.usesPeerData || alone > 0 else { return nil }
    if alone > 0, !target.lineage.isEmpty { return "the target's own generations are lost" }
    guard let newest = target.lineage.newest else { return nil }
    if !source.lineage.generations.contains(newest) { return "the source lacks a generation" }
    let mayHoldMore =
      source.lineage.newest == newest && target.base != nil && target.disk != .inconsistent
    guard mayHoldMore else { return nil }
    // An Outdated side's claim is stale where a good side has the whole generation.
    let isStale = target.disk == .outdated && [.consistent, .upToDate].contains(source.disk)
    return isStale ? nil : "unshared writes are lost"
  }

  /// Whether outside the set bits both held the same at one generation that the source passed
  /// through, and the source's bits count from there or from earlier.
  private func isCovered(
    _ decision: Decision, _ source: StateReport, _ target: StateReport
  ) -> Bool {
    guard !source.isFull, !target.isFull else { return false }
    let past = source.lineage.generations
    let countsFrom: Int?
    if let base = source.base {
      countsFrom = base.number == 0 ? -1 : past.firstIndex(of: base)
    } else {
      countsFrom = past.count - 1
    }
    guard let countsFrom else { return false }
    if decision.rule == .discardAsked {
      // What the target changed since then has to be known, too.
      guard let base = target.base, case .after(let ancestor) = decision.cut else { return false }
      let own = target.lineage.generations
      guard let end = own.firstIndex(of: ancestor), let meets = past.firstIndex(of: ancestor) else {
        return false
      }
      let start = base.number == 0 ? -1 : own.firstIndex(of: base)
      return source.base != nil && countsFrom <= meets && start.map { $0 <= end } ?? false
    }
    let held = [target.lineage.newest, target.disk == .inconsistent ? target.base : nil]
    return held.contains { generation in
      guard let generation, let index = past.firstIndex(of: generation) else { return false }
      return countsFrom <= index
    }
  }
}
