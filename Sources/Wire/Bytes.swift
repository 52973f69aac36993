/// Big-endian numbers in raw memory, one after the other or at given places, bounds-checked.
public import BlockTypes

/// Reads numbers at given places; a place outside the memory traps, so lengths are checked first.
@safe
public struct ByteReader {
  private let bytes: UnsafeRawBufferPointer

  /// A reader over `bytes`, which must outlive it.
  public init(_ bytes: UnsafeRawBufferPointer) { unsafe self.bytes = bytes }

  /// Bytes in all.
  public var count: Int { unsafe bytes.count }

  /// The byte at `offset`.
  public func uint8(at offset: Int) -> UInt8 { unsafe bytes.bigEndian(at: offset) }
  /// The 16-bit number at `offset`.
  public func uint16(at offset: Int) -> UInt16 { unsafe bytes.bigEndian(at: offset) }
  /// The 32-bit number at `offset`.
  public func uint32(at offset: Int) -> UInt32 { unsafe bytes.bigEndian(at: offset) }
  /// The 64-bit number at `offset`.
  public func uint64(at offset: Int) -> UInt64 { unsafe bytes.bigEndian(at: offset) }
  /// The generation at `offset`; `nil` when its author is no node.
  public func generation(at offset: Int) -> Generation? {
    unsafe Generation(record: bytes, at: offset)
  }
}

/// Writes numbers one after the other; writing past the end traps.
@safe
public struct ByteWriter {
  private let bytes: UnsafeMutableRawBufferPointer
  /// Where the next number goes.
  public var position = 0

  /// A writer over `bytes`, which must outlive it.
  public init(_ bytes: UnsafeMutableRawBufferPointer) { unsafe self.bytes = bytes }

  /// Writes `number` and moves on.
  @inline(__always)
  public mutating func put<Number: FixedWidthInteger & BitwiseCopyable>(_ number: Number) {
    let end = position + MemoryLayout<Number>.size
    unsafe bytes.storeBigEndian(number, at: position)
    position = end
  }

  /// Writes a generation and moves on.
  public mutating func put(_ generation: Generation) {
    unsafe generation.store(into: bytes, at: position)
    position += Generation.recordBytes
  }
}
