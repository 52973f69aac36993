/// The 24 bytes of a generation, the same on a disk, in an undo file and between peers.
///
/// ```
///  0-7  number
///  8-15 id
/// 16    author
/// 17    bit 0 its author was Primary before
/// 18-19 0
/// 20-23 when it began, in seconds since 1970
/// ```
/// All numbers are big-endian.

extension Generation {
  /// Bytes of a record.
  public static let recordBytes = 24

  /// Reads the record at `offset`; `nil` when its author is no node.
  @safe
  public init?(record bytes: UnsafeRawBufferPointer, at offset: Int) {
    let value: UInt8 = unsafe bytes.bigEndian(at: offset + 16)
    guard let author = NodeID(UInt64(value)) else { return nil }
    self.init(
      number: unsafe bytes.bigEndian(at: offset), id: unsafe bytes.bigEndian(at: offset + 8),
      author: author)
    let flags: UInt8 = unsafe bytes.bigEndian(at: offset + 17)
    continuesPrimary = flags & 1 != 0
    beganAt = unsafe bytes.bigEndian(at: offset + 20)
  }

  /// Writes the record at `offset`.
  @safe
  public func store(into bytes: UnsafeMutableRawBufferPointer, at offset: Int) {
    unsafe bytes.storeBigEndian(number, at: offset)
    unsafe bytes.storeBigEndian(id, at: offset + 8)
    unsafe bytes.storeBigEndian(author.value, at: offset + 16)
    unsafe bytes.storeBigEndian(continuesPrimary ? 1 : 0 as UInt8, at: offset + 17)
    unsafe bytes.storeBigEndian(0 as UInt16, at: offset + 18)
    unsafe bytes.storeBigEndian(beganAt, at: offset + 20)
  }
}
