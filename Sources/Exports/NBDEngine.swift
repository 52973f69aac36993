/// The NBD server without sockets: sessions, requests and replies over an `NBDTransport`.
///
/// What must hold:
/// - every accepted request is answered exactly once, unless its connection is gone;
/// - a request is answered only after every piece of it has been completed by the core;
/// - memory is fixed at `init`; what a client can hold is bounded by the limits in the options;
/// - a session that finds no buffer or slot is in `waiting`, first come first served, and nobody
///   of its export takes a buffer past it; pieces in the core need nothing further, so buffers
///   return as soon as the core has done its work;
/// - an export on which many clients have left requests that the core does not complete takes no
///   more clients until it does; others do, and there is a slot for each of those sessions;
/// - of several exports, none takes a buffer or slot when it holds as many as it would leave, so
///   that one whose disk hangs leaves some to the others; nobody keeps others waiting for longer
///   than a second;
/// - nothing here allocates, locks or calls a closure once a session is in transmission.

public import BlockIO
import BlockTypes

/// Limits of a server; each is reserved at start or enforced, never exceeded.
public struct NBDServerOptions: Sendable {
  /// Clients connected at a time; QEMU's servers have the same default.
  public var clientsMax: Int
  /// Clients of an export that have left while the core works on a request of theirs; with as many,
  /// the export takes no new ones.
  public var goneClientsPerExportMax: UInt32
  /// Requests of one client that are being worked on; more wait in the socket.
  public var requestsPerClientMax: UInt32
  /// Request pieces of all clients in the core.
  public var piecesMax: Int
  /// Exports that can be offered.
  public var exportsMax: Int
  /// How long a client may take to choose an export.
  public var handshakeTimeoutMs: UInt64
  /// How long a closing session may take for its last requests and replies.
  public var drainTimeoutMs: UInt64
  /// How long a client may hold a buffer without progress while other clients wait for one.
  public var stallTimeoutMs: UInt64
  /// Buffers of each size that are left for replication.
  public var bufferReserve: UInt32
  /// Longest READ or WRITE, at most 32 MiB and at least 1 MiB.
  public var payloadBytesMax: UInt32

  /// The defaults suit a node with a hundred virtual disks.
  ///
  /// - Parameter buffers: the pool of the reactor. It must have more 1 MiB buffers than are left
  ///   for replication; the longest READ and WRITE shrinks to what the rest can hold.
  public init(buffers: BufferPoolSizes = BufferPoolSizes(), bufferReserve: UInt32 = 16) {
    let usable = buffers.huge - Int(bufferReserve)
    precondition(usable > 0, "no 1 MiB buffer is left for clients")
    clientsMax = 100
    goneClientsPerExportMax = 32
    requestsPerClientMax = 512
    piecesMax = 8192
    exportsMax = 256
    handshakeTimeoutMs = 10_000
    drainTimeoutMs = 10_000
    stallTimeoutMs = 30_000
    self.bufferReserve = bufferReserve
    payloadBytesMax = UInt32(min(usable, Int(NBDLimit.payloadBytes / maxPayloadBytes)))
    payloadBytesMax *= maxPayloadBytes
  }
}

/// Counters of a server since it started.
public struct NBDServerStatistics: Equatable, Sendable, BitwiseCopyable {
  /// Clients connected now, those in the handshake included.
  public var clients: UInt32 = 0
  /// Clients ever accepted.
  public var clientsAccepted: UInt64 = 0
  /// Clients turned away because there were too many.
  public var clientsRefused: UInt64 = 0
  /// Requests received, faulty ones included.
  public var requests: UInt64 = 0
  /// Times a session had to wait for a buffer or a slot.
  public var waits: UInt64 = 0
  /// Notices lost because nobody took them.
  public var noticesLost: UInt64 = 0

  /// Nothing counted yet.
  public init() {}
}

/// A stream that only waits for its last bytes to leave.
struct NBDLinger: BitwiseCopyable {
  var stream: StreamID?
  var deadline: Instant
}

