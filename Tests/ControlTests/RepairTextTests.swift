/// What a dry run of a repair prints.
import Control
import Testing

@Suite struct RepairTextTests {
  @Test func namesEveryRangeAndTheDirection() {
    var outlook = RepairOutlook(source: "beta", target: "alpha")
    outlook.ranges = [4096..<8192, 1 << 20..<2 << 20]
    outlook.rangeCount = 3
    outlook.bytes = (1 << 20) + 8192
    outlook.onlyMarked = true
    #expect(
      repairLines("r0", outlook) == [
        "r0: 3 ranges, 1032 KiB, would be copied from beta to alpha:",
        "  start=8, size=8 (sectors)",
        "  start=2048, size=2048 (sectors)",
        "  and 1 more",
        "nothing was changed",
      ])
  }

  @Test func saysWhatItDoesNotKnowAndWhatStandsInTheWay() {
    var outlook = RepairOutlook(source: "beta", target: "alpha")
    outlook.obstacle = "not connected to beta"
    #expect(
      repairLines("r0", outlook) == [
        "r0: not connected to beta: 'verify --repair' would be refused now",
        "r0: nothing is marked as different in this range",
        "what a comparison finds besides would be copied from beta to alpha, too",
        "nothing was changed",
      ])
  }
}
