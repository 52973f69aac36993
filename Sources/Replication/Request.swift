/// One operation under way, whoever asked for it, and the ranges that are busy.
import BlockTypes
import Wire

/// Who asked for a request, which decides what its end means.
enum Origin: UInt8, BitwiseCopyable {
  case client
  /// A peer's replicated write, applied here.
  case peer
  /// Target: asked the source for a range; becomes `resyncApply` with the data.
  case resyncPull
  case resyncApply
  /// Source: reads a range for the target; the range stays locked until the target wrote it.
  case resyncServe
  /// Target: makes digests of a range that may be equal after all, and waits for the source's word.
  case resyncCompare
  /// Source: compares a range with the target's digests; the range is locked until it has.
  case resyncCheck
  /// Compares a range with the peer's digests of it.
  case verify
  /// Makes digests of a range for the peer.
  case verifyServe
  /// Asked for a range that a repair replaces; becomes `repairApply` with the data.
  case repairPull
  case repairApply
  /// Reads a range for a repair of the peer's.
  case repairServe
  /// Reads a range for a Primary that cannot read it itself.
  case peerRead
  case handshakeFlush
  case commandFlush
  case syncDoneFlush
  case cleanFlush
  /// Before extents leave the activity log.
  case logFlush
  /// The disk was given up before it answered: only that answer is waited for.
  case abandoned
}

/// One operation under way.
///
/// Invariants:
/// - `holdsRange` is true exactly while the range is in `ActiveRanges`;
/// - a client write is finished when `isLocalPending` is false and `pendingPeers` is empty;
/// - a peer that will not get the write is in `missedPeers`.
struct Request: BitwiseCopyable {
  enum Phase: UInt8, BitwiseCopyable {
    /// In `waiting`.
    case waiting
    /// In `waitingLog`.
    case waitingLog
    case active
    /// In `waitingBase`: done, but the record that a peer lacks it is not durable.
    case waitingBase
  }

  var origin: Origin
  var operation: Operation
  var phase = Phase.waiting
  var forceUnitAccess = false
  var mayUnmap = false
  var isLocalPending = false
  var holdsRange = false
  /// Its extents are held in the activity log.
  var holdsLog = false
  /// Of a range that is compared: this node keeps it locked until it is done with.
  var isLockedHere = false
  var failed = false
  /// The connection it came from or was sent to is gone; only the disk is waited for.
  var isOrphaned = false
  /// The disk was given up before it answered, and may answer yet: the slot stays taken.
  var isAbandoned = false
  /// What a read got from the peer is being written over the block that could not be read.
  var isRepair = false
  /// A change was given to the own disk.
  var wroteHere = false
  var peer: UInt8 = 0
  /// What the digests in the buffer of a `resyncCheck` are made with.
  var algorithm = DigestAlgorithm.crc32c
  var range: ByteRange
  var buffer = BufferID.none
  /// The client's tag, or the id the peer chose.
  var tag: UInt64
  var connection = ConnectionID(0)
  var pendingPeers = PeerSet()
  var missedPeers = PeerSet()
  /// Peers that have written it.
  var ackedPeers = PeerSet()
  /// When the disk was asked.
  var diskBegan = Instant(nanoseconds: 0)

  /// Whether its end says that the disk has it on stable storage. Where that fails, the disk may
  /// have let go of other writes, too.
  var isDurable: Bool { operation == .flush || operation.changesData && forceUnitAccess }

  /// Whether a source reads it for its target: it rests while clients are active.
  var isForResync: Bool { origin == .resyncServe || origin == .resyncCheck }

  static var filler: Request {
    Request(.client, .flush, ByteRange(start: 0, end: 0), tag: 0)
  }

  init(_ origin: Origin, _ operation: Operation, _ range: ByteRange, tag: UInt64) {
    self.origin = origin
    self.operation = operation
    self.range = range
    self.tag = tag
  }
}

/// The ranges that requests under way change or serve. An overlapping one waits.
///
/// A plain list: with tens of requests in flight a scan is a few nanoseconds an entry and needs no
/// rebalancing; the limits of `ReplicaOptions` bound it.
@safe
struct ActiveRanges: ~Copyable {
  private let ranges: UnsafeMutablePointer<ByteRange>
  private let owners: UnsafeMutablePointer<UInt32>
  private let capacity: Int
  private(set) var count = 0

  init(capacity: Int) {
    self.capacity = capacity
    unsafe ranges = .allocate(capacity: capacity)
    unsafe owners = .allocate(capacity: capacity)
  }

  deinit {
    unsafe ranges.deallocate()
    unsafe owners.deallocate()
  }

  mutating func insert(_ range: ByteRange, owner: SlotID) {
    precondition(count < capacity, "more active ranges than requests")
    unsafe (ranges + count).initialize(to: range)
    unsafe (owners + count).initialize(to: owner.slot)
    count += 1
  }

  mutating func remove(owner: SlotID) {
    for index in 0..<count where unsafe owners[index] == owner.slot {
      count -= 1
      unsafe ranges[index] = ranges[count]
      unsafe owners[index] = owners[count]
      return
    }
    preconditionFailure("the request held no range")
  }

  func overlaps(_ range: ByteRange) -> Bool {
    for index in 0..<count where unsafe ranges[index].overlaps(range) { return true }
    return false
  }
}
