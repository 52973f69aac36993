/// Data of the options that have structure, and the bytes of option replies.
///
/// What must hold: every declared length is compared with what is there before it is used; data
/// left over is an error, because it means that client and server read the option differently.

/// What is wrong with an option's data; the text goes to the client.
enum NBDOptionError: Error, Equatable, CustomStringConvertible {
  case truncated(field: StaticString, need: Int, have: Int)
  case stringTooLong(field: StaticString, length: Int, limit: Int)
  case notText(field: StaticString)
  case trailing(Int)

  var description: String {
    switch self {
    case .truncated(let field, let need, let have):
      "\(field): \(need) bytes declared, \(have) sent"
    case .stringTooLong(let field, let length, let limit):
      "\(field): \(length) bytes, the limit is \(limit)"
    case .notText(let field): "\(field): not UTF-8 text without NUL"
    case .trailing(let count): "\(count) bytes after the last field"
    }
  }

  static func == (left: NBDOptionError, right: NBDOptionError) -> Bool {
    left.description == right.description
  }
}

/// INFO and GO: name length u32, name, count u16, count × info type u16.
struct NBDInfoQuery: Equatable {
  private(set) var name: String
  private(set) var infos: [UInt16] = []

  init(parsing data: [UInt8]) throws(NBDOptionError) {
    var cursor = NBDOptionCursor(data)
    name = try cursor.string("export name")
    let count = Int(try cursor.uint16("number of infos"))
    try cursor.require("infos", bytes: count * 2)
    for _ in 0..<count { infos.append(try cursor.uint16("info")) }
    try cursor.finish()
  }

  func wants(_ info: NBDInfo) -> Bool { infos.contains(info.rawValue) }
}

/// LIST_META_CONTEXT and SET_META_CONTEXT: name length u32, name, count u32, count × (length u32,
/// query). Queries of unknown namespaces are legal and ignored.
struct NBDContextQuery: Equatable {
  private(set) var name: String
  private(set) var queries: UInt32
  private(set) var namesAllocation = false
  private(set) var namesBaseNamespace = false

  init(parsing data: [UInt8]) throws(NBDOptionError) {
    var cursor = NBDOptionCursor(data)
    name = try cursor.string("export name")
    queries = try cursor.uint32("number of queries")
    // The loop ends at the latest when the data does: a query has 4 bytes at least.
    for _ in 0..<queries {
      let query = try cursor.string("query")
      if query == "base:allocation" { namesAllocation = true }
      if query == "base:" { namesBaseNamespace = true }
    }
    try cursor.finish()
  }
}

/// Reads the fields of an option's data in order.
struct NBDOptionCursor {
  private let data: [UInt8]
  private var offset = 0

  init(_ data: [UInt8]) { self.data = data }

  private var left: Int { data.count - offset }

  func require(_ field: StaticString, bytes: Int) throws(NBDOptionError) {
    guard bytes <= left else { throw .truncated(field: field, need: bytes, have: left) }
  }

  mutating func uint16(_ field: StaticString) throws(NBDOptionError) -> UInt16 {
    try require(field, bytes: 2)
    defer { offset += 2 }
    return UInt16(data[offset]) << 8 | UInt16(data[offset + 1])
  }

  mutating func uint32(_ field: StaticString) throws(NBDOptionError) -> UInt32 {
    try require(field, bytes: 4)
    defer { offset += 4 }
    return data.bigEndianUInt32(at: offset)
  }

  /// A string with its length in front.
  mutating func string(_ field: StaticString) throws(NBDOptionError) -> String {
    let length = Int(try uint32(field))
    guard length <= NBDLimit.stringBytes else {
      throw .stringTooLong(field: field, length: length, limit: NBDLimit.stringBytes)
    }
    try require(field, bytes: length)
    let bytes = data[offset..<offset + length]
    offset += length
    guard !bytes.contains(0), let text = String(validating: bytes, as: UTF8.self) else {
      throw .notText(field: field)
    }
    return text
  }

  func finish() throws(NBDOptionError) {
    guard left == 0 else { throw .trailing(left) }
  }
}

extension [UInt8] {
  mutating func appendBigEndian<T: FixedWidthInteger>(_ value: T) {
    for shift in stride(from: T.bitWidth - 8, through: 0, by: -8) {
      append(UInt8(truncatingIfNeeded: value >> T(shift)))
    }
  }

  func bigEndianUInt32(at offset: Int) -> UInt32 {
    self[offset..<offset + 4].reduce(0) { $0 << 8 | UInt32($1) }
  }

  func bigEndianUInt64(at offset: Int) -> UInt64 {
    self[offset..<offset + 8].reduce(0) { $0 << 8 | UInt64($1) }
  }

  /// The 20 bytes in front of an option reply's data.
  mutating func appendReplyHeader(_ option: UInt32, _ type: NBDReply, length: Int) {
    appendBigEndian(NBDMagic.optionReply)
    appendBigEndian(option)
    appendBigEndian(type.rawValue)
    appendBigEndian(UInt32(length))
  }

  /// A whole option reply; an error may carry a text for the client's user.
  mutating func appendReply(_ option: UInt32, _ type: NBDReply, text: String = "") {
    let bytes = Array(text.utf8.prefix(NBDLimit.stringBytes))
    appendReplyHeader(option, type, length: bytes.count)
    append(contentsOf: bytes)
  }

  /// One line of a LIST answer: name length u32, name, text.
  mutating func appendServerReply(_ export: NBDExport, withReason: Bool) {
    let name = Array(export.name.utf8)
    var text: [UInt8] = []
    if withReason, case .refused(let reason) = export.state {
      text = Array(reason.utf8.prefix(1024))
    }
    appendReplyHeader(NBDOption.list.rawValue, .server, length: 4 + name.count + text.count)
    appendBigEndian(UInt32(name.count))
    append(contentsOf: name)
    append(contentsOf: text)
  }
}
