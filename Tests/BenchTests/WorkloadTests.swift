import ArgumentParser
import Testing

@testable import Bench

/// Loads that cannot be are refused before anything is opened, by option, value and limit.
struct WorkloadTests {
  @Test(arguments: [
    ("--bs", "512 to 1 MiB", ["--bs", "777"]), ("--bs", "512 to 1 MiB", ["--bs", "2M"]),
    ("--bs", "512 to 1 MiB", ["--bs", "0"]), ("--iodepth", "1 to 1024", ["--iodepth", "0"]),
    ("--iodepth", "1 to 1024", ["--iodepth", "1025"]),
    ("--connections", "1 to 64", ["--connections", "65", "--iodepth", "100"]),
    ("--connections", "at most --iodepth (1)", ["--connections", "2"]),
    ("--runtime", "1 ms to 24 h", ["--runtime", "0"]),
    ("--runtime", "1 ms to 24 h", ["--runtime", "25h"]),
    ("--rwmixread", "0 to 100", ["--rwmixread", "101"]),
    ("--rate", "at least 1", ["--rate", "0"]), ("--fua", "a load that writes", ["--fua"]),
    ("--flush-every", "a load that writes", ["--flush-every", "8"]),
    ("--log", "needs --verify", ["--log", "x"]),
    ("--rounds", "1 to 1000", ["--rounds", "0"]),
    ("--verify", "cannot be combined", ["--verify", "--against", "raw:y"]),
    ("--rw", "possible are", ["--rw", "trim"]),
  ])
  func impossibleLoadsAreRefused(option: String, limit: String, arguments: [String]) {
    do {
      _ = try AshlarBench.parseAsRoot(["run", "raw:x"] + arguments)
      Issue.record("\(arguments) was accepted")
    } catch {
      let message = AshlarBench.message(for: error)
      #expect(message.contains(option))
      #expect(message.contains(limit))
      #expect(AshlarBench.exitCode(for: error).rawValue == 64)
    }
  }

  @Test func aRegionMustFitTheTargetAndHoldABlock() throws {
    var workload = Workload()
    #expect(try workload.blockCount(targetBytes: 10_000) == 2)
    workload.regionBytes = 8192
    #expect(try workload.blockCount(targetBytes: 10_000) == 2)
    #expect(throws: BenchError.self) { try workload.blockCount(targetBytes: 8191) }
    workload.regionBytes = 100
    #expect(throws: BenchError.self) { try workload.blockCount(targetBytes: 10_000) }
    workload.regionBytes = 0
    #expect(throws: BenchError.self) { try workload.blockCount(targetBytes: 4095) }
  }

  @Test func aLoadIsDescribedInOneLine() {
    var workload = Workload()
    workload.pattern = .randrw
    workload.depth = 32
    workload.connections = 2
    workload.rate = .bytes(1 << 20)
    workload.fua = true
    workload.flushEvery = 10
    #expect(
      workload.summary
        == "randrw, 4 KiB, depth 32, 50 % reads, 2 connections, at most 1 MiB/s, FUA, "
        + "a flush every 10 writes")
  }
}
