/// The activity log on disk: a ring of 256 transactions of 4096 bytes, and what they say after a
/// crash.
///
/// Transaction `n` (from 1 in each run) lies in block `(n - 1) % 256`. It consists of 8 sectors of
/// 512 bytes, each with its own checksum, so that a write that was torn at a sector is told from
/// rot: torn sectors are each valid, the old or the new.
///
/// ```
/// bytes   0-3   CRC32C of the 512 bytes with this field 0
///         4-7   magic "ALOG"
///         8-15  device id
///        16-23  run: the superblock's when it was written
///        24-31  transaction number
///        32     sector in the transaction, 0 ... 7
///        33     entries in this sector, 0 ... 78
///        34-35  slots of the log
///        36-39  0
///        40-507 78 entries of 6 bytes: 0-1 slot, 2-5 extent in it from now on, or FFFFFFFF
///               where the slot is empty from now on; rest 0
///       508-511 0
/// ```
/// A transaction carries its changes and, as context, the next `(slots + 254) / 255` slots in
/// rotation, empty ones left out. Any 255 transactions in a row thus name every slot in use, so the
/// block that is being overwritten is not needed.
import BlockTypes
import CChecksum

extension ActivityLog {
  /// Bytes of one transaction on disk.
  public static let transactionBytes = 4096
  /// Transactions in the ring.
  public static let ringCount = 256
  /// Bytes of the ring.
  public static let ringBytes = transactionBytes * ringCount

  static let sectorBytes = 512
  static let sectorCount = transactionBytes / sectorBytes
  static let headerBytes = 40
  static let entryBytes = 6
  static let entriesPerSector = 78
  static let entriesPerTransaction = sectorCount * entriesPerSector
  /// "ALOG".
  static let magic: UInt32 = 0x414C_4F47

  /// Transactions in a row that name every slot.
  static let window = ringCount - 1

  /// Slots that each transaction repeats.
  var contextCount: Int { (slotCount + Self.window - 1) / Self.window }
  /// Most extents that one transaction makes hot: 559 with the default number of slots.
  public var updateLimit: Int { Self.entriesPerTransaction - contextCount }

  /// Where the transaction under way goes: bytes from the start of the log area.
  public var transactionOffset: UInt64 {
    (sequence &- 1) % UInt64(Self.ringCount) * UInt64(Self.transactionBytes)
  }

  /// Writes the 4096 bytes of the transaction under way.
  @safe
  public func encodeTransaction(into bytes: UnsafeMutableRawBufferPointer) {
    precondition(bytes.count == Self.transactionBytes, "a transaction is 4096 bytes")
    precondition(isTransactionUnderWay, "no transaction was planned")
    unsafe bytes.initializeMemory(as: UInt8.self, repeating: 0)
    var count = 0
    for position in 0..<updateCount {
      let (slot, extent) = update(position)
      unsafe Self.put(slot, extent, at: count, bytes)
      count += 1
    }
    let first = (sequence - 1) % UInt64(slotCount) * UInt64(contextCount) % UInt64(slotCount)
    for step in 0..<contextCount {
      let slot = (Int(first) + step) % slotCount
      guard let extent = extent(inSlot: slot) else { continue }
      unsafe Self.put(UInt32(slot), extent, at: count, bytes)
      count += 1
    }
    for sector in 0..<Self.sectorCount {
      let entries = min(max(count - sector * Self.entriesPerSector, 0), Self.entriesPerSector)
      unsafe seal(sector, entries, bytes)
    }
  }

  private static func put(
    _ slot: UInt32, _ extent: UInt32, at position: Int, _ bytes: UnsafeMutableRawBufferPointer
  ) {
    let sector = position / entriesPerSector
    let place = sector * sectorBytes + headerBytes + position % entriesPerSector * entryBytes
    unsafe bytes.storeBigEndian(UInt16(slot), at: place)
    unsafe bytes.storeBigEndian(extent, at: place + 2)
  }

