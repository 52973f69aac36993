/// drbdadm's spellings -> the one that the argument parser knows: the command first, then its
/// options and resources.
///
/// ```
/// ashlaradm -- --force primary r0                  (8.3)
/// ashlaradm -c FILE --force primary r0             (options before the command)
/// ashlaradm primary --force=yes r0                 (flags with a value)
/// ```

/// Why a command line cannot be put into the common form.
enum CommandLineError: Error, Equatable {
  case unknownCommand(String)
}

/// Options that take the next word as their value, wherever they stand.
private let optionsWithValue: Set<String> = [
  "-c", "--config", "--config-file", "--node", "--run-dir", "-t", "--timeout", "--color",
  "--max-peers", "--to", "--onto", "--from", "-s", "--start", "-S", "--stop",
  "--generate-completion-script",
]

/// Flags that DRBD lets carry `=yes` or `=no`.
private let flagsWithValue: Set<String> = [
  "--force", "--overwrite-data-of-peer", "--discard-my-data", "--no-undo", "--tentative",
  "--verbose",
  "--statistics", "--json",
]

/// Commands whose second word says what to do.
private let commandsOfTwoWords: Set<String> = ["undo"]

/// Puts the command first. Words that are no command and no option must not precede it.
func commonForm(
  of arguments: [String], commands: [String]
) throws(CommandLineError) -> [String] {
  var before: [String] = []
  var index = 0
  while index < arguments.count {
    let word = arguments[index]
    index += 1
    if word == "--" { continue }
    if word.hasPrefix("-") && word != "-" {
      before.append(word)
      if optionsWithValue.contains(word), index < arguments.count {
        before.append(arguments[index])
        index += 1
      }
      continue
    }
    guard commands.contains(word) else { throw .unknownCommand(word) }
    var words = [word]
    if commandsOfTwoWords.contains(word), index < arguments.count {
      words.append(arguments[index])
      index += 1
    }
    let rest = before + arguments[index...]
    return words + rest.compactMap(withoutFlagValue)
  }
  return before
}

/// `--force=yes` -> `--force`; `--force=no` -> nothing.
private func withoutFlagValue(_ word: String) -> String? {
  guard let equals = word.firstIndex(of: "="), flagsWithValue.contains(String(word[..<equals]))
  else { return word }
  switch word[word.index(after: equals)...] {
  case "yes": return String(word[..<equals])
  case "no": return nil
  default: return word
  }
}
