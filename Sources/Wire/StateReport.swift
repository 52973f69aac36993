/// What a replica tells its peer about itself before the two decide who is right.
///
/// ```
///  0-7  volume bytes, 0 while there is no disk
///  8    disk state: 0 Diskless, 1 Inconsistent, 2 Outdated, 3 Consistent, 4 UpToDate
///  9    role: 1 Primary, 2 Secondary (DRBD's numbers)
/// 10    flags: bit 0 crashed, bit 1 was Primary before the crash, bit 2 has a base,
///       bit 3 the whole slot counts as set, bit 4 its data may be discarded, bit 5 asks only,
///       bit 6 a repair was cut, bit 7 a Primary whose clients use the receiver's data
/// 11    generations, 0 ... 32
/// 12    after-sb-0pri   13 after-sb-1pri   14 rr-conflict   15 after-sb-2pri
/// 16-23 blocks out of sync
/// 24-47 base, a generation; 0 without one
/// 48-   generations of 24 bytes, oldest first: 0-7 number, 8-15 id, 16 author,
///       17 bit 0 its author was Primary before, 18-19 0, 20-23 seconds since 1970
/// ```
public import BlockTypes

/// DRBD's roles.
public enum Role: UInt8, Sendable, BitwiseCopyable, CaseIterable {
  case unknown = 0
  case primary = 1
  case secondary = 2
}

/// DRBD's disk states, ordered as DRBD orders them.
public enum DiskState: UInt8, Sendable, BitwiseCopyable, CaseIterable {
  case diskless = 0
  case inconsistent = 1
  case outdated = 2
  case consistent = 3
  case upToDate = 4
  /// The state of a peer's disk that cannot be seen.
  case unknown = 5
  /// An I/O error was seen; Diskless follows.
  case failed = 6
}

/// What a replica tells its peer about itself.
public struct StateReport: Equatable, Sendable {
  /// Bytes of the volume; 0 without a disk.
  public var volumeBytes: UInt64
  /// How good the data is.
  public var disk: DiskState
  /// Primary or Secondary.
  public var role: Role
  /// The replica was found dirty at attach and has not met its peer since.
  public var crashed = false
  /// It was Primary when it crashed.
  public var wasPrimary = false
  /// What the bitmap slot for the receiver counts from; `nil`: the receiver shares all there is.
  ///
  /// Outside the blocks that are set, the data agrees with the receiver's as of this generation:
  /// - a replica that went on without the receiver: the last generation that both shared;
  /// - an Inconsistent one: the generation of its source that it has once they are copied.
  public var base: Generation?
  /// Blocks set in the slot for the receiver.
  public var outOfSyncBlocks: UInt64 = 0
  /// All blocks count as set, whatever the slot says: never synced, invalidated or damaged.
  public var isFull = false
  /// The administrator gives up what the receiver lacks (`connect --discard-my-data`).
  public var discardMyData = false
  /// The administrator only wants to know the decision (`connect --tentative`).
  public var isTentative = false
  /// A repair from a side that the administrator named was cut: neither side's data counts more.
  public var repairWasCut = false
  /// A Primary without good data of its own: what its clients saw last is the receiver's data, or
  /// what this node checks against it.
  public var usesPeerData = false
  /// What the configuration decides on its own.
  public var policy = ConflictPolicy()
  /// The generations of the data.
  public var lineage = Lineage()

  /// Joins the parts.
  public init(volumeBytes: UInt64, disk: DiskState, role: Role) {
    self.volumeBytes = volumeBytes
    self.disk = disk
    self.role = role
  }

  /// Went on without the receiver, which may lack writes of the newest generation.
  public var holdsUnshared: Bool { base != nil && disk != .inconsistent }

  /// Bytes in front of the generations.
  private static let fixedBytes = 48

