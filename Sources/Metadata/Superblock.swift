/// The superblock: what a replica knows about itself, in 4 KiB on its own disk.
///
/// Two copies exist; a write goes to the older one, so a torn write leaves the other valid (P7).
///
/// ```
/// bytes    0-7    magic "ASHLARMD"
///          8-11   format version, 2
///         12-15   CRC32C of the 4096 bytes with this field 0
///         16-23   sequence number; the valid copy with the higher one counts
///         24-31   volume bytes: the replicated size, a multiple of 4096, at most 1 PiB
///         32-39   device id: 64 random bits of this metadata
///         40      node id
///         41      disk state: 0 Inconsistent, 1 Outdated, 2 UpToDate
///         42-43   flags: bit 0 dirty, bit 1 was Primary
///         44-47   generations in the lineage, 0 ... 32
///         48-49   bytes in the resource name, 1 ... 128
///         50      bitmap slots that the metadata has room for, 1 ... 8
///         51-55   0
///         56-63   run of the activity log: attachments of this disk for writing
///         64-191  resource name, UTF-8, rest 0
///        192-447  8 peer slots of 32 bytes:
///                   0 node id   1 flags: bit 0 used, bit 1 has base, bit 2 full
///                   2-7 0
///                   8-15 base generation number   16-23 base id   24 base author
///                   25-31 as 17-23 of a generation
///        448-1215 32 generations of 24 bytes: 0-7 number, 8-15 id, 16 author,
///                 17 bit 0 its author was Primary before, 18-19 0, 20-23 seconds since 1970
///       1216-4095 0
/// ```
/// All numbers are big-endian.
public import BlockTypes
import CChecksum

/// The disk states that are worth writing down. The others follow from events.
public enum StoredDiskState: UInt8, Sendable, BitwiseCopyable, CaseIterable {
  /// Parts of the data are old: an initial or an interrupted resync.
  case inconsistent = 0
  /// Valid data of an older moment: the peer went on alone.
  case outdated = 1
  /// Every acknowledged write, as far as this node knew when it wrote this.
  case upToDate = 2
}

/// What is kept about one peer.
public struct PeerSlotRecord: Equatable, Sendable {
  /// The peer.
  public var node: NodeID
  /// The newest generation that the peer is known to share. `nil` while the peer may hold the
  /// newest one of this replica; set when this replica went on without it.
  public var base: Generation?
  /// Every block counts as different, whatever the pages of the bitmap slot say: the initial sync,
  /// `invalidate`, damage, or a slot that was never written.
  public var isFull: Bool

  /// Joins the parts.
  public init(node: NodeID, base: Generation?, isFull: Bool = false) {
    self.node = node
    self.base = base
    self.isFull = isFull
  }
}

/// Why 4 KiB are not a superblock.
public enum SuperblockError: Error, Equatable, Sendable, CustomStringConvertible {
  /// Nothing was ever written here: all other bytes than the magic were not looked at.
  case noMagic(found: UInt64)
  /// The disk gave an error instead of the bytes.
  case unreadable
  case badChecksum(found: UInt32, computed: UInt32)
  case unknownVersion(UInt32)
  case badField(String, UInt64)

  /// What is wrong, in words.
  public var description: String {
    switch self {
    case .noMagic(0): "nothing was ever written"
    case .noMagic(let magic): "no superblock, it begins with 0x" + String(magic, radix: 16)
    case .unreadable: "the disk cannot read it"
    case .badChecksum(let found, let computed):
      "checksum 0x\(String(found, radix: 16)) where 0x\(String(computed, radix: 16)) is right"
    case .unknownVersion(let version):
      "format version \(version), this program knows \(Superblock.version)"
    case .badField(let field, let value): "\(field) is \(value)"
    }
  }
}

/// What a replica knows about itself.
public struct Superblock: Equatable, Sendable {
  /// Bytes of one encoded copy.
  public static let byteCount = 4096
  /// "ASHLARMD".
  public static let magic: UInt64 = 0x4153_484C_4152_4D44
  /// The format this code writes.
  public static let version: UInt32 = 2
  /// Peer slots in the format.
  public static let peerSlotLimit = 8
  /// Most bytes of a resource name.
  public static let nameLimit = 128
  /// Most bytes of a volume: 1 PiB, as in DRBD. Bounds the bitmap that a damaged size asks for.
  public static let volumeLimit: UInt64 = 1 << 50

  /// Largest run of the activity log believed, so that counting on from it cannot overflow.
  public static let runLimit: UInt64 = 1 << 62

