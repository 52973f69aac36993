/// State of one client connection and of one request piece, as plain values in fixed tables.
///
///     handshake ──▶ transmission ──▶ draining ──▶ (closed after the last reply)
///         │              │              │
///         └──────────────┴──────────────┴──▶ gone ──▶ free, when its last piece has completed
///
/// What must hold:
/// - a slot is freed only when no piece of the session is in the core, so a late completion always
///   finds its session, which is then `gone` and gets no reply;
/// - a session is in the line of waiting sessions exactly when `input` is `.resources`: one place a
///   session, so the line cannot overflow, however often clients come and go.

import BlockIO
import BlockTypes

enum NBDPhase: UInt8, BitwiseCopyable {
  case free
  case handshake
  case transmission
  /// No more requests are taken; the stream closes after the last reply.
  case draining
  /// The stream is closed; only the core still holds something of it.
  case gone
}

/// What the next bytes of the client are, or why none are taken now.
enum NBDInput: UInt8, BitwiseCopyable {
  /// A request header.
  case header
  /// Payload that the transport is putting into `piece`'s buffer.
  case payload
  /// Payload of a refused WRITE.
  case refused
  /// `request` waits for buffers or slots.
  case resources
  /// The answers or requests in flight are at their limit.
  case limit
}

struct NBDSession: BitwiseCopyable {
  var phase = NBDPhase.free
  var input = NBDInput.header
  var structured = false
  var allocationContext = false
  var export = ExportSlot(0)
  var generation: UInt32 = 0
  /// Client requests that were accepted and not yet answered.
  var inFlight: UInt32 = 0
  /// Pieces in the core.
  var pieces: UInt32 = 0
  /// Payload bytes still to be skipped.
  var refusedRemaining: UInt32 = 0
  /// Bytes of `request` that are already in pieces given to the core.
  var issued: UInt32 = 0
  /// The request being taken in.
  var request = NBDRequest.filler
  /// The first piece of `request`; a request has one only when `issued` is not 0.
  var first: SlotID
  /// The piece whose payload is being received.
  var piece: SlotID
  /// Number of the client since the server started.
  var client: UInt64 = 0
  /// Why a draining session ends.
  var drainReason = NBDCloseReason.disconnected
  /// End of the handshake or of draining.
  var deadline = Instant.never
  /// When the client last made progress: something was received from it or its answers left.
  var progress = Instant(nanoseconds: 0)
  /// Bytes of answers that had not left when that was last looked at.
  var unsent = 0
  /// While it waits for resources: since when.
  var waitingSince = Instant(nanoseconds: 0)
  /// While it waits for resources: the session before it in the line.
  var lineBefore = NBDWaitingLine.nobody
  /// While it waits for resources: the session after it in the line.
  var lineAfter = NBDWaitingLine.nobody
  var stream: StreamID?

  static var noPiece: SlotID { SlotID(slot: .max, generation: 0) }

  /// An unused slot.
  static var filler: NBDSession { NBDSession(first: noPiece, piece: noPiece) }

  /// Whether answers can still reach the client.
  var isAnswerable: Bool { phase == .transmission || phase == .draining }
}

/// One piece of a client request, from acceptance to its completion by the core.
///
/// The first piece of a request stands for the whole request too: it counts the pieces that are not
/// complete and keeps the first error.
struct NBDPiece: BitwiseCopyable {
  var session: UInt32
  var cookie: UInt64
  var offset: UInt64
  var length: UInt32
  var buffer: BufferID
  var command: UInt16
  /// READ: each piece is answered on its own as soon as it is there.
  var streams: Bool
  /// The piece that stands for the request; the piece itself when it is that one.
  var first: SlotID
  /// Of a READ that is answered at once: the next piece in order.
  var next: SlotID
  /// First piece only: pieces not complete, and one more while the request is being taken in.
  var remaining: UInt32
  /// First piece only: the first error.
  var error: Int32
  /// Length of the whole request.
  var total: UInt32

  /// Which of an export's counts of buffers it is in: the sizes are those of the pool.
  @inline(__always)
  var bufferClass: Int { Self.bufferClass(length) }

