/// One `net`, `disk` or `options` section: its words checked against the vocabulary, its values
/// kept with their places until `common` and `resource` have been merged.

/// The options of one section that Ashlar acts on, by keyword.
struct OptionSection: Equatable, Sendable {
  struct Entry: Equatable, Sendable {
    var keyword: Token
    var value: Token
  }

  private(set) var entries: [String: Entry] = [:]

  /// Adds one option. Twice in one section is a conflict, as drbdadm has it.
  mutating func add(_ keyword: Token, value: Token) throws(ConfigurationError) {
    if let first = entries[keyword.text] {
      throw .conflict(
        kind: "option", what: keyword.text, at: keyword.position,
        firstUsedAt: first.keyword.position)
    }
    entries[keyword.text] = Entry(keyword: keyword, value: value)
  }

  /// These options where they are set, `defaults` elsewhere.
  func merged(over defaults: OptionSection) -> OptionSection {
    var result = self
    result.entries.merge(defaults.entries) { own, _ in own }
    return result
  }

  /// The name of an algorithm that Ashlar makes digests with, or `nil` where none is set.
  func digest(
    _ name: String, among known: [String] = Vocabulary.digests
  ) throws(ConfigurationError) -> String? {
    guard let value = entries[name]?.value else { return nil }
    if known.contains(value.text) { return value.text }
    var alternative = "use '\(name) \(known[0])'"
    if Vocabulary.digests.contains(value.text) {
      alternative +=
        ": blocks that differ may have equal digests of 32 bits, and would not be copied"
    }
    if Vocabulary.digests.contains(value.text) || Vocabulary.digestsOfDRBD.contains(value.text) {
      throw .unsupported("\(name) \(value.text)", alternative: alternative, at: value.position)
    }
    throw .badValue(
      keyword: name, value: value.text, expected: known.joined(separator: " | "),
      suggestion: nearestWord(to: value.text, among: known), at: value.position)
  }

  /// A number in `range`, or `nil` where the option is not set.
  func number(
    _ name: String, in range: ClosedRange<UInt64>, unit: String
  ) throws(ConfigurationError) -> UInt32? {
    guard let entry = entries[name] else { return nil }
    return UInt32(try entry.value.number(keyword: name, in: range, unit: unit))
  }
}

extension Token {
  /// The whole number this word stands for, with DRBD's suffixes; see `sizeValue`.
  func number(
    keyword: String, in range: ClosedRange<UInt64>, unit: String
  ) throws(ConfigurationError) -> UInt64 {
    guard let size = sizeValue(text) else {
      let isLong = !text.isEmpty && text.utf8.allSatisfy { $0 >= 0x30 && $0 <= 0x39 }
      if isLong {
        throw .outOfRange(
          keyword: keyword, value: text, allowed: range, unit: unit, at: position)
      }
      throw .badValue(
        keyword: keyword, value: text, expected: "a number", suggestion: nil, at: position)
    }
    guard range.contains(size) else {
      throw .outOfRange(keyword: keyword, value: text, allowed: range, unit: unit, at: position)
    }
    return size
  }

  /// The value among `allowed`.
  func choice<Value: RawRepresentable & CaseIterable>(
    keyword: String, of type: Value.Type
  ) throws(ConfigurationError) -> Value where Value.RawValue == String {
    if let value = Value(rawValue: text) { return value }
    let words = Value.allCases.map(\.rawValue)
    throw .badValue(
      keyword: keyword, value: text, expected: words.joined(separator: " | "),
      suggestion: nearestWord(to: text, among: words), at: position)
  }
}

