/// What every command needs: which node this is, what its configuration says, and its daemon.

import ArgumentParser
import Configuration
import Control
import Glibc

/// A command that cannot go on: what to print on standard error and how to exit.
struct CommandFailure: Error, Equatable {
  var exitCode: Int32
  var lines: [String]

  init(_ exitCode: Int32, _ lines: String...) {
    self.exitCode = exitCode
    self.lines = lines
  }
}

/// drbdadm's exit codes.
enum ExitStatus {
  /// Wrong command line, or a resource that is not configured.
  static let usage: Int32 = 1
  /// Waited in vain.
  static let timeout: Int32 = 5
  /// The configuration is invalid; or the daemon refused.
  static let invalidConfiguration: Int32 = 10
  /// The daemon or a disk could not be reached.
  static let communication: Int32 = 20
  /// `create-md` would destroy a file system.
  static let wouldDestroy: Int32 = 40
}

/// The options that every command takes.
struct CommonOptions: ParsableArguments {
  @Option(
    name: [.short, .long, .customLong("config-file")],
    help: ArgumentHelp(
      "Configuration file (default: $ASHLAR_CONFIG, else /etc/ashlar/ashlar.conf).",
      valueName: "file"))
  var config: String?

  @Option(
    help: ArgumentHelp(
      "This node's name (default: $ASHLAR_NODE, else uname -n).", valueName: "name"))
  var node: String?

  @Option(
    help: ArgumentHelp(
      "Directory of the daemon's sockets (default: $ASHLAR_RUN_DIR, else /run/ashlar).",
      valueName: "dir"))
  var runDir: String?

  @Flag(
    name: [.short, .long], help: "Print what would be done or asked of the daemon, and do nothing.")
  var dryRun = false
}

/// The help of the argument that names resources.
let resourcesHelp = ArgumentHelp("Resources: NAME, NAME/VOLUME or 'all'.", valueName: "resource")

/// The resources of a command that needs to be told which.
struct NamedResources: ParsableArguments {
  @Argument(help: resourcesHelp) var resources: [String] = []

  mutating func validate() throws {
    if resources.isEmpty { throw ValidationError("No resource names specified") }
  }
}

/// One resource, or one of its volumes, named on the command line.
struct Target: Equatable {
  var resource: ResourceConfiguration
  var host: HostConfiguration
  /// `nil`: all volumes.
  var volume: UInt16?

  /// The volumes meant.
  var volumes: [VolumeConfiguration] {
    host.volumes.filter { volume == nil || $0.number == volume }
  }
}

/// The environment of one run of the tool.
struct Session {
  let environment: NodeEnvironment
  let dryRun: Bool

  init(_ options: CommonOptions) throws(CommandFailure) {
    do {
      environment = try NodeEnvironment(
        configurationFile: options.config, node: options.node, runDirectory: options.runDir)
    } catch {
      throw CommandFailure(ExitStatus.usage, "\(error)")
    }
    dryRun = options.dryRun
  }

  /// The configuration.
  ///
  /// - Parameter showsWarnings: print them; commands that act on the file do, queries do not.
  func configuration(showsWarnings: Bool = false) throws(CommandFailure) -> Configuration {
    do {
      let configuration = try Configuration.load(path: environment.configurationFile)
      if showsWarnings {
        for warning in configuration.warnings { printError("\(warning)") }
      }
      return configuration
    } catch {
      var exitCode = ExitStatus.invalidConfiguration
      // drbdadm: a file that was asked for by name and cannot be opened is not a syntax error.
      if case .cannotRead(let path, _, nil) = error, environment.isConfigurationFileChosen,
        path == environment.configurationFile
      {
        exitCode = ExitStatus.communication
      }
      throw CommandFailure(exitCode, "\(error)")
    }
  }

