/// `-d` with every command there is: nothing changes, neither in the daemon nor in a file. The same
/// words without `-d` change something where the command changes anything, so that this can fail.

import ArgumentParser
import Control
import Foundation
import Metadata
import Testing

@testable import ashlaradm

/// All commands with the words that call them; those of two words instead of their group.
func allCommands() -> [(path: [String], command: any ParsableCommand.Type)] {
  Ashlaradm.configuration.subcommands.flatMap { command in
    let name = command.configuration.commandName ?? ""
    let inner = command.configuration.subcommands
    guard !inner.isEmpty else { return [(path: [name], command: command)] }
    return inner.map { (path: [name, $0.configuration.commandName ?? ""], command: $0) }
  }
}

/// The options of a command that take a value, as they are typed.
func optionsWithValue(of command: any ParsableCommand.Type) throws -> [String] {
  struct Help: Decodable {
    struct Command: Decodable { var arguments: [Argument]? }
    struct Argument: Decodable {
      var kind: String
      var names: [Name]?
    }
    struct Name: Decodable {
      var kind: String
      var name: String
    }
    var command: Command
  }
  let help = try JSONDecoder().decode(Help.self, from: Data(command._dumpHelp().utf8))
  return (help.command.arguments ?? []).filter { $0.kind == "option" }.flatMap { $0.names ?? [] }
    .map { ($0.kind == "short" ? "-" : "--") + $0.name }
}

@Suite struct DryRunTests {
  /// What is typed behind each command; `FILE` is an undo file, `IMAGE` is not there yet, `DUMP` is
  /// what dump-md has printed.
  private static let words: [String: [String]] = [
    "up": ["r0"], "down": ["r0"], "attach": ["r0"], "detach": ["r0"], "adjust": ["r0"],
    "connect": ["--discard-my-data", "r0"], "disconnect": ["r0"],
    "primary": ["--force", "r0"], "secondary": ["r0"], "invalidate": ["r0"],
    "invalidate-remote": ["r0"], "new-current-uuid": ["--clear-bitmap", "r0"],
    "pause-sync": ["r0"], "resume-sync": ["r0"], "verify": ["r0"],
    "create-md": ["--force", "r0"], "restore-md": ["--force", "r0", "DUMP"],
    "wipe-md": ["--force", "r0"], "apply-al": ["r0"],
    "undo export": ["FILE", "--to", "IMAGE"], "undo remove": ["FILE"],
  ]

  /// These only look, with `-d` and without.
  private static let queries: [String: [String]] = [
    "status": [], "role": ["r0"], "cstate": ["r0"], "dstate": ["r0"], "get-gi": ["r0"],
    "show-gi": ["r0"], "split-brain": ["r0"], "undo list": ["r0"], "undo show": ["FILE"],
    "events2": ["--now"], "wait-connect": ["r0"], "wait-sync": ["r0"], "proc": [], "dump": [],
    "dump-md": ["r0"], "sh-dev": ["r0"], "sh-resources": [],
  ]

  /// Asking these changes nothing.
  private static let harmless: Set<ControlCommand> = [.status, .show, .explainDiscard, .events]

  private let size = 64 << 20

  @Test func everyCommandIsTried() {
    let tried = Set(Self.words.keys).union(Self.queries.keys)
    #expect(Set(allCommands().map { $0.path.joined(separator: " ") }) == tried)
  }

  @Test(arguments: words.keys.sorted())
  func dryRunChangesNothing(command: String) throws {
    let arguments = try #require(Self.words[command])
    #expect(try changes(command, arguments, isDry: true) == [], "\(command) -d")
    #expect(try changes(command, arguments, isDry: false) != [], "\(command)")
  }

  @Test(arguments: queries.keys.sorted())
  func queriesChangeNothing(command: String) throws {
    let arguments = try #require(Self.queries[command])
    #expect(try changes(command, arguments, isDry: true) == [], "\(command) -d")
    #expect(try changes(command, arguments, isDry: false) == [], "\(command)")
  }

  /// Runs one command in a place of its own; what it changed there.
  private func changes(
    _ command: String, _ arguments: [String], isDry: Bool
  ) throws -> [String] {
    let bench = try Bench()
    let file = try UndoCommandTests().undoFile(bench)
    let dump = bench.directory.appending(path: "dump").path
    try bench.makeDisk(bytes: size)
    try #require(try bench.run("create-md", "r0").status == 0)
    // Crashed while it was writing, so that apply-al has something to do.
    try bench.changeSuperblock(size) {
      $0.dirty = true
      $0.activityLogRun = 5
    }
    try bench.writeLog(size, extents: [3])
    try bench.run("dump-md", "r0").output.write(toFile: dump, atomically: true, encoding: .utf8)
    var status = healthy()
    let usesTheDisk = ["create-md", "restore-md", "wipe-md", "apply-al", "dump-md"]
    if usesTheDisk.contains(command) { status.devices[0].diskState = .diskless }
    let reply = ControlReply(status: [status], configurations: [])
    let daemon = try FakeDaemon(bench.paths) { _ in reply }
    let before = try contents(bench)

    let names = ["FILE": file, "IMAGE": file + ".img", "DUMP": dump]
    let typed =
      command.split(separator: " ").map(String.init) + (isDry ? ["-d"] : [])
      + arguments.map { names[$0] ?? $0 }
    let result = try bench.run(typed)
    #expect(result.status == 0, "\(typed): \(result)")
    if isDry { #expect(Self.words[command] == nil || result.output != "", "\(typed)") }

    let after = try contents(bench)
    let changed = Set(before.keys).union(after.keys).filter { before[$0] != after[$0] }
    let asked = daemon.commands.map(\.command).filter { !Self.harmless.contains($0) }
    return changed.sorted() + asked.map { "asked \($0)" }
  }

  /// All files of the bench but those that the test itself writes with each run.
  private func contents(_ bench: Bench) throws -> [String: Data] {
    let paths = try FileManager.default.subpathsOfDirectory(atPath: bench.directory.path)
    var contents: [String: Data] = [:]
    for path in paths where path != "stdout" && path != "stderr" {
      let url = bench.directory.appending(path: path)
      guard try url.resourceValues(forKeys: [.isRegularFileKey]).isRegularFile == true else {
        continue
      }
      contents[path] = try Data(contentsOf: url)
    }
    return contents
  }
}
