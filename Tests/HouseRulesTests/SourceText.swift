/// A source file as the rules see it: its lines, and the same lines with the text of comments and
/// string literals blanked, so that a rule about code is not misled by prose.
///
/// What must hold: `code` has exactly the lines and columns of `lines`; only characters inside
/// comments and literals differ, and they are spaces.
struct SourceText {
  /// Relative to the package, with forward slashes: `Sources/Wire/Header.swift`.
  let path: String
  let lines: [String]
  let code: [String]

  init(path: String, text: String) {
    self.path = path
    lines = Self.split(text)
    let isCode = path.hasSuffix(".swift") || path.hasSuffix(".c") || path.hasSuffix(".h")
    code = isCode ? Self.split(Masker(text, isC: !path.hasSuffix(".swift")).masked()) : lines
  }

  /// `Wire` for `Sources/Wire/Header.swift`, `nil` outside `Sources`.
  var target: String? {
    let parts = path.split(separator: "/")
    return parts.count > 2 && parts[0] == "Sources" ? String(parts[1]) : nil
  }

  private static func split(_ text: String) -> [String] {
    var lines = text.split(separator: "\n", omittingEmptySubsequences: false).map(String.init)
    if lines.last == "" { lines.removeLast() }
    return lines
  }
}

/// Blanks comments and literals of Swift and of C. Knows nested comments, raw and multi-line
/// strings and interpolation; regular-expression literals are not used in this project.
private struct Masker {
  private let input: [Character]
  private let isC: Bool
  private var output: [Character] = []
  private var index = 0

  init(_ text: String, isC: Bool) {
    input = Array(text)
    self.isC = isC
    output.reserveCapacity(input.count)
  }

  consuming func masked() -> String {
    while index < input.count {
      if !skipCommentOrLiteral() { keep() }
    }
    return String(output)
  }

  private func starts(_ text: String, at position: Int? = nil) -> Bool {
    var position = position ?? index
    for character in text {
      guard position < input.count, input[position] == character else { return false }
      position += 1
    }
    return true
  }

  private mutating func keep() {
    output.append(input[index])
    index += 1
  }

  private mutating func blank(_ count: Int = 1) {
    for _ in 0..<count where index < input.count {
      output.append(input[index] == "\n" ? "\n" : " ")
      index += 1
    }
  }

  private mutating func skipCommentOrLiteral() -> Bool {
    if starts("//") {
      while index < input.count, input[index] != "\n" { blank() }
    } else if starts("/*") {
      skipBlockComment()
    } else if isC, starts("'") {
      skipLiteral(end: "'", hashes: 0)
    } else if starts("\"") || (!isC && starts("#")) {
      var hashes = 0
      while starts("#", at: index + hashes) { hashes += 1 }
      guard starts("\"", at: index + hashes) else { return false }
      let fence = starts("\"\"\"", at: index + hashes) && !isC ? "\"\"\"" : "\""
      blank(hashes)
      skipLiteral(end: fence, hashes: hashes)
    } else {
      return false
    }
    return true
  }

  private mutating func skipBlockComment() {
    var depth = 0
    repeat {
      if starts("/*") {
        depth += isC ? 1 - depth : 1
        blank(2)
      } else if starts("*/") {
        depth -= 1
        blank(2)
      } else {
        blank()
      }
    } while depth > 0 && index < input.count
  }

  private mutating func skipLiteral(end fence: String, hashes: Int) {
    let marks = String(repeating: "#", count: hashes)
    blank(fence.count)
    while index < input.count {
      if starts(fence + marks) {
        blank(fence.count + hashes)
        return
      }
      if !isC, starts("\\" + marks + "(") {
        blank(2 + hashes)
        skipInterpolation()
      } else if starts("\\" + marks) {
        blank(2 + hashes)
      } else {
        blank()
      }
    }
  }

  private mutating func skipInterpolation() {
    var depth = 1
    while index < input.count, depth > 0 {
      if skipCommentOrLiteral() { continue }
      if input[index] == "(" { depth += 1 }
      if input[index] == ")" { depth -= 1 }
      blank()
    }
  }
}