  /// Writes the payload and returns its length.
  @safe
  public func encode(into bytes: UnsafeMutableRawBufferPointer) -> Int {
    var writer = unsafe ByteWriter(bytes)
    writer.put(volumeBytes)
    writer.put(disk.rawValue)
    writer.put(role.rawValue)
    writer.put(flagBits)
    writer.put(UInt8(lineage.generations.count))
    writer.put(policy.noPrimary.rawValue)
    writer.put(policy.onePrimary.rawValue)
    writer.put(policy.primaryIsTarget.rawValue)
    writer.put(policy.twoPrimaries.rawValue)
    writer.put(outOfSyncBlocks)
    if let base {
      writer.put(base)
    } else {
      for _ in 0..<3 { writer.put(0 as UInt64) }
    }
    for generation in lineage.generations { writer.put(generation) }
    return writer.position
  }

  private var flagBits: UInt8 {
    var flags: UInt8 = 0
    if crashed { flags |= 1 }
    if wasPrimary { flags |= 2 }
    if base != nil { flags |= 4 }
    if isFull { flags |= 8 }
    if discardMyData { flags |= 16 }
    if isTentative { flags |= 32 }
    if repairWasCut { flags |= 64 }
    if usesPeerData { flags |= 128 }
    return flags
  }

  /// Parses a whole payload.
  @safe
  public init(parsing bytes: UnsafeRawBufferPointer) throws(WireError) {
    guard bytes.count >= Self.fixedBytes else {
      throw .truncated(have: bytes.count, need: Self.fixedBytes)
    }
    let reader = unsafe ByteReader(bytes)
    let volumeBytes = reader.uint64(at: 0)
    guard volumeBytes % blockSize == 0 else {
      throw .fieldOutOfRange(.volumeBytes, volumeBytes)
    }
    let diskValue = reader.uint8(at: 8)
    guard let disk = DiskState(rawValue: diskValue), disk.rawValue <= DiskState.upToDate.rawValue
    else { throw .fieldOutOfRange(.diskState, UInt64(diskValue)) }
    let roleValue = reader.uint8(at: 9)
    guard let role = Role(rawValue: roleValue), role != .unknown else {
      throw .fieldOutOfRange(.role, UInt64(roleValue))
    }
    let flags = reader.uint8(at: 10)
    self.init(volumeBytes: volumeBytes, disk: disk, role: role)
    crashed = flags & 1 != 0
    wasPrimary = flags & 2 != 0
    if flags & 4 != 0 { base = try Self.generation(reader, at: 24) }
    isFull = flags & 8 != 0
    discardMyData = flags & 16 != 0
    isTentative = flags & 32 != 0
    repairWasCut = flags & 64 != 0
    usesPeerData = flags & 128 != 0
    policy = try ConflictPolicy(reader, at: 12)
    outOfSyncBlocks = reader.uint64(at: 16)
    guard outOfSyncBlocks <= volumeBytes / blockSize else {
      throw .fieldOutOfRange(.outOfSyncBlocks, outOfSyncBlocks)
    }
    lineage = try Self.lineage(reader)
  }

  private static func lineage(_ reader: ByteReader) throws(WireError) -> Lineage {
    let count = Int(reader.uint8(at: 11))
    guard count <= Lineage.limit, reader.count == fixedBytes + count * Generation.recordBytes
    else {
      throw .fieldOutOfRange(.lineageCount, UInt64(count))
    }
    var generations: [Generation] = []
    for start in stride(from: fixedBytes, to: reader.count, by: Generation.recordBytes) {
      generations.append(try generation(reader, at: start))
    }
    guard let lineage = Lineage(generations) else {
      throw .fieldOutOfRange(.generationOrder, UInt64(count))
    }
    return lineage
  }

  private static func generation(
    _ reader: ByteReader, at start: Int
  ) throws(WireError) -> Generation {
    guard let generation = reader.generation(at: start) else {
      throw .fieldOutOfRange(.nodeID, UInt64(reader.uint8(at: start + 16)))
    }
    guard generation.number <= Lineage.peerNumberLimit else {
      throw .fieldOutOfRange(.generationNumber, generation.number)
    }
    return generation
  }
}
