/// What the NBD engine asks of whoever owns sockets and buffers: the reactor, or a test.
///
/// The meaning of each call is that of the reactor's call of the same name. The engine is written
/// against this protocol so that every byte sequence can be tested without a socket; it is
/// specialised for the reactor, so the separation costs nothing.

import BlockIO
import BlockTypes

protocol NBDTransport: ~Copyable {
  mutating func allocate(_ bytes: UInt32, reserve: UInt32) -> BufferID?
  mutating func release(_ buffer: BufferID)
  @unsafe func received(_ stream: StreamID) -> UnsafeRawBufferPointer
  mutating func consume(_ stream: StreamID, _ bytes: Int)
  mutating func receivePayload(
    _ stream: StreamID, into buffer: BufferID, bufferOffset: UInt32, length: UInt32
  ) -> Bool
  @unsafe mutating func send(_ stream: StreamID, _ bytes: UnsafeRawBufferPointer)
  mutating func send(
    _ stream: StreamID, payload buffer: BufferID, bufferOffset: UInt32, length: UInt32)
  func sendIsCongested(_ stream: StreamID) -> Bool
  func unsentBytes(_ stream: StreamID) -> Int
  func streamExists(_ stream: StreamID) -> Bool
  mutating func closeStream(_ stream: StreamID)
  mutating func closeAfterSending(_ stream: StreamID)
}

extension Reactor: NBDTransport {}
