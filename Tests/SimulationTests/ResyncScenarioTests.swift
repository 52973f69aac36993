/// Resyncs that copy what differs and nothing else. Names follow the checklist of scenarios: R is
/// about the decision, S about a resync under way.
import BlockTypes
import Metadata
import Replication
import Testing

@testable import Simulation

extension Scenario {
  /// Loses the connection for a while: neither side hears of the other.
  func partition() {
    for node in 0...1 { cluster.setBlocked(true, from: node) }
    run { $0.first.connection != .connected && $0.second.connection != .connected }
  }

  func heal() {
    for node in 0...1 { cluster.setBlocked(false, from: node) }
    run { $0.isInSync }
  }

  /// Blocks copied by resyncs so far.
  var copiedBlocks: UInt64 { cluster.statistics.resyncBytes / blockSize }
}

@Suite struct ResyncScenarioTests {
  @Test("R04: after an outage only the blocks that were written are copied, in the right direction")
  func partialResyncCopiesWhatWasWritten() {
    let scenario = Scenario { $0.volumeBlocks = 300 }
    scenario.makePair()
    let before = scenario.copiedBlocks
    scenario.partition()
    for start in [0, 800, 1_600] { scenario.write(0, start..<(start + 24)) }
    scenario.heal()

    #expect(scenario.copiedBlocks - before == 9)
    scenario.finish()
  }

  @Test(
    "R05: a link that flaps 1 000 times while nothing is written costs no generation and no byte")
  func idleFlapCostsNothing() {
    let scenario = Scenario()
    scenario.makePair()
    let before = (
      scenario.copiedBlocks, scenario.generations(0), scenario.cluster.statistics.resyncs
    )
    for _ in 0..<1_000 {
      scenario.cluster.cut(.cutConnection)
      scenario.run { $0.first.connection != .connected }
      scenario.run { $0.isInSync }
    }

    #expect(scenario.first.replica.status(ofPeer: 0).connection == .connected)
    #expect(scenario.copiedBlocks == before.0)
    #expect(scenario.generations(0) == before.1)
    #expect(scenario.cluster.statistics.resyncs == before.2)
    scenario.finish()
  }

  @Test("R06: one write after idle flaps is one generation and one block")
  func writeAfterIdleFlapsIsOneGenerationAndOneBlock() {
    let scenario = Scenario()
    scenario.makePair()
    let before = (scenario.copiedBlocks, scenario.generations(0))
    for isWriting in [false, true] {
      scenario.partition()
      if isWriting { scenario.write(0, 8..<16) }
      scenario.heal()
    }

    #expect(scenario.copiedBlocks == before.0 + 1)
    #expect(scenario.generations(0) == before.1 + 1)
    scenario.finish()
  }

  @Test("R16: the end of a resync is missed; nothing is forgotten and nothing is copied again")
  func missedEndOfAResyncCopiesNothingAgain() {
    let scenario = Scenario { $0.resyncRequestBytes = 4096 }
    scenario.makePair()
    scenario.partition()
    scenario.write(0, 0..<64)
    let before = scenario.copiedBlocks
    for node in 0...1 { scenario.cluster.setBlocked(false, from: node) }
    scenario.run { $0.copiedBlocks == before + 8 }
    scenario.cluster.cut(.cutConnection)
    scenario.run { $0.isInSync }

    #expect(scenario.copiedBlocks <= before + 8 + 2)
    scenario.finish()
  }

  @Test("S02, S03: a resync that is cut goes on with what is left, also the first one of all")
  func cutResyncGoesOnWithWhatIsLeft() {
    let scenario = Scenario {
      $0.volumeBlocks = 200
      $0.resyncRequestBytes = 4096
    }
    scenario.start(0, 1)
    scenario.run { $0.first.connection == .connected }
    scenario.cluster.command(0, .primary(force: true))
    // Zeroes are told range by range, as data is sent.
    let before = scenario.cluster.statistics.resyncRanges
    for cut in 1...18 {
      scenario.run { $0.cluster.statistics.resyncRanges - before >= cut * 10 }
      scenario.cluster.cut(.cutConnection)
    }
    scenario.run { $0.isInSync }

    // Each cut loses what was on its way: the window of the target and what it had in hand.
    #expect(scenario.cluster.statistics.resyncRanges - before <= 200 + 18 * 4)
    scenario.finish()
  }

  /// A block that a client writes whole while the peer is behind is not copied as well.
  @Test func coveringWriteDuringTheResyncSparesTheCopy() {
    let scenario = Scenario {
      $0.volumeBlocks = 160
      $0.resyncRequestBytes = 4096
      $0.resyncWindow = 1
    }
    scenario.makePair()
    scenario.partition()
    for start in stride(from: 0, to: 1_280, by: 128) { scenario.write(0, start..<(start + 128)) }
    let before = scenario.copiedBlocks
    for node in 0...1 { scenario.cluster.setBlocked(false, from: node) }
    scenario.run { $0.copiedBlocks > before }
    for start in stride(from: 640, to: 1_280, by: 128) {
      scenario.write(0, start..<(start + 128))
    }
    scenario.run { $0.isInSync }

    #expect(scenario.copiedBlocks - before < 130)
    scenario.finish()
  }
}
