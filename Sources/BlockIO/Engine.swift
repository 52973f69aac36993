internal import BlockTypes
internal import CAIO
internal import CUring
internal import Glibc

/// What a kernel tag names. The kind takes the four highest bits of the slot half of a tag.
enum TagKind: UInt32 {
  case operation = 0
  case receive = 1
  case send = 2
  case cancel = 3
  case doorbell = 4
  case helper = 5

  private static var shift: UInt32 { 28 }
  /// Most slots a table may have so that a tag can name them.
  static var slotLimit: Int { 1 << Int(shift) }

  /// The 64 bits that travel through the kernel.
  @inline(__always)
  func tag(slot: UInt32, generation: UInt32) -> UInt64 {
    SlotID(slot: slot | rawValue << Self.shift, generation: generation).tag
  }

  /// Takes a tag apart; `nil` for one that was never made.
  @inline(__always)
  static func parse(_ tag: UInt64) -> (kind: TagKind, id: SlotID)? {
    let id = SlotID(tag: tag)
    guard let kind = TagKind(rawValue: id.slot >> shift) else { return nil }
    return (kind, SlotID(slot: id.slot & (1 << shift - 1), generation: id.generation))
  }
}

/// The kernel interface: io_uring, or libaio with epoll. One branch a call instead of an
/// existential.
///
/// Invariants: exactly one of the two handles is set; a call that returns `false` queued nothing;
/// every queued operation comes back once from `submit`.
@safe
struct Engine: ~Copyable {
  private let ring: OpaquePointer?
  private let aio: OpaquePointer?
  private let completions: UnsafeMutablePointer<curing_completion>
  /// Which engine it is, and why when it was not the first choice.
  let description: String
  /// Whether the pool's memory was registered with the ring.
  private(set) var hasRegisteredMemory = false
  /// Set when the kernel did not let go: freeing would hand memory to somebody else under its feet.
  var isAbandoned = false

  /// Most completions one turn takes: the rest waits in the kernel's queue. Few, so that the
  /// answers to the first leave before the last is looked at: a client works on them meanwhile.
  static var batch: Int { 8 }
  /// The same while many reads are at the disk: each of their answers makes a client go on.
  static var readBatch: Int { 4 }

  var usesRing: Bool { unsafe ring != nil }

  init(options: ReactorOptions) throws(SystemError) {
    var reason = ""
    var ring: OpaquePointer?
    if options.engine != .libaio {
      var error = options.forcedRingFailure
      if error == 0 { unsafe ring = Self.makeRing(options, &error) }
      if unsafe ring == nil {
        if options.engine == .ioUring {
          throw SystemError(call: "io_uring_setup", errno: error, path: nil)
        }
        reason = " (\(Self.explain(error)))"
      }
    }
    var aio: OpaquePointer?
    if unsafe ring == nil {
      var error: Int32 = 0
      unsafe aio = caio_create(UInt32(options.operationSlots), &error)
      guard unsafe aio != nil else {
        throw SystemError(call: "io_setup", errno: error, path: nil)
      }
    }
    unsafe self.ring = ring
    unsafe self.aio = aio
    unsafe description = ring != nil ? "io_uring" : "libaio" + reason
    unsafe completions = .allocate(capacity: Self.batch)
  }

  deinit {
    guard !isAbandoned else { return }
    if let ring = unsafe ring { unsafe curing_destroy(ring) }
    if let aio = unsafe aio { unsafe caio_destroy(aio) }
    unsafe completions.deallocate()
  }

  private static func makeRing(_ options: ReactorOptions, _ error: inout Int32) -> OpaquePointer? {
    // One operation each, a receive and a send a stream, the doorbell, and room for cancels: then
    // the completion queue cannot overflow (and if it does, the kernel keeps what does not fit).
    let most = UInt32(options.operationSlots + 4 * options.streamSlots + 16)
    var wanted = options.completionEntries
    if wanted == 0 { wanted = max(most, 4 * options.submissionEntries) }
    return unsafe curing_create(options.submissionEntries, wanted, &error)
  }

  /// Why there is no ring, in words for the log.
  private static func explain(_ error: Int32) -> String {
    guard error == EPERM else { return "io_uring is not available: \(errnoText(error))" }
    let setting = readNumber("/proc/sys/kernel/io_uring_disabled") ?? 0
    guard setting != 0 else {
      return "io_uring is forbidden to this process: \(errnoText(error))"
    }
    return "io_uring is switched off: kernel.io_uring_disabled=\(setting)"
  }

  private static func readNumber(_ path: String) -> Int? {
    let descriptor = unsafe open(path, O_RDONLY | O_CLOEXEC)
    guard descriptor >= 0 else { return nil }
    defer { _ = Glibc.close(descriptor) }
    var text = [UInt8](repeating: 0, count: 32)
    let length = unsafe Glibc.read(descriptor, &text, text.count)
    guard length > 0 else { return nil }
    return Int(String(decoding: text.prefix(length).filter { $0 > 32 }, as: UTF8.self))
  }

  /// Registers memory so that disk transfers to it need no pinning; without effect where refused.
  mutating func register(_ memory: UnsafeMutableRawPointer, bytes: Int) {
    guard let ring = unsafe ring else { return }
    hasRegisteredMemory = unsafe curing_register_memory(ring, memory, UInt64(bytes)) == 0
  }

  /// Submits what is queued and collects what completed. Negative: nothing completed, `-errno`.
  ///
  /// - Parameter limit: most completions taken, at most `batch`.
  mutating func submit(wait: Bool, timeout: UInt64, limit: Int = batch) -> Int32 {
    let limit = UInt32(limit)
    if let ring = unsafe ring {
      return unsafe curing_submit(ring, wait ? 1 : 0, timeout, completions, limit)
    }
    return unsafe completions.withMemoryRebound(to: caio_completion.self, capacity: Self.batch) {
      unsafe caio_submit(aio, wait ? 1 : 0, timeout, $0, limit)
    }
  }

