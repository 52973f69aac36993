internal import BlockIO
internal import BlockTypes
internal import Glibc

/// What a load can be put on: a disk or an NBD export. The load loop is generic over it and is
/// specialised for each, so that an I/O costs no dynamic call.
protocol BlockTarget: ~Copyable {
  /// Its name in messages and reports.
  var name: String { get }
  /// Its size.
  var byteCount: UInt64 { get }

  /// Refuses what the target cannot do, before anything is sent.
  func check(_ workload: Workload) throws(BenchError)

  /// Queues the I/O of a slot, whose phase is `.sent`.
  mutating func submit(_ slot: Int, _ slots: borrowing FixedArray<SlotIO>, _ reactor: inout Reactor)

  /// Takes an event: pushes the slots of finished I/Os, whose phase it makes `.done`.
  mutating func take(
    _ event: ReactorEvent, _ slots: inout FixedArray<SlotIO>, _ reactor: inout Reactor,
    _ done: inout FIFO<UInt32>
  ) throws(BenchError)

  /// Takes leave of the target; nothing is in flight.
  mutating func close(_ reactor: inout Reactor)
}

/// What an I/O does.
enum IOKind: UInt8, Sendable {
  case read
  case write
  case durableWrite
  case flush

  var name: String {
    switch self {
    case .read: "read"
    case .write: "write"
    case .durableWrite: "FUA write"
    case .flush: "flush"
    }
  }
}

/// One place for an I/O: it owns a buffer for as long as the session lives.
struct SlotIO: BitwiseCopyable, Sendable {
  enum Phase: UInt8, Sendable {
    case idle
    /// Waiting for the answer.
    case sent
    /// Answered; the data of a read is arriving.
    case receiving
    /// Finished, not counted yet.
    case done
  }

  var phase = Phase.idle
  var kind = IOKind.read
  /// Changes with each I/O, so that an answer to an earlier one is not taken for this one's.
  var generation: UInt32 = 0
  var length: UInt32 = 0
  var buffer: BufferID
  var offset: UInt64 = 0
  /// The block's number, in units of the load's block size.
  var block: UInt64 = 0
  /// The number of a verified write.
  var sequence: UInt64 = 0
  /// When its latency begins.
  var startNs: UInt64 = 0
}

/// The monotonic clock. The same one as `Reactor.now`.
@inline(__always)
func monotonicNs() -> UInt64 {
  var time = timespec()
  let failed = unsafe clock_gettime(CLOCK_MONOTONIC, &time)
  precondition(failed == 0, "the monotonic clock cannot fail")
  return UInt64(time.tv_sec) * 1_000_000_000 + UInt64(time.tv_nsec)
}
