public import BlockTypes

/// An open stream: its slot in the reactor and the generation in which it was opened.
public struct StreamID: Hashable, Sendable, BitwiseCopyable {
  /// The slot and generation.
  public let slot: SlotID

  @usableFromInline init(_ slot: SlotID) { self.slot = slot }
}

/// What one turn of the loop found.
///
/// Each call that takes a tag and promises a completion gets exactly one. A stream gets any number
/// of `received`, `payload` and `drained`, then at most one `closed`; after `closeStream` it gets
/// none, not even those the kernel had ready.
public enum ReactorEvent: Equatable, Sendable, BitwiseCopyable {
  /// A disk operation (its length, 0 for flush, discard and zeroes), an accept or a connect (the
  /// new descriptor) ended; negative results are `-errno`.
  case completion(tag: UInt64, result: Int32)
  /// New bytes are in the stream's window: see `received(_:)`.
  case received(stream: StreamID, tag: UInt64)
  /// `receivePayload` finished: the buffer is full. The window may hold bytes that follow the
  /// payload, for which no `received` comes: parse on.
  case payload(stream: StreamID, tag: UInt64)
  /// Sends fell below the low-water mark after the stream had been congested.
  case drained(stream: StreamID, tag: UInt64)
  /// The peer closed (0) or the connection failed (errno). Unconsumed bytes can still be read and,
  /// after an orderly close, queued sends still leave. The owner must call `closeStream`.
  case closed(stream: StreamID, tag: UInt64, error: Int32)
  /// The doorbell was rung: drain the mailbox.
  case mailbox
}
