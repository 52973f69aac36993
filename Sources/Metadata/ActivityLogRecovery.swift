/// Reads a ring after a crash, and decides whether what it says can be relied upon.
///
/// Let `H` be the highest transaction number of this run in any sector, and `M` the newest complete
/// transaction: `H`, or `H - 1` when `H` is torn. Every one of the last 255 up to `M` must be
/// whole. The block after `M` may hold sectors of `M + 1`, of `M - 255`, of older runs, or nothing,
/// but none that is damaged: that could have been a complete `M + 1`, on which writes relied.
/// Anything else means that the hot extents are unknown. Damage elsewhere is of older runs and
/// means nothing.
import BlockTypes
import CChecksum

/// What a sector of the ring is.
enum ActivityLogSector: Equatable {
  /// Never written, or by an older run.
  case old
  /// Of this run.
  case transaction(UInt64)
  /// Neither.
  case damaged(ActivityLogDamage)

  /// Largest transaction number believed: more than a century of the fastest disk.
  static let numberLimit: UInt64 = 1 << 62

  static func checksum(_ bytes: UnsafeRawBufferPointer, _ start: Int) -> UInt32 {
    precondition(start + ActivityLog.sectorBytes <= bytes.count, "a sector past the end")
    guard let base = bytes.baseAddress else { return 0 }
    var zero: UInt32 = 0
    let crc = unsafe cchecksum_crc32c(0, &zero, 4)
    return unsafe cchecksum_crc32c(crc, base + start + 4, ActivityLog.sectorBytes - 4)
  }
}

/// The whole ring, and what is right for it.
@safe
struct RingReader {
  let ring: UnsafeRawBufferPointer
  let deviceID: UInt64
  let run: UInt64
  let volumeBytes: UInt64

  /// The extents that may have been hot, in order; `nil` when nothing of this run was written.
  func extents() throws(ActivityLogDamage) -> [UInt32]? {
    let sectors = (0..<ActivityLog.ringCount * ActivityLog.sectorCount).map { sector($0) }
    var highest: UInt64 = 0
    for sector in sectors {
      switch sector {
      case .transaction(let number): highest = max(highest, number)
      case .damaged(.badSector), .old: break
      case .damaged(let damage): throw damage
      }
    }
    let isTorn = highest > 0 && !isWhole(highest, sectors)
    let newest = isTorn ? highest - 1 : highest
    let oldest = newest - min(newest, UInt64(ActivityLog.window))
    for number in oldest..<newest { try check(number + 1, newest, sectors) }
    try check(blockAfter: newest, sectors)
    guard highest > 0 else { return nil }

    var slots: [UInt16: UInt32] = [:]
    for number in oldest..<newest {
      for position in Self.positions(number + 1) {
        try read(position) { slot, extent in slots[slot] = Self.isNone(extent) ? nil : extent }
      }
    }
    var extents = Set(slots.values)
    if isTorn {
      for position in Self.positions(highest) where sectors[position] == .transaction(highest) {
        try read(position) { _, extent in if !Self.isNone(extent) { extents.insert(extent) } }
      }
    }
    return extents.sorted()
  }

  /// Where the sectors of a transaction are, counted from the start of the ring.
  private static func positions(_ number: UInt64) -> Range<Int> {
    let block = Int((number - 1) % UInt64(ActivityLog.ringCount))
    return block * ActivityLog.sectorCount..<(block + 1) * ActivityLog.sectorCount
  }

  /// Whether an entry says that its slot is empty.
  private static func isNone(_ extent: UInt32) -> Bool { extent == ActivityLog.nothing }

  private func isWhole(_ number: UInt64, _ sectors: [ActivityLogSector]) -> Bool {
    Self.positions(number).allSatisfy { sectors[$0] == .transaction(number) }
  }

  private func check(
    _ number: UInt64, _ newest: UInt64, _ sectors: [ActivityLogSector]
  ) throws(ActivityLogDamage) {
    for position in Self.positions(number) where sectors[position] != .transaction(number) {
      if case .damaged(let damage) = sectors[position] { throw damage }
      throw .missingTransaction(number, newest: newest)
    }
  }

  /// What is still allowed where the next transaction would go.
  private func check(
    blockAfter newest: UInt64, _ sectors: [ActivityLogSector]
  ) throws(ActivityLogDamage) {
    let next = newest + 1
    let ring = UInt64(ActivityLog.ringCount)
    for position in Self.positions(next) {
      switch sectors[position] {
      case .damaged(let damage): throw damage
      case .old where next > ring: throw .missingTransaction(next - ring, newest: newest)
      case .old: break
      case .transaction(let number):
        guard number == next || number + ring == next else {
          throw .missingTransaction(next, newest: number)
        }
      }
    }
  }

  private static func isZero(_ bytes: UnsafeRawBufferPointer) -> Bool {
    var offset = 0
    while offset < bytes.count {
      let word = unsafe bytes.loadUnaligned(fromByteOffset: offset, as: UInt64.self)
      guard word == 0 else { return false }
      offset += 8
    }
    return true
  }

  /// What the sector at `position` is, its entries not looked at.
  private func sector(_ position: Int) -> ActivityLogSector {
    let start = position * ActivityLog.sectorBytes
    let bytes = unsafe UnsafeRawBufferPointer(
      rebasing: ring[start..<start + ActivityLog.sectorBytes])
    if unsafe Self.isZero(bytes) { return .old }
    let crc: UInt32 = unsafe bytes.bigEndian(at: 0)
    guard unsafe crc == ActivityLogSector.checksum(bytes, 0) else {
      return .damaged(.badSector(position))
    }
    let magic: UInt32 = unsafe bytes.bigEndian(at: 4)
    guard magic == ActivityLog.magic else { return .damaged(.badSector(position)) }
    let device: UInt64 = unsafe bytes.bigEndian(at: 8)
    guard device == deviceID else {
      return .damaged(.foreignDevice(sector: position, id: device))
    }
    let number: UInt64 = unsafe bytes.bigEndian(at: 24)
    let index: UInt8 = unsafe bytes.bigEndian(at: 32)
    guard number > 0, number <= ActivityLogSector.numberLimit,
      Self.positions(number).lowerBound + Int(index) == position
    else { return .damaged(.misplacedSector(position)) }
    let run: UInt64 = unsafe bytes.bigEndian(at: 16)
    guard run <= self.run else { return .damaged(.newerRun(run, known: self.run)) }
    return run == self.run ? .transaction(number) : .old
  }

  /// Gives each entry of a valid sector to `body`.
  private func read(
    _ position: Int, _ body: (UInt16, UInt32) -> Void
  ) throws(ActivityLogDamage) {
    let start = position * ActivityLog.sectorBytes
    let count: UInt8 = unsafe ring.bigEndian(at: start + 33)
    let slots: UInt16 = unsafe ring.bigEndian(at: start + 34)
    guard count <= ActivityLog.entriesPerSector else { throw .badSector(position) }
    for entry in 0..<Int(count) {
      let place = start + ActivityLog.headerBytes + entry * ActivityLog.entryBytes
      let slot: UInt16 = unsafe ring.bigEndian(at: place)
      let extent: UInt32 = unsafe ring.bigEndian(at: place + 2)
      let isInside = UInt64(extent) * ActivityLog.extentBytes < volumeBytes
      guard slot < slots, isInside || Self.isNone(extent) else {
        throw .badEntry(slot: UInt32(slot), extent: extent)
      }
      body(slot, extent)
    }
  }
}
