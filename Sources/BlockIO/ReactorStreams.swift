internal import BlockTypes
internal import CUring
internal import Glibc

/// Streams: bytes in order over a connected socket, both ways.
extension ReactorCore {
  mutating func openStream(
    _ descriptor: Int32, tag: UInt64, window: Int, sendBytes: Int
  ) -> StreamID? {
    guard streams.count < streams.capacity else { return nil }
    let made = Stream.make(
      descriptor: descriptor, userTag: tag, window: window, sendBytes: sendBytes)
    guard let stream = made, let id = streams.insert(stream) else { return nil }
    prepareSocket(descriptor)
    queueReceive(id.slot)
    return StreamID(id)
  }

  private func prepareSocket(_ descriptor: Int32) {
    // Both engines wait by themselves; a ring gives EAGAIN at once on what is marked non-blocking.
    let flags = fcntl(descriptor, F_GETFL)
    if flags >= 0, flags & O_NONBLOCK != 0 {
      _ = fcntl(descriptor, F_SETFL, flags & ~O_NONBLOCK)
    }
    // One is refused by Unix sockets, and TCP sizes its own buffers better than a constant would:
    // an error in either leaves the socket as it was.
    var one: Int32 = 1
    let isUnix = unsafe setsockopt(descriptor, Int32(IPPROTO_TCP), TCP_NODELAY, &one, 4) != 0
    if isUnix {
      // So that several of the largest payloads leave in one call.
      var bytes: Int32 = 4 << 20
      _ = unsafe setsockopt(descriptor, SOL_SOCKET, SO_SNDBUF, &bytes, 4)
    }
  }

  @unsafe func received(_ stream: StreamID) -> UnsafeRawBufferPointer {
    let state = unsafe streams.owned(stream)
    return unsafe UnsafeRawBufferPointer(
      start: state.pointee.window + state.pointee.windowHead, count: state.pointee.windowBytes)
  }

  mutating func consume(_ stream: StreamID, _ bytes: Int) {
    let state = unsafe streams.owned(stream)
    precondition(bytes >= 0, "consuming fewer than no bytes")
    precondition(unsafe bytes <= state.pointee.windowBytes, "consuming what was not received")
    unsafe state.pointee.windowHead += bytes
    queueReceive(stream.slot.slot)
  }

  mutating func receivePayload(
    _ stream: StreamID, into buffer: BufferID, bufferOffset: UInt32 = 0, length: UInt32
  ) -> Bool {
    precondition(length > 0, "a payload of nothing")
    let state = unsafe streams.owned(stream)
    precondition(unsafe !state.pointee.awaitsPayload, "a payload is already being received")
    unsafe state.pointee.payloadMemory = pool.address(
      of: buffer, offset: bufferOffset, length: length)
    unsafe state.pointee.payloadRemaining = Int(length)
    unsafe state.pointee.payloadBytes = Int(length)
    queueReceive(stream.slot.slot)
    if unsafe state.pointee.fillPayloadFromWindow() { return true }
    unsafe state.pointee.payloadBuffer = buffer
    pool.retain(buffer)
    return false
  }

  mutating func pauseReceiving(_ stream: StreamID) {
    unsafe streams.owned(stream).pointee.isPaused = true
  }

  mutating func resumeReceiving(_ stream: StreamID) {
    let state = unsafe streams.owned(stream)
    guard unsafe state.pointee.isPaused else { return }
    unsafe state.pointee.isPaused = false
    queueReceive(stream.slot.slot)
    let isOpen = unsafe state.pointee.state == .open
    let hasBytes = unsafe state.pointee.windowBytes > 0 && !state.pointee.awaitsPayload
    guard isOpen, hasBytes, unsafe !state.pointee.announceIsQueued else { return }
    unsafe state.pointee.announceIsQueued = true
    unsafe announced.push(.received(stream: stream, tag: state.pointee.userTag))
  }

  @inline(__always)
  private mutating func queueReceive(_ slot: UInt32) {
    let state = unsafe streams.pointer(slot)
    guard unsafe !state.pointee.receiveIsQueued else { return }
    unsafe state.pointee.receiveIsQueued = true
    queuedReceives.push(slot)
  }

