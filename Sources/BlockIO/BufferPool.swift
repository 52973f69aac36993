internal import BlockTypes
internal import Glibc

/// Aligned payload memory for a reactor: one mapping, four size classes, fixed at `init`.
///
/// Invariants:
/// - every buffer starts on a page, so it can go to a disk opened with O_DIRECT;
/// - a buffer is free exactly when nobody holds it; holders are counted by plain integers, so the
///   pool belongs to one thread;
/// - buffers are numbered by class, so an id says its class without a look-up in memory.
@safe
struct BufferPool: ~Copyable {
  @safe
  private struct Slot: BitwiseCopyable {
    var memory: UnsafeMutableRawPointer
    var capacity: UInt32
    var holders: UInt32
    var nextFree: UInt32
    var sizeClass: UInt32
  }

  private let slots: UnsafeMutablePointer<Slot>
  private let region: UnsafeMutableRawPointer
  /// Bytes of the mapping.
  let regionBytes: Int
  /// Buffers in all classes.
  let count: Int
  /// How often a buffer became free; for telling whether one did.
  private(set) var freedCount: UInt64 = 0
  /// Set when the kernel did not let go at the end: the mapping stays.
  var isAbandoned = false
  private var firstFree: InlineArray<4, UInt32> = [.max, .max, .max, .max]
  private var freeCounts: InlineArray<4, UInt32> = [0, 0, 0, 0]

  static let classCount = 4

  /// Bytes of one buffer of `sizeClass`.
  @inline(__always)
  static func bytes(ofClass sizeClass: Int) -> Int {
    switch sizeClass {
    case 0: 4 << 10
    case 1: 32 << 10
    case 2: 256 << 10
    default: 1 << 20
    }
  }

  /// The smallest class that holds `bytes`; `nil` above 1 MiB.
  @inline(__always)
  static func sizeClass(holding bytes: UInt32) -> Int? {
    if bytes <= 4 << 10 { return 0 }
    if bytes <= 32 << 10 { return 1 }
    if bytes <= 256 << 10 { return 2 }
    return bytes <= 1 << 20 ? 3 : nil
  }