@safe
struct NBDEngine: ~Copyable {
  let options: NBDServerOptions
  var exports: ExportTable
  var sessions: NBDSessionTable
  /// One a session slot that was used; only those in the handshake mean anything.
  var handshakes: [NBDHandshake] = []
  var pieces: Slab<NBDPiece>
  var requests: FIFO<ExportRequest>
  /// Sessions that wait for resources; a session leaves the line when it ends.
  var waiting = NBDWaitingLine()
  /// Set while a session in `waiting` tries again: it may pass the others.
  var isRetrying = false
  /// Whether somebody in `waiting` has found nothing although its export has not too much.
  var isShort = false
  /// Whether the last one to find nothing was refused because its export has too much.
  var isOverShare = false
  /// Number of the walk along `waiting`.
  var walk: UInt64 = 0
  var lingering: FIFO<NBDLinger>
  var notices: FIFO<NBDNotice>
  var statistics = NBDServerStatistics()
  /// Where reply headers are put together.
  let scratch: UnsafeMutableRawPointer
  /// Where handshake answers are put together.
  var output: [UInt8] = []
  /// The moment of this turn.
  var now = Instant(nanoseconds: 0)
  /// No deadline of a session is before this.
  var earliestDeadline = Instant.never

  init(options: NBDServerOptions) {
    precondition(options.payloadBytesMax >= maxPayloadBytes, "max payload is 1 MiB at least")
    precondition(options.payloadBytesMax <= NBDLimit.payloadBytes, "max payload is 32 MiB at most")
    precondition(options.clientsMax > 0, "a server without clients is no server")
    precondition(options.requestsPerClientMax > 0, "a client needs a request")
    // A simple READ reply of the longest READ needs all its pieces at once.
    let piecesMin = Int(options.payloadBytesMax / maxPayloadBytes)
    precondition(options.piecesMax >= piecesMin, "too few pieces for the longest READ")
    self.options = options
    // Sessions that are gone but not forgotten by the core do not keep new clients out: one of each
    // client that is connected, those that left before it came, and some more.
    let goneMax = options.exportsMax * Int(options.goneClientsPerExportMax)
    exports = ExportTable(capacity: options.exportsMax)
    exports.goneMax = options.goneClientsPerExportMax
    sessions = NBDSessionTable(capacity: options.clientsMax * 2 + 16 + goneMax)
    pieces = Slab(capacity: options.piecesMax, filler: .filler)
    requests = FIFO(capacity: options.piecesMax, filler: .filler)
    lingering = FIFO(capacity: 64, filler: NBDLinger(stream: nil, deadline: .never))
    notices = FIFO(
      capacity: 256, filler: NBDNotice(kind: .opened, client: 0, export: nil))
    unsafe scratch = .allocate(byteCount: NBDReplyBytes.maxByteCount, alignment: 16)
  }

  deinit { unsafe scratch.deallocate() }

  mutating func note(_ kind: NBDNotice.Kind, _ slot: UInt32) {
    let session = sessions[slot]
    let export = session.phase == .handshake ? nil : session.export
    note(NBDNotice(kind: kind, client: session.client, export: export))
  }

  mutating func note(_ notice: NBDNotice) {
    if notices.isFull {
      statistics.noticesLost += 1
    } else {
      notices.push(notice)
    }
  }
}

/// The life of a session.
extension NBDEngine {
  /// A place for a new client; `nil` when there are too many. Follow with `begin` or `abandon`.
  mutating func reserveSession() -> SlotID? {
    let isFull = statistics.clients >= UInt32(options.clientsMax)
    guard !isFull, let slot = sessions.insert() else {
      statistics.clientsRefused += 1
      let reason: NBDCloseReason =
        isFull
        ? .tooManyClients(limit: UInt32(options.clientsMax))
        : .tooManyGone(UInt32(sessions.count) - statistics.clients)
      note(NBDNotice(kind: .closed(reason), client: 0, export: nil))
      return nil
    }
    if Int(slot) == handshakes.count {
      handshakes.append(NBDHandshake(payloadBytesMax: options.payloadBytesMax))
    }
    statistics.clients += 1
    statistics.clientsAccepted += 1
    sessions[slot].phase = .handshake
    sessions[slot].client = statistics.clientsAccepted
    return sessions.id(slot)
  }

