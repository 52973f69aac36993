internal import BlockTypes
internal import Glibc

/// Accepting and connecting.
extension ReactorCore {
  mutating func connect(
    _ address: SocketAddress, from local: SocketAddress? = nil, tag: UInt64
  ) {
    switch makeSocket(for: address, from: local) {
    case .failure(let error): announced.push(.completion(tag: tag, result: -error.errno))
    case .success(let descriptor):
      guard let (storage, length) = address.kernelForm else {
        _ = Glibc.close(descriptor)
        announced.push(.completion(tag: tag, result: -ENAMETOOLONG))
        return
      }
      // One small allocation a connection attempt, which is no I/O path.
      let memory = UnsafeMutablePointer<sockaddr_storage>.allocate(capacity: 1)
      unsafe memory.initialize(to: storage)
      var operation = Operation(kind: .connect, descriptor: descriptor, userTag: tag)
      unsafe operation.memory = UnsafeMutableRawPointer(memory)
      operation.remaining = UInt64(length)
      enqueue(operation)
    }
  }

  private func makeSocket(
    for address: SocketAddress, from local: SocketAddress?
  ) -> Result<Int32, SystemError> {
    let type = Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue)
    let descriptor = socket(address.family, type, 0)
    guard descriptor >= 0 else { return .failure(SystemError(call: "socket", errno: errno)) }
    guard let local else { return .success(descriptor) }
    guard let (storage, length) = local.withoutPort.kernelForm else {
      _ = Glibc.close(descriptor)
      return .failure(SystemError(call: "bind", errno: ENAMETOOLONG))
    }
    let failed = unsafe withUnsafePointer(to: storage) {
      unsafe $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
        unsafe Glibc.bind(descriptor, $0, length)
      }
    }
    guard failed == 0 else {
      let reason = errno
      _ = Glibc.close(descriptor)
      return .failure(SystemError(call: "bind", errno: reason))
    }
    return .success(descriptor)
  }

  mutating func cancel(tag: UInt64) {
    for slot in 0..<UInt32(operations.capacity) where isConnection(slot) {
      if unsafe operations.pointer(slot).pointee.userTag == tag { return enqueueCancel(slot) }
    }
  }

  mutating func cancelAllConnections() {
    for slot in 0..<UInt32(operations.capacity) where isConnection(slot) { enqueueCancel(slot) }
  }

  private func isConnection(_ slot: UInt32) -> Bool {
    guard operations.isTaken(slot) else { return false }
    let kind = unsafe operations.pointer(slot).pointee.kind
    return kind == .accept || kind == .connect
  }

  private mutating func enqueueCancel(_ slot: UInt32) {
    let operation = unsafe operations.pointer(slot)
    guard unsafe !operation.pointee.isCancelled else { return }
    unsafe operation.pointee.isCancelled = true
    queuedCancels.push(operations.kernelTag(slot))
  }

  /// Puts a cancel into the kernel's queue; `false` when that is full.
  mutating func submitCancel(_ target: UInt64) -> Bool {
    // The operation may have ended since, and its slot may be another's.
    guard let (_, id) = TagKind.parse(target), operations.contains(id) else { return true }
    let operation = unsafe operations.pointer(id.slot)
    let tag = TagKind.cancel.tag(slot: id.slot, generation: 0)
    let isQueued = unsafe engine.cancel(operation.pointee.descriptor, target: target, tag: tag)
    if isQueued { streamOperationsInKernel += 1 }
    return isQueued
  }

  mutating func submitConnect(_ slot: UInt32, tag: UInt64) -> Bool {
    let operation = unsafe operations.pointer(slot)
    guard let memory = unsafe operation.pointee.memory else { return true }
    return unsafe engine.connect(
      operation.pointee.descriptor, memory, UInt32(operation.pointee.remaining), tag: tag)
  }

  mutating func finishConnect(_ slot: UInt32, _ result: Int32) -> ReactorEvent {
    let operation = unsafe operations.pointer(slot)
    let descriptor = unsafe operation.pointee.descriptor
    unsafe operation.pointee.memory?.deallocate()
    unsafe operation.pointee.memory = nil
    guard result < 0 else { return finish(slot, descriptor) }
    engine.forget(descriptor)
    _ = Glibc.close(descriptor)
    return finish(slot, result)
  }
}

extension SocketAddress {
  /// The same host, any port.
  var withoutPort: SocketAddress {
    switch self {
    case .ipv4(let address, _): .ipv4(address, port: 0)
    case .ipv6(let high, let low, _, let scope): .ipv6(high: high, low: low, port: 0, scope: scope)
    case .unix: self
    }
  }
}
