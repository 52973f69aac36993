internal import BlockTypes
internal import CUring
internal import Glibc

/// The loop: submit what is queued, wait, and turn completions into events one at a time.
extension ReactorCore {
  static func clock() -> Instant {
    var time = timespec()
    let failed = unsafe clock_gettime(CLOCK_MONOTONIC, &time)
    precondition(failed == 0, "the monotonic clock cannot fail")
    return Instant(nanoseconds: UInt64(time.tv_sec) * 1_000_000_000 + UInt64(time.tv_nsec))
  }

  /// Whether the kernel's refusal says nothing about the next attempt.
  private static func isPassing(_ result: Int32) -> Bool {
    result == -EINTR || result == -ETIME || result == -EAGAIN || result == -EBUSY
  }

  mutating func wait(until deadline: Instant) {
    while true {
      let everythingQueued = submitQueues()
      guard completionIndex == completionCount, foundEvent == nil, !helperHasResults else {
        engine.submitOnly()
        return
      }
      let result = submitAndSleep(until: deadline, everythingQueued)
      guard result > 0 else { return }
      // A send that is done mostly concerns nobody, and it is done at once: without looking, each
      // would cost the owner a turn in which nothing happened. But where a completion freed what an
      // owner may wait for without an event, a buffer or its last operation, he gets his turn.
      let freed = pool.freedCount
      let leaving = leavingStreams
      foundEvent = nextCompletionEvent()
      let isQuiet = foundEvent == nil && pool.freedCount == freed && leavingStreams == leaving
      guard isQuiet, announced.isEmpty, operationsInFlight > 0, deadline > now else { return }
    }
  }

  /// Submits and waits: how many completions there are, or why there are none.
  private mutating func submitAndSleep(
    until deadline: Instant, _ everythingQueued: Bool
  ) -> Int32 {
    var timeout = UInt64.max
    if !announced.isEmpty {
      timeout = 0
    } else if !everythingQueued {
      // The kernel was short of memory. Completions may free some; if none comes, try again soon.
      timeout = 1_000_000
    } else if deadline != .never {
      let time = Self.clock()
      timeout = deadline > time ? deadline.nanoseconds - time.nanoseconds : 0
    }
    let result = submit(timeout: timeout)
    completionIndex = 0
    completionCount = Int(max(result, 0))
    now = Self.clock()
    guard result < 0 else { return result }
    precondition(Self.isPassing(result), "the kernel refused to wait")
    // Short of memory, and nothing completed that could free some: give it a moment, do not spin.
    if result == -EAGAIN || result == -EBUSY { usleep(1000) }
    return result
  }

  /// Submits, and looks again and again for a while before it sleeps when many reads are at the
  /// disk: while the thread fell asleep and woke up, the next of them would have ended, and the
  /// client would wait for both.
  private mutating func submit(timeout: UInt64) -> Int32 {
    guard readsInFlight >= Self.manyReads else {
      return engine.submit(wait: timeout > 0, timeout: timeout)
    }
    let end = Self.clock().nanoseconds + min(Self.readSpin, timeout)
    var result: Int32
    repeat {
      result = engine.submit(wait: false, timeout: 0, limit: Engine.readBatch)
    } while result == 0 && Self.clock().nanoseconds < end
    guard result == 0, timeout > Self.readSpin else { return result }
    return engine.submit(wait: true, timeout: timeout, limit: Engine.readBatch)
  }

  mutating func nextEvent() -> ReactorEvent? {
    if let event = foundEvent {
      foundEvent = nil
      if isCurrent(event) { return event }
    }
    while let event = announced.pop() {
      if case .received(let stream, _) = event, streams.contains(stream.slot) {
        unsafe streams.pointer(stream.slot.slot).pointee.announceIsQueued = false
      }
      if isCurrent(event) { return event }
    }
    return nextCompletionEvent()
  }

  /// Looks at completions until one is an event for the owner.
  private mutating func nextCompletionEvent() -> ReactorEvent? {
    while completionIndex < completionCount {
      let completion = engine.completion(completionIndex)
      completionIndex += 1
      if let event = complete(completion.tag, completion.result, completion.flags) {
        return event
      }
    }
    while helperHasResults {
      guard let (tag, result) = helper.collect() else {
        helperHasResults = false
        break
      }
      if let event = complete(tag, result, 0) { return event }
    }
    return nil
  }

  var operationsInFlight: Int {
    operations.count + streamOperationsInKernel + leavingStreams
  }

  private mutating func complete(_ tag: UInt64, _ result: Int32, _ flags: UInt32) -> ReactorEvent? {
    guard let (kind, id) = TagKind.parse(tag) else {
      preconditionFailure("a completion with a tag that was never made")
    }
    switch kind {
    case .operation: return completeOperation(id, result)
    case .receive:
      streamOperationsInKernel -= 1
      return completeReceive(id, result, flags)
    case .send:
      streamOperationsInKernel -= 1
      return completeSend(id, result)
    case .cancel:
      // The cancelled operation tells its own end; whether there was one to cancel says nothing.
      streamOperationsInKernel -= 1
      return nil
    case .doorbell:
      doorbellIsArmed = false
      return result == 8 ? .mailbox : nil
    case .helper:
      helperIsArmed = false
      helperHasResults = true
      return nil
    }
  }

