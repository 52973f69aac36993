import Testing

@testable import Bench

/// Reports: programs read the JSON, so its keys are a promise.
struct ReportTests {
  private func figures(_ scale: Double) -> DirectionFigures {
    DirectionFigures(
      ios: UInt64(1000 * scale), iops: 500 * scale, mibPerSecond: 2 * scale,
      latencyUs: LatencySummary(
        min: 1 * scale, mean: 2 * scale, p50: 3 * scale, p99: 4 * scale, p999: 5 * scale,
        max: 6 * scale))
  }

  private func measurement(_ target: String, _ scale: Double) -> Measurement {
    Measurement(
      target: target, seconds: 2, read: nil, write: figures(scale), flush: nil,
      cpu: [ProcessFigures(name: "ashlar-bench", pid: 7, usPerIo: 1.5 * scale, percent: 25)])
  }

  private var report: RunReport {
    var workload = Workload()
    workload.pattern = .randwrite
    return RunReport(
      WorkloadFigures(workload, targetBytes: 1 << 20),
      runs: [measurement("raw:a", 1), measurement("raw:a", 4), measurement("raw:a", 2)],
      against: [measurement("raw:b", 1), measurement("raw:b", 1), measurement("raw:b", 3)],
      verification: nil)
  }

  /// Golden text: adding a key is fine, renaming one needs a new format version.
  @Test func theJSONOfARunIsStable() throws {
    let lines = try json(report).split(separator: "\n")
    #expect(
      lines.map { $0.drop { $0 == " " } }.joined(separator: "")
        == """
        {"against" : {"cpu" : [{"name" : "ashlar-bench","percent" : 25,"pid" : 7,\
        "us_per_io" : 1.5}],"seconds" : 2,"target" : "raw:b","write" : {"iops" : 500,\
        "ios" : 1000,"latency_us" : {"max" : 6,"mean" : 2,"min" : 1,"p50" : 3,"p99" : 4,\
        "p999" : 5},"mib_per_second" : 2}},"format_version" : 1,"result" : {"cpu" : [{\
        "name" : "ashlar-bench","percent" : 25,"pid" : 7,"us_per_io" : 3}],"seconds" : 2,\
        "target" : "raw:a","write" : {"iops" : 1000,"ios" : 2000,"latency_us" : {"max" : 12,\
        "mean" : 4,"min" : 2,"p50" : 6,"p99" : 8,"p999" : 10},"mib_per_second" : 4}},\
        "rounds" : 3,"workload" : {"block_bytes" : 4096,"connections" : 1,"flush_every" : 0,\
        "fua" : false,"iodepth" : 1,"read_percent" : 50,"region_bytes" : 1048576,\
        "runtime_seconds" : 10,"rw" : "randwrite","seed" : 1},"write_ratio" : {"iops" : 2,\
        "mean_latency" : 2,"p99_latency" : 2}}
        """)
  }

  @Test func theTableShowsBothTargetsAndTheRatio() {
    var workload = Workload()
    workload.pattern = .randwrite
    let lines = report.text(workload: workload).split(separator: "\n").map(String.init)
    #expect(lines[0] == "randwrite, 4 KiB, depth 1; medians of 3 rounds of 10.0 s")
    #expect(lines.contains("write      1000    4.0  2.0   4.0  6.0   8.0   10.0    12.0"))
    #expect(lines.contains("  against   500    2.0  1.0   2.0  3.0   4.0    5.0     6.0"))
    #expect(lines.contains("  ratio    2.00              2.00       2.00"))
  }

  @Test func mediansAreOfEachFigure() {
    #expect(median([3, 1, 2]) == 2)
    #expect(median([4, 1, 2, 3]) == 2.5)
    #expect(median([5]) == 5)
  }

  @Test func theFloorIsTheSumOfItsPartsAndALimitIsKeptOrNot() throws {
    func rounds(_ means: [Double]) -> [LatencySummary] {
      means.map { LatencySummary(min: $0, mean: $0, p50: $0, p99: $0, p999: $0, max: $0) }
    }
    var report = FloorReport(
      rounds: 3, sampleSeconds: 1, rawTarget: "raw:x", rawWrite: FloorFigures(rounds([50, 60, 1])),
      rawRead: FloorFigures(rounds([40, 40, 40])),
      tcpPingPong: FloorFigures(rounds([30, 20, 10])),
      unixPingPong: FloorFigures(rounds([10, 10, 10])))
    #expect(report.writeFloorUs == 80)
    #expect(report.readFloorUs == 50)
    #expect(report.isWithinLimits)
    report.volumeTarget = "nbd"
    report.volumeWrite = FloorRatio(rounds([100, 90, 200]), floorUs: 80, limit: 1.35)
    #expect(report.volumeWrite?.ratio == 1.25)
    #expect(report.isWithinLimits)
    report.volumeRead = FloorRatio(rounds([60, 66, 70]), floorUs: 50, limit: 1.3)
    #expect(!report.isWithinLimits)
    #expect(report.text.contains("volume write / (raw write + TCP + Unix) = 1.25, within 1.35"))
    #expect(
      report.text.contains("volume read / (raw read + Unix) = 1.32, ABOVE THE LIMIT of 1.30"))
    let text = try json(report)
    #expect(text.contains("\"format_version\" : 1"))
  }

  @Test func wrongBlocksAreListedUpToALimit() {
    var result = VerificationResult()
    result.checkedUnits = 100
    #expect(result.text == "verified: 100 blocks, all right")
    for index in 0..<20 { result.add(.unstamped, address: UInt64(index) * 4096) }
    #expect(result.wrongUnits == 20)
    #expect(result.findings.count == VerificationResult.findingLimit)
    #expect(result.text.contains("20 WRONG"))
    #expect(result.text.hasSuffix("and 4 more"))
  }
}
