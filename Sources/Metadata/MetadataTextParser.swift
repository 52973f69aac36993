/// The text of `dump-md` -> a value. Total: every text gives a value or an error that names the
/// line.
import BlockTypes

/// Why a text is no metadata.
public struct MetadataTextError: Error, Equatable, Sendable, CustomStringConvertible {
  /// Counted from 1.
  public let line: Int
  /// What is wrong.
  public let reason: String

  /// As `line 7: ...`.
  public var description: String { "line \(line): \(reason)" }
}

extension MetadataDump {
  /// Parses the UTF-8 of a text that `text` gave, with any comments and spaces.
  ///
  /// Memory is bounded by the length of the text: a count is never expanded.
  public init(parsing utf8: [UInt8]) throws(MetadataTextError) {
    var parser = MetadataTextParser(bytes: utf8)
    self = try parser.dump()
  }
}

/// One word of the text.
private enum Token: Equatable {
  case word(String)
  case number(UInt64)
  case string(String)
  case symbol(UInt8)
  case end

  var text: String {
    switch self {
    case .word(let text): "'\(text)'"
    case .number(let number): "\(number)"
    case .string(let text): "\"\(text)\""
    case .symbol(let byte): "'\(Character(Unicode.Scalar(byte)))'"
    case .end: "the end of the text"
    }
  }
}

private struct MetadataTextParser {
  let bytes: [UInt8]
  var position = 0
  var line = 1
  /// Line of the token taken last.
  var tokenLine = 1

  init(bytes: [UInt8]) { self.bytes = bytes }

  func failure(_ reason: String) -> MetadataTextError {
    MetadataTextError(line: tokenLine, reason: reason)
  }
}

// MARK: - Statements

extension MetadataTextParser {
  /// What the statements before the first peer have said.
  private struct Fields {
    var resource: String?
    var node: NodeID?
    var sectors: UInt64?
    var deviceID: UInt64?
    var maxPeers: Int?
    var run: UInt64?
    var state: StoredDiskState?
    var dirty: Bool?
    var wasPrimary: Bool?
    var lineage: Lineage?
    var hotExtents: [UInt32]??
    var hasBitSize = false
  }

  mutating func dump() throws(MetadataTextError) -> MetadataDump {
    guard try token() == .word("version"), case .string(let version) = try token() else {
      throw failure("expected 'version'")
    }
    guard version == "v\(Superblock.version)" else {
      throw failure("version \"\(version)\" is not \"v\(Superblock.version)\"")
    }
    try semicolon()
    var fields = Fields()
    var peers: [(record: PeerSlotRecord, bitmap: [BitmapWords])] = []
    while true {
      switch try token() {
      case .end: return try join(fields, peers)
      case .word("peer"): peers.append(try peer(peers.map(\.record.node), fields.sectors))
      case .word(let name): try statement(name, &fields)
      case let other: throw failure("expected a statement instead of \(other.text)")
      }
    }
  }

  private mutating func statement(
    _ name: String, _ fields: inout Fields
  ) throws(MetadataTextError) {
    switch name {
    case "resource": try set(&fields.resource, name, try resourceName())
    case "node-id": try set(&fields.node, name, try node())
    case "la-size-sect": try set(&fields.sectors, name, try sectors())
    case "device-uuid": try set(&fields.deviceID, name, try number(0...UInt64.max))
    case "max-peers":
      try set(&fields.maxPeers, name, Int(try number(1...UInt64(Superblock.peerSlotLimit))))
    case "al-run": try set(&fields.run, name, try number(0...Superblock.runLimit))
    case "disk-state": try set(&fields.state, name, try diskState())
    case "dirty": try set(&fields.dirty, name, try answer())
    case "was-primary": try set(&fields.wasPrimary, name, try answer())
    case "lineage":
      try set(&fields.lineage, name, try lineage())
      return
    case "activity-log":
      try set(&fields.hotExtents, name, try hotExtents(fields.sectors))
      return
    case "bm-byte-per-bit":
      _ = try number(blockSize...blockSize)
      fields.hasBitSize = true
    default: throw failure("unknown statement '\(name)'")
    }
    try semicolon()
  }

  private func set<Value>(
    _ field: inout Value?, _ name: String, _ value: Value
  ) throws(MetadataTextError) {
    guard field == nil else { throw failure("'\(name)' is there twice") }
    field = value
  }

