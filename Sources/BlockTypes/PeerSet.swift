/// A set of the peers of one resource, one bit a peer slot. At most 31 peers, as in DRBD.
public struct PeerSet: Equatable, Sendable, BitwiseCopyable {
  /// Bit `n` stands for the peer in slot `n`.
  public private(set) var bits: UInt32

  /// The empty set.
  @inlinable public init() { self.init(bits: 0) }

  /// The set with the given bits.
  public init(bits: UInt32) { self.bits = bits }

  /// Whether nobody is in it.
  public var isEmpty: Bool { bits == 0 }
  /// How many peers are in it.
  public var count: Int { bits.nonzeroBitCount }

  /// Whether the peer in `slot` is in it.
  public func contains(_ slot: Int) -> Bool { bits & (1 << UInt32(slot)) != 0 }
  /// Adds the peer in `slot`.
  public mutating func insert(_ slot: Int) { bits |= 1 << UInt32(slot) }
  /// Takes the peer in `slot` out.
  public mutating func remove(_ slot: Int) { bits &= ~(1 << UInt32(slot)) }
}
