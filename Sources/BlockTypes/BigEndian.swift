/// Big-endian numbers in raw memory: the one place where bytes of disks and links become numbers.
///
/// A place outside the memory traps, so that lengths are checked before places are read.

extension UnsafeRawBufferPointer {
  /// The big-endian number at `offset`, at any alignment.
  @inlinable @inline(__always)
  public func bigEndian<Number: FixedWidthInteger & BitwiseCopyable>(
    at offset: Int, as type: Number.Type = Number.self
  ) -> Number {
    precondition(offset >= 0, "a place before the start")
    precondition(offset + MemoryLayout<Number>.size <= count, "a place past the end")
    return Number(bigEndian: unsafe loadUnaligned(fromByteOffset: offset, as: type))
  }
}

extension UnsafeMutableRawBufferPointer {
  /// Writes `number` big-endian at `offset`, at any alignment.
  @inlinable @inline(__always)
  public func storeBigEndian<Number: FixedWidthInteger & BitwiseCopyable>(
    _ number: Number, at offset: Int
  ) {
    precondition(offset >= 0, "a place before the start")
    precondition(offset + MemoryLayout<Number>.size <= count, "a place past the end")
    unsafe storeBytes(of: number.bigEndian, toByteOffset: offset, as: Number.self)
  }
}
