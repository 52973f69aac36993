internal import BlockTypes
internal import CHost
internal import Glibc

/// Disk operations. A transfer completes when all of it is done, or failed: what the kernel does in
/// pieces, or interrupts, is continued here.
extension ReactorCore {
  @inline(__always)
  mutating func transfer(
    _ kind: Operation.Kind, _ descriptor: Int32, _ buffer: BufferID, _ bufferOffset: UInt32,
    _ length: UInt32, _ position: UInt64, _ tag: UInt64
  ) {
    precondition(length > 0, "a transfer of nothing")
    let memory = unsafe pool.address(of: buffer, offset: bufferOffset, length: length)
    pool.retain(buffer)
    var operation = Operation(kind: kind, descriptor: descriptor, userTag: tag)
    operation.buffer = buffer
    operation.total = length
    unsafe operation.memory = memory
    operation.offset = position
    operation.remaining = UInt64(length)
    enqueue(operation)
    // A read begins at once: begun together, reads would also end together, and the disk would
    // idle while their answers are made. Writes gain more from entering the kernel together.
    guard kind == .read else { return }
    readsInFlight += 1
    _ = submitOperations()
    engine.submitOnly()
  }

  mutating func enqueueRange(
    _ kind: Operation.Kind, _ descriptor: Int32, _ position: UInt64, _ length: UInt64,
    _ tag: UInt64
  ) {
    precondition(length > 0, "a range of nothing")
    precondition(position <= UInt64(Int64.max) - length, "the range ends beyond any disk")
    var operation = Operation(kind: kind, descriptor: descriptor, userTag: tag)
    operation.offset = position
    operation.remaining = length
    enqueue(operation)
  }

  @inline(__always)
  mutating func enqueue(_ operation: Operation) {
    queuedOperations.push(operations.insert(operation))
  }

  /// Puts one operation into the kernel's queue, or the helper's; `false` when it is full.
  mutating func submitOperation(_ slot: UInt32) -> Bool {
    let operation = unsafe operations.pointer(slot)
    let tag = operations.kernelTag(slot)
    let descriptor = unsafe operation.pointee.descriptor
    let offset = unsafe operation.pointee.offset
    let remaining = unsafe operation.pointee.remaining
    switch unsafe operation.pointee.kind {
    case .read, .write, .durableWrite, .zeroesByWriting:
      return unsafe submitTransfer(operation, tag: tag)
    case .flush: return helper.flush(descriptor, tag: tag)
    case .discard, .zeroesByPunching:
      let mode = CHOST_PUNCH_HOLE | CHOST_KEEP_SIZE
      return helper.allocate(descriptor, mode: mode, offset, remaining, tag: tag)
    case .zeroesByMarking:
      let mode = CHOST_ZERO_RANGE | CHOST_KEEP_SIZE
      return helper.allocate(descriptor, mode: mode, offset, remaining, tag: tag)
    case .accept: return engine.accept(descriptor, tag: tag)
    case .connect: return submitConnect(slot, tag: tag)
    }
  }

  /// Gives a transfer to the kernel, or to the helper when the kernel refused it before.
  @unsafe @inline(__always)
  private mutating func submitTransfer(
    _ operation: UnsafeMutablePointer<Operation>, tag: UInt64
  ) -> Bool {
    let descriptor = unsafe operation.pointee.descriptor
    if unsafe operation.pointee.way == .undecided {
      let canAsk = engine.usesRing && nowaitRefusals.mayAsk(descriptor)
      unsafe operation.pointee.way = canAsk ? .asking : .plain
    }
    let way = unsafe operation.pointee.way
    let kind = unsafe operation.pointee.kind
    let makesZeroes = kind == .zeroesByWriting
    guard let memory = unsafe makesZeroes ? zeroes : operation.pointee.memory else { return true }
    let offset = unsafe operation.pointee.offset
    var length = unsafe UInt32(truncatingIfNeeded: operation.pointee.remaining)
    if makesZeroes {
      length = unsafe UInt32(min(operation.pointee.remaining, UInt64(Self.zeroBytes)))
    }
    if way == .helper {
      return unsafe helper.transfer(kind, descriptor, memory, length, offset, tag: tag)
    }
    if kind == .read {
      return unsafe engine.read(
        descriptor, memory, length, offset, mayWait: way == .plain, isPooled: true, tag: tag)
    }
    return unsafe engine.write(
      descriptor, memory, length, offset, durable: kind == .durableWrite, mayWait: way == .plain,
      isPooled: !makesZeroes, tag: tag)
  }

