import CChecksum
import TestSupport
import Testing

/// CRC32C is part of the formats: it must be the standard one, whichever way it is computed.
struct ChecksumTests {
  /// Vectors of RFC 3720, B.4, and the customary check value.
  @Test func knownVectors() {
    let cases: [([UInt8], UInt32)] = [
      (Array("123456789".utf8), 0xE306_9283),
      ([], 0),
      ([UInt8](repeating: 0, count: 32), 0x8A91_36AA),
      ([UInt8](repeating: 0xFF, count: 32), 0x62A8_AB43),
      (Array(0..<32), 0x46DD_794E),
      (Array((0..<32).reversed()), 0x113F_DB5C),
    ]
    for (bytes, expected) in cases {
      #expect(cchecksum_crc32c(0, bytes, bytes.count) == expected)
      #expect(cchecksum_crc32c_software(0, bytes, bytes.count) == expected)
    }
  }

  /// Every length around the sizes of the interleaved streams, at every alignment.
  @Test func instructionsAgreeWithTheTable() {
    let bytes = pattern(10_000, seed: 1)
    var generator = SeededGenerator(seed: 2)
    let lengths = Array(0..<600) + Array(4000..<4110) + Array(8050..<8080)
    bytes.withUnsafeBytes { memory in
      for length in lengths {
        let start = Int.random(in: 0..<64, using: &generator)
        let seed = UInt32.random(in: 0...(.max), using: &generator)
        let address = memory.baseAddress! + start
        #expect(
          cchecksum_crc32c(seed, address, length)
            == cchecksum_crc32c_software(seed, address, length), "length \(length)")
      }
    }
  }

  /// Continuing from a checksum must be the same as computing it in one go.
  @Test func piecesJoin() {
    let bytes = pattern(5000, seed: 3)
    let whole = cchecksum_crc32c(0, bytes, bytes.count)
    for cut in [0, 1, 7, 504, 512, 4032, 4096, 5000] {
      let rest = Array(bytes[cut...])
      let first = cchecksum_crc32c(0, bytes, cut)
      #expect(cchecksum_crc32c(first, rest, rest.count) == whole, "cut at \(cut)")
    }
  }
}
