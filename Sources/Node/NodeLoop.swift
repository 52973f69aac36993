/// The reactor thread of a node: one loop for disks, peers, NBD clients, timers and the mailbox.
///
/// Invariant: everything here is touched by one thread only. Other threads post to the mailbox; log
/// lines and replies leave through handlers that return at once.
import Metadata
import BlockIO
import BlockTypes
import Configuration
import Control
import Exports
import Glibc
import Replication

/// What is fixed for a running node.
struct NodeOptions: Sendable {
  var node: String
  var paths: RunPaths
  var engine: EngineChoice
  /// How many disks of the node are filled by resyncs at a time; 0: all that are behind.
  var resyncLimit: Int
  /// Random for each run.
  var instance: UInt64
  /// Takes one log line, on the reactor's thread.
  var log: @Sendable (LogSeverity, String) -> Void
  /// Takes a handler to run, on the reactor's thread.
  var runHandler: @Sendable (HandlerJob) -> Void
}

/// How bad it is.
enum LogSeverity: Sendable {
  case info, warning, error
}

@safe
struct NodeLoop: ~Copyable {
  let options: NodeOptions
  let mailbox: Mailbox<NodeMessage>
  var reactor: Reactor
  var server: NBDServer
  /// Volumes by slot.
  var volumes: FixedArray<VolumeBox?>
  /// One past the highest slot in use: a turn looks at no more.
  var volumeEnd = 0
  /// Which volume an export belongs to, by export slot.
  var volumeOfExport: [Int] = []
  var pending: [UInt64: PendingReply] = [:]
  var nextToken: UInt64 = 1
  var seed: UInt64
  /// Who watches with `events2`; bounded by the connections of the control socket.
  var watchers: [EventSink] = []
  var isTerminating = false
  var isStopped = false
  var terminateHandler: ReplyHandler?
  /// When the end is not waited for any longer.
  var terminateBy = Instant.never
  /// Answers to `down` and to an `up` that failed, by volume slot: given when the volume is gone,
  /// so that its disk and address are free for whoever waits for the answer.
  var farewells: [Int: Farewell] = [:]

  /// Volumes one node can have: slots are 8 bits in the tags.
  static let volumeLimit = 128
  /// Client requests in all cores together: each core takes as many, so none can get too many.
  static let clientRequestLimit = 1024
  /// How long an ending node waits for commands, clients and disks. Milliseconds.
  static let terminateMs: UInt64 = 15_000
  /// How long the answer to `down` waits for a disk that does not let go. Milliseconds.
  static let farewellMs: UInt64 = 5_000
  /// How soon something starved is tried again where no event of its own wakes it. Milliseconds.
  static let starvedMs: UInt64 = 10
  /// Reads begun in a turn of the loop. Between them the answers of earlier ones leave: a client
  /// with many reads in flight would otherwise send, and wait, in lock-step with the disk.
  static let readsPerTurn = 2

  init(options: NodeOptions, reactor: consuming Reactor, mailbox: Mailbox<NodeMessage>)
    throws(SystemError)
  {
    self.options = options
    self.mailbox = mailbox
    self.reactor = reactor
    volumes = FixedArray(count: Self.volumeLimit) { _ in nil }
    seed = options.instance
    var limits = NBDServerOptions()
    limits.piecesMax = Self.clientRequestLimit
    server = NBDServer(namespace: TagKind.export.rawValue, options: limits)
    _ = try server.listen(at: .unix(path: options.paths.nbdSocket), reactor: &self.reactor)
  }

  /// Runs until a clean end was asked for and reached.
  mutating func run() {
    while !isStopped {
      reactor.wait(until: server.hasRequest ? reactor.now : nextDeadline)
      while let event = reactor.nextEvent() { dispatch(event) }
      submitRequests()
      tick()
      // A tick may let clients go on that had to wait.
      submitRequests()
      endTurn()
    }
  }

  private var nextDeadline: Instant {
    var deadline = min(server.nextDeadline, terminateBy)
    for farewell in farewells.values { deadline = min(deadline, farewell.deadline) }
    for slot in 0..<volumeEnd {
      guard let box = volumes[slot] else { continue }
      deadline = min(deadline, box.volume.nextDeadline)
      if box.volume.isStarved {
        deadline = min(deadline, reactor.now.advanced(milliseconds: Self.starvedMs))
      }
    }
    return deadline
  }

  private mutating func dispatch(_ event: ReactorEvent) {
    if server.handle(event, reactor: &reactor) { return }
    switch event {
    case .mailbox:
      for message in mailbox.drain() { handle(message) }
    case .completion(let tag, let result):
      let tag = NodeTag(tag)
      guard let box = volumes[tag.volume] else { return }
      box.volume.completed(tag, result, &reactor, &server)
    case .received(_, let tag), .payload(_, let tag), .drained(_, let tag), .closed(_, let tag, _):
      let tag = NodeTag(tag)
      guard let box = volumes[tag.volume] else { return }
      box.volume.streamEvent(event, tag, &reactor, &server)
    }
  }

