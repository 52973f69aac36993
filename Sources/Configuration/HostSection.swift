/// One `on HOST { }` section -> `HostConfiguration`, and what names and addresses must look like.

import BlockTypes

/// An `on` section before the resource's defaults are merged into it.
struct HostDraft: Sendable {
  var name: Token
  var nodeID: (id: NodeID, position: SourcePosition)?
  var address: (value: PeerAddress, position: SourcePosition)?
  var volumes = VolumeDrafts()

  init(_ statement: Statement, warnings: inout WarningList) throws(ConfigurationError) {
    guard let name = statement.arguments.first else {
      throw .unexpected(
        expected: "a host name", got: statement.end.text, suggestion: nil,
        at: statement.end.position)
    }
    if statement.arguments.count > 1 {
      throw .unsupported(
        "on \(name.text) \(statement.arguments[1].text)",
        alternative: "one host for each 'on' section", at: statement.arguments[1].position)
    }
    self.name = name
    try checkName(name, kind: "host name")
    for inner in try statement.section() {
      try read(inner, warnings: &warnings)
    }
  }

  private mutating func read(
    _ statement: Statement, warnings: inout WarningList
  ) throws(ConfigurationError) {
    let keyword = statement.keyword
    switch keyword.text {
    case "node-id":
      if let first = nodeID {
        throw .conflict(
          kind: "statement", what: "node-id", at: keyword.position, firstUsedAt: first.position)
      }
      let value = try statement.onlyValue("a number")
      let number = try value.number(keyword: "node-id", in: 0...UInt64(NodeID.max), unit: "")
      nodeID = NodeID(number).map { ($0, value.position) }
    case "address":
      if let first = address {
        throw .conflict(
          kind: "statement", what: "address", at: keyword.position, firstUsedAt: first.position)
      }
      address = try parseAddress(statement)
    default:
      if try volumes.read(statement) { return }
      try Vocabulary.host.judge(statement, warnings: &warnings)
    }
  }
}

/// Longest name of a resource or host. It becomes part of socket paths, whose limit is 107 bytes.
let longestName = 64

/// Refuses names that could not be file names, NBD export names or words of the command line.
func checkName(_ token: Token, kind: String) throws(ConfigurationError) {
  let expected = "1 to \(longestName) letters, digits, '-', '_', '.', '+', not starting with '-'"
  let bytes = Array(token.text.utf8)
  let isPlain = bytes.allSatisfy { byte in
    switch byte {
    case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
      UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "-"), UInt8(ascii: "_"),
      UInt8(ascii: "."), UInt8(ascii: "+"):
      true
    default: false
    }
  }
  let isDots = token.text == "." || token.text == ".."
  let isSound = isPlain && !bytes.isEmpty && bytes.count <= longestName && !isDots
  guard isSound, bytes.first != UInt8(ascii: "-") else {
    throw .badValue(
      keyword: kind, value: token.text, expected: expected, suggestion: nil, at: token.position)
  }
}

/// `address [ipv4|ipv6] HOST:PORT;`
private func parseAddress(
  _ statement: Statement
) throws(ConfigurationError) -> (PeerAddress, SourcePosition) {
  try statement.requireNoBlock()
  var words = statement.arguments[...]
  var family: Token?
  if let first = words.first, !first.text.contains(":"), words.count > 1 {
    guard ["ipv4", "ipv6"].contains(first.text) else {
      throw .unexpected(
        expected: "ipv4 | ipv6", got: first.text,
        suggestion: nearestWord(to: first.text, among: ["ipv4", "ipv6"]), at: first.position)
    }
    family = first
    words = words.dropFirst()
  }
  guard let word = words.first else {
    throw .unexpected(
      expected: "an address", got: statement.end.text, suggestion: nil,
      at: statement.end.position)
  }
  try statement.requireArguments(atMost: family == nil ? 1 : 2)
  let address = try splitAddress(word, end: statement.end)
  if let family, family.text != address.family {
    throw .badValue(
      keyword: "address", value: word.text, expected: "an \(family.text) address",
      suggestion: nil, at: word.position)
  }
  return (address, word.position)
}

