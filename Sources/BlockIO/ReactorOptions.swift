/// Which kernel interface carries disk I/O and waits for sockets.
public enum EngineChoice: Sendable, Equatable {
  /// io_uring, or libaio where the host has io_uring switched off.
  case automatic
  /// io_uring or nothing.
  case ioUring
  /// libaio for disks and epoll for sockets.
  case libaio
}

/// How many buffers of each class the pool holds. Memory is reserved at start, never later.
public struct BufferPoolSizes: Sendable, Equatable {
  /// Buffers of 4 KiB: single blocks, headers that need alignment, metadata sectors.
  public var small: Int
  /// Buffers of 32 KiB.
  public var medium: Int
  /// Buffers of 256 KiB.
  public var large: Int
  /// Buffers of 1 MiB: the largest payload a request may carry.
  public var huge: Int

  /// The default is 128 MiB: 8 + 16 + 40 + 64 MiB.
  public init(small: Int = 2048, medium: Int = 512, large: Int = 160, huge: Int = 64) {
    self.small = small
    self.medium = medium
    self.large = large
    self.huge = huge
  }
}

/// The fixed limits of one reactor.
public struct ReactorOptions: Sendable {
  /// Which engine to use.
  public var engine: EngineChoice
  /// Most disk operations, accepts and connects in flight; going beyond traps.
  public var operationSlots: Int
  /// Most open streams; `openStream` returns `nil` beyond.
  public var streamSlots: Int
  /// The payload memory.
  public var buffers: BufferPoolSizes

  /// Whether to have the kernel pin the pool at the start instead of for each operation: a tenth
  /// less work a read. All of the pool is resident then. Without effect where the host does not
  /// allow it (RLIMIT_MEMLOCK) and with libaio.
  public var registersMemory = true
  /// For tests: pretend that `io_uring_setup` failed with this errno.
  package var forcedRingFailure: Int32 = 0
  /// For tests: entries of the submission queue, to meet a full one.
  package var submissionEntries: UInt32 = 1024
  /// For tests: how long dropping a reactor waits for the kernel to let go of its memory.
  package var quiesceLimitMs: UInt64 = 10_000
  /// For tests: entries of the completion queue, to meet an overflow. 0 computes it from the slots.
  package var completionEntries: UInt32 = 0

  /// The defaults suit one node with a handful of volumes and clients.
  public init(
    engine: EngineChoice = .automatic, operationSlots: Int = 4096, streamSlots: Int = 256,
    buffers: BufferPoolSizes = BufferPoolSizes()
  ) {
    self.engine = engine
    self.operationSlots = operationSlots
    self.streamSlots = streamSlots
    self.buffers = buffers
  }
}
