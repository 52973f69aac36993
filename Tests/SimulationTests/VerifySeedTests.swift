/// Runs about online verify: exact under load, and a comparison without a lock is found out.
import Replication
import Testing

@testable import Simulation

@Suite struct VerifySeedTests {
  /// Content rots, clients write, roles change, cables are cut: what a verify finds is what
  /// differs, and reconnecting mends it. `ashlar-sim --verify` runs more of them.
  @Test(arguments: Array(0..<40 as Range<UInt64>))
  func verifyFindsExactlyWhatRotted(seed: UInt64) {
    let report = VerifyRuns.run(seed: seed).report
    #expect(report.passed, "seed \(seed): \(report.violations)")
  }

  @Test func comparingWithoutALockIsFound() {
    let failure = VerifyRuns.firstFailure(from: 0, count: 1_000, canary: .verifyWithoutLock)
    #expect(failure?.violations.first?.oracle == .verify)
  }
}
