/// How two histories stand to each other: every case by name, then the laws over all small ones.

import BlockTypes
import TestSupport
import Testing

/// Lineages of at most `depth` generations: numbers 1, 2, ... and ids from a small alphabet, so
/// that equal, longer, parted and unrelated pairs all occur many times. `dropped` leaves out the
/// oldest, as a long history does.
func lineages(depth: Int, ids: [UInt64], dropped: Int = 0) -> [Lineage] {
  var all: [[UInt64]] = [[]]
  var longest: [[UInt64]] = [[]]
  for _ in 0..<depth {
    longest = longest.flatMap { prefix in ids.map { prefix + [$0] } }
    all += longest
  }
  return all.compactMap { ids in
    let generations = ids.enumerated().map { index, id in
      Generation(number: UInt64(index + 1), id: id, author: author)
    }
    return Lineage(Array(generations.dropFirst(min(dropped, max(ids.count - 1, 0)))))
  }
}

private let author = node(3)

private func lineage(_ ids: UInt64...) -> Lineage {
  let generations = ids.enumerated().map { index, id in
    Generation(number: UInt64(index + 1), id: id, author: author)
  }
  return Lineage(generations) ?? Lineage()
}

@Suite struct LineageTests {
  @Test func twoFreshReplicasAreBothEmpty() {
    #expect(Lineage().relation(to: Lineage()) == .bothEmpty)
  }

  @Test func freshReplicaIsEmptyBesideOneWithData() {
    #expect(Lineage().relation(to: lineage(1)) == .selfEmpty)
    #expect(lineage(1).relation(to: Lineage()) == .otherEmpty)
  }

  @Test func sameNewestGenerationIsEqual() {
    #expect(lineage(1, 2).relation(to: lineage(1, 2)) == .equal)
  }

  @Test func theOneThatWentOnAloneExtendsTheOther() {
    #expect(lineage(1, 2, 3).relation(to: lineage(1)) == .extends)
    #expect(lineage(1).relation(to: lineage(1, 2, 3)) == .extended)
  }

  /// `status` names the last common moment, so it must be the newest common generation.
  @Test func bothWentOnAloneIsPartedAfterTheNewestCommonGeneration() {
    let ancestor = lineage(1, 2).newest

    guard case .parted(let found) = lineage(1, 2, 3).relation(to: lineage(1, 2, 4, 5)) else {
      Issue.record("not parted")
      return
    }
    #expect(found == ancestor)
  }

  @Test func nothingInCommonIsUnrelated() {
    #expect(lineage(1, 2).relation(to: lineage(3, 4)) == .unrelated)
  }

  /// The same number and id by another author is another generation.
  @Test func authorIsPartOfTheIdentity() throws {
    let mine = try #require(Lineage([Generation(number: 1, id: 9, author: author)]))
    let theirs = try #require(Lineage([Generation(number: 1, id: 9, author: node(4))]))

    #expect(mine.relation(to: theirs) == .unrelated)
  }

  /// All pairs of all lineages up to depth 4 over three ids, whole and with dropped beginnings.
  @Test(arguments: [0, 1, 2])
  func relationIsAntisymmetricAndTellsTheTruth(dropped: Int) {
    let all = lineages(depth: 4, ids: [1, 2, 3], dropped: dropped)
    for left in all {
      for right in all {
        let forward = left.relation(to: right)
        #expect(right.relation(to: left) == forward.reversed, "\(left) \(right)")
        #expect(forward == relationBySets(left, right), "\(left) \(right)")
      }
    }
  }

  /// The relation by its definition, slowly.
  private func relationBySets(_ left: Lineage, _ right: Lineage) -> LineageRelation {
    guard let mine = left.newest, let theirs = right.newest else {
      if left.isEmpty && right.isEmpty { return .bothEmpty }
      return left.isEmpty ? .selfEmpty : .otherEmpty
    }
    let common = left.generations.filter { right.generations.contains($0) }
    guard let ancestor = common.max(by: { $0.number < $1.number }) else { return .unrelated }
    switch (ancestor == mine, ancestor == theirs) {
    case (true, true): return .equal
    case (true, false): return .extended
    case (false, true): return .extends
    case (false, false): return .parted(ancestor: ancestor)
    }
  }

  /// A history is bounded: the newest stay, numbers go on rising, and the relation to a replica
  /// that is less than `limit` behind does not change.
  @Test func longHistoryForgetsItsBeginningOnly() {
    var mine = Lineage()
    var snapshots: [Lineage] = []
    for id in 1...UInt64(Lineage.limit + 10) {
      mine.begin(id: id, author: author)
      snapshots.append(mine)
    }

    #expect(mine.generations.count == Lineage.limit)
    #expect(mine.newest?.number == UInt64(Lineage.limit + 10))
    #expect(Lineage(mine.generations) == mine)
    for (index, old) in snapshots.enumerated().suffix(Lineage.limit).dropLast() {
      #expect(mine.relation(to: old) == .extends, "snapshot \(index)")
    }
  }

  @Test func disorderIsRefused() {
    let one = Generation(number: 1, id: 1, author: author)
    let two = Generation(number: 2, id: 2, author: author)

    #expect(Lineage([one, two]) != nil)
    #expect(Lineage([two, one]) == nil)
    #expect(Lineage([one, one]) == nil)
    let tooMany = (1...UInt64(Lineage.limit + 1)).map {
      Generation(number: $0, id: $0, author: author)
    }
    #expect(Lineage(tooMany) == nil)
  }

  /// A hostile peer or a damaged disk must not be able to use up the numbers: beginning the next
  /// generation would trap.
  @Test func numbersNearTheEndAreRefused() {
    #expect(Lineage([Generation(number: .max, id: 1, author: author)]) == nil)
    let last = Generation(number: Lineage.numberLimit, id: 1, author: author)
    #expect(Lineage([last]) != nil)
    let past = Generation(number: Lineage.numberLimit + 1, id: 1, author: author)
    #expect(Lineage([past]) == nil)
  }
}

extension LineageRelation {
  fileprivate var reversed: LineageRelation {
    switch self {
    case .otherEmpty: .selfEmpty
    case .selfEmpty: .otherEmpty
    case .extends: .extended
    case .extended: .extends
    case .bothEmpty, .equal, .parted, .unrelated: self
    }
  }
}
