/// The list of commands and how the tool exits.

import ArgumentParser
import Configuration
import Control

/// `ashlaradm`: administers the Ashlar daemon of this machine as drbdadm administers DRBD.
struct Ashlaradm: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "ashlaradm",
    abstract: "Administer Ashlar's replicated volumes.",
    discussion: """
      RESOURCE is the name of a resource, with /VOLUME for one of its volumes, or 'all'. drbdadm's \
      spellings are understood too, as 'ashlaradm -- --force primary r0'.
      """,
    version: "ashlaradm \(ashlarVersion)",
    subcommands: [
      Up.self, Down.self, Attach.self, Detach.self, Connect.self, Disconnect.self, Primary.self,
      Secondary.self, Invalidate.self, InvalidateRemote.self, NewCurrentUUID.self, PauseSync.self,
      ResumeSync.self, Verify.self, Adjust.self, Status.self, Role.self,
      ConnectionState.self, DiskState.self, GetGenerations.self, ShowGenerations.self,
      SplitBrain.self, Undo.self, Events.self, WaitConnect.self, WaitSync.self, Proc.self,
      Dump.self,
      CreateMetadata.self, DumpMetadata.self, RestoreMetadata.self, ApplyActivityLog.self,
      WipeMetadata.self, ShowDevice.self, ShowResources.self,
    ])

  /// The names of all commands, for drbdadm's spellings and for "did you mean".
  static var commandNames: [String] {
    configuration.subcommands.compactMap { $0.configuration.commandName } + ["help"]
  }

  /// Runs one command line and returns the exit code. Every error is printed here, once.
  static func run(arguments: [String]) -> Int32 {
    do {
      let words = try commonForm(of: arguments, commands: commandNames)
      if words.isEmpty {
        printError(helpMessage())
        printError("\nNo command specified")
        return ExitStatus.usage
      }
      var command = try parseAsRoot(words)
      try command.run()
      return 0
    } catch let error as CommandFailure {
      for line in error.lines { printError(line) }
      return error.exitCode
    } catch CommandLineError.unknownCommand(let word) {
      let hint = nearestCommand(to: word).map { "; did you mean '\($0)'?" } ?? ""
      printError("ashlaradm: Unknown command '\(word)'\(hint)")
      return ExitStatus.usage
    } catch let error as ExitCode {
      return error.rawValue
    } catch {
      let text = fullMessage(for: error)
      if exitCode(for: error) == .success {
        if !text.isEmpty { printOutput(text) }
        return 0
      }
      printError(text)
      return ExitStatus.usage
    }
  }

  private static func nearestCommand(to word: String) -> String? {
    nearestWord(to: word, among: commandNames)
  }
}
