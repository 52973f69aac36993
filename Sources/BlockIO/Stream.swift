internal import BlockTypes
internal import Glibc

/// A connected socket: what arrived and was not consumed, what is queued to be sent, and what the
/// kernel is working on.
///
/// Invariants:
/// - at most one receive and one send are in the kernel at a time;
/// - `windowHead <= windowTail <= windowCapacity`; the bytes between the first two were received
///   and not consumed; while a receive into the window is in the kernel nothing in the window
///   moves;
/// - segments name the queued bytes in order; bytes of a segment without buffer lie in the ring,
///   between `ringHead` and `ringTail`, in the same order;
/// - the mapping and the descriptor live until the kernel has let go of both operations.
@safe
struct Stream: BitwiseCopyable {
  enum State: UInt8 {
    case free
    case open
    /// `closed` was announced: no further events, no further receives.
    case ended
    /// The owner is done; queued bytes still leave.
    case draining
    /// The owner is done; only the kernel still holds something.
    case closing
  }

  var state: State = .free
  var receiveInKernel = false
  var sendInKernel = false
  /// Whether the receive in the kernel goes to the payload buffer instead of the window.
  var receivesPayload = false
  /// Whether the slot is in the reactor's queue of streams that want to receive, or to send.
  var receiveIsQueued = false
  var sendIsQueued = false
  var isPaused = false
  var isCongested = false
  /// Bytes arrived while paused, or were left when paused: announce them on resume.
  var announceIsQueued = false
  /// The last receive emptied the socket, so that trying again before it is readable is in vain.
  var pollFirst = false
  var sendFailed = false
  /// Whether everything queued was to be sent before the close.
  var wasDrained = false
  var descriptor: Int32 = -1
  var userTag: UInt64 = 0

  var window: UnsafeMutableRawPointer
  var windowCapacity = 0
  var windowHead = 0
  var windowTail = 0

  /// The rest of the payload that `receivePayload` asked for.
  var payloadMemory: UnsafeMutableRawPointer
  var payloadBuffer: BufferID = .none
  var payloadRemaining = 0
  var payloadBytes = 0
  /// Whether the last thing received was a large payload.
  var expectsLargePayload = false

  var ring: UnsafeMutableRawPointer
  var ringCapacity = 0
  /// Bytes ever put into and taken out of the ring; the place is the count modulo the capacity.
  var ringTail = 0
  var ringHead = 0

  var segments: UnsafeMutablePointer<SendSegment>
  var segmentCapacity = 0
  var segmentTail = 0
  var segmentHead = 0
  var queuedPayloadBytes = 0

  var vectors: UnsafeMutablePointer<iovec>
  var message: UnsafeMutablePointer<msghdr>
  var mapping: UnsafeMutableRawPointer
  var mappingBytes = 0
}

/// A run of bytes to send: in the stream's ring, or in a pooled buffer that is held until it left.
@safe
struct SendSegment: BitwiseCopyable {
  var memory: UnsafeRawPointer
  var length: UInt32
  /// `UInt32.max` for bytes in the ring.
  var buffer: UInt32
}

/// Pieces of one sendmsg. More pieces save nothing: the kernel copies them all to its stack or
/// heap.
let vectorCount = 128

/// Payload queued to one stream above which it is congested: eight of the largest requests.
let payloadHighWater = 8 << 20

/// A payload from this size on is likely followed by its like: sequential transfers, resync.
let largePayloadBytes = 64 << 10

/// What is received into the window after a large payload: several headers, little of a payload.
let largePayloadHeaderBytes = 1 << 10

extension Stream {
  /// Bytes received and not consumed.
  var windowBytes: Int { windowTail - windowHead }
  /// Whether a payload is being received.
  var awaitsPayload: Bool { payloadRemaining > 0 }
  /// Whether nothing is queued to be sent.
  var sendIsEmpty: Bool { segmentHead == segmentTail }
  var queuedRingBytes: Int { ringTail - ringHead }
  /// Whether the kernel still uses memory or descriptor.
  var isInKernel: Bool { receiveInKernel || sendInKernel }

