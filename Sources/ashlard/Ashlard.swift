/// `ashlard`: the daemon of one node. Parses arguments, starts the node, ends it on SIGTERM.
import ArgumentParser
import BlockIO
import Configuration
import Control
import Foundation
import Glibc
import Logging
import Node

@main
struct Ashlard: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "ashlard", abstract: "Replicated block storage: the daemon of one node.",
    discussion: """
      Stays in the foreground and logs to standard error. Brings up the resources that were up \
      when it stopped or died, also after a restart of the machine; 'ashlaradm' administers it.
      """)

  @Option(name: [.customShort("c"), .long], help: "Configuration file ($ASHLAR_CONFIG).")
  var config: String?
  @Option(help: "Name of this node ($ASHLAR_NODE). (default: host name)")
  var node: String?
  @Option(help: "Directory of sockets ($ASHLAR_RUN_DIR). (default: /run/ashlar)")
  var runDir: String?
  @Option(
    help: ArgumentHelp(
      "Directory of what outlives a restart of the machine ($ASHLAR_STATE_DIR). (default: the "
        + "run directory where that was chosen, else /var/lib/ashlar)"))
  var stateDir: String?
  @Option(help: "Disk engine: io_uring or libaio. Overrides disk { io-engine } of the file.")
  var ioEngine: String?
  @Option(
    help: ArgumentHelp("Fill at most so many disks of this node at a time.", valueName: "number"))
  var maxParallelResyncs: Int?
  @Flag(name: .shortAndLong, help: "Log everything.")
  var verbose = false

  mutating func validate() throws {
    if let maxParallelResyncs, maxParallelResyncs < 1 {
      throw ValidationError("--max-parallel-resyncs '\(maxParallelResyncs)': 1 or more")
    }
  }

  mutating func run() throws {
    // Before any thread is made, so that every thread inherits it: one thread takes the signals.
    let signals = Self.blockSignals()
    let environment = try NodeEnvironment(
      configurationFile: config, node: node, runDirectory: runDir, stateDirectory: stateDir)
    let isVerbose = verbose
    LoggingSystem.bootstrap { label in
      var handler = StreamLogHandler.standardError(label: label)
      handler.logLevel = isVerbose ? .debug : .info
      return handler
    }
    let logger = Logger(label: "ashlard.\(environment.node)")
    let file = environment.configurationFile
    let service = try NodeService(
      node: environment.node, paths: environment.paths,
      engine: try engine(configurationFile: file), resyncLimit: maxParallelResyncs ?? 0,
      logger: logger)
    logger.info("node \(environment.node): I/O engine \(service.engineDescription)")
    Self.stopOnSignals(signals, service, logger)
    try service.serve {
      // The one line on standard output: scripts wait for it.
      FileHandle.standardOutput.write(Data("ashlard: node \(environment.node) is ready\n".utf8))
      ServiceManager.notify("READY=1")
    } configuration: {
      try Configuration.load(path: file)
    }
    logger.info("stopped")
  }

  /// The command line decides, else the file: one reactor serves all volumes of the node.
  private func engine(configurationFile: String) throws -> EngineChoice {
    switch ioEngine {
    case "io_uring": return .automatic
    case "libaio": return .libaio
    case .some(let other):
      throw ValidationError("--io-engine '\(other)': io_uring or libaio")
    case nil: break
    }
    guard let configuration = try? Configuration.load(path: configurationFile) else {
      return .automatic
    }
    let wantsLibaio = configuration.resources.contains { $0.disk.ioEngine == .libaio }
    return wantsLibaio ? .libaio : .automatic
  }

  private static func blockSignals() -> sigset_t {
    var signals = sigset_t()
    unsafe sigemptyset(&signals)
    unsafe sigaddset(&signals, SIGTERM)
    unsafe sigaddset(&signals, SIGINT)
    unsafe pthread_sigmask(SIG_BLOCK, &signals, nil)
    return signals
  }

  private static func stopOnSignals(
    _ signals: sigset_t, _ service: NodeService, _ logger: Logger
  ) {
    let thread = Thread {
      var signals = signals
      var number: Int32 = 0
      while unsafe sigwait(&signals, &number) == 0 {
        logger.info("stopping")
        ServiceManager.notify("STOPPING=1")
        service.stop()
      }
    }
    thread.name = "signals"
    thread.start()
  }
}
