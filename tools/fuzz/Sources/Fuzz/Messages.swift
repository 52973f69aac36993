/// Messages between peers, and the payloads of a handshake: any bytes give a value or a typed
/// error, and a value is encoded to the bytes that it came from.
import Authentication
import BlockTypes
import Digests
import CChecksum
import Replication
import Wire

/// A stream of messages as the driver cuts it: header, payload, header, payload.
func fuzzMessages(_ bytes: UnsafeRawBufferPointer) {
  var input = Input(bytes)
  var strangers = Strangers()
  while !input.isAtEnd {
    var header = copy(input.take(MessageHeader.byteCount), padding: MessageHeader.byteCount)
    // Nobody guesses a checksum; half of the headers get the right one.
    if header[15] & 1 == 0 { seal(&header) }
    let parsed = header.withUnsafeBytes { raw in
      Result { () throws(WireError) in try MessageHeader(parsing: raw) }
    }
    guard case .success(let message) = parsed else { return }
    precondition(message.payloadBytes <= message.type.payloadLimit, "a payload beyond its limit")
    var again = [UInt8](repeating: 0xEE, count: MessageHeader.byteCount)
    again.withUnsafeMutableBytes { message.encode(into: $0) }
    precondition(again == header, "a header that does not come back")
    let payload = input.take(Int(message.payloadBytes))
    strangers.deliver(message, payload)
    switch message.type {
    case .greeting: parseGreeting(payload)
    case .hello, .helloReply: parseHello(payload)
    case .state, .syncDone: _ = parseReport(payload)
    case .bitmap: mergeChunk(message, payload)
    default: break
    }
  }
}

/// Both ends of connections to somebody who does not know the secret: he never gets in.
private struct Strangers {
  private var ends: [LinkHandshake]

  init() {
    guard let me = NodeID(0), let other = NodeID(1) else { preconditionFailure("node ids") }
    var settings = LinkSettings(node: me, peers: [other], resource: "r0")
    settings.authentication = LinkSettings.Authentication(
      algorithm: .sha256, secret: SharedSecret("unknown"))
    var random = Counter()
    ends = ConnectionSide.allCases.map {
      LinkHandshake(settings, side: $0, challenge: Challenge(using: &random))
    }
    for index in ends.indices where ends[index].side == .dialer { _ = ends[index].begin() }
  }

  mutating func deliver(_ header: MessageHeader, _ payload: UnsafeRawBufferPointer) {
    for index in ends.indices {
      if case .open = ends[index].receive(header, payload) {
        preconditionFailure("a stranger was let in")
      }
    }
  }
}

/// Challenges that are the same in each run.
private struct Counter: RandomNumberGenerator {
  private var count: UInt64 = 0

  mutating func next() -> UInt64 {
    count &+= 1
    return count
  }
}

private func parseGreeting(_ bytes: UnsafeRawBufferPointer) {
  guard let greeting = try? Greeting(parsing: bytes) else { return }
  let second = greeting.encoded.withUnsafeBytes { try? Greeting(parsing: $0) }
  precondition(second == greeting, "a greeting that does not come back")
}

/// Puts the right magic and checksum into a header.
func seal(_ header: inout [UInt8]) {
  header.replaceSubrange(0..<4, with: [0x41, 0x53, 0x48, 0x4C])
  header.replaceSubrange(12..<16, with: [0, 0, 0, 0])
  let crc = header.withUnsafeBytes { cchecksum_crc32c(0, $0.baseAddress!, $0.count) }
  withUnsafeBytes(of: crc.bigEndian) { header.replaceSubrange(12..<16, with: $0) }
}

/// A chunk of a bitmap is merged whole or not at all.
private func mergeChunk(_ header: MessageHeader, _ payload: UnsafeRawBufferPointer) {
  let volumeBytes: UInt64 = 1 << 30
  var bitmap = BlockBitmap(blockCount: volumeBytes / blockSize)
  do {
    try BitmapChunk.merge(header, payload, volumeBytes: volumeBytes, into: &bitmap)
  } catch {
    precondition(bitmap.setCount == 0, "a refused chunk has left marks")
  }
}

private func parseHello(_ bytes: UnsafeRawBufferPointer) {
  guard let hello = try? Hello(parsing: bytes) else { return }
  precondition(encoded(hello.encode) == Array(bytes), "a hello that does not come back")
}

private func parseReport(_ bytes: UnsafeRawBufferPointer) -> StateReport? {
  guard let report = try? StateReport(parsing: bytes) else { return nil }
  let again = encoded(report.encode)
  let second = again.withUnsafeBytes { try? StateReport(parsing: $0) }
  // Bytes that nobody reads may differ; what was read may not.
  precondition(second == report, "a report that does not come back")
  return report
}

/// What an encoder writes.
func encoded(_ encode: (UnsafeMutableRawBufferPointer) -> Int) -> [UInt8] {
  var bytes = [UInt8](repeating: 0, count: Int(maxControlPayloadBytes))
  let count = bytes.withUnsafeMutableBytes { encode($0) }
  return Array(bytes.prefix(count))
}

/// Two reports of replicas that meet: what one decides mirrors what the other does.
func fuzzHandshake(_ bytes: UnsafeRawBufferPointer) {
  var input = Input(bytes)
  let length = Int(input.byte()) << 8 | Int(input.byte())
  let first = parseReport(input.take(length))
  guard let mine = first, let theirs = parseReport(input.rest()) else { return }
  let here = Decision.decide(mine: mine, theirs: theirs, iAmLower: true)
  let there = Decision.decide(mine: theirs, theirs: mine, iAmLower: false)
  precondition(here.action.mirrored == there.action, "the two decide differently")
  precondition(here.rule == there.rule, "the two decide by different rules")
  precondition(here.extent == there.extent, "the two disagree how much is copied")
}