  /// Gives a reserved place back: no stream could be opened.
  mutating func abandon(_ id: SlotID) {
    guard let slot = sessions.slot(id) else { return }
    statistics.clients -= 1
    sessions.remove(slot)
  }

  /// Greets the client. Its stream's events are given to `received`, `payloadReceived`, `drained`
  /// and `closed` from now on.
  mutating func begin<T: NBDTransport & ~Copyable>(
    _ id: SlotID, stream: StreamID, _ transport: inout T
  ) {
    guard let slot = sessions.slot(id) else { preconditionFailure("no such session") }
    let deadline = now.advanced(milliseconds: options.handshakeTimeoutMs)
    sessions[slot].stream = stream
    sessions[slot].deadline = deadline
    sessions[slot].progress = now
    earliestDeadline = min(earliestDeadline, deadline)
    handshakes[Int(slot)] = NBDHandshake(payloadBytesMax: options.payloadBytesMax)
    output.removeAll(keepingCapacity: true)
    NBDHandshake.greeting(into: &output)
    sendOutput(stream, &transport)
  }

  private func sendOutput<T: NBDTransport & ~Copyable>(
    _ stream: StreamID, _ transport: inout T
  ) {
    guard !output.isEmpty else { return }
    unsafe output.withUnsafeBytes { unsafe transport.send(stream, $0) }
  }

  /// Goes on with the handshake.
  mutating func negotiate<T: NBDTransport & ~Copyable>(_ slot: UInt32, _ transport: inout T) {
    guard let stream = sessions[slot].stream else { return }
    while true {
      // A client that does not read its answers gets no more of them.
      guard !transport.sendIsCongested(stream) else { return }
      let window = unsafe transport.received(stream)
      guard window.count > 0 else { return }
      var consumed = 0
      output.removeAll(keepingCapacity: true)
      let outcome = unsafe handshakes[Int(slot)].receive(
        window, consumed: &consumed, exports: exports, output: &output)
      transport.consume(stream, consumed)
      sendOutput(stream, &transport)
      switch outcome {
      case .wantsMore, .answered: continue
      case .transmission(let agreement):
        enterTransmission(slot, agreement)
        return process(slot, &transport)
      case .close(let reason):
        return closeAfterSending(slot, reason, &transport)
      }
    }
  }

  private mutating func enterTransmission(_ slot: UInt32, _ agreement: NBDAgreement) {
    sessions[slot].phase = .transmission
    sessions[slot].input = .header
    sessions[slot].structured = agreement.structured
    sessions[slot].allocationContext = agreement.allocationContext
    sessions[slot].export = agreement.export
    sessions[slot].deadline = .never
    exports[gate: agreement.export.value].statistics.clients += 1
    handshakes[Int(slot)] = NBDHandshake(payloadBytesMax: options.payloadBytesMax)
    note(.opened, slot)
  }

  /// New bytes are in the window.
  @inline(__always)
  mutating func received<T: NBDTransport & ~Copyable>(_ slot: UInt32, _ transport: inout T) {
    sessions[slot].progress = now
    switch sessions[slot].phase {
    case .transmission: process(slot, &transport)
    case .handshake: negotiate(slot, &transport)
    case .draining, .gone, .free: break
    }
  }

  /// The answers of a session that had too many are on their way.
  mutating func drained<T: NBDTransport & ~Copyable>(_ slot: UInt32, _ transport: inout T) {
    sessions[slot].progress = now
    switch sessions[slot].phase {
    case .transmission: resume(slot, &transport)
    case .handshake: negotiate(slot, &transport)
    case .draining, .gone, .free: break
    }
  }

  /// Takes requests again after a limit was met.
  mutating func resume<T: NBDTransport & ~Copyable>(_ slot: UInt32, _ transport: inout T) {
    guard sessions[slot].input == .limit else { return }
    sessions[slot].input = .header
    process(slot, &transport)
  }

  /// The client closed the connection, or it broke. What is in the core goes on without it.
  mutating func closed<T: NBDTransport & ~Copyable>(
    _ slot: UInt32, error: Int32, _ transport: inout T
  ) {
    let isDraining = sessions[slot].phase == .draining
    let reason = sessions[slot].drainReason
    close(slot, isDraining ? reason : .connectionLost(errno: error), &transport)
  }

