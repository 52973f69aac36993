internal import BlockTypes

/// One disk operation, accept or connect, from the call until its completion is delivered.
@safe
struct Operation: BitwiseCopyable {
  enum Kind: UInt8 {
    case read
    case write
    case durableWrite
    case flush
    case discard
    /// Write-zeroes by giving space back, by marking the range, and by writing zeroes: each is what
    /// comes after the one before was refused.
    case zeroesByPunching
    case zeroesByMarking
    case zeroesByWriting
    case accept
    case connect
  }

  /// How a transfer reaches the disk.
  enum Way: UInt8 {
    case undecided
    /// With the kernel asked to refuse what would have to wait.
    case asking
    /// Whatever it takes, because the kernel cannot be asked.
    case plain
    /// By a thread that may wait, because the kernel refused.
    case helper
  }

  var kind: Kind
  var way = Way.undecided
  /// Whether the owner cancelled it: an interruption is then its end.
  var isCancelled = false
  /// Results without progress in a row (EINTR, EAGAIN): bounded, so that none goes on for ever.
  var stalls: UInt16 = 0
  var descriptor: Int32
  /// Held until the completion; `.none` for operations without payload.
  var buffer: BufferID = .none
  /// Bytes of the whole request, which a successful transfer reports.
  var total: UInt32 = 0
  /// Where the next byte goes to or comes from; for a connect, the address.
  var memory: UnsafeMutableRawPointer?
  var offset: UInt64 = 0
  var remaining: UInt64 = 0
  var userTag: UInt64

  init(kind: Kind, descriptor: Int32, userTag: UInt64) {
    self.kind = kind
    self.descriptor = descriptor
    self.userTag = userTag
    unsafe memory = nil
  }
}

/// A fixed number of operations, changed in place.
///
/// Invariants: as those of `Slab`: a slot is taken from `insert` until `remove`, and each use of a
/// slot has its own generation, so that a late completion cannot be taken for a newer operation's.
@safe
struct OperationTable: ~Copyable {
  private let operations: UnsafeMutablePointer<Operation>
  private let generations: UnsafeMutablePointer<UInt32>
  private let nextFree: UnsafeMutablePointer<UInt32>
  private var firstFree: UInt32
  let capacity: Int
  private(set) var count = 0

  private static var taken: UInt32 { .max - 1 }

  init(capacity: Int) {
    precondition(capacity > 0, "a reactor without operation slots can do nothing")
    precondition(capacity <= TagKind.slotLimit, "more operation slots than a tag can name")
    self.capacity = capacity
    unsafe operations = .allocate(capacity: capacity)
    unsafe generations = .allocate(capacity: capacity)
    unsafe nextFree = .allocate(capacity: capacity)
    unsafe generations.initialize(repeating: 1, count: capacity)
    for slot in 0..<capacity {
      unsafe (nextFree + slot).initialize(to: slot + 1 < capacity ? UInt32(slot + 1) : .max)
    }
    firstFree = 0
  }

  deinit {
    unsafe operations.deallocate()
    unsafe generations.deallocate()
    unsafe nextFree.deallocate()
  }

  /// Takes a slot. Running out means that the owner went beyond the depth it had asked for.
  @inline(__always)
  mutating func insert(_ operation: Operation) -> UInt32 {
    let slot = firstFree
    precondition(slot != .max, "operation slots exhausted: the owner exceeded its depth")
    unsafe firstFree = nextFree[Int(slot)]
    unsafe nextFree[Int(slot)] = Self.taken
    unsafe (operations + Int(slot)).initialize(to: operation)
    count += 1
    return slot
  }

  /// Frees a taken slot.
  @inline(__always)
  mutating func remove(_ slot: UInt32) {
    precondition(isTaken(slot), "freeing an operation twice")
    let generation = unsafe generations[Int(slot)]
    unsafe generations[Int(slot)] = generation &+ 1
    unsafe nextFree[Int(slot)] = firstFree
    firstFree = slot
    count -= 1
  }

  @inline(__always)
  func isTaken(_ slot: UInt32) -> Bool {
    guard Int(slot) < capacity else { return false }
    return unsafe nextFree[Int(slot)] == Self.taken
  }

  /// The kernel's tag for the operation in `slot`.
  @inline(__always)
  func kernelTag(_ slot: UInt32) -> UInt64 {
    unsafe TagKind.operation.tag(slot: slot, generation: generations[Int(slot)])
  }

  /// Whether `id` names the operation that is in its slot now.
  @inline(__always)
  func contains(_ id: SlotID) -> Bool {
    guard isTaken(id.slot) else { return false }
    return unsafe generations[Int(id.slot)] == id.generation
  }

  /// The operation in a taken slot, in place.
  @unsafe @inline(__always)
  func pointer(_ slot: UInt32) -> UnsafeMutablePointer<Operation> {
    precondition(isTaken(slot), "no operation in this slot")
    return unsafe operations + Int(slot)
  }
}
