/// A fixed number of elements that are changed in place, without uniqueness checks.
@safe
public struct FixedArray<Element: ~Copyable>: ~Copyable {
  private let elements: UnsafeMutablePointer<Element>
  /// Elements in all.
  public let count: Int

  /// Makes `count` elements from `make(index)`.
  public init(count: Int, _ make: (Int) -> Element) {
    precondition(count >= 0, "a negative count")
    self.count = count
    unsafe elements = .allocate(capacity: max(count, 1))
    for index in 0..<count { unsafe (elements + index).initialize(to: make(index)) }
  }

  deinit {
    unsafe elements.deinitialize(count: count)
    unsafe elements.deallocate()
  }

  /// The element at `index`, in place.
  public subscript(index: Int) -> Element {
    _read {
      precondition(index >= 0 && index < count, "index outside the array")
      yield unsafe elements[index]
    }
    _modify {
      precondition(index >= 0 && index < count, "index outside the array")
      yield unsafe &elements[index]
    }
  }
}
