/// Ranges, moments, node numbers and peer sets at their edges.

import BlockTypes
import TestSupport
import Testing

@Suite struct UnitsTests {
  /// Every pair of small ranges, against the sets of bytes they stand for.
  @Test func rangesAgreeWithSetsOfBytes() {
    let ranges = (0..<7).flatMap { start in
      (start...7).map { ByteRange(start: UInt64(start), end: UInt64($0)) }
    }
    #expect(ranges.contains { $0.length == 0 && $0.start == 3 }, "empty ranges take part")
    for left in ranges {
      let mine = Set(left.start..<left.end)
      for right in ranges {
        let theirs = Set(right.start..<right.end)
        #expect(left.overlaps(right) == !mine.isDisjoint(with: theirs), "\(left) \(right)")
        guard right.length > 0 else { continue }
        #expect(left.contains(right) == mine.isSuperset(of: theirs), "\(left) \(right)")
      }
    }
  }

  /// A flush has an empty range; it must not hold up a write around it.
  @Test func emptyRangeOverlapsNothingOutsideItself() {
    let empty = ByteRange(start: 0, end: 0)

    #expect(!empty.overlaps(ByteRange(start: 0, end: 4096)))
    #expect(!ByteRange(start: 0, end: 4096).overlaps(empty))
  }

  @Test func rangeThatEndsBeforeItStartsTraps() async {
    await #expect(processExitsWith: .failure) { _ = ByteRange(start: 2, end: 1) }
  }

  /// A timeout beyond the clock's end is never, not in the past.
  @Test func momentsSaturateInsteadOfWrapping() {
    let late = Instant(nanoseconds: .max - 5)

    #expect(late.advanced(milliseconds: 1) == .never)
    #expect(Instant(nanoseconds: 0).advanced(milliseconds: .max) == .never)
    #expect(Instant(nanoseconds: 7).advanced(milliseconds: 2).nanoseconds == 2_000_007)
    #expect(Instant(nanoseconds: 5).milliseconds(since: late) == 0)
  }

  @Test func nodeNumbersAreThoseOfDRBD() {
    #expect(NodeID(31)?.value == 31)
    #expect(NodeID(32) == nil)
    #expect(NodeID(.max) == nil)
  }

  @Test(arguments: seeds(count: 4))
  func peerSetBehavesAsASet(seed: UInt64) {
    var random = SeededGenerator(seed: seed)
    var set = PeerSet()
    var model: Set<Int> = []
    for _ in 0..<500 {
      let slot = random.below(31)
      if random.oneIn(2) {
        set.insert(slot)
        model.insert(slot)
      } else {
        set.remove(slot)
        model.remove(slot)
      }
      #expect(set.count == model.count && set.isEmpty == model.isEmpty, "seed \(seed)")
      #expect((0..<31).allSatisfy { set.contains($0) == model.contains($0) }, "seed \(seed)")
    }
  }
}
