public import BlockIO

/// What stops a benchmark. Printed once, by the program.
public enum BenchError: Error, Equatable, Sendable, CustomStringConvertible {
  /// An option has a value that cannot be; `allowed` says what can.
  case badValue(option: String, value: String, allowed: String)
  /// The target's text names nothing.
  case badTarget(String, reason: String)
  /// The load writes, and the user has not said that the data there may be lost.
  case wouldDestroyData(target: String)
  /// The target cannot do what the load needs.
  case unsupported(target: String, reason: String)
  /// A backing disk could not be opened.
  case device(BlockDeviceError)
  /// A system call failed.
  case system(SystemError)
  /// The NBD server broke the protocol or refused.
  case server(target: String, NBDError)
  /// The connection ended while it was needed; errno, or 0 when the server closed it.
  case connectionLost(target: String, errno: Int32)
  /// An I/O was answered with an error.
  case ioFailed(target: String, operation: String, offset: UInt64, length: UInt32, reason: String)
  /// I/Os were not answered for so long that waiting on makes no sense.
  case stalled(target: String, inFlight: Int, seconds: UInt64)
  /// The helper process of a ping-pong is gone.
  case helperFailed(reason: String)
  /// A write log does not belong to this load, or is damaged.
  case badLog(path: String, reason: String)

  /// One line that says what happened, to what, and where it helps, what to do.
  public var description: String {
    switch self {
    case .badValue(let option, let value, let allowed):
      return "\(option) \(value) is not possible: \(allowed)"
    case .badTarget(let target, let reason): return "target '\(target)': \(reason)"
    case .wouldDestroyData(let target):
      return "this load overwrites data on \(target); if nothing there is needed, "
        + "repeat the command with --destroy-data"
    case .unsupported(let target, let reason): return "\(target): \(reason)"
    case .device(let error): return "\(error)"
    case .system(let error): return "\(error)"
    case .server(let target, let error): return "\(target): \(error)"
    case .connectionLost(let target, let errno):
      let reason = errno == 0 ? "the server closed the connection" : errnoText(errno)
      return "\(target): connection lost: \(reason)"
    case .ioFailed(let target, let operation, let offset, let length, let reason):
      return "\(target): \(operation) of \(length) bytes at \(offset) failed: \(reason)"
    case .stalled(let target, let inFlight, let seconds):
      return "\(target): \(inFlight) I/Os unanswered for \(seconds) s"
    case .helperFailed(let reason): return "ping-pong helper process: \(reason)"
    case .badLog(let path, let reason): return "write log \(path): \(reason)"
    }
  }
}
