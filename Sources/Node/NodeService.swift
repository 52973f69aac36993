/// A running node: the reactor's thread, the control socket, the list of what is up.
public import BlockIO
import BlockTypes
public import Configuration
public import Control
import Foundation
import Glibc
public import Logging
import NIOCore
import NIOPosix

/// Why a node could not start.
public enum NodeError: Error, CustomStringConvertible {
  /// Another daemon serves this node.
  case alreadyRunning(lockFile: String)
  /// A file or socket could not be made.
  case system(SystemError)
  /// Something else, in words.
  case other(String)

  /// One line for the administrator.
  public var description: String {
    switch self {
    case .alreadyRunning(let file):
      "another ashlard runs for this node (\(file) is locked)"
    case .system(let error): "\(error)"
    case .other(let text): text
    }
  }
}

/// A running node.
public final class NodeService: Sendable {
  private let paths: RunPaths
  private let logger: Logger
  private let mailbox: Mailbox<NodeMessage>
  private let group: MultiThreadedEventLoopGroup
  private let state: StateKeeper
  private let lock: Int32
  private let log: LogQueue
  private let handlers: HandlerRunner
  /// Which engine carries I/O and, where it was not the first choice, why.
  public let engineDescription: String

  /// Starts the reactor's thread. Nothing is served before `serve`.
  public init(
    node: String, paths: RunPaths, engine: EngineChoice, resyncLimit: Int = 0, logger: Logger
  ) throws {
    self.paths = paths
    self.logger = logger
    try Self.makeDirectory(paths.runDirectory)
    try Self.makeDirectory(paths.stateDirectory)
    lock = try Self.lock(paths.lockFile)
    state = StateKeeper(path: paths.stateFile, logger: logger)
    group = MultiThreadedEventLoopGroup(numberOfThreads: 1)
    let log = LogQueue(logger: logger)
    self.log = log
    let handlers = HandlerRunner { severity, line in log.write(severity, line) }
    self.handlers = handlers
    let options = NodeOptions(
      node: node, paths: paths, engine: engine, resyncLimit: resyncLimit,
      instance: UInt64.random(in: 1 ... .max),
      log: { severity, line in log.write(severity, line) },
      runHandler: { job in handlers.run(job) })
    let started = StartedLoop()
    let thread = Thread {
      Self.runLoop(options, engine, started)
    }
    thread.name = "reactor"
    // Deep enough for every handler; the loop does not recurse.
    thread.stackSize = 4 << 20
    thread.start()
    let result = started.wait()
    switch result {
    case .success(let value):
      mailbox = value.mailbox
      engineDescription = value.engine
    case .failure(let error): throw error
    }
  }

  private static func runLoop(
    _ options: NodeOptions, _ engine: EngineChoice, _ started: StartedLoop
  ) {
    var loop: NodeLoop
    do {
      // The ring belongs to the thread that made it.
      let reactor = try Reactor(options: ReactorOptions(engine: engine))
      let mailbox = Mailbox<NodeMessage>(capacity: 1024, doorbell: reactor.doorbell)
      let engine = reactor.engineDescription
      loop = try NodeLoop(options: options, reactor: reactor, mailbox: mailbox)
      started.finish(.success(StartedLoop.Value(mailbox: mailbox, engine: engine)))
    } catch {
      started.finish(.failure(.system(error)))
      return
    }
    loop.run()
  }

  private static func makeDirectory(_ path: String) throws {
    do {
      try FileManager.default.createDirectory(
        atPath: path, withIntermediateDirectories: true, attributes: [.posixPermissions: 0o750])
    } catch {
      throw NodeError.other("cannot make the directory \(path): \(error.localizedDescription)")
    }
  }

