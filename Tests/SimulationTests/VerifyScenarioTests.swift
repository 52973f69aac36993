/// Online verify, led by hand. Names begin with the scenario in docs/scenarios.md.
import BlockTypes
import Metadata
import Replication
import Testing
import Wire

@testable import Simulation

@Suite struct VerifyScenarioTests {
  private func pair(seed: UInt64 = 1, _ change: (inout SwarmOptions) -> Void = { _ in })
    -> Scenario
  {
    let scenario = Scenario(seed: seed) {
      $0.volumeBlocks = 160
      $0.resyncRequestBytes = 4 * 4096
      change(&$0)
    }
    scenario.makePair()
    scenario.fill(0, 0..<1_280)
    return scenario
  }

  /// Leads a verify to its end and returns what it came to.
  private func verify(
    _ scenario: Scenario, _ leader: Int = 0, _ plan: VerifyPlan = VerifyPlan()
  ) -> VerifyProgress? {
    #expect(scenario.tell(leader, .verify(plan))?.isDone == true)
    scenario.run { $0.cluster.nodes.allSatisfy { !$0.replication.isVerifying } }
    return scenario.cluster.nodes[leader].lastVerify
  }

  /// Found exactly, told, and left as they are until somebody asks for more.
  @Test(arguments: 0...1)
  func `V02: one flipped bit is found wherever it is, and nothing else`(leader: Int) {
    let scenario = pair()
    let rotten: Set<Int> = [0, 1, 63, 64, 100, 159]
    for block in rotten { #expect(scenario.cluster.rot(block, on: 1)) }
    let before = scenario.contents(1)

    let progress = verify(scenario, leader)

    #expect(progress?.isComplete == true)
    #expect(progress?.blocksFound == UInt64(rotten.count))
    #expect(scenario.cluster.nodes[leader].foundToDiffer == rotten)
    for node in scenario.cluster.nodes {
      #expect(node.replica.status(ofPeer: 0).blocksOutOfSync == UInt64(rotten.count))
    }
    scenario.run(milliseconds: 5_000)
    #expect(scenario.contents(1) == before, "a verify without an order to repair wrote something")
    let copied = scenario.copiedBlocks
    scenario.tell(1, .disconnect)
    scenario.tell(1, .connect)
    scenario.run { $0.isInSync }
    #expect(scenario.copiedBlocks - copied == UInt64(rotten.count))
    scenario.finish()
  }

  /// Both are asked at once, and the one that is chosen repairs: it does so, and then it is quiet.
  @Test(arguments: [RepairSource.local, .peer])
  func `V02: of two that cross one is done, also a repair`(source: RepairSource) {
    let scenario = pair()
    #expect(scenario.cluster.rot(100, on: source == .local ? 1 : 0))
    var repair = VerifyPlan()
    repair.repairSource = source
    scenario.cluster.command(0, .verify(repair))
    scenario.cluster.command(1, .verify(VerifyPlan()))
    #expect(scenario.run { $0.first.lastVerify != nil })
    #expect(scenario.run { $0.isInSync })
    #expect(scenario.first.lastVerify?.blocksRepaired == 1)
    #expect(scenario.cluster.lastResult[1]?.refusal == .alreadyActive)
    for node in scenario.cluster.nodes {
      #expect(node.replica.status(ofPeer: 0).blocksOutOfSync == 0)
    }
    scenario.finish()
  }

  /// V05: a verify is throttled as a resync is, under load and without.
  @Test func `V05: c-max-rate and c-min-rate hold for a verify`() {
    let scenario = pair {
      $0.resyncBytesPerSecondMost = 128 << 10
      $0.resyncBytesPerSecondBusy = 32 << 10
    }
    scenario.run(milliseconds: 500)
    #expect(scenario.tell(0, .verify(VerifyPlan()))?.isDone == true)
    scenario.run(milliseconds: 2_000)
    let idle = scenario.first.replica.status(ofPeer: 0).verify?.position ?? 0
    #expect((224...290).contains(idle >> 10), "\(idle) bytes in 2 s at 128 KiB a second")
    for round in 0..<400 {
      scenario.write(0, (round % 16 * 8)..<(round % 16 * 8 + 8))
      scenario.run(milliseconds: 10)
    }
    let busy = (scenario.first.replica.status(ofPeer: 0).verify?.position ?? 0) - idle
    #expect((100...170).contains(busy >> 10), "\(busy) bytes in 4 s at 32 KiB a second")
    scenario.run { $0.first.lastVerify?.isComplete == true }
    #expect(scenario.first.lastVerify?.isComplete == true)
    scenario.finish()
  }

  /// What was compared is known, so that the next one begins there.
  @Test func `V04: a verify that is cut says how far it came and goes on from there`() {
    let scenario = pair { $0.resyncWindow = 1 }
    for block in [10, 12] { #expect(scenario.cluster.rot(block, on: 1)) }
    #expect(scenario.tell(0, .verify(VerifyPlan()))?.isDone == true)
    scenario.run { $0.first.foundToDiffer.contains(10) }
    #expect(scenario.first.replication == .verifyS)
    scenario.cluster.cut(.cutConnection)
    scenario.run { $0.first.lastVerify != nil }
    let first = scenario.first.lastVerify
    #expect(first?.isComplete == false)
    #expect((first?.position ?? 0) > 12 * blockSize)
    #expect((first?.position ?? .max) <= 150 * blockSize)
    #expect(scenario.run { $0.isInSync })

    #expect(scenario.cluster.rot(150, on: 1))
    var rest = VerifyPlan()
    rest.start = first?.position ?? 0
    let second = verify(scenario, 0, rest)
    #expect(second?.isComplete == true)
    #expect(scenario.first.foundToDiffer == [150])
    scenario.tell(1, .disconnect)
    scenario.tell(1, .connect)
    scenario.finish()
  }

  /// The target of a verify loses its standing in the middle.
  @Test(arguments: [FaultKind.killSecondary, .pauseNode, .invalidateSecondary])
  func `V04: a verify ends when its other side cannot go on`(kind: FaultKind) {
    let scenario = pair { $0.resyncWindow = 1 }
    #expect(scenario.tell(0, .verify(VerifyPlan()))?.isDone == true)
    scenario.run(milliseconds: 1)
    #expect(scenario.first.replication == .verifyS)
    switch kind {
    case .killSecondary: scenario.cluster.end(1, .kill)
    case .pauseNode: scenario.second.pausedUntil = scenario.cluster.now + 20_000_000_000
    default: scenario.tell(1, .invalidate)
    }
    #expect(scenario.run(atMostMs: 10_000) { $0.first.replication != .verifyS })
    #expect(scenario.write(0, 0..<8) == .done)
    scenario.start(1)
    scenario.run(atMostMs: 60_000) { $0.isInSync }
    #expect(verify(scenario)?.isComplete == true)
    #expect(scenario.first.foundToDiffer.isEmpty)
    scenario.finish()
  }

  @Test func `V05: a range is compared and nothing beside it`() {
    let scenario = pair()
    for block in [9, 10, 19, 20] { #expect(scenario.cluster.rot(block, on: 1)) }
    var plan = VerifyPlan()
    plan.start = 10 * blockSize
    plan.stop = 20 * blockSize

    #expect(verify(scenario, 0, plan)?.blocksFound == 2)
    #expect(scenario.first.foundToDiffer == [10, 19])
  }

  /// Who watches sees how far it is, and how much is left.
  @Test func `V05: a verify tells its progress`() throws {
    let scenario = pair { $0.resyncWindow = 1 }
    var plan = VerifyPlan()
    plan.start = 20 * blockSize
    plan.stop = 120 * blockSize
    #expect(scenario.tell(0, .verify(plan))?.isDone == true)
    var seen: [UInt64] = []
    scenario.run {
      guard let progress = $0.first.replica.status(ofPeer: 0).verify else {
        return !$0.first.replication.isVerifying
      }
      #expect(progress.range.end == plan.stop)
      if seen.last != progress.position { seen.append(progress.position) }
      return false
    }
    #expect(seen.count > 4 && seen == seen.sorted(), "\(seen)")
    #expect(seen.allSatisfy { (plan.start...plan.stop).contains($0) }, "\(seen)")
    #expect(scenario.first.lastVerify?.position == plan.stop)
  }

  /// Clients write to the very blocks that are compared: none is skipped, none is found.
  @Test(arguments: 1...4 as ClosedRange<UInt64>)
  func `V06: a verify under load compares every block and finds only what rotted`(seed: UInt64) {
    let scenario = pair(seed: seed) {
      $0.hotBlocks = 100
      $0.clientDepth = 8
      $0.clientRequests = 100_000
    }
    scenario.cluster.startClients()
    let rotten = Set((100..<160).filter { scenario.cluster.rot($0, on: 1) })
    #expect(rotten.count > 40)

    let progress = verify(scenario, Int(seed % 2))

    #expect(progress?.isComplete == true)
    let found = scenario.cluster.nodes[Int(seed % 2)].foundToDiffer
    scenario.cluster.clientRequestsLeft = 0
    scenario.run { $0.cluster.pendingRequests == 0 }
    // What clients have written over since is equal again, and need not have been found.
    let left = rotten.filter { block in
      (block * 8..<block * 8 + 8).contains {
        scenario.first.disk.word(at: $0) != scenario.second.disk.word(at: $0)
      }
    }
    #expect(found.isSubset(of: rotten) && left.isSubset(of: found), "\(left)")
    #expect(left.count > 10, "clients have hidden what was to be found")
    scenario.tell(1, .disconnect)
    scenario.tell(1, .connect)
    scenario.finish()
  }
}
