public import ArgumentParser

/// The program: its commands and their common options.
public struct AshlarBench: ParsableCommand {
  /// Name, help and commands.
  public static let configuration = CommandConfiguration(
    commandName: "ashlar-bench",
    abstract: "Measure a volume, an NBD export, a disk or a file, and check its data.",
    discussion: """
      A target is nbd+unix:///EXPORT?socket=PATH, nbd://HOST[:PORT]/EXPORT, raw:FILE, or a \
      volume of this machine with --volume RESOURCE. Loads that write destroy the data of the \
      target and need --destroy-data.

      Exit status: 0 done; 1 could not be done; 2 the data is wrong; 3 above a limit that was \
      given; 64 wrong usage.
      """,
    subcommands: [
      RunCommand.self, VerifyCommand.self, LimitsCommand.self, FloorCommand.self,
      AnswerCommand.self,
    ],
    defaultSubcommand: RunCommand.self)

  /// Made by the parser.
  public init() {}
}

/// Exit statuses beside 0, 1 and the parser's 64.
enum BenchExit {
  /// Verification found wrong data.
  static let wrongData = ExitCode(2)
  /// A limit was exceeded.
  static let aboveLimit = ExitCode(3)
}

/// The second process of a ping-pong.
struct AnswerCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: PingPong.command, abstract: "Answer pings on standard input.",
    shouldDisplay: false)

  func run() { PingPong.answer(on: 0) }
}