  init(sizes: BufferPoolSizes) throws(SystemError) {
    let counts: InlineArray<4, Int> = [sizes.small, sizes.medium, sizes.large, sizes.huge]
    var total = 0
    var bytes = 0
    for sizeClass in 0..<Self.classCount {
      precondition(counts[sizeClass] >= 0, "a pool cannot have fewer than no buffers")
      total += counts[sizeClass]
      bytes += counts[sizeClass] * Self.bytes(ofClass: sizeClass)
    }
    precondition(total > 0, "a pool without buffers serves nobody")
    precondition(total < Int(UInt32.max) - 1, "buffer numbers are 32 bits")
    let mapping = unsafe mmap(
      nil, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
    guard let mapping = unsafe mapping, unsafe mapping != MAP_FAILED else {
      throw SystemError(call: "mmap", errno: errno, path: "\(bytes) bytes of buffers")
    }
    // Fewer, larger pages make pinning for O_DIRECT cheaper. Only advice: failure changes nothing.
    _ = unsafe madvise(mapping, bytes, MADV_HUGEPAGE)
    unsafe region = mapping
    regionBytes = bytes
    count = total
    unsafe slots = .allocate(capacity: total)
    fill(counts)
  }

  /// Lays out the largest class first, so that each starts on a multiple of its own size.
  private mutating func fill(_ counts: InlineArray<4, Int>) {
    var starts: InlineArray<4, Int> = [0, 0, 0, 0]
    var offset = 0
    for sizeClass in (0..<Self.classCount).reversed() {
      starts[sizeClass] = offset
      offset += counts[sizeClass] * Self.bytes(ofClass: sizeClass)
    }
    var index = 0
    for sizeClass in 0..<Self.classCount {
      let size = Self.bytes(ofClass: sizeClass)
      for position in 0..<counts[sizeClass] {
        let isLast = position + 1 == counts[sizeClass]
        unsafe (slots + index).initialize(
          to: Slot(
            memory: region + starts[sizeClass] + position * size, capacity: UInt32(size),
            holders: 0, nextFree: isLast ? .max : UInt32(index + 1),
            sizeClass: UInt32(sizeClass)))
        if position == 0 { firstFree[sizeClass] = UInt32(index) }
        index += 1
      }
      freeCounts[sizeClass] = UInt32(counts[sizeClass])
    }
  }

  deinit {
    guard !isAbandoned else { return }
    _ = unsafe munmap(region, regionBytes)
    unsafe slots.deallocate()
  }

  /// Registers the memory with an engine.
  func register(with engine: inout Engine) { unsafe engine.register(region, bytes: regionBytes) }

  /// A buffer of the smallest class that fits and has more than `reserve` free; larger classes
  /// stand in for an exhausted one. `nil` when none has. The caller is its one holder.
  mutating func allocate(_ bytes: UInt32, reserve: UInt32) -> BufferID? {
    guard var sizeClass = Self.sizeClass(holding: bytes) else { return nil }
    while sizeClass < Self.classCount {
      if freeCounts[sizeClass] > reserve {
        let index = firstFree[sizeClass]
        let slot = unsafe slots + Int(index)
        unsafe firstFree[sizeClass] = slot.pointee.nextFree
        freeCounts[sizeClass] -= 1
        unsafe slot.pointee.holders = 1
        return BufferID(index)
      }
      sizeClass += 1
    }
    return nil
  }

  /// Adds a holder.
  @inline(__always)
  mutating func retain(_ buffer: BufferID) {
    let slot = unsafe slot(of: buffer)
    let holders = unsafe slot.pointee.holders
    precondition(holders > 0, "retaining a buffer that nobody holds")
    unsafe slot.pointee.holders = holders + 1
  }

  /// Takes a holder away; the last one frees the buffer.
  @inline(__always)
  mutating func release(_ buffer: BufferID) {
    let slot = unsafe slot(of: buffer)
    let holders = unsafe slot.pointee.holders
    precondition(holders > 0, "releasing a buffer that nobody holds")
    unsafe slot.pointee.holders = holders - 1
    guard holders == 1 else { return }
    let sizeClass = unsafe Int(slot.pointee.sizeClass)
    unsafe slot.pointee.nextFree = firstFree[sizeClass]
    firstFree[sizeClass] = buffer.value
    freeCounts[sizeClass] += 1
    freedCount &+= 1
  }

  /// The memory of a held buffer.
  @unsafe @inline(__always)
  func memory(of buffer: BufferID) -> UnsafeMutableRawBufferPointer {
    let slot = unsafe slot(of: buffer)
    precondition(unsafe slot.pointee.holders > 0, "using a buffer that nobody holds")
    return unsafe UnsafeMutableRawBufferPointer(
      start: slot.pointee.memory, count: Int(slot.pointee.capacity))
  }

  /// Where `length` bytes at `offset` of a held buffer are; traps when they are not inside it.
  @unsafe @inline(__always)
  func address(of buffer: BufferID, offset: UInt32, length: UInt32) -> UnsafeMutableRawPointer {
    let slot = unsafe slot(of: buffer)
    precondition(unsafe slot.pointee.holders > 0, "using a buffer that nobody holds")
    let end = UInt64(offset) + UInt64(length)
    let capacity = unsafe UInt64(slot.pointee.capacity)
    precondition(end <= capacity, "range outside the buffer")
    return unsafe slot.pointee.memory + Int(offset)
  }

  /// Buffers of the class that are free.
  func freeCount(ofClass sizeClass: Int) -> Int { Int(freeCounts[sizeClass]) }

  @unsafe @inline(__always)
  private func slot(of buffer: BufferID) -> UnsafeMutablePointer<Slot> {
    precondition(Int(buffer.value) < count, "no such buffer")
    return unsafe slots + Int(buffer.value)
  }
}
