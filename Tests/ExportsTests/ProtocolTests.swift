import Testing

@testable import Exports

/// The bytes on the wire, written out by hand: a change here is a change of the protocol.
@Suite struct ProtocolTests {
  private func encoded(_ body: (UnsafeMutableRawPointer) -> Int) -> [UInt8] {
    let memory = UnsafeMutableRawPointer.allocate(byteCount: 256, alignment: 8)
    defer { memory.deallocate() }
    let count = body(memory)
    return Array(UnsafeRawBufferPointer(start: memory, count: count))
  }

  @Test func greetingHasGoldenBytes() {
    var output: [UInt8] = []
    NBDHandshake.greeting(into: &output)
    #expect(output == Array("NBDMAGICIHAVEOPT".utf8) + [0, 3])
  }

  @Test func simpleReplyHasGoldenBytes() {
    let bytes = encoded { NBDReplyBytes.simple($0, error: 28, cookie: 0x0102_0304_0506_0708) }
    #expect(bytes == [0x67, 0x44, 0x66, 0x98, 0, 0, 0, 28, 1, 2, 3, 4, 5, 6, 7, 8])
  }

  @Test func dataChunkHasGoldenBytes() {
    let bytes = encoded {
      NBDReplyBytes.offsetData($0, done: true, cookie: 1, offset: 0x1000, count: 0x200)
    }
    #expect(
      bytes == [
        0x66, 0x8e, 0x33, 0xef, 0, 1, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 2, 8,
        0, 0, 0, 0, 0, 0, 0x10, 0,
      ])
    let more = encoded {
      NBDReplyBytes.offsetData($0, done: false, cookie: 1, offset: 0, count: 1)
    }
    #expect(more[4..<6] == [0, 0], "only the last chunk is marked done")
  }

  @Test func errorChunkHasGoldenBytes() {
    let bytes = encoded { NBDReplyBytes.error($0, error: 22, cookie: 9, message: "no") }
    #expect(
      bytes == [
        0x66, 0x8e, 0x33, 0xef, 0, 1, 0x80, 1, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 8,
        0, 0, 0, 22, 0, 2, 0x6e, 0x6f,
      ])
  }

  @Test func errorMessageIsCutToTheRoomThereIs() {
    let bytes = encoded {
      NBDReplyBytes.error(
        $0, error: 5, cookie: 0,
        message: """
          a message that is much longer than any client would ever care to read, because its \
          author went on and on about what had happened, and why, and when, and to whom, and then \
          some more, and more, until nobody was left to listen to it, and even then it would not \
          come to an end
          """)
    }
    #expect(bytes.count == NBDReplyBytes.maxByteCount)
    #expect(bytes[16..<20] == [0, 0, 0, 236])
  }

  @Test func blockStatusChunkHasGoldenBytes() {
    let bytes = encoded {
      NBDReplyBytes.blockStatus($0, cookie: 3, count: 0x1_0000, extentFlags: 0)
    }
    #expect(
      bytes == [
        0x66, 0x8e, 0x33, 0xef, 0, 1, 0, 5, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 12,
        0, 0, 0, 1, 0, 1, 0, 0, 0, 0, 0, 0,
      ])
  }

  @Test func requestIsParsedFromGoldenBytesAtAnyAlignment() {
    let golden: [UInt8] = [
      0x25, 0x60, 0x95, 0x13, 0, 1, 0, 6, 1, 2, 3, 4, 5, 6, 7, 8,
      0, 0, 0, 1, 0, 0, 0x10, 0, 0, 2, 0, 0,
    ]
    for shift in 0..<8 {
      let bytes = [UInt8](repeating: 0xAA, count: shift) + golden
      let request = bytes.withUnsafeBytes { NBDRequest(parsing: $0, at: shift) }
      #expect(
        request
          == NBDRequest(
            flags: 1, command: 6, cookie: 0x0102_0304_0506_0708, offset: 0x1_0000_1000,
            length: 0x2_0000))
    }
  }

  @Test func requestWithAnotherMagicNumberIsRefused() {
    for index in 0..<4 {
      var bytes = Bytes.request(0)
      bytes[index] ^= 1
      #expect(bytes.withUnsafeBytes { NBDRequest(parsing: $0, at: 0) } == nil)
    }
  }

  @Test(arguments: [
    (Int32(0), UInt32(0)), (5, 5), (-5, 5), (28, 28), (122, 28), (27, 28), (-27, 28), (1, 1),
    (13, 1), (30, 1), (12, 12), (22, 22), (75, 75), (95, 95), (108, 108), (-108, 108), (11, 5),
    (4095, 5), (.min, 5), (.max, 5),
  ])
  func errnoBecomesANumberOfTheProtocol(errno: Int32, expected: UInt32) {
    #expect(NBDError.code(errno: errno) == expected)
  }
}
