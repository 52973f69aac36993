/// SHA-256 over raw memory, from swift-crypto.
///
/// swift-crypto keeps the state of a hash in an object, so a digest costs one small allocation. It
/// is made for algorithms that somebody has chosen; what runs by default does not come here.
import Crypto

/// SHA-256 over raw memory.
public enum SHA256Digest {
  /// Bytes of a digest.
  public static let byteCount = 32

  /// Writes the digest of `bytes` to the start of `place`, which has room for `byteCount` bytes.
  @safe
  public static func digest(
    _ bytes: UnsafeRawBufferPointer, into place: UnsafeMutableRawBufferPointer
  ) {
    precondition(place.count >= byteCount, "no room for the digest")
    var hash = SHA256()
    unsafe hash.update(bufferPointer: bytes)
    unsafe hash.finalize().withUnsafeBytes { unsafe place.copyMemory(from: $0) }
  }
}
