/// What `connect --discard-my-data --dry-run` says.
import Control
import Testing

@Suite struct DiscardTextTests {
  private func loss(_ change: (inout DiscardLoss) -> Void = { _ in }) -> DiscardLoss {
    var loss = DiscardLoss(
      peer: "alpha", volumeBytes: 64 << 20, blocks: 12, ranges: 3, extents: 1)
    loss.isAlone = true
    loss.limit = 10 << 30
    loss.directory = "/var/lib/ashlar/undo"
    loss.generations = [
      GenerationStatus(number: 4, id: "00000000000000AB", author: 1, began: "2026-11-21T13:51:45Z")
    ]
    change(&loss)
    return loss
  }

  @Test func namesWhatIsLostAndWhereItIsKept() {
    #expect(
      discardLines("r0", loss()) == [
        "r0: 'connect --discard-my-data' gives up what this node wrote without alpha:",
        "  12 blocks of 4 KiB (48 KiB), in 3 ranges and 1 extent of 4 MiB",
        "  generation 4:00000000000000AB, written since 2026-11-21T13:51:45Z",
        "  kept before in an undo file of at most 53 KiB in /var/lib/ashlar/undo",
        "nothing was changed",
      ])
  }

  @Test func saysWhenAllIsReplaced() {
    let text = discardLines("r0", loss { $0.isWhole = true }).joined(separator: "\n")
    #expect(text.contains("the whole volume is replaced, 65536 KiB"))
  }

  /// What a verify has found: nobody wrote alone, and it is kept all the same.
  @Test func saysWhatIsLostOfAnUndecidedPair() {
    let text = discardLines(
      "r0",
      loss {
        $0.isAlone = false
        $0.isMarked = true
        $0.generations = []
      })
    #expect(
      text == [
        "r0: 'connect --discard-my-data' gives up this node's side of blocks that differ:",
        "  12 blocks of 4 KiB (48 KiB), in 3 ranges and 1 extent of 4 MiB",
        "  kept before in an undo file of at most 53 KiB in /var/lib/ashlar/undo",
        "nothing was changed",
      ])
  }

  @Test func saysWhenItMayNotFit() {
    let text = discardLines("r0", loss { $0.limit = 40 << 10 }).joined(separator: "\n")
    #expect(text.contains("may not fit undo-limit (40 KiB)"))
    #expect(text.contains("--no-undo"))
  }

  @Test func saysWhenNothingIsKept() {
    let text = discardLines("r0", loss { $0.limit = 0 }).joined(separator: "\n")
    #expect(text.contains("none of it is kept: undo-limit is 0"))
  }

  @Test func saysWhyItWouldBeRefused() {
    #expect(discardLines("r0", loss { $0.isPrimary = true })[0].contains("this node is Primary"))
    #expect(discardLines("r0", loss { $0.isConnected = true })[0].contains("would be refused"))
  }

  @Test func saysWhenThereIsNothingToLose() {
    let lines = discardLines("r0", loss { $0.isAlone = false })
    #expect(lines.first == "r0: nothing is known that this node wrote and alpha lacks")
    #expect(lines.last == "nothing was changed")
  }

  /// The writer needs a head for each MiB of content at most, and for each range.
  @Test func theEstimateIsNeverTooSmall() {
    for blocks: UInt64 in [1, 255, 256, 257, 100_000] {
      let loss = loss {
        $0.volumeBytes = 1 << 40
        $0.blocks = blocks
        $0.ranges = min(blocks, 7)
      }
      let records = loss.ranges + blocks / 256 + 1
      #expect(loss.fileBytes >= 4096 + blocks * 4096 + 32 * (records - 1))
    }
  }
}