  @inline(__always)
  static func bufferClass(_ length: UInt32) -> Int {
    if length <= 4 << 10 { return 0 }
    if length <= 32 << 10 { return 1 }
    return length <= 256 << 10 ? 2 : 3
  }

  static var filler: NBDPiece {
    NBDPiece(
      session: 0, cookie: 0, offset: 0, length: 0, buffer: .none, command: 0, streams: false,
      first: NBDSession.noPiece, next: NBDSession.noPiece, remaining: 0, error: 0, total: 0)
  }
}

/// The sessions that wait for resources, first come first served; the links are in the sessions.
struct NBDWaitingLine: BitwiseCopyable {
  static var nobody: UInt32 { .max }

  private(set) var first = NBDWaitingLine.nobody
  private var last = NBDWaitingLine.nobody
  private(set) var count = 0

  var isEmpty: Bool { count == 0 }

  /// Puts a session that is not in the line at its end.
  mutating func append(_ slot: UInt32, _ sessions: inout NBDSessionTable) {
    sessions[slot].lineBefore = last
    sessions[slot].lineAfter = Self.nobody
    if last == Self.nobody { first = slot } else { sessions[last].lineAfter = slot }
    last = slot
    count += 1
  }

  /// Takes a session that is in the line out of it.
  mutating func remove(_ slot: UInt32, _ sessions: inout NBDSessionTable) {
    precondition(count > 0, "nobody waits")
    let before = sessions[slot].lineBefore
    let after = sessions[slot].lineAfter
    if before == Self.nobody { first = after } else { sessions[before].lineAfter = after }
    if after == Self.nobody { last = before } else { sessions[after].lineBefore = before }
    count -= 1
  }
}

/// All sessions, changed in place.
@safe
struct NBDSessionTable: ~Copyable {
  private let sessions: UnsafeMutablePointer<NBDSession>
  let capacity: Int
  /// Slots in use.
  private(set) var count = 0
  /// Slots at and above this were never used, nor their memory: bounds the walks.
  private(set) var usedEnd = 0

  init(capacity: Int) {
    precondition(capacity > 0, "a server without session slots serves nobody")
    self.capacity = capacity
    unsafe sessions = .allocate(capacity: capacity)
  }

  deinit { unsafe sessions.deallocate() }

  subscript(slot: UInt32) -> NBDSession {
    @inline(__always) _read {
      precondition(Int(slot) < usedEnd, "session slot outside the table")
      yield unsafe sessions[Int(slot)]
    }
    @inline(__always) _modify {
      precondition(Int(slot) < usedEnd, "session slot outside the table")
      yield unsafe &sessions[Int(slot)]
    }
  }

  /// Takes a free slot; `nil` when there is none. Linear: connections are rare.
  mutating func insert() -> UInt32? {
    for slot in 0..<usedEnd where unsafe sessions[slot].phase == .free {
      let generation = unsafe sessions[slot].generation
      unsafe sessions[slot] = .filler
      unsafe sessions[slot].generation = generation
      count += 1
      return UInt32(slot)
    }
    guard usedEnd < capacity else { return nil }
    unsafe (sessions + usedEnd).initialize(to: .filler)
    count += 1
    usedEnd += 1
    return UInt32(usedEnd - 1)
  }

  mutating func remove(_ slot: UInt32) {
    precondition(self[slot].phase != .free, "freeing a session twice")
    precondition(self[slot].pieces == 0, "freeing a session with pieces in the core")
    self[slot].phase = .free
    self[slot].stream = nil
    self[slot].generation &+= 1
    count -= 1
  }

  func id(_ slot: UInt32) -> SlotID { SlotID(slot: slot, generation: self[slot].generation) }

  /// The slot of `id` when it still is that session's.
  func slot(_ id: SlotID) -> UInt32? {
    guard Int(id.slot) < usedEnd, self[id.slot].phase != .free else { return nil }
    return self[id.slot].generation == id.generation ? id.slot : nil
  }
}
