/// The keyed hashes (HMAC, RFC 2104) by which two peers prove that they know one secret, and by
/// which messages are protected once they have.
import Crypto

/// What an HMAC is made with: `cram-hmac-alg`.
public enum HashAlgorithm: UInt8, Sendable, BitwiseCopyable, CaseIterable {
  case sha1 = 1
  case sha256 = 2
  case sha384 = 3
  case sha512 = 4

  /// The name in a configuration: the Linux kernel's.
  public var name: String {
    switch self {
    case .sha1: "sha1"
    case .sha256: "sha256"
    case .sha384: "sha384"
    case .sha512: "sha512"
    }
  }

  /// The algorithm of this name.
  public init?(named name: String) {
    guard let match = Self.allCases.first(where: { $0.name == name }) else { return nil }
    self = match
  }

  /// Bytes of a code.
  public var byteCount: Int {
    switch self {
    case .sha1: 20
    case .sha256: 32
    case .sha384: 48
    case .sha512: 64
    }
  }

  /// The HMAC of `message` under `key`.
  public func authenticationCode(_ message: [UInt8], key: [UInt8]) -> [UInt8] {
    let key = SymmetricKey(data: key)
    return switch self {
    case .sha1: Array(HMAC<Insecure.SHA1>.authenticationCode(for: message, using: key))
    case .sha256: Array(HMAC<SHA256>.authenticationCode(for: message, using: key))
    case .sha384: Array(HMAC<SHA384>.authenticationCode(for: message, using: key))
    case .sha512: Array(HMAC<SHA512>.authenticationCode(for: message, using: key))
    }
  }

  /// Whether `code` is the HMAC of `message` under `key`; how long it takes tells nothing about
  /// where it differs.
  public func isValid(_ code: [UInt8], for message: [UInt8], key: [UInt8]) -> Bool {
    let key = SymmetricKey(data: key)
    return switch self {
    case .sha1:
      HMAC<Insecure.SHA1>.isValidAuthenticationCode(code, authenticating: message, using: key)
    case .sha256:
      HMAC<SHA256>.isValidAuthenticationCode(code, authenticating: message, using: key)
    case .sha384:
      HMAC<SHA384>.isValidAuthenticationCode(code, authenticating: message, using: key)
    case .sha512:
      HMAC<SHA512>.isValidAuthenticationCode(code, authenticating: message, using: key)
    }
  }
}

/// A key of 256 bits that two peers derived for the messages of one direction of one connection.
public struct SessionKey: Sendable, BitwiseCopyable, CustomStringConvertible {
  private let words: (UInt64, UInt64, UInt64, UInt64)

  /// The first 32 of `bytes`, of which there are at least so many.
  public init(_ bytes: [UInt8]) {
    precondition(bytes.count >= 32, "a key has 256 bits")
    func word(_ start: Int) -> UInt64 {
      bytes[start..<(start + 8)].reduce(0) { $0 << 8 | UInt64($1) }
    }
    words = (word(0), word(8), word(16), word(24))
  }

  /// Says nothing about the key.
  public var description: String { "(a key)" }

  /// Writes the HMAC-SHA256 of three pieces of memory, one after the other, to `place`.
  @safe
  public func authenticationCode(
    _ first: UnsafeRawBufferPointer, _ second: UnsafeRawBufferPointer,
    _ third: UnsafeRawBufferPointer, into place: UnsafeMutableRawBufferPointer
  ) {
    precondition(place.count >= SHA256Digest.byteCount, "no room for the code")
    var key = (
      words.0.bigEndian, words.1.bigEndian, words.2.bigEndian, words.3.bigEndian
    )
    let symmetric = unsafe withUnsafeBytes(of: &key) { unsafe SymmetricKey(data: $0) }
    var code = HMAC<SHA256>(key: symmetric)
    unsafe code.update(data: first)
    unsafe code.update(data: second)
    unsafe code.update(data: third)
    unsafe code.finalize().withUnsafeBytes { unsafe place.copyMemory(from: $0) }
  }
}
