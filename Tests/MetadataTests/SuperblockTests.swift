/// The superblock: its bytes, what is refused, and which of two copies counts after a torn write.

import BlockTypes
import Metadata
import TestSupport
import Testing

private func encoded(_ block: Superblock) -> [UInt8] {
  written(Superblock.byteCount) { block.encode(into: $0) }
}

private func parsed(_ bytes: [UInt8]) -> Result<Superblock, SuperblockError> {
  Result { () throws(SuperblockError) in
    try parse(bytes) { raw throws(SuperblockError) in try Superblock(parsing: raw) }
  }
}

private func choice(_ first: [UInt8], _ second: [UInt8]) -> SuperblockChoice {
  first.withUnsafeBytes { first in
    second.withUnsafeBytes { second in SuperblockChoice(copyA: first, copyB: second) }
  }
}

/// `bytes` with the checksum made right again, so that a changed field is reached.
private func resealed(_ bytes: [UInt8]) -> [UInt8] {
  var bytes = bytes
  for index in 12..<16 { bytes[index] = 0 }
  let crc = slowCRC32C(bytes)
  for index in 0..<4 { bytes[12 + index] = UInt8(truncatingIfNeeded: crc >> (24 - 8 * index)) }
  return bytes
}

private func sample() -> Superblock {
  var block = Superblock(
    node: node(1), resource: "r0", volumeBytes: 1 << 30, deviceID: 0x1122_3344_5566_7788)
  block.sequence = 7
  block.diskState = .upToDate
  block.dirty = true
  block.wasPrimary = true
  block.maxPeers = 2
  block.activityLogRun = 3
  block.lineage.begin(id: 0xA1, author: node(0))
  block.lineage.begin(id: 0xB2, author: node(1))
  block.peers = [
    PeerSlotRecord(node: node(0), base: Generation(number: 1, id: 0xA1, author: node(0))),
    PeerSlotRecord(node: node(2), base: nil, isFull: true),
  ]
  return block
}

