/// A fixed number of slots for trivial values, with generations.
///
/// Invariants:
/// - capacity is fixed at `init`; `insert` returns `nil` when all slots are taken;
/// - an id is valid from `insert` until `remove`; a stale id traps, it never reaches newer data;
/// - elements are `BitwiseCopyable`, so no reference counting can creep into a slot.
@safe
public struct Slab<Element: BitwiseCopyable>: ~Copyable {
  @usableFromInline let elements: UnsafeMutablePointer<Element>
  @usableFromInline let generations: UnsafeMutablePointer<UInt32>
  /// Links free slots; `taken` marks a slot in use.
  @usableFromInline let nextFree: UnsafeMutablePointer<UInt32>
  @usableFromInline var firstFree: UInt32

  /// Slots in all.
  public let capacity: Int
  /// Slots in use.
  public private(set) var count: Int

  @usableFromInline static var end: UInt32 { .max }
  @usableFromInline static var taken: UInt32 { .max - 1 }

  /// Makes `capacity` slots, all free; `filler` is what an unused slot holds.
  public init(capacity: Int, filler: Element) {
    precondition(capacity > 0, "a slab needs a slot")
    precondition(capacity < Int(UInt32.max) - 1, "slot numbers are 32 bits")
    self.capacity = capacity
    self.count = 0
    self.firstFree = 0
    unsafe elements = .allocate(capacity: capacity)
    unsafe elements.initialize(repeating: filler, count: capacity)
    unsafe generations = .allocate(capacity: capacity)
    unsafe generations.initialize(repeating: 1, count: capacity)
    unsafe nextFree = .allocate(capacity: capacity)
    for slot in 0..<capacity {
      unsafe (nextFree + slot).initialize(
        to: slot + 1 < capacity ? UInt32(slot + 1) : Self.end)
    }
  }

  deinit {
    unsafe elements.deallocate()
    unsafe generations.deallocate()
    unsafe nextFree.deallocate()
  }

  /// Takes a free slot; `nil` when there is none.
  public mutating func insert(_ element: Element) -> SlotID? {
    guard firstFree != Self.end else { return nil }
    let slot = firstFree
    unsafe firstFree = nextFree[Int(slot)]
    unsafe nextFree[Int(slot)] = Self.taken
    unsafe elements[Int(slot)] = element
    count += 1
    return unsafe SlotID(slot: slot, generation: generations[Int(slot)])
  }

  /// Frees the slot of `id`, which must be valid.
  public mutating func remove(_ id: SlotID) {
    check(id)
    let slot = Int(id.slot)
    let generation = unsafe generations[slot]
    unsafe generations[slot] = generation &+ 1
    unsafe nextFree[slot] = firstFree
    firstFree = id.slot
    count -= 1
  }

  /// Whether `id` names a slot that is in use by the one it was given to.
  public func contains(_ id: SlotID) -> Bool {
    guard Int(id.slot) < capacity else { return false }
    let slot = Int(id.slot)
    guard unsafe nextFree[slot] == Self.taken else { return false }
    return unsafe generations[slot] == id.generation
  }

  /// The value in the slot of `id`, which must be valid.
  public subscript(id: SlotID) -> Element {
    get {
      check(id)
      return unsafe elements[Int(id.slot)]
    }
    set {
      check(id)
      unsafe elements[Int(id.slot)] = newValue
    }
  }

  /// The id of the element in slot number `slot`, or `nil` when that slot is free. For walks.
  public func id(at slot: Int) -> SlotID? {
    precondition(slot < capacity, "slot \(slot) of \(capacity)")
    guard unsafe nextFree[slot] == Self.taken else { return nil }
    return unsafe SlotID(slot: UInt32(slot), generation: generations[slot])
  }

  @inline(__always)
  private func check(_ id: SlotID) {
    precondition(Int(id.slot) < capacity, "slot number outside the slab")
    precondition(unsafe nextFree[Int(id.slot)] == Self.taken, "slot is free")
    precondition(unsafe generations[Int(id.slot)] == id.generation, "stale slot id")
  }
}
