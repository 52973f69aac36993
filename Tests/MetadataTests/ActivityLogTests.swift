/// The activity log: after a crash, every extent that could hold lost writes is named.

import BlockTypes
import Metadata
import TestSupport
import Testing

private func extent(_ number: UInt32) -> ByteRange { ActivityLog.range(ofExtent: number) }

private func writtenBlock(_ log: inout ActivityLog) -> [UInt8] {
  let bytes = written(ActivityLog.transactionBytes) { log.encodeTransaction(into: $0) }
  log.transactionWritten()
  return bytes
}

@Suite struct ActivityLogTests {
  /// Random writes, flushes, transactions and crashes; the log is judged at each crash.
  @Test(arguments: seeds(count: 16))
  func crashNeverForgetsAnExtentThatCouldHoldLostWrites(seed: UInt64) {
    var random = SeededGenerator(seed: seed)
    let slots = 64 + random.below(3) * 100
    let volume = UInt64(40 + random.below(2000)) << 22
    var model = ActivityLogModel(volumeBytes: volume - 4096, slotCount: slots)
    for _ in 0..<12 {
      for _ in 0..<random.below(6000) { model.step(&random) }
      let underWay = model.block != nil
      let ring = model.crashed(&random)
      let found: Set<UInt32>
      switch model.recover(ring) {
      case .none: found = []
      case .extents(let extents): found = Set(extents)
      case .damaged(let damage):
        Issue.record("seed \(seed): a crash was taken for damage: \(damage)")
        return
      }
      #expect(found.isSuperset(of: model.atRisk.keys), "seed \(seed)")
      if !underWay { #expect(found == model.durableHot, "seed \(seed)") }
      #expect(found.count <= model.log.slotCount + 559, "seed \(seed)")
      if random.oneIn(3) {
        let isDrained = model.drain()
        #expect(isDrained, "seed \(seed): a write waits for ever")
      } else {
        model.restart(ring)
      }
    }
  }
}