  private func join(
    _ fields: Fields, _ peers: [(record: PeerSlotRecord, bitmap: [BitmapWords])]
  ) throws(MetadataTextError) -> MetadataDump {
    func need<Value>(_ value: Value?, _ name: String) throws(MetadataTextError) -> Value {
      guard let value else { throw failure("'\(name)' is missing") }
      return value
    }
    guard fields.hasBitSize else { throw failure("'bm-byte-per-bit' is missing") }
    var block = Superblock(
      node: try need(fields.node, "node-id"), resource: try need(fields.resource, "resource"),
      volumeBytes: try need(fields.sectors, "la-size-sect") * sectorSize,
      deviceID: try need(fields.deviceID, "device-uuid"))
    block.maxPeers = try need(fields.maxPeers, "max-peers")
    block.activityLogRun = try need(fields.run, "al-run")
    block.diskState = try need(fields.state, "disk-state")
    block.dirty = try need(fields.dirty, "dirty")
    block.wasPrimary = try need(fields.wasPrimary, "was-primary")
    block.lineage = try need(fields.lineage, "lineage")
    block.peers = peers.map(\.record)
    guard peers.count <= block.maxPeers else {
      throw failure("\(peers.count) peers are more than max-peers \(block.maxPeers)")
    }
    return MetadataDump(
      superblock: block, hotExtents: try need(fields.hotExtents, "activity-log"),
      bitmaps: peers.map(\.bitmap))
  }

  private mutating func resourceName() throws(MetadataTextError) -> String {
    guard case .string(let name) = try token(), !name.isEmpty,
      name.utf8.count <= Superblock.nameLimit
    else { throw failure("expected a name of at most \(Superblock.nameLimit) bytes in quotes") }
    return name
  }

  private mutating func sectors() throws(MetadataTextError) -> UInt64 {
    let perBlock = blockSize / sectorSize
    let sectors = try number(perBlock...Superblock.volumeLimit / sectorSize)
    guard sectors % perBlock == 0 else { throw failure("not a multiple of \(perBlock) sectors") }
    return sectors
  }

  private mutating func diskState() throws(MetadataTextError) -> StoredDiskState {
    let found = try token()
    guard let state = StoredDiskState.allCases.first(where: { .word($0.name) == found }) else {
      throw failure("\(found.text) is no disk state")
    }
    return state
  }

  private mutating func answer() throws(MetadataTextError) -> Bool {
    switch try token() {
    case .word("yes"): return true
    case .word("no"): return false
    case let other: throw failure("expected 'yes' or 'no' instead of \(other.text)")
    }
  }

  private mutating func node() throws(MetadataTextError) -> NodeID {
    guard let node = NodeID(try number(0...UInt64(NodeID.max))) else {
      preconditionFailure("the range was checked")
    }
    return node
  }

  private mutating func generation() throws(MetadataTextError) -> Generation {
    let number = try number(0...Lineage.numberLimit)
    let id = try self.number(0...UInt64.max)
    try word("author")
    return Generation(number: number, id: id, author: try node())
  }

  private mutating func lineage() throws(MetadataTextError) -> Lineage {
    try symbol("{")
    var generations: [Generation] = []
    while try !closes() {
      try word("generation")
      generations.append(try generation())
      try semicolon()
      guard generations.count <= Lineage.limit else {
        throw failure("more than \(Lineage.limit) generations")
      }
    }
    guard let lineage = Lineage(generations) else {
      throw failure("the numbers of the generations do not rise")
    }
    return lineage
  }

  private mutating func hotExtents(_ sectors: UInt64?) throws(MetadataTextError) -> [UInt32]? {
    guard let sectors else { throw failure("'la-size-sect' must come before 'activity-log'") }
    let perExtent = ActivityLog.extentBytes / sectorSize
    let limit = (sectors + perExtent - 1) / perExtent
    if isNext("{") == false {
      try word("unknown")
      try semicolon()
      return nil
    }
    try symbol("{")
    var extents: [UInt32] = []
    while try !closes() {
      try word("extent")
      let lowest = extents.last.map { UInt64($0) + 1 } ?? 0
      guard lowest < limit else { throw failure("extents beyond the end of the volume") }
      let first = try number(lowest...limit - 1)
      var count: UInt64 = 1
      if isNext(";") == false {
        try word("count")
        count = try number(1...limit - first)
      }
      try semicolon()
      // No log names more, which also bounds the memory that a short text can ask for.
      guard count + UInt64(extents.count) <= 2 * UInt64(ActivityLog.slotCounts.upperBound) else {
        throw failure("more extents than an activity log can name")
      }
      extents += (first..<first + count).map { UInt32($0) }
    }
    return extents
  }

  private mutating func peer(
    _ others: [NodeID], _ sectors: UInt64?
  ) throws(MetadataTextError) -> (PeerSlotRecord, [BitmapWords]) {
    guard let sectors else { throw failure("'la-size-sect' must come before 'peer'") }
    let node = try node()
    guard !others.contains(node) else { throw failure("peer \(node.value) is there twice") }
    var base: Generation?
    var isFull: Bool?
    var bitmap: [BitmapWords]?
    try symbol("{")
    while try !closes() {
      switch try token() {
      case .word("base"):
        try set(&base, "base", try generation())
        try semicolon()
      case .word("full"):
        try set(&isFull, "full", try answer())
        try semicolon()
      case .word("bm"):
        let blocks = sectors * sectorSize / blockSize
        try set(&bitmap, "bm", try words(blocks))
      case let other: throw failure("expected base, full or bm instead of \(other.text)")
      }
    }
    guard let isFull else { throw failure("'full' is missing") }
    guard isFull == (bitmap == nil) else {
      throw failure(isFull ? "a full peer has no 'bm'" : "'bm' is missing")
    }
    return (PeerSlotRecord(node: node, base: base, isFull: isFull), bitmap ?? [])
  }