  private func seal(_ sector: Int, _ entries: Int, _ bytes: UnsafeMutableRawBufferPointer) {
    let start = sector * Self.sectorBytes
    unsafe bytes.storeBigEndian(Self.magic, at: start + 4)
    unsafe bytes.storeBigEndian(deviceID, at: start + 8)
    unsafe bytes.storeBigEndian(run, at: start + 16)
    unsafe bytes.storeBigEndian(sequence, at: start + 24)
    unsafe bytes.storeBigEndian(UInt8(sector), at: start + 32)
    unsafe bytes.storeBigEndian(UInt8(entries), at: start + 33)
    unsafe bytes.storeBigEndian(UInt16(slotCount), at: start + 34)
    let crc = unsafe ActivityLogSector.checksum(UnsafeRawBufferPointer(bytes), start)
    unsafe bytes.storeBigEndian(crc, at: start)
  }
}

/// Why the hot extents cannot be known. Every block counts as different then.
public enum ActivityLogDamage: Error, Equatable, Sendable, CustomStringConvertible {
  /// The disk gave an error instead of the bytes.
  case unreadable
  /// The area has another size than a ring.
  case wrongSize(Int)
  /// A sector is neither what this log writes nor never written. Sectors count from the ring's
  /// start.
  case badSector(Int)
  /// A sector is valid, and another one belongs there.
  case misplacedSector(Int)
  /// A sector of other metadata.
  case foreignDevice(sector: Int, id: UInt64)
  /// A run that the superblock does not know yet: the superblock is an old one.
  case newerRun(UInt64, known: UInt64)
  /// A transaction is missing before the newest one.
  case missingTransaction(UInt64, newest: UInt64)
  /// An entry names an extent behind the end of the volume, or a slot that the log has not.
  case badEntry(slot: UInt32, extent: UInt32)

  /// What is wrong, in words.
  public var description: String {
    switch self {
    case .unreadable: "the disk cannot read it"
    case .wrongSize(let count): "\(count) bytes instead of \(ActivityLog.ringBytes)"
    case .badSector(let sector): "sector \(sector) is damaged"
    case .misplacedSector(let sector): "sector \(sector) belongs elsewhere"
    case .foreignDevice(let sector, let id):
      "sector \(sector) is of other metadata, device id 0x" + String(id, radix: 16)
    case .newerRun(let run, let known):
      "it is of run \(run), while the superblock knows \(known) runs: the superblock is too old"
    case .missingTransaction(let number, let newest):
      "transaction \(number) is missing, the newest is \(newest)"
    case .badEntry(let slot, let extent):
      "slot \(slot) names extent \(extent), which cannot be"
    }
  }
}

/// What a log says after a crash.
public enum ActivityLogRecovery: Equatable, Sendable {
  /// No transaction of this run was ever written: no extent was hot.
  case none
  /// Writes can have been under way in these extents, in rising order.
  case extents([UInt32])
  /// It cannot be known: every block counts as different.
  case damaged(ActivityLogDamage)
}

extension ActivityLog {
  /// Reads the whole ring after a crash. Never traps, whatever the bytes are.
  ///
  /// A newest transaction that was torn is no damage: no write went on because of it. Its extents
  /// are returned beside those of the one before.
  /// - Parameters:
  ///   - ring: the 1 MiB of the log area.
  ///   - superblock: says which device, run and volume size are right.
  @safe
  public static func recover(
    _ ring: UnsafeRawBufferPointer, for superblock: Superblock
  ) -> ActivityLogRecovery {
    recover(
      ring, deviceID: superblock.deviceID, run: superblock.activityLogRun,
      volumeBytes: superblock.volumeBytes)
  }

  /// As above, with the three numbers it depends on.
  @safe
  public static func recover(
    _ ring: UnsafeRawBufferPointer, deviceID: UInt64, run: UInt64, volumeBytes: UInt64
  ) -> ActivityLogRecovery {
    guard ring.count == ringBytes else { return .damaged(.wrongSize(ring.count)) }
    let reader = unsafe RingReader(
      ring: ring, deviceID: deviceID, run: run, volumeBytes: volumeBytes)
    do {
      guard let extents = try reader.extents() else { return .none }
      return .extents(extents)
    } catch {
      return .damaged(error)
    }
  }
}