  /// Gives what clients asked for to the core, up to a few reads.
  private mutating func submitRequests() {
    var reads = 0
    while reads < Self.readsPerTurn, let request = server.nextRequest() {
      if request.operation == .read { reads += 1 }
      let slot = volumeOfExport[Int(request.export.value)]
      // Never to another volume that has taken the slot.
      guard let box = volumes[slot],
        box.volume.exportSlot == request.export && !box.volume.isLeaving
      else {
        server.complete(request.tag, error: ESHUTDOWN, reactor: &reactor)
        continue
      }
      box.volume.submit(request, &reactor, &server)
    }
  }

  private mutating func tick() {
    server.tick(reactor: &reactor)
    for slot in 0..<volumeEnd {
      guard let box = volumes[slot] else { continue }
      box.volume.tick(&reactor, &server)
      box.volume.retryStarved(&reactor, &server)
    }
  }

  /// What a turn ends with: roles may have changed, commands may have ended.
  private mutating func endTurn() {
    while let notice = server.nextNotice() { options.log(.info, "nbd: \(notice)") }
    orderResyncs()
    for slot in 0..<volumeEnd {
      guard let box = volumes[slot] else { continue }
      if box.volume.needsAttention {
        handleReports(slot)
        updateExport(slot)
        takeUpPrimary(slot)
      }
      if box.volume.isLeaving { forgetIfIdle(slot) }
    }
    if !farewells.isEmpty { sayFarewells() }
    if isTerminating { finishTerminating() }
  }

  private mutating func handleReports(_ slot: Int) {
    guard let box = volumes[slot] else { return }
    // What follows from one may make another, and no event has to come after it.
    while !box.volume.reports.isEmpty {
      let reports = box.volume.reports
      box.volume.reports.removeAll(keepingCapacity: true)
      for report in reports { handle(slot, report) }
    }
  }

  private mutating func handle(_ slot: Int, _ report: VolumeReport) {
    guard let box = volumes[slot] else { return }
    switch report {
    case .note(let note):
      log(slot, note)
      publish(slot, note)
      callHandlers(slot, note)
    case .warning(let text):
      options.log(.warning, "\(box.volume.configuration.name): \(text)")
    case .reply(let token, let result):
      resolve(token, result)
      connectIfDue(slot)
    case .undo(let peer, let number): keepUndo(slot, peer, number)
    case .attachFailed(let token, let failure): attachFailed(token, failure)
    }
  }

  /// Tells the NBD server whether clients may use the volume now.
  mutating func updateExport(_ slot: Int) {
    guard let box = volumes[slot], !box.volume.isLeaving else { return }
    let isWritable = box.volume.replica.isWritable
    let name = box.volume.configuration.name
    if box.volume.exportSlot != nil,
      box.volume.isExportedWritable == isWritable
    {
      return
    }
    let size = box.volume.replica.exposedBytes
    let reason = box.volume.refusalReason
    let described = NBDExport(
      name: name, sizeBytes: size, state: isWritable ? .writable : .refused(reason: reason))
    guard let export = server.setExport(described) else {
      options.log(.error, "\(name): the NBD server has no place for one more export")
      return
    }
    while volumeOfExport.count <= Int(export.value) { volumeOfExport.append(0) }
    volumeOfExport[Int(export.value)] = slot
    box.volume.exportSlot = export
    box.volume.isExportedWritable = isWritable
  }

  /// Takes the Primary role again after a crash, once the peer has confirmed that nobody else has
  /// it or wrote meanwhile, and that this node has every acknowledged write.
  private mutating func takeUpPrimary(_ slot: Int) {
    guard let box = volumes[slot], box.volume.wantsPrimary else { return }
    switch box.volume.primaryIsSafe {
    case .no: box.volume.wantsPrimary = false
    case .notYet: return
    case .yes:
      box.volume.wantsPrimary = false
      let token = register(.silent, slot) { _ in }
      box.volume.step(
        .command(.primary(force: false), token: token), &reactor, &server)
    }
  }

  /// Frees a volume that was taken down, when the kernel has let go of everything.
  private mutating func forgetIfIdle(_ slot: Int) {
    guard let box = volumes[slot], box.volume.isIdle else { return }
    // Whoever asks for something in the last moment is told so.
    let name = box.volume.configuration.name
    for (token, reply) in pending where reply.volume == slot {
      pending[token] = nil
      reply.handler(ControlReply(refusing: .unknownResource, object: name))
    }
    box.free()
    volumes[slot] = nil
    while volumeEnd > 0, volumes[volumeEnd - 1] == nil { volumeEnd -= 1 }
  }

  /// Gives the answers that waited for volumes to be gone, or have waited long enough.
  private mutating func sayFarewells() {
    for (slot, farewell) in farewells {
      guard volumes[slot] == nil || reactor.now >= farewell.deadline else { continue }
      farewells[slot] = nil
      farewell.handler(farewell.reply)
    }
  }

  func finishedVolumes() -> Bool {
    for slot in 0..<volumeEnd {
      guard let box = volumes[slot] else { continue }
      guard box.volume.couldNotLeave else { return false }
    }
    return true
  }

  mutating func register(
    _ kind: PendingReply.Kind, _ volume: Int, _ handler: @escaping ReplyHandler
  ) -> UInt64 {
    let token = nextToken
    nextToken += 1
    pending[token] = PendingReply(kind: kind, volume: volume, handler: handler)
    return token
  }
}