  /// Ends the session at once.
  mutating func close<T: NBDTransport & ~Copyable>(
    _ slot: UInt32, _ reason: NBDCloseReason, _ transport: inout T
  ) {
    guard let stream = sessions[slot].stream else { return }
    note(.closed(reason), slot)
    transport.closeStream(stream)
    leave(slot, &transport)
  }

  /// Ends the session when what is queued was sent.
  mutating func closeAfterSending<T: NBDTransport & ~Copyable>(
    _ slot: UInt32, _ reason: NBDCloseReason, _ transport: inout T
  ) {
    guard let stream = sessions[slot].stream else { return }
    note(.closed(reason), slot)
    transport.closeAfterSending(stream)
    if lingering.isFull, let oldest = lingering.pop()?.stream { transport.closeStream(oldest) }
    let deadline = now.advanced(milliseconds: options.drainTimeoutMs)
    lingering.push(NBDLinger(stream: stream, deadline: deadline))
    earliestDeadline = min(earliestDeadline, deadline)
    leave(slot, &transport)
  }

  /// Forgets the stream; frees the slot when the core holds nothing of it.
  private mutating func leave<T: NBDTransport & ~Copyable>(_ slot: UInt32, _ transport: inout T) {
    let phase = sessions[slot].phase
    if phase == .transmission || phase == .draining {
      exports[gate: sessions[slot].export.value].statistics.clients -= 1
    }
    handshakes[Int(slot)] = NBDHandshake(payloadBytesMax: options.payloadBytesMax)
    statistics.clients -= 1
    sessions[slot].phase = .gone
    sessions[slot].stream = nil
    sessions[slot].deadline = .never
    abandonIntake(slot, error: Int32(NBDError.shutdown), &transport)
    guard sessions[slot].pieces > 0 else { return free(slot) }
    let export = sessions[slot].export
    exports[gate: export.value].gone += 1
    if exports[gate: export.value].gone == options.goneClientsPerExportMax {
      let client = sessions[slot].client
      note(NBDNotice(kind: .refusesClients, client: client, export: export))
    }
  }

  /// A piece of a session that is gone has come back.
  mutating func freeIfQuiet(_ slot: UInt32) {
    guard sessions[slot].pieces == 0 else { return }
    exports[gate: sessions[slot].export.value].gone -= 1
    free(slot)
  }

  private mutating func free(_ slot: UInt32) {
    precondition(sessions[slot].inFlight == 0, "a request without pieces was not finished")
    sessions.remove(slot)
  }
}

/// Ending sessions from this side, and time.
extension NBDEngine {
  /// Takes no more requests from the session and closes it when all are answered.
  mutating func drain<T: NBDTransport & ~Copyable>(
    _ slot: UInt32, _ reason: NBDCloseReason, _ transport: inout T
  ) {
    guard sessions[slot].phase == .transmission else { return }
    let deadline = now.advanced(milliseconds: options.drainTimeoutMs)
    sessions[slot].phase = .draining
    sessions[slot].drainReason = reason
    sessions[slot].deadline = deadline
    earliestDeadline = min(earliestDeadline, deadline)
    if sessions[slot].input == .resources {
      abandonIntake(slot, error: Int32(NBDError.shutdown), &transport)
    }
    endDrainIfDone(slot, &transport)
  }

  mutating func endDrainIfDone<T: NBDTransport & ~Copyable>(
    _ slot: UInt32, _ transport: inout T
  ) {
    guard sessions[slot].phase == .draining, sessions[slot].inFlight == 0 else { return }
    closeAfterSending(slot, sessions[slot].drainReason, &transport)
  }

  /// Drains every session of the export; those that negotiate are refused when they choose it.
  mutating func drainSessions<T: NBDTransport & ~Copyable>(
    of export: ExportSlot?, _ transport: inout T
  ) {
    for index in 0..<sessions.usedEnd {
      let slot = UInt32(index)
      guard sessions[slot].phase == .transmission else { continue }
      if let export, sessions[slot].export != export { continue }
      drain(slot, .exportClosed, &transport)
    }
  }

