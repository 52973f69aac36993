/// Where a word stands in a configuration file, and what is odd but not wrong there.

/// A place in a configuration file. Lines and columns count from 1; columns count characters.
public struct SourcePosition: Hashable, Sendable, CustomStringConvertible {
  /// The path under which the file was opened.
  public let file: String
  /// The line, from 1.
  public let line: Int
  /// The column, from 1.
  public let column: Int

  /// Joins the parts.
  public init(file: String, line: Int, column: Int) {
    self.file = file
    self.line = line
    self.column = column
  }

  /// `file:line:column`, the form compilers use and editors follow.
  public var description: String { "\(file):\(line):\(column)" }
}

/// A statement that was accepted but has no effect, or not the one DRBD gives it.
public struct ConfigurationWarning: Equatable, Sendable, CustomStringConvertible {
  /// Where the statement stands.
  public let position: SourcePosition
  /// What is different, in a sentence.
  public let text: String

  /// Joins the parts.
  public init(position: SourcePosition, text: String) {
    self.position = position
    self.text = text
  }

  /// `file:line:column: warning: text`.
  public var description: String { "\(position): warning: \(text)" }
}
