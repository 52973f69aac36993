/// The NBD server on a reactor: listeners, streams and the engine that speaks the protocol.
///
/// The owner turns the reactor's loop and, once a turn:
///
///     while let event = reactor.nextEvent() { if server.handle(event, ...) { continue } ... }
///     while let request = server.nextRequest() { give it to the core }
///     for each completion of the core { server.complete(tag, error: ..., reactor: &reactor) }
///     server.tick(reactor: &reactor)
///     reactor.wait(until: min(server.nextDeadline, ...))
///
/// What must hold:
/// - all tags this server gives to the reactor have its namespace in the top byte;
/// - each request taken from `nextRequest` is completed exactly once, whether its client lives or
///   not.

public import BlockIO
public import BlockTypes
import Glibc

/// An NBD server for the exports of one reactor.
public struct NBDServer: ~Copyable {
  private var engine: NBDEngine
  private let namespace: UInt8
  private var listeners = NBDListeners()
  /// When a failed accept is tried again.
  private var acceptRetry = Instant.never

  /// Bytes of the receive window of a client: a full queue of 4 KiB writes arrives in few calls.
  private static var windowBytes: Int { 64 << 10 }
  /// Bytes of reply headers that can wait for a client: congested at half of it, and the other half
  /// holds the answers to all requests in flight, or one answer of the handshake.
  private static var sendBytes: Int { 128 << 10 }

  /// A server without listeners and exports.
  ///
  /// - Parameter namespace: the top byte of this server's tags; nobody else on the reactor uses it.
  public init(namespace: UInt8, options: NBDServerOptions = NBDServerOptions()) {
    self.namespace = namespace
    engine = NBDEngine(options: options)
  }
}

/// The two places a server can listen at. A listener is closed only when no accept is in the
/// kernel: its number could be another's before the accept has ended.
struct NBDListeners: ~Copyable {
  var unix: Listener?
  var network: Listener?
  private var states: InlineArray<2, NBDListenerState> = [
    NBDListenerState(), NBDListenerState(),
  ]

  subscript(kind: NBDListenerKind) -> NBDListenerState {
    get { states[kind == .unix ? 0 : 1] }
    set { states[kind == .unix ? 0 : 1] = newValue }
  }

  mutating func close(_ kind: NBDListenerKind) {
    self[kind] = NBDListenerState()
    if kind == .unix { unix = nil } else { network = nil }
  }
}

struct NBDListenerState: BitwiseCopyable {
  /// -1 where there is none.
  var descriptor: Int32 = -1
  var isAccepting = false
  var isClosing = false
}

/// Which listener a tag belongs to.
enum NBDListenerKind: UInt32, CaseIterable {
  case unix = 0xFFFF_FFFF
  case network = 0xFFFF_FFFE
}

/// Listening.
extension NBDServer {
  /// Listens at a Unix socket or a network address, one of each at most.
  ///
  /// There is no authentication: who can connect can read and write. The mode of a Unix socket is
  /// its access control; a network address is for networks where everybody is trusted.
  ///
  /// - Returns: where it listens; the port is the real one when 0 was asked for.
  public mutating func listen(
    at address: SocketAddress, mode: UInt32 = 0o660, reactor: inout Reactor
  ) throws(SystemError) -> SocketAddress {
    let listener = try Listener(address: address, mode: mode)
    let kind: NBDListenerKind
    if case .unix = address { kind = .unix } else { kind = .network }
    let actual = listener.address
    let descriptor = listener.descriptor
    switch kind {
    case .unix:
      precondition(listeners[.unix].descriptor < 0, "the server already has a Unix socket")
      listeners.unix = consume listener
    case .network:
      precondition(listeners[.network].descriptor < 0, "the server already has a network socket")
      listeners.network = consume listener
    }
    listeners[kind].descriptor = descriptor
    arm(kind, &reactor)
    return actual
  }

  /// Accepts no more clients; those that are connected stay.
  public mutating func stopListening(reactor: inout Reactor) {
    acceptRetry = .never
    for kind in NBDListenerKind.allCases where listeners[kind].descriptor >= 0 {
      if listeners[kind].isAccepting {
        listeners[kind].isClosing = true
        reactor.cancel(tag: tag(kind))
      } else {
        listeners.close(kind)
      }
    }
  }

  private func tag(_ kind: NBDListenerKind) -> UInt64 {
    UInt64(namespace) << 56 | UInt64(kind.rawValue)
  }

  private mutating func arm(_ kind: NBDListenerKind, _ reactor: inout Reactor) {
    listeners[kind].isAccepting = true
    reactor.accept(listeners[kind].descriptor, tag: tag(kind))
  }

  private mutating func accepted(
    _ kind: NBDListenerKind, _ result: Int32, _ reactor: inout Reactor
  ) {
    listeners[kind].isAccepting = false
    guard !listeners[kind].isClosing else {
      // Accepted just before the cancellation.
      if result >= 0 { _ = Glibc.close(result) }
      return listeners.close(kind)
    }
    switch result {
    case 0...:
      admit(result, &reactor)
      arm(kind, &reactor)
    case -EINTR, -ECONNABORTED:
      arm(kind, &reactor)
    default:
      // Out of descriptors or memory: at once it would only fail again.
      acceptRetry = reactor.now.advanced(milliseconds: 100)
    }
  }