  /// Counts the writes; the driver raises it with every write.
  public var sequence: UInt64 = 0
  /// Bytes of the replicated volume.
  public var volumeBytes: UInt64
  /// 64 random bits that name this metadata.
  public var deviceID: UInt64
  /// The node it belongs to.
  public var node: NodeID
  /// The resource it belongs to.
  public var resource: String
  /// How good the data is.
  public var diskState: StoredDiskState = .inconsistent
  /// Writes may have been in flight when this was written. Found at attach, it means a crash.
  public var dirty = false
  /// The node was Primary when this was written.
  public var wasPrimary = false
  /// Bitmap slots that the metadata has room for; it decides where they lie.
  public var maxPeers = 1
  /// Counts the attachments of the disk for writing. Raised at attach, and durable before the first
  /// transaction of the activity log: what the log holds of other runs is void. After a crash it is
  /// raised only when the hot extents of the old run are durable in the bitmaps.
  public var activityLogRun: UInt64 = 0
  /// The generations of the data.
  public var lineage = Lineage()
  /// What is known about each peer; the index is the number of its bitmap slot.
  public var peers: [PeerSlotRecord] = []

  /// Fresh metadata: Inconsistent, no lineage.
  public init(node: NodeID, resource: String, volumeBytes: UInt64, deviceID: UInt64) {
    precondition(resource.utf8.count <= Self.nameLimit, "the configuration bounds names")
    self.node = node
    self.resource = resource
    self.volumeBytes = volumeBytes
    self.deviceID = deviceID
  }
}

extension Superblock {
  /// Writes the 4096 bytes.
  @safe
  public func encode(into bytes: UnsafeMutableRawBufferPointer) {
    precondition(bytes.count == Self.byteCount, "a superblock is 4096 bytes")
    precondition(maxPeers >= 1 && maxPeers <= Self.peerSlotLimit, "more slots than in the format")
    precondition(peers.count <= maxPeers, "more peers than slots")
    unsafe bytes.initializeMemory(as: UInt8.self, repeating: 0)
    unsafe bytes.storeBigEndian(Self.magic, at: 0)
    unsafe bytes.storeBigEndian(Self.version, at: 8)
    unsafe bytes.storeBigEndian(sequence, at: 16)
    unsafe bytes.storeBigEndian(volumeBytes, at: 24)
    unsafe bytes.storeBigEndian(deviceID, at: 32)
    unsafe bytes.storeBigEndian(node.value, at: 40)
    unsafe bytes.storeBigEndian(diskState.rawValue, at: 41)
    unsafe bytes.storeBigEndian((dirty ? 1 : 0) | (wasPrimary ? 2 : 0) as UInt16, at: 42)
    unsafe bytes.storeBigEndian(UInt32(lineage.generations.count), at: 44)
    unsafe bytes.storeBigEndian(UInt16(resource.utf8.count), at: 48)
    unsafe bytes.storeBigEndian(UInt8(maxPeers), at: 50)
    unsafe bytes.storeBigEndian(activityLogRun, at: 56)
    for (index, byte) in resource.utf8.enumerated() {
      unsafe bytes.storeBigEndian(byte, at: 64 + index)
    }
    for (index, peer) in peers.enumerated() {
      let start = 192 + index * 32
      unsafe bytes.storeBigEndian(peer.node.value, at: start)
      let flags: UInt8 = 1 | (peer.base == nil ? 0 : 2) | (peer.isFull ? 4 : 0)
      unsafe bytes.storeBigEndian(flags, at: start + 1)
      if let base = peer.base { base.store(into: bytes, at: start + 8) }
    }
    for (index, generation) in lineage.generations.enumerated() {
      generation.store(into: bytes, at: 448 + index * Generation.recordBytes)
    }
    unsafe bytes.storeBigEndian(Self.checksum(UnsafeRawBufferPointer(bytes)), at: 12)
  }

