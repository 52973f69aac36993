/// A bounded first-in first-out queue of trivial values.
///
/// Invariant: capacity is fixed at `init` and is a power of two; `push` on a full queue traps, so a
/// caller that can meet a full queue asks `isFull` first.
@safe
public struct FIFO<Element: BitwiseCopyable>: ~Copyable {
  @usableFromInline let elements: UnsafeMutablePointer<Element>
  @usableFromInline let mask: Int
  @usableFromInline var head = 0
  @usableFromInline var tail = 0

  /// Makes a queue for at least `capacity` elements.
  public init(capacity: Int, filler: Element) {
    precondition(capacity > 0, "a queue needs a place")
    var size = 1
    while size < capacity { size *= 2 }
    mask = size - 1
    unsafe elements = .allocate(capacity: size)
    unsafe elements.initialize(repeating: filler, count: size)
  }

  deinit { unsafe elements.deallocate() }

  /// Elements in the queue.
  public var count: Int { tail &- head }
  /// Places in all.
  public var capacity: Int { mask + 1 }
  /// Whether nothing waits.
  public var isEmpty: Bool { head == tail }
  /// Whether a `push` would trap.
  public var isFull: Bool { tail &- head > mask }

  /// Adds at the end.
  public mutating func push(_ element: Element) {
    precondition(!isFull, "queue is full: its bound was computed wrongly")
    unsafe elements[tail & mask] = element
    tail &+= 1
  }

  /// Takes from the front; `nil` when empty.
  public mutating func pop() -> Element? {
    guard head != tail else { return nil }
    let element = unsafe elements[head & mask]
    head &+= 1
    return element
  }

  /// The element at `index` from the front.
  public subscript(index: Int) -> Element {
    get {
      precondition(index >= 0 && index < count, "index outside the queue")
      return unsafe elements[(head &+ index) & mask]
    }
    set {
      precondition(index >= 0 && index < count, "index outside the queue")
      unsafe elements[(head &+ index) & mask] = newValue
    }
  }

  /// Forgets all elements.
  public mutating func removeAll() {
    head = 0
    tail = 0
  }
}
