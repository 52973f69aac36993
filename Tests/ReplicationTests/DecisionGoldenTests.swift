/// The decision as a table that an administrator can read, line by line.
///
/// A side is written as its history, its disk and what else it says:
///
/// - the ids of its generations, oldest first; `-` when it never held data;
/// - `D`iskless, `I`nconsistent, `O`utdated, `C`onsistent, `U`pToDate;
/// - `p` Primary, `e` whose clients use the other side's data, `c` crashed, `w` crashed as Primary,
///   `m` blocks marked, `f` all marked, `x` its data may be discarded, `b` and a number: base is
///   the generation of that number, 0 before all.
///
/// This side has the lower node id.
import BlockTypes
import Replication
import TestSupport
import Testing
import Wire

private let golden = """
  mine      theirs    result        why
  -D        12U       noSync        diskMissing
  12Up      -D        noSync        diskMissing
  12Up      12Up      refuse        bothPrimary         bothPrimary
  12Up      13Up      refuse        bothPrimary         splitBrain
  -I        -I        noSync        bothEmpty
  1Ub0      -I        source full   oneEmpty
  -I        1Ub0      target full   oneEmpty
  1Ub0m     -Ib1m     source bitmap oneEmpty
  1Ub0m     -Ib1mf    source full   oneEmpty
  1O        -I        noSync        oneEmpty
  1I        -I        noSync        oneEmpty
  12U       9U        refuse        unrelated           unrelatedData
  12U       9Ux       refuse        unrelated           unrelatedData
  1I        1I        noSync        bothInconsistent
  12Ub1m    1Im       source bitmap oneInconsistent
  12U       1Im       source full   oneInconsistent
  12U       1Ib2m     source bitmap oneInconsistent
  123Ub2m   1Ib2m     source bitmap oneInconsistent
  123Ub2m   1Im       source full   oneInconsistent
  1U        1Im       source bitmap oneInconsistent
  1O        1Im       noSync        oneInconsistent
  1U        12I       refuse        oneInconsistent     inconsistentAhead
  1U        12Ix      source full   discardAsked
  13Ub1     12Ib1     refuse        oneInconsistent     splitBrain
  13Ub1     12Ib1x    source full   discardAsked
  12Ub1m    13Ub1m    refuse        splitBrain          splitBrain
  12Ub1m    13Ub1mx   source bitmap discardAsked
  12Ub1mx   13Ub1m    target bitmap discardAsked
  12Ub1m    13Umx     source full   discardAsked
  12Ub1m    13Ub1fx   source full   discardAsked
  12Ub1mx   13Ub1mx   refuse        discardAsked        bothDiscard
  12Upb1mx  13Ub1m    refuse        discardAsked        primaryWouldBeTarget
  12Upb1m   13Ub1mx   source bitmap discardAsked
  12Ob1m    13Ub1mx   refuse        splitBrain          noGoodSource
  12Ub1m    1U        source bitmap extends
  12Upb1m   1U        source bitmap extends
  12Ub1f    1U        source full   extends
  12U       1U        source full   extends
  123Ub2m   1U        source full   extends
  123Ub1m   1U        source bitmap extends
  23Ub1m    12U       source full   extends
  12Ub1m    1Up       refuse        extends             primaryWouldBeTarget
  12Ub1mx   1U        refuse        extends             nothingToDiscard
  12Ub1m    1Ux       source bitmap extends
  12Ob1m    1U        refuse        extends             noGoodSource
  1U        12O       refuse        extends             noGoodSource
  1U        12Cb1mc   target bitmap extends
  1U        1U        noSync        equalClean
  1Up       1O        noSync        equalClean
  1Ux       1U        noSync        equalClean
  1Ub0m     1Ub0m     refuse        equalBothUnshared   bothHoldUnshared
  1Ub0m     1Ub0mx    source bitmap discardAsked
  12Ub1m    12U       source bitmap equalOneUnshared
  12Ob1m    12Up      target bitmap equalOneUnshared
  12Ob1m    12U       target bitmap equalOneUnshared
  12Ob1m    12O       source bitmap equalOneUnshared
  1Up       1Ccm      source bitmap equalOneCrashed
  1Up       1Ccf      source full   equalOneCrashed
  1Ccm      1U        target bitmap equalOneCrashed
  1Ccwm     1U        target bitmap equalOneCrashed
  1Ccm      1Ccwm     target bitmap equalBothCrashed
  1Ccm      1Ccm      source bitmap equalBothCrashed
  1Um       1Upm      target bitmap equalMarked
  1Um       1U        source bitmap equalMarked
  1U        1Um       target bitmap equalMarked
  1Um       1Um       noSync        equalUndecided
  1Umx      1Um       target bitmap equalMarked
  1Um       1Umx      source bitmap equalMarked
  1Umr      1Upm      noSync        equalUndecided
  1Ur       1Upmr     noSync        equalUndecided
  1Upmr     1Om       noSync        equalUndecided
  1Um       1Om       source bitmap equalMarked
  1Umf      1Um       source full   equalMarked
  1Upm      1Um       source bitmap equalMarked
  1Uf       1U        source full   equalMarked
  1Cpcme    12Ub1m    target bitmap primaryFollows
  12Ub1m    1Ipme     source bitmap primaryFollows
  -Ipe      12Ub1m    target full   primaryFollows
  1Cpcme    1U        target bitmap primaryFollows
  1Cpcme    1O        refuse        primaryFollows      exposedDataDiffers
  12Cpcme   1U        refuse        primaryFollows      exposedDataDiffers
  12Cpcme   13U       refuse        primaryFollows      exposedDataDiffers
  """

