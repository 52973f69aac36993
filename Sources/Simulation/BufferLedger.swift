/// The buffer pool of one simulated node: contents, and who still holds each buffer.
///
/// Invariants, each reported as a violation by the caller when an answer says so:
/// - a buffer is taken with one holder, and is free when the last one gave it up;
/// - nobody reads, writes, holds or gives up a free buffer;
/// - when nothing is under way, no buffer is taken.
package import BlockTypes

package struct BufferLedger {
  private var contents: [[UInt64]]
  private var holders: [Int]
  private var free: [UInt32]

  /// `count` free buffers.
  package init(count: Int) {
    contents = Array(repeating: [], count: count)
    holders = Array(repeating: 0, count: count)
    free = (0..<UInt32(count)).reversed()
  }

  /// Buffers that somebody holds.
  package var takenCount: Int { contents.count - free.count }

  /// Takes a free buffer with this content and one holder; `nil` when all are taken.
  package mutating func take(_ words: [UInt64]) -> BufferID? {
    guard let index = free.popLast() else { return nil }
    contents[Int(index)] = words
    holders[Int(index)] = 1
    return BufferID(index)
  }

  /// The content, or `nil` when nobody holds the buffer.
  package func words(_ buffer: BufferID) -> [UInt64]? {
    guard isHeld(buffer) else { return nil }
    return contents[Int(buffer.value)]
  }

  /// Changes the content; false when nobody holds the buffer.
  package mutating func fill(_ buffer: BufferID, _ words: [UInt64]) -> Bool {
    guard isHeld(buffer) else { return false }
    contents[Int(buffer.value)] = words
    return true
  }

  /// Adds a holder; false when nobody holds the buffer.
  package mutating func hold(_ buffer: BufferID) -> Bool {
    guard isHeld(buffer) else { return false }
    holders[Int(buffer.value)] += 1
    return true
  }

  /// Gives one holder up; false when nobody holds the buffer.
  package mutating func release(_ buffer: BufferID) -> Bool {
    guard isHeld(buffer) else { return false }
    holders[Int(buffer.value)] -= 1
    if holders[Int(buffer.value)] == 0 {
      contents[Int(buffer.value)] = []
      free.append(buffer.value)
    }
    return true
  }

  private func isHeld(_ buffer: BufferID) -> Bool {
    Int(buffer.value) < contents.count && holders[Int(buffer.value)] > 0
  }
}
