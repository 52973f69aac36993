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

  /// Puts one operation into the kernel's queue; `false` when it is full.
  mutating func submitOperation(_ slot: UInt32) -> Bool {
    let operation = unsafe operations.pointer(slot)
    let tag = operations.kernelTag(slot)
    let descriptor = unsafe operation.pointee.descriptor
    let offset = unsafe operation.pointee.offset
    let remaining = unsafe operation.pointee.remaining
    switch unsafe operation.pointee.kind {
    case .read:
      guard let memory = unsafe operation.pointee.memory else { return true }
      return unsafe engine.read(
        descriptor, memory, UInt32(remaining), offset, isPooled: true, tag: tag)
    case .write, .durableWrite:
      guard let memory = unsafe operation.pointee.memory else { return true }
      let durable = unsafe operation.pointee.kind == .durableWrite
      return unsafe engine.write(
        descriptor, memory, UInt32(remaining), offset, durable: durable, isPooled: true, tag: tag)
    case .flush: return engine.flush(descriptor, tag: tag)
    case .discard, .zeroesByPunching:
      let mode = CHOST_PUNCH_HOLE | CHOST_KEEP_SIZE
      return engine.allocate(descriptor, mode: mode, offset, remaining, tag: tag)
    case .zeroesByMarking:
      let mode = CHOST_ZERO_RANGE | CHOST_KEEP_SIZE
      return engine.allocate(descriptor, mode: mode, offset, remaining, tag: tag)
    case .zeroesByWriting:
      let piece = UInt32(min(remaining, UInt64(Self.zeroBytes)))
      return unsafe engine.write(
        descriptor, zeroes, piece, offset, durable: false, isPooled: false, tag: tag)
    case .accept: return engine.accept(descriptor, tag: tag)
    case .connect: return submitConnect(slot, tag: tag)
    }
  }

  /// Takes the kernel's answer to an operation: continues it, or ends it with an event.
  mutating func completeOperation(_ id: SlotID, _ result: Int32) -> ReactorEvent? {
    precondition(operations.contains(id), "a completion for an operation that has ended")
    let slot = id.slot
    let operation = unsafe operations.pointer(slot)
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
    if buffer != .none { pool.release(buffer) }
    operations.remove(slot)
    return .completion(tag: tag, result: result)
  }
}