@Suite struct DecisionGoldenTests {
  @Test func everyLineOfTheTableHolds() throws {
    let lines = golden.split(separator: "\n").dropFirst()
    var named: Set<String> = []
    for line in lines {
      let words = line.split(separator: " ").map(String.init)
      let isSync = words[2] == "source" || words[2] == "target"
      let (mine, theirs) = (try Self.side(words[0]), try Self.side(words[1]))
      let decision = Decision.decide(mine: mine, theirs: theirs, iAmLower: true)

      #expect(
        Self.result(decision) == words[2...(isSync ? 3 : 2)].joined(separator: " "), "\(line)")
      let why = words[(isSync ? 4 : 3)...].joined(separator: " ")
      let reason = decision.reason == .none ? "" : " \(decision.reason)"
      #expect("\(decision.rule)\(reason)" == why, "\(line)")
      named.insert("\(decision.rule)")
    }
    let missing = Set(Rule.allCases.map { "\($0)" }).subtracting(named)
    #expect(missing == ["sizeMismatch", "discardByPolicy"], "these have tests of their own")
  }

  private static func result(_ decision: Decision) -> String {
    switch decision.action {
    case .noSync: "noSync"
    case .refuse: "refuse"
    case .syncSource: "source \(decision.extent)"
    case .syncTarget: "target \(decision.extent)"
    }
  }

  private static func side(_ text: String) throws -> StateReport {
    let ids = text.prefix { $0.isNumber }.compactMap(\.wholeNumberValue)
    let generations = ids.map { Generation(number: UInt64($0), id: UInt64($0), author: other) }
    let rest = text.drop { $0.isNumber || $0 == "-" }
    let disks: [Character: DiskState] = [
      "D": .diskless, "I": .inconsistent, "O": .outdated, "C": .consistent, "U": .upToDate,
    ]
    let disk = try #require(rest.first.flatMap { disks[$0] }, "\(text)")
    var report = peerReport(disk, try #require(Lineage(generations)))
    var flags = rest.dropFirst()
    while let flag = flags.popFirst() {
      switch flag {
      case "p": report.role = .primary
      case "e": report.usesPeerData = true
      case "c": report.crashed = true
      case "w": report.wasPrimary = true
      case "m": report.outOfSyncBlocks = 3
      case "f": report.isFull = true
      case "x": report.discardMyData = true
      case "r": report.repairWasCut = true
      case "b":
        let number = UInt64(try #require(flags.popFirst()?.wholeNumberValue))
        report.base = Generation(number: number, id: number, author: other)
      default: Issue.record("\(flag) in \(text)")
      }
    }
    return report
  }
}
