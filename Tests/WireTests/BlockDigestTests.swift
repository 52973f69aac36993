/// Digests: golden values, and every changed bit is found in its own block.
import BlockTypes
import TestSupport
import Testing
import Wire

@Suite struct BlockDigestTests {
  private func digests(_ algorithm: DigestAlgorithm, _ data: [UInt8]) -> [UInt8] {
    let count = (data.count + 4095) / 4096
    var result = [UInt8](repeating: 0xEE, count: count * algorithm.byteCount)
    data.withUnsafeBytes { data in
      result.withUnsafeMutableBytes { BlockDigest.encode(algorithm, data, into: $0) }
    }
    return result
  }

  private func differing(
    _ algorithm: DigestAlgorithm, _ data: [UInt8], _ digests: [UInt8]
  ) -> UInt64 {
    data.withUnsafeBytes { data in
      digests.withUnsafeBytes { BlockDigest.differing(algorithm, data, $0) }
    }
  }

  /// A change here is a protocol change. The check value of CRC32C is E3069283.
  @Test func crc32cIsStable() {
    #expect(digests(.crc32c, Array("123456789".utf8)) == [0xE3, 0x06, 0x92, 0x83])
  }

  /// From xxHash's own tool: `printf 123456789 | xxhsum -H2`.
  @Test func xxh3IsStable() {
    let hex = digests(.xxh3, Array("123456789".utf8)).map { byte in
      (byte < 16 ? "0" : "") + String(byte, radix: 16)
    }
    #expect(hex.joined() == "33119477ede5dcd5e9716427681d5860")
  }

  /// The example of FIPS 180-4: `printf abc | sha256sum`.
  @Test func sha256IsStable() {
    let hex = digests(.sha256, Array("abc".utf8)).map { byte in
      (byte < 16 ? "0" : "") + String(byte, radix: 16)
    }
    #expect(hex.joined() == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")
  }

  @Test func namesAndNumbersAreStable() {
    #expect(DigestAlgorithm.allCases.map(\.name) == ["crc32c", "xxh3-128", "sha256"])
    #expect(DigestAlgorithm.allCases.map(\.rawValue) == [1, 2, 3])
    #expect(DigestAlgorithm(named: "crc32c") == .crc32c)
    #expect(DigestAlgorithm(named: "sha1") == nil)
    #expect(DigestAlgorithm.crc32c.rawValue == 1)
    #expect(VerifyRefusal.allCases.map(\.rawValue) == [1, 2, 3])
  }

  /// V02: one bit, anywhere, also in the last block that is not whole.
  @Test(arguments: DigestAlgorithm.allCases, seeds(count: 8))
  func everyFlippedBitIsFoundInItsBlock(algorithm: DigestAlgorithm, seed: UInt64) {
    var random = SeededGenerator(seed: seed)
    let count = 64 * 4096 - random.below(8) * 512
    let data = (0..<count).map { _ in UInt8(random.below(256)) }
    let right = digests(algorithm, data)
    #expect(differing(algorithm, data, right) == 0)
    var places = (0..<20).map { _ in random.below(count * 8) }
    places += [0, count * 8 - 1, 4096 * 8 - 1, 4096 * 8]
    for place in places {
      var changed = data
      changed[place / 8] ^= 1 << UInt8(place % 8)
      #expect(differing(algorithm, changed, right) == 1 << UInt64(place / 8 / 4096))
    }
  }
}
