/// One TCP connection to a peer: cuts its bytes into messages.
///
/// A header is consumed when it is whole; data goes straight into a pooled buffer, a handshake
/// payload is read in place. Nothing of a message is believed before its header's CRC was checked.
import BlockIO
import BlockTypes
import Replication
import Wire

struct PeerLink: BitwiseCopyable {
  /// The core's name of the connection: its index here and a counter, never used twice.
  let connection: ConnectionID
  let stream: StreamID
  /// The header whose payload is awaited.
  var header: MessageHeader?
  /// The buffer the payload goes to.
  var buffer = BufferID.none
  /// Waits for a free buffer.
  var isStarved = false
  /// Waits until answers that we owe have left.
  var isCongested = false
  /// Closes when what is queued was sent, at the latest at `closeBy`.
  var closeBy = Instant.never

  init(connection: ConnectionID, stream: StreamID) {
    self.connection = connection
    self.stream = stream
  }

  /// Links that one volume may have at once: agreed ones, dials, and callers that are unknown yet.
  static let limit = 24

  /// Index and counter make the connection's name.
  static func connection(index: Int, counter: UInt64) -> ConnectionID {
    ConnectionID(counter << 8 | UInt64(index))
  }

  static func index(of connection: ConnectionID) -> Int { Int(connection.value & 0xFF) }

  /// The part of the name that a stream's tag has room for.
  static func tagID(of connection: ConnectionID) -> SlotID {
    SlotID(
      slot: UInt32(connection.value & 0xFF),
      generation: UInt32(truncatingIfNeeded: connection.value >> 8))
  }
}

/// What the parser found at the front of a link's window.
enum LinkStep {
  /// Nothing whole yet.
  case needMore
  /// A message without data; its handshake payload, if any, is the first bytes of the window.
  case message(MessageHeader, controlBytes: Int)
  /// A header of a message with data was consumed.
  case data(MessageHeader)
  case broken(WireError)
}

extension PeerLink {
  /// Looks at the window. Consumes the header, but not a handshake payload.
  static func parse(_ stream: StreamID, _ reactor: inout Reactor) -> LinkStep {
    let window = unsafe reactor.received(stream)
    guard window.count >= MessageHeader.byteCount else { return .needMore }
    let header: MessageHeader
    do {
      header = try MessageHeader(parsing: window)
    } catch {
      return .broken(error)
    }
    if header.type.carriesData {
      guard header.payloadBytes > 0 else {
        return .broken(.truncated(have: 0, need: Int(sectorSize)))
      }
      reactor.consume(stream, MessageHeader.byteCount)
      return .data(header)
    }
    let whole = MessageHeader.byteCount + Int(header.payloadBytes)
    guard window.count >= whole else { return .needMore }
    reactor.consume(stream, MessageHeader.byteCount)
    return .message(header, controlBytes: Int(header.payloadBytes))
  }
}
