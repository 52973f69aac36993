import Foundation
import Testing

@testable import Bench

/// Stamps, the write log and the judgement: what makes a lost, old, torn or misplaced block
/// visible.
struct VerificationTests {
  private func unit(_ stamp: Stamp, bytes: Int = 4096) -> [UInt8] {
    var unit = [UInt8](repeating: 0xAA, count: bytes)
    unit.withUnsafeMutableBytes { stamp.write(into: $0) }
    return unit
  }

  private func content(_ unit: [UInt8]) -> Stamp.Content {
    unit.withUnsafeBytes { Stamp.read($0) }
  }

  private let stamp = Stamp(address: 8192, sequence: 7, seed: 42)

  @Test(arguments: [512, 1024, 4096])
  func aStampIsReadAsItWasWrittenAndFillsItsUnit(bytes: Int) {
    let bytesOfUnit = unit(stamp, bytes: bytes)
    #expect(content(bytesOfUnit) == .stamp(stamp))
    #expect(!bytesOfUnit.suffix(8).allSatisfy { $0 == 0xAA })
    #expect(unit(Stamp(address: 8192, sequence: 8, seed: 42)).suffix(64) != unit(stamp).suffix(64))
  }

  /// Every single flipped bit is seen; in the magic number it makes the unit no stamp at all.
  @Test func everyFlippedBitIsSeen() {
    let good = unit(stamp, bytes: 512)
    for bit in 0..<(512 * 8) {
      var bad = good
      bad[bit / 8] ^= 1 << UInt8(bit % 8)
      #expect(content(bad) != .stamp(stamp))
      if bit >= 64, case .damaged = content(bad) { continue }
      #expect(bit < 64 && content(bad) == .unstamped)
    }
  }

  @Test func aUnitTornAtASectorIsDamaged() {
    let older = unit(Stamp(address: 8192, sequence: 6, seed: 42))
    let torn = Array(unit(stamp).prefix(512) + older.suffix(3584))
    #expect(content(torn) == .damaged(stamp))
  }

  @Test func theJudgementFollowsItsTable() {
    func judge(
      _ content: Stamp.Content, acknowledged: UInt64, issued: UInt64, allowsTorn: Bool = false
    ) -> Judgement {
      Judgement.judge(
        content, address: 8192, seed: 42, acknowledged: acknowledged, issued: issued,
        allowsTorn: allowsTorn)
    }
    #expect(judge(.stamp(stamp), acknowledged: 7, issued: 7) == .right)
    #expect(judge(.stamp(stamp), acknowledged: 5, issued: 9) == .right)
    #expect(
      judge(.stamp(stamp), acknowledged: 8, issued: 9) == .lost(found: 7, acknowledged: 8))
    #expect(
      judge(.stamp(stamp), acknowledged: 5, issued: 6) == .impossible(found: 7, issued: 6))
    let elsewhere = Stamp(address: 0, sequence: 7, seed: 42)
    #expect(judge(.stamp(elsewhere), acknowledged: 0, issued: 9) == .misdirected(from: 0))
    let foreign = Stamp(address: 8192, sequence: 7, seed: 1)
    #expect(judge(.stamp(foreign), acknowledged: 0, issued: 9) == .right)
    #expect(judge(.stamp(foreign), acknowledged: 1, issued: 9) == .lost(found: 0, acknowledged: 1))
    #expect(judge(.unstamped, acknowledged: 0, issued: 9) == .right)
    #expect(judge(.unstamped, acknowledged: 9, issued: 9) == .lost(found: 0, acknowledged: 9))
    let damaged = Stamp.Content.damaged(stamp)
    #expect(judge(damaged, acknowledged: 7, issued: 9) == .damaged(found: 7, acknowledged: 7))
    #expect(judge(damaged, acknowledged: 7, issued: 9, allowsTorn: true) == .right)
    #expect(
      judge(damaged, acknowledged: 9, issued: 9, allowsTorn: true)
        == .damaged(found: 7, acknowledged: 9))
    #expect(Judgement.judgeAlone(.unstamped, address: 0) == .unstamped)
    #expect(Judgement.judgeAlone(.stamp(stamp), address: 8192) == .right)
    #expect(Judgement.judgeAlone(.stamp(stamp), address: 0) == .misdirected(from: 8192))
  }

  @Test func unitsAreTheCoherentBlockOrWhatDividesTheIO() {
    #expect(WriteLog.unitBytes(blockBytes: 4096) == 4096)
    #expect(WriteLog.unitBytes(blockBytes: 1 << 20) == 4096)
    #expect(WriteLog.unitBytes(blockBytes: 512) == 512)
    #expect(WriteLog.unitBytes(blockBytes: 6144) == 2048)
  }

  @Test func aLogIsContinuedWithItsSeedAndHigherNumbers() throws {
    let directory = try TemporaryDirectory()
    let path = directory.path("log")
    do {
      var log = try WriteLog(path: path, seed: 5, blockBytes: 8192, regionBytes: 65536)
      #expect(log.unitCount == 16)
      #expect(log.nextSequence() == 1)
      #expect(log.nextSequence() == 2)
      log.noteIssued(3, 2)
      log.noteAcknowledged(3, 1)
    }
    var again = try WriteLog(path: path, seed: 99, blockBytes: 8192, regionBytes: 65536)
    #expect(again.seed == 5)
    #expect(again.writeCount == 2)
    #expect(again.nextSequence() == 3)
    #expect(again[3].issued == 2)
    #expect(again[3].acknowledged == 1)
    #expect(again[4].issued == 0)
    let read = try WriteLog(reading: path)
    #expect(read.blockBytes == 8192)
    #expect(read[3].issued == 2)
  }

  @Test func aLogOfAnotherLoadOrADamagedOneIsRefused() throws {
    let directory = try TemporaryDirectory()
    let path = directory.path("log")
    _ = try WriteLog(path: path, seed: 5, blockBytes: 4096, regionBytes: 65536)
    func isRefused(_ blockBytes: UInt64, _ regionBytes: UInt64) -> Bool {
      do {
        _ = try WriteLog(path: path, seed: 5, blockBytes: blockBytes, regionBytes: regionBytes)
        return false
      } catch {
        return true
      }
    }
    #expect(isRefused(8192, 65536))
    #expect(isRefused(4096, 131072))
    #expect(!isRefused(4096, 65536))
    var bytes = try Data(contentsOf: URL(fileURLWithPath: path))
    for (offset, value) in [(0, UInt8(0)), (8, 9), (24, 1), (33, 0), (47, 0xFF), (44, 1)] {
      var bad = bytes
      bad[offset] = value
      try bad.write(to: URL(fileURLWithPath: path))
      #expect(throws: BenchError.self) { _ = try WriteLog.geometry(of: path) }
    }
    bytes.removeLast()
    try bytes.write(to: URL(fileURLWithPath: path))
    #expect(throws: BenchError.self) { _ = try WriteLog.geometry(of: path) }
  }
}

/// A directory that is gone when the test is over.
final class TemporaryDirectory {
  private let directory: URL

  /// On the disk, not on tmpfs: direct I/O is wanted.
  init() throws {
    directory = URL(fileURLWithPath: "/var/tmp/ashlar-bench-tests-\(UUID().uuidString)")
    try FileManager.default.createDirectory(at: directory, withIntermediateDirectories: true)
  }

  deinit { try? FileManager.default.removeItem(at: directory) }

  func path(_ name: String) -> String { directory.appendingPathComponent(name).path }
}