  /// Puts a receive into the kernel's queue where the stream wants one; `false` when that is full.
  mutating func submitReceive(_ slot: UInt32) -> Bool {
    let state = unsafe streams.pointer(slot)
    guard unsafe state.pointee.state == .open, unsafe !state.pointee.receiveInKernel else {
      return true
    }
    let tag = TagKind.receive.tag(slot: slot, generation: streams.generation(slot))
    let isPayload = unsafe state.pointee.awaitsPayload
    let isQueued: Bool
    if isPayload {
      isQueued = unsafe engine.receive(
        state.pointee.descriptor, state.pointee.payloadMemory,
        UInt32(state.pointee.payloadRemaining), all: true, pollFirst: state.pointee.pollFirst,
        tag: tag)
    } else {
      guard unsafe !state.pointee.isPaused else { return true }
      unsafe state.pointee.compactWindow()
      var room = unsafe state.pointee.windowCapacity - state.pointee.windowTail
      guard room > 0 else { return true }
      // After a large payload most likely comes another: take its header, and not a part of it that
      // would have to be copied.
      if unsafe state.pointee.expectsLargePayload { room = min(room, largePayloadHeaderBytes) }
      isQueued = unsafe engine.receive(
        state.pointee.descriptor, state.pointee.window + state.pointee.windowTail, UInt32(room),
        all: false, pollFirst: state.pointee.pollFirst, tag: tag)
    }
    guard isQueued else { return false }
    unsafe state.pointee.receiveInKernel = true
    unsafe state.pointee.receivesPayload = isPayload
    streamOperationsInKernel += 1
    return true
  }

  /// Takes the kernel's answer to a receive.
  mutating func completeReceive(_ id: SlotID, _ result: Int32, _ flags: UInt32) -> ReactorEvent? {
    precondition(streams.contains(id), "a completion for a stream that is gone")
    let state = unsafe streams.pointer(id.slot)
    unsafe state.pointee.receiveInKernel = false
    guard unsafe state.pointee.state == .open else {
      leaveIfQuiet(id.slot)
      return nil
    }
    if result == -EINTR || result == -EAGAIN {
      queueReceive(id.slot)
      return nil
    }
    guard result > 0 else { return end(id, error: -result) }
    // Without the flag the socket was empty afterwards: then it is cheaper to wait first.
    unsafe state.pointee.pollFirst = flags & CURING_SOCKET_NONEMPTY == 0
    queueReceive(id.slot)
    if unsafe state.pointee.receivesPayload {
      unsafe state.pointee.advancePayload(Int(result))
    } else {
      unsafe state.pointee.windowTail += Int(result)
      unsafe state.pointee.expectsLargePayload = false
    }
    let tag = unsafe state.pointee.userTag
    if unsafe state.pointee.payloadBuffer != .none {
      guard unsafe state.pointee.fillPayloadFromWindow() else { return nil }
      unsafe pool.release(state.pointee.payloadBuffer)
      unsafe state.pointee.payloadBuffer = .none
      unsafe state.pointee.expectsLargePayload = state.pointee.payloadBytes >= largePayloadBytes
      return .payload(stream: StreamID(id), tag: tag)
    }
    guard unsafe !state.pointee.isPaused else { return nil }
    return .received(stream: StreamID(id), tag: tag)
  }

  /// Tells the owner that a stream has ended, once.
  private mutating func end(_ id: SlotID, error: Int32) -> ReactorEvent? {
    let state = unsafe streams.pointer(id.slot)
    guard unsafe state.pointee.state == .open else { return nil }
    unsafe state.pointee.state = .ended
    return unsafe .closed(stream: StreamID(id), tag: state.pointee.userTag, error: error)
  }
}

/// Sending.
extension ReactorCore {
  @unsafe mutating func send(_ stream: StreamID, _ bytes: UnsafeRawBufferPointer) {
    let state = unsafe streams.owned(stream)
    guard unsafe !state.pointee.sendFailed else { return }
    if unsafe state.pointee.enqueue(copying: bytes) {
      queueSend(stream.slot.slot)
    } else {
      overflow(stream)
    }
  }

