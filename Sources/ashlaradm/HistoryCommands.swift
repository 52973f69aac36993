/// The commands that show where data comes from: `get-gi`, `show-gi`, `split-brain`.

import ArgumentParser
import Configuration
import Control

struct GetGenerations: LineCommand {
  static let configuration = CommandConfiguration(
    commandName: "get-gi",
    abstract: "Show the generations of the data in one line, as DRBD 8.4 does.")
  @OptionGroup var common: CommonOptions
  @OptionGroup var named: NamedResources

  static func line(_ resource: ResourceStatus, _ device: DeviceStatus) -> String {
    generationLine(resource, device)
  }
}

struct ShowGenerations: LineCommand {
  static let configuration = CommandConfiguration(
    commandName: "show-gi",
    abstract: "Show the generations of the data: when each began and who began it.")
  @OptionGroup var common: CommonOptions
  @OptionGroup var named: NamedResources

  static func line(_ resource: ResourceStatus, _ device: DeviceStatus) -> String {
    String(generationTable(resource, device).dropLast())
  }
}

struct SplitBrain: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "split-brain",
    abstract: "Explain what each side wrote without the other, and how to end it.",
    discussion: "With --dry-run: only what either choice would lose.")
  @OptionGroup var common: CommonOptions
  @OptionGroup var named: NamedResources

  mutating func run() throws {
    let session = try Session(common)
    let (shown, missing) = try selectStatus(session, named.resources)
    for resource in shown {
      write(text: splitBrainText(resource, isLossOnly: session.dryRun), to: 1)
    }
    for name in missing {
      for line in Refusal.unknownResource.lines(object: name) { printError(line) }
    }
    guard missing.isEmpty else { throw ExitCode(Refusal.unknownResource.exitCode) }
  }
}
