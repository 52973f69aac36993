/// Units of a block device, as types: an offset cannot be passed where a block index is wanted.

/// Bytes in one block: the unit of the out-of-sync bitmap and of coherent reads.
///
/// DRBD uses the same 4 KiB a bit; smaller would double the bitmap, larger would copy more in a
/// resync.
public let blockSize: UInt64 = 4096

/// Bytes in one sector: the smallest unit a client may address, and the unit a disk may tear at.
public let sectorSize: UInt64 = 512

/// Most payload bytes one core request, peer message or pooled buffer may carry: 1 MiB.
///
/// An export splits longer client requests. DRBD's largest bio is the same.
public let maxPayloadBytes: UInt32 = 1 << 20

/// Byte offset on the replicated volume.
public struct ByteOffset: Hashable, Comparable, Sendable, BitwiseCopyable {
  /// The offset in bytes from the start of the volume.
  public let bytes: UInt64

  /// Wraps a count of bytes.
  @inlinable public init(bytes: UInt64) { self.bytes = bytes }

  /// Orders by position.
  @inlinable public static func < (left: ByteOffset, right: ByteOffset) -> Bool {
    left.bytes < right.bytes
  }
}

/// Index of a 4 KiB block; the unit of the out-of-sync bitmap.
public struct BlockIndex: Hashable, Comparable, Sendable, BitwiseCopyable {
  /// Blocks from the start of the volume.
  public let value: UInt64

  /// Wraps a count of blocks.
  @inlinable public init(_ value: UInt64) { self.value = value }

  /// The block that holds the byte at `offset`.
  @inlinable public init(containing offset: ByteOffset) { self.value = offset.bytes / blockSize }

  /// The first byte of this block.
  @inlinable public var offset: ByteOffset { ByteOffset(bytes: value * blockSize) }

  /// Orders by position.
  @inlinable public static func < (left: BlockIndex, right: BlockIndex) -> Bool {
    left.value < right.value
  }
}

/// A half-open range of bytes on the volume: `start ..< end`.
public struct ByteRange: Hashable, Sendable, BitwiseCopyable {
  /// The first byte.
  public let start: UInt64
  /// One past the last byte.
  public let end: UInt64

  /// The range of `length` bytes at `offset`. The sum must not overflow: check outside input first.
  @inlinable public init(offset: ByteOffset, length: UInt64) {
    self.start = offset.bytes
    self.end = offset.bytes + length
  }

  /// The range `start ..< end`.
  @inlinable public init(start: UInt64, end: UInt64) {
    precondition(start <= end, "a range must not end before it starts")
    self.start = start
    self.end = end
  }

  /// Bytes in the range.
  @inlinable public var length: UInt64 { end - start }

  /// The first byte as an offset.
  @inlinable public var offset: ByteOffset { ByteOffset(bytes: start) }

  /// Whether the two ranges share a byte. An empty range shares none.
  @inlinable public func overlaps(_ other: ByteRange) -> Bool {
    max(start, other.start) < min(end, other.end)
  }

  /// Whether every byte of `other` is in this range.
  @inlinable public func contains(_ other: ByteRange) -> Bool {
    start <= other.start && other.end <= end
  }
}

/// A moment on a monotonic clock, in nanoseconds from an arbitrary start. Never a wall clock.
public struct Instant: Hashable, Comparable, Sendable, BitwiseCopyable {
  /// Nanoseconds since the clock's start.
  public let nanoseconds: UInt64

  /// Wraps a reading of the clock.
  @inlinable public init(nanoseconds: UInt64) { self.nanoseconds = nanoseconds }

  /// A moment that never comes.
  public static var never: Instant { Instant(nanoseconds: .max) }

  /// Orders earlier before later.
  @inlinable public static func < (left: Instant, right: Instant) -> Bool {
    left.nanoseconds < right.nanoseconds
  }

  /// The moment `milliseconds` after this one; `.never` when that would overflow.
  @inlinable public func advanced(milliseconds: UInt64) -> Instant {
    let (product, multiplied) = milliseconds.multipliedReportingOverflow(by: 1_000_000)
    let (sum, added) = nanoseconds.addingReportingOverflow(product)
    return multiplied || added ? .never : Instant(nanoseconds: sum)
  }

  /// Milliseconds since `earlier`; 0 when `earlier` is later.
  @inlinable public func milliseconds(since earlier: Instant) -> UInt64 {
    nanoseconds > earlier.nanoseconds ? (nanoseconds - earlier.nanoseconds) / 1_000_000 : 0
  }
}