  /// Whether the owner still wants an event that was found earlier: not that of a stream it has
  /// closed since, nor bytes of one it has paused.
  private func isCurrent(_ event: ReactorEvent) -> Bool {
    switch event {
    case .completion, .mailbox: return true
    case .received(let stream, _):
      guard let state = state(of: stream) else { return false }
      return unsafe state == .open && !streams.pointer(stream.slot.slot).pointee.isPaused
    case .payload(let stream, _), .drained(let stream, _): return state(of: stream) == .open
    case .closed(let stream, _, _): return state(of: stream) == .ended
    }
  }

  private func state(of stream: StreamID) -> Stream.State? {
    guard streams.contains(stream.slot) else { return nil }
    return unsafe streams.pointer(stream.slot.slot).pointee.state
  }

  /// Moves queued work to the kernel's queue. `false` when not all of it found room there.
  private mutating func submitQueues() -> Bool {
    // Sends first: the network's round trip is the longer one. Receives last: they mostly wait.
    submitSends() && submitOperations() && submitCancels() && submitReceives() && armDoorbell()
      && armHelper()
  }

  private mutating func submitSends() -> Bool {
    while !queuedSends.isEmpty {
      let slot = queuedSends[0]
      if !submitSend(slot) {
        engine.submitOnly()
        guard submitSend(slot) else { return false }
      }
      _ = queuedSends.pop()
      unsafe streams.pointer(slot).pointee.sendIsQueued = false
    }
    return true
  }

  mutating func submitOperations() -> Bool {
    while !queuedOperations.isEmpty {
      let slot = queuedOperations[0]
      if !submitOperation(slot) {
        engine.submitOnly()
        guard submitOperation(slot) else { return false }
      }
      _ = queuedOperations.pop()
    }
    return true
  }

  private mutating func submitCancels() -> Bool {
    while !queuedCancels.isEmpty {
      let target = queuedCancels[0]
      if !submitCancel(target) {
        engine.submitOnly()
        guard submitCancel(target) else { return false }
      }
      _ = queuedCancels.pop()
    }
    return true
  }

  private mutating func submitReceives() -> Bool {
    while !queuedReceives.isEmpty {
      let slot = queuedReceives[0]
      if !submitReceive(slot) {
        engine.submitOnly()
        guard submitReceive(slot) else { return false }
      }
      _ = queuedReceives.pop()
      unsafe streams.pointer(slot).pointee.receiveIsQueued = false
    }
    return true
  }

  private mutating func armDoorbell() -> Bool {
    guard !doorbellIsArmed else { return true }
    let tag = TagKind.doorbell.tag(slot: 0, generation: 0)
    if unsafe !engine.readCounter(doorbell.descriptor, doorbellCount, tag: tag) {
      engine.submitOnly()
      let isArmed = unsafe engine.readCounter(doorbell.descriptor, doorbellCount, tag: tag)
      guard isArmed else { return false }
    }
    doorbellIsArmed = true
    return true
  }

  /// Results that were not looked at need no watching, and after them there may be no job left.
  private mutating func armHelper() -> Bool {
    guard helper.jobCount > 0, !helperIsArmed, !helperHasResults else { return true }
    let tag = TagKind.helper.tag(slot: 0, generation: 0)
    if unsafe !engine.readCounter(helper.wake, helperCount, tag: tag) {
      engine.submitOnly()
      let isArmed = unsafe engine.readCounter(helper.wake, helperCount, tag: tag)
      guard isArmed else { return false }
    }
    helperIsArmed = true
    return true
  }
}

/// The end of a reactor.
extension ReactorCore {
  /// Ends everything: streams are closed, accepts and connects cancelled, disk operations waited
  /// for.
  ///
  /// A disk that never answers must not hold up the process for ever, and its memory must not be
  /// given to anybody else either: after the limit, everything the kernel may touch is left to
  /// leak.
  mutating func quiesce() {
    for slot in 0..<UInt32(streams.capacity) {
      let id = SlotID(slot: slot, generation: streams.generation(slot))
      if streams.contains(id) { closeStream(StreamID(id)) }
    }
    cancelAllConnections()
    cancelDoorbell()
    let limit = Self.clock().advanced(milliseconds: quiesceLimitMs)
    while operationsInFlight > 0 || doorbellIsArmed {
      guard Self.clock() < limit, collectOnly(until: limit) else {
        engine.isAbandoned = true
        helper.isAbandoned = true
        pool.isAbandoned = true
        streams.isAbandoned = true
        return
      }
    }
  }

  private mutating func cancelDoorbell() {
    guard doorbellIsArmed else { return }
    let target = TagKind.doorbell.tag(slot: 0, generation: 0)
    let tag = TagKind.cancel.tag(slot: 0, generation: 0)
    if engine.cancel(doorbell.descriptor, target: target, tag: tag) {
      streamOperationsInKernel += 1
    } else {
      doorbell.ring()
    }
  }

  /// One turn that begins nothing new and delivers nothing. `false` when the kernel refuses, as it
  /// does on another thread than the loop's.
  private mutating func collectOnly(until limit: Instant) -> Bool {
    _ = submitSends() && submitOperations() && submitCancels() && armHelper()
    if completionIndex == completionCount, !helperHasResults {
      let time = Self.clock()
      let timeout = limit > time ? limit.nanoseconds - time.nanoseconds : 0
      let result = engine.submit(wait: timeout > 0, timeout: timeout)
      guard result >= 0 || Self.isPassing(result) else { return false }
      completionIndex = 0
      completionCount = Int(max(result, 0))
    }
    while nextEvent() != nil {}
    return true
  }
}
