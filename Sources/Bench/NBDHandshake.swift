/// The client's side of the NBD handshake, as a state machine over bytes.
///
///     greeting --(flags, GO)--> negotiating --(INFO ...)--> negotiating --(ACK)--> done
///
/// The owner passes what has arrived and was not consumed to `step` until the export is known.
struct NBDHandshake: Sendable {
  /// What the owner has to do next.
  enum Step: Equatable, Sendable {
    /// Wait for more bytes.
    case needMore
    /// Consume bytes, then step again.
    case consume(Int)
    /// Consume bytes, send these, then step again.
    case send([UInt8], consume: Int)
    /// Consume bytes: transmission begins.
    case ready(NBDExport, consume: Int)
  }

  /// Longest option reply: the longest string of the protocol and what stands around it.
  static let longestReply: UInt32 = 8192
  /// Most replies to one GO. There are five types of information; a server may repeat some.
  static let mostReplies = 64

  private let exportName: String
  private var isGreeted = false
  private var replyCount = 0
  private var export = NBDExport()
  private var knowsSize = false

  init(exportName: String) { self.exportName = exportName }

  /// Looks at the bytes that have arrived.
  mutating func step(_ bytes: RawSpan) throws(NBDError) -> Step {
    isGreeted ? try optionReply(bytes) : try greeting(bytes)
  }

  private mutating func greeting(_ bytes: RawSpan) throws(NBDError) -> Step {
    // A wrong first number is told at once: what is not a server may never send 18 bytes.
    guard bytes.byteCount >= 8 else { return .needMore }
    let magic = bytes.bigEndian(at: 0, as: UInt64.self)
    guard magic == NBDNumber.greeting else { throw .badMagic(place: "greeting", found: magic) }
    guard bytes.byteCount >= 18 else { return .needMore }
    let style = bytes.bigEndian(at: 8, as: UInt64.self)
    guard style == NBDNumber.optionMagic else { throw .badMagic(place: "handshake", found: style) }
    let flags = bytes.bigEndian(at: 16, as: UInt16.self)
    guard flags & 1 != 0 else { throw .notFixedNewstyle(flags: flags) }
    isGreeted = true
    return .send(Self.opening(exportName: exportName, serverFlags: flags), consume: 18)
  }

  /// The client's flags and GO, which asks for the block size so that the server may rely on ours.
  private static func opening(exportName: String, serverFlags: UInt16) -> [UInt8] {
    let name = Array(exportName.utf8)
    precondition(name.count <= NBDNumber.longestName, "the name was checked when it was parsed")
    var bytes: [UInt8] = []
    func put<Number: FixedWidthInteger>(_ number: Number) {
      for shift in stride(from: Number.bitWidth - 8, through: 0, by: -8) {
        bytes.append(UInt8(truncatingIfNeeded: number >> Number(shift)))
      }
    }
    put(UInt32(serverFlags & 3))
    put(NBDNumber.optionMagic)
    put(NBDNumber.optionGo)
    put(UInt32(4 + name.count + 2 + 2))
    put(UInt32(name.count))
    bytes += name
    put(UInt16(1))
    put(NBDNumber.informationBlockSize)
    return bytes
  }

  private mutating func optionReply(_ bytes: RawSpan) throws(NBDError) -> Step {
    guard bytes.byteCount >= 20 else { return .needMore }
    let magic = bytes.bigEndian(at: 0, as: UInt64.self)
    guard magic == NBDNumber.optionReplyMagic else {
      throw .badMagic(place: "option reply", found: magic)
    }
    let option = bytes.bigEndian(at: 8, as: UInt32.self)
    guard option == NBDNumber.optionGo else { throw .unexpectedOption(option) }
    let type = bytes.bigEndian(at: 12, as: UInt32.self)
    let length = bytes.bigEndian(at: 16, as: UInt32.self)
    guard length <= Self.longestReply else {
      throw .replyTooLong(length, limit: Self.longestReply)
    }
    let total = 20 + Int(length)
    guard bytes.byteCount >= total else { return .needMore }
    replyCount += 1
    guard replyCount <= Self.mostReplies else { throw .tooManyReplies(limit: Self.mostReplies) }
    if type & 0x8000_0000 != 0 {
      throw .refused(export: exportName, type: type, text: Self.text(bytes, 20..<total))
    }
    switch type {
    case NBDNumber.replyAck:
      guard knowsSize else { throw .noExportSize }
      return .ready(export, consume: total)
    case NBDNumber.replyInfo:
      try information(bytes, length: length)
      return .consume(total)
    default: throw .unexpectedReplyType(type)
    }
  }

  private mutating func information(_ bytes: RawSpan, length: UInt32) throws(NBDError) {
    guard length >= 2 else { throw .badInformation(type: .max, length: length) }
    let type = bytes.bigEndian(at: 20, as: UInt16.self)
    switch type {
    case NBDNumber.informationExport:
      guard length == 12 else { throw .badInformation(type: type, length: length) }
      export.byteCount = bytes.bigEndian(at: 22, as: UInt64.self)
      export.flags = bytes.bigEndian(at: 30, as: UInt16.self)
      knowsSize = true
    case NBDNumber.informationBlockSize:
      guard length == 14 else { throw .badInformation(type: type, length: length) }
      export.minimumBlockBytes = bytes.bigEndian(at: 22, as: UInt32.self)
      export.maximumPayloadBytes = bytes.bigEndian(at: 30, as: UInt32.self)
    default:
      // Name and description may come unasked, and so may what is not invented yet.
      break
    }
  }

  /// What a server says for people, made harmless for a terminal and not too long for a line.
  private static func text(_ bytes: RawSpan, _ range: Range<Int>) -> String {
    var text: [UInt8] = []
    for index in range.prefix(256) {
      let byte = bytes.bigEndian(at: index, as: UInt8.self)
      text.append(byte >= 0x20 && byte != 0x7F ? byte : UInt8(ascii: "?"))
    }
    return String(decoding: text, as: UTF8.self)
  }
}
