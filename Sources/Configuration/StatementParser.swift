/// Tokens of one file -> statements and sections, before any of them has a meaning.
///
/// The shape is the whole grammar of DRBD's files: `keyword value ... ;` and
/// `keyword value ... { statements }`. Recursion is bounded by `Limits.sectionDepth`.

/// Bounds on what a configuration may make us hold. A file that passes one is refused.
enum Limits {
  /// Bytes of one file. The largest sensible file holds some thousand resources of 500 bytes.
  static let fileBytes = 4 << 20
  /// Bytes of all files together.
  static let totalBytes = 64 << 20
  /// Files in one configuration, counting each include.
  static let files = 4096
  /// How deep includes may nest.
  static let includeDepth = 8
  /// How deep sections may nest; the grammar needs 4 (resource, on, volume, disk).
  static let sectionDepth = 8
  /// Words in one statement; the grammar needs at most 4, a list of hosts at most 33.
  static let wordsInStatement = 64
  /// Resources in one configuration.
  static let resources = 16384
  /// Warnings kept; a file of harmless statements must not grow without bound in memory.
  static let warnings = 1000
}

/// One statement: `keyword arguments;` or `keyword arguments { block }`.
struct Statement: Equatable, Sendable {
  var keyword: Token
  var arguments: [Token]
  var block: [Statement]?
  /// The `;` or `{` after the arguments, for "expected ... but got ...".
  var end: Token
}

/// Parses one file into its statements.
struct StatementParser {
  private var lexer: Lexer
  private var token: Token

  init(text: [UInt8], file: String) throws(ConfigurationError) {
    guard text.count <= Limits.fileBytes else {
      throw .limitExceeded(
        "bytes in one file", limit: Limits.fileBytes,
        at: SourcePosition(file: file, line: 1, column: 1))
    }
    lexer = Lexer(text: text, file: file)
    token = try lexer.next()
  }

  /// All statements of the file, in order.
  mutating func statements() throws(ConfigurationError) -> [Statement] {
    try statements(inside: nil, depth: 0)
  }

  private mutating func statements(
    inside section: Token?, depth: Int
  ) throws(ConfigurationError) -> [Statement] {
    var result: [Statement] = []
    while true {
      switch token.kind {
      case .word:
        result.append(try statement(depth: depth))
      case .semicolon:
        // A stray `;`, as after `}`, says nothing and harms nothing.
        token = try lexer.next()
      case .closeBrace:
        guard section != nil else {
          throw .unexpected(
            expected: "global | common | resource | skip | include", got: "}", suggestion: nil,
            at: token.position)
        }
        return result
      case .openBrace:
        throw .unexpected(
          expected: "an option keyword", got: "{", suggestion: nil, at: token.position)
      case .endOfFile:
        if let section {
          throw .unclosedSection(section.text, openedAt: section.position, at: token.position)
        }
        return result
      }
    }
  }

  private mutating func statement(depth: Int) throws(ConfigurationError) -> Statement {
    let keyword = token
    var arguments: [Token] = []
    token = try lexer.next()
    while token.kind == .word {
      guard arguments.count < Limits.wordsInStatement else {
        throw .limitExceeded(
          "words in one statement", limit: Limits.wordsInStatement, at: token.position)
      }
      arguments.append(token)
      token = try lexer.next()
    }
    let end = token
    switch end.kind {
    case .semicolon:
      token = try lexer.next()
      return Statement(keyword: keyword, arguments: arguments, block: nil, end: end)
    case .openBrace:
      guard depth < Limits.sectionDepth else {
        throw .limitExceeded("nested sections", limit: Limits.sectionDepth, at: end.position)
      }
      token = try lexer.next()
      let block = try statements(inside: keyword, depth: depth + 1)
      token = try lexer.next()
      return Statement(keyword: keyword, arguments: arguments, block: block, end: end)
    case .word, .closeBrace, .endOfFile:
      throw .unexpected(expected: ";", got: end.text, suggestion: nil, at: end.position)
    }
  }
}

extension Statement {
  /// The one value of a statement `keyword value;`.
  func onlyValue(_ expected: String = "a value") throws(ConfigurationError) -> Token {
    try requireNoBlock()
    guard let value = arguments.first else {
      throw .unexpected(
        expected: expected, got: end.text, suggestion: nil, at: end.position)
    }
    try requireArguments(atMost: 1)
    return value
  }

  /// The value of a statement that may be a bare flag: `keyword;` means `keyword yes;`.
  func valueOrYes() throws(ConfigurationError) -> Token {
    try requireNoBlock()
    try requireArguments(atMost: 1)
    return arguments.first ?? Token(kind: .word, text: "yes", position: keyword.position)
  }

  /// A missing `;` shows as further words: say so where the first of them stands.
  func requireArguments(atMost count: Int) throws(ConfigurationError) {
    guard arguments.count > count else { return }
    let extra = arguments[count]
    let expected = block == nil ? ";" : "{"
    throw .unexpected(expected: expected, got: extra.text, suggestion: nil, at: extra.position)
  }

  /// The statements of a section.
  func section() throws(ConfigurationError) -> [Statement] {
    guard let block else {
      throw .unexpected(expected: "{", got: ";", suggestion: nil, at: end.position)
    }
    return block
  }

  func requireNoBlock() throws(ConfigurationError) {
    guard block != nil else { return }
    throw .unexpected(expected: ";", got: "{", suggestion: nil, at: end.position)
  }
}
