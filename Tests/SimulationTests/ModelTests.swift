/// The models that everything stands on: queue, randomness, disk, network, buffers.
import BlockTypes
import Testing

@testable import Simulation

@Suite struct ModelTests {
  @Test func eventsLeaveInOrderOfTimeAndScheduling() {
    var queue = EventQueue<Int>()
    var random = SeededGenerator(seed: 3)
    let times = (0..<500).map { _ in random.below(50) }
    for (index, time) in times.enumerated() { queue.schedule(at: time, index) }
    var last: (time: UInt64, index: Int) = (0, -1)
    while let index = queue.pop() {
      #expect(times[index] > last.time || (times[index] == last.time && index > last.index))
      #expect(queue.now == times[index])
      last = (times[index], index)
    }
    queue.schedule(at: 1, 7)
    _ = queue.pop()
    #expect(queue.now == 49, "time does not go back")
  }

  @Test func randomNumbersFollowFromTheSeed() {
    var first = SeededGenerator(seed: 42)
    var second = SeededGenerator(seed: 42)
    var other = SeededGenerator(seed: 43)
    let numbers = (0..<100).map { _ in first.next() }
    let same = (0..<100).map { _ in second.next() }
    let different = (0..<100).map { _ in other.next() }
    #expect(numbers == same)
    #expect(numbers != different)
    var counts = [Int](repeating: 0, count: 8)
    for _ in 0..<8_000 { counts[first.index(8)] += 1 }
    #expect(counts.allSatisfy { $0 > 850 && $0 < 1_150 })
    let never = (0..<1_000).contains { _ in first.chance(.never) }
    let always = (0..<1_000).allSatisfy { _ in first.chance(Ratio(1, of: 1)) }
    #expect(!never)
    #expect(always)
  }

  private func write(
    _ disk: inout SimulatedDisk, _ random: inout SeededGenerator, _ word: UInt64, _ start: Int,
    _ count: Int = 1, forceUnitAccess: Bool = false
  ) {
    let ticket = disk.submit(
      .write(Array(repeating: word, count: count)), start: start, count: count,
      forceUnitAccess: forceUnitAccess, random: &random)
    _ = disk.finish(ticket, random: &random)
  }

  private func flush(_ disk: inout SimulatedDisk, _ random: inout SeededGenerator) -> Int32? {
    let ticket = disk.submit(.flush, start: 0, count: 0, random: &random)
    return disk.finish(ticket, random: &random)?.result
  }

  /// A flush and FUA survive; the rest may or may not, sector by sector.
  @Test func powerLossKeepsWhatWasFlushed() {
    var fates: Set<UInt64> = []
    for seed in 0..<100 as Range<UInt64> {
      var random = SeededGenerator(seed: seed)
      var disk = SimulatedDisk(sectorCount: 32)
      write(&disk, &random, 1, 0, 8)
      let flushed = flush(&disk, &random)
      #expect(flushed == 0)
      write(&disk, &random, 2, 0, 8)
      write(&disk, &random, 3, 8, forceUnitAccess: true)
      write(&disk, &random, 4, 16)
      write(&disk, &random, 5, 16, forceUnitAccess: true)
      disk.powerLoss(random: &random)
      for sector in 0..<8 {
        #expect([1, 2].contains(disk.word(at: sector)))
        fates.insert(disk.word(at: sector))
      }
      #expect(disk.word(at: 8) == 3)
      #expect(disk.word(at: 16) == 5, "an older cached write must not come over a newer one")
    }
    #expect(fates == [1, 2])
  }

  @Test func killKeepsWhatWasCompleted() {
    var torn = 0
    for seed in 0..<100 as Range<UInt64> {
      var random = SeededGenerator(seed: seed)
      var disk = SimulatedDisk(sectorCount: 32)
      write(&disk, &random, 1, 0, 8)
      let late = disk.submit(
        .write(Array(repeating: 2, count: 8)), start: 8, count: 8, random: &random)
      disk.kill(random: &random)
      let outcome = disk.finish(late, random: &random)
      #expect(outcome == nil, "nobody is told any more")
      #expect((0..<8).allSatisfy { disk.word(at: $0) == 1 })
      let stored = (8..<16).filter { disk.word(at: $0) == 2 }.count
      if stored > 0, stored < 8 { torn += 1 }
    }
    #expect(torn > 5)
  }

  /// fsyncgate: after a failed flush a later one that succeeds proves nothing.
  @Test func failedFlushDoomsWhatWasCached() {
    var random = SeededGenerator(seed: 5)
    var disk = SimulatedDisk(sectorCount: 8)
    write(&disk, &random, 1, 0)
    disk.faults.flushError = Ratio(1, of: 1)
    let first = flush(&disk, &random)
    #expect(first == -5)
    disk.faults = DiskFaults()
    #expect(disk.hasDoomedWrites)
    let second = flush(&disk, &random)
    #expect(second == 0)
    #expect(disk.word(at: 0) == 1)
    disk.powerLoss(random: &random)
    #expect(disk.word(at: 0) == 0)
  }

  /// A read that meets a write sees old or new, and what was seen once stays.
  @Test func readsDoNotGoBack() {
    for seed in 0..<50 as Range<UInt64> {
      var random = SeededGenerator(seed: seed)
      var disk = SimulatedDisk(sectorCount: 8)
      write(&disk, &random, 1, 0, 8)
      let slow = disk.submit(
        .write(Array(repeating: 2, count: 8)), start: 0, count: 8, random: &random)
      var seen = [UInt64](repeating: 1, count: 8)
      for _ in 0..<5 {
        let ticket = disk.submit(.read, start: 0, count: 8, random: &random)
        guard let words = disk.finish(ticket, random: &random)?.words else { continue }
        for sector in 0..<8 { #expect(words[sector] >= seen[sector]) }
        seen = words
      }
      _ = disk.finish(slow, random: &random)
    }
  }

  @Test func metadataBytesComeBack() {
    var disk = SimulatedDisk(sectorCount: 16)
    let bytes = (0..<4096).map { UInt8(truncatingIfNeeded: $0 / 7) }
    let words = disk.words(for: bytes)
    #expect(disk.bytes(for: words) == bytes)
    let none = disk.words(for: [UInt8](repeating: 0, count: 1024))
    #expect(none == [0, 0])
  }

  @Test func buffersAreCounted() {
    var ledger = BufferLedger(count: 2)
    guard let first = ledger.take([1]), let second = ledger.take([2]) else {
      Issue.record("two buffers were free")
      return
    }
    let third = ledger.take([3])
    #expect(third == nil)
    let shared = [ledger.hold(first), ledger.release(first)]
    #expect(shared == [true, true])
    #expect(ledger.words(first) == [1])
    let released = [ledger.release(first), ledger.release(first), ledger.hold(first)]
    #expect(released == [true, false, false], "neither released twice nor held when free")
    #expect(ledger.words(first) == nil)
    let rest = [ledger.release(second), ledger.release(.none)]
    #expect(rest == [true, false])
    #expect(ledger.takenCount == 0)
  }
}
