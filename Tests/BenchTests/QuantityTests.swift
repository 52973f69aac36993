import Testing

@testable import Bench

/// Quantities: what a user may write, and what is refused rather than guessed.
struct QuantityTests {
  @Test(
    arguments: [
      ("512", 512), ("4k", 4096), ("4K", 4096), ("4KiB", 4096), ("1M", 1 << 20), ("2GiB", 2 << 30),
      ("1T", 1 << 40), ("0", 0), ("7B", 7),
    ] as [(String, UInt64)])
  func sizesArePowersOf1024(text: String, bytes: UInt64) throws {
    #expect(try parseSize(text) == bytes)
  }

  @Test(arguments: ["", "k", "-1", "4 k", "4kk", "4.5k", "٣k"])
  func sizesThatAreNoneAreRefused(text: String) {
    #expect(throws: QuantityError.self) { try parseSize(text) }
  }

  /// MB means 1000000 to a disk vendor and 1048576 to fio, so neither is assumed.
  @Test func ambiguousUnitsAreRefusedWithTheAlternatives() {
    #expect(
      throws: QuantityError.unknownUnit(
        "MB", in: "4MB", allowed: "k, M, G, T and KiB, MiB, GiB, TiB (1024s)")
    ) { try parseSize("4MB") }
  }

  @Test(arguments: ["18446744073709551616", "16777216T", "99999999999999999999k"])
  func sizesBeyond64BitsAreRefusedWithoutATrap(text: String) {
    #expect(throws: QuantityError.tooLarge(text)) { try parseSize(text) }
  }

  @Test(
    arguments: [
      ("10", 10_000_000_000), ("10s", 10_000_000_000), ("500ms", 500_000_000),
      ("2m", 120_000_000_000), ("1h", 3_600_000_000_000),
    ] as [(String, UInt64)])
  func durationsAreSecondsUnlessTheySayOtherwise(text: String, nanoseconds: UInt64) throws {
    #expect(try parseDuration(text) == nanoseconds)
  }

  @Test func ratesAreOperationsUnlessTheyAreABandwidth() throws {
    #expect(try parseRate("5000") == .operations(5000))
    #expect(try parseRate("5k") == .operations(5000))
    #expect(try parseRate("5000iops") == .operations(5000))
    #expect(try parseRate("20MiB/s") == .bytes(20 << 20))
    // fio would take this as bandwidth, we as operations: refused, not guessed.
    #expect(throws: QuantityError.self) { try parseRate("20M") }
  }

  @Test func sizesAreShownExactly() {
    #expect(sizeText(4096) == "4 KiB")
    #expect(sizeText(1536) == "1536 B")
    #expect(sizeText(1 << 30) == "1 GiB")
    #expect(sizeText(0) == "0 B")
  }

  @Test func decimalsAreRoundedAndPadded() {
    #expect(decimal(1.05, places: 1) == "1.1")
    #expect(decimal(12.0, places: 2) == "12.00")
    #expect(decimal(0.005, places: 2) == "0.01")
    #expect(decimal(-0.001, places: 2) == "0.00")
    #expect(decimal(1234.5, places: 0) == "1235")
    #expect(decimal(.nan, places: 1) == "-")
    #expect(decimal(.infinity, places: 1) == "-")
  }
}