  private mutating func words(_ blocks: UInt64) throws(MetadataTextError) -> [BitmapWords] {
    try symbol("{")
    var left = (blocks + 63) / 64
    var runs: [BitmapWords] = []
    while try !closes() {
      var word = try number(0...UInt64.max)
      var count: UInt64 = 1
      if isNext(";") == false {
        count = word
        try self.word("times")
        word = try number(0...UInt64.max)
      }
      try semicolon()
      guard count > 0, count <= left else { throw failure("more words than the volume has") }
      left -= count
      if left == 0, blocks % 64 != 0, word >> (blocks % 64) != 0 {
        throw failure("bits behind the end of the volume")
      }
      if let last = runs.last, last.word == word {
        runs[runs.count - 1].count += count
      } else {
        runs.append(BitmapWords(count: count, word: word))
      }
    }
    guard left == 0 else { throw failure("\(left) words are missing") }
    return runs
  }
}

// MARK: - Tokens

extension MetadataTextParser {
  private mutating func number(
    _ range: ClosedRange<UInt64>
  ) throws(MetadataTextError) -> UInt64 {
    let found = try token()
    guard case .number(let number) = found else {
      throw failure("expected a number instead of \(found.text)")
    }
    guard range.contains(number) else {
      throw failure("\(number) is outside \(range.lowerBound)-\(range.upperBound)")
    }
    return number
  }

  private mutating func word(_ word: String) throws(MetadataTextError) {
    let found = try token()
    guard found == .word(word) else {
      throw failure("expected '\(word)' instead of \(found.text)")
    }
  }

  private mutating func symbol(_ symbol: Unicode.Scalar) throws(MetadataTextError) {
    let found = try token()
    guard found == .symbol(UInt8(ascii: symbol)) else {
      throw failure("expected '\(Character(symbol))' instead of \(found.text)")
    }
  }

  private mutating func semicolon() throws(MetadataTextError) { try symbol(";") }

  /// Takes `}` when it comes next.
  private mutating func closes() throws(MetadataTextError) -> Bool {
    guard isNext("}") else { return false }
    try symbol("}")
    return true
  }

  private mutating func isNext(_ symbol: Unicode.Scalar) -> Bool {
    skipSpace()
    return position < bytes.count && bytes[position] == UInt8(ascii: symbol)
  }

  private mutating func skipSpace() {
    while position < bytes.count {
      switch bytes[position] {
      case UInt8(ascii: "\n"): line += 1
      case UInt8(ascii: " "), UInt8(ascii: "\t"), UInt8(ascii: "\r"): break
      case UInt8(ascii: "#"):
        while position < bytes.count, bytes[position] != UInt8(ascii: "\n") { position += 1 }
        continue
      default: return
      }
      position += 1
    }
  }

  private mutating func token() throws(MetadataTextError) -> Token {
    skipSpace()
    tokenLine = line
    guard position < bytes.count else { return .end }
    let first = bytes[position]
    if first == UInt8(ascii: "\"") { return try string() }
    let start = position
    while position < bytes.count, Self.isWord(bytes[position]) { position += 1 }
    if position == start {
      position += 1
      guard first < 0x80 else { throw failure("a byte outside ASCII outside of quotes") }
      return .symbol(first)
    }
    let text = bytes[start..<position]
    guard (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(first) else {
      return .word(String(decoding: text, as: UTF8.self))
    }
    let isHexadecimal = text.count > 2 && text[start + 1] == UInt8(ascii: "x")
    let digits = String(decoding: isHexadecimal ? text.dropFirst(2) : text, as: UTF8.self)
    guard let number = UInt64(digits, radix: isHexadecimal ? 16 : 10) else {
      throw failure("'\(String(decoding: text, as: UTF8.self))' is no number of 64 bits")
    }
    return .number(number)
  }

  private static func isWord(_ byte: UInt8) -> Bool {
    switch byte {
    case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
      UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "-"):
      true
    default: false
    }
  }

  private mutating func string() throws(MetadataTextError) -> Token {
    position += 1
    var text: [UInt8] = []
    while position < bytes.count {
      var byte = bytes[position]
      position += 1
      if byte == UInt8(ascii: "\"") {
        guard let string = String(validating: text, as: UTF8.self) else {
          throw failure("a name that is not UTF-8")
        }
        return .string(string)
      }
      if byte == UInt8(ascii: "\\"), position < bytes.count {
        byte = bytes[position]
        position += 1
      }
      if byte == UInt8(ascii: "\n") { line += 1 }
      text.append(byte)
    }
    throw failure("a quote that does not end")
  }
}
