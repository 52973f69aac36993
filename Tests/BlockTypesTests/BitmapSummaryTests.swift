/// Counting a whole bitmap word by word gives what counting block by block gives.
import BlockTypes
import Testing

@Suite struct BitmapSummaryTests {
  private func summary(_ blocks: [Range<UInt64>], of count: UInt64 = 5_000) -> BitmapSummary {
    var bitmap = BlockBitmap(blockCount: count)
    for range in blocks { bitmap.setBlocks(range) }
    return bitmap.summary
  }

  @Test func countsBlocksRunsAndExtents() {
    #expect(summary([]) == BitmapSummary())
    #expect(summary([0..<1]) == BitmapSummary(blocks: 1, runs: 1, extents: 1))
    #expect(summary([63..<65]) == BitmapSummary(blocks: 2, runs: 1, extents: 1))
    #expect(summary([62..<63, 64..<65]) == BitmapSummary(blocks: 2, runs: 2, extents: 1))
    #expect(summary([1023..<1025]) == BitmapSummary(blocks: 2, runs: 1, extents: 2))
    #expect(summary([0..<5_000]) == BitmapSummary(blocks: 5_000, runs: 1, extents: 5))
    #expect(summary([4_999..<5_000]) == BitmapSummary(blocks: 1, runs: 1, extents: 1))
  }

  @Test func agreesWithCountingRunByRun() {
    var state: UInt64 = 7
    for _ in 0..<50 {
      var bitmap = BlockBitmap(blockCount: 3_000)
      for _ in 0..<60 {
        state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
        let start = (state >> 33) % 2_990
        bitmap.setBlocks(start..<(start + 1 + (state >> 20) % 10))
      }
      var runs: UInt64 = 0
      var next: UInt64 = 0
      while let run = bitmap.nextRun(from: BlockIndex(next)) {
        runs += 1
        next = run.upperBound
      }
      let summary = bitmap.summary
      let words = bitmap.allWords
      #expect(summary.runs == runs)
      #expect(summary.blocks == words.reduce(0) { $0 + UInt64($1.nonzeroBitCount) })
    }
  }
}