  /// Maps a stream's memory: window, send ring, segments, vectors and header in one piece.
  static func make(descriptor: Int32, userTag: UInt64, window: Int, sendBytes: Int) -> Stream? {
    precondition(window > 0, "a stream needs a window")
    precondition(sendBytes > 0, "a stream needs room to send")
    let page = 4096
    let windowBytes = (window + page - 1) / page * page
    var ringBytes = page
    while ringBytes < sendBytes { ringBytes *= 2 }
    // Acknowledgements are 16 bytes and more, each perhaps between two payloads.
    let segmentCapacity = ringBytes / 16
    let segmentBytes = segmentCapacity * MemoryLayout<SendSegment>.stride
    let total = windowBytes + ringBytes + segmentBytes + page
    let mapped = unsafe mmap(
      nil, total, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
    guard let memory = unsafe mapped, unsafe memory != MAP_FAILED else { return nil }
    let ring = unsafe memory + windowBytes
    let segments = unsafe ring + ringBytes
    let vectors = unsafe segments + segmentBytes
    let message = unsafe vectors + vectorCount * MemoryLayout<iovec>.stride
    var stream = unsafe Stream(
      window: memory, payloadMemory: memory, ring: ring,
      segments: segments.bindMemory(to: SendSegment.self, capacity: segmentCapacity),
      vectors: vectors.bindMemory(to: iovec.self, capacity: vectorCount),
      message: message.bindMemory(to: msghdr.self, capacity: 1), mapping: memory)
    unsafe stream.message.initialize(to: msghdr())
    stream.state = .open
    stream.descriptor = descriptor
    stream.userTag = userTag
    stream.windowCapacity = windowBytes
    stream.ringCapacity = ringBytes
    stream.segmentCapacity = segmentCapacity
    stream.mappingBytes = total
    return stream
  }
}

/// The window.
extension Stream {
  /// Makes room at the end of the window. Only while no receive is in the kernel.
  mutating func compactWindow() {
    precondition(!receiveInKernel, "the kernel is writing into the window")
    let bytes = windowBytes
    if bytes == 0 {
      windowHead = 0
      windowTail = 0
    } else if windowHead > 0, windowCapacity - windowTail < windowCapacity / 2 {
      unsafe window.copyMemory(from: window + windowHead, byteCount: bytes)
      windowHead = 0
      windowTail = bytes
    }
  }

  /// Moves what is in the window to the payload; `true` when that completed it.
  mutating func fillPayloadFromWindow() -> Bool {
    let bytes = min(windowBytes, payloadRemaining)
    if bytes > 0 {
      unsafe payloadMemory.copyMemory(from: window + windowHead, byteCount: bytes)
      windowHead += bytes
      advancePayload(bytes)
    }
    return payloadRemaining == 0
  }

  /// Counts payload bytes that are in the buffer.
  mutating func advancePayload(_ bytes: Int) {
    precondition(bytes <= payloadRemaining, "more payload than was asked for")
    unsafe payloadMemory += bytes
    payloadRemaining -= bytes
  }
}

/// The queue of bytes to send.
extension Stream {
  /// Whether the queue is above its high-water mark.
  var isAboveHighWater: Bool {
    queuedRingBytes > ringCapacity / 2 || queuedPayloadBytes > payloadHighWater
      || segmentTail - segmentHead > segmentCapacity / 2
  }

  /// Whether little room is left for small messages, however much payload is queued.
  var ringIsNearlyFull: Bool { queuedRingBytes > ringCapacity / 4 * 3 }

  /// Whether the queue is below its low-water mark.
  var isBelowLowWater: Bool {
    queuedRingBytes <= ringCapacity / 4 && queuedPayloadBytes <= payloadHighWater / 4
      && segmentTail - segmentHead <= segmentCapacity / 4
  }

  /// Copies bytes to the ring; `false`, and nothing happens, when there is no room.
  mutating func enqueue(copying bytes: UnsafeRawBufferPointer) -> Bool {
    let length = bytes.count
    guard length > 0, let source = bytes.baseAddress else { return true }
    guard length <= ringCapacity - queuedRingBytes else { return false }
    // At most two segments: before and after the ring's end.
    guard segmentTail - segmentHead + 2 <= segmentCapacity else { return false }
    let place = ringTail & (ringCapacity - 1)
    let first = min(length, ringCapacity - place)
    unsafe (ring + place).copyMemory(from: source, byteCount: first)
    unsafe appendRing(ring + place, first)
    if first < length {
      unsafe ring.copyMemory(from: source + first, byteCount: length - first)
      unsafe appendRing(ring, length - first)
    }
    ringTail += length
    return true
  }

  /// Adds ring bytes to the queue, joining them to the last segment where they follow it.
  private mutating func appendRing(_ memory: UnsafeMutableRawPointer, _ length: Int) {
    if segmentTail > segmentHead {
      let last = unsafe segments + ((segmentTail - 1) & (segmentCapacity - 1))
      if unsafe last.pointee.buffer == .max,
        unsafe last.pointee.memory + Int(last.pointee.length) == UnsafeRawPointer(memory)
      {
        unsafe last.pointee.length += UInt32(length)
        return
      }
    }
    unsafe append(SendSegment(memory: memory, length: UInt32(length), buffer: .max))
  }

  /// Adds pooled bytes to the queue; `false` when there is no room.
  mutating func enqueue(payload segment: SendSegment) -> Bool {
    guard segmentTail - segmentHead < segmentCapacity else { return false }
    append(segment)
    queuedPayloadBytes += Int(segment.length)
    return true
  }

  private mutating func append(_ segment: SendSegment) {
    unsafe (segments + (segmentTail & (segmentCapacity - 1))).initialize(to: segment)
    segmentTail += 1
  }