  mutating func send(
    _ stream: StreamID, payload buffer: BufferID, bufferOffset: UInt32 = 0, length: UInt32
  ) {
    let state = unsafe streams.owned(stream)
    guard length > 0, unsafe !state.pointee.sendFailed else { return }
    let memory = unsafe pool.address(of: buffer, offset: bufferOffset, length: length)
    let segment = unsafe SendSegment(
      memory: UnsafeRawPointer(memory), length: length, buffer: buffer.value)
    if unsafe state.pointee.enqueue(payload: segment) {
      pool.retain(buffer)
      queueSend(stream.slot.slot)
    } else {
      overflow(stream)
    }
  }

  func sendIsCongested(_ stream: StreamID) -> Bool {
    unsafe streams.owned(stream).pointee.isCongested
  }

  /// Whether the stream still occupies its place: open, ended, or still sending.
  func streamExists(_ stream: StreamID) -> Bool { streams.contains(stream.slot) }

  func unsentBytes(_ stream: StreamID) -> Int {
    let state = unsafe streams.owned(stream)
    return unsafe state.pointee.queuedRingBytes + state.pointee.queuedPayloadBytes
  }

  func sendRingIsNearlyFull(_ stream: StreamID) -> Bool {
    unsafe streams.owned(stream).pointee.ringIsNearlyFull
  }

  @inline(__always)
  private mutating func queueSend(_ slot: UInt32) {
    let state = unsafe streams.pointer(slot)
    if unsafe state.pointee.isAboveHighWater { unsafe state.pointee.isCongested = true }
    guard unsafe !state.pointee.sendIsQueued else { return }
    unsafe state.pointee.sendIsQueued = true
    queuedSends.push(slot)
  }

  /// The owner queued more than the stream was made for. Bytes in the middle of a protocol cannot
  /// be left out, so the connection is over.
  private mutating func overflow(_ stream: StreamID) {
    let state = unsafe streams.owned(stream)
    unsafe state.pointee.sendFailed = true
    if let event = end(stream.slot, error: ENOBUFS) { announced.push(event) }
  }

  /// Puts a send into the kernel's queue where the stream wants one; `false` when that is full.
  mutating func submitSend(_ slot: UInt32) -> Bool {
    let state = unsafe streams.pointer(slot)
    guard unsafe state.pointee.state != .free, unsafe state.pointee.state != .closing else {
      return true
    }
    let isWanted = unsafe !state.pointee.sendInKernel && !state.pointee.sendIsEmpty
    guard isWanted, unsafe !state.pointee.sendFailed else { return true }
    let tag = TagKind.send.tag(slot: slot, generation: streams.generation(slot))
    let descriptor = unsafe state.pointee.descriptor
    let isQueued: Bool
    if unsafe state.pointee.segmentTail - state.pointee.segmentHead == 1 {
      let segment = unsafe state.pointee.firstSegment
      isQueued = unsafe engine.send(descriptor, segment.memory, segment.length, tag: tag)
    } else {
      _ = unsafe state.pointee.fillVectors()
      isQueued = unsafe engine.send(descriptor, message: state.pointee.message, tag: tag)
    }
    guard isQueued else { return false }
    unsafe state.pointee.sendInKernel = true
    streamOperationsInKernel += 1
    return true
  }

  /// Takes the kernel's answer to a send.
  mutating func completeSend(_ id: SlotID, _ result: Int32) -> ReactorEvent? {
    precondition(streams.contains(id), "a completion for a stream that is gone")
    let state = unsafe streams.pointer(id.slot)
    unsafe state.pointee.sendInKernel = false
    if unsafe state.pointee.state == .closing {
      leaveIfQuiet(id.slot)
      return nil
    }
    if result < 0, result != -EINTR, result != -EAGAIN {
      unsafe state.pointee.sendFailed = true
      dropQueue(id.slot)
      if unsafe state.pointee.state == .draining { leave(id.slot) }
      return end(id, error: -result)
    }
    retire(id.slot, bytes: Int(max(result, 0)))
    let isDone = unsafe state.pointee.sendIsEmpty || state.pointee.sendFailed
    if !isDone {
      queueSend(id.slot)
    } else if unsafe state.pointee.state == .draining {
      leave(id.slot)
      return nil
    }
    guard unsafe state.pointee.isCongested, unsafe state.pointee.isBelowLowWater else { return nil }
    unsafe state.pointee.isCongested = false
    guard unsafe state.pointee.state == .open else { return nil }
    return unsafe .drained(stream: StreamID(id), tag: state.pointee.userTag)
  }

