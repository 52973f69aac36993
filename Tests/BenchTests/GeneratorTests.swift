import Testing

@testable import Bench

/// The load is a function of seed and pattern, and looks as it claims to.
struct GeneratorTests {
  private func choices(
    _ pattern: AccessPattern, seed: UInt64 = 1, blocks: UInt64, count: Int, readPercent: Int = 50
  ) -> [AddressGenerator.Choice] {
    var workload = Workload()
    workload.pattern = pattern
    workload.seed = seed
    workload.readPercent = readPercent
    var generator = AddressGenerator(workload: workload, blockCount: blocks)
    return (0..<count).map { _ in generator.next() }
  }

  @Test func theSameSeedGivesTheSameLoadAndAnotherSeedAnother() {
    let first = choices(.randrw, seed: 7, blocks: 1000, count: 100)
    #expect(first == choices(.randrw, seed: 7, blocks: 1000, count: 100))
    #expect(first != choices(.randrw, seed: 8, blocks: 1000, count: 100))
  }

  /// Golden values: saved results name a seed, and must stay repeatable in later versions.
  @Test func theSequenceOfASeedIsFixed() {
    var random = SeededGenerator(seed: 0)
    #expect(random.next() == 0xE220_A839_7B1D_CDAF)
    #expect(random.next() == 0x6E78_9E6A_A1B9_65F4)
    #expect(random.next() == 0x06C4_5D18_8009_454F)
  }

  /// 100 000 draws over 100 blocks: 1000 each, standard deviation 31.5; 7 of them are 220.
  @Test(arguments: [AccessPattern.randread, .randwrite])
  func randomBlocksAreUniform(pattern: AccessPattern) {
    var counts = [Int](repeating: 0, count: 100)
    for choice in choices(pattern, blocks: 100, count: 100_000) {
      counts[Int(choice.block)] += 1
      #expect(choice.isRead == (pattern == .randread))
    }
    let (least, most) = (counts.min() ?? 0, counts.max() ?? 0)
    #expect(least > 780)
    #expect(most < 1220)
  }

  /// 70 % of 100 000, standard deviation 145.
  @Test func readsComeInTheShareThatWasAskedFor() {
    let reads = choices(.randrw, blocks: 1000, count: 100_000, readPercent: 70).filter(\.isRead)
    #expect((69_000...71_000).contains(reads.count))
    #expect(choices(.randrw, blocks: 9, count: 1000, readPercent: 100).allSatisfy { $0.isRead })
    #expect(!choices(.randrw, blocks: 9, count: 1000, readPercent: 0).contains { $0.isRead })
  }

  @Test func orderedPatternsGoThroughAllBlocksAndBeginAgain() {
    #expect(choices(.write, blocks: 3, count: 7).map(\.block) == [0, 1, 2, 0, 1, 2, 0])
    #expect(choices(.read, blocks: 1, count: 2).map(\.block) == [0, 0])
  }
}

/// The schedule of a limited rate.
struct RateLimiterTests {
  @Test func operationsAreDueAtEvenTimesFromTheStart() {
    var limiter = RateLimiter(rate: .operations(4), blockBytes: 4096, startNs: 1000)
    var due: [UInt64] = []
    for _ in 0..<4 {
      due.append(limiter.dueNs)
      limiter.advance()
    }
    #expect(due == [1000, 250_001_000, 500_001_000, 750_001_000])
  }

  /// Intervals that are no whole number of nanoseconds do not add up to a wrong rate.
  @Test func theRateIsExactInTheLongRun() {
    var limiter = RateLimiter(rate: .operations(30_000), blockBytes: 4096, startNs: 0)
    for _ in 0..<3_000_000 { limiter.advance() }
    #expect(limiter.dueNs == 100_000_000_000)
  }

  @Test func aBandwidthCountsBlocks() {
    var limiter = RateLimiter(rate: .bytes(1 << 20), blockBytes: 1 << 18, startNs: 0)
    for _ in 0..<4 { limiter.advance() }
    #expect(limiter.dueNs == 1_000_000_000)
  }

  @Test func withoutALimitEverythingIsDueAtOnce() {
    var limiter = RateLimiter(rate: nil, blockBytes: 4096, startNs: 5)
    for _ in 0..<100 { limiter.advance() }
    #expect(limiter.dueNs == 5)
    #expect(!limiter.isLimited)
  }

  @Test func ARateOfOneByteInSixHundredYearsDoesNotTrap() {
    var limiter = RateLimiter(rate: .bytes(1), blockBytes: 1 << 20, startNs: .max - 5)
    for _ in 0..<20_000 { limiter.advance() }
    #expect(limiter.dueNs == .max)
  }
}

/// Latencies: exact ends and mean, percentiles to three digits.
struct LatencyRecorderTests {
  @Test func figuresOfAKnownDistribution() throws {
    var recorder = LatencyRecorder()
    for value in 1...1000 { recorder.record(UInt64(value) * 1000) }
    let summary = try #require(recorder.summary)
    #expect(summary.min == 1)
    #expect(summary.max == 1000)
    #expect(summary.mean == 500.5)
    #expect((499...501).contains(summary.p50))
    #expect((989...991.1).contains(summary.p99))
    #expect((998...1000).contains(summary.p999))
    #expect(recorder.count == 1000)
  }

  @Test func withoutIOsThereAreNoFigures() {
    var recorder = LatencyRecorder()
    #expect(recorder.summary == nil)
    recorder.record(5)
    recorder.reset()
    #expect(recorder.summary == nil)
  }

  @Test func latenciesBeyondTheHistogramStillCount() throws {
    var recorder = LatencyRecorder()
    recorder.record(.max / 2)
    let summary = try #require(recorder.summary)
    #expect(recorder.count == 1)
    #expect(summary.max == Double(UInt64.max / 2) / 1000)
    #expect(summary.p50 >= 3_600_000_000)
  }
}
