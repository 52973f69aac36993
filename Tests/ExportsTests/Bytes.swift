/// Messages of a client, made independently of the shipped encoder, and a reader of the server's.

enum Bytes {
  static func u16(_ value: UInt16) -> [UInt8] {
    (0..<2).map { UInt8(truncatingIfNeeded: value >> (8 - 8 * UInt16($0))) }
  }
  static func u32(_ value: UInt32) -> [UInt8] {
    (0..<4).map { UInt8(truncatingIfNeeded: value >> (24 - 8 * UInt32($0))) }
  }
  static func u64(_ value: UInt64) -> [UInt8] {
    (0..<8).map { UInt8(truncatingIfNeeded: value >> (56 - 8 * UInt64($0))) }
  }

  static func clientFlags(_ flags: UInt32) -> [UInt8] { u32(flags) }

  static func option(_ number: UInt32, _ data: [UInt8] = [], length: UInt32? = nil) -> [UInt8] {
    Array("IHAVEOPT".utf8) + u32(number) + u32(length ?? UInt32(data.count)) + data
  }

  static func string(_ text: String) -> [UInt8] { u32(UInt32(text.utf8.count)) + Array(text.utf8) }

  /// Data of INFO and GO.
  static func info(_ name: String, _ infos: [UInt16] = []) -> [UInt8] {
    string(name) + u16(UInt16(infos.count)) + infos.flatMap { u16($0) }
  }

  /// Data of LIST_META_CONTEXT and SET_META_CONTEXT.
  static func contexts(_ name: String, _ queries: [String]) -> [UInt8] {
    string(name) + u32(UInt32(queries.count)) + queries.flatMap { string($0) }
  }

  static func request(
    _ command: UInt16, flags: UInt16 = 0, cookie: UInt64 = 0, offset: UInt64 = 0,
    length: UInt32 = 0, magic: UInt32 = 0x2560_9513
  ) -> [UInt8] {
    u32(magic) + u16(flags) + u16(command) + u64(cookie) + u64(offset) + u32(length)
  }

  static func write(
    _ payload: [UInt8], at offset: UInt64, flags: UInt16 = 0, cookie: UInt64 = 0
  ) -> [UInt8] {
    request(1, flags: flags, cookie: cookie, offset: offset, length: UInt32(payload.count))
      + payload
  }

  static var read: UInt16 { 0 }
  static var write: UInt16 { 1 }
  static var disconnect: UInt16 { 2 }
  static var flush: UInt16 { 3 }
  static var trim: UInt16 { 4 }
  static var cache: UInt16 { 5 }
  static var writeZeroes: UInt16 { 6 }
  static var blockStatus: UInt16 { 7 }
}

/// A server message of the handshake.
struct OptionReply: Equatable {
  var option: UInt32
  var type: UInt32
  var data: [UInt8]

  var text: String { String(decoding: data, as: UTF8.self) }
}

/// A server message of transmission.
enum Reply: Equatable {
  /// A simple reply; READ data is read by the caller, who knows how much there is.
  case simple(error: UInt32, cookie: UInt64)
  case chunk(flags: UInt16, type: UInt16, cookie: UInt64, payload: [UInt8])

  /// The error number of an error reply of either kind, 0 otherwise.
  var error: UInt32 {
    switch self {
    case .simple(let error, _): error
    case .chunk(_, 0x8001, _, let payload): Reader.number(payload[0..<4])
    case .chunk: 0
    }
  }

  var cookie: UInt64 {
    switch self {
    case .simple(_, let cookie): cookie
    case .chunk(_, _, let cookie, _): cookie
    }
  }
}

struct Reader {
  var bytes: ArraySlice<UInt8>

  init(_ bytes: [UInt8]) { self.bytes = bytes[...] }

  static func number<T: FixedWidthInteger>(_ bytes: ArraySlice<UInt8>) -> T {
    bytes.reduce(0) { $0 << 8 | T($1) }
  }

  var isEmpty: Bool { bytes.isEmpty }

  mutating func take(_ count: Int) -> [UInt8] {
    precondition(bytes.count >= count, "the server sent \(bytes.count) of \(count) bytes")
    defer { bytes = bytes.dropFirst(count) }
    return Array(bytes.prefix(count))
  }

  mutating func number<T: FixedWidthInteger>(_ type: T.Type = T.self) -> T {
    Self.number(take(T.bitWidth / 8)[...])
  }

  mutating func optionReply() -> OptionReply {
    precondition(number(UInt64.self) == 0x0003_e889_0455_65a9, "not an option reply")
    let option = number(UInt32.self)
    let type = number(UInt32.self)
    let length = number(UInt32.self)
    return OptionReply(option: option, type: type, data: take(Int(length)))
  }

  mutating func optionReplies() -> [OptionReply] {
    var replies: [OptionReply] = []
    while !isEmpty { replies.append(optionReply()) }
    return replies
  }

  mutating func reply() -> Reply {
    let magic = number(UInt32.self)
    if magic == 0x6744_6698 {
      return .simple(error: number(), cookie: number())
    }
    precondition(magic == 0x668e_33ef, "not a reply")
    let flags = number(UInt16.self)
    let type = number(UInt16.self)
    let cookie = number(UInt64.self)
    let length = number(UInt32.self)
    return .chunk(flags: flags, type: type, cookie: cookie, payload: take(Int(length)))
  }

  mutating func replies() -> [Reply] {
    var replies: [Reply] = []
    while !isEmpty { replies.append(reply()) }
    return replies
  }
}