  /// Takes sent bytes off the queue and gives their buffers back.
  private mutating func retire(_ slot: UInt32, bytes: Int) {
    let state = unsafe streams.pointer(slot)
    var rest = bytes
    while rest > 0 {
      let (left, finished) = unsafe state.pointee.retire(rest)
      if let finished { pool.release(finished) }
      rest = left
    }
  }

  /// Gives back every buffer in the queue. Not while a send is in the kernel.
  private mutating func dropQueue(_ slot: UInt32) {
    let state = unsafe streams.pointer(slot)
    while unsafe !state.pointee.sendIsEmpty {
      let length = unsafe Int(state.pointee.firstSegment.length)
      retire(slot, bytes: length)
    }
  }
}

/// Closing.
extension ReactorCore {
  mutating func closeStream(_ stream: StreamID) {
    guard streams.contains(stream.slot) else { return }
    let slot = stream.slot.slot
    let state = unsafe streams.pointer(slot)
    switch unsafe state.pointee.state {
    case .open, .ended:
      leavingStreams += 1
      leave(slot)
    case .draining: leave(slot)
    case .closing, .free: return
    }
  }

  mutating func closeAfterSending(_ stream: StreamID) {
    guard streams.contains(stream.slot) else { return }
    let slot = stream.slot.slot
    let state = unsafe streams.pointer(slot)
    let isOwned = unsafe state.pointee.state == .open || state.pointee.state == .ended
    guard isOwned else { return }
    leavingStreams += 1
    let isDone = unsafe state.pointee.sendIsEmpty || state.pointee.sendFailed
    if isDone, unsafe !state.pointee.sendInKernel {
      leave(slot)
    } else {
      unsafe state.pointee.state = .draining
    }
  }

  /// Makes the kernel let go of the stream, and frees it as soon as it has.
  private mutating func leave(_ slot: UInt32) {
    let state = unsafe streams.pointer(slot)
    unsafe state.pointee.wasDrained = state.pointee.state == .draining
    unsafe state.pointee.state = .closing
    if unsafe state.pointee.isInKernel {
      // Both a waiting receive and a waiting send end at once on a socket that is shut down.
      _ = unsafe shutdown(state.pointee.descriptor, Int32(SHUT_RDWR))
    }
    leaveIfQuiet(slot)
  }

  /// Empties the socket into the window, which nobody reads any more: TCP answers unread bytes at
  /// the close with a reset, which would take what was sent last away from the peer. Bounded, since
  /// the peer may go on sending.
  @unsafe private func discardUnread(_ state: UnsafeMutablePointer<Stream>) {
    for _ in 0..<64 {
      let count = unsafe recv(
        state.pointee.descriptor, state.pointee.window, state.pointee.windowCapacity,
        Int32(MSG_DONTWAIT))
      guard count > 0 else { return }
    }
  }

  private mutating func leaveIfQuiet(_ slot: UInt32) {
    let state = unsafe streams.pointer(slot)
    guard unsafe state.pointee.state == .closing, unsafe !state.pointee.isInKernel else { return }
    dropQueue(slot)
    if unsafe state.pointee.payloadBuffer != .none {
      unsafe pool.release(state.pointee.payloadBuffer)
    }
    unsafe engine.forget(state.pointee.descriptor)
    if unsafe state.pointee.wasDrained { unsafe discardUnread(state) }
    _ = unsafe Glibc.close(state.pointee.descriptor)
    _ = unsafe munmap(state.pointee.mapping, state.pointee.mappingBytes)
    leavingStreams -= 1
    streams.remove(slot)
  }
}
