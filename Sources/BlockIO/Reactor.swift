public import BlockTypes
internal import Glibc

/// One thread's window to the kernel: disks, sockets, buffers, time and the mailbox.
public struct Reactor: ~Copyable {
  var pool: BufferPool
  /// Which engine carries I/O and, where it was not the first choice, why.
  public let engineDescription: String
  /// Lets other threads wake this one.
  public let doorbell: Doorbell
  /// The monotonic clock, read once a turn: when `wait` returned.
  public private(set) var now: Instant

  /// Sets up the engine and reserves all memory.
  public init(options: ReactorOptions) throws(SystemError) {
    let doorbell = try Doorbell()
    let pool = try BufferPool(sizes: options.buffers)
    self.doorbell = doorbell
    self.pool = pool
    engineDescription = "none"
    now = Instant(nanoseconds: 0)
  }

  /// A buffer of the smallest class that fits, or of a larger one when that is exhausted; `nil`
  /// when each of them has no more than `reserve` free. The caller is its one holder.
  public mutating func allocate(_ bytes: UInt32, reserve: UInt32 = 0) -> BufferID? {
    pool.allocate(bytes, reserve: reserve)
  }
  /// Adds a holder.
  public mutating func retain(_ buffer: BufferID) { pool.retain(buffer) }
  /// Takes a holder away; the last one frees the buffer.
  public mutating func release(_ buffer: BufferID) { pool.release(buffer) }
  /// The whole memory of a held buffer; it starts on a page.
  @unsafe public func memory(of buffer: BufferID) -> UnsafeMutableRawBufferPointer {
    unsafe pool.memory(of: buffer)
  }

  /// Reads `length` bytes at `position` into the buffer.
  public mutating func diskRead(
    _ descriptor: Int32, into buffer: BufferID, bufferOffset: UInt32 = 0, length: UInt32,
    at position: UInt64, tag: UInt64
  ) { preconditionFailure() }
  /// Writes `length` bytes of the buffer at `position`; `durable`: done only when on stable storage.
  public mutating func diskWrite(
    _ descriptor: Int32, from buffer: BufferID, bufferOffset: UInt32 = 0, length: UInt32,
    at position: UInt64, durable: Bool = false, tag: UInt64
  ) { preconditionFailure() }
  /// Makes every completed write durable.
  public mutating func diskFlush(_ descriptor: Int32, tag: UInt64) { preconditionFailure() }
  /// Gives the range back to the disk.
  public mutating func diskDiscard(
    _ descriptor: Int32, at position: UInt64, length: UInt64, tag: UInt64
  ) { preconditionFailure() }
  /// Makes the range read as zeroes.
  public mutating func diskWriteZeroes(
    _ descriptor: Int32, at position: UInt64, length: UInt64, mayUnmap: Bool, tag: UInt64
  ) { preconditionFailure() }

  /// Accepts one connection.
  public mutating func accept(_ descriptor: Int32, tag: UInt64) { preconditionFailure() }
  /// Makes a socket and connects it.
  public mutating func connect(
    _ address: SocketAddress, from local: SocketAddress? = nil, tag: UInt64
  ) { preconditionFailure() }
  /// Cancels the accept or connect with this tag; its completion is then `-ECANCELED`.
  public mutating func cancel(tag: UInt64) { preconditionFailure() }

  /// Takes over a connected socket and starts receiving.
  public mutating func openStream(
    _ descriptor: Int32, tag: UInt64, window: Int, sendBytes: Int
  ) -> StreamID? { preconditionFailure() }
  /// The bytes that arrived and were not consumed; valid until the next call that changes the stream.
  @unsafe public func received(_ stream: StreamID) -> UnsafeRawBufferPointer {
    preconditionFailure()
  }
  /// Drops bytes from the front of the window.
  public mutating func consume(_ stream: StreamID, _ bytes: Int) { preconditionFailure() }
  /// Takes the next `length` bytes of the stream into the buffer. `true`: all there already;
  /// otherwise `.payload` follows, and no `.received` before it.
  public mutating func receivePayload(
    _ stream: StreamID, into buffer: BufferID, bufferOffset: UInt32 = 0, length: UInt32
  ) -> Bool { preconditionFailure() }
  /// Stops receiving: no `.received` until resumed.
  public mutating func pauseReceiving(_ stream: StreamID) { preconditionFailure() }
  /// Goes on receiving; unconsumed bytes are announced again with `.received`.
  public mutating func resumeReceiving(_ stream: StreamID) { preconditionFailure() }
  /// Queues a copy of the bytes.
  public mutating func send(_ stream: StreamID, _ bytes: UnsafeRawBufferPointer) {
    preconditionFailure()
  }
  /// Queues a copy of the bytes.
  public mutating func send(_ stream: StreamID, _ bytes: RawSpan) { preconditionFailure() }
  /// Queues pooled payload; the reactor holds the buffer until it was sent.
  public mutating func send(
    _ stream: StreamID, payload buffer: BufferID, bufferOffset: UInt32 = 0, length: UInt32
  ) { preconditionFailure() }
  /// Whether the stream's queue is above its high-water mark; `.drained` follows when it is not.
  public func sendIsCongested(_ stream: StreamID) -> Bool { preconditionFailure() }
  /// Ends the stream at once. The id is dead afterwards; ids that are already dead are ignored.
  public mutating func closeStream(_ stream: StreamID) { preconditionFailure() }
  /// Ends the stream when what is queued was sent. No further events; `closeStream` cuts it short.
  public mutating func closeAfterSending(_ stream: StreamID) { preconditionFailure() }

  /// Submits everything, then sleeps until something happened or `deadline` came.
  public mutating func wait(until deadline: Instant) { preconditionFailure() }
  /// The next thing that happened; `nil` when it is time to `wait` again.
  public mutating func nextEvent() -> ReactorEvent? { preconditionFailure() }
  /// What the kernel still works on: 0 after all streams are closed and all completions delivered.
  public var operationsInFlight: Int { preconditionFailure() }
}
