/// How the messages of one connection are protected from change on their way: the tag between the
/// header and the payload.
///
/// ```
/// header, 40 bytes | tag, 0 ... 32 bytes | payload
/// ```
/// The header has a CRC of its own, always. The tag's length depends on what both sides have agreed
/// on at the beginning of the connection (`data-integrity-alg`, `shared-secret`) and on the
/// message:
///
/// | agreed on                | no payload | data of the volume | other payload |
/// | ------------------------ | ---------- | ------------------ | ------------- |
/// | nothing                  | 0          | 0                  | 4, CRC32C     |
/// | `crc32c`                 | 0          | 4, CRC32C          | 4, CRC32C     |
/// | `xxh3-128`               | 0          | 16, XXH3           | 16, XXH3      |
/// | `sha256`                 | 0          | 32, SHA-256        | 32, SHA-256   |
/// | `sha256` and a secret    | 32, HMAC   | 32, HMAC           | 32, HMAC      |
///
/// A tag is over the header and the payload. XXH3 and SHA-256 are taken over the header's own
/// digest and the payload's, one after the other. An HMAC-SHA256 is over the number of the message
/// in its direction (8 bytes, from 0), the header and the payload, under a key of the connection
/// and the direction: a message that somebody changed, left out, repeated or put elsewhere has a
/// wrong one. The others find accidents only.
import BlockTypes
import CChecksum
public import Digests

/// `data-integrity-alg`: what the data on the wire is protected with.
public enum IntegrityAlgorithm: UInt8, Sendable, BitwiseCopyable, CaseIterable {
  /// TCP's own checksum only.
  case none = 0
  case crc32c = 1
  case xxh3 = 2
  case sha256 = 3

  /// The algorithm that compares blocks, which has the same number; `nil` for `none`.
  private var digest: DigestAlgorithm? { DigestAlgorithm(rawValue: rawValue) }

  /// The name in a configuration.
  public var name: String { digest?.name ?? "none" }

  /// The algorithm of this name.
  public init?(named name: String) {
    guard let match = Self.allCases.first(where: { $0.name == name }) else { return nil }
    self = match
  }

  /// Bytes of a tag.
  var byteCount: Int { digest?.byteCount ?? 0 }
}

/// The bytes between a header and its payload; 0 where it has fewer than 32.
public struct FrameTag: Equatable, Sendable, BitwiseCopyable {
  private var words: (UInt64, UInt64, UInt64, UInt64) = (0, 0, 0, 0)

  /// Most bytes of a tag.
  public static let limit = 32

  /// The tag of a message without one.
  public static let none = FrameTag()

  init() {}

  /// Takes the first `count` bytes of `bytes`.
  @safe
  public init(_ bytes: UnsafeRawBufferPointer, count: Int) {
    precondition(count <= Self.limit && count <= bytes.count, "no tag is that long")
    unsafe withUnsafeMutableBytes(of: &words) {
      unsafe $0.copyMemory(from: UnsafeRawBufferPointer(rebasing: bytes[0..<count]))
    }
  }

  /// Writes the first `count` bytes to the start of `place`.
  @safe
  public func store(_ count: Int, into place: UnsafeMutableRawBufferPointer) {
    precondition(count <= Self.limit && count <= place.count, "no room for the tag")
    unsafe withUnsafeBytes(of: words) {
      unsafe place.copyMemory(from: UnsafeRawBufferPointer(rebasing: $0[0..<count]))
    }
  }

  fileprivate mutating func fill(_ body: (UnsafeMutableRawBufferPointer) -> Void) {
    unsafe withUnsafeMutableBytes(of: &words) { unsafe body($0) }
  }

  /// Whether all bytes are equal; takes the same time wherever they differ.
  public static func == (first: FrameTag, second: FrameTag) -> Bool {
    let difference =
      (first.words.0 ^ second.words.0) | (first.words.1 ^ second.words.1)
      | (first.words.2 ^ second.words.2) | (first.words.3 ^ second.words.3)
    return difference == 0
  }
}

/// How long the tags of a connection are: all that a message without one has to ask.
public struct FrameFormat: Equatable, Sendable, BitwiseCopyable {
  /// What was agreed on.
  public let algorithm: IntegrityAlgorithm
  /// Whether messages carry an HMAC.
  public let isKeyed: Bool

  /// Before anything was agreed on.
  public static let initial = FrameFormat(algorithm: .none, isKeyed: false)

  /// Bytes of the tag behind this header.
  public func tagBytes(_ header: MessageHeader) -> Int {
    if isKeyed { return algorithm.byteCount }
    guard header.payloadBytes > 0 else { return 0 }
    guard algorithm == .none else { return algorithm.byteCount }
    return header.type.carriesVolumeData ? 0 : IntegrityAlgorithm.crc32c.byteCount
  }
}

/// What protects the messages of one connection.
///
/// What must hold: `seal` is called once for each message, in the order they are sent, and `opens`
/// once for each that came, in the order they came.
public struct FrameGuard: Sendable, BitwiseCopyable {
  /// What was agreed on.
  public let format: FrameFormat
  private let keys: Keys?
  private var sent: UInt64 = 0
  private var received: UInt64 = 0

