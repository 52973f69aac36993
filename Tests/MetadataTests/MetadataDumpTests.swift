/// Metadata as text: what was written is read again, and no text makes the reader trap.

import BlockTypes
import Metadata
import TestSupport
import Testing

private func parsed(_ text: String) -> Result<MetadataDump, MetadataTextError> {
  Result { () throws(MetadataTextError) in try MetadataDump(parsing: Array(text.utf8)) }
}

private func sample() -> MetadataDump {
  var block = Superblock(
    node: node(1), resource: "r\"0\\", volumeBytes: 70 * blockSize, deviceID: 0xABCD)
  block.maxPeers = 3
  block.activityLogRun = 4
  block.diskState = .upToDate
  block.dirty = true
  block.lineage.begin(id: 0xA1, author: node(0))
  block.lineage.begin(id: 0xB2, author: node(1))
  block.peers = [
    PeerSlotRecord(node: node(0), base: block.lineage.generations[0]),
    PeerSlotRecord(node: node(2), base: nil, isFull: true),
  ]
  return MetadataDump(
    superblock: block, hotExtents: [0],
    bitmaps: [[BitmapWords(count: 1, word: 0xF0), BitmapWords(count: 1, word: 0x3F)], []])
}

@Suite struct MetadataDumpTests {
  /// Golden text: scripts read it.
  @Test func textIsStable() {
    #expect(
      sample().text == """
        version "v2";

        # sequence 0
        resource "r\\"0\\\\";
        node-id 1;
        la-size-sect 560;
        bm-byte-per-bit 4096;
        device-uuid 0x000000000000ABCD;
        max-peers 3;
        al-run 4;
        disk-state UpToDate;
        dirty yes;
        was-primary no;
        lineage {
            generation 1 0x00000000000000A1 author 0;
            generation 2 0x00000000000000B2 author 1;
        }
        activity-log {
            extent 0;
        }
        peer 0 {
            base 1 0x00000000000000A1 author 0;
            full no;
            bm {
                # at 0kB
                0x00000000000000F0;
                0x000000000000003F;
            }
            # bits-set 10;
        }
        peer 2 {
            full yes;
        }

        """)
  }

  @Test func sampleComesBack() {
    #expect(parsed(sample().text) == .success(sample()))
  }

  /// Random metadata; the sequence number alone is not part of the text.
  @Test(arguments: seeds(count: 32))
  func everythingComesBack(seed: UInt64) {
    var random = SeededGenerator(seed: seed)
    let dump = randomDump(&random)
    #expect(parsed(dump.text) == .success(dump), "seed \(seed)")
    guard dump.superblock.resource == "r0" else { return }
    // Spaces and comments carry no meaning.
    let loose = dump.text.replacing("\n", with: " # comment }\n\t").replacing(";", with: " ; ")
    #expect(parsed(loose) == .success(dump), "seed \(seed)")
  }

  private func randomDump(_ random: inout SeededGenerator) -> MetadataDump {
    let blocks = 1 + random.next() % 300_000
    var block = Superblock(
      node: node(random.next() % 32), resource: random.oneIn(2) ? "r0" : "r\u{E4} \"\\\n#;",
      volumeBytes: blocks * blockSize, deviceID: random.next())
    block.activityLogRun = random.next() % Superblock.runLimit
    block.diskState = StoredDiskState.allCases[random.below(3)]
    block.dirty = random.oneIn(2)
    block.wasPrimary = random.oneIn(2)
    for _ in 0..<random.below(34) { block.lineage.begin(id: random.next(), author: node(3)) }
    block.maxPeers = 1 + random.below(8)
    var bitmaps: [[BitmapWords]] = []
    for slot in 0..<random.below(block.maxPeers + 1) {
      let isFull = random.oneIn(4)
      let base = random.oneIn(2) ? nil : Generation(number: 1, id: random.next(), author: node(9))
      block.peers.append(
        PeerSlotRecord(node: node(UInt64(slot)), base: base, isFull: isFull))
      var bitmap = BlockBitmap(blockCount: blocks)
      for _ in 0..<random.below(40) {
        let start = random.next() % blocks
        bitmap.setBlocks(start..<min(blocks, start + random.next() % 3000))
      }
      bitmaps.append(isFull ? [] : MetadataDump.words(of: bitmap))
    }
    let extents = (block.volumeBytes + (4 << 20) - 1) >> 22
    let hot = (0..<UInt32(extents)).filter { _ in random.oneIn(3) }
    return MetadataDump(
      superblock: block, hotExtents: random.oneIn(4) ? nil : hot, bitmaps: bitmaps)
  }

  /// What a restart after a crash makes of it: own bits and hot extents, cut at the volume's end.
  @Test func hotExtentsBecomeBits() {
    let dump = sample()
    var bitmap = BlockBitmap(blockCount: dump.blockCount)
    dump.apply(to: &bitmap, slot: 0)
    #expect(bitmap.setCount == 70, "extent 0 is the whole volume")

    var cold = dump
    cold.hotExtents = []
    var exact = BlockBitmap(blockCount: dump.blockCount)
    cold.apply(to: &exact, slot: 0)
    #expect(exact.setCount == 10)
    #expect(exact.nextRun(from: BlockIndex(0)) == 4..<8)
    #expect(exact.nextRun(from: BlockIndex(8)) == 64..<70)
    #expect(exact.dirtyPageCount == 1)

    var full = BlockBitmap(blockCount: dump.blockCount)
    cold.apply(to: &full, slot: 1)
    #expect(full.setCount == 70)

    cold.hotExtents = nil
    var unknown = BlockBitmap(blockCount: dump.blockCount)
    cold.apply(to: &unknown, slot: 0)
    #expect(unknown.setCount == 70)
  }

  /// One change of a good text, and what is said about it.
  @Test(
    arguments: [
      ("version \"v2\"", "version \"v1\"", 1, "version \"v1\" is not \"v2\""),
      ("version \"v2\"", "drbd", 1, "expected 'version'"),
      ("node-id 1;", "", 34, "'node-id' is missing"),
      ("node-id 1;", "node-id 1; node-id 1;", 5, "'node-id' is there twice"),
      ("node-id 1;", "node-id 32;", 5, "32 is outside 0-31"),
      ("node-id 1;", "node-id 99999999999999999999;", 5, "'99999999999999999999' is no number of"),
      ("node-id 1;", "node-id x;", 5, "expected a number instead of 'x'"),
      ("node-id 1;", "node-id 1", 6, "expected ';' instead of 'la-size-sect'"),
      ("node-id 1;", "colour 1;", 5, "unknown statement 'colour'"),
      ("node-id 1;", "{", 5, "expected a statement instead of '{'"),
      ("node-id 1;", "\u{E4}", 5, "a byte outside ASCII"),
      ("resource \"r\\\"0\\\\\"", "resource \"\"", 4, "expected a name of at most 128 bytes"),
      ("resource \"r\\\"0\\\\\"", "resource \"r0", 4, "a quote that does not end"),
      ("la-size-sect 560", "la-size-sect 561", 6, "not a multiple of 8 sectors"),
      ("bm-byte-per-bit 4096;", "", 34, "'bm-byte-per-bit' is missing"),
      ("bm-byte-per-bit 4096;", "bm-byte-per-bit 8192;", 7, "8192 is outside 4096-4096"),
      ("max-peers 3", "max-peers 1", 34, "2 peers are more than max-peers 1"),
      ("disk-state UpToDate", "disk-state Fine", 11, "'Fine' is no disk state"),
      ("dirty yes", "dirty 1", 12, "expected 'yes' or 'no' instead of 1"),
      ("generation 2", "generation 1", 17, "the numbers of the generations do not rise"),
      ("author 1", "writer 1", 16, "expected 'author' instead of 'writer'"),
      ("extent 0;", "extent 1;", 19, "1 is outside 0-0"),
      ("extent 0;", "extent 0 count 2;", 19, "2 is outside 1-1"),
      ("extent 0;", "extent 0; extent 1;", 19, "extents beyond the end of the volume"),
      ("activity-log {", "activity-log lost; {", 18, "expected 'unknown' instead of 'lost'"),
      ("0x000000000000003F", "0x000000000000007F", 27, "bits behind the end of the volume"),
      ("0x000000000000003F;", "", 28, "1 words are missing"),
      ("0x000000000000003F", "2 times 0x0", 27, "more words than the volume has"),
      ("0x000000000000003F", "0 times 0x0", 27, "more words than the volume has"),
      ("peer 2", "peer 0", 31, "peer 0 is there twice"),
      ("full yes;", "", 33, "'full' is missing"),
      ("full yes;", "full yes; bm { 2 times 0x0; }", 33, "a full peer has no 'bm'"),
      ("full yes;", "full no;", 33, "'bm' is missing"),
      ("full yes;", "half yes;", 32, "expected base, full or bm instead of 'half'"),
      ("la-size-sect 560;", "", 18, "'la-size-sect' must come before"),
    ] as [(String, String, Int, String)])
  func badTextIsRefusedWithItsLine(old: String, new: String, line: Int, reason: String) {
    guard
      case .failure(let error) = parsed(sample().text.replacing(old, with: new, maxReplacements: 1))
    else {
      Issue.record("\(new) was accepted")
      return
    }
    #expect(error.reason.hasPrefix(reason), "\(error)")
    #expect(error.line == line, "\(error)")
    #expect("\(error)".hasPrefix("line \(line): "))
  }

  /// Short texts cannot ask for much memory.
  @Test func manyExtentsAreRefused() {
    let text = sample().text
      .replacing("la-size-sect 560", with: "la-size-sect 2199023255552")
      .replacing("extent 0;", with: "extent 0 count 131069;")
    guard case .failure(let error) = parsed(text) else {
      Issue.record("too many extents were accepted")
      return
    }
    #expect(error.reason == "more extents than an activity log can name")
  }

  @Test func unfinishedQuotesAndNamesAreRefused() {
    for bytes: [UInt8] in [
      Array("version \"v2".utf8), Array("version \"v2\\".utf8), [0x22, 0xFF, 0x22],
      Array("version ".utf8) + [0x22, 0xFF, 0x22], [], [0],
    ] {
      #expect(throws: MetadataTextError.self) { try MetadataDump(parsing: bytes) }
    }
  }

  /// Random changes give a value or an error.
  @Test(arguments: seeds(count: 8))
  func garbageNeverTraps(seed: UInt64) {
    var random = SeededGenerator(seed: seed)
    let good = Array(randomDump(&random).text.utf8.prefix(3000))
    let symbols = Array("{};\"#\\0x9 \nv-".utf8)
    for _ in 0..<200 {
      var bytes = good
      for _ in 0..<(1 + random.below(4)) {
        let place = random.below(bytes.count)
        switch random.below(3) {
        case 0: bytes[place] = symbols[random.below(symbols.count)]
        case 1: bytes.removeSubrange(place..<min(bytes.count, place + random.below(40)))
        default: bytes.insert(UInt8(random.below(256)), at: place)
        }
        if bytes.isEmpty { bytes = [0] }
      }
      if let dump = try? MetadataDump(parsing: bytes) {
        #expect(parsed(dump.text) == .success(dump), "seed \(seed)")
      }
    }
  }
}