  /// The segment at the front of a queue that is not empty.
  var firstSegment: SendSegment {
    precondition(segmentHead < segmentTail, "nothing is queued")
    return unsafe segments[segmentHead & (segmentCapacity - 1)]
  }

  /// Writes the front of the queue into the vectors; how many were used.
  mutating func fillVectors() -> Int {
    let count = min(segmentTail - segmentHead, vectorCount)
    for index in 0..<count {
      let segment = unsafe segments[(segmentHead + index) & (segmentCapacity - 1)]
      unsafe vectors[index] = iovec(
        iov_base: UnsafeMutableRawPointer(mutating: segment.memory),
        iov_len: Int(segment.length))
    }
    unsafe message.pointee.msg_iov = vectors
    unsafe message.pointee.msg_iovlen = count
    return count
  }

  /// Takes up to `bytes` off the front segment. Returns what is left of `bytes`, and the buffer
  /// that the queue no longer holds when its segment ended.
  mutating func retire(_ bytes: Int) -> (rest: Int, finished: BufferID?) {
    let place = segmentHead & (segmentCapacity - 1)
    let segment = firstSegment
    let taken = min(bytes, Int(segment.length))
    let isRing = segment.buffer == .max
    if isRing { ringHead += taken } else { queuedPayloadBytes -= taken }
    if taken == Int(segment.length) {
      segmentHead += 1
      return (bytes - taken, isRing ? nil : BufferID(segment.buffer))
    }
    unsafe segments[place] = SendSegment(
      memory: segment.memory + taken, length: segment.length - UInt32(taken),
      buffer: segment.buffer)
    return (bytes - taken, nil)
  }
}

/// A fixed number of streams, changed in place. Slots have generations, as in `Slab`.
@safe
struct StreamTable: ~Copyable {
  private let streams: UnsafeMutablePointer<Stream>
  private let generations: UnsafeMutablePointer<UInt32>
  let capacity: Int
  private(set) var count = 0
  /// Set when the kernel did not let go: the mappings stay.
  var isAbandoned = false

  init(capacity: Int) {
    precondition(capacity > 0, "a reactor without stream slots has no peers")
    precondition(capacity <= TagKind.slotLimit, "more stream slots than a tag can name")
    self.capacity = capacity
    unsafe streams = .allocate(capacity: capacity)
    unsafe generations = .allocate(capacity: capacity)
    unsafe generations.initialize(repeating: 1, count: capacity)
    let zeroed = unsafe UnsafeMutableRawPointer(streams)
    unsafe memset(zeroed, 0, capacity * MemoryLayout<Stream>.stride)
  }

  deinit {
    guard !isAbandoned else { return }
    unsafe streams.deallocate()
    unsafe generations.deallocate()
  }

  /// Puts a stream into a free slot; `nil` when there is none. Linear: connections are rare.
  mutating func insert(_ stream: Stream) -> SlotID? {
    for slot in 0..<capacity where unsafe streams[slot].state == .free {
      // The slot may still be in the reactor's queues from its last use; it must not get in twice.
      let receiveIsQueued = unsafe streams[slot].receiveIsQueued
      let sendIsQueued = unsafe streams[slot].sendIsQueued
      unsafe streams[slot] = stream
      unsafe streams[slot].receiveIsQueued = receiveIsQueued
      unsafe streams[slot].sendIsQueued = sendIsQueued
      count += 1
      return unsafe SlotID(slot: UInt32(slot), generation: generations[slot])
    }
    return nil
  }

  /// Frees a slot; its id is stale from now on.
  mutating func remove(_ slot: UInt32) {
    precondition(unsafe streams[Int(slot)].state != .free, "freeing a stream twice")
    unsafe streams[Int(slot)].state = .free
    let generation = unsafe generations[Int(slot)]
    unsafe generations[Int(slot)] = generation &+ 1
    count -= 1
  }

  /// Whether `id` names the stream that is in its slot now.
  @inline(__always)
  func contains(_ id: SlotID) -> Bool {
    guard Int(id.slot) < capacity else { return false }
    guard unsafe streams[Int(id.slot)].state != .free else { return false }
    return unsafe generations[Int(id.slot)] == id.generation
  }

  /// The generation of a slot's present use.
  @inline(__always)
  func generation(_ slot: UInt32) -> UInt32 { unsafe generations[Int(slot)] }

  /// The stream in a slot, in place, without asking whose it is.
  @unsafe @inline(__always)
  func pointer(_ slot: UInt32) -> UnsafeMutablePointer<Stream> {
    precondition(Int(slot) < capacity, "no such stream slot")
    return unsafe streams + Int(slot)
  }

  /// The stream that the owner names: it must be open, or ended and not yet closed.
  @unsafe @inline(__always)
  func owned(_ id: StreamID) -> UnsafeMutablePointer<Stream> {
    precondition(contains(id.slot), "the stream was closed")
    let stream = unsafe streams + Int(id.slot.slot)
    let state = unsafe stream.pointee.state
    precondition(state == .open || state == .ended, "the stream was closed")
    return unsafe stream
  }
}
