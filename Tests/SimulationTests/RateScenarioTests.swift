/// How fast a resync goes, in virtual time. Names follow the checklist of scenarios (S).
import BlockTypes
import Metadata
import Replication
import Testing

@testable import Simulation

@Suite struct RateScenarioTests {
  private static let most: UInt64 = 128 << 10
  private static let busy: UInt64 = 16 << 10

  /// Node 1 lacks everything that node 0 has, and a resync has just begun.
  private func behind(_ change: (inout SwarmOptions) -> Void) -> Scenario {
    let scenario = Scenario {
      $0.volumeBlocks = 320
      $0.resyncRequestBytes = 4_096
      $0.resyncWindow = 8
      change(&$0)
    }
    scenario.start(0, 1)
    scenario.run { $0.first.connection == .connected }
    scenario.tell(0, .primary(force: true))
    scenario.run(atMostMs: 600_000) { $0.isInSync }
    scenario.partition()
    for start in stride(from: 0, to: scenario.cluster.volumeSectors, by: 128) {
      scenario.write(0, start..<(start + 128))
    }
    for node in 0...1 { scenario.cluster.setBlocked(false, from: node) }
    scenario.run { $0.second.replication == .syncTarget }
    return scenario
  }

  /// Bytes copied a second, over so many milliseconds.
  private func rate(_ scenario: Scenario, milliseconds: UInt64) -> Double {
    let before = scenario.cluster.statistics.resyncBytes
    let began = scenario.cluster.now
    scenario.run(milliseconds: milliseconds)
    let bytes = scenario.cluster.statistics.resyncBytes - before
    return Double(bytes) * 1e9 / Double(scenario.cluster.now - began)
  }

  /// The same while a client writes a few blocks again and again.
  private func rateUnderLoad(_ scenario: Scenario, milliseconds: UInt64) -> (Double, writes: Int) {
    let before = scenario.cluster.statistics.resyncBytes
    let began = scenario.cluster.now
    var writes = 0
    while scenario.cluster.now < began + milliseconds * 1_000_000,
      scenario.cluster.violations.isEmpty
    {
      scenario.write(0, (writes % 16 * 8)..<(writes % 16 * 8 + 8))
      writes += 1
      scenario.run(milliseconds: 5)
    }
    let bytes = scenario.cluster.statistics.resyncBytes - before
    return (Double(bytes) * 1e9 / Double(scenario.cluster.now - began), writes)
  }

  @Test("S18: c-max-rate is kept to within 10 %")
  func maximumRateIsKept() {
    let scenario = behind { $0.resyncBytesPerSecondMost = Self.most }
    scenario.run(milliseconds: 200)
    let measured = rate(scenario, milliseconds: 4_000) / Double(Self.most)
    #expect((0.9...1.1).contains(measured), "\(measured) of what was configured")
    scenario.finish()
  }

  @Test("S18: under load a resync drops to c-min-rate, and is back within 3 s after it")
  func minimumRateUnderLoad() {
    let scenario = behind {
      $0.resyncBytesPerSecondMost = Self.most
      $0.resyncBytesPerSecondBusy = Self.busy
    }
    scenario.run(milliseconds: 500)
    _ = rateUnderLoad(scenario, milliseconds: 3_000)
    let (loaded, writes) = rateUnderLoad(scenario, milliseconds: 6_000)
    #expect((0.9...1.1).contains(loaded / Double(Self.busy)), "\(loaded) bytes a second")
    #expect(writes > 500, "a client that hardly writes is no load")

    scenario.run(milliseconds: 500)
    let back = rate(scenario, milliseconds: 1_000) / Double(Self.most)
    #expect(back > 0.9, "\(back) of c-max-rate 0.5 s after the load")
    scenario.run(atMostMs: 60_000) { $0.isInSync }
    scenario.finish()
  }

  @Test("S01: a full sync ends under load that never pauses, and takes its part of the time")
  func fullSyncEndsUnderLoad() {
    let scenario = behind { _ in }
    var latencies: [UInt64] = []
    var writes = 0
    while !scenario.isInSync, scenario.cluster.violations.isEmpty, writes < 200_000 {
      let began = scenario.cluster.now
      scenario.write(0, (writes % 16 * 8)..<(writes % 16 * 8 + 8))
      latencies.append(scenario.cluster.now - began)
      writes += 1
    }
    #expect(scenario.isInSync)
    latencies.sort()
    #expect(latencies[latencies.count * 99 / 100] < 5_000_000, "a write waits for one short range")
    scenario.finish()
  }
}
