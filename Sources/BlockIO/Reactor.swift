public import BlockTypes

/// One thread's window to the kernel: disks, sockets, buffers, time and the mailbox.
///
/// The owner runs a loop: `wait`, then `nextEvent` until it is `nil`, and in between calls that
/// queue work. Nothing reaches the kernel before the next `wait`, so all that one turn queued costs
/// one system call. With nothing to do the thread sleeps: no timer, no polling.
///
/// Dropping a reactor with work in flight closes its streams, cancels its accepts and connects,
/// waits for its disk operations and then frees everything. A caller that wants the completions
/// closes and cancels itself, and turns the loop until `operationsInFlight` is 0.
///
/// It may be made on another thread than the one that runs the loop, but the loop must stay on one.
@safe
public struct Reactor: ~Copyable {
  // Behind a pointer, because `deinit` has to go on using it and `self` cannot be changed there.
  private let core: UnsafeMutablePointer<ReactorCore>

  /// Which engine carries I/O and, where it was not the first choice, why: `io_uring`, or
  /// `libaio (io_uring is switched off: kernel.io_uring_disabled=2)`.
  public let engineDescription: String

  /// Sets up the engine and reserves all memory.
  public init(options: ReactorOptions = ReactorOptions()) throws(SystemError) {
    let made = try ReactorCore(options: options)
    engineDescription = made.engine.description
    unsafe core = .allocate(capacity: 1)
    unsafe core.initialize(to: made)
  }

  deinit {
    unsafe core.pointee.quiesce()
    unsafe core.deinitialize(count: 1)
    unsafe core.deallocate()
  }

  /// Lets other threads wake this one; each ring brings a `.mailbox` event.
  public var doorbell: Doorbell { unsafe core.pointee.doorbell }

  /// The monotonic clock, read once a turn: when `wait` returned.
  public var now: Instant { unsafe core.pointee.now }
}

/// The loop.
extension Reactor {
  /// Submits everything that was queued, then sleeps until something happened or `deadline` came.
  ///
  /// Returns at once when events of the last turn were not taken, or when there are new ones. It
  /// may also return without an event: loop. `.never` sleeps for as long as nothing happens.
  public mutating func wait(until deadline: Instant) { unsafe core.pointee.wait(until: deadline) }

  /// The next thing that happened; `nil` when it is time to `wait` again.
  public mutating func nextEvent() -> ReactorEvent? { unsafe core.pointee.nextEvent() }

  /// Disk operations, accepts and connects that may still be begun; beyond it they trap.
  public var freeOperations: Int {
    unsafe core.pointee.operations.capacity - core.pointee.operations.count
  }

  /// What the reactor still works on. 0 once all streams are closed and everything has completed.
  public var operationsInFlight: Int { unsafe core.pointee.operationsInFlight }
}

/// Payload memory: page-aligned, counted by holders, for this reactor's thread only.
extension Reactor {
  /// A buffer of the smallest class that fits, or of a larger one when that is exhausted; `nil`
  /// when none of them has more than `reserve` free, or above 1 MiB. The caller is its one holder.
  public mutating func allocate(_ bytes: UInt32, reserve: UInt32 = 0) -> BufferID? {
    unsafe core.pointee.pool.allocate(bytes, reserve: reserve)
  }

  /// Adds a holder.
  public mutating func retain(_ buffer: BufferID) { unsafe core.pointee.pool.retain(buffer) }

  /// Takes a holder away; the last one frees the buffer.
  public mutating func release(_ buffer: BufferID) { unsafe core.pointee.pool.release(buffer) }

  /// The whole memory of a held buffer; it starts on a page.
  @unsafe public func memory(of buffer: BufferID) -> UnsafeMutableRawBufferPointer {
    unsafe core.pointee.pool.memory(of: buffer)
  }

  /// Buffers that are free in the class that holds `bytes`, larger classes not counted.
  public func freeBuffers(holding bytes: UInt32) -> Int {
    guard let sizeClass = BufferPool.sizeClass(holding: bytes) else { return 0 }
    return unsafe core.pointee.pool.freeCount(ofClass: sizeClass)
  }
}

