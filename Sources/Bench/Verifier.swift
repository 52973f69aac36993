internal import BlockTypes

/// Stamps what a verified load writes and checks what it reads.
///
/// Invariants:
/// - no two writes to a block are in flight at once, so the last acknowledged write is well
///   defined;
/// - a read may be concurrent with a write: then both contents are right;
/// - checking a right block allocates nothing.
struct Verifier: ~Copyable {
  /// How the blocks that are read are checked.
  enum Mode: Sendable {
    /// Not at all; nothing is stamped either.
    case off
    /// Against the log.
    case log
    /// By themselves: every unit must hold some whole stamp of its own address.
    case alone
  }

  let mode: Mode
  /// Whether a damaged unit passes while a write to it is unanswered.
  let allowsTorn: Bool
  private var log: WriteLog
  /// Per block: whether a write is in flight.
  private var busy: FixedArray<Bool>
  /// Per slot and unit: what was acknowledged when the read was sent.
  private var snapshots: FixedArray<UInt64>
  private let unitsPerBlock: Int
  private let unitBytes: Int
  private(set) var result = VerificationResult()
  /// Writes in the log when it was opened: a load that continues a log goes on to other blocks.
  let earlierWrites: UInt64

  /// A verifier over the region of `log`, for `depth` slots.
  init(mode: Mode, log: consuming WriteLog, depth: Int, allowsTorn: Bool = false) {
    self.mode = mode
    self.allowsTorn = allowsTorn
    unitBytes = Int(log.unitBytes)
    unitsPerBlock = Int(log.blockBytes) / Int(log.unitBytes)
    let blocks = mode == .off ? 0 : Int(log.regionBytes / UInt64(log.blockBytes))
    busy = FixedArray(count: blocks) { _ in false }
    snapshots = FixedArray(count: mode == .off ? 0 : depth * unitsPerBlock) { _ in 0 }
    earlierWrites = log.writeCount
    self.log = log
  }

  /// Whether a write to the block is in flight.
  @inline(__always)
  func isBusy(_ block: UInt64) -> Bool { busy[Int(block)] }

  /// Stamps the block's units in the buffer and notes the write. Returns its sequence number.
  @unsafe
  mutating func prepareWrite(block: UInt64, _ memory: UnsafeMutableRawBufferPointer) -> UInt64 {
    precondition(!busy[Int(block)], "two writes to one block")
    busy[Int(block)] = true
    let sequence = log.nextSequence()
    for index in 0..<unitsPerBlock {
      let unit = Int(block) * unitsPerBlock + index
      let stamp = Stamp(
        address: UInt64(unit) * UInt64(unitBytes), sequence: sequence, seed: log.seed)
      unsafe stamp.write(into: part(memory, index))
      log.noteIssued(unit, sequence)
    }
    return sequence
  }

  /// The write was acknowledged.
  mutating func finishWrite(block: UInt64, sequence: UInt64) {
    for index in 0..<unitsPerBlock {
      log.noteAcknowledged(Int(block) * unitsPerBlock + index, sequence)
    }
    busy[Int(block)] = false
  }

  /// Remembers what the block may not be older than.
  mutating func prepareRead(slot: Int, block: UInt64) {
    for index in 0..<unitsPerBlock {
      snapshots[slot * unitsPerBlock + index] =
        log[Int(block) * unitsPerBlock + index].acknowledged
    }
  }

  /// Checks what was read.
  @unsafe
  mutating func finishRead(slot: Int, block: UInt64, _ memory: UnsafeMutableRawBufferPointer) {
    for index in 0..<unitsPerBlock {
      let unit = Int(block) * unitsPerBlock + index
      let issued = log[unit].issued
      if mode == .log, issued == 0 { continue }
      let content = unsafe Stamp.read(UnsafeRawBufferPointer(part(memory, index)))
      let address = UInt64(unit) * UInt64(unitBytes)
      let judgement =
        mode == .alone
        ? Judgement.judgeAlone(content, address: address)
        : Judgement.judge(
          content, address: address, seed: log.seed,
          acknowledged: snapshots[slot * unitsPerBlock + index], issued: issued,
          allowsTorn: allowsTorn)
      result.checkedUnits += 1
      if judgement != .right { result.add(judgement, address: address) }
    }
  }

  /// The first block from `block` on to which anything was ever sent; `nil` when there is none.
  func nextWritten(from block: UInt64) -> UInt64? {
    var unit = Int(block) * unitsPerBlock
    while unit < busy.count * unitsPerBlock {
      if log[unit].issued > 0 { return UInt64(unit / unitsPerBlock) }
      unit += 1
    }
    return nil
  }

  @unsafe @inline(__always)
  private func part(
    _ memory: UnsafeMutableRawBufferPointer, _ index: Int
  ) -> UnsafeMutableRawBufferPointer {
    unsafe UnsafeMutableRawBufferPointer(
      rebasing: memory[index * unitBytes..<(index + 1) * unitBytes])
  }
}
