/// Resyncs that are disturbed: nodes die, clients write to what is copied, administrators pause.
/// Names follow the checklist of scenarios (S).
import BlockTypes
import Metadata
import Replication
import Testing
import Wire

@testable import Simulation

extension Scenario {
  /// Writes every block, so that no resync can do with telling zeroes.
  func fill() {
    for start in stride(from: 0, to: cluster.volumeSectors, by: 64) {
      write(0, start..<min(start + 64, cluster.volumeSectors))
    }
  }

  /// Makes node 1 the target of a full resync, and lets it go so far.
  func resync(until blocks: UInt64) {
    let before = copiedBlocks
    tell(1, .invalidate)
    run { $0.copiedBlocks >= before + blocks }
  }

  func setBlocked(_ isBlocked: Bool) {
    for node in 0...1 { cluster.setBlocked(isBlocked, from: node) }
  }
}

@Suite struct ResyncStressTests {
  private func pair(_ blocks: Int = 120, _ change: (inout SwarmOptions) -> Void = { _ in })
    -> Scenario
  {
    let scenario = Scenario {
      $0.volumeBlocks = blocks
      $0.resyncRequestBytes = 4096
      change(&$0)
    }
    scenario.makePair()
    scenario.fill()
    return scenario
  }

  @Test("S04: a target that dies stays Inconsistent, is no Primary without force, and goes on")
  func targetDies() {
    let scenario = pair()
    for round in 0..<30 as Range<UInt64> {
      scenario.resync(until: 1 + round * 37 % 110)
      scenario.cluster.end(1, round % 2 == 0 ? .kill : .powerLoss)
      scenario.setBlocked(true)
      scenario.run { $0.first.connection != .connected }
      scenario.start(1)
      #expect(scenario.second.diskState == .inconsistent)
      #expect(scenario.tell(1, .primary(force: false)) == .refused(.needUpToDateData))
      scenario.setBlocked(false)
      #expect(scenario.run { $0.isInSync })
    }
    scenario.finish()
  }

  @Test("S04: a target that dies late copies little again: its bitmap keeps what was done")
  func progressSurvivesACrash() {
    // Slow enough for the record that is kept every 5 s.
    let scenario = pair(600) { $0.resyncBytesPerSecondMost = 32 * blockSize }
    scenario.resync(until: 550)
    let before = scenario.copiedBlocks
    scenario.cluster.end(1, .kill)
    scenario.run { $0.first.connection != .connected }
    scenario.start(1)
    #expect(scenario.run(atMostMs: 60_000) { $0.isInSync })

    // What is left, 5 s of work, and what is hot on the target.
    #expect(scenario.copiedBlocks - before <= 50 + 6 * 32 + 40 * scenario.extentBlocks)
    scenario.finish()
  }

  @Test("S05: the source dies; the target waits, Inconsistent, and is made whole when it is back")
  func sourceDies() {
    let scenario = pair()
    for round in 0..<10 as Range<UInt64> {
      scenario.resync(until: 1 + round * 41 % 110)
      scenario.cluster.end(0, round % 2 == 0 ? .kill : .powerLoss)
      scenario.run { $0.second.connection != .connected }
      scenario.run(milliseconds: 20_000)
      #expect(scenario.second.diskState == .inconsistent)
      #expect(scenario.tell(1, .primary(force: false)) == .refused(.needUpToDateData))
      scenario.start(0)
      #expect(scenario.run { $0.isInSync })
      scenario.tell(0, .primary(force: false))
    }
    scenario.finish()
  }

  @Test("S06: blocks that are written all the time while they are copied and the link is cut")
  func hotBlocks() {
    let scenario = pair(64)
    var random = SeededGenerator(seed: 6)
    var cuts = 0
    for _ in 0..<20 {
      scenario.partition()
      scenario.fill()
      scenario.setBlocked(false)
      var steps = 0
      while !scenario.isInSync || steps < 50, steps < 5_000 {
        for client in 1..<8 where !scenario.cluster.isPending(client: client) {
          let block = random.index(64)
          scenario.begin(client: client, 0, (block * 8)..<(block * 8 + 8))
        }
        scenario.cluster.run(until: scenario.cluster.now + random.below(300_000))
        if steps < 1_000, random.chance(Ratio(1, of: 60)) {
          scenario.cluster.cut(.cutConnection)
          cuts += 1
        }
        steps += 1
      }
    }
    #expect(cuts > 20)
    scenario.finish()
  }

  @Test("S07: one block is written without pause while the link comes and goes 1 000 times")
  func shortResync() {
    let scenario = pair(16)
    for round in 0..<1_000 {
      scenario.cluster.cut(.cutConnection)
      scenario.write(0, 0..<8)
      scenario.begin(client: 1, 0, 0..<8)
      if round % 10 == 9 { scenario.run { $0.isInSync } }
    }
    scenario.finish()
  }

  @Test("S08: writes while the bitmaps travel over a slow link are not lost")
  func writesDuringTheExchange() {
    let scenario = pair(400) {
      $0.bitmapChunkBlocks = 8
      $0.networkDelay = Latency(floorUs: 3_000, spreadUs: 4_000)
      $0.clientRequests = 0
    }
    scenario.partition()
    for start in stride(from: 0, to: 3_200, by: 128) { scenario.write(0, start..<(start + 64)) }
    scenario.setBlocked(false)
    scenario.run { $0.first.replication == .wfBitMapS }
    var random = SeededGenerator(seed: 8)
    var begun = 0
    while scenario.first.replication == .wfBitMapS {
      for client in 1..<8 where !scenario.cluster.isPending(client: client) {
        let block = random.index(400)
        scenario.begin(client: client, 0, (block * 8)..<(block * 8 + 8))
        begun += 1
      }
      scenario.cluster.run(until: scenario.cluster.now + 500_000)
      guard scenario.cluster.violations.isEmpty else { break }
    }
    #expect(begun > 20)
    #expect(scenario.run { $0.isInSync })
    scenario.finish()
  }

  @Test("S17: paused from both ends, it rests until both have resumed it; status names who")
  func pausedFromBothEnds() {
    let scenario = pair()
    scenario.resync(until: 20)
    for node in 0...1 { scenario.tell(node, .pauseSync) }
    scenario.run(milliseconds: 100)
    scenario.tell(0, .resumeSync)
    let before = scenario.copiedBlocks
    scenario.run(milliseconds: 60_000)

    #expect(scenario.copiedBlocks == before)
    let (first, second) = (scenario.first.replica.status(ofPeer: 0), scenario.second)
    #expect(!first.isPausedHere && first.isPausedByPeer)
    #expect(second.replica.status(ofPeer: 0).isPausedHere)
    scenario.tell(1, .resumeSync)
    #expect(scenario.run { $0.isInSync })
    scenario.finish()
  }
}
