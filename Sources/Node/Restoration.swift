/// Bringing up what was up when the daemon starts: none waits for another, and nothing for ever.
///
/// What must hold: `begin` and `wait` are called by one thread; at most `atATimeMax` disks are
/// being attached at a time, because each takes a buffer of 1 MiB from the node's pool, unless
/// those before them have not answered in time.
import BlockIO
import Configuration
import Control
import Foundation

/// What is brought up at the start, and what of it has not been answered.
final class Restoration: @unchecked Sendable {
  // Unchecked: `unanswered` is touched with `condition` locked, the rest by one thread.
  private let condition = NSCondition()
  private var unanswered: Set<String> = []
  private var left: ArraySlice<NodeMessage.Restored>
  private let mailbox: Mailbox<NodeMessage>
  private let log: LogQueue

  /// How long the daemon's start waits for disks.
  static let patienceSeconds = 10.0
  /// Disks that are attached at a time: half of the pool's buffers of 1 MiB.
  static let atATimeMax = 32

  init(_ wanted: [NodeMessage.Restored], _ mailbox: Mailbox<NodeMessage>, _ log: LogQueue) {
    left = wanted[...]
    self.mailbox = mailbox
    self.log = log
  }

  /// Asks for as many as may be attached at a time.
  func begin() {
    while !left.isEmpty, condition.withLock({ unanswered.count }) < Self.atATimeMax { beginNext() }
  }

  /// Waits until all have been brought up or have failed, but no longer than `seconds` and not when
  /// the end was asked for.
  func wait(seconds: Double, unless isStopping: () -> Bool) {
    let deadline = Date(timeIntervalSinceNow: seconds)
    while Date() < deadline, !isStopping() {
      begin()
      let isDone = condition.withLock {
        // Short, because nobody says here that the end was asked for.
        if !unanswered.isEmpty { _ = condition.wait(until: Date(timeIntervalSinceNow: 0.05)) }
        return unanswered.isEmpty
      }
      if isDone, left.isEmpty { return }
    }
    guard !isStopping() else { return }
    let late = condition.withLock { unanswered.sorted() }
    for name in late {
      log.write(.warning, "\(name): its disk has not answered yet; going on without it")
    }
    while !left.isEmpty { beginNext() }
  }

  private func beginNext() {
    guard let next = left.popFirst() else { return }
    let name = next.configuration.name
    condition.withLock { _ = unanswered.insert(name) }
    let posted = mailbox.post(.restore(next) { reply in self.answered(name, reply) })
    if !posted { answered(name, ControlReply(exitCode: 20, standardError: ["too many requests"])) }
  }

  /// On the reactor's thread.
  private func answered(_ name: String, _ reply: ControlReply) {
    for line in reply.standardError { log.write(.error, "\(name): \(line)") }
    condition.withLock {
      unanswered.remove(name)
      condition.broadcast()
    }
  }
}
