/// What a replica tells its peer about itself before the two decide who is right.
///
/// ```
///  0-7  volume bytes, 0 while there is no disk
///  8    disk state: 0 Diskless, 1 Inconsistent, 2 Outdated, 3 Consistent, 4 UpToDate
///  9    role: 1 Primary, 2 Secondary (DRBD's numbers)
/// 10    flags: bit 0 crashed, bit 1 was Primary before the crash, bit 2 holds writes you lack
/// 11    generations, 0 ... 32
/// 12-15 0
/// 16-   generations of 24 bytes, oldest first: number, id, author, 7 bytes 0
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
  /// It went on without the peer: the peer lacks its newest generation.
  public var holdsUnshared = false
  /// The generations of the data.
  public var lineage = Lineage()

  /// Joins the parts.
  public init(volumeBytes: UInt64, disk: DiskState, role: Role) {
    self.volumeBytes = volumeBytes
    self.disk = disk
    self.role = role
  }

  /// Writes the payload and returns its length.
  @safe
  public func encode(into bytes: UnsafeMutableRawBufferPointer) -> Int {
    var writer = unsafe ByteWriter(bytes)
    writer.put(volumeBytes)
    writer.put(disk.rawValue)
    writer.put(role.rawValue)
    writer.put((crashed ? 1 : 0) | (wasPrimary ? 2 : 0) | (holdsUnshared ? 4 : 0) as UInt8)
    writer.put(UInt8(lineage.generations.count))
    writer.put(0 as UInt32)
    for generation in lineage.generations {
      writer.put(generation.number)
      writer.put(generation.id)
      writer.put(generation.author.value)
      writer.put(0 as UInt8)
      writer.put(0 as UInt16)
      writer.put(0 as UInt32)
    }
    return writer.position
  }

  /// Parses a whole payload.
  @safe
  public init(parsing bytes: UnsafeRawBufferPointer) throws(WireError) {
    guard bytes.count >= 16 else { throw .truncated(have: bytes.count, need: 16) }
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
    guard flags & ~7 == 0 else { throw .fieldOutOfRange(.flags, UInt64(flags)) }
    self.init(volumeBytes: volumeBytes, disk: disk, role: role)
    crashed = flags & 1 != 0
    wasPrimary = flags & 2 != 0
    holdsUnshared = flags & 4 != 0
    lineage = try Self.lineage(reader)
  }

  private static func lineage(_ reader: ByteReader) throws(WireError) -> Lineage {
    let count = Int(reader.uint8(at: 11))
    guard count <= Lineage.limit, reader.count == 16 + count * 24 else {
      throw .fieldOutOfRange(.lineageCount, UInt64(count))
    }
    var generations: [Generation] = []
    for start in stride(from: 16, to: 16 + count * 24, by: 24) {
      guard let author = NodeID(UInt64(reader.uint8(at: start + 16))) else {
        throw .fieldOutOfRange(.nodeID, UInt64(reader.uint8(at: start + 16)))
      }
      generations.append(
        Generation(
          number: reader.uint64(at: start), id: reader.uint64(at: start + 8), author: author))
    }
    guard let lineage = Lineage(generations) else {
      throw .fieldOutOfRange(.generationOrder, UInt64(count))
    }
    if let newest = lineage.newest, newest.number > Lineage.peerNumberLimit {
      throw .fieldOutOfRange(.generationNumber, newest.number)
    }
    return lineage
  }
}