/// Disks. The reactor holds the buffer until the completion. Transfers complete when all of it is
/// done or failed: short transfers and interruptions are continued inside. Direct I/O wants
/// positions, lengths and buffer offsets in multiples of the disk's logical block.
extension Reactor {
  /// Reads `length` bytes at `position` into the buffer. Completes with `length` or `-errno`;
  /// reading past the end of the file is `-EIO`.
  public mutating func diskRead(
    _ descriptor: Int32, into buffer: BufferID, bufferOffset: UInt32 = 0, length: UInt32,
    at position: UInt64, tag: UInt64
  ) {
    unsafe core.pointee.transfer(
      .read, descriptor, buffer, bufferOffset, length, position, tag)
  }

  /// Writes `length` bytes of the buffer at `position`. Completes with `length` or `-errno`.
  ///
  /// - Parameter durable: complete only when this write is on stable storage (FUA).
  public mutating func diskWrite(
    _ descriptor: Int32, from buffer: BufferID, bufferOffset: UInt32 = 0, length: UInt32,
    at position: UInt64, durable: Bool = false, tag: UInt64
  ) {
    unsafe core.pointee.transfer(
      durable ? .durableWrite : .write, descriptor, buffer, bufferOffset, length, position, tag)
  }

  /// Makes every write that has completed durable. Completes with 0 or `-errno`, which is final: a
  /// later flush that succeeds proves nothing about the writes before this one.
  public mutating func diskFlush(_ descriptor: Int32, tag: UInt64) {
    unsafe core.pointee.enqueue(Operation(kind: .flush, descriptor: descriptor, userTag: tag))
  }

  /// Gives the range back to the disk: reads may return zeroes or anything else. Completes with 0,
  /// `-EOPNOTSUPP` where the disk cannot, or another `-errno`.
  public mutating func diskDiscard(
    _ descriptor: Int32, at position: UInt64, length: UInt64, tag: UInt64
  ) {
    unsafe core.pointee.enqueueRange(.discard, descriptor, position, length, tag)
  }

  /// Makes the range read as zeroes. Completes with 0 or `-errno`. Where the disk cannot do it by
  /// itself, zeroes are written.
  ///
  /// - Parameter mayUnmap: the disk may give up the space; otherwise it stays reserved.
  public mutating func diskWriteZeroes(
    _ descriptor: Int32, at position: UInt64, length: UInt64, mayUnmap: Bool, tag: UInt64
  ) {
    unsafe core.pointee.enqueueRange(
      mayUnmap ? .zeroesByPunching : .zeroesByMarking, descriptor, position, length, tag)
  }
}

/// Connections.
extension Reactor {
  /// Accepts one connection on a listening socket. Completes with the new descriptor or `-errno`.
  /// The listening socket must stay open until then: cancel first, close after the completion.
  public mutating func accept(_ descriptor: Int32, tag: UInt64) {
    unsafe core.pointee.enqueue(Operation(kind: .accept, descriptor: descriptor, userTag: tag))
  }

  /// Makes a socket and connects it. Completes with the descriptor or `-errno`. The kernel's own
  /// patience is minutes: whoever has less cancels.
  ///
  /// - Parameter local: the address to connect from, its port ignored.
  public mutating func connect(
    _ address: SocketAddress, from local: SocketAddress? = nil, tag: UInt64
  ) {
    unsafe core.pointee.connect(address, from: local, tag: tag)
  }

  /// Cancels the accept or connect with this tag, which then completes with `-ECANCELED`, unless it
  /// was faster. Without effect when there is none.
  public mutating func cancel(tag: UInt64) { unsafe core.pointee.cancel(tag: tag) }
}

/// Streams. A stream id is dead once it was given to `closeStream` or `closeAfterSending`: using it
/// for anything but `closeStream` traps.
extension Reactor {
  /// Takes over a connected socket and starts receiving; `nil`, and the descriptor stays the
  /// caller's, when all stream slots are taken or there is no memory.
  ///
  /// - Parameters:
  ///   - window: most bytes received ahead; a message that is parsed in the window must fit in it.
  ///   - sendBytes: most bytes queued by copying. From half of it on the stream is congested; going
  ///     beyond all of it ends the stream with `ENOBUFS`.
  public mutating func openStream(
    _ descriptor: Int32, tag: UInt64, window: Int, sendBytes: Int
  ) -> StreamID? {
    unsafe core.pointee.openStream(descriptor, tag: tag, window: window, sendBytes: sendBytes)
  }

