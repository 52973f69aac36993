/// Resyncs that are disturbed by clients, cuts, deaths and pauses. Names begin with the scenario in
/// docs/scenarios.md.
import BlockTypes
import Metadata
import Replication
import Testing
import Wire

@testable import Simulation

@Suite struct ResyncRaceScenarioTests {
  /// Each cut costs at most what was on its way.
  @Test func `S02: a resync that is cut 50 times goes on where it was`() {
    let scenario = pairThatWillCopy(blocks: 400)
    let before = scenario.copiedBlocks
    var last: UInt64 = 0
    for cut in 1...50 {
      let goal = last + scenario.cluster.planRandom.below(8)
      scenario.run { $0.copiedBlocks - before >= goal }
      #expect(!scenario.isInSync, "the resync was over before cut \(cut)")
      last = scenario.copiedBlocks - before
      scenario.cluster.cut(.cutConnection)
      scenario.run { $0.second.connection != .connected && $0.first.connection != .connected }
    }
    #expect(scenario.run(atMostMs: 120_000) { $0.isInSync })

    #expect(scenario.copiedBlocks - before <= 400 + 50 * 4)
    scenario.finish()
  }

  /// The link is slow, so that the bitmaps are on their way while clients write everywhere.
  @Test(arguments: 1...5 as ClosedRange<UInt64>)
  func `S08: writes during the exchange of bitmaps are not lost`(seed: UInt64) {
    let scenario = Scenario(seed: seed) {
      $0.volumeBlocks = 960
      $0.networkDelay = Latency(floorUs: 2_000, spreadUs: 2_000)
    }
    scenario.makePair()
    scenario.partition()
    for block in stride(from: 0, to: 960, by: 90) {
      scenario.write(0, (block * 8)..<(block * 8 + 8))
    }
    for node in 0...1 { scenario.cluster.setBlocked(false, from: node) }
    #expect(scenario.run { $0.second.replication == .wfBitMapT })
    for client in 0..<16 {
      scenario.begin(client: client, 0, (client * 480)..<(client * 480 + 8))
    }
    #expect(scenario.second.replication == .wfBitMapT)
    #expect(scenario.run { $0.cluster.pendingRequests == 0 })
    scenario.finish()
  }

  /// Zeroes are told, not sent, also those that a client makes in the middle.
  @Test(arguments: 1...2 as ClosedRange<UInt64>)
  func `S09: discards during a resync arrive as zeroes, and only data is sent`(seed: UInt64) {
    let scenario = Scenario(seed: seed) { $0.volumeBlocks = 160 }
    scenario.makePair()
    scenario.fill(0, 0..<1_280)
    scenario.partition()
    for start in stride(from: 0, to: 1_280, by: 256) {
      scenario.write(0, start..<(start + 128))
      #expect(scenario.request(0, .trim, (start + 128)..<(start + 256)) == .done)
    }
    let before = scenario.copiedBlocks
    scenario.heal()
    #expect(scenario.copiedBlocks - before == 80)

    scenario.partition()
    scenario.fill(0, 0..<1_280)
    for node in 0...1 { scenario.cluster.setBlocked(false, from: node) }
    scenario.run { $0.second.replication == .syncTarget }
    for start in stride(from: 0, to: 1_280, by: 128) {
      #expect(scenario.request(0, .trim, start..<(start + 64)) == .done)
    }
    scenario.finish()
    #expect(scenario.second.disk.word(at: 0) == 0)
    #expect(scenario.second.disk.word(at: 64) != 0)
  }

  /// SIGSTOP for a minute: its target gives it up in bounded time, and goes on later.
  @Test(arguments: 0...1)
  func `S27: a process that stops during a resync is given up and found again`(node: Int) {
    let scenario = pairThatWillCopy(blocks: 200)
    let before = scenario.copiedBlocks
    scenario.run { $0.copiedBlocks - before > 20 }
    scenario.cluster.nodes[node].pausedUntil = scenario.cluster.now + 60_000_000_000
    let other = scenario.cluster.nodes[1 - node]
    #expect(scenario.run(atMostMs: 5_000) { _ in other.connection != .connected })
    #expect(scenario.second.diskState == .inconsistent)
    scenario.run(milliseconds: 60_000)
    scenario.finish()
    #expect(scenario.copiedBlocks - before <= 200 + 8)
  }

  /// A pair that was parted while the first node wrote every block; the link has just come back.
  private func pairThatWillCopy(blocks: Int) -> Scenario {
    let scenario = Scenario {
      $0.volumeBlocks = blocks
      $0.resyncRequestBytes = 4096
    }
    scenario.makePair()
    scenario.partition()
    scenario.fill(0, 0..<blocks * 8)
    for node in 0...1 { scenario.cluster.setBlocked(false, from: node) }
    return scenario
  }
}
