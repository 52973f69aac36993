/// The log, away from the reactor's thread.
import Foundation
import Logging

/// Writes log lines away from the reactor's thread: a slow terminal must not delay I/O.
///
/// Bounded: when nobody reads the log, lines are left out and counted, and nothing else waits.
final class LogQueue: @unchecked Sendable {
  // Unchecked: the counters are touched with `lock` held.
  private let logger: Logger
  private let worker = Worker(name: "log")
  private let lock = NSLock()
  private var waiting = 0
  private var lost = 0

  /// Lines that may wait: some seconds of a node where everything goes wrong.
  private static let limit = 4096

  init(logger: Logger) { self.logger = logger }

  func write(_ severity: LogSeverity, _ line: String) {
    let fits = lock.withLock {
      guard waiting < Self.limit else {
        lost += 1
        return false
      }
      waiting += 1
      return true
    }
    guard fits else { return }
    worker.add { self.emit(severity, line) }
  }

  private func emit(_ severity: LogSeverity, _ line: String) {
    switch severity {
    case .info: logger.info("\(line)")
    case .warning: logger.warning("\(line)")
    case .error: logger.error("\(line)")
    }
    let left = lock.withLock {
      waiting -= 1
      defer { lost = 0 }
      return lost
    }
    if left > 0 { logger.warning("\(left) lines of the log were left out: nobody read them") }
  }

  /// Waits, for a moment, until the last lines are out.
  func flush() { worker.finish(within: 1) }
}