  /// The bytes that arrived and were not consumed; valid until the next `wait`, `consume` or
  /// `receivePayload`.
  @unsafe public func received(_ stream: StreamID) -> UnsafeRawBufferPointer {
    unsafe core.pointee.received(stream)
  }

  /// Drops bytes from the front of the window.
  public mutating func consume(_ stream: StreamID, _ bytes: Int) {
    unsafe core.pointee.consume(stream, bytes)
  }

  /// Takes the next `length` bytes of the stream into the buffer: what is in the window is copied,
  /// the rest is received in place.
  ///
  /// - Returns: `true` when all of it was there. Otherwise the reactor holds the buffer, `.payload`
  ///   follows, and nothing but it or `.closed` is delivered for the stream before.
  public mutating func receivePayload(
    _ stream: StreamID, into buffer: BufferID, bufferOffset: UInt32 = 0, length: UInt32
  ) -> Bool {
    unsafe core.pointee.receivePayload(
      stream, into: buffer, bufferOffset: bufferOffset, length: length)
  }

  /// Stops receiving; `.received` is not delivered until resumed, nor does a peer that closes show.
  /// A payload that is being received is still completed.
  public mutating func pauseReceiving(_ stream: StreamID) {
    unsafe core.pointee.pauseReceiving(stream)
  }

  /// Goes on receiving. Unconsumed bytes are announced again with `.received`.
  public mutating func resumeReceiving(_ stream: StreamID) {
    unsafe core.pointee.resumeReceiving(stream)
  }

  /// Queues a copy of the bytes. They leave with the next `wait`, together with all else that was
  /// queued for the stream. After the stream has failed, they are dropped.
  @unsafe public mutating func send(_ stream: StreamID, _ bytes: UnsafeRawBufferPointer) {
    unsafe core.pointee.send(stream, bytes)
  }

  /// Queues a copy of the bytes, as above.
  public mutating func send(_ stream: StreamID, _ bytes: RawSpan) {
    unsafe bytes.withUnsafeBytes { unsafe core.pointee.send(stream, $0) }
  }

  /// Queues pooled payload. The reactor holds the buffer until it was sent; its content must not
  /// change before.
  public mutating func send(
    _ stream: StreamID, payload buffer: BufferID, bufferOffset: UInt32 = 0, length: UInt32
  ) {
    unsafe core.pointee.send(
      stream, payload: buffer, bufferOffset: bufferOffset, length: length)
  }

  /// Whether more is queued than should be: the owner stops producing until `.drained`.
  public func sendIsCongested(_ stream: StreamID) -> Bool {
    unsafe core.pointee.sendIsCongested(stream)
  }

  /// Whether the stream still occupies its place: open, or closing and not let go by the kernel.
  public func streamExists(_ stream: StreamID) -> Bool {
    unsafe core.pointee.streamExists(stream)
  }

  /// Whether the stream's ring of copied bytes is three quarters full, which only a peer that does
  /// not read its answers can cause. `.drained` follows when it is not.
  public func sendRingIsNearlyFull(_ stream: StreamID) -> Bool {
    unsafe core.pointee.sendRingIsNearlyFull(stream)
  }

  /// Bytes that are queued and have not left, payload included.
  public func unsentBytes(_ stream: StreamID) -> Int { unsafe core.pointee.unsentBytes(stream) }

  /// Ends the stream at once: what is queued is dropped. The id is dead afterwards and no event
  /// comes for it. An id that is dead already is ignored.
  public mutating func closeStream(_ stream: StreamID) { unsafe core.pointee.closeStream(stream) }

  /// Ends the stream when what is queued was sent; no event says so. `closeStream` cuts it short:
  /// whoever needs a limit calls that after a while.
  public mutating func closeAfterSending(_ stream: StreamID) {
    unsafe core.pointee.closeAfterSending(stream)
  }
}
