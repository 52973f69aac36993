/// Runs the commands of `handlers { }` as DRBD does: through a shell, with DRBD's environment.
///
/// Bounds: one command at a time, 1024 waiting, 60 s each; one that takes longer is killed with all
/// it started. Nothing here runs on the reactor's thread.
import Foundation
import Glibc

/// One call of a handler.
struct HandlerJob: Sendable {
  /// DRBD's name of the handler.
  var name: String
  /// What the configuration says.
  var command: String
  /// Added to the daemon's own environment.
  var environment: [String: String]
  /// What the log calls the peer: `r0 beta`.
  var subject: String
  /// Takes the exit status, on the runner's thread; 128 and more is a signal or no run at all.
  var ended: @Sendable (Int32) -> Void
}

/// Runs handlers one after the other.
final class HandlerRunner: @unchecked Sendable {
  // Unchecked: `waiting` is touched with `lock` held.
  private let log: @Sendable (LogSeverity, String) -> Void
  private let lock = NSLock()
  private var worker: Worker?
  private var waiting = 0

  /// Calls that may wait: every handler of every volume. One that is not run is not harmless:
  /// without `before-resync-target` no resync begins.
  private static let limit = 8 * NodeLoop.volumeLimit
  /// How long one may take: an LVM snapshot or a mail is a matter of seconds.
  private static let patienceSeconds = 60.0
  /// The status of a command that was not run or did not end by itself.
  static let failed: Int32 = 128

  init(log: @escaping @Sendable (LogSeverity, String) -> Void) { self.log = log }

  /// Runs a handler some time soon. Returns at once.
  func run(_ job: HandlerJob) {
    let worker = lock.withLock { () -> Worker? in
      guard waiting < Self.limit else { return nil }
      waiting += 1
      // The thread is made with the first call: most nodes never need it.
      if self.worker == nil { self.worker = Worker(name: "handlers") }
      return self.worker
    }
    guard let worker else {
      log(.error, "\(job.subject): handler \(job.name) not run: \(Self.limit) others wait")
      return job.ended(Self.failed)
    }
    worker.add { [self] in
      log(.info, "\(job.subject): helper command: \(job.name)")
      let status = Self.execute(job)
      lock.withLock { waiting -= 1 }
      log(
        status == 0 ? .info : .warning,
        "\(job.subject): helper command: \(job.name) exit code \(status)")
      job.ended(status)
    }
  }

  /// Waits, for a moment, until the last handlers have ended.
  func finish() { lock.withLock { worker }?.finish(within: 2) }

  private static func execute(_ job: HandlerJob) -> Int32 {
    guard let process = spawn(job) else { return failed }
    let deadline = Date(timeIntervalSinceNow: patienceSeconds)
    while true {
      var status: Int32 = 0
      let ended = unsafe waitpid(process, &status, WNOHANG)
      if ended == process {
        let signal = status & 0x7F
        return signal == 0 ? (status >> 8) & 0xFF : failed + signal
      }
      if ended < 0 && errno != EINTR { return failed }
      if Date() >= deadline {
        Glibc.kill(-process, SIGKILL)
        _ = unsafe waitpid(process, &status, 0)
        return failed + SIGKILL
      }
      usleep(20_000)
    }
  }

  /// Starts `/bin/sh -c command` in a process group of its own. Of the daemon's descriptors it gets
  /// the standard error; all others are closed by the kernel (`O_CLOEXEC`).
  private static func spawn(_ job: HandlerJob) -> pid_t? {
    var actions = unsafe posix_spawn_file_actions_t()
    unsafe posix_spawn_file_actions_init(&actions)
    defer { unsafe posix_spawn_file_actions_destroy(&actions) }
    unsafe posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0)
    unsafe posix_spawn_file_actions_adddup2(&actions, 2, 1)
    var attributes = posix_spawnattr_t()
    unsafe posix_spawnattr_init(&attributes)
    defer { unsafe posix_spawnattr_destroy(&attributes) }
    var signals = sigset_t()
    unsafe sigemptyset(&signals)
    unsafe posix_spawnattr_setsigmask(&attributes, &signals)
    unsafe sigfillset(&signals)
    unsafe posix_spawnattr_setsigdefault(&attributes, &signals)
    let flags = POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF
    unsafe posix_spawnattr_setflags(&attributes, Int16(flags))
    let environment = ProcessInfo.processInfo.environment
      .merging(job.environment) { _, new in new }
    let words = ["/bin/sh", "-c", job.command]
    let variables = environment.map { "\($0.key)=\($0.value)" }
    var process: pid_t = 0
    let error = unsafe withCStrings(words) { words in
      unsafe withCStrings(variables) { variables in
        unsafe posix_spawn(&process, "/bin/sh", &actions, &attributes, words, variables)
      }
    }
    return error == 0 ? process : nil
  }
}

/// Calls `body` with the texts as C has them: an array of pointers that ends with `nil`.
private func withCStrings<Result>(
  _ texts: [String], _ body: ([UnsafeMutablePointer<CChar>?]) -> Result
) -> Result {
  var pointers: [UnsafeMutablePointer<CChar>?] = unsafe []
  for text in texts { unsafe pointers.append(strdup(text)) }
  unsafe pointers.append(nil)
  defer { unsafe pointers.forEach { unsafe free($0) } }
  return unsafe body(pointers)
}
