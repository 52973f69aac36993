/// Digests of blocks, by which two replicas find out what differs without sending the data.
///
/// A digest covers one block of 4 KiB, or what the volume has of its last one. Digests of a range
/// follow each other without gaps, in the order of the blocks, each in big-endian; XXH3 in its
/// canonical form.
import BlockTypes
import CChecksum
import Digests

/// What a digest is made with. Both sides must know it; whoever asks chooses.
public enum DigestAlgorithm: UInt8, Sendable, BitwiseCopyable, CaseIterable {
  /// CRC32C: finds every change of up to 32 bits in a row, and any other but for one in 2^32.
  case crc32c = 1
  /// XXH3 with 128 bits: what differs has another digest, but for one in 2^128.
  case xxh3 = 2
  /// SHA-256: nobody can make two blocks of one digest, not even on purpose.
  case sha256 = 3

  /// The name in a configuration.
  public var name: String {
    switch self {
    case .crc32c: "crc32c"
    case .xxh3: "xxh3-128"
    case .sha256: "sha256"
    }
  }

  /// The algorithm of this name.
  public init?(named name: String) {
    guard let match = Self.allCases.first(where: { $0.name == name }) else { return nil }
    self = match
  }

  /// Whether equal digests prove that two blocks are equal, so that a resync may leave the block
  /// out. 32 bits do not: of 2^28 blocks that differ (1 TiB) one would be taken for equal in one
  /// resync of 16, and nothing would ever find it out.
  public var provesEquality: Bool {
    switch self {
    case .crc32c: false
    case .xxh3, .sha256: true
    }
  }

  /// Bytes of one digest.
  public var byteCount: Int {
    switch self {
    case .crc32c: 4
    case .xxh3: 16
    case .sha256: 32
    }
  }
}

/// Digests of the blocks of a range.
public enum BlockDigest {
  /// Blocks one request may cover: one bit of a 64-bit number for each.
  public static let blockLimit: UInt64 = 64

  /// Blocks in `bytes` bytes, the last one perhaps not whole.
  public static func blocks(_ bytes: UInt64) -> UInt64 { (bytes + blockSize - 1) / blockSize }

  /// Writes the digest of each block of `data` into `digests`, which has room for them.
  @safe
  public static func encode(
    _ algorithm: DigestAlgorithm, _ data: UnsafeRawBufferPointer,
    into digests: UnsafeMutableRawBufferPointer
  ) {
    let count = Int(blocks(UInt64(data.count)))
    precondition(digests.count >= count * algorithm.byteCount, "no room for the digests")
    for block in 0..<count {
      let place = unsafe UnsafeMutableRawBufferPointer(
        rebasing: digests[(block * algorithm.byteCount)..<((block + 1) * algorithm.byteCount)])
      unsafe digest(algorithm, part(data, block), into: place)
    }
  }

  /// Which blocks of `data` do not have these digests: a bit for each, the first one lowest.
  @safe
  public static func differing(
    _ algorithm: DigestAlgorithm, _ data: UnsafeRawBufferPointer, _ digests: UnsafeRawBufferPointer
  ) -> UInt64 {
    let count = Int(blocks(UInt64(data.count)))
    precondition(count <= Int(blockLimit), "more blocks than bits")
    precondition(digests.count == count * algorithm.byteCount, "not the digests of these blocks")
    var mask: UInt64 = 0
    unsafe withUnsafeTemporaryAllocation(byteCount: algorithm.byteCount, alignment: 16) { mine in
      for block in 0..<count {
        unsafe digest(algorithm, part(data, block), into: mine)
        let theirs = unsafe digests[
          (block * algorithm.byteCount)..<((block + 1) * algorithm.byteCount)]
        if unsafe !mine.elementsEqual(theirs) { mask |= 1 << UInt64(block) }
      }
    }
    return mask
  }

  private static func part(_ data: UnsafeRawBufferPointer, _ block: Int) -> UnsafeRawBufferPointer {
    let start = block * Int(blockSize)
    return unsafe UnsafeRawBufferPointer(
      rebasing: data[start..<min(start + Int(blockSize), data.count)])
  }

  private static func digest(
    _ algorithm: DigestAlgorithm, _ data: UnsafeRawBufferPointer,
    into place: UnsafeMutableRawBufferPointer
  ) {
    guard let base = data.baseAddress else { return }
    switch algorithm {
    case .crc32c:
      let crc = unsafe cchecksum_crc32c(0, base, data.count)
      unsafe place.storeBytes(of: crc.bigEndian, as: UInt32.self)
    case .xxh3:
      guard let digest = place.baseAddress else { return }
      unsafe cchecksum_xxh3_128(
        base, data.count, digest.assumingMemoryBound(to: UInt8.self))
    case .sha256: SHA256Digest.digest(data, into: place)
    }
  }
}

/// Why a node does not want its volume compared.
public enum VerifyRefusal: UInt8, Sendable, BitwiseCopyable, CaseIterable {
  /// It does something else with the volume.
  case busy = 1
  /// Its disk is not UpToDate.
  case noDisk = 2
  /// It does not know the algorithm.
  case unknownAlgorithm = 3
}
