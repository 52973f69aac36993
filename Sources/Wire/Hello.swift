/// The first payload on a connection: who is calling, about what, in which protocol.
///
/// ```
///  0-1  lowest protocol version spoken     2-3  highest
///  4    node id   5  1 when Primary         6-7  resource name bytes, 1 ... 128
///  8-15 features, all 0 in version 2
/// 16-23 instance: 64 random bits of this run of the daemon
/// 24-31 epoch: how many connections to this peer this run has lost
/// 32-   resource name, UTF-8
/// ```
public import BlockTypes

/// Who calls, about what, in which protocol.
public struct Hello: Equatable, Sendable {
  /// The one version this code speaks.
  public static let protocolVersion: UInt16 = 2
  /// Most bytes of a resource name.
  public static let nameLimit = 128

  /// Lowest and highest protocol version that the caller speaks.
  public var versions: ClosedRange<UInt16> = protocolVersion...protocolVersion
  /// The caller.
  public var node: NodeID
  /// Whether the caller is Primary: a Primary tells its state last, so that its clients wait less.
  public var isPrimary = false
  /// Feature bits offered; none are defined in version 2.
  public var features: UInt64 = 0
  /// Random for each run of the daemon.
  public var instance: UInt64
  /// Connections to this peer that this run has lost. Tells a late dial from a new one.
  public var epoch: UInt64
  /// The resource.
  public var resource: String

  /// Joins the parts.
  public init(node: NodeID, instance: UInt64, epoch: UInt64, resource: String) {
    self.node = node
    self.instance = instance
    self.epoch = epoch
    self.resource = resource
  }

  /// Writes the payload and returns its length.
  @safe
  public func encode(into bytes: UnsafeMutableRawBufferPointer) -> Int {
    var writer = unsafe ByteWriter(bytes)
    writer.put(versions.lowerBound)
    writer.put(versions.upperBound)
    writer.put(node.value)
    writer.put(isPrimary ? 1 : 0 as UInt8)
    writer.put(UInt16(resource.utf8.count))
    writer.put(features)
    writer.put(instance)
    writer.put(epoch)
    for byte in resource.utf8 { writer.put(byte) }
    return writer.position
  }

  /// Parses a whole payload.
  @safe
  public init(parsing bytes: UnsafeRawBufferPointer) throws(WireError) {
    guard bytes.count >= 32 else { throw .truncated(have: bytes.count, need: 32) }
    let reader = unsafe ByteReader(bytes)
    let low = reader.uint16(at: 0)
    let high = reader.uint16(at: 2)
    guard low <= high else { throw .fieldOutOfRange(.protocolRange, UInt64(low)) }
    guard let node = NodeID(UInt64(reader.uint8(at: 4))) else {
      throw .fieldOutOfRange(.nodeID, UInt64(reader.uint8(at: 4)))
    }
    let length = Int(reader.uint16(at: 6))
    guard length >= 1, length <= Self.nameLimit, bytes.count == 32 + length else {
      throw .fieldOutOfRange(.nameLength, UInt64(length))
    }
    let slice = unsafe UnsafeRawBufferPointer(rebasing: bytes[32..<(32 + length)])
    guard let resource = unsafe String(validating: slice, as: UTF8.self) else {
      throw .fieldOutOfRange(.nameBytes, UInt64(length))
    }
    self.init(
      node: node, instance: reader.uint64(at: 16), epoch: reader.uint64(at: 24),
      resource: resource)
    let flags = reader.uint8(at: 5)
    guard flags <= 1 else { throw .fieldOutOfRange(.flags, UInt64(flags)) }
    isPrimary = flags == 1
    versions = low...high
    features = reader.uint64(at: 8)
  }
}
