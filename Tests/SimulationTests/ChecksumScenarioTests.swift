/// Resyncs that compare before they copy (`csums-alg`), S19 of the checklist.
import BlockTypes
import Metadata
import Replication
import Testing
import Wire

@testable import Simulation

@Suite struct ChecksumScenarioTests {
  /// A pair with data in every block; the second one compares before it pulls.
  private func pair(compares: Bool = true) -> Scenario {
    let scenario = Scenario {
      $0.volumeBlocks = 320
      $0.comparesChecksums = [compares, compares]
      $0.requestSectors = 256
    }
    scenario.makePair()
    for start in stride(from: 0, to: 2_560, by: 64) { scenario.write(0, start..<(start + 64)) }
    return scenario
  }

  /// Every block of the second node counts as different, and one in ten is.
  private func invalidateAndWrite(_ scenario: Scenario) {
    scenario.partition()
    for start in stride(from: 0, to: 2_560, by: 80) { scenario.write(0, start..<(start + 8)) }
    scenario.tell(1, .invalidate)
    for node in 0...1 { scenario.cluster.setBlocked(false, from: node) }
  }

  /// S19: 90 % of the blocks are equal, and only the rest is sent.
  @Test func equalBlocksAreNotSent() {
    let scenario = pair()
    let before = (scenario.copiedBlocks, scenario.cluster.statistics.equalBlocks)
    invalidateAndWrite(scenario)
    scenario.run { $0.isInSync }

    #expect(scenario.copiedBlocks - before.0 == 32)
    #expect(scenario.cluster.statistics.equalBlocks - before.1 == 288)
    scenario.finish()
  }

  @Test func withoutChecksumsEverythingMarkedIsSent() {
    let scenario = pair(compares: false)
    let before = scenario.copiedBlocks
    invalidateAndWrite(scenario)
    scenario.run { $0.isInSync }

    #expect(scenario.copiedBlocks - before == 320)
    scenario.finish()
  }

  /// S19: cut again and again while it compares and copies, with a client that writes meanwhile.
  @Test(arguments: 0..<12 as Range<UInt64>)
  func cutsInBetweenLoseNothing(millisecond: UInt64) {
    let scenario = pair()
    invalidateAndWrite(scenario)
    for round in 0..<4 {
      scenario.run { $0.second.replication == .syncTarget }
      scenario.run(milliseconds: millisecond)
      scenario.begin(client: 1 + round, 0, (round * 24)..<(round * 24 + 12))
      scenario.cluster.cut(.cutConnection)
      scenario.run { $0.first.connection != .connected }
    }
    scenario.run { $0.isInSync }
    scenario.finish()
  }

  /// S19: the target's disk is detached and attached again in the middle.
  @Test func detachInBetweenLosesNothing() {
    let scenario = pair()
    invalidateAndWrite(scenario)
    scenario.run { $0.second.replication == .syncTarget }
    scenario.run(milliseconds: 2)
    scenario.tell(1, .detach)
    scenario.write(0, 8..<24)
    scenario.cluster.attach(1)
    scenario.run { $0.isInSync }
    scenario.finish()
  }

  /// A crash makes whole extents suspect; hardly anything of them differs, and no more is sent.
  @Test func crashCopiesOnlyWhatDiffers() {
    let scenario = pair()
    scenario.write(0, 0..<8)
    let before = (scenario.copiedBlocks, scenario.cluster.statistics.equalBlocks)
    scenario.cluster.end(1, .kill)
    scenario.run { $0.first.connection != .connected }
    scenario.write(0, 16..<24)
    scenario.start(1)
    scenario.run { $0.isInSync }

    #expect(scenario.copiedBlocks - before.0 == 1)
    #expect(scenario.cluster.statistics.equalBlocks - before.1 > 100)
    scenario.finish()
  }
}
