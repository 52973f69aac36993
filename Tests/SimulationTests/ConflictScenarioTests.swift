/// Conflicts and commands that cross each other. Names begin with the scenario in
/// docs/scenarios.md.
import BlockTypes
import Metadata
import Replication
import Testing
import Wire

@testable import Simulation

@Suite struct ConflictScenarioTests {
  /// The pages of node 1's bitmap are gone, so nothing describes what it changed.
  @Test func `B10: without bitmaps that reach back the victim is copied whole`() {
    let scenario = Scenario()
    scenario.makePair()
    scenario.fill(0, 0..<512)
    scenario.splitBrain()
    scenario.tell(1, .shutdown)
    scenario.damageBitmap(of: 1)
    scenario.start(1)
    let before = scenario.copiedBlocks
    scenario.tell(1, .connectDiscarding)
    scenario.tell(0, .connect)
    scenario.finish()

    #expect(scenario.copiedBlocks - before == 64)
    #expect(scenario.second.disk.word(at: 8) == scenario.first.disk.word(at: 8))
  }

  /// Both nodes get their volume at the same time, and two administrators at once.
  @Test(arguments: 1...40 as ClosedRange<UInt64>)
  func `B12: a volume that is made on both nodes at once is not born split`(seed: UInt64) {
    let scenario = Scenario(seed: seed) {
      $0.networkDelay = Latency(floorUs: 10, spreadUs: 3_000)
    }
    for node in [Int(seed % 2), Int(1 - seed % 2)] {
      scenario.start(node)
      scenario.run(milliseconds: seed % 7)
    }
    #expect(
      scenario.run { $0.first.connection == .connected && $0.second.connection == .connected })
    for node in 0...1 { scenario.cluster.command(node, .primary(force: true)) }
    scenario.run { $0.cluster.nodes.allSatisfy { $0.pendingCommand == nil } }
    let primaries = scenario.cluster.nodes.filter { $0.role == .primary }
    #expect(primaries.count <= 1)
    if primaries.isEmpty { scenario.tell(0, .primary(force: true)) }
    #expect(scenario.run { $0.isInSync })
    #expect(scenario.cluster.statistics.refusals(.splitBrain) == 0)
    #expect(scenario.cluster.statistics.refusals(.unrelatedData) == 0)
    scenario.finish()
  }

  /// The volume is deleted on both nodes and made anew under the same name; nothing of the old
  /// history comes back, whoever was Primary before.
  @Test(arguments: 0...1)
  func `B12: a volume that is deleted and made again begins anew`(next: Int) {
    let scenario = Scenario()
    scenario.makePair()
    scenario.write(0, 0..<64)
    scenario.tell(0, .secondary(heldOpen: false))
    let old = scenario.first.replica.superblock?.lineage.newest
    for node in 0...1 { scenario.stop(node) }
    for node in 0...1 { scenario.putBlankDisk(on: node) }
    scenario.start(0, 1)
    #expect(scenario.run { $0.first.connection == .connected })
    scenario.run(milliseconds: 1_000)
    #expect(scenario.cluster.nodes.allSatisfy { $0.diskState == .inconsistent })
    #expect(scenario.tell(next, .primary(force: true))?.isDone == true)
    #expect(scenario.write(next, 8..<16) == .done)
    #expect(scenario.run { $0.isInSync })
    #expect(scenario.cluster.statistics.refusals(.splitBrain) == 0)
    #expect(scenario.cluster.statistics.refusals(.unrelatedData) == 0)
    for node in scenario.cluster.nodes {
      let generations = node.replica.superblock?.lineage.generations ?? []
      #expect(!generations.isEmpty && !generations.contains { $0 == old })
    }
    #expect(scenario.second.disk.word(at: 32) == 0 && scenario.second.disk.word(at: 8) != 0)
    scenario.finish()
  }

  @Test func `B13: connect acts on the side that stands alone, and on no other`() {
    let scenario = Scenario()
    scenario.makePair()
    for node in 0...1 {
      scenario.tell(node, .disconnect)
      scenario.run { $0.first.connection != .connected && $0.second.connection != .connected }
      #expect(scenario.cluster.nodes[node].connection == .standAlone)
      #expect(scenario.cluster.nodes[1 - node].connection == .connecting)
      // Asking the side that waits already changes nothing.
      #expect(scenario.tell(1 - node, .connect)?.isDone == true)
      #expect(scenario.cluster.nodes[node].connection == .standAlone)
      #expect(scenario.tell(node, .connect)?.isDone == true)
      #expect(scenario.run { $0.isInSync })
      let epochs = scenario.cluster.network.openConnections
      for node in 0...1 { #expect(scenario.tell(node, .connect)?.isDone == true) }
      scenario.run(milliseconds: 1_000)
      #expect(scenario.isInSync && scenario.cluster.network.openConnections == epochs)
    }
    scenario.finish()
  }
}

extension Scenario {
  /// Both write without each other: node 0 sectors 8 to 15, node 1 sectors 16 to 23. They are
  /// Secondary when they meet again, and stand alone.
  func splitBrain() {
    partition()
    #expect(tell(1, .primary(force: false))?.isDone == true)
    #expect(write(0, 8..<16) == .done)
    #expect(write(1, 16..<24) == .done)
    for node in 0...1 { tell(node, .secondary(heldOpen: false)) }
    for node in 0...1 { cluster.setBlocked(false, from: node) }
    #expect(run { $0.first.connection == .standAlone && $0.second.connection == .standAlone })
  }

  /// The pages of a node's bitmap cannot be read any more.
  func damageBitmap(of index: Int) {
    let node = cluster.nodes[index]
    precondition(!node.isRunning, "the disk is in use")
    let pages = Cluster.pageCount(cluster.options) * Cluster.pageSectors
    let ticket = node.disk.submit(
      .zero, start: node.disk.sectorCount - pages, count: pages, forceUnitAccess: true,
      random: &cluster.diskRandom[index])
    _ = node.disk.finish(ticket, random: &cluster.diskRandom[index])
    cluster.readMarks(node)
  }
}
