/// An NBD client that sends anything, in pieces of any length, while requests complete, fail or
/// wait. In the end nothing is left over.
import BlockIO
import BlockTypes

@testable import Exports

func fuzzNBD(_ bytes: UnsafeRawBufferPointer) {
  var input = Input(bytes)
  let style = input.byte()
  var options = Harness.smallOptions
  options.requestsPerClientMax = 1 + UInt32(style & 15)
  // Small, so that much is tried: what is copied says little.
  let harness = Harness(options: options, sizeBytes: 64 << 10)
  harness.transport.buffersMax = 33 + Int(style >> 4)
  if style & 32 != 0 { harness.fault = { $0.offset.bytes % 8192 == 0 ? 28 : 0 } }
  guard let client = harness.connect() else { return }
  if style & 64 != 0 { harness.feed(client, agreed) }
  while !input.isAtEnd {
    let length = Int(input.byte())
    // Long pieces, so that the payload of a write can be whole.
    harness.feed(client, Array(input.take(length > 200 ? length * 16 : length)))
    harness.collect()
    if input.below(4) > 0 { harness.run(client) }
  }
  harness.run(client)
  harness.hangUp(client)
  harness.run(client)
  let leaks = harness.leaks()
  precondition(leaks.isEmpty, "left over: \(leaks)")
}

/// A handshake up to where requests are.
private let agreed: [UInt8] =
  [0, 0, 0, 3] + Array("IHAVEOPT".utf8) + [0, 0, 0, 8, 0, 0, 0, 0] + Array("IHAVEOPT".utf8)
  + [0, 0, 0, 7, 0, 0, 0, 8, 0, 0, 0, 2] + Array("r0".utf8) + [0, 0]
