/// All metadata of a volume as one value, and as the text that `dump-md` prints and `restore-md`
/// reads: the form of `drbdmeta dump-md`, with what Ashlar has in addition.
///
/// ```
/// version "v2";
/// resource "r0"; node-id 0; la-size-sect 20480; bm-byte-per-bit 4096;
/// device-uuid 0x0123456789ABCDEF; max-peers 1; al-run 3;
/// disk-state UpToDate; dirty yes; was-primary no;
/// lineage { generation 1 0x00000000000000A1 author 0; }
/// activity-log { extent 7; extent 9 count 3; }            or: activity-log unknown;
/// peer 1 {
///     base 1 0x00000000000000A1 author 0;                 only where the peer lacks something
///     full no;
///     bm { 5 times 0x0000000000000000; 0x00000000000000FF; }    one word for 64 blocks,
/// }                                                             the lowest bit first; not if full
/// ```
/// Reading what was written gives the same value.
public import BlockTypes

/// Equal words of a bitmap in a row.
public struct BitmapWords: Equatable, Sendable, BitwiseCopyable {
  /// How many.
  public var count: UInt64
  /// 64 blocks, the first one in the lowest bit.
  public var word: UInt64

  /// Joins the parts.
  public init(count: UInt64, word: UInt64) {
    self.count = count
    self.word = word
  }
}

/// Superblock, hot extents and bitmaps of one volume.
public struct MetadataDump: Equatable, Sendable {
  /// The superblock that counts.
  public var superblock: Superblock
  /// Extents that may have been written when the node stopped, in rising order; `nil` when that is
  /// unknown, so that every block counts as different. Empty after a clean stop.
  public var hotExtents: [UInt32]?
  /// The bitmap of each peer of the superblock; empty for one that is full.
  public var bitmaps: [[BitmapWords]]

  /// Joins the parts.
  public init(superblock: Superblock, hotExtents: [UInt32]?, bitmaps: [[BitmapWords]]) {
    precondition(bitmaps.count == superblock.peers.count, "one bitmap a peer")
    self.superblock = superblock
    self.hotExtents = hotExtents
    self.bitmaps = bitmaps
  }

  /// Blocks of the volume.
  public var blockCount: UInt64 { superblock.volumeBytes / blockSize }

  /// The words of a bitmap.
  public static func words(of bitmap: borrowing BlockBitmap) -> [BitmapWords] {
    var runs: [BitmapWords] = []
    for index in 0..<bitmap.wordCount {
      let word = bitmap.word(index)
      if let last = runs.last, last.word == word {
        runs[runs.count - 1].count += 1
      } else {
        runs.append(BitmapWords(count: 1, word: word))
      }
    }
    return runs
  }

  /// Sets in `bitmap` what the dump says of the peer in `slot`: its own bits, and all hot extents.
  ///
  /// That is what a node does when it starts after a crash.
  public func apply(to bitmap: inout BlockBitmap, slot: Int) {
    precondition(bitmap.blockCount == blockCount, "a bitmap of another size")
    guard let hotExtents, !superblock.peers[slot].isFull else {
      bitmap.setAll()
      return
    }
    var index = 0
    for run in bitmaps[slot] {
      let end = index + Int(run.count)
      if run.word != 0 {
        for word in index..<end { bitmap.merge(run.word, atWord: word) }
      }
      index = end
    }
    for extent in hotExtents {
      let range = ActivityLog.range(ofExtent: extent)
      bitmap.set(ByteRange(start: range.start, end: min(range.end, superblock.volumeBytes)))
    }
  }
}

extension StoredDiskState {
  /// As DRBD writes it.
  var name: String {
    switch self {
    case .inconsistent: "Inconsistent"
    case .outdated: "Outdated"
    case .upToDate: "UpToDate"
    }
  }
}

extension MetadataDump {
  /// The text, without comments about where and when.
  public var text: String {
    var text = ""
    func line(_ words: String) { text += words + "\n" }
    func answer(_ yes: Bool) -> String { yes ? "yes" : "no" }
    line("version \"v\(Superblock.version)\";\n")
    line("# sequence \(superblock.sequence)")
    line("resource \"\(Self.quoted(superblock.resource))\";")
    line("node-id \(superblock.node.value);")
    line("la-size-sect \(superblock.volumeBytes / sectorSize);")
    line("bm-byte-per-bit \(blockSize);")
    line("device-uuid \(Self.hexadecimal(superblock.deviceID));")
    line("max-peers \(superblock.maxPeers);")
    line("al-run \(superblock.activityLogRun);")
    line("disk-state \(superblock.diskState.name);")
    line("dirty \(answer(superblock.dirty));")
    line("was-primary \(answer(superblock.wasPrimary));")
    line("lineage {")
    for generation in superblock.lineage.generations {
      line("    generation \(Self.words(generation));")
    }
    line("}")
    appendHotExtents(to: &text)
    for (peer, bitmap) in zip(superblock.peers, bitmaps) {
      line("peer \(peer.node.value) {")
      if let base = peer.base { line("    base \(Self.words(base));") }
      line("    full \(answer(peer.isFull));")
      if !peer.isFull { Self.append(bitmap, to: &text) }
      line("}")
    }
    return text
  }

  private func appendHotExtents(to text: inout String) {
    guard let hotExtents else {
      text += "activity-log unknown;\n"
      return
    }
    text += "activity-log {\n"
    var position = 0
    while position < hotExtents.count {
      let first = hotExtents[position]
      var count: UInt32 = 1
      while position + Int(count) < hotExtents.count,
        hotExtents[position + Int(count)] == first + count
      {
        count += 1
      }
      text += "    extent \(first)" + (count > 1 ? " count \(count);\n" : ";\n")
      position += Int(count)
    }
    text += "}\n"
  }

  private static func append(_ bitmap: [BitmapWords], to text: inout String) {
    text += "    bm {\n"
    var word: UInt64 = 0
    var bits: UInt64 = 0
    for (index, run) in bitmap.enumerated() {
      let follows = index > 0 && bitmap[index - 1].word != 0
      if run.word != 0, !follows { text += "        # at \(word * 64 * blockSize / 1024)kB\n" }
      text += run.count > 1 ? "        \(run.count) times " : "        "
      text += hexadecimal(run.word) + ";\n"
      word += run.count
      bits += run.count * UInt64(run.word.nonzeroBitCount)
    }
    text += "    }\n    # bits-set \(bits);\n"
  }

  private static func words(_ generation: Generation) -> String {
    "\(generation.number) \(hexadecimal(generation.id)) author \(generation.author.value)"
  }

  private static func hexadecimal(_ number: UInt64) -> String {
    let digits = String(number, radix: 16, uppercase: true)
    return "0x" + String(repeating: "0", count: 16 - digits.count) + digits
  }

  private static func quoted(_ name: String) -> String {
    var result = ""
    for character in name.unicodeScalars {
      if character == "\"" || character == "\\" { result += "\\" }
      result.unicodeScalars.append(character)
    }
    return result
  }
}
