/// Where metadata lies on a backing disk.
///
/// Internal: at the end of the disk, so that the data starts at 0 and can be read without Ashlar.
/// External: at the start of a disk of its own. From low to high:
///
/// ```
/// internal:  | data ...            | bitmap slots | activity log 1 MiB | copy A | copy B |
/// external:  | copy A | copy B | activity log 1 MiB | bitmap slots |
/// ```
/// Where the superblock lies depends on the size of the disk alone; where the bitmaps lie, on the
/// number of slots in the superblock as well. So a tool reads the superblock first and asks for the
/// layout with its `maxPeers` then.
import BlockTypes

/// Why a disk cannot hold a volume.
public enum LayoutError: Error, Equatable, Sendable {
  /// The disk has no room for data after the metadata.
  case deviceTooSmall(bytes: UInt64, needed: UInt64)
}

/// Which disks hold data and metadata, and how large they are.
public enum MetadataPlacement: Equatable, Sendable, BitwiseCopyable {
  /// Both on one disk.
  case `internal`(deviceBytes: UInt64)
  /// The metadata on a disk of its own.
  case external(dataBytes: UInt64, metadataBytes: UInt64)

  /// The layout with room for `maxPeers` bitmaps. The places of the superblock copies are the same
  /// for all: read them with room for one, then ask again with the superblock's `maxPeers`.
  public func layout(maxPeers: Int) throws(LayoutError) -> MetadataLayout {
    precondition(maxPeers >= 1 && maxPeers <= Superblock.peerSlotLimit, "no such number of slots")
    return switch self {
    case .internal(let bytes):
      try .internal(deviceBytes: bytes, maxPeers: UInt64(maxPeers))
    case .external(let data, let metadata):
      try .external(dataBytes: data, metadataBytes: metadata, maxPeers: UInt64(maxPeers))
    }
  }
}

/// Byte positions of data and metadata.
public struct MetadataLayout: Equatable, Sendable {
  /// Bytes of the activity log area.
  public static let activityLogBytes = UInt64(ActivityLog.ringBytes)

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

  /// Where page `page` of bitmap slot `slot` is, on the metadata disk.
  public func bitmapPageOffset(slot: Int, page: Int) -> UInt64 {
    precondition(slot >= 0 && page >= 0, "no such page")
    let offset = UInt64(page) * UInt64(BitmapPage.byteCount)
    precondition(offset < bitmapSlotBytes, "a page behind the end of its slot")
    return bitmapOffset + UInt64(slot) * bitmapSlotBytes + offset
  }

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

  /// Bytes of a bitmap for `volumeBytes`, a multiple of 4096, in whole pages: 33 KiB a GiB.
  private static func slotBytes(volumeBytes: UInt64) -> UInt64 {
    let blocks = volumeBytes / blockSize
    let pages = (blocks + BlockBitmap.blocksPerPage - 1) / BlockBitmap.blocksPerPage
    return pages * UInt64(BitmapPage.byteCount)
  }

  /// Whether two layouts put everything in the same place.
  public static func == (left: MetadataLayout, right: MetadataLayout) -> Bool {
    left.volumeBytes == right.volumeBytes && left.superblockOffsets == right.superblockOffsets
      && left.activityLogOffset == right.activityLogOffset
      && left.bitmapOffset == right.bitmapOffset && left.bitmapSlotBytes == right.bitmapSlotBytes
  }
}
