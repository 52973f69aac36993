/// Bringing up what was up when the daemon starts: none waits for another, and nothing for ever.
///
/// What a machine that has just started lacks may come: an address, a disk of a SAN. What failed
/// for want of it is tried again until it is up, or until an administrator takes it down. A killed
/// predecessor lets go of its disks and addresses within moments, so the first attempts follow each
/// other fast; none of them waits itself, as that would hold up every volume of the node.
///
/// What must hold: at most `atATimeMax` disks are being attached at a time, so that each reads its
/// metadata in large pieces, unless those before them have not answered in time.
import BlockIO
import Configuration
import Control
import Foundation

/// What is brought up at the start, and what of it is not up yet.
final class Restoration: @unchecked Sendable {
  // Unchecked: everything that changes is touched with `condition` locked.
  private let condition = NSCondition()
  private var entries: [Entry]
  private var atATimeMax = Restoration.atATimeMax
  private let mailbox: Mailbox<NodeMessage>
  private let log: LogQueue

  /// One resource that is to be up.
  private struct Entry {
    var wanted: NodeMessage.Restored
    /// The node was asked and has not answered.
    var isAsked = false
    var wasAnswered = false
    var dueAt = Date.distantPast
    var pauseSeconds = 0.05
    /// How long it counts as coming up, whatever the attempts end with.
    let hopedForUntil = Date(timeIntervalSinceNow: 1)
    /// What the last attempt ended with: said once, not with each attempt.
    var said: [String] = []

    var name: String { wanted.configuration.name }
  }

  /// How long the daemon's start waits for disks.
  static let patienceSeconds = 10.0
  /// Disks that are attached at a time: as many as may read pieces of 1 MiB, see `MetadataLoading`.
  static let atATimeMax = 32
  /// The longest pause between two attempts.
  static let pauseSecondsMax = 30.0

  init(_ wanted: [NodeMessage.Restored], _ mailbox: Mailbox<NodeMessage>, _ log: LogQueue) {
    entries = wanted.map { Entry(wanted: $0) }
    self.mailbox = mailbox
    self.log = log
  }

  /// Whether everything is up, or cannot be.
  var isDone: Bool { condition.withLock { entries.isEmpty } }

  /// Asks for what is due, as many as may be attached at a time.
  func begin() {
    // Posted under the lock: a `down` that `forget` precedes is then behind it in the mailbox.
    let unposted = condition.withLock {
      takeDue().filter { wanted in
        let name = wanted.configuration.name
        return !mailbox.post(.restore(wanted) { reply in self.answered(name, reply) })
      }
    }
    for wanted in unposted {
      answered(
        wanted.configuration.name,
        ControlReply(exitCode: 20, standardError: ["too many requests"]))
    }
  }

  private func takeDue() -> [NodeMessage.Restored] {
    var asked = entries.count(where: \.isAsked)
    let now = Date()
    var due: [NodeMessage.Restored] = []
    for index in entries.indices where !entries[index].isAsked && entries[index].dueAt <= now {
      guard asked < atATimeMax else { break }
      asked += 1
      entries[index].isAsked = true
      due.append(entries[index].wanted)
    }
    return due
  }

  /// Waits until all have been brought up or have failed, but no longer than `seconds` and not when
  /// the end was asked for.
  func wait(seconds: Double, unless isStopping: () -> Bool) {
    let deadline = Date(timeIntervalSinceNow: seconds)
    while Date() < deadline, !isStopping() {
      begin()
      let isAnswered = condition.withLock {
        // Short, because nobody says here that the end was asked for.
        if !allAnswered { _ = condition.wait(until: Date(timeIntervalSinceNow: 0.05)) }
        return allAnswered
      }
      if isAnswered { return }
    }
    guard !isStopping() else { return }
    let late = condition.withLock {
      atATimeMax = .max
      return entries.filter { $0.isAsked && !$0.wasAnswered }.map(\.name).sorted()
    }
    for name in late {
      log.write(.warning, "\(name): its disk has not answered yet; going on without it")
    }
    begin()
  }

  private var allAnswered: Bool { entries.allSatisfy(\.wasAnswered) }

  /// The administrator takes it down, up or not: it is not asked for any more.
  func forget(_ name: String) {
    condition.withLock { entries.removeAll { $0.name == name } }
  }

  /// On the reactor's thread.
  private func answered(_ name: String, _ reply: ControlReply) {
    let lines = condition.withLock { () -> [String] in
      defer { condition.broadcast() }
      guard let index = entries.firstIndex(where: { $0.name == name }) else {
        return reply.standardError
      }
      guard reply.mayChange else {
        entries.remove(at: index)
        // The administrator was faster.
        return reply.refusal == Refusal.resourceExists.code ? [] : reply.standardError
      }
      entries[index].isAsked = false
      entries[index].dueAt = Date(timeIntervalSinceNow: entries[index].pauseSeconds)
      entries[index].pauseSeconds = min(2 * entries[index].pauseSeconds, Self.pauseSecondsMax)
      guard Date() >= entries[index].hopedForUntil else { return [] }
      entries[index].wasAnswered = true
      guard entries[index].said != reply.standardError else { return [] }
      entries[index].said = reply.standardError
      return reply.standardError + ["it is tried again until it is up or taken down"]
    }
    for line in lines { log.write(.error, "\(name): \(line)") }
  }
}

extension ControlReply {
  /// Whether the same request may succeed later without anything done to this node: an address or
  /// a disk that comes late, a buffer that is free again.
  fileprivate var mayChange: Bool {
    let codes = [
      Refusal.localAddressInUse, .localAddressMissing, .cannotOpenDisk, .metadataReadError,
      .transient,
    ].map(\.code)
    return refusal.map(codes.contains) ?? (exitCode == 20)
  }
}