/// `text` as a number with an optional suffix: `s` is 512, `k` 2^10, `m` 2^20, `g` 2^30, `t` 2^40,
/// `p` 2^50, in either case but for `s`. `nil` when it is none or does not fit 64 bits.
public func sizeValue(_ text: String) -> UInt64? {
  let bytes = Array(text.utf8)
  guard let last = bytes.last else { return nil }
  let shift: UInt64
  switch last {
  case UInt8(ascii: "0")...UInt8(ascii: "9"): shift = 0
  case UInt8(ascii: "s"): shift = 9
  case UInt8(ascii: "k"), UInt8(ascii: "K"): shift = 10
  case UInt8(ascii: "m"), UInt8(ascii: "M"): shift = 20
  case UInt8(ascii: "g"), UInt8(ascii: "G"): shift = 30
  case UInt8(ascii: "t"), UInt8(ascii: "T"): shift = 40
  case UInt8(ascii: "p"), UInt8(ascii: "P"): shift = 50
  default: return nil
  }
  let digits = shift == 0 ? bytes[...] : bytes.dropLast()
  guard !digits.isEmpty else { return nil }
  var value: UInt64 = 0
  for digit in digits {
    guard digit >= UInt8(ascii: "0"), digit <= UInt8(ascii: "9") else { return nil }
    let (scaled, overflowed) = value.multipliedReportingOverflow(by: 10)
    let (sum, carried) = scaled.addingReportingOverflow(UInt64(digit - UInt8(ascii: "0")))
    if overflowed || carried { return nil }
    value = sum
  }
  let (result, overflowed) = value.multipliedReportingOverflow(by: 1 << shift)
  return overflowed ? nil : result
}

/// Warnings in the order they were found, bounded.
struct WarningList: Equatable, Sendable {
  private(set) var warnings: [ConfigurationWarning] = []
  /// Files that everybody on the machine can read.
  var openFiles: Set<String> = []

  /// A secret stands at this place.
  mutating func noteSecret(at position: SourcePosition) {
    guard openFiles.remove(position.file) != nil else { return }
    add(
      "everybody on this machine can read the shared-secret: chmod o-r \(position.file)",
      at: position)
  }

  mutating func add(_ text: String, at position: SourcePosition) {
    guard warnings.count < Limits.warnings else { return }
    warnings.append(ConfigurationWarning(position: position, text: text))
  }
}

extension Vocabulary {
  /// Reads a section of options: used ones into the result, the others judged.
  func read(
    _ statements: [Statement], warnings: inout WarningList
  ) throws(ConfigurationError) -> OptionSection {
    var section = OptionSection()
    var seen: [String: SourcePosition] = [:]
    for statement in statements {
      let keyword = statement.keyword
      if used.contains(keyword.text) {
        try section.add(keyword, value: try statement.onlyValue())
        if keyword.text == "shared-secret" { warnings.noteSecret(at: keyword.position) }
        if let note = notes[keyword.text] {
          warnings.add("'\(keyword.text)' \(note)", at: keyword.position)
        }
        continue
      }
      try judge(statement, warnings: &warnings)
      if let first = seen.updateValue(keyword.position, forKey: keyword.text) {
        throw .conflict(
          kind: "option", what: keyword.text, at: keyword.position, firstUsedAt: first)
      }
    }
    return section
  }

  /// Applies the verdict on a statement that Ashlar does not act on.
  func judge(
    _ statement: Statement, warnings: inout WarningList
  ) throws(ConfigurationError) {
    let keyword = statement.keyword
    guard let verdict = verdicts[keyword.text] else { throw unknown(keyword) }
    if case .refused(let alternative) = verdict {
      throw .unsupported(keyword.text, alternative: alternative, at: keyword.position)
    }
    let value = try statement.valueOrYes()
    switch verdict {
    case .silent, .refused:
      break
    case .warning(let text):
      warnings.add("'\(keyword.text)' \(text)", at: keyword.position)
    case .refusedUnless(let values, let alternative):
      guard values.contains(value.text) else {
        throw .unsupported(
          "\(keyword.text) \(value.text)", alternative: alternative, at: keyword.position)
      }
    case .warnedUnless(let values, let text, let known):
      if let known, !isKnown(value.text, among: known) {
        throw .badValue(
          keyword: keyword.text, value: value.text, expected: known.joined(separator: " | "),
          suggestion: nearestWord(to: value.text, among: known), at: value.position)
      }
      if !values.contains(value.text) {
        warnings.add("'\(keyword.text) \(value.text)' \(text)", at: keyword.position)
      }
    }
  }
}

/// Whether `word` is one of `known`, where `x-*` stands for `x-` with something after it.
private func isKnown(_ word: String, among known: [String]) -> Bool {
  known.contains { pattern in
    pattern.hasSuffix("*")
      ? word.hasPrefix(pattern.dropLast()) && word.count >= pattern.count : word == pattern
  }
}

