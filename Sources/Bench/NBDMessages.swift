/// The NBD messages a load needs, as bytes. No socket, no state: see `NBDHandshake` for the order.
///
/// Client of fixed newstyle with GO and simple replies; all numbers are big-endian. Replies are
/// checked before anything in them is used: a server can end the benchmark, not crash it, and not
/// choose how much memory it takes.

/// How a server broke the protocol, or what it refused.
public enum NBDError: Error, Equatable, Sendable, CustomStringConvertible {
  /// A message starts with the wrong number.
  case badMagic(place: String, found: UInt64)
  /// The server does not speak fixed newstyle.
  case notFixedNewstyle(flags: UInt16)
  /// A reply to another option than the one that was sent.
  case unexpectedOption(UInt32)
  /// A reply type that GO cannot have.
  case unexpectedReplyType(UInt32)
  /// An option reply longer than the limit.
  case replyTooLong(UInt32, limit: UInt32)
  /// More informational replies than the limit.
  case tooManyReplies(limit: Int)
  /// An informational reply whose length does not fit its type.
  case badInformation(type: UInt16, length: UInt32)
  /// GO was acknowledged without telling the size.
  case noExportSize
  /// The server refused the export.
  case refused(export: String, type: UInt32, text: String)
  /// A reply to a request that is not in flight on this connection.
  case unknownCookie(UInt64)

  /// One line that says what was wrong where.
  public var description: String {
    switch self {
    case .badMagic(let place, let found):
      return "the \(place) starts with 0x\(String(found, radix: 16)): not an NBD server?"
    case .notFixedNewstyle(let flags):
      return "the server does not offer the fixed newstyle handshake (flags \(flags))"
    case .unexpectedOption(let option): return "reply to option \(option), which was not sent"
    case .unexpectedReplyType(let type): return "reply of type \(type) to GO"
    case .replyTooLong(let length, let limit):
      return "an option reply of \(length) bytes is longer than \(limit)"
    case .tooManyReplies(let limit): return "more than \(limit) replies to GO"
    case .badInformation(let type, let length):
      return "information of type \(type) cannot have \(length) bytes"
    case .noExportSize: return "the server accepted the export without telling its size"
    case .refused(let export, let type, let text):
      let reason = text.isEmpty ? Self.refusalText(type) : "\(Self.refusalText(type)): \(text)"
      return "export '\(export)' refused: \(reason)"
    case .unknownCookie(let cookie):
      return "a reply to request 0x\(String(cookie, radix: 16)), which is not in flight"
    }
  }

  private static func refusalText(_ type: UInt32) -> String {
    switch type & 0x7FFF_FFFF {
    case 1: "the server is too old to know GO"
    case 2: "forbidden by the server's policy"
    case 3: "the server calls the request invalid"
    case 4: "not supported on the server's platform"
    case 5: "the server demands TLS, which this program does not speak"
    case 6: "no such export"
    case 7: "the server is shutting down"
    case 8: "the server demands that its block size is used"
    case 9: "the request is too big"
    default: "error \(type & 0x7FFF_FFFF)"
    }
  }
}

/// What a server tells about an export.
public struct NBDExport: Equatable, Sendable {
  /// Bytes of the export.
  public var byteCount: UInt64 = 0
  /// The transmission flags.
  public var flags: UInt16 = 0
  /// The smallest request and the alignment of all.
  public var minimumBlockBytes: UInt32 = 1
  /// The largest payload.
  public var maximumPayloadBytes: UInt32 = 32 << 20

  /// Whether writes are refused.
  public var isReadOnly: Bool { flags & 1 << 1 != 0 }
  /// Whether FLUSH exists.
  public var canFlush: Bool { flags & 1 << 2 != 0 }
  /// Whether the FUA flag exists.
  public var canFUA: Bool { flags & 1 << 3 != 0 }
  /// Whether several connections see each other's completed writes.
  public var canMultiConn: Bool { flags & 1 << 8 != 0 }
}

