/// Virtual time: what happens next, and a running hash of everything that happened.
///
/// Invariants:
/// - events leave in the order (time, sequence of scheduling), so equal times are never a matter of
///   chance;
/// - the clock never goes back, and nothing can be scheduled in the past.
package struct EventQueue<Event> {
  private struct Entry {
    let time: UInt64
    let sequence: UInt64
    let event: Event

    func precedes(_ other: Entry) -> Bool {
      time != other.time ? time < other.time : sequence < other.sequence
    }
  }

  private var heap: [Entry] = []
  private var scheduled: UInt64 = 0
  /// The virtual time, in nanoseconds: that of the last event that was taken.
  package private(set) var now: UInt64 = 0

  /// An empty queue at time 0.
  package init() {}

  /// Events that wait.
  package var count: Int { heap.count }

  /// When the next event is due; `nil` when none waits.
  package var nextTime: UInt64? { heap.first?.time }

  /// Lets `event` happen at `time`, or now when that is past.
  package mutating func schedule(at time: UInt64, _ event: Event) {
    heap.append(Entry(time: max(time, now), sequence: scheduled, event: event))
    scheduled += 1
    siftUp(heap.count - 1)
  }

  /// Takes the next event and moves the clock to it.
  package mutating func pop() -> Event? {
    guard let first = heap.first else { return nil }
    let last = heap.removeLast()
    if !heap.isEmpty {
      heap[0] = last
      siftDown(0)
    }
    precondition(first.time >= now, "time went back")
    now = first.time
    return first.event
  }

  /// Moves the clock to `time`, before which nothing is due.
  package mutating func advance(to time: UInt64) {
    precondition(nextTime.map { $0 >= time } ?? true, "events would be passed over")
    now = max(now, time)
  }

  private mutating func siftUp(_ start: Int) {
    var child = start
    while child > 0 {
      let parent = (child - 1) / 2
      guard heap[child].precedes(heap[parent]) else { return }
      heap.swapAt(child, parent)
      child = parent
    }
  }

  private mutating func siftDown(_ start: Int) {
    var parent = start
    while true {
      var least = parent
      let left = 2 * parent + 1
      if left < heap.count, heap[left].precedes(heap[least]) { least = left }
      if left + 1 < heap.count, heap[left + 1].precedes(heap[least]) { least = left + 1 }
      if least == parent { return }
      heap.swapAt(parent, least)
      parent = least
    }
  }
}

/// FNV-1a over 64-bit words: two runs with equal hashes delivered the same events.
package struct EventHash: Equatable, Sendable {
  /// The hash so far.
  package private(set) var value: UInt64 = 0xCBF2_9CE4_8422_2325
  /// How many events were folded in.
  package private(set) var events: UInt64 = 0

  /// The hash of nothing.
  package init() {}

  /// Folds one word in.
  package mutating func mix(_ word: UInt64) {
    var rest = word
    for _ in 0..<8 {
      value = (value ^ (rest & 0xFF)) &* 0x0000_0100_0000_01B3
      rest >>= 8
    }
  }

  /// Counts one event, folding its time and a word that tells it from others.
  package mutating func event(at time: UInt64, _ word: UInt64) {
    events += 1
    mix(time)
    mix(word)
  }
}
