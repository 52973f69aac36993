/// One TCP connection to a peer: cuts its bytes into messages.
///
/// A header is consumed when it is whole; data goes straight into a pooled buffer, a handshake
/// payload is read in place. Nothing of a message is believed before its header's CRC was checked,
/// and no payload before the tag between the two, where there is one.
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
  /// How long the tags behind headers are.
  var format = FrameFormat.initial
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
enum Arrival {
  /// Nothing whole yet.
  case needMore
  /// A message without data; its tag and its handshake payload are the first bytes of the window.
  case message(MessageHeader, tagBytes: Int)
  /// A header of a message with data was consumed; its tag is the first bytes of the window.
  case data(MessageHeader, tagBytes: Int)
  case broken(WireError)
}

extension PeerLink {
  /// Looks at the window. Consumes the header, but not a tag or a handshake payload.
  static func parse(
    _ stream: StreamID, _ format: FrameFormat, _ reactor: inout Reactor
  ) -> Arrival {
    let window = unsafe reactor.received(stream)
    guard window.count >= MessageHeader.byteCount else { return .needMore }
    let header: MessageHeader
    do {
      header = try MessageHeader(parsing: window)
    } catch {
      return .broken(error)
    }
    let tagBytes = format.tagBytes(header)
    if header.type.carriesData {
      guard header.payloadBytes > 0 else {
        return .broken(.truncated(have: 0, need: Int(sectorSize)))
      }
      guard window.count >= MessageHeader.byteCount + tagBytes else { return .needMore }
      reactor.consume(stream, MessageHeader.byteCount)
      return .data(header, tagBytes: tagBytes)
    }
    let whole = MessageHeader.byteCount + tagBytes + Int(header.payloadBytes)
    guard window.count >= whole else { return .needMore }
    reactor.consume(stream, MessageHeader.byteCount)
    return .message(header, tagBytes: tagBytes)
  }
}
