internal import BlockTypes
internal import CHost
internal import Glibc

/// What is behind a `Reactor`.
///
/// Invariants:
/// - every disk operation, accept and connect completes exactly once;
/// - memory and descriptors that the kernel may touch are kept until it has said that it is done;
/// - a slot is in each queue at most once, so the queues cannot overflow;
/// - nothing is allocated and nothing is reference-counted for an operation, a send or a receive.
@safe
struct ReactorCore: ~Copyable {
  var engine: Engine
  var helper: DiskHelper
  var nowaitRefusals = NowaitRefusals()
  var pool: BufferPool
  var operations: OperationTable
  var streams: StreamTable

  /// Work for the next `wait`, by slot. A stream is in each of its queues at most once.
  var queuedOperations: FIFO<UInt32>
  var queuedSends: FIFO<UInt32>
  var queuedReceives: FIFO<UInt32>
  /// Kernel tags of accepts and connects to cancel.
  var queuedCancels: FIFO<UInt64>
  /// Events that need no completion of the kernel.
  var announced: FIFO<ReactorEvent>

  /// An event that `wait` found and `nextEvent` has not delivered yet.
  var foundEvent: ReactorEvent?
  /// Completions of the last `wait`, and how many of them were looked at.
  var completionCount = 0
  var completionIndex = 0
  /// Disk reads that have begun and not ended.
  var readsInFlight = 0
  /// Receives, sends and cancels in the kernel.
  var streamOperationsInKernel = 0
  /// Streams that the owner gave up and that still hold something.
  var leavingStreams = 0
  var doorbellIsArmed = false
  /// Whether the kernel watches for results of the helper. Only while it has jobs.
  var helperIsArmed = false
  /// Whether the helper has, or may have, results that were not looked at.
  var helperHasResults = false

  /// Zeroes for disks that cannot make their own.
  let zeroes: UnsafeMutableRawPointer
  /// Where the doorbell's count is read to.
  let doorbellCount: UnsafeMutableRawPointer
  /// Where the count of the helper's results is read to.
  let helperCount: UnsafeMutableRawPointer

  /// How long dropping a reactor waits for the kernel to let go of its memory.
  let quiesceLimitMs: UInt64
  let doorbell: Doorbell
  var now: Instant

  /// Reads at the disk from which on one of them is expected to end any moment.
  static var manyReads: Int { 8 }
  /// How long a turn with many reads looks for the next end before it sleeps. Nanoseconds. Longer
  /// than a fast disk takes between two of them, and not much longer than falling asleep and waking
  /// up take together: that is the most it can waste.
  static var readSpin: UInt64 { 30_000 }

  /// Bytes of `zeroes`: one write of the fallback of write-zeroes.
  static var zeroBytes: Int { 1 << 20 }

  init(options: ReactorOptions) throws(SystemError) {
    let doorbell = try Doorbell()
    var engine = try Engine(options: options)
    let helper = try DiskHelper(
      jobs: options.operationSlots, transfers: engine.usesRing ? DiskHelper.transfers : 0)
    let pool = try BufferPool(sizes: options.buffers)
    let mapped = unsafe mmap(
      nil, Self.zeroBytes + 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
    guard let memory = unsafe mapped, unsafe memory != MAP_FAILED else {
      throw SystemError(call: "mmap", errno: errno, path: nil)
    }
    if options.registersMemory { pool.register(with: &engine) }
    unsafe zeroes = memory
    unsafe doorbellCount = memory + Self.zeroBytes
    unsafe helperCount = memory + Self.zeroBytes + 64
    self.engine = engine
    self.helper = helper
    self.pool = pool
    quiesceLimitMs = options.quiesceLimitMs
    self.doorbell = doorbell
    operations = OperationTable(capacity: options.operationSlots)
    streams = StreamTable(capacity: options.streamSlots)
    queuedOperations = FIFO(capacity: options.operationSlots, filler: 0)
    queuedSends = FIFO(capacity: options.streamSlots, filler: 0)
    queuedReceives = FIFO(capacity: options.streamSlots, filler: 0)
    queuedCancels = FIFO(capacity: options.operationSlots, filler: 0)
    // One immediate end for each operation, and of each stream its end and one announcement.
    announced = FIFO(
      capacity: options.operationSlots + 2 * options.streamSlots, filler: .mailbox)
    now = Self.clock()
  }

  deinit {
    guard !engine.isAbandoned else { return }
    _ = unsafe munmap(zeroes, Self.zeroBytes + 4096)
  }
}
