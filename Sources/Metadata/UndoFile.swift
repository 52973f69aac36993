/// An undo file: the blocks that a victim gave up, as they were. Bytes in `docs/formats.md`.
///
/// A header of 4096 bytes, then records one after the other until the end of the file. Every byte
/// is covered by a checksum. The header is written last: a file without one is not complete.
public import BlockTypes
import CChecksum

/// Why bytes are no part of an undo file.
public enum UndoFileError: Error, Equatable, Sendable, CustomStringConvertible {
  /// Shorter than it says or must be.
  case truncated(have: UInt64, need: UInt64)
  /// Something else, or never finished.
  case noMagic(found: UInt64)
  /// Damaged.
  case badChecksum(at: UInt64)
  /// Of a later program.
  case unknownVersion(UInt32)
  /// A field that no correct program writes.
  case badField(String, UInt64)

  /// What is wrong, in words.
  public var description: String {
    switch self {
    case .truncated(let have, let need): "\(have) bytes, at least \(need) are needed"
    case .noMagic: "it is no undo file, or was never finished"
    case .badChecksum(let place): "damaged: the checksum at byte \(place) does not match"
    case .unknownVersion(let version):
      "undo file version \(version), but this program reads version \(UndoHeader.version)"
    case .badField(let name, let value): "field '\(name)' is \(value)"
    }
  }
}

/// What the file is about.
public struct UndoHeader: Equatable, Sendable {
  /// Bytes on disk.
  public static let byteCount = 4096
  /// "ASHLUNDO".
  public static let magic: UInt64 = 0x4153_484C_554E_444F
  /// The version that this program writes.
  public static let version: UInt32 = 1
  /// Longest name of a resource, in bytes.
  public static let nameLimit = 64

  /// Bytes of the volume.
  public var volumeBytes: UInt64
  /// Bytes of the file, header included.
  public var fileBytes = UInt64(Self.byteCount)
  /// Records in the file.
  public var recordCount: UInt64 = 0
  /// Bytes of the volume that were kept, zeroes included.
  public var keptBytes: UInt64 = 0
  /// When, in seconds since 1970.
  public var keptAt: UInt64 = 0
  /// The node whose data it is.
  public var node: NodeID
  /// The node whose data replaced it.
  public var peer: NodeID
  /// The number of the volume.
  public var volume: UInt16 = 0
  /// Nothing described the difference: all of the volume was kept.
  public var isWhole = false
  /// The resource.
  public var resource: String
  /// The newest generation of what was given up.
  public var newest: Generation?
  /// The newest generation that both had.
  public var ancestor: Generation?
  /// The newest generation of the data that replaced it.
  public var survivor: Generation?

  /// A header without records.
  public init(resource: String, volumeBytes: UInt64, node: NodeID, peer: NodeID) {
    precondition((1...Self.nameLimit).contains(resource.utf8.count), "names are bounded")
    self.resource = resource
    self.volumeBytes = volumeBytes
    self.node = node
    self.peer = peer
  }

  /// Writes the 4096 bytes.
  @safe
  public func encode(into bytes: UnsafeMutableRawBufferPointer) {
    precondition(bytes.count == Self.byteCount, "a header is 4096 bytes")
    unsafe bytes.initializeMemory(as: UInt8.self, repeating: 0)
    unsafe bytes.storeBigEndian(Self.magic, at: 0)
    unsafe bytes.storeBigEndian(Self.version, at: 8)
    unsafe bytes.storeBigEndian(volumeBytes, at: 16)
    unsafe bytes.storeBigEndian(fileBytes, at: 24)
    unsafe bytes.storeBigEndian(recordCount, at: 32)
    unsafe bytes.storeBigEndian(keptBytes, at: 40)
    unsafe bytes.storeBigEndian(keptAt, at: 48)
    unsafe bytes.storeBigEndian(node.value, at: 56)
    unsafe bytes.storeBigEndian(peer.value, at: 57)
    unsafe bytes.storeBigEndian(volume, at: 58)
    var flags: UInt8 = isWhole ? 1 : 0
    for (index, generation) in [newest, ancestor, survivor].enumerated() {
      guard let generation else { continue }
      flags |= 2 << UInt8(index)
      generation.store(into: bytes, at: 64 + index * Generation.recordBytes)
    }
    unsafe bytes.storeBigEndian(flags, at: 60)
    unsafe bytes.storeBigEndian(UInt8(resource.utf8.count), at: 61)
    for (index, byte) in resource.utf8.enumerated() {
      unsafe bytes.storeBigEndian(byte, at: 136 + index)
    }
    unsafe bytes.storeBigEndian(Self.checksum(UnsafeRawBufferPointer(bytes)), at: 12)
  }

