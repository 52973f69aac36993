internal import Glibc

/// One line on the terminal that says what is being measured, overwritten by the next. Where
/// standard error is no terminal, nothing is written.
enum Progress {
  private static var isTerminal: Bool { isatty(2) == 1 }

  /// Shows `text` in place of the last one.
  static func show(_ text: String) {
    guard isTerminal else { return }
    write("\r\u{1B}[K\(text) ...")
  }

  /// Takes the line away.
  static func clear() {
    guard isTerminal else { return }
    write("\r\u{1B}[K")
  }

  private static func write(_ text: String) {
    // Losing a progress line to a full or closed terminal harms nobody.
    let bytes = Array(text.utf8)
    _ = unsafe Glibc.write(2, bytes, bytes.count)
  }
}