  /// Parses 4096 bytes.
  @safe
  public init(parsing bytes: UnsafeRawBufferPointer) throws(SuperblockError) {
    precondition(bytes.count == Self.byteCount, "a superblock is 4096 bytes")
    let magic: UInt64 = unsafe bytes.bigEndian(at: 0)
    guard magic == Self.magic else { throw .noMagic(found: magic) }
    let stored: UInt32 = unsafe bytes.bigEndian(at: 12)
    let computed = unsafe Self.checksum(bytes)
    guard stored == computed else { throw .badChecksum(found: stored, computed: computed) }
    let version: UInt32 = unsafe bytes.bigEndian(at: 8)
    guard version == Self.version else { throw .unknownVersion(version) }
    node = try unsafe Self.node(at: 40, bytes)
    volumeBytes = unsafe bytes.bigEndian(at: 24)
    guard volumeBytes % blockSize == 0, volumeBytes > 0, volumeBytes <= Self.volumeLimit else {
      throw .badField("volume bytes", volumeBytes)
    }
    sequence = unsafe bytes.bigEndian(at: 16)
    deviceID = unsafe bytes.bigEndian(at: 32)
    let state: UInt8 = unsafe bytes.bigEndian(at: 41)
    guard let diskState = StoredDiskState(rawValue: state) else {
      throw .badField("disk state", UInt64(state))
    }
    self.diskState = diskState
    let flags: UInt16 = unsafe bytes.bigEndian(at: 42)
    guard flags & ~3 == 0 else { throw .badField("flags", UInt64(flags)) }
    dirty = flags & 1 != 0
    wasPrimary = flags & 2 != 0
    let slots: UInt8 = unsafe bytes.bigEndian(at: 50)
    guard slots >= 1, slots <= Self.peerSlotLimit else { throw .badField("slots", UInt64(slots)) }
    maxPeers = Int(slots)
    activityLogRun = unsafe bytes.bigEndian(at: 56)
    guard activityLogRun <= Self.runLimit else { throw .badField("run", activityLogRun) }
    resource = try unsafe Self.name(bytes)
    peers = try unsafe Self.peers(bytes)
    guard peers.count <= maxPeers else { throw .badField("peers", UInt64(peers.count)) }
    lineage = try unsafe Self.lineage(bytes)
  }

  private static func name(_ bytes: UnsafeRawBufferPointer) throws(SuperblockError) -> String {
    let count: UInt16 = unsafe bytes.bigEndian(at: 48)
    guard count >= 1, count <= nameLimit else { throw .badField("name length", UInt64(count)) }
    let slice = unsafe UnsafeRawBufferPointer(rebasing: bytes[64..<(64 + Int(count))])
    guard let name = unsafe String(validating: slice, as: UTF8.self) else {
      throw .badField("name", UInt64(count))
    }
    return name
  }

  private static func peers(
    _ bytes: UnsafeRawBufferPointer
  ) throws(SuperblockError) -> [PeerSlotRecord] {
    var peers: [PeerSlotRecord] = []
    for slot in 0..<peerSlotLimit {
      let start = 192 + slot * 32
      let flags: UInt8 = unsafe bytes.bigEndian(at: start + 1)
      guard flags != 0 else { continue }
      guard flags & 1 == 1, flags < 8 else { throw .badField("peer flags", UInt64(flags)) }
      // A gap would shift the peers behind it to the bitmaps of others.
      guard peers.count == slot else { throw .badField("free slot before slot", UInt64(slot)) }
      let node = try unsafe node(at: start, bytes)
      let base = flags & 2 != 0 ? try unsafe generation(at: start + 8, bytes) : nil
      peers.append(PeerSlotRecord(node: node, base: base, isFull: flags & 4 != 0))
    }
    return peers
  }

  private static func lineage(_ bytes: UnsafeRawBufferPointer) throws(SuperblockError) -> Lineage {
    let count: UInt32 = unsafe bytes.bigEndian(at: 44)
    guard count <= Lineage.limit else { throw .badField("generation count", UInt64(count)) }
    var generations: [Generation] = []
    for index in 0..<Int(count) {
      generations.append(try unsafe generation(at: 448 + index * Generation.recordBytes, bytes))
    }
    guard let lineage = Lineage(generations) else {
      throw .badField("generation order", UInt64(count))
    }
    return lineage
  }

  private static func node(
    at offset: Int, _ bytes: UnsafeRawBufferPointer
  ) throws(SuperblockError) -> NodeID {
    let value: UInt8 = unsafe bytes.bigEndian(at: offset)
    guard let node = NodeID(UInt64(value)) else { throw .badField("node id", UInt64(value)) }
    return node
  }

  private static func generation(
    at offset: Int, _ bytes: UnsafeRawBufferPointer
  ) throws(SuperblockError) -> Generation {
    guard let generation = Generation(record: bytes, at: offset) else {
      throw .badField("node id", UInt64(unsafe bytes.bigEndian(at: offset + 16, as: UInt8.self)))
    }
    return generation
  }

  private static func checksum(_ bytes: UnsafeRawBufferPointer) -> UInt32 {
    var zero: UInt32 = 0
    guard let base = bytes.baseAddress else { return 0 }
    var crc = unsafe cchecksum_crc32c(0, base, 12)
    crc = unsafe cchecksum_crc32c(crc, &zero, 4)
    return unsafe cchecksum_crc32c(crc, base + 16, byteCount - 16)
  }
}