  private static func lock(_ path: String) throws -> Int32 {
    let descriptor = unsafe open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0o640)
    guard descriptor >= 0 else {
      throw NodeError.system(SystemError(call: "open", errno: errno, path: path))
    }
    guard flock(descriptor, LOCK_EX | LOCK_NB) == 0 else {
      throw NodeError.alreadyRunning(lockFile: path)
    }
    return descriptor
  }

  /// Brings up what was up, and takes commands until `stop`.
  ///
  /// A disk that does not answer holds up nothing but its own resource: commands are taken from the
  /// beginning, and `status` shows it attaching.
  ///
  /// - Parameters:
  ///   - whenReady: called once, when what was up is up, or could not be brought up, or has not
  ///     answered for ten seconds; not at all when the end was asked for before that.
  ///   - configuration: reads the configuration file.
  public func serve(
    whenReady: @Sendable () -> Void,
    configuration: @escaping @Sendable () throws -> Configuration
  ) throws {
    let restoration = Restoration(wanted(configuration), mailbox, log)
    // Before the socket, so that nobody is told that a resource does not exist.
    restoration.begin()
    let mailbox = mailbox
    let server = try ControlServer.start(
      path: paths.controlSocket, group: group,
      subscribe: { sink in if !mailbox.post(.subscribe(sink)) { sink.close() } },
      handler: { [self] request, reply in submit(request, restoration, reply) })
    restoration.wait(seconds: Restoration.patienceSeconds) { state.isStopping }
    if !state.isStopping { whenReady() }
    while !restoration.isDone, !state.waitForStop(seconds: 0.5) { restoration.begin() }
    _ = state.waitForStop()
    server.close()
    terminate()
    _ = unsafe unlink(paths.controlSocket)
    _ = unsafe unlink(paths.nbdSocket)
    try? group.syncShutdownGracefully()
    state.finishWriting()
    state.recordStop()
    handlers.finish()
    log.flush()
    // Another may serve this node from here on.
    _ = Glibc.close(lock)
  }

  /// Ends the node cleanly: demote, say goodbye, flush, mark clean.
  public func stop() { state.stop() }

  private func submit(
    _ request: ControlRequest, _ restoration: Restoration, _ reply: @escaping ReplyHandler
  ) {
    let state = state
    // Before the loop hears of it: what is asked for later would come up after it was taken down.
    if request.command == .down, let name = request.resource { restoration.forget(name) }
    let posted = mailbox.post(
      .request(request) { answer in
        guard state.isChanged(by: request, answer) else { return reply(answer) }
        // Writing a file may take its time, and this is the reactor's thread.
        state.worker.add { reply(state.record(request, answer)) }
      })
    guard !posted else { return }
    reply(ControlReply(exitCode: 20, standardError: ["ashlard: too many requests; try again"]))
  }

  /// What was up, as the configuration describes it now.
  private func wanted(_ load: @Sendable () throws -> Configuration) -> [NodeMessage.Restored] {
    let wanted = state.current.resources
    guard !wanted.isEmpty else { return [] }
    let configuration: Configuration
    do {
      configuration = try load()
    } catch {
      logger.error("cannot bring up what was up: \(error)")
      return []
    }
    return wanted.compactMap { resource in
      guard let found = configuration.resource(named: resource.name) else {
        logger.error("\(resource.name) was up, but is not in the configuration any more")
        return nil
      }
      return NodeMessage.Restored(
        configuration: found, wantsPrimary: resource.primary,
        isDisconnected: resource.disconnected == true)
    }
  }

  private func terminate() {
    let waiting = WaitingReply()
    if mailbox.post(.terminate { waiting.finish($0) }) { _ = waiting.wait() }
  }
}

/// An answer that a thread waits for.
private final class WaitingReply: @unchecked Sendable {
  // Unchecked: `reply` is written before the semaphore is signalled and read after the wait.
  private let semaphore = DispatchSemaphore(value: 0)
  private var reply = ControlReply()

  func finish(_ reply: ControlReply) {
    self.reply = reply
    semaphore.signal()
  }

  func wait() -> ControlReply {
    semaphore.wait()
    return reply
  }
}

/// Hands the result of starting the loop from its thread to the one that waits.
private final class StartedLoop: @unchecked Sendable {
  // Unchecked: `result` is written before the semaphore is signalled and read after the wait.
  struct Value {
    var mailbox: Mailbox<NodeMessage>
    var engine: String
  }
  private let semaphore = DispatchSemaphore(value: 0)
  private var result: Result<Value, NodeError>?

