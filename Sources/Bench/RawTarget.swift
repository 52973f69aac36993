internal import BlockIO
internal import BlockTypes

/// A file or block device as the target of a load, past the page cache.
struct RawTarget: BlockTarget, ~Copyable {
  private let device: BlockDevice
  let name: String

  var byteCount: UInt64 { device.byteCount }

  /// Opens the disk. For writing it is locked: a disk that a daemon uses is refused.
  init(path: String, readOnly: Bool) throws(BenchError) {
    do throws(BlockDeviceError) {
      device = try BlockDevice(path: path, readOnly: readOnly)
    } catch {
      throw .device(error)
    }
    name = "raw:\(path)"
  }

  func check(_ workload: Workload) throws(BenchError) {
    guard workload.blockBytes % UInt64(device.logicalBlockSize) == 0 else {
      throw .badValue(
        option: "--bs", value: sizeText(workload.blockBytes),
        allowed: "\(name) takes multiples of \(device.logicalBlockSize) bytes")
    }
    guard workload.connections == 1 else {
      throw .badValue(
        option: "--connections", value: "\(workload.connections)",
        allowed: "\(name) is no server; 1")
    }
  }

  @inline(__always)
  mutating func submit(
    _ slot: Int, _ slots: borrowing FixedArray<SlotIO>, _ reactor: inout Reactor
  ) {
    let io = slots[slot]
    let tag = UInt64(slot)
    switch io.kind {
    case .read:
      reactor.diskRead(
        device.descriptor, into: io.buffer, length: io.length, at: io.offset, tag: tag)
    case .write, .durableWrite:
      reactor.diskWrite(
        device.descriptor, from: io.buffer, length: io.length, at: io.offset,
        durable: io.kind == .durableWrite, tag: tag)
    case .flush: reactor.diskFlush(device.descriptor, tag: tag)
    }
  }

  @inline(__always)
  mutating func take(
    _ event: ReactorEvent, _ slots: inout FixedArray<SlotIO>, _ reactor: inout Reactor,
    _ done: inout FIFO<UInt32>
  ) throws(BenchError) {
    guard case .completion(let tag, let result) = event else { return }
    let slot = Int(tag)
    precondition(slots[slot].phase == .sent, "a completion for an I/O that was not sent")
    guard result >= 0 else {
      let io = slots[slot]
      throw .ioFailed(
        target: name, operation: io.kind.name, offset: io.offset, length: io.length,
        reason: errnoText(-result))
    }
    slots[slot].phase = .done
    done.push(UInt32(slot))
  }

  mutating func close(_ reactor: inout Reactor) {}
}
