/// A source file as the rules see it: its lines, and the same lines with the text of comments and
/// string literals blanked, so that a rule about code is not misled by prose.
///
/// What must hold: `code` has exactly the lines of `lines`; only what is inside comments and
/// literals differs, and is spaces.
struct SourceText {
  /// Relative to the package, with forward slashes: `Sources/Wire/Header.swift`.
  let path: String
  let lines: [String]
  let code: [String]
  private let text: String

  init(path: String, text: String) {
    self.path = path
    self.text = text
    lines = Self.split(text)
    let isCode = path.hasSuffix(".swift") || path.hasSuffix(".c") || path.hasSuffix(".h")
    code = isCode ? Self.split(Masker(text, isC: !path.hasSuffix(".swift")).masked()) : lines
  }

  /// `Wire` for `Sources/Wire/Header.swift`, `nil` outside `Sources`.
  var target: String? {
    let parts = path.split(separator: "/")
    return parts.count > 2 && parts[0] == "Sources" ? String(parts[1]) : nil
  }

  /// Whether the file has this text anywhere: the quick answer before lines are looked at.
  func contains(_ text: String) -> Bool { self.text.contains(text) }

  private static func split(_ text: String) -> [String] {
    var lines = text.split(separator: "\n", omittingEmptySubsequences: false).map(String.init)
    if lines.last == "" { lines.removeLast() }
    return lines
  }
}

/// Blanks comments and literals of Swift and of C. Knows nested comments, raw and multi-line
/// strings and interpolation; regular-expression literals are not used in this project. Works on
/// bytes: the whole tree is read in each run of the tests, in a debug build.
private struct Masker {
  private let input: [UInt8]
  private let isC: Bool
  private var output: [UInt8] = []
  private var index = 0

  init(_ text: String, isC: Bool) {
    input = Array(text.utf8)
    self.isC = isC
    output.reserveCapacity(input.count)
  }

  consuming func masked() -> String {
    while index < input.count {
      if !skipCommentOrLiteral() { keep() }
    }
    return String(decoding: output, as: UTF8.self)
  }

  private func starts(_ text: StaticString, at position: Int? = nil) -> Bool {
    let position = position ?? index
    let count = text.utf8CodeUnitCount
    guard position + count <= input.count else { return false }
    for offset in 0..<count where input[position + offset] != text.utf8Start[offset] {
      return false
    }
    return true
  }

  /// Whether `count` number signs begin at `position`.
  private func hasHashes(_ count: Int, at position: Int) -> Bool {
    guard position + count <= input.count else { return false }
    return input[position..<position + count].allSatisfy { $0 == UInt8(ascii: "#") }
  }

  private mutating func keep() {
    output.append(input[index])
    index += 1
  }

  private mutating func blank(_ count: Int = 1) {
    for _ in 0..<count where index < input.count {
      output.append(input[index] == UInt8(ascii: "\n") ? input[index] : UInt8(ascii: " "))
      index += 1
    }
  }

  private mutating func skipCommentOrLiteral() -> Bool {
    switch input[index] {
    case UInt8(ascii: "/"):
      if starts("//") {
        while index < input.count, input[index] != UInt8(ascii: "\n") { blank() }
        return true
      }
      guard starts("/*") else { return false }
      skipBlockComment()
      return true
    case UInt8(ascii: "'") where isC:
      skipLiteral(fence: "'", hashes: 0)
      return true
    case UInt8(ascii: "\""), UInt8(ascii: "#"):
      return skipString()
    default:
      return false
    }
  }

  private mutating func skipString() -> Bool {
    var hashes = 0
    while !isC, starts("#", at: index + hashes) { hashes += 1 }
    guard starts("\"", at: index + hashes) else { return false }
    let isLong = !isC && starts("\"\"\"", at: index + hashes)
    blank(hashes)
    skipLiteral(fence: isLong ? "\"\"\"" : "\"", hashes: hashes)
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

  private mutating func skipLiteral(fence: StaticString, hashes: Int) {
    let fenceCount = fence.utf8CodeUnitCount
    blank(fenceCount)
    while index < input.count {
      if starts(fence), hasHashes(hashes, at: index + fenceCount) {
        blank(fenceCount + hashes)
        return
      }
      if starts("\\"), hasHashes(hashes, at: index + 1) {
        let isInterpolation = !isC && starts("(", at: index + 1 + hashes)
        blank(2 + hashes)
        if isInterpolation { skipInterpolation() }
      } else {
        blank()
      }
    }
  }

  private mutating func skipInterpolation() {
    var depth = 1
    while index < input.count, depth > 0 {
      if skipCommentOrLiteral() { continue }
      if starts("(") { depth += 1 }
      if starts(")") { depth -= 1 }
      blank()
    }
  }
}
