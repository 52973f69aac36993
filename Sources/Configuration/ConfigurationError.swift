/// Everything that can be wrong with a configuration, each with its place.
///
/// The wording follows drbdadm ("Parse error: ';' expected, but got ..."), with the column and the
/// nearest known word added, because operators search for those words.

/// Why a configuration was refused. The first error found is the one thrown.
public enum ConfigurationError: Error, Equatable, Sendable {
  /// A file could not be opened or read; `includedAt` is the `include` that asked for it.
  case cannotRead(path: String, reason: String, includedAt: SourcePosition?)
  /// A byte that no configuration may contain: a control character, or not UTF-8.
  case badByte(UInt8, at: SourcePosition)
  /// A quoted string without its closing quote on the same line.
  case unterminatedString(at: SourcePosition)
  /// Another word or sign was expected.
  case unexpected(expected: String, got: String, suggestion: String?, at: SourcePosition)
  /// The file ended inside a section.
  case unclosedSection(String, openedAt: SourcePosition, at: SourcePosition)
  /// A number outside its range.
  case outOfRange(
    keyword: String, value: String, allowed: ClosedRange<UInt64>, unit: String,
    at: SourcePosition)
  /// A value that is not one of those the keyword knows.
  case badValue(
    keyword: String, value: String, expected: String, suggestion: String?, at: SourcePosition)
  /// Two settings that exclude each other.
  case contradiction(String, at: SourcePosition)
  /// A name, address or disk used twice.
  case conflict(kind: String, what: String, at: SourcePosition, firstUsedAt: SourcePosition)
  /// A required keyword or section is missing in the place described by `inside`.
  case missing(String, inside: String, at: SourcePosition)
  /// A statement of DRBD that is refused, and what to do instead.
  case unsupported(String, alternative: String, at: SourcePosition)
  /// A bound on the size or depth of the configuration was passed.
  case limitExceeded(String, limit: Int, at: SourcePosition)
  /// A file includes itself, directly or through others.
  case includeCycle(path: String, at: SourcePosition)
}

extension ConfigurationError: CustomStringConvertible {
  /// The place and the reason; drbdadm's wording where it has one.
  public var description: String {
    switch self {
    case .cannotRead(let path, let reason, let includedAt):
      let prefix = includedAt.map { "\($0): " } ?? ""
      return "\(prefix)Can not open '\(path)': \(reason)"
    case .badByte(let byte, let at):
      let hexadecimal = String(byte, radix: 16)
      return "\(at): Parse error: byte 0x\(hexadecimal) is not text"
    case .unterminatedString(let at):
      return "\(at): Parse error: '\"' expected before the end of the line"
    case .unexpected(let expected, let got, let suggestion, let at):
      return "\(at): Parse error: '\(expected)' expected,\n\tbut got '\(shortened(got))'"
        + didYouMean(suggestion)
    case .unclosedSection(let section, let openedAt, let at):
      return "\(at): Parse error: '}' expected,\n\tbut got the end of the file; "
        + "section '\(shortened(section))' was opened at \(openedAt)"
    case .outOfRange(let keyword, let value, let allowed, let unit, let at):
      let suffix = unit.isEmpty ? "" : " \(unit)"
      return "\(at): \(keyword) \(shortened(value)) out of range "
        + "[\(allowed.lowerBound)..\(allowed.upperBound)]\(suffix)."
    default:
      return longDescription
    }
  }

  private var longDescription: String {
    switch self {
    case .badValue(let keyword, let value, let expected, let suggestion, let at):
      "\(at): \(keyword) '\(shortened(value))' is not valid, expected \(expected)"
        + didYouMean(suggestion)
    case .contradiction(let text, let at):
      "\(at): \(text)"
    case .conflict(let kind, let what, let at, let firstUsedAt):
      "\(at): conflicting use of \(kind) '\(what)' ...\n"
        + "\(firstUsedAt): \(kind) '\(what)' first used here."
    case .missing(let what, let inside, let at):
      what.hasPrefix("section")
        ? "\(at): in \(inside):\n\tMissing \(what)."
        : "\(at): in \(inside): '\(what)' keyword missing."
    case .unsupported(let statement, let alternative, let at):
      "\(at): '\(shortened(statement))' is not supported: \(alternative)"
    case .limitExceeded(let what, let limit, let at):
      "\(at): \(what): more than \(limit)"
    case .includeCycle(let path, let at):
      "\(at): include of '\(path)', which is being read already"
    default:
      "invalid configuration"
    }
  }

  /// Where the error is; `nil` when no file could be opened at all.
  public var position: SourcePosition? {
    switch self {
    case .cannotRead(_, _, let at): at
    case .badByte(_, let at), .unterminatedString(let at), .unexpected(_, _, _, let at),
      .unclosedSection(_, _, let at), .outOfRange(_, _, _, _, let at),
      .badValue(_, _, _, _, let at), .contradiction(_, let at), .conflict(_, _, let at, _),
      .missing(_, _, let at), .unsupported(_, _, let at), .limitExceeded(_, _, let at),
      .includeCycle(_, let at):
      at
    }
  }

  private func didYouMean(_ suggestion: String?) -> String {
    suggestion.map { "; did you mean '\($0)'?" } ?? ""
  }

  /// An error must stay readable whatever the file holds.
  private func shortened(_ text: String) -> String {
    text.count <= 40 ? text : "\(text.prefix(40))..."
  }
}