/// The numbers of the protocol that are used here.
enum NBDNumber {
  static let greeting: UInt64 = 0x4e42_444d_4147_4943
  static let optionMagic: UInt64 = 0x4948_4156_454F_5054
  static let optionReplyMagic: UInt64 = 0x0003_e889_0455_65a9
  static let requestMagic: UInt32 = 0x2560_9513
  static let simpleReplyMagic: UInt32 = 0x6744_6698
  static let optionGo: UInt32 = 7
  static let replyAck: UInt32 = 1
  static let replyInfo: UInt32 = 3
  static let informationExport: UInt16 = 0
  static let informationBlockSize: UInt16 = 3
  static let commandRead: UInt16 = 0
  static let commandWrite: UInt16 = 1
  static let commandDisconnect: UInt16 = 2
  static let commandFlush: UInt16 = 3
  static let flagFUA: UInt16 = 1
  /// Longest export name the protocol allows.
  static let longestName = 4096
}

/// One request, without its payload: 28 bytes.
///
///     0-3 magic  4-5 flags  6-7 command  8-15 cookie  16-23 offset  24-27 length
struct NBDRequest: Equatable, BitwiseCopyable, Sendable {
  static let byteCount = 28

  var flags: UInt16 = 0
  var command: UInt16
  var cookie: UInt64
  var offset: UInt64 = 0
  var length: UInt32 = 0

  /// The request's bytes.
  @inline(__always)
  var encoded: InlineArray<28, UInt8> {
    var bytes = InlineArray<28, UInt8>(repeating: 0)
    var span = bytes.mutableSpan
    var raw = unsafe span.mutableBytes
    raw.storeBytes(of: NBDNumber.requestMagic.bigEndian, toByteOffset: 0, as: UInt32.self)
    raw.storeBytes(of: flags.bigEndian, toByteOffset: 4, as: UInt16.self)
    raw.storeBytes(of: command.bigEndian, toByteOffset: 6, as: UInt16.self)
    raw.storeBytes(of: cookie.bigEndian, toByteOffset: 8, as: UInt64.self)
    raw.storeBytes(of: offset.bigEndian, toByteOffset: 16, as: UInt64.self)
    raw.storeBytes(of: length.bigEndian, toByteOffset: 24, as: UInt32.self)
    return bytes
  }
}

/// A simple reply: 16 bytes, after which the data of a successful READ follow.
///
///     0-3 magic  4-7 error  8-15 cookie
struct NBDReply: Equatable, BitwiseCopyable, Sendable {
  static let byteCount = 16

  var error: UInt32
  var cookie: UInt64

  /// Parses the start of `bytes`, which holds at least 16.
  @inline(__always)
  init(parsing bytes: RawSpan) throws(NBDError) {
    precondition(bytes.byteCount >= Self.byteCount, "a reply is parsed when it is all there")
    let magic = bytes.bigEndian(at: 0, as: UInt32.self)
    guard magic == NBDNumber.simpleReplyMagic else {
      throw .badMagic(place: "reply", found: UInt64(magic))
    }
    error = bytes.bigEndian(at: 4, as: UInt32.self)
    cookie = bytes.bigEndian(at: 8, as: UInt64.self)
  }

  /// The words for an error number of the protocol.
  static func errorText(_ error: UInt32) -> String {
    switch error {
    case 1: "operation not permitted (EPERM)"
    case 5: "input/output error (EIO)"
    case 12: "out of memory (ENOMEM)"
    case 22: "invalid request (EINVAL)"
    case 28: "no space left (ENOSPC)"
    case 75: "too large (EOVERFLOW)"
    case 95: "not supported (ENOTSUP)"
    case 108: "the server is shutting down (ESHUTDOWN)"
    default: "error \(error)"
    }
  }
}

extension RawSpan {
  /// The big-endian number at `offset`, which must be inside.
  @inline(__always)
  func bigEndian<Number: FixedWidthInteger & BitwiseCopyable>(
    at offset: Int, as type: Number.Type
  ) -> Number {
    Number(bigEndian: unsafe unsafeLoadUnaligned(fromByteOffset: offset, as: type))
  }
}
