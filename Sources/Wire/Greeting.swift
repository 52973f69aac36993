/// The first message each way on a connection, before anything is believed: who is there, what the
/// connection is to be protected with, and a challenge.
///
/// ```
///  0-1  lowest protocol version spoken     2-3  highest
///  4    node id   5  1 who dialed, 2 who accepted
///  6    data-integrity-alg: 0 none, 1 crc32c, 2 xxh3-128, 3 sha256
///  7    cram-hmac-alg: 0 none, 1 sha1, 2 sha256, 3 sha384, 4 sha512
///  8-9  resource name bytes, 1 ... 128     10-15  0
/// 16-47 challenge: 256 random bits
/// 48-   resource name, UTF-8
/// ```
public import BlockTypes
public import Digests

/// Which end of a connection a node has.
public enum ConnectionSide: UInt8, Sendable, BitwiseCopyable, CaseIterable {
  case dialer = 1
  case acceptor = 2

  /// The other end.
  public var other: ConnectionSide { self == .dialer ? .acceptor : .dialer }
}

/// 256 random bits, used once.
public struct Challenge: Equatable, Sendable, BitwiseCopyable {
  private let words: (UInt64, UInt64, UInt64, UInt64)

  /// Takes the bits from a generator that nobody can foresee.
  public init(using generator: inout some RandomNumberGenerator) {
    words = (generator.next(), generator.next(), generator.next(), generator.next())
  }

  fileprivate init(_ reader: ByteReader, at start: Int) {
    words = (
      reader.uint64(at: start), reader.uint64(at: start + 8), reader.uint64(at: start + 16),
      reader.uint64(at: start + 24)
    )
  }

  fileprivate func put(into writer: inout ByteWriter) {
    writer.put(words.0)
    writer.put(words.1)
    writer.put(words.2)
    writer.put(words.3)
  }

  /// Whether all bits are equal.
  public static func == (first: Challenge, second: Challenge) -> Bool {
    first.words == second.words
  }
}

/// Who is at one end of a connection, and how it wants it protected.
public struct Greeting: Equatable, Sendable {
  /// Lowest and highest protocol version that the sender speaks.
  public var versions: ClosedRange<UInt16> = Hello.protocolVersion...Hello.protocolVersion
  /// The sender.
  public var node: NodeID
  /// Its end of the connection.
  public var side: ConnectionSide
  /// What data on the wire is to be protected with.
  public var integrity = IntegrityAlgorithm.none
  /// What the two are to prove with that they know the secret; `nil` without one.
  public var authentication: HashAlgorithm?
  /// New for each connection.
  public var challenge: Challenge
  /// The resource.
  public var resource: String

  /// Joins the parts.
  public init(node: NodeID, side: ConnectionSide, challenge: Challenge, resource: String) {
    self.node = node
    self.side = side
    self.challenge = challenge
    self.resource = resource
  }

  /// Bytes in front of the name.
  private static let fixedBytes = 48

  /// The bytes of the payload.
  public var encoded: [UInt8] {
    var bytes = [UInt8](repeating: 0, count: Self.fixedBytes + resource.utf8.count)
    unsafe bytes.withUnsafeMutableBytes { place in
      var writer = unsafe ByteWriter(place)
      writer.put(versions.lowerBound)
      writer.put(versions.upperBound)
      writer.put(node.value)
      writer.put(side.rawValue)
      writer.put(integrity.rawValue)
      writer.put(authentication?.rawValue ?? 0)
      writer.put(UInt16(resource.utf8.count))
      writer.put(0 as UInt16)
      writer.put(0 as UInt32)
      challenge.put(into: &writer)
      for byte in resource.utf8 { writer.put(byte) }
    }
    return bytes
  }

  /// Parses a whole payload.
  @safe
  public init(parsing bytes: UnsafeRawBufferPointer) throws(WireError) {
    guard bytes.count >= Self.fixedBytes else {
      throw .truncated(have: bytes.count, need: Self.fixedBytes)
    }
    let reader = unsafe ByteReader(bytes)
    let low = reader.uint16(at: 0)
    let high = reader.uint16(at: 2)
    guard low <= high else { throw .fieldOutOfRange(.protocolRange, UInt64(low)) }
    guard let node = NodeID(UInt64(reader.uint8(at: 4))) else {
      throw .fieldOutOfRange(.nodeID, UInt64(reader.uint8(at: 4)))
    }
    guard let side = ConnectionSide(rawValue: reader.uint8(at: 5)) else {
      throw .fieldOutOfRange(.side, UInt64(reader.uint8(at: 5)))
    }
    guard let integrity = IntegrityAlgorithm(rawValue: reader.uint8(at: 6)) else {
      throw .fieldOutOfRange(.integrity, UInt64(reader.uint8(at: 6)))
    }
    let hash = reader.uint8(at: 7)
    guard hash == 0 || HashAlgorithm(rawValue: hash) != nil else {
      throw .fieldOutOfRange(.authentication, UInt64(hash))
    }
    let length = Int(reader.uint16(at: 8))
    guard length >= 1, length <= Hello.nameLimit, bytes.count == Self.fixedBytes + length else {
      throw .fieldOutOfRange(.nameLength, UInt64(length))
    }
    let name = unsafe UnsafeRawBufferPointer(rebasing: bytes[Self.fixedBytes...])
    guard let resource = unsafe String(validating: name, as: UTF8.self) else {
      throw .fieldOutOfRange(.nameBytes, UInt64(length))
    }
    self.init(
      node: node, side: side, challenge: Challenge(reader, at: 16), resource: resource)
    versions = low...high
    self.integrity = integrity
    authentication = HashAlgorithm(rawValue: hash)
  }
}
