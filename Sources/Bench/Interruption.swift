internal import Glibc
internal import Synchronization

/// SIGINT and SIGTERM end a load early, with its figures and its checks; a second one ends the
/// program at once.
///
/// The handler only sets a flag. The signal also interrupts the reactor's wait, so the loop sees
/// the flag at once and needs no timer.
enum Interruption {
  private static let flag = Atomic<Bool>(false)

  /// Whether a load should end.
  static var isRequested: Bool { flag.load(ordering: .relaxed) }

  /// Whether a load was asked to end; forgets that it was.
  static func take() -> Bool { flag.exchange(false, ordering: .relaxed) }

  /// Starts to listen. A parent may have left the signals blocked.
  static func watch() {
    // Also makes the flag: a handler is no place for its first use.
    _ = take()
    var action = sigaction()
    unsafe action.__sigaction_handler.sa_handler = { _ in
      Interruption.flag.store(true, ordering: .relaxed)
    }
    // Back to the default, which ends the program, after the first.
    action.sa_flags = Int32(bitPattern: UInt32(SA_RESETHAND))
    var signals = sigset_t()
    _ = unsafe sigemptyset(&signals)
    for signal in [SIGINT, SIGTERM] {
      _ = unsafe sigaction(signal, &action, nil)
      _ = unsafe sigaddset(&signals, signal)
    }
    _ = unsafe pthread_sigmask(SIG_UNBLOCK, &signals, nil)
  }
}
