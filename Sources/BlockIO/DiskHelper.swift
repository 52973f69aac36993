internal import CHelper
internal import CHost
internal import Glibc

/// Threads for the disk calls that may block, so that the reactor's never does and the kernel
/// starts none of its own for it: those of io_uring stay and wake up every five seconds.
///
/// Invariants: what was given comes back once from `collect`, after `wake` could be read; a flush
/// covers every operation that completed before it was given; an idle helper sleeps.
@safe
struct DiskHelper: ~Copyable {
  private let helper: OpaquePointer
  /// The eventfd to watch for results.
  let wake: Int32
  /// Jobs that were given and not collected.
  private(set) var jobCount = 0
  /// Set when a disk did not answer: its thread still uses what freeing would give to others.
  var isAbandoned = false

  /// Transfers that go on in the kernel without a thread that waits for them. Beyond, threads wait.
  static var transfers: Int { 256 }

  init(jobs: Int, transfers: Int) throws(SystemError) {
    wake = chost_eventfd()
    guard wake >= 0 else { throw SystemError(call: "eventfd", errno: -wake) }
    var error: Int32 = 0
    guard let helper = unsafe chelper_create(UInt32(jobs), UInt32(transfers), wake, &error) else {
      _ = Glibc.close(wake)
      throw SystemError(call: "calloc", errno: error)
    }
    unsafe self.helper = helper
  }

  deinit {
    guard !isAbandoned else { return }
    unsafe chelper_destroy(helper)
    _ = Glibc.close(wake)
  }

  /// Each of these gives one job; `false` when there is no room.
  mutating func flush(_ descriptor: Int32, tag: UInt64) -> Bool {
    count(unsafe chelper_datasync(helper, descriptor, tag))
  }

  mutating func allocate(
    _ descriptor: Int32, mode: Int32, _ offset: UInt64, _ length: UInt64, tag: UInt64
  ) -> Bool {
    count(unsafe chelper_fallocate(helper, descriptor, mode, offset, length, tag))
  }

  @unsafe
  mutating func transfer(
    _ kind: Operation.Kind, _ descriptor: Int32, _ memory: UnsafeMutableRawPointer,
    _ length: UInt32, _ offset: UInt64, tag: UInt64
  ) -> Bool {
    if kind == .read {
      return count(unsafe chelper_read(helper, descriptor, memory, length, offset, tag))
    }
    let flags = kind == .durableWrite ? UInt32(CHELPER_DSYNC) : 0
    return count(unsafe chelper_write(helper, descriptor, memory, length, offset, flags, tag))
  }

  private mutating func count(_ result: Int32) -> Bool {
    guard result == 0 else { return false }
    jobCount += 1
    return true
  }

  /// One result: the tag of its job, and a count or `-errno`.
  mutating func collect() -> (tag: UInt64, result: Int32)? {
    var tag: UInt64 = 0
    var result: Int32 = 0
    guard unsafe chelper_collect(helper, &tag, &result) == 1 else { return nil }
    jobCount -= 1
    return (tag, result)
  }
}

/// Which files cannot be asked for a transfer without waiting.
///
/// A file that could not is asked again after 255 transfers: its descriptor may be another's now.
@safe
struct NowaitRefusals: ~Copyable {
  private let transfersLeft: UnsafeMutablePointer<UInt8>
  /// Descriptors that can be remembered; others are asked each time.
  private static var descriptors: Int { 1024 }

  init() {
    unsafe transfersLeft = .allocate(capacity: Self.descriptors)
    unsafe transfersLeft.initialize(repeating: 0, count: Self.descriptors)
  }

  deinit { unsafe transfersLeft.deallocate() }

  @inline(__always)
  mutating func mayAsk(_ descriptor: Int32) -> Bool {
    guard 0..<Self.descriptors ~= Int(descriptor) else { return true }
    let left = unsafe transfersLeft[Int(descriptor)]
    guard left > 0 else { return true }
    unsafe transfersLeft[Int(descriptor)] = left - 1
    return false
  }

  mutating func note(_ descriptor: Int32) {
    guard 0..<Self.descriptors ~= Int(descriptor) else { return }
    unsafe transfersLeft[Int(descriptor)] = .max
  }
}
