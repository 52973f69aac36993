/// `events2`: what there is and every change of it, one line each.

import ArgumentParser
import Configuration
import Control
import Foundation

struct Events: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "events2",
    abstract: "Print what there is, then every change, in the grammar of 'drbdsetup events2'.",
    discussion: """
      Ends with an error when the daemon ends, or when changes came faster than they were read: \
      nothing is left out silently.
      """)
  @OptionGroup var common: CommonOptions
  @Flag(help: "Print what there is and exit.") var now = false
  @Flag(help: "Begin each line with the time.") var timestamps = false
  @Argument(help: resourcesHelp) var resources: [String] = []

  mutating func run() throws {
    let session = try Session(common)
    if now {
      show(try session.status())
      return
    }
    do {
      let client = try ControlClient(paths: session.environment.paths)
      try client.watch(ControlRequest(.events)) { reply in
        for line in reply.standardError { printError(line) }
        if let status = reply.status { show(status) } else { show(lines: reply.standardOutput) }
        return reply.exitCode == 0
      }
    } catch {
      throw CommandFailure(ExitStatus.communication, "\(error)")
    }
  }

  private func show(_ status: [ResourceStatus]) {
    show(lines: status.flatMap { eventLines("exists", $0) } + ["exists -"])
  }

  private func show(lines: [String]) {
    let wanted = Set(resources.filter { $0 != "all" })
    let stamp = timestamps ? Self.time() + " " : ""
    for line in lines {
      if !wanted.isEmpty, let name = resourceName(ofEvent: line), !wanted.contains(String(name)) {
        continue
      }
      write(text: stamp + line + "\n", to: 1)
    }
  }

  /// `2026-11-21T05:46:03.215024+00:00`, as DRBD prints it.
  private static func time() -> String {
    let now = Date().timeIntervalSince1970
    let microseconds = Int((now - now.rounded(.down)) * 1e6)
    let fraction = String(microseconds + 1_000_000).dropFirst()
    return (isoTime(UInt32(now)) ?? "").dropLast() + ".\(fraction)+00:00"
  }
}
