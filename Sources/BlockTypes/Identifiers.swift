/// Identifiers that are carried through queues, tags and the wire. All trivial.

/// A node of a resource: DRBD's `node-id`, 0 to 31.
public struct NodeID: Hashable, Comparable, Sendable, BitwiseCopyable {
  /// The number in the configuration.
  public let value: UInt8

  /// The largest node id, as in DRBD.
  public static var max: UInt8 { 31 }

  /// Wraps a number; `nil` above 31.
  @inlinable public init?(_ value: UInt64) {
    guard value <= UInt64(NodeID.max) else { return nil }
    self.value = UInt8(value)
  }

  /// Orders by number.
  @inlinable public static func < (left: NodeID, right: NodeID) -> Bool {
    left.value < right.value
  }
}

/// A buffer of a pool, opaque to the core. The driver knows its memory and counts its holders.
public struct BufferID: Hashable, Sendable, BitwiseCopyable {
  /// Index in the pool; `UInt32.max` is "no buffer".
  public let value: UInt32

  /// Wraps an index.
  @inlinable public init(_ value: UInt32) { self.value = value }

  /// No buffer: a request without payload.
  public static var none: BufferID { BufferID(.max) }
}

/// A slot in a slab and the generation in which it was taken.
///
/// A completion for a slot that was freed and taken again carries the older generation, so it is
/// caught instead of being taken for the newer request.
public struct SlotID: Hashable, Sendable, BitwiseCopyable {
  /// Index in the slab.
  public let slot: UInt32
  /// How often the slot had been freed when this id was given out.
  public let generation: UInt32

  /// Joins the parts.
  @inlinable public init(slot: UInt32, generation: UInt32) {
    self.slot = slot
    self.generation = generation
  }

  /// The form carried through a 64-bit tag.
  @inlinable public var tag: UInt64 { UInt64(generation) << 32 | UInt64(slot) }

  /// Takes the form apart again.
  @inlinable public init(tag: UInt64) {
    self.slot = UInt32(truncatingIfNeeded: tag)
    self.generation = UInt32(truncatingIfNeeded: tag >> 32)
  }
}
