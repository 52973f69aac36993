/// Bytes of one file -> words and signs with their places.
///
/// A word is a run of anything but white space, `{`, `}`, `;`, `"` and `#`; or a quoted string, in
/// which `\"` and `\\` stand for themselves and which must end on its line. `#` starts a comment.
/// Every input gives tokens or a typed error; the number of tokens is bounded by the input, which
/// the caller bounds.

/// One word or sign.
struct Token: Equatable, Sendable {
  enum Kind: Equatable, Sendable { case word, openBrace, closeBrace, semicolon, endOfFile }

  var kind: Kind
  /// The word without its quotes; the sign itself otherwise.
  var text: String
  var isQuoted = false
  var position: SourcePosition
}

/// Reads the tokens of one file in order.
struct Lexer {
  private let bytes: [UInt8]
  private let file: String
  private var offset = 0
  private var line = 1
  private var column = 1

  init(text: [UInt8], file: String) {
    self.bytes = text
    self.file = file
  }

  /// The next token; `.endOfFile` from the end on.
  mutating func next() throws(ConfigurationError) -> Token {
    try skipBlanksAndComments()
    let start = position
    guard offset < bytes.count else {
      return Token(kind: .endOfFile, text: "end of file", position: start)
    }
    switch bytes[offset] {
    case UInt8(ascii: "{"):
      advance()
      return Token(kind: .openBrace, text: "{", position: start)
    case UInt8(ascii: "}"):
      advance()
      return Token(kind: .closeBrace, text: "}", position: start)
    case UInt8(ascii: ";"):
      advance()
      return Token(kind: .semicolon, text: ";", position: start)
    case UInt8(ascii: "\""):
      return try quotedString(from: start)
    default:
      return try bareWord(from: start)
    }
  }

  private var position: SourcePosition { SourcePosition(file: file, line: line, column: column) }

  private mutating func advance() {
    let byte = bytes[offset]
    offset += 1
    if byte == UInt8(ascii: "\n") {
      line += 1
      column = 1
    } else if byte & 0xC0 != 0x80 {
      // Bytes that continue a UTF-8 character do not start a column.
      column += 1
    }
  }

  private mutating func skipBlanksAndComments() throws(ConfigurationError) {
    var inComment = false
    while offset < bytes.count {
      let byte = bytes[offset]
      if byte == UInt8(ascii: "\n") {
        inComment = false
      } else if byte == UInt8(ascii: "#") {
        inComment = true
      } else if !inComment && !isBlank(byte) {
        return
      }
      advance()
    }
  }

  private mutating func bareWord(from start: SourcePosition) throws(ConfigurationError) -> Token {
    let first = offset
    while offset < bytes.count, !endsWord(bytes[offset]) {
      try refuseControlCharacter()
      advance()
    }
    return Token(kind: .word, text: try text(bytes[first..<offset], at: start), position: start)
  }

  private mutating func quotedString(
    from start: SourcePosition
  ) throws(ConfigurationError) -> Token {
    advance()
    var content: [UInt8] = []
    while offset < bytes.count, bytes[offset] != UInt8(ascii: "\n") {
      let byte = bytes[offset]
      if byte == UInt8(ascii: "\"") {
        advance()
        return Token(
          kind: .word, text: try text(content[...], at: start), isQuoted: true, position: start)
      }
      try refuseControlCharacter()
      if byte == UInt8(ascii: "\\"), offset + 1 < bytes.count {
        let escaped = bytes[offset + 1]
        if escaped == UInt8(ascii: "\"") || escaped == UInt8(ascii: "\\") { advance() }
      }
      content.append(bytes[offset])
      advance()
    }
    throw .unterminatedString(at: start)
  }

  private func refuseControlCharacter() throws(ConfigurationError) {
    let byte = bytes[offset]
    let isTab = byte == UInt8(ascii: "\t")
    if (byte < 0x20 && !isTab) || byte == 0x7F { throw .badByte(byte, at: position) }
  }

  private func text(
    _ slice: ArraySlice<UInt8>, at start: SourcePosition
  ) throws(ConfigurationError) -> String {
    guard let text = String(validating: slice, as: UTF8.self) else {
      throw .badByte(slice.first { $0 >= 0x80 } ?? 0, at: start)
    }
    return text
  }

  private func isBlank(_ byte: UInt8) -> Bool {
    byte == UInt8(ascii: " ") || byte == UInt8(ascii: "\t") || byte == UInt8(ascii: "\r")
      || byte == UInt8(ascii: "\n")
  }

  private func endsWord(_ byte: UInt8) -> Bool {
    isBlank(byte) || byte == UInt8(ascii: "{") || byte == UInt8(ascii: "}")
      || byte == UInt8(ascii: ";") || byte == UInt8(ascii: "\"") || byte == UInt8(ascii: "#")
  }
}