  /// When `tick` has to be called at the latest.
  var nextDeadline: Instant {
    // A completion late in the turn may have let requests in that nobody has taken yet.
    guard requests.isEmpty else { return now }
    // A buffer may come back without an event of this server.
    return waiting.isEmpty
      ? earliestDeadline : min(earliestDeadline, now.advanced(milliseconds: 10))
  }

  /// Once a turn, after its events: wakes sessions that wait, ends those that are too late.
  @inline(__always)
  mutating func tick<T: NBDTransport & ~Copyable>(_ transport: inout T) {
    if !lingering.isEmpty { forgetSent(&transport) }
    if now >= earliestDeadline { expire(&transport) }
    guard !waiting.isEmpty else { return }
    closeStalled(&transport)
    retryWaiting(&transport)
  }

  /// Drops closed streams whose last bytes have left, from the front: nobody hears of their end.
  private mutating func forgetSent<T: NBDTransport & ~Copyable>(_ transport: inout T) {
    while !lingering.isEmpty, let stream = lingering[0].stream {
      guard !transport.streamExists(stream) else { return }
      _ = lingering.pop()
    }
  }

  private mutating func expire<T: NBDTransport & ~Copyable>(_ transport: inout T) {
    while !lingering.isEmpty, lingering[0].deadline <= now {
      if let stream = lingering.pop()?.stream { transport.closeStream(stream) }
    }
    for index in 0..<sessions.usedEnd {
      let slot = UInt32(index)
      guard sessions[slot].deadline <= now else { continue }
      let isHandshake = sessions[slot].phase == .handshake
      close(slot, isHandshake ? .handshakeTimeout : .drainTimeout, &transport)
    }
    var earliest = lingering.isEmpty ? Instant.never : lingering[0].deadline
    for index in 0..<sessions.usedEnd {
      earliest = min(earliest, sessions[UInt32(index)].deadline)
    }
    earliestDeadline = earliest
  }

  /// A client that stopped in the middle of a payload, or does not read its answers, must not keep
  /// buffers from others for ever.
  private mutating func closeStalled<T: NBDTransport & ~Copyable>(_ transport: inout T) {
    for index in 0..<sessions.usedEnd {
      let slot = UInt32(index)
      guard let stream = sessions[slot].stream else { continue }
      let unsent = transport.unsentBytes(stream)
      if unsent != sessions[slot].unsent {
        sessions[slot].unsent = unsent
        sessions[slot].progress = now
      }
      let idle = now.milliseconds(since: sessions[slot].progress)
      guard idle >= options.stallTimeoutMs else { continue }
      let holdsBuffer = sessions[slot].input == .payload || unsent > 0
      if holdsBuffer { close(slot, .stalled, &transport) }
    }
  }

  /// Lets sessions that wait try again, in order, until one still finds nothing. One that has
  /// waited for a second, or whose export holds too much, is passed by those of other exports.
  mutating func retryWaiting<T: NBDTransport & ~Copyable>(_ transport: inout T) {
    isShort = false
    walk &+= 1
    var slot = waiting.first
    while slot != NBDWaitingLine.nobody {
      let export = sessions[slot].export.value
      guard exports[gate: export].exhaustedInWalk != walk else {
        slot = sessions[slot].lineAfter
        continue
      }
      isRetrying = true
      let isTaken = takeIn(slot, &transport)
      isRetrying = false
      let next = sessions[slot].lineAfter
      if sessions[slot].input == .resources {
        guard mayBePassed(slot) else {
          isShort = true
          return
        }
        exports[gate: export].exhaustedInWalk = walk
      } else {
        leaveLine(slot)
        if isTaken { process(slot, &transport) }
      }
      slot = next
    }
  }

  /// Whether sessions of other exports may go on before the one that has just found nothing.
  private func mayBePassed(_ slot: UInt32) -> Bool {
    guard exports.areSeveral else { return false }
    return isOverShare || now.milliseconds(since: sessions[slot].waitingSince) >= 1000
  }

  /// Takes a session out of the line of those who wait.
  mutating func leaveLine(_ slot: UInt32) {
    waiting.remove(slot, &sessions)
    exports[gate: sessions[slot].export.value].waiting -= 1
  }
}