  /// Parses 4096 bytes.
  @safe
  public init(parsing bytes: UnsafeRawBufferPointer) throws(UndoFileError) {
    precondition(bytes.count == Self.byteCount, "a header is 4096 bytes")
    let magic: UInt64 = unsafe bytes.bigEndian(at: 0)
    guard magic == Self.magic else { throw .noMagic(found: magic) }
    let stored: UInt32 = unsafe bytes.bigEndian(at: 12)
    guard unsafe stored == Self.checksum(bytes) else { throw .badChecksum(at: 0) }
    let version: UInt32 = unsafe bytes.bigEndian(at: 8)
    guard version == Self.version else { throw .unknownVersion(version) }
    volumeBytes = unsafe bytes.bigEndian(at: 16)
    guard volumeBytes % blockSize == 0, volumeBytes > 0, volumeBytes <= Superblock.volumeLimit
    else { throw .badField("volume bytes", volumeBytes) }
    fileBytes = unsafe bytes.bigEndian(at: 24)
    // Each record takes its head, and describes at least one block.
    recordCount = unsafe bytes.bigEndian(at: 32)
    keptBytes = unsafe bytes.bigEndian(at: 40)
    guard keptBytes <= volumeBytes, keptBytes % blockSize == 0 else {
      throw .badField("kept bytes", keptBytes)
    }
    guard recordCount <= keptBytes / blockSize else { throw .badField("records", recordCount) }
    let least = UInt64(Self.byteCount) + recordCount * UInt64(UndoRecord.byteCount)
    guard fileBytes >= least, fileBytes <= least + keptBytes else {
      throw .badField("file bytes", fileBytes)
    }
    keptAt = unsafe bytes.bigEndian(at: 48)
    node = try unsafe Self.node(bytes, at: 56)
    peer = try unsafe Self.node(bytes, at: 57)
    volume = unsafe bytes.bigEndian(at: 58)
    let flags: UInt8 = unsafe bytes.bigEndian(at: 60)
    guard flags < 16 else { throw .badField("flags", UInt64(flags)) }
    isWhole = flags & 1 != 0
    resource = try unsafe Self.name(bytes)
    if flags & 2 != 0 { newest = try unsafe Self.generation(bytes, at: 64) }
    if flags & 4 != 0 { ancestor = try unsafe Self.generation(bytes, at: 88) }
    if flags & 8 != 0 { survivor = try unsafe Self.generation(bytes, at: 112) }
  }

  private static func name(_ bytes: UnsafeRawBufferPointer) throws(UndoFileError) -> String {
    let count: UInt8 = unsafe bytes.bigEndian(at: 61)
    guard count >= 1, count <= nameLimit else { throw .badField("name length", UInt64(count)) }
    let slice = unsafe UnsafeRawBufferPointer(rebasing: bytes[136..<(136 + Int(count))])
    guard let name = unsafe String(validating: slice, as: UTF8.self) else {
      throw .badField("name", UInt64(count))
    }
    return name
  }

  private static func node(
    _ bytes: UnsafeRawBufferPointer, at offset: Int
  ) throws(UndoFileError) -> NodeID {
    let value: UInt8 = unsafe bytes.bigEndian(at: offset)
    guard let node = NodeID(UInt64(value)) else { throw .badField("node id", UInt64(value)) }
    return node
  }

  private static func generation(
    _ bytes: UnsafeRawBufferPointer, at offset: Int
  ) throws(UndoFileError) -> Generation {
    guard let generation = Generation(record: bytes, at: offset) else {
      throw .badField("node id", UInt64(unsafe bytes.bigEndian(at: offset + 16, as: UInt8.self)))
    }
    return generation
  }

