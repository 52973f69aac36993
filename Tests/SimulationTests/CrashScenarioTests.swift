/// Crashes and power losses: what could have been written is copied, and no more. Names follow the
/// checklist of scenarios (C).
import BlockTypes
import Metadata
import Replication
import Testing
import Wire

@testable import Simulation

extension Scenario {
  /// Blocks of one extent of the activity log.
  var extentBlocks: UInt64 {
    ActivityLog.extentBytes / cluster.options.activityLogScale / blockSize
  }

  /// Clean on both sides, so that no extent is hot: both start again with empty logs.
  func restartCleanly() {
    tell(0, .secondary(heldOpen: false))
    for node in [0, 1] {
      tell(node, .shutdown)
      start(node)
    }
    run { $0.isInSync }
    tell(0, .primary(force: false))
  }
}

@Suite struct CrashScenarioTests {
  /// A large volume in sync, whose activity logs are empty; node 0 is Primary.
  private func quietPair() -> Scenario {
    let scenario = Scenario { $0.volumeBlocks = 400 }
    scenario.makePair()
    scenario.restartCleanly()
    return scenario
  }

  /// A clean restart of both costs nothing.
  @Test func cleanRestartCopiesNothing() {
    let scenario = quietPair()
    let before = scenario.copiedBlocks
    scenario.restartCleanly()

    #expect(scenario.copiedBlocks == before)
    scenario.finish()
  }

  /// C01, C02: the Primary dies with few extents hot, by kill -9 or for want of power; they are
  /// copied, the rest is not.
  @Test(arguments: [Cluster.End.kill, .powerLoss])
  func crashedPrimaryCopiesItsHotExtents(end: Cluster.End) {
    let scenario = quietPair()
    for start in [0, 1_600, 3_160] { scenario.write(0, start..<(start + 8)) }
    let before = scenario.copiedBlocks
    scenario.cluster.end(0, end)
    scenario.start(0)
    scenario.run { $0.isInSync }

    #expect(scenario.copiedBlocks > before, "what was under way is not known")
    #expect(scenario.copiedBlocks - before <= 3 * scenario.extentBlocks)
    scenario.finish()
  }

  /// C01: the survivor is promoted and writes: its writes and the hot extents are copied.
  @Test func crashedPrimaryGetsWhatTheSurvivorWrote() {
    let scenario = quietPair()
    scenario.write(0, 0..<8)
    scenario.cluster.end(0, .powerLoss)
    scenario.run { $0.second.connection != .connected }
    scenario.tell(1, .primary(force: false))
    scenario.write(1, 2_400..<2_416)
    let before = scenario.copiedBlocks
    scenario.start(0)
    scenario.run { $0.isInSync }

    #expect(scenario.copiedBlocks - before <= scenario.extentBlocks + 2)
    scenario.finish()
  }

  /// A Secondary that loses power has perhaps lost writes that no flush covered: its own log knows.
  @Test func secondaryWithoutPowerGetsItsHotExtentsAgain() {
    let scenario = quietPair()
    for block in 0..<4 { scenario.write(0, (block * 800)..<(block * 800 + 8)) }
    let before = scenario.copiedBlocks
    scenario.cluster.end(1, .powerLoss)
    scenario.run { $0.first.connection != .connected }
    scenario.start(1)
    scenario.run { $0.isInSync }

    #expect(scenario.copiedBlocks - before >= 4)
    #expect(scenario.copiedBlocks - before <= 4 * scenario.extentBlocks)
    scenario.finish()
  }

  /// C04: both lose power at once, again and again: one direction, equal content, what was flushed
  /// is there.
  @Test func bothLosePowerAgainAndAgain() {
    let scenario = quietPair()
    for round in 0..<20 {
      let start = round * 160 % 3_000
      scenario.write(0, start..<(start + 24), forceUnitAccess: true)
      scenario.begin(client: 1, 0, (start + 32)..<(start + 48))
      for node in 0...1 { scenario.cluster.end(node, .powerLoss) }
      scenario.start(0, 1)
      scenario.run { $0.isInSync }
      scenario.tell(0, .primary(force: false))
    }
    scenario.finish()
  }

  /// C07: a working set larger than the log, crashes at any moment: everything is covered.
  @Test func workingSetLargerThanTheLogIsCovered() {
    let scenario = Scenario {
      $0.volumeBlocks = 400
      $0.activityLogScale = 1_024
    }
    scenario.makePair()
    for round in 0..<6 {
      for block in 0..<100 {
        let start = (block * 4 + round % 4) * 8
        scenario.write(0, start..<(start + 8))
      }
      scenario.cluster.end(round % 2, .powerLoss)
      scenario.start(round % 2)
      scenario.run { $0.isInSync }
      if scenario.first.role != .primary { scenario.tell(0, .primary(force: false)) }
    }
    scenario.finish()
  }

  /// A node is killed while it writes marks, and starts again; then the host loses power, and with
  /// it what only the disk's cache had. The new log must not have relied on it (seed 9452).
  @Test func marksThatOnlyTheCacheHasAreWrittenAgain() {
    let scenario = Scenario()
    scenario.makePair()
    scenario.cluster.end(1, .kill)
    scenario.run { $0.first.connection != .connected }
    scenario.write(0, 0..<8)
    scenario.request(0, .flush)
    scenario.run(milliseconds: 10)
    scenario.cluster.end(0, .kill)
    scenario.start(0)
    scenario.cluster.crashFates[0] = [.kept]
    scenario.cluster.end(0, .kill)
    scenario.start(0)
    scenario.run(milliseconds: 10)
    scenario.cluster.crashFates[0] = [Fate](repeating: .lost, count: 64)
    scenario.cluster.end(0, .powerLoss)
    scenario.cluster.crashFates[0] = nil
    scenario.expectNoViolation()
    scenario.start(0, 1)
    scenario.finish()
  }

  /// C06, P7: both copies of the superblock say the same once nothing is under way.
  @Test func bothCopiesOfTheSuperblockAreBroughtUpToDate() {
    let scenario = quietPair()
    scenario.write(0, 0..<8)
    scenario.run(milliseconds: 1_000)

    for node in scenario.cluster.nodes {
      let copies = (0...1).map { copy in
        (0..<8).map { node.disk.word(at: scenario.cluster.volumeSectors + copy * 8 + $0) }
      }
      #expect(node.disk.bytes(for: copies[0]) == node.disk.bytes(for: copies[1]))
    }
    scenario.finish()
  }
}
