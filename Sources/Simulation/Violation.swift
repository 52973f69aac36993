/// A promise that was broken, in words that name what, where and when.

/// The promises that are checked. Names follow the design's P1 to P7 where one exists.
package enum Oracle: String, CaseIterable, Sendable {
  /// P1: an acknowledged write or flush is where it must be.
  case durability
  /// P2: a replica that calls itself UpToDate has what it must have.
  case proof
  /// P3: acknowledged writes are not thrown away without an operator.
  case divergence
  /// P4: one Primary among connected nodes.
  case oneWriter
  /// P5: when faults end, everything comes together.
  case convergence
  /// P6: a read returns the last acknowledged write or a concurrent one.
  case coherence
  /// P7: metadata is the old or the new value.
  case metadata
  /// Every request is completed exactly once.
  case completion
  /// Every buffer goes back exactly once.
  case buffers
  /// Promotion without force is refused where acknowledged writes are missing.
  case promotion
  /// Two correct nodes never see a protocol error.
  case conduct
  /// What a victim gives up is kept first, unless the administrator declines.
  case undo
  /// A verify finds what differs, and nothing else.
  case verify
  /// Nothing spins and nothing hangs.
  case progress
}

/// A broken promise.
package struct Violation: Equatable, Sendable, CustomStringConvertible {
  /// Which promise.
  package let oracle: Oracle
  /// What happened.
  package let text: String
  /// When, in virtual nanoseconds.
  package let time: UInt64

  package var description: String { "\(oracle.rawValue) at \(seconds(time)): \(text)" }
}

/// Virtual time for people.
package func seconds(_ nanoseconds: UInt64) -> String {
  let whole = nanoseconds / 1_000_000_000
  let micro = String(nanoseconds / 1_000 % 1_000_000)
  return "\(whole).\(String(repeating: "0", count: 6 - micro.utf8.count))\(micro)s"
}
