/// Disks that come back older, blank, or from somewhere else. Names begin with the scenario in
/// docs/scenarios.md.
import BlockTypes
import Metadata
import Replication
import Testing
import Wire

@testable import Simulation

@Suite struct ReplacedDiskScenarioTests {
  /// The other replica's bitmap does not count from so long ago, so everything is copied.
  @Test func `R07: a replica from an old backup is the target of a full sync`() {
    let scenario = Scenario()
    scenario.makePair()
    scenario.fill(0, 0..<512)
    scenario.stop(1)
    let backup = scenario.image(of: 1)
    scenario.start(1)
    scenario.run { $0.isInSync }
    for round in 0..<3 { scenario.passThroughGeneration((round * 8)..<(round * 8 + 8)) }
    let generations = scenario.generations(0)
    scenario.stop(1)
    scenario.restore(backup, on: 1)
    let before = scenario.copiedBlocks
    scenario.start(1)
    #expect(scenario.run { $0.isInSync })

    #expect(scenario.copiedBlocks - before == 64)
    #expect(scenario.generations(0) == generations)
    #expect(scenario.cluster.statistics.refusals(.unrelatedData) == 0)
    scenario.expectCoverage()
    scenario.finish()
  }

  /// The image is from before the first sync, from after it, or from after writes.
  @Test(arguments: [Moment.beforeFirstSync, .afterFirstSync, .afterWrites])
  func `R08: a restored snapshot is brought forward, never the other one back`(moment: Moment) {
    let scenario = Scenario()
    var snapshot: DiskImage?
    if moment == .beforeFirstSync { snapshot = scenario.image(of: 1) }
    scenario.makePair()
    if moment == .afterWrites { scenario.write(0, 0..<128) }
    scenario.stop(1)
    if snapshot == nil { snapshot = scenario.image(of: 1) }
    scenario.start(1)
    scenario.run { $0.isInSync }
    for round in 0..<2 { scenario.passThroughGeneration((round * 24)..<(round * 24 + 24)) }
    scenario.write(0, 200..<256)
    let kept = scenario.contents(0)
    scenario.stop(1)
    if let snapshot { scenario.restore(snapshot, on: 1) }
    scenario.start(1)
    #expect(scenario.run { $0.isInSync })

    #expect(scenario.contents(0) == kept)
    scenario.expectCoverage()
    scenario.finish()
  }

  enum Moment: Sendable { case beforeFirstSync, afterFirstSync, afterWrites }

  @Test(arguments: 0...1)
  func `R09: a blank disk is filled from the other replica`(node: Int) {
    let scenario = Scenario()
    scenario.makePair()
    scenario.write(0, 0..<256)
    scenario.tell(0, .secondary(heldOpen: false))
    scenario.run(milliseconds: 200)
    scenario.stop(node)
    scenario.putBlankDisk(on: node)
    scenario.start(node)
    #expect(scenario.cluster.nodes[node].diskState == .inconsistent)
    #expect(scenario.tell(node, .primary(force: false))?.isDone == false)
    #expect(scenario.run { $0.isInSync })

    scenario.expectCoverage()
    scenario.finish()
    #expect(scenario.contents(node).contains { $0 != 0 })
  }

  /// Fresh metadata names no generation at all, so nothing can be taken for the same data.
  @Test func `R10: a disk provisioned anew is not UpToDate without a sync`() {
    let scenario = Scenario()
    let provisioned = scenario.image(of: 1)
    scenario.makePair()
    scenario.write(0, 0..<64)
    scenario.stop(1)
    scenario.restore(provisioned, on: 1)
    scenario.start(1)
    #expect(scenario.second.diskState == .inconsistent)
    #expect(scenario.run { $0.second.replication.isTarget })
    #expect(scenario.run { $0.isInSync })

    scenario.expectCoverage()
    scenario.finish()
    #expect(scenario.second.disk.word(at: 63) != 0)
  }

  /// Each was the only node of a resource of its own.
  @Test func `R12: replicas of unrelated data refuse each other, again and again`() {
    let scenario = Scenario()
    for node in 0...1 { scenario.cluster.setBlocked(true, from: node) }
    scenario.start(0, 1)
    scenario.cluster.isBranched = true
    for node in 0...1 {
      #expect(scenario.tell(node, .primary(force: true))?.isDone == true)
      #expect(scenario.write(node, (node * 8)..<(node * 8 + 8)) == .done)
      scenario.tell(node, .secondary(heldOpen: false))
    }
    let before = [scenario.contents(0), scenario.contents(1)]
    for node in 0...1 { scenario.cluster.setBlocked(false, from: node) }
    for _ in 0..<2 {
      let areRefused = scenario.run {
        $0.first.connection == .standAlone && $0.second.connection == .standAlone
      }
      #expect(areRefused)
      #expect(scenario.first.reason == .unrelatedData)
      #expect(scenario.second.reason == .unrelatedData)
      for node in 0...1 { scenario.tell(node, .connect) }
    }

    #expect([scenario.contents(0), scenario.contents(1)] == before)
    scenario.run { $0.first.connection == .standAlone && $0.second.connection == .standAlone }
    for node in 0...1 {
      #expect(scenario.tell(node, .primary(force: false))?.isDone == true)
      #expect(scenario.write(node, 16..<24) == .done)
    }
    scenario.expectNoViolation()
  }
}

extension Scenario {
  /// What the volume of a node holds, sector by sector.
  func contents(_ node: Int) -> [UInt64] {
    (0..<cluster.volumeSectors).map { cluster.nodes[node].disk.word(at: $0) }
  }
}
