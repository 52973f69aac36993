/// The digests against published values.
import Digests
import Testing

@Suite struct DigestsTests {
  @Test func `a SHA-256 is the published one`() {
    var place = [UInt8](repeating: 0, count: 32)
    Array("abc".utf8).withUnsafeBytes { message in
      place.withUnsafeMutableBytes { SHA256Digest.digest(message, into: $0) }
    }
    #expect(hex(place) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")
    place.withUnsafeMutableBytes {
      SHA256Digest.digest(UnsafeRawBufferPointer(start: nil, count: 0), into: $0)
    }
    #expect(hex(place) == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")
  }

  /// RFC 2202 and RFC 4231, test case 2.
  @Test(arguments: [
    (HashAlgorithm.sha1, "effcdf6ae5eb2fa2d27416d5f184df9c259a7c79"),
    (.sha256, "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"),
    (
      .sha384,
      "af45d2e376484031617f78d2b58a6b1b9c7ef464f5a01b47e42ec3736322445e"
        + "8e2240ca5e69e2c78b3239ecfab21649"
    ),
    (
      .sha512,
      "164b7a7bfcf819e2e395fbe73b56e0a387bd64222e831fd610270cd7ea250554"
        + "9758bf75c05a994a6d034f65f8f0e6fdcaeab1a34d4a6b4b636e070a38bce737"
    ),
  ])
  func `an HMAC is the published one`(algorithm: HashAlgorithm, expected: String) {
    let code = algorithm.authenticationCode(
      Array("what do ya want for nothing?".utf8), key: Array("Jefe".utf8))
    #expect(hex(code) == expected)
    #expect(code.count == algorithm.byteCount)
    #expect(HashAlgorithm(named: algorithm.name) == algorithm)
  }

  /// RFC 4231, test case 4, its data in three pieces; the key filled up with zeroes to 32 bytes is
  /// the same key.
  @Test func `a code over pieces is the code over the whole`() {
    let key = SessionKey((1...25).map { UInt8($0) } + Array(repeating: 0, count: 7))
    let data = [UInt8](repeating: 0xCD, count: 50)
    var place = [UInt8](repeating: 0, count: 32)
    data.withUnsafeBytes { bytes in
      place.withUnsafeMutableBytes { place in
        key.authenticationCode(
          UnsafeRawBufferPointer(rebasing: bytes[0..<10]),
          UnsafeRawBufferPointer(rebasing: bytes[10..<10]),
          UnsafeRawBufferPointer(rebasing: bytes[10..<50]), into: place)
      }
    }
    #expect(hex(place) == "82558a389a443c0ea4cc819899f2083a85f0faa3e578f8077a2e3ff46729665b")
    #expect("\(key)" == "(a key)")
  }

  @Test(arguments: HashAlgorithm.allCases)
  func `a code is valid only when every bit is`(algorithm: HashAlgorithm) {
    let (message, key): ([UInt8], [UInt8]) = ([1, 2, 3], [4, 5])
    let code = algorithm.authenticationCode(message, key: key)
    #expect(algorithm.isValid(code, for: message, key: key))
    #expect(!algorithm.isValid(code, for: message, key: [4, 6]))
    #expect(!algorithm.isValid(code, for: [1, 2], key: key))
    for wrong in [[], Array(code.dropLast()), code + [0]] {
      #expect(!algorithm.isValid(wrong, for: message, key: key))
    }
    for bit in 0..<(code.count * 8) {
      var changed = code
      changed[bit / 8] ^= 1 << UInt8(bit % 8)
      #expect(!algorithm.isValid(changed, for: message, key: key))
    }
  }
}

private func hex(_ bytes: [UInt8]) -> String {
  bytes.map { byte in
    let text = String(byte, radix: 16)
    return text.count == 1 ? "0" + text : text
  }.joined()
}