  func finish(_ result: Result<Value, NodeError>) {
    self.result = result
    semaphore.signal()
  }

  func wait() -> Result<Value, NodeError> {
    semaphore.wait()
    return result ?? .failure(.other("the reactor's thread ended"))
  }
}

/// Keeps the list of what is up, on disk and in memory, and the wish to stop.
private final class StateKeeper: @unchecked Sendable {
  // Unchecked: everything is touched with `lock` held.
  private let lock = NSLock()
  /// Where files are written, one after the other.
  let worker = Worker(name: "state")
  private let path: String
  private let logger: Logger
  private var state: NodeState
  /// What could not be written is written with the next change.
  private var isWritten = true
  private var wasStopped = false
  private let stopped = DispatchSemaphore(value: 0)

  init(path: String, logger: Logger) {
    self.path = path
    self.logger = logger
    do {
      state = try NodeState.read(path)
    } catch {
      logger.error(
        "\(path) cannot be read (\(error)): nothing is brought up by itself; it is kept as .damaged"
      )
      _ = unsafe rename(path, path + ".damaged")
      state = NodeState()
    }
  }

  var current: NodeState { lock.withLock { state } }

  /// Whether the end was asked for.
  var isStopping: Bool { lock.withLock { wasStopped } }

  /// Whether a request that was answered so changes what is up. `down` of what is not up does: it
  /// may have been up when the daemon ended, and have failed to come up since.
  func isChanged(by request: ControlRequest, _ answer: ControlReply) -> Bool {
    switch request.command {
    case .down: answer.exitCode == 0 || answer.refusal == Control.Refusal.unknownResource.code
    case .connect: answer.exitCode == 0 && !request.tentative
    case .up, .disconnect, .primary, .secondary: answer.exitCode == 0
    case .status, .show, .events, .attach, .detach, .invalidate, .invalidateRemote, .newCurrentUUID,
      .pauseSync, .resumeSync, .verify, .explainDiscard,
      .netOptions, .diskOptions, .resourceOptions:
      false
    }
  }

  /// Waits until everything is written that was to be.
  func finishWriting() { worker.finish(within: 10) }

  /// Remembers what a request changed; returns what the administrator is told.
  func record(_ request: ControlRequest, _ answer: ControlReply) -> ControlReply {
    guard let name = request.resource ?? request.configuration?.name else { return answer }
    return lock.withLock {
      let old = state
      switch request.command {
      case .up: state.setUp(name)
      case .primary: state.setPrimary(name, true)
      case .secondary: state.setPrimary(name, false)
      case .connect: state.setDisconnected(name, false)
      case .disconnect: state.setDisconnected(name, true)
      default: state.setDown(name)
      }
      var told = answer
      // It was not up, but would have come up.
      if answer.exitCode != 0, state != old { told = ControlReply() }
      if state != old || !isWritten { write() }
      if !isWritten {
        told.standardError.append(
          "\(name): warning: \(path) cannot be written: a restart of ashlard will not know of this")
      }
      return told
    }
  }

  /// Remembers that the node was ended cleanly: what was Primary comes back as Secondary.
  func recordStop() {
    lock.withLock {
      let old = state
      state.setAllSecondary()
      if state != old || !isWritten { write() }
    }
  }

  private func write() {
    do {
      try state.write(path)
      isWritten = true
    } catch {
      isWritten = false
      logger.error("cannot write \(path): \(error)")
    }
  }

  func stop() {
    lock.withLock { wasStopped = true }
    stopped.signal()
  }

  /// Waits for the end; returns whether it was asked for within `seconds`.
  func waitForStop(seconds: Double = .infinity) -> Bool {
    guard seconds < .infinity else {
      stopped.wait()
      return true
    }
    guard stopped.wait(timeout: .now() + seconds) == .success else { return false }
    // Whoever waits next is to see it, too.
    stopped.signal()
    return true
  }
}
