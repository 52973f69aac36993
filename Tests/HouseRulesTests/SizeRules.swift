/// Limits on size: what does not fit on a screen or in a head is split.

let maxColumns = 100
let maxFunctionLines = 70
let maxFileLines = 600

let sizeRules: [Rule] = [
  Rule("line-length", "two files fit side by side") { source in
    // The number of bytes is known at once and is never the smaller one.
    source.lines.indices.filter {
      source.lines[$0].utf8.count > maxColumns && source.lines[$0].count > maxColumns
    }.map {
      source.violation(
        "line-length", at: $0, "\(source.lines[$0].count) columns, \(maxColumns) allowed")
    }
  },
  Rule("file-length", "a file has one subject") { source in
    source.lines.count <= maxFileLines
      ? []
      : [
        source.violation(
          "file-length", at: maxFileLines, "\(source.lines.count) lines, \(maxFileLines) allowed")
      ]
  },
  Rule("function-length", "a function is read in one piece") { source in
    functions(in: source).filter { $0.lineCount > maxFunctionLines }.map {
      source.violation(
        "function-length", at: $0.firstLine,
        "\($0.name) has \($0.lineCount) lines, \(maxFunctionLines) allowed")
    }
  },
]

/// A function and how many lines it takes from its first word to its closing brace.
struct FunctionExtent {
  let name: String
  let firstLine: Int
  let lineCount: Int
}

/// The functions, initializers and subscripts of a Swift file; the functions of a C file.
func functions(in source: SourceText) -> [FunctionExtent] {
  if source.path.hasSuffix(".swift") { return swiftFunctions(in: source) }
  return source.path.hasSuffix(".c") ? cFunctions(in: source) : []
}

private func swiftFunctions(in source: SourceText) -> [FunctionExtent] {
  let tokens = tokenize(source.code)
  var found: [FunctionExtent] = []
  for (index, token) in tokens.enumerated() {
    let follower = index + 1 < tokens.count ? tokens[index + 1].text : ""
    let isCall = index > 0 && [".", "="].contains(tokens[index - 1].text)
    let isFunction =
      token.text == "func" || token.text == "deinit"
      || (["init", "subscript"].contains(token.text) && !isCall && "(<?!".contains(follower))
    guard isFunction, let end = bodyEnd(of: index, in: tokens) else { continue }
    found.append(
      FunctionExtent(
        name: token.text == "func" ? follower : token.text, firstLine: token.line,
        lineCount: tokens[end].line - token.line + 1))
  }
  return found
}

/// The index of the brace that closes the body of the declaration at `start`, or `nil` for a
/// requirement of a protocol, which has no body.
private func bodyEnd(of start: Int, in tokens: [Token]) -> Int? {
  let declarations: Set<String> = [
    "func", "var", "let", "init", "subscript", "deinit", "static", "public", "private",
    "mutating", "associatedtype", "case", "typealias", "struct", "enum", "extension", "}",
  ]
  var parentheses = 0
  var braces = 0
  for index in (start + 1)..<max(tokens.count, start + 1) {
    switch tokens[index].text {
    case "(", "[": parentheses += 1
    case ")", "]": parentheses -= 1
    case "{" where braces > 0 || parentheses == 0: braces += 1
    case "}" where braces > 0:
      braces -= 1
      if braces == 0 { return index }
    case let text where braces == 0 && parentheses == 0 && index > start + 1:
      if declarations.contains(text) { return nil }
    default: break
    }
  }
  return nil
}

private struct Token {
  let text: String
  let line: Int
}

private func tokenize(_ lines: [String]) -> [Token] {
  var tokens: [Token] = []
  for (number, line) in lines.enumerated() {
    var word: [UInt8] = []
    for byte in line.utf8 {
      if byte.isWordPart {
        word.append(byte)
        continue
      }
      if !word.isEmpty {
        tokens.append(Token(text: String(decoding: word, as: UTF8.self), line: number))
      }
      word = []
      if byte != UInt8(ascii: " ") {
        tokens.append(Token(text: String(UnicodeScalar(byte)), line: number))
      }
    }
    if !word.isEmpty {
      tokens.append(Token(text: String(decoding: word, as: UTF8.self), line: number))
    }
  }
  return tokens
}

extension UInt8 {
  /// A byte that can be inside an identifier; every byte of a character beyond ASCII is one.
  fileprivate var isWordPart: Bool {
    self >= 0x80 || self == UInt8(ascii: "_")
      || (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(self)
      || (UInt8(ascii: "a")...UInt8(ascii: "z")).contains(self | 0x20)
  }
}

/// C functions are written with both braces of the body in the first column.
private func cFunctions(in source: SourceText) -> [FunctionExtent] {
  var found: [FunctionExtent] = []
  var start: Int?
  for (number, line) in source.code.enumerated() {
    if let first = line.first, first.isLetter, line.contains("(") { start = number }
    if line.hasPrefix("}"), let first = start {
      let name = source.code[first].split(separator: "(")[0]
      found.append(
        FunctionExtent(name: String(name), firstLine: first, lineCount: number - first + 1))
      start = nil
    }
  }
  return found
}
