/// One page of a peer's bitmap on disk: 4096 bytes that describe 31744 blocks (124 MiB, 31
/// extents).
///
/// ```
/// bytes   0-3    CRC32C of the 4096 bytes with this field 0
///         4-7    magic "ABMP"
///         8-15   device id
///        16-23   page number
///        24      bitmap slot, 0 ... 7
///        25      node id of the peer
///        26-127  0
///       128-4095 block n of the page is bit n % 8, from the lowest, of byte 128 + n / 8
/// ```
/// A page that is damaged, of something else, or was never written counts as all set: damage widens
/// a resync, it never narrows it. So fresh metadata needs no written pages.
public import BlockTypes
import CChecksum

/// Why a page counts as all set.
public enum BitmapPageError: Error, Equatable, Sendable {
  /// All zero, or anything else that does not begin like a page.
  case neverWritten
  case badChecksum(found: UInt32, computed: UInt32)
  /// A page of other metadata, of another peer, or of another place.
  case foreign
}

/// Which page of which bitmap 4096 bytes are.
public struct BitmapPage: Equatable, Sendable, BitwiseCopyable {
  /// Bytes of a page on disk.
  public static let byteCount = 4096
  /// Bytes before the bits.
  public static let headerBytes = byteCount - BlockBitmap.pageBitBytes
  /// "ABMP".
  static let magic: UInt32 = 0x4142_4D50

  /// The superblock's device id.
  public var deviceID: UInt64
  /// The number of the bitmap slot.
  public var slot: Int
  /// The peer.
  public var node: NodeID
  /// The number of the page in its slot.
  public var number: Int

  /// Names page `number` of the bitmap in slot `slot`.
  public init(deviceID: UInt64, slot: Int, node: NodeID, number: Int) {
    precondition(slot >= 0 && slot < Superblock.peerSlotLimit, "no such bitmap slot")
    self.deviceID = deviceID
    self.slot = slot
    self.node = node
    self.number = number
  }

  /// Begins to write this page of `bitmap`: fills `bytes` with what is to be written. The caller
  /// tells the bitmap `pageWritten` when it is on the disk.
  @safe
  public func write(_ bitmap: inout BlockBitmap, into bytes: UnsafeMutableRawBufferPointer) {
    precondition(bytes.count == Self.byteCount, "a page is 4096 bytes")
    let header = unsafe UnsafeMutableRawBufferPointer(rebasing: bytes[0..<Self.headerBytes])
    unsafe header.initializeMemory(as: UInt8.self, repeating: 0)
    let bits = unsafe UnsafeMutableRawBufferPointer(rebasing: bytes[Self.headerBytes...])
    bitmap.writePage(number, into: bits)
    unsafe bytes.storeBigEndian(Self.magic, at: 4)
    unsafe bytes.storeBigEndian(deviceID, at: 8)
    unsafe bytes.storeBigEndian(UInt64(number), at: 16)
    unsafe bytes.storeBigEndian(UInt8(slot), at: 24)
    unsafe bytes.storeBigEndian(node.value, at: 25)
    unsafe bytes.storeBigEndian(Self.checksum(UnsafeRawBufferPointer(bytes)), at: 0)
  }

  /// Adds what was read from the disk to `bitmap`. On an error every bit of the page is set there,
  /// which is all that needs to be done.
  @safe
  public func load(
    _ bytes: UnsafeRawBufferPointer, into bitmap: inout BlockBitmap
  ) throws(BitmapPageError) {
    precondition(bytes.count == Self.byteCount, "a page is 4096 bytes")
    if let error = unsafe check(bytes) {
      bitmap.loadDamagedPage(number)
      throw error
    }
    let bits = unsafe UnsafeRawBufferPointer(rebasing: bytes[Self.headerBytes...])
    bitmap.loadPage(number, from: bits)
  }

  private func check(_ bytes: UnsafeRawBufferPointer) -> BitmapPageError? {
    let magic: UInt32 = unsafe bytes.bigEndian(at: 4)
    guard magic == Self.magic else { return .neverWritten }
    let found: UInt32 = unsafe bytes.bigEndian(at: 0)
    let computed = unsafe Self.checksum(bytes)
    guard found == computed else { return .badChecksum(found: found, computed: computed) }
    let device: UInt64 = unsafe bytes.bigEndian(at: 8)
    let number: UInt64 = unsafe bytes.bigEndian(at: 16)
    let slot: UInt8 = unsafe bytes.bigEndian(at: 24)
    let node: UInt8 = unsafe bytes.bigEndian(at: 25)
    guard device == deviceID, number == UInt64(self.number), Int(slot) == self.slot,
      node == self.node.value
    else { return .foreign }
    return nil
  }

  private static func checksum(_ bytes: UnsafeRawBufferPointer) -> UInt32 {
    var zero: UInt32 = 0
    guard let base = bytes.baseAddress else { return 0 }
    let crc = unsafe cchecksum_crc32c(0, &zero, 4)
    return unsafe cchecksum_crc32c(crc, base + 4, byteCount - 4)
  }
}
