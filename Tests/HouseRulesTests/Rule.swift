/// What a rule is: a name, the reason it exists, and a function from a source file to violations.
///
/// What must hold: every rule has a bad snippet in `RuleTests` that it reports. A rule that cannot
/// fail protects nothing.
struct Rule: Sendable {
  let name: String
  let reason: String
  let check: @Sendable (SourceText) -> [Violation]

  init(_ name: String, _ reason: String, check: @escaping @Sendable (SourceText) -> [Violation]) {
    self.name = name
    self.reason = reason
    self.check = check
  }
}

/// One broken rule at one place, printed as compilers print errors.
struct Violation: CustomStringConvertible {
  let rule: String
  let path: String
  let line: Int
  let message: String

  var description: String { "\(path):\(line): \(message) [\(rule)]" }
}

/// A place where a rule is broken on purpose, with the reason. An exception that nothing needs any
/// more is itself an error, so the list cannot rot.
struct RuleException {
  let rule: String
  let path: String
  let reason: String
}

/// The targets on the path of an I/O: no Foundation, concurrency runtime or existential in them.
let dataPath: Set<String> = [
  "BlockTypes", "Wire", "Metadata", "Replication", "BlockIO", "Exports",
]

/// The part of the data path that must not know an operating system, a clock or a random source.
let core: Set<String> = ["BlockTypes", "Wire", "Metadata", "Replication"]

extension SourceText {
  /// A violation at a line counted from zero.
  func violation(_ rule: String, at index: Int, _ message: String) -> Violation {
    Violation(rule: rule, path: path, line: index + 1, message: message)
  }

  /// Every line of code in which `word` occurs as a whole word, or as given when it ends in a sign.
  func lineIndices(containing word: String) -> [Int] {
    guard contains(word) else { return [] }
    return code.indices.filter { code[$0].containsWord(word) }
  }
}

extension String {
  /// Whether `word` occurs with no letter, digit or underscore right before or after it. A side of
  /// `word` that is not a letter is not checked.
  func containsWord(_ word: String) -> Bool {
    guard contains(word) else { return false }
    let text = Array(self)
    let pattern = Array(word)
    guard !pattern.isEmpty, text.count >= pattern.count else { return false }
    for start in 0...(text.count - pattern.count)
    where Array(text[start..<start + pattern.count]) == pattern {
      let before = start > 0 ? text[start - 1] : " "
      let after = start + pattern.count < text.count ? text[start + pattern.count] : " "
      if pattern[0].isWordPart, before.isWordPart { continue }
      if pattern[pattern.count - 1].isWordPart, after.isWordPart { continue }
      return true
    }
    return false
  }
}

extension Character {
  /// A character that can be inside an identifier.
  var isWordPart: Bool { isLetter || isNumber || self == "_" }
}

/// All rules, in the order of their files.
let allRules: [Rule] = sizeRules + constructRules + textRules + dependencyRules
