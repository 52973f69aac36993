/// What protects messages on the simulated network, and what happens to them there.
///
/// The tags are those of the wire, over what the simulator sends: one word stands for a sector.
/// Only what is protected is ever changed: the rest is TCP's, and the network of the simulator is
/// TCP.
import BlockTypes
import Replication
import Wire

extension Cluster {
  /// The header with as many bytes of payload as really travel here.
  private func simulated(_ message: WireMessage, _ header: MessageHeader) -> MessageHeader {
    var header = header
    if !message.words.isEmpty { header.payloadBytes = UInt32(message.words.count * 8) }
    return header
  }

  private func header(of message: WireMessage) -> MessageHeader? {
    unsafe message.bytes.withUnsafeBytes { try? MessageHeader(parsing: $0) }
  }

  private func withPayload<Result>(
    _ message: WireMessage, _ body: (UnsafeRawBufferPointer) -> Result
  ) -> Result {
    guard message.words.isEmpty else { return unsafe message.words.withUnsafeBytes(body) }
    return unsafe message.bytes.withUnsafeBytes {
      unsafe body(UnsafeRawBufferPointer(rebasing: $0[MessageHeader.byteCount...]))
    }
  }

  /// Puts the tag onto a message that leaves.
  func seal(_ message: inout WireMessage) {
    guard let header = header(of: message) else {
      preconditionFailure("the core sends what can be parsed")
    }
    var frameGuard = FrameGuard(options.integrity)
    message.tag = unsafe withPayload(message) { payload in
      frameGuard.seal(simulated(message, header), payload)
    }
  }

  /// Whether a message that arrived is as it was sent.
  func isTaken(_ message: WireMessage, _ header: MessageHeader) -> Bool {
    var frameGuard = FrameGuard(options.integrity)
    let isSound = unsafe withPayload(message) { payload in
      frameGuard.opens(simulated(message, header), message.tag, payload)
    }
    return isSound
      || (options.canary == .ignoreDigestMismatch && header.type.carriesVolumeData)
  }

  /// Flips one bit of a message, anywhere in what is protected. Of data more often than of the
  /// rest, which is longer on the wire than it is here.
  func flipBit(of message: inout WireMessage) {
    message.isCorrupt = true
    let isProtected =
      header(of: message).map { FrameGuard(options.integrity).format.tagBytes($0) > 0 } ?? false
    if isProtected, !message.words.isEmpty, networkRandom.coin() {
      let bit = networkRandom.index(message.words.count * 64)
      message.words[bit / 64] ^= 1 << UInt64(bit % 64)
    } else {
      let bit = networkRandom.index(message.bytes.count * 8)
      message.bytes[bit / 8] ^= 1 << UInt8(bit % 8)
    }
  }
}
