internal import CChecksum

/// What a verified load writes into each unit (4 KiB, or less when its blocks are smaller): the
/// whole unit says where it belongs, which write it was, and whether it is complete.
///
///     0-7 magic  8-15 address  16-23 sequence  24-31 seed  32-35 CRC32C  36-39 length  40- filling
///
/// Numbers are little-endian. The checksum covers all bytes but its own four. The filling is random
/// numbers that follow from seed, sequence and address, so no two units compress or deduplicate.
struct Stamp: Equatable, BitwiseCopyable, Sendable {
  /// Byte offset on the target.
  var address: UInt64
  /// The write's number: later writes to an address have greater ones.
  var sequence: UInt64
  /// The seed of the load.
  var seed: UInt64

  /// `ASHLSTMP`, read as a little-endian number.
  static let magic: UInt64 = 0x504D_5453_4C48_5341
  static let headerBytes = 40
  private static let checksumOffset = 32

  /// Fills a unit; its length is a multiple of 8 of at least 512 bytes.
  @unsafe
  func write(into unit: UnsafeMutableRawBufferPointer) {
    precondition(unit.count >= 512, "a unit is a sector at least")
    precondition(unit.count % 8 == 0, "a unit is filled by words")
    unsafe unit.storeBytes(of: Self.magic.littleEndian, toByteOffset: 0, as: UInt64.self)
    unsafe unit.storeBytes(of: address.littleEndian, toByteOffset: 8, as: UInt64.self)
    unsafe unit.storeBytes(of: sequence.littleEndian, toByteOffset: 16, as: UInt64.self)
    unsafe unit.storeBytes(of: seed.littleEndian, toByteOffset: 24, as: UInt64.self)
    unsafe unit.storeBytes(
      of: UInt32(unit.count).littleEndian, toByteOffset: 36, as: UInt32.self)
    var random = SeededGenerator(
      seed: SeededGenerator.mix(seed) ^ SeededGenerator.mix(sequence &+ address))
    var offset = Self.headerBytes
    while offset < unit.count {
      unsafe unit.storeBytes(
        of: random.next().littleEndian, toByteOffset: offset, as: UInt64.self)
      offset += 8
    }
    let checksum = unsafe Self.checksum(UnsafeRawBufferPointer(unit))
    unsafe unit.storeBytes(
      of: checksum.littleEndian, toByteOffset: Self.checksumOffset, as: UInt32.self)
  }

  /// What a unit holds.
  enum Content: Equatable, BitwiseCopyable, Sendable {
    /// A whole stamp.
    case stamp(Stamp)
    /// It starts as a stamp with these numbers, but its checksum is wrong: torn or rotten.
    case damaged(Stamp)
    /// It was not written by a verified load.
    case unstamped
  }

  /// Looks at a unit.
  @unsafe
  static func read(_ unit: UnsafeRawBufferPointer) -> Content {
    precondition(unit.count >= 512, "a unit is a sector at least")
    guard unsafe number(unit, 0) == magic else { return .unstamped }
    let stamp = unsafe Stamp(
      address: number(unit, 8), sequence: number(unit, 16), seed: number(unit, 24))
    let stored = unsafe UInt32(
      littleEndian: unit.loadUnaligned(fromByteOffset: checksumOffset, as: UInt32.self))
    let length = unsafe UInt32(
      littleEndian: unit.loadUnaligned(fromByteOffset: 36, as: UInt32.self))
    let isWhole = unsafe Int(length) == unit.count && stored == checksum(unit)
    return isWhole ? .stamp(stamp) : .damaged(stamp)
  }

  @unsafe
  private static func number(_ unit: UnsafeRawBufferPointer, _ offset: Int) -> UInt64 {
    unsafe UInt64(littleEndian: unit.loadUnaligned(fromByteOffset: offset, as: UInt64.self))
  }

  @unsafe
  private static func checksum(_ unit: UnsafeRawBufferPointer) -> UInt32 {
    guard let start = unit.baseAddress else { return 0 }
    let head = unsafe cchecksum_crc32c(0, start, checksumOffset)
    return unsafe cchecksum_crc32c(
      head, start + checksumOffset + 4, unit.count - checksumOffset - 4)
  }
}