  private static func checksum(_ bytes: UnsafeRawBufferPointer) -> UInt32 {
    var zero: UInt32 = 0
    guard let base = bytes.baseAddress else { return 0 }
    var crc = unsafe cchecksum_crc32c(0, base, 12)
    crc = unsafe cchecksum_crc32c(crc, &zero, 4)
    return unsafe cchecksum_crc32c(crc, base + 16, byteCount - 16)
  }
}

/// The head of one record: a range of the volume, whose content follows unless it was zeroes.
public struct UndoRecord: Equatable, Sendable, BitwiseCopyable {
  /// Bytes of the head.
  public static let byteCount = 32
  /// "UREC".
  public static let magic: UInt32 = 0x5552_4543
  /// Most content that follows a head: a reader need not hold more.
  public static let contentLimit: UInt64 = 1 << 20

  /// What was kept: whole blocks.
  public var range: ByteRange
  /// The range was all zeroes; no content follows.
  public var isZeroes: Bool

  /// Joins the parts.
  public init(range: ByteRange, isZeroes: Bool) {
    self.range = range
    self.isZeroes = isZeroes
  }

  /// Bytes that follow the head.
  public var contentBytes: UInt64 { isZeroes ? 0 : range.length }

  /// Writes the 32 bytes of the head, given the content that follows.
  @safe
  public func encode(
    into bytes: UnsafeMutableRawBufferPointer, content: UnsafeRawBufferPointer
  ) {
    precondition(bytes.count == Self.byteCount, "a head is 32 bytes")
    precondition(UInt64(content.count) == contentBytes, "the content of another record")
    unsafe bytes.initializeMemory(as: UInt8.self, repeating: 0)
    unsafe bytes.storeBigEndian(Self.magic, at: 0)
    unsafe bytes.storeBigEndian(range.start, at: 8)
    unsafe bytes.storeBigEndian(range.length, at: 16)
    unsafe bytes.storeBigEndian(isZeroes ? 1 : 0 as UInt32, at: 24)
    let checksum = unsafe Self.checksum(UnsafeRawBufferPointer(bytes), content)
    unsafe bytes.storeBigEndian(checksum, at: 4)
  }

  /// Parses a head; what follows it is checked by `isIntact`.
  @safe
  public init(
    parsing bytes: UnsafeRawBufferPointer, of header: UndoHeader, at place: UInt64
  ) throws(UndoFileError) {
    precondition(bytes.count == Self.byteCount, "a head is 32 bytes")
    let magic: UInt32 = unsafe bytes.bigEndian(at: 0)
    guard magic == Self.magic else { throw .badField("record at \(place)", UInt64(magic)) }
    let start: UInt64 = unsafe bytes.bigEndian(at: 8)
    let length: UInt64 = unsafe bytes.bigEndian(at: 16)
    let (end, overflow) = start.addingReportingOverflow(length)
    guard !overflow, end <= header.volumeBytes, length > 0, start % blockSize == 0,
      length % blockSize == 0
    else { throw .badField("range of the record at \(place)", start) }
    let flags: UInt32 = unsafe bytes.bigEndian(at: 24)
    guard flags <= 1 else { throw .badField("flags of the record at \(place)", UInt64(flags)) }
    isZeroes = flags == 1
    guard isZeroes || length <= Self.contentLimit else {
      throw .badField("length of the record at \(place)", length)
    }
    range = ByteRange(start: start, end: end)
  }

  /// Whether head and content are what was written.
  @safe
  public static func isIntact(
    _ head: UnsafeRawBufferPointer, content: UnsafeRawBufferPointer
  ) -> Bool {
    let stored: UInt32 = unsafe head.bigEndian(at: 4)
    return unsafe stored == checksum(head, content)
  }

  private static func checksum(
    _ head: UnsafeRawBufferPointer, _ content: UnsafeRawBufferPointer
  ) -> UInt32 {
    guard let base = head.baseAddress else { return 0 }
    let crc = unsafe cchecksum_crc32c(0, base + 8, byteCount - 8)
    guard let data = content.baseAddress, content.count > 0 else { return crc }
    return unsafe cchecksum_crc32c(crc, data, content.count)
  }
}