  private mutating func admit(_ descriptor: Int32, _ reactor: inout Reactor) {
    guard let id = engine.reserveSession() else {
      _ = Glibc.close(descriptor)
      return
    }
    let tag = UInt64(namespace) << 56 | UInt64(id.generation & 0xFF_FFFF) << 32 | UInt64(id.slot)
    guard
      let stream = reactor.openStream(
        descriptor, tag: tag, window: Self.windowBytes, sendBytes: Self.sendBytes)
    else {
      engine.abandon(id)
      _ = Glibc.close(descriptor)
      return
    }
    engine.begin(id, stream: stream, &reactor)
  }
}

/// The turn of the loop.
extension NBDServer {
  /// Takes an event that is this server's; `false` when it is somebody else's.
  public mutating func handle(_ event: ReactorEvent, reactor: inout Reactor) -> Bool {
    switch event {
    case .received(_, let tag):
      guard let slot = slot(tag) else { return false }
      engine.now = reactor.now
      engine.received(slot, &reactor)
    case .payload(_, let tag):
      guard let slot = slot(tag) else { return false }
      engine.now = reactor.now
      engine.payloadReceived(slot, &reactor)
    case .drained(_, let tag):
      guard let slot = slot(tag) else { return false }
      engine.now = reactor.now
      engine.drained(slot, &reactor)
    case .closed(_, let tag, let error):
      guard let slot = slot(tag) else { return false }
      engine.now = reactor.now
      engine.closed(slot, error: error, &reactor)
    case .completion(let tag, let result):
      guard UInt8(tag >> 56) == namespace else { return false }
      guard let kind = NBDListenerKind(rawValue: UInt32(truncatingIfNeeded: tag)) else {
        preconditionFailure("a completion that this server did not ask for")
      }
      engine.now = reactor.now
      accepted(kind, result, &reactor)
    case .mailbox: return false
    }
    return true
  }

  /// The session a stream's tag names.
  @inline(__always)
  private func slot(_ tag: UInt64) -> UInt32? {
    guard UInt8(tag >> 56) == namespace else { return nil }
    let slot = UInt32(truncatingIfNeeded: tag)
    let generation = UInt32(truncatingIfNeeded: tag >> 32) & 0xFF_FFFF
    let isCurrent = engine.sessions[slot].generation & 0xFF_FFFF == generation
    precondition(isCurrent, "an event of a stream that was closed")
    return slot
  }

  /// The next request for the core, in order of arrival; `nil` when there is none.
  public mutating func nextRequest() -> ExportRequest? { engine.requests.pop() }

  /// Whether `nextRequest` has one.
  public var hasRequest: Bool { !engine.requests.isEmpty }

  /// Something to log; `nil` when there is nothing.
  public mutating func nextNotice() -> NBDNotice? { engine.notices.pop() }

  /// The core has completed the request with this tag. For a read its buffer holds the data.
  ///
  /// - Parameter error: 0, or an errno of either sign.
  public mutating func complete(_ tag: UInt64, error: Int32, reactor: inout Reactor) {
    engine.complete(tag, error: error, &reactor)
  }

  /// The data of a read are in `buffer`, which is this server's from now on, not in the one that
  /// came with the request. Before `complete`.
  public mutating func substitute(_ tag: UInt64, buffer: BufferID, reactor: inout Reactor) {
    engine.substitute(tag, buffer: buffer, &reactor)
  }

  /// Once a turn, after its events and completions.
  public mutating func tick(reactor: inout Reactor) {
    engine.now = reactor.now
    if acceptRetry <= engine.now { retryAccept(&reactor) }
    engine.tick(&reactor)
  }

  private mutating func retryAccept(_ reactor: inout Reactor) {
    acceptRetry = .never
    for kind in NBDListenerKind.allCases where listeners[kind].descriptor >= 0 {
      if !listeners[kind].isAccepting { arm(kind, &reactor) }
    }
  }

  /// When `tick` has to be called at the latest.
  public var nextDeadline: Instant { min(engine.nextDeadline, acceptRetry) }
}

/// Exports.
extension NBDServer {
  /// Offers an export, or changes its size or state; `nil` when there are too many.
  ///
  /// A state of `refused` makes new requests of connected clients fail at once; call
  /// `closeSessions` to end them.
  public mutating func setExport(_ export: NBDExport) -> ExportSlot? { engine.exports.set(export) }

  /// Withdraws an export. Connected clients get errors from now on; see `closeSessions`.
  public mutating func removeExport(named name: String) -> ExportSlot? {
    engine.exports.remove(name: name)
  }

  /// Clients that have the export open. A volume with one must not be demoted without force.
  public func openClientCount(_ export: ExportSlot) -> Int {
    Int(engine.exports[gate: export.value].statistics.clients)
  }

  /// Requests of the export that the core has not completed.
  public func requestsInFlight(_ export: ExportSlot) -> Int {
    Int(engine.exports[gate: export.value].inFlight)
  }

  /// Ends the sessions of an export, or of all: requests in the core are answered, the one being
  /// received fails with ESHUTDOWN, then the connection is closed. Ten seconds are the limit.
  public mutating func closeSessions(of export: ExportSlot?, reactor: inout Reactor) {
    engine.now = reactor.now
    engine.drainSessions(of: export, &reactor)
  }

  /// Whether no client is connected, the core holds no request and all answers have left.
  public var isIdle: Bool { engine.sessions.count == 0 && engine.lingering.isEmpty }

  /// Counters of the server.
  public var statistics: NBDServerStatistics { engine.statistics }

  /// Counters of an export.
  public func statistics(of export: ExportSlot) -> NBDExportStatistics {
    engine.exports[gate: export.value].statistics
  }
}
