/// A thread that does one thing after the other.
///
/// Not a dispatch queue, and nothing here is `async`: libdispatch's pool wakes up every second to
/// look after its threads once it was used, and an idle daemon must sleep.
import Foundation

/// A thread that does what it is given, in order, and sleeps otherwise.
final class Worker: @unchecked Sendable {
  // Unchecked: `work` and `isBusy` are touched with `condition` locked.
  private let condition = NSCondition()
  private var work: [@Sendable () -> Void] = []
  private var isBusy = false

  init(name: String) {
    let thread = Thread { [self] in run() }
    thread.name = name
    thread.start()
  }

  /// Adds something to do. Whoever adds bounds how much waits.
  func add(_ item: @escaping @Sendable () -> Void) {
    condition.withLock {
      work.append(item)
      condition.broadcast()
    }
  }

  /// Waits until everything is done, `seconds` at most.
  func finish(within seconds: Double) {
    let deadline = Date(timeIntervalSinceNow: seconds)
    condition.withLock {
      while !work.isEmpty || isBusy {
        guard condition.wait(until: deadline) else { return }
      }
    }
  }

  private func run() {
    while true {
      let items = condition.withLock {
        isBusy = false
        condition.broadcast()
        while work.isEmpty { condition.wait() }
        isBusy = true
        defer { work = [] }
        return work
      }
      for item in items { item() }
    }
  }
}