  private struct Keys: Sendable, BitwiseCopyable {
    var sending: SessionKey
    var receiving: SessionKey
  }

  /// Before anything was agreed on.
  public static let initial = FrameGuard(.none)

  /// Finds accidents.
  public init(_ algorithm: IntegrityAlgorithm) {
    format = FrameFormat(algorithm: algorithm, isKeyed: false)
    keys = nil
  }

  /// Finds whatever was not sent by who has the other side of the keys.
  public init(sending: SessionKey, receiving: SessionKey) {
    format = FrameFormat(algorithm: .sha256, isKeyed: true)
    keys = Keys(sending: sending, receiving: receiving)
  }

  /// The tag of the next message that is sent.
  @safe
  public mutating func seal(
    _ header: MessageHeader, _ payload: UnsafeRawBufferPointer
  ) -> FrameTag {
    let tag = unsafe tag(header, payload, keys?.sending, sent)
    sent += 1
    return tag
  }

  /// Whether the next message came as it was sent.
  @safe
  public mutating func opens(
    _ header: MessageHeader, _ tag: FrameTag, _ payload: UnsafeRawBufferPointer
  ) -> Bool {
    let expected = unsafe self.tag(header, payload, keys?.receiving, received)
    received += 1
    return tag == expected
  }

  @unsafe private func tag(
    _ header: MessageHeader, _ payload: UnsafeRawBufferPointer, _ key: SessionKey?,
    _ number: UInt64
  ) -> FrameTag {
    var result = FrameTag()
    guard format.tagBytes(header) > 0 else { return result }
    precondition(payload.count == Int(header.payloadBytes), "not the payload of this header")
    unsafe withUnsafeTemporaryAllocation(
      byteCount: MessageHeader.byteCount, alignment: 8
    ) { bytes in
      header.encode(into: bytes)
      let head = UnsafeRawBufferPointer(bytes)
      unsafe result.fill { place in
        if let key {
          var bigEndian = number.bigEndian
          unsafe withUnsafeBytes(of: &bigEndian) {
            key.authenticationCode($0, head, payload, into: place)
          }
        } else {
          unsafe Self.digest(format.algorithm, head, payload, into: place)
        }
      }
    }
    return result
  }

  @unsafe private static func digest(
    _ algorithm: IntegrityAlgorithm, _ head: UnsafeRawBufferPointer,
    _ payload: UnsafeRawBufferPointer, into place: UnsafeMutableRawBufferPointer
  ) {
    guard let start = head.baseAddress, let data = payload.baseAddress else { return }
    switch algorithm {
    case .none, .crc32c:
      let crc = unsafe cchecksum_crc32c(
        cchecksum_crc32c(0, start, head.count), data, payload.count)
      unsafe place.storeBytes(of: crc.bigEndian, as: UInt32.self)
    case .xxh3:
      unsafe withUnsafeTemporaryAllocation(byteCount: 32, alignment: 8) { both in
        guard let first = both.baseAddress else { return }
        unsafe cchecksum_xxh3_128(
          start, head.count, first.assumingMemoryBound(to: UInt8.self))
        unsafe cchecksum_xxh3_128(
          data, payload.count, (first + 16).assumingMemoryBound(to: UInt8.self))
        guard let end = place.baseAddress else { return }
        unsafe cchecksum_xxh3_128(first, 32, end.assumingMemoryBound(to: UInt8.self))
      }
    case .sha256:
      unsafe withUnsafeTemporaryAllocation(byteCount: 64, alignment: 8) { both in
        unsafe SHA256Digest.digest(
          head, into: UnsafeMutableRawBufferPointer(rebasing: both[0..<32]))
        unsafe SHA256Digest.digest(
          payload, into: UnsafeMutableRawBufferPointer(rebasing: both[32..<64]))
        SHA256Digest.digest(UnsafeRawBufferPointer(both), into: place)
      }
    }
  }
}

extension FrameGuard {
  /// Puts the tag of a message between its header and its payload, which follow each other at the
  /// start of `bytes`; returns how many bytes there are then. There is room for `FrameTag.limit`
  /// more.
  @safe
  public mutating func insertTag(
    _ header: MessageHeader, into bytes: UnsafeMutableRawBufferPointer
  ) -> Int {
    let payload = Int(header.payloadBytes)
    let whole = MessageHeader.byteCount + payload
    let count = format.tagBytes(header)
    precondition(bytes.count >= whole + count, "no room for the tag")
    let tag = unsafe seal(
      header, UnsafeRawBufferPointer(rebasing: bytes[MessageHeader.byteCount..<whole]))
    guard count > 0, let start = bytes.baseAddress else { return whole }
    let place = unsafe start + MessageHeader.byteCount
    unsafe (place + count).copyMemory(from: place, byteCount: payload)
    unsafe tag.store(count, into: UnsafeMutableRawBufferPointer(start: place, count: count))
    return whole + count
  }
}