  /// Makes room in the submission queue without collecting anything.
  mutating func submitOnly() {
    if let ring = unsafe ring {
      _ = unsafe curing_submit(ring, 0, 0, completions, 0)
    }
  }

  /// The completion at `index` of those the last `submit` counted.
  @inline(__always)
  func completion(_ index: Int) -> curing_completion { unsafe completions[index] }
}

/// The calls that queue operations. `true`: queued.
extension Engine {
  /// - Parameter mayWait: `false`: what would have to wait fails with `-EAGAIN`; io_uring only.
  @unsafe @inline(__always)
  mutating func read(
    _ descriptor: Int32, _ memory: UnsafeMutableRawPointer, _ length: UInt32, _ offset: UInt64,
    mayWait: Bool, isPooled: Bool, tag: UInt64
  ) -> Bool {
    guard let ring = unsafe ring else {
      return unsafe caio_read(aio, descriptor, memory, length, offset, tag) == 0
    }
    let flags = mayWait ? 0 : UInt32(CURING_NOWAIT)
    if isPooled, hasRegisteredMemory {
      return unsafe curing_read_fixed(ring, descriptor, memory, length, offset, flags, tag) == 0
    }
    return unsafe curing_read(ring, descriptor, memory, length, offset, flags, tag) == 0
  }

  /// - Parameter durable: complete when this write is on stable storage.
  @unsafe @inline(__always)
  mutating func write(
    _ descriptor: Int32, _ memory: UnsafeRawPointer, _ length: UInt32, _ offset: UInt64,
    durable: Bool, mayWait: Bool, isPooled: Bool, tag: UInt64
  ) -> Bool {
    let durability = durable ? UInt32(CURING_DSYNC) : 0
    guard let ring = unsafe ring else {
      return unsafe caio_write(aio, descriptor, memory, length, offset, durability, tag) == 0
    }
    let flags = durability | (mayWait ? 0 : UInt32(CURING_NOWAIT))
    if isPooled, hasRegisteredMemory {
      return unsafe curing_write_fixed(ring, descriptor, memory, length, offset, flags, tag) == 0
    }
    return unsafe curing_write(ring, descriptor, memory, length, offset, flags, tag) == 0
  }

  @unsafe @inline(__always)
  mutating func receive(
    _ descriptor: Int32, _ memory: UnsafeMutableRawPointer, _ length: UInt32, all: Bool,
    pollFirst: Bool, tag: UInt64
  ) -> Bool {
    if let ring = unsafe ring {
      let flags = all ? Int32(MSG_WAITALL) : 0
      return unsafe curing_recv(
        ring, descriptor, memory, length, flags, pollFirst ? 1 : 0, tag) == 0
    }
    return unsafe caio_recv(aio, descriptor, memory, length, 0, tag) == 0
  }

  @unsafe @inline(__always)
  mutating func send(
    _ descriptor: Int32, _ memory: UnsafeRawPointer, _ length: UInt32, tag: UInt64
  ) -> Bool {
    let flags = Int32(MSG_NOSIGNAL)
    if let ring = unsafe ring {
      let all = Int32(MSG_WAITALL)
      return unsafe curing_send(ring, descriptor, memory, length, flags | all, tag) == 0
    }
    return unsafe caio_send(aio, descriptor, memory, length, flags, tag) == 0
  }

  @unsafe @inline(__always)
  mutating func send(
    _ descriptor: Int32, message: UnsafeMutablePointer<msghdr>, tag: UInt64
  ) -> Bool {
    let flags = Int32(MSG_NOSIGNAL)
    if let ring = unsafe ring {
      let all = Int32(MSG_WAITALL)
      return unsafe curing_sendmsg(ring, descriptor, message, flags | all, tag) == 0
    }
    return unsafe caio_sendmsg(aio, descriptor, message, flags, tag) == 0
  }

  mutating func accept(_ descriptor: Int32, tag: UInt64) -> Bool {
    let flags = Int32(SOCK_CLOEXEC.rawValue)
    if let ring = unsafe ring { return unsafe curing_accept(ring, descriptor, flags, tag) == 0 }
    return unsafe caio_accept(aio, descriptor, flags, tag) == 0
  }

  @unsafe
  mutating func connect(
    _ descriptor: Int32, _ address: UnsafeRawPointer, _ length: UInt32, tag: UInt64
  ) -> Bool {
    if let ring = unsafe ring {
      return unsafe curing_connect(ring, descriptor, address, length, tag) == 0
    }
    return unsafe caio_connect(aio, descriptor, address, length, tag) == 0
  }

  @unsafe
  mutating func readCounter(
    _ descriptor: Int32, _ memory: UnsafeMutableRawPointer, tag: UInt64
  ) -> Bool {
    if let ring = unsafe ring {
      return unsafe curing_read(ring, descriptor, memory, 8, 0, 0, tag) == 0
    }
    return unsafe caio_read_counter(aio, descriptor, memory, tag) == 0
  }

  mutating func cancel(_ descriptor: Int32, target: UInt64, tag: UInt64) -> Bool {
    if let ring = unsafe ring { return unsafe curing_cancel(ring, target, tag) == 0 }
    return unsafe caio_cancel(aio, descriptor, target, tag) == 0
  }

  /// To be called before a socket is closed.
  mutating func forget(_ descriptor: Int32) {
    if let aio = unsafe aio { unsafe caio_forget(aio, descriptor) }
  }
}