extension NetOptions {
  /// Reads the merged section; ranges are DRBD's, but for `ko-count 0`, which would wait for ever.
  init(_ section: OptionSection) throws(ConfigurationError) {
    self.init()
    if let entry = section.entries["protocol"] {
      replicationProtocol = try Self.replicationProtocol(entry.value)
    }
    timeoutTenths =
      try section.number("timeout", in: 1...600, unit: "tenths of a second") ?? timeoutTenths
    koCount = try section.number("ko-count", in: 1...200, unit: "") ?? koCount
    pingIntervalSeconds =
      try section.number("ping-int", in: 1...120, unit: "seconds") ?? pingIntervalSeconds
    pingTimeoutTenths =
      try section.number("ping-timeout", in: 1...300, unit: "tenths of a second")
      ?? pingTimeoutTenths
    connectIntervalSeconds =
      try section.number("connect-int", in: 1...120, unit: "seconds") ?? connectIntervalSeconds
    verifyAlgorithm = try section.digest("verify-alg")
    checksumAlgorithm = try section.digest("csums-alg", among: Vocabulary.proofs)
    try readIntegrityOptions(section)
    try readConflictOptions(section)
    try checkTimeout(section)
  }

  /// DRBD's rule for a `timeout` that was written down: an answer is overdue before the next ping
  /// or attempt to connect. The default is not held against a short `ping-int`.
  private func checkTimeout(_ section: OptionSection) throws(ConfigurationError) {
    guard let entry = section.entries["timeout"] else { return }
    guard timeoutTenths >= min(pingIntervalSeconds, connectIntervalSeconds) * 10 else { return }
    throw .contradiction(
      "timeout \(timeoutTenths) (tenths of a second) must be less than ping-int "
        + "\(pingIntervalSeconds) and connect-int \(connectIntervalSeconds) (seconds)",
      at: entry.keyword.position)
  }

  private static func replicationProtocol(
    _ value: Token
  ) throws(ConfigurationError) -> ReplicationProtocol {
    guard let letter = ReplicationProtocol(rawValue: value.text.uppercased()) else {
      throw .badValue(
        keyword: "protocol", value: value.text, expected: "one of A,B,C", suggestion: nil,
        at: value.position)
    }
    guard letter == .c else {
      throw .unsupported(
        "protocol \(letter.rawValue)", alternative: "not yet, use 'protocol C'",
        at: value.position)
    }
    return letter
  }
}

extension DiskOptions {
  /// Reads the merged section.
  init(_ section: OptionSection) throws(ConfigurationError) {
    self.init()
    if let entry = section.entries["io-engine"] {
      ioEngine = try entry.value.choice(keyword: "io-engine", of: IOEngine.self)
    }
    if let entry = section.entries["on-io-error"] {
      onIOError = try entry.value.choice(keyword: "on-io-error", of: OnIOError.self)
    }
    diskTimeoutTenths =
      try section.number("disk-timeout", in: 0...6000, unit: "tenths of a second")
      ?? diskTimeoutTenths
    activityLogExtents =
      try section.number("al-extents", in: 67...65_534, unit: "extents") ?? activityLogExtents
    try readResyncOptions(section)
  }
}

extension ResourceOptions {
  /// Reads the merged section for a resource of `hostCount` hosts.
  init(_ section: OptionSection, hostCount: Int) throws(ConfigurationError) {
    self.init()
    size = UInt32(hostCount)
    try readUndo(section)
    if let number = try section.number("size", in: 1...32, unit: "replicas"),
      let entry = section.entries["size"]
    {
      guard Int(number) == hostCount else {
        throw .contradiction(
          "size \(number), but \(hostCount) hosts have a disk", at: entry.value.position)
      }
      size = number
    }
    guard let number = try section.number("min-size", in: 1...UInt64(size), unit: "replicas"),
      let entry = section.entries["min-size"]
    else { return }
    // Accepted without effect it would promise a second copy that a lone node does not wait for.
    guard number == 1 else {
      throw .unsupported(
        "min-size \(number)", alternative: "'min-size 1', which is what a lone node does",
        at: entry.value.position)
    }
    minSize = UInt32(number)
  }

  private mutating func readUndo(_ section: OptionSection) throws(ConfigurationError) {
    if let entry = section.entries["undo-limit"] {
      undoLimit = try entry.value.number(keyword: "undo-limit", in: 0...1 << 50, unit: "bytes")
    }
    guard let entry = section.entries["undo-directory"] else { return }
    guard entry.value.text.hasPrefix("/") else {
      throw .badValue(
        keyword: "undo-directory", value: entry.value.text, expected: "an absolute path",
        suggestion: nil, at: entry.value.position)
    }
    undoDirectory = entry.value.text
  }
}