@Suite struct SuperblockTests {
  /// Golden bytes: a change here is a format change and needs a new format version.
  @Test func encodingIsStable() {
    let bytes = encoded(sample())

    #expect(
      bytes[0..<64] == [
        0x41, 0x53, 0x48, 0x4C, 0x41, 0x52, 0x4D, 0x44, 0, 0, 0, 2, 0xBD, 0x45, 0x57, 0x20,
        0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0x40, 0, 0, 0,
        0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88, 1, 2, 0, 3, 0, 0, 0, 2,
        0, 2, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3,
      ])
    #expect(Array(bytes[64..<66]) == [0x72, 0x30])
    #expect(
      bytes[192..<224] == [
        0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1,
        0, 0, 0, 0, 0, 0, 0, 0xA1, 0, 0, 0, 0, 0, 0, 0, 0,
      ])
    #expect(Array(bytes[224..<256]) == [2, 5] + [UInt8](repeating: 0, count: 30))
    #expect(
      bytes[448..<496] == [
        0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0xA1, 0, 0, 0, 0, 0, 0, 0, 0,
        0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0xB2, 1, 0, 0, 0, 0, 0, 0, 0,
      ])
    let rest = [66..<192, 256..<448, 496..<4096]
    #expect(rest.allSatisfy { range in bytes[range].allSatisfy { $0 == 0 } })
    #expect(resealed(bytes) == bytes, "the checksum is CRC32C of the block with the field 0")
  }

  @Test func everyFieldComesBack() {
    #expect(parsed(encoded(sample())) == .success(sample()))
  }

  /// The largest of everything: 8 peers, 32 generations, a name of 128 bytes.
  @Test func fullSuperblockComesBack() {
    var block = Superblock(
      node: node(31), resource: String(repeating: "ä", count: 64),
      volumeBytes: Superblock.volumeLimit, deviceID: .max)
    block.sequence = .max
    for id in 0..<UInt64(Lineage.limit) { block.lineage.begin(id: .max - id, author: node(31)) }
    block.maxPeers = Superblock.peerSlotLimit
    block.activityLogRun = Superblock.runLimit
    block.peers = (0..<UInt64(Superblock.peerSlotLimit)).map {
      PeerSlotRecord(node: node($0), base: block.lineage.newest, isFull: $0 % 2 == 0)
    }

    #expect(parsed(encoded(block)) == .success(block))
  }

  /// When a generation began is kept, though it says nothing about which one it is.
  @Test func beginOfAGenerationComesBack() throws {
    var block = sample()
    block.lineage.begin(id: 9, author: node(1), at: 1_795_239_963, continuesPrimary: true)
    block.peers = [PeerSlotRecord(node: node(1), base: block.lineage.newest)]
    let again = try parsed(encoded(block)).get()
    for generation in [again.lineage.newest, again.peers.first?.base] {
      #expect(generation?.beganAt == 1_795_239_963)
      #expect(generation?.continuesPrimary == true)
    }
  }

  @Test(arguments: StoredDiskState.allCases)
  func everyDiskStateComesBack(state: StoredDiskState) {
    var block = sample()
    block.diskState = state

    #expect(parsed(encoded(block)) == .success(block))
  }

  @Test func emptyDiskHasNoMagic() {
    #expect(parsed([UInt8](repeating: 0, count: 4096)) == .failure(.noMagic(found: 0)))
  }

  /// Damage anywhere is found, also in the parts that are reserved.
  @Test func everyDamagedByteIsFound() {
    let good = encoded(sample())
    for offset in good.indices {
      var bad = good
      bad[offset] ^= 0x10
      guard case .failure(let error) = parsed(bad) else {
        Issue.record("byte \(offset) is not covered")
        continue
      }
      if offset >= 8 && !(12..<16).contains(offset) {
        guard case .badChecksum = error else {
          Issue.record("byte \(offset): \(error)")
          continue
        }
      }
    }
  }

  /// Fields that are wrong under a right checksum: written by something that is not this code.
  @Test(
    arguments: [
      (11, [1], SuperblockError.unknownVersion(1)),
      (11, [3], .unknownVersion(3)),
      (50, [0], .badField("slots", 0)),
      (50, [9], .badField("slots", 9)),
      (50, [1], .badField("peers", 2)),
      (56, [0x80], .badField("run", 1 << 63 | 3)),
      (193, [0], .badField("free slot before slot", 1)),
      (24, [0xFF, 0xFF], .badField("volume bytes", 0xFFFF_0000_4000_0000)),
      (31, [1], .badField("volume bytes", (1 << 30) + 1)),
      (28, [0], .badField("volume bytes", 0)),
      (40, [32], .badField("node id", 32)),
      (41, [3], .badField("disk state", 3)),
      (43, [4], .badField("flags", 4)),
      (42, [1], .badField("flags", 0x0103)),
      (44, [0, 0, 0, 33], .badField("generation count", 33)),
      (44, [0xFF, 0xFF, 0xFF, 0xFF], .badField("generation count", 0xFFFF_FFFF)),
      (44, [0, 0, 0, 3], .badField("generation order", 3)),
      (448, [0xFF], .badField("generation order", 2)),
      (472, [0xFF], .badField("generation order", 2)),
      (464, [32], .badField("node id", 32)),
      (48, [0, 0], .badField("name length", 0)),
      (48, [0, 129], .badField("name length", 129)),
      (64, [0xFF], .badField("name", 2)),
      (193, [2], .badField("peer flags", 2)),
      (193, [4], .badField("peer flags", 4)),
      (193, [8], .badField("peer flags", 8)),
      (193, [9], .badField("peer flags", 9)),
      (224, [32], .badField("node id", 32)),
      (216, [32], .badField("node id", 32)),
    ] as [(Int, [UInt8], SuperblockError)])
  func badFieldIsNamed(offset: Int, value: [UInt8], error: SuperblockError) {
    var bad = encoded(sample())
    bad.replaceSubrange(offset..<(offset + value.count), with: value)

    #expect(parsed(resealed(bad)) == .failure(error))
  }

  /// Garbage under a right magic and checksum is a value or a typed error, never a trap.
  @Test(arguments: seeds(count: 8))
  func garbageNeverTraps(seed: UInt64) {
    var random = SeededGenerator(seed: seed)
    let good = encoded(sample())
    for _ in 0..<100 {
      var bad = good
      for _ in 0..<(1 + random.below(8)) {
        bad[8 + random.below(random.oneIn(2) ? 56 : 1_208)] = UInt8(random.below(256))
      }
      guard case .success(let block) = parsed(resealed(bad)) else { continue }
      #expect(parsed(encoded(block)) == .success(block), "seed \(seed)")
    }
  }
}

@Suite struct SuperblockChoiceTests {
  private let empty = [UInt8](repeating: 0, count: Superblock.byteCount)

  private func generation(_ sequence: UInt64) -> Superblock {
    var block = sample()
    block.sequence = sequence
    block.dirty = false
    block.lineage.begin(id: sequence, author: node(1))
    return block
  }

  @Test func newerCopyCounts() {
    let old = generation(4)
    let new = generation(5)

    #expect(choice(encoded(old), encoded(new)) == .found(new, copy: 1))
    #expect(choice(encoded(new), encoded(old)) == .found(new, copy: 0))
  }

  /// Both copies are written from the start, so zeroes are damage as well.
  @Test func oneCopyBesideNothingCountsAsDirty() {
    var block = generation(1)
    block.dirty = true

    #expect(choice(encoded(block), empty) == .found(block, copy: 0))
    #expect(choice(empty, encoded(block)) == .found(block, copy: 1))
  }

