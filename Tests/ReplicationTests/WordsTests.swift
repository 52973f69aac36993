/// What people read: every state, reason, rule and refusal has words, and no two say the same.
import Foundation
import Replication
import TestSupport
import Testing
import Wire

@Suite struct WordsTests {
  private func expectDistinct(_ words: [String], sourceLocation: SourceLocation = #_sourceLocation)
  {
    #expect(words.allSatisfy { !$0.isEmpty }, sourceLocation: sourceLocation)
    #expect(Set(words).count == words.count, "\(words)", sourceLocation: sourceLocation)
  }

  @Test func everyReasonSaysSomethingElse() {
    let reasons = (0...UInt8.max).compactMap(Reason.init(rawValue:))
    #expect(reasons.count > 30)
    #expect(Reason.none.text.isEmpty)
    expectDistinct(reasons.filter { $0 != .none }.map(\.text))
  }

  /// Who reads a reason in `status` finds what to do in docs/operations.md.
  @Test func operationsExplainEveryReason() throws {
    var root = URL(filePath: #filePath).resolvingSymlinksInPath()
    for _ in 0..<3 { root.deleteLastPathComponent() }
    let page = try String(
      contentsOf: root.appending(path: "docs/operations.md"), encoding: .utf8)
    let rows = page.split(separator: "\n").filter { $0.hasPrefix("| `") }
    let quoted = rows.flatMap { row in
      // What stands between backquotes in the first column; dots stand for what was left out.
      row.split(separator: " | ")[0].split(separator: "`").map {
        $0.trimmingCharacters(in: CharacterSet(charactersIn: ". "))
      }
    }
    let reasons = (0...UInt8.max).compactMap(Reason.init(rawValue:)).filter { $0 != .none }
    for reason in reasons {
      #expect(
        quoted.contains { $0.count >= 12 && reason.text.contains($0) }, "'\(reason.text)'")
    }
  }

  @Test func everyRuleOfTheDecisionSaysSomethingElse() {
    expectDistinct(Rule.allCases.map(\.text))
  }

  @Test func everyRefusalSaysSomethingElse() {
    expectDistinct(Refusal.allCases.map(\.text))
  }

  @Test func handlersHaveNamesOfDRBD() {
    let names = HandlerCall.allCases.map(\.name)
    expectDistinct(names)
    #expect(names.contains("split-brain"))
    #expect(names.contains("pri-lost-after-sb"))
  }

  /// The spelling is DRBD's, since scripts look for it.
  @Test func statesAreSpeltAsDRBDSpellsThem() {
    let connections: [ConnectionState] = [
      .standAlone, .connecting, .quiescing, .wfReportParams, .wfVerdict, .connected,
    ]
    #expect(
      connections.map(\.name) == [
        "StandAlone", "Connecting", "WFReportParams", "WFReportParams", "WFReportParams",
        "Connected",
      ])
    let replications: [ReplicationState] = [
      .off, .established, .wfBitMapS, .wfBitMapT, .syncSource, .syncTarget,
    ]
    #expect(
      replications.map(\.name) == [
        "Off", "Established", "WFBitMapS", "WFBitMapT", "SyncSource", "SyncTarget",
      ])
  }

  /// The log and `status` say direction, extent and reason of a decision.
  @Test func decisionsSayWhatIsDoneAndWhy() {
    let old = peerReport(.upToDate, lineage(1))
    let new = peerReport(.upToDate, lineage(1, 2))
    let target = Decision.decide(mine: old, theirs: new, iAmLower: true)
    #expect(target.text.hasPrefix("Sync from peer node, "))
    #expect(target.text.contains(target.rule.text))
    let source = Decision.decide(mine: new, theirs: old, iAmLower: true)
    #expect(source.text.hasPrefix("Sync from this node, everything"))
    let refused = Decision.decide(
      mine: peerReport(.upToDate, lineage(1, 2)), theirs: peerReport(.upToDate, lineage(1, 3)),
      iAmLower: true)
    #expect(refused.text.hasPrefix("refused ("))
    #expect(refused.text.contains("Split-Brain"))
    let quiet = Decision.decide(mine: old, theirs: old, iAmLower: true)
    #expect(quiet.text.hasPrefix("no sync ("))
  }
}