  /// Sends a transfer that was refused another way; `false` when the refusal was none of asking.
  ///
  /// Most common is -EAGAIN: a write to blocks that the file system has yet to allocate.
  private mutating func takeAnotherWay(_ slot: UInt32, _ result: Int32) -> Bool {
    let operation = unsafe operations.pointer(slot)
    guard unsafe operation.pointee.way == .asking else { return false }
    switch result {
    case -EAGAIN: unsafe operation.pointee.way = .helper
    case -EOPNOTSUPP:
      unsafe nowaitRefusals.note(operation.pointee.descriptor)
      unsafe operation.pointee.way = .plain
    // Some file systems say this instead. Where something else is wrong, it is said again.
    case -EINVAL: unsafe operation.pointee.way = .plain
    default: return false
    }
    queuedOperations.push(slot)
    return true
  }

  /// Takes the kernel's answer to an operation: continues it, or ends it with an event.
  mutating func completeOperation(_ id: SlotID, _ result: Int32) -> ReactorEvent? {
    precondition(operations.contains(id), "a completion for an operation that has ended")
    let slot = id.slot
    let operation = unsafe operations.pointer(slot)
    if result < 0, takeAnotherWay(slot, result) { return nil }
    if result == -EINTR || result == -EAGAIN {
      return retry(slot, result)
    }
    switch unsafe operation.pointee.kind {
    case .read, .write, .durableWrite:
      return unsafe continueTransfer(slot, operation, result)
    case .zeroesByWriting where result > 0:
      unsafe operation.pointee.offset += UInt64(result)
      unsafe operation.pointee.remaining -= UInt64(result)
      unsafe operation.pointee.stalls = 0
      guard unsafe operation.pointee.remaining > 0 else { return finish(slot, 0) }
      queuedOperations.push(slot)
      return nil
    case .zeroesByPunching where result == -EOPNOTSUPP || result == -ENOSYS:
      unsafe operation.pointee.kind = .zeroesByMarking
      queuedOperations.push(slot)
      return nil
    case .zeroesByMarking where result == -EOPNOTSUPP || result == -ENOSYS:
      unsafe operation.pointee.kind = .zeroesByWriting
      queuedOperations.push(slot)
      return nil
    case .zeroesByWriting where result == 0: return finish(slot, -EIO)
    case .flush, .discard, .zeroesByPunching, .zeroesByMarking, .zeroesByWriting:
      return finish(slot, result)
    case .accept: return finish(slot, result)
    case .connect: return finishConnect(slot, result)
    }
  }

  @unsafe @inline(__always)
  private mutating func continueTransfer(
    _ slot: UInt32, _ operation: UnsafeMutablePointer<Operation>, _ result: Int32
  ) -> ReactorEvent? {
    let remaining = unsafe operation.pointee.remaining
    guard result > 0 else {
      // Nothing transferred: the end of the file, or a disk that takes no more. And what direct I/O
      // refuses after a piece that was not whole sectors is the end of the file, too.
      let isPart = unsafe remaining < UInt64(operation.pointee.total)
      let isEnd = result == 0 || (result == -EINVAL && isPart)
      return finish(slot, isEnd ? -EIO : result)
    }
    precondition(UInt64(result) <= remaining, "the kernel transferred more than was asked for")
    if UInt64(result) == remaining {
      return unsafe finish(slot, Int32(bitPattern: operation.pointee.total))
    }
    unsafe operation.pointee.memory? += Int(result)
    unsafe operation.pointee.offset += UInt64(result)
    unsafe operation.pointee.remaining = remaining - UInt64(result)
    unsafe operation.pointee.stalls = 0
    queuedOperations.push(slot)
    return nil
  }

  /// Tries an interrupted operation again, a bounded number of times.
  private mutating func retry(_ slot: UInt32, _ result: Int32) -> ReactorEvent? {
    let operation = unsafe operations.pointer(slot)
    let stalls = unsafe operation.pointee.stalls
    let isCancelled = unsafe operation.pointee.isCancelled
    guard stalls < 1000, !isCancelled else {
      let reason = isCancelled ? -ECANCELED : result
      let isConnect = unsafe operation.pointee.kind == .connect
      return isConnect ? finishConnect(slot, reason) : finish(slot, reason)
    }
    unsafe operation.pointee.stalls = stalls + 1
    queuedOperations.push(slot)
    return nil
  }

  /// Ends an operation: gives its buffer and slot back.
  @inline(__always)
  mutating func finish(_ slot: UInt32, _ result: Int32) -> ReactorEvent {
    let operation = unsafe operations.pointer(slot)
    let buffer = unsafe operation.pointee.buffer
    let tag = unsafe operation.pointee.userTag
    if unsafe operation.pointee.kind == .read { readsInFlight -= 1 }
    if buffer != .none { pool.release(buffer) }
    operations.remove(slot)
    return .completion(tag: tag, result: result)
  }
}