  @Test func nothingIsNone() {
    #expect(choice(empty, empty) == .none)
  }

  /// Damage is told from "never written": data may depend on what was there.
  @Test func damageWithoutAValidCopyIsNeverTakenForNone() {
    var bad = encoded(generation(1))
    bad[100] ^= 1

    for pair in [(bad, empty), (empty, bad), (bad, bad)] {
      guard case .damaged = choice(pair.0, pair.1) else {
        Issue.record("damage was taken for something else")
        continue
      }
    }
  }

  /// A write to the older copy, cut at every sector and with every subset of sectors written: the
  /// outcome is the old superblock or the new one, never a mixture (P7). When the cut is visible,
  /// the old one comes back as dirty: what was on its way may have been followed by writes.
  @Test(arguments: [0, 1])
  func tornWriteLeavesTheOldOrTheNew(target: Int) {
    let valid = generation(8)
    let stale = encoded(generation(7))
    let new = generation(9)
    var dirty = valid
    dirty.dirty = true
    for subset in 0..<256 {
      var torn = stale
      for sector in 0..<8 where subset & (1 << sector) != 0 {
        let range = (sector * 512)..<((sector + 1) * 512)
        torn.replaceSubrange(range, with: encoded(new)[range])
      }
      let found =
        target == 0 ? choice(torn, encoded(valid)) : choice(encoded(valid), torn)
      let allowed: [SuperblockChoice] = [
        .found(valid, copy: 1 - target), .found(dirty, copy: 1 - target),
        .found(new, copy: target),
      ]
      #expect(allowed.contains(found), "sectors \(String(subset, radix: 2))")
      if parsed(torn) == .success(new) { #expect(found == .found(new, copy: target)) }
    }
  }

  /// Bit rot of the newer copy must not bring back an older one that says "clean": damage widens
  /// a resync, it never narrows it.
  @Test func survivorOfADamagedPairIsDirty() {
    let old = generation(8)
    var rotten = encoded(generation(9))
    rotten[1_300] ^= 1
    var expected = old
    expected.dirty = true

    #expect(choice(encoded(old), rotten) == .found(expected, copy: 0))
    #expect(choice(rotten, encoded(old)) == .found(expected, copy: 1))
  }

  /// Both copies were brought up to date: whichever rots, nothing of the superblock is lost.
  @Test func rotOfOneOfTwoEqualCopiesLosesNothing() {
    let block = generation(9)
    var expected = block
    expected.dirty = true
    var random = SeededGenerator(seed: 3)
    #expect(choice(encoded(block), encoded(block)) == .found(block, copy: 0))
    for _ in 0..<200 {
      var rotten = encoded(block)
      rotten[8 + random.below(4088)] ^= UInt8(1 + random.below(255))
      #expect(choice(encoded(block), rotten) == .found(expected, copy: 0))
      #expect(choice(rotten, encoded(block)) == .found(expected, copy: 1))
    }
  }

  /// A write of another disk's superblock went astray: which copy is ours is unknown.
  @Test func copiesOfTwoDisksAreDamage() {
    let mine = generation(9)
    var other = generation(12)
    other.deviceID ^= 1
    var sameNumber = mine
    sameNumber.wasPrimary.toggle()
    for pair in [(mine, other), (other, mine), (mine, sameNumber)] {
      guard case .damaged = choice(encoded(pair.0), encoded(pair.1)) else {
        Issue.record("a stranger's copy was believed")
        continue
      }
    }
  }

  /// A bad sector under one copy: the other serves, as after a crash.
  @Test func copyThatCannotBeReadIsDamage() {
    let block = generation(9)
    var expected = block
    expected.dirty = true
    encoded(block).withUnsafeBytes { good in
      #expect(SuperblockChoice(copyA: good, copyB: nil) == .found(expected, copy: 0))
      #expect(SuperblockChoice(copyA: nil, copyB: good) == .found(expected, copy: 1))
    }
    empty.withUnsafeBytes { nothing in
      #expect(
        SuperblockChoice(copyA: nil, copyB: nothing)
          == .damaged(.unreadable, .noMagic(found: 0)))
    }
    #expect(SuperblockChoice(copyA: nil, copyB: nil) == .damaged(.unreadable, .unreadable))
  }

  /// What is wrong with a copy is said in words.
  @Test func errorsAreSentences() {
    let cases: [(SuperblockError, String)] = [
      (.noMagic(found: 0), "nothing was ever written"),
      (.noMagic(found: 0xAB), "no superblock, it begins with 0xab"),
      (.unreadable, "the disk cannot read it"),
      (.badChecksum(found: 1, computed: 0xA), "checksum 0x1 where 0xa is right"),
      (.unknownVersion(9), "format version 9, this program knows 2"),
      (.badField("node id", 99), "node id is 99"),
    ]
    for (error, text) in cases { #expect("\(error)" == text) }
  }
}
