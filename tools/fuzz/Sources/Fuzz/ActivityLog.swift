/// The activity log: what a ring on disk says after a crash, and a log that is driven at random.
import BlockTypes
import CChecksum
import Metadata

private let volumeBytes: UInt64 = 1 << 40

/// A ring in which any bytes of any sectors are wrong. Recovery ends, and its extents are of the
/// volume and in order.
func ring(_ input: inout Input, seals: Bool) {
  var ring = rings[input.below(rings.count)]
  while !input.isAtEnd {
    let sector = (Int(input.byte()) << 8 | Int(input.byte())) % (ActivityLog.ringBytes / 512)
    let place = (Int(input.byte()) << 8 | Int(input.byte())) % 512
    let count = min(1 + input.below(16), 512 - place)
    for (index, byte) in input.take(count).enumerated() {
      ring[sector * 512 + place + index] = byte
    }
    if seals { sealSector(&ring, sector * 512) }
  }
  let result = ring.withUnsafeBytes {
    ActivityLog.recover($0, deviceID: 7, run: 3, volumeBytes: volumeBytes)
  }
  guard case .extents(let extents) = result else { return }
  precondition(zip(extents, extents.dropFirst()).allSatisfy { $0 < $1 }, "extents out of order")
  let limit = volumeBytes / ActivityLog.extentBytes
  precondition(extents.allSatisfy { UInt64($0) < limit }, "an extent behind the end")
}

/// Rings of logs that wrote once, a little, as often as there is room for, and further.
private let rings = [1, 20, 254, 255, 256, 257, 258, 300, 600].map { written(transactions: $0) }

private func sealSector(_ ring: inout [UInt8], _ start: Int) {
  for index in start..<start + 4 { ring[index] = 0 }
  let crc = ring.withUnsafeBytes { cchecksum_crc32c(0, $0.baseAddress! + start, 512) }
  withUnsafeBytes(of: crc.bigEndian) { ring.replaceSubrange(start..<start + 4, with: $0) }
}

/// The ring of a log that made some extents hot.
private func written(transactions: Int) -> [UInt8] {
  var ring = [UInt8](repeating: 0, count: ActivityLog.ringBytes)
  var log = ActivityLog(slotCount: 64, deviceID: 7, run: 3)
  for number in 0..<transactions {
    let start = UInt64(number) * ActivityLog.extentBytes
    let range = ByteRange(start: start, end: start + 4096)
    _ = log.touch(range)
    store(&log, into: &ring)
    log.unpin(range)
  }
  return ring
}

/// Flushes, and writes a transaction where one is wanted.
private func store(_ log: inout ActivityLog, into ring: inout [UInt8]) {
  let flush = log.flushBegan()
  log.flushCompleted(flush)
  guard log.planTransaction() else { return }
  let offset = Int(log.transactionOffset)
  ring.withUnsafeMutableBytes {
    log.encodeTransaction(
      into: UnsafeMutableRawBufferPointer(
        rebasing: $0[offset..<offset + ActivityLog.transactionBytes]))
  }
  log.transactionWritten()
}

/// Writes at random; then the ring must name every extent that is hot.
func log(_ input: inout Input) {
  var ring = [UInt8](repeating: 0, count: ActivityLog.ringBytes)
  var log = ActivityLog(slotCount: 64, deviceID: 7, run: 3)
  var pinned: [ByteRange] = []
  var steps = 0
  while !input.isAtEnd, steps < 2000 {
    steps += 1
    switch input.below(4) {
    case 0, 1:
      let start = UInt64(input.byte()) * ActivityLog.extentBytes
      let range = ByteRange(start: start, end: start + UInt64(1 + input.below(8)) << 20)
      if log.touch(range) != .full { pinned.append(range) }
    case 2 where !pinned.isEmpty: log.unpin(pinned.remove(at: input.below(pinned.count)))
    default: store(&log, into: &ring)
    }
  }
  let result = ring.withUnsafeBytes {
    ActivityLog.recover($0, deviceID: 7, run: 3, volumeBytes: volumeBytes)
  }
  var known: Set<UInt64> = []
  switch result {
  case .none: break
  case .extents(let extents): known = Set(extents.map { UInt64($0) })
  case .damaged: preconditionFailure("a ring that nobody damaged")
  }
  for range in pinned where log.isHot(range) {
    let first = range.start / ActivityLog.extentBytes
    let last = (range.end - 1) / ActivityLog.extentBytes
    precondition((first...last).allSatisfy { known.contains($0) }, "a hot extent is forgotten")
  }
}
