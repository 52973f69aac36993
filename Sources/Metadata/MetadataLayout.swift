/// Where metadata lies on a backing disk.
///
/// Internal: at the end of the disk, so that the data starts at 0 and can be read without Ashlar.
/// External: at the start of a disk of its own. From low to high:
///
/// ```
/// internal:  | data ...            | bitmap slots | activity log 1 MiB | copy A | copy B |
/// external:  | copy A | copy B | activity log 1 MiB | bitmap slots |
/// ```
/// Format version 1 reserves the activity log and the bitmap slots and leaves them unused.
import BlockTypes

/// Why a disk cannot hold a volume.
public enum LayoutError: Error, Equatable, Sendable {
  /// The disk has no room for data after the metadata.
  case deviceTooSmall(bytes: UInt64, needed: UInt64)
}

/// Byte positions of data and metadata.
public struct MetadataLayout: Equatable, Sendable {
  /// Bytes of the activity log area.
  public static let activityLogBytes: UInt64 = 1 << 20

  /// Bytes of the volume: a multiple of 4096.
  public let volumeBytes: UInt64
  /// Where the two superblock copies are, on the metadata disk.
  public let superblockOffsets: (UInt64, UInt64)
  /// Where the activity log is, on the metadata disk.
  public let activityLogOffset: UInt64
  /// Where the first bitmap slot is, on the metadata disk.
  public let bitmapOffset: UInt64
  /// Bytes of one bitmap slot.
  public let bitmapSlotBytes: UInt64

  /// Lays out internal metadata on a disk of `deviceBytes`, with room for `maxPeers` bitmaps.
  public static func `internal`(
    deviceBytes: UInt64, maxPeers: UInt64 = 1
  ) throws(LayoutError) -> MetadataLayout {
    let device = deviceBytes / blockSize * blockSize
    let fixed = 2 * UInt64(Superblock.byteCount) + activityLogBytes
    let slot = slotBytes(volumeBytes: device)
    let reserved = fixed + slot * maxPeers
    guard device > reserved else {
      throw .deviceTooSmall(bytes: deviceBytes, needed: reserved + blockSize)
    }
    let copyB = device - UInt64(Superblock.byteCount)
    let copyA = copyB - UInt64(Superblock.byteCount)
    return MetadataLayout(
      volumeBytes: device - reserved, superblockOffsets: (copyA, copyB),
      activityLogOffset: copyA - activityLogBytes, bitmapOffset: device - reserved,
      bitmapSlotBytes: slot)
  }

  /// Lays out external metadata for a volume that fills a data disk of `dataBytes`.
  public static func external(
    dataBytes: UInt64, metadataBytes: UInt64, maxPeers: UInt64 = 1
  ) throws(LayoutError) -> MetadataLayout {
    let volume = dataBytes / blockSize * blockSize
    guard volume > 0 else { throw .deviceTooSmall(bytes: dataBytes, needed: blockSize) }
    let slot = slotBytes(volumeBytes: volume)
    let logOffset = 2 * UInt64(Superblock.byteCount)
    let needed = logOffset + activityLogBytes + slot * maxPeers
    guard metadataBytes >= needed else {
      throw .deviceTooSmall(bytes: metadataBytes, needed: needed)
    }
    return MetadataLayout(
      volumeBytes: volume, superblockOffsets: (0, UInt64(Superblock.byteCount)),
      activityLogOffset: logOffset, bitmapOffset: logOffset + activityLogBytes,
      bitmapSlotBytes: slot)
  }

  /// Bytes of a bitmap for `volumeBytes`, rounded up to whole blocks: 32 KiB a GiB.
  private static func slotBytes(volumeBytes: UInt64) -> UInt64 {
    let blocks = (volumeBytes + blockSize - 1) / blockSize
    let bytes = (blocks + 7) / 8
    return (bytes + blockSize - 1) / blockSize * blockSize
  }

  /// Whether two layouts put everything in the same place.
  public static func == (left: MetadataLayout, right: MetadataLayout) -> Bool {
    left.volumeBytes == right.volumeBytes && left.superblockOffsets == right.superblockOffsets
      && left.activityLogOffset == right.activityLogOffset
      && left.bitmapOffset == right.bitmapOffset && left.bitmapSlotBytes == right.bitmapSlotBytes
  }
}

/// The outcome of reading both superblock copies.
public enum SuperblockChoice: Equatable, Sendable {
  /// The newer valid copy, and which one it was (0 or 1): the next write goes to the other.
  case found(Superblock, copy: Int)
  /// No copy was ever written.
  case none
  /// Something is there, but no copy is valid. Never treated as "none": data may depend on it.
  case damaged(SuperblockError, SuperblockError)

  /// Chooses between the two copies.
  ///
  /// A copy that survives beside a damaged one is returned as dirty: the damaged one may have been
  /// the newer, and have said so. Damage widens a resync, it never narrows it.
  @safe
  public init(copyA: UnsafeRawBufferPointer, copyB: UnsafeRawBufferPointer) {
    let first = Result { () throws(SuperblockError) in try Superblock(parsing: copyA) }
    let second = Result { () throws(SuperblockError) in try Superblock(parsing: copyB) }
    switch (first, second) {
    case (.success(let a), .success(let b)):
      self = a.sequence >= b.sequence ? .found(a, copy: 0) : .found(b, copy: 1)
    case (.success(var a), .failure(let error)):
      a.dirty = a.dirty || !error.isNeverWritten
      self = .found(a, copy: 0)
    case (.failure(let error), .success(var b)):
      b.dirty = b.dirty || !error.isNeverWritten
      self = .found(b, copy: 1)
    case (.failure(.noMagic), .failure(.noMagic)): self = .none
    case (.failure(let a), .failure(let b)): self = .damaged(a, b)
    }
  }
}