  /// The resources that `words` name: `r0`, `r0/0`, `all`, `all/0`.
  func targets(
    _ words: [String], in configuration: Configuration
  ) throws(CommandFailure) -> [Target] {
    guard !configuration.resources.isEmpty else {
      throw CommandFailure(ExitStatus.usage, "no resources defined!")
    }
    var targets: [Target] = []
    for word in words {
      let (name, volume) = try split(word)
      let named =
        name == "all"
        ? configuration.resources(on: environment.node)
        : [configuration.resource(named: name)].compactMap { $0 }
      for resource in named {
        guard let host = resource.host(named: environment.node) else { throw undefined(name) }
        if let volume, host.volume(volume) == nil {
          if name == "all" { continue }
          throw CommandFailure(
            ExitStatus.usage,
            "'\(word)' not defined in your config (for this host): "
              + "\(name) has no volume \(volume)")
        }
        let target = Target(resource: resource, host: host, volume: volume)
        if !targets.contains(target) { targets.append(target) }
      }
      if named.isEmpty && name != "all" { throw undefined(name) }
    }
    guard !targets.isEmpty else {
      throw CommandFailure(
        ExitStatus.usage,
        "no resources defined for node '\(environment.node)': check --node and the 'on' sections")
    }
    return targets
  }

  private func undefined(_ name: String) -> CommandFailure {
    CommandFailure(ExitStatus.usage, "'\(name)' not defined in your config (for this host).")
  }

  private func split(_ word: String) throws(CommandFailure) -> (String, UInt16?) {
    guard let slash = word.firstIndex(of: "/") else { return (word, nil) }
    let digits = word[word.index(after: slash)...]
    guard let volume = UInt16(digits), volume <= 65534 else {
      throw CommandFailure(
        ExitStatus.usage, "'\(word)': '\(digits)' is not a volume number [0..65534]")
    }
    return (String(word[..<slash]), volume)
  }

  /// Asks the daemon one thing.
  func send(_ request: ControlRequest) throws(CommandFailure) -> ControlReply {
    do {
      let client = try ControlClient(paths: environment.paths)
      return try client.send(request)
    } catch {
      throw CommandFailure(ExitStatus.communication, "\(error)")
    }
  }

  /// Asks the daemon to do something, or prints what it would be asked. Prints what it says.
  func perform(_ request: ControlRequest) throws(CommandFailure) -> Int32 {
    if dryRun {
      printOutput(dryRunLine(request))
      return 0
    }
    let reply = try send(request)
    show(reply)
    return reply.exitCode
  }

  /// The state of all resources that are up.
  func status() throws(CommandFailure) -> [ResourceStatus] {
    let reply = try send(ControlRequest(.status))
    guard reply.exitCode == 0, let status = reply.status else {
      show(reply)
      throw CommandFailure(reply.exitCode == 0 ? ExitStatus.communication : reply.exitCode)
    }
    return status
  }
}

/// Prints what the daemon says.
func show(_ reply: ControlReply) {
  for line in reply.standardOutput { printOutput(line) }
  for line in reply.standardError { printError(line) }
}

/// One line on standard output.
func printOutput(_ line: String) { print(line) }

/// One line on standard error.
func printError(_ line: String) {
  write(text: line + "\n", to: 2)
}

/// Writes all of `text`, ignoring a reader that has gone.
func write(text: String, to descriptor: Int32) {
  fflush(nil)
  var bytes = Array(text.utf8)[...]
  while !bytes.isEmpty {
    let count = unsafe bytes.withUnsafeBytes { buffer in
      unsafe Glibc.write(descriptor, buffer.baseAddress, buffer.count)
    }
    if count < 0 && errno == EINTR { continue }
    guard count > 0 else { return }
    bytes = bytes.dropFirst(count)
  }
}

/// Runs `body` for each item; all are tried, the first failure decides how the tool exits.
func forEach<Item>(
  _ items: [Item], _ body: (Item) throws(CommandFailure) -> Int32
) throws {
  var exitCode: Int32 = 0
  for item in items {
    var code: Int32
    do throws(CommandFailure) {
      code = try body(item)
    } catch {
      for line in error.lines { printError(line) }
      code = error.exitCode
    }
    if exitCode == 0 { exitCode = code }
  }
  guard exitCode == 0 else { throw ExitCode(exitCode) }
}