/// Takes `10.0.0.1:7789` or `[fd00::1]:7789` apart.
private func splitAddress(_ word: Token, end: Token) throws(ConfigurationError) -> PeerAddress {
  let text = word.text
  let isBracketed = text.hasPrefix("[")
  guard let colon = text.lastIndex(of: ":"), !isBracketed || text[..<colon].hasSuffix("]") else {
    // The place is that of the `;`: there the port is missing.
    throw .unexpected(expected: ":", got: end.text, suggestion: nil, at: end.position)
  }
  let host = isBracketed ? String(text[..<colon].dropFirst().dropLast()) : String(text[..<colon])
  guard isBracketed ? isIPv6(host) : isIPv4(host) else {
    throw .badValue(
      keyword: "address", value: text, suggestion: host,
      at: word.position)
  }
  let portColumn = word.position.column + text.distance(from: text.startIndex, to: colon) + 1
  let port = Token(
    kind: .word, text: String(text[text.index(after: colon)...]),
    position: SourcePosition(
      file: word.position.file, line: word.position.line, column: portColumn))
  let number = try port.number(keyword: "port", in: 1...65535, unit: "")
  return PeerAddress(host: host.lowercased(), port: UInt16(number))
}

extension ConfigurationError {
  /// An address that is none. A name gets its own hint.
  fileprivate static func badValue(
    keyword: String, value: String, suggestion host: String, at position: SourcePosition
  ) -> ConfigurationError {
    let isName = host.contains { $0.isLetter } && !host.contains(":")
    let expected =
      isName
      ? "a numeric address (names are not looked up), as 10.0.0.1:7789 or [fd00::1]:7789"
      : "an address as 10.0.0.1:7789 or [fd00::1]:7789"
    return .badValue(
      keyword: keyword, value: value, expected: expected, suggestion: nil, at: position)
  }
}

/// Whether `text` is four numbers of 0 to 255 without leading zeros.
func isIPv4(_ text: String) -> Bool {
  let parts = text.split(separator: ".", omittingEmptySubsequences: false)
  return parts.count == 4
    && parts.allSatisfy { part in
      guard let number = UInt8(part), part.utf8.count <= 3 else { return false }
      return String(number) == part
    }
}

/// Whether `text` is an IPv6 address: groups of up to four hexadecimal digits, `::` at most once,
/// and perhaps an IPv4 address at the end.
func isIPv6(_ text: String) -> Bool {
  guard text.utf8.count <= 45 else { return false }
  let halves = text.components(separatedByDoubleColon: ())
  guard halves.count <= 2 else { return false }
  var groups = 0
  for (index, half) in halves.enumerated() where !half.isEmpty {
    let parts = half.split(separator: ":", omittingEmptySubsequences: false)
    for (place, part) in parts.enumerated() {
      let isLast = index == halves.count - 1 && place == parts.count - 1
      if isLast && part.contains(".") {
        guard isIPv4(String(part)) else { return false }
        groups += 2
      } else {
        guard (1...4).contains(part.utf8.count), part.allSatisfy(\.isHexDigit) else {
          return false
        }
        groups += 1
      }
    }
  }
  return halves.count == 2 ? groups <= 7 : groups == 8
}

extension String {
  /// The pieces between each `::`.
  fileprivate func components(separatedByDoubleColon: Void) -> [Substring] {
    var pieces: [Substring] = []
    var start = startIndex
    var index = startIndex
    while index < endIndex {
      let next = self.index(after: index)
      if self[index] == ":", next < endIndex, self[next] == ":" {
        pieces.append(self[start..<index])
        start = self.index(after: next)
        index = start
      } else {
        index = next
      }
    }
    pieces.append(self[start...])
    return pieces
  }
}
