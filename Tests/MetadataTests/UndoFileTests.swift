/// The bytes of an undo file: golden, round trip, and every damage is seen.
import BlockTypes
import Metadata
import TestSupport
import Testing

@Suite struct UndoFileTests {
  private var header: UndoHeader {
    var header = UndoHeader(
      resource: "r0", volumeBytes: 1 << 20, node: node(1), peer: node(0))
    header.fileBytes = 4096 + 2 * 32 + 8192
    header.recordCount = 2
    header.keptBytes = 8192 + 4096
    header.keptAt = 0x6553_F100
    header.newest = Generation(number: 3, id: 0x0102, author: node(1))
    header.ancestor = Generation(number: 2, id: 0x0304, author: node(0))
    return header
  }

  private func encoded(_ header: UndoHeader) -> [UInt8] {
    var bytes = [UInt8](repeating: 0xFF, count: UndoHeader.byteCount)
    bytes.withUnsafeMutableBytes { header.encode(into: $0) }
    return bytes
  }

  private func parseHeader(_ bytes: [UInt8]) throws -> UndoHeader {
    try bytes.withUnsafeBytes { try UndoHeader(parsing: $0) }
  }

  /// Golden bytes: a change here is a change of the format and needs a new version.
  @Test func headerIsStable() {
    let bytes = encoded(header)
    #expect(Array(bytes[0..<12]) == Array("ASHLUNDO".utf8) + [0, 0, 0, 1])
    #expect(Array(bytes[16..<24]) == [0, 0, 0, 0, 0, 0x10, 0, 0])
    #expect(Array(bytes[24..<32]) == [0, 0, 0, 0, 0, 0, 0x30, 0x40])
    #expect(bytes[39] == 2)
    #expect(Array(bytes[40..<48]) == [0, 0, 0, 0, 0, 0, 0x30, 0])
    #expect(Array(bytes[48..<62]) == [0, 0, 0, 0, 0x65, 0x53, 0xF1, 0, 1, 0, 0, 0, 6, 2])
    #expect(Array(bytes[64..<81]) == [0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 1, 2, 1])
    #expect(Array(bytes[88..<105]) == [0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 3, 4, 0])
    #expect(Array(bytes[136..<138]) == Array("r0".utf8))
    #expect(bytes[138...].allSatisfy { $0 == 0 })
  }

  @Test func headerComesBack() throws {
    var other = header
    other.isWhole = true
    other.survivor = Generation(number: 9, id: 7, author: node(0))
    other.volume = 3
    for header in [header, other] { #expect(try parseHeader(encoded(header)) == header) }
  }

  @Test func everyFlippedBitOfAHeaderIsSeen() {
    let bytes = encoded(header)
    for bit in stride(from: 0, to: 160 * 8, by: 1) {
      var damaged = bytes
      damaged[bit / 8] ^= 1 << UInt8(bit % 8)
      #expect(throws: UndoFileError.self, "bit \(bit)") { try parseHeader(damaged) }
    }
  }

  @Test func headerThatWasNeverWrittenIsNoUndoFile() {
    #expect(throws: UndoFileError.noMagic(found: 0)) {
      try parseHeader([UInt8](repeating: 0, count: UndoHeader.byteCount))
    }
  }

  /// Fields that no correct program writes, with a checksum that is right.
  @Test func impossibleFieldsAreRefused() {
    let fields: [WritableKeyPath<UndoHeader, UInt64>] = [
      \.volumeBytes, \.keptBytes, \.recordCount, \.fileBytes,
    ]
    for (index, field) in fields.enumerated() {
      for value: UInt64 in [100, 4 << 20, .max] where index != 0 || value != 4 << 20 {
        var header = header
        header[keyPath: field] = value
        #expect(throws: UndoFileError.self, "\(index) \(value)") {
          try parseHeader(encoded(header))
        }
      }
    }
  }

  private func head(_ record: UndoRecord, _ content: [UInt8]) -> [UInt8] {
    var bytes = [UInt8](repeating: 0xFF, count: UndoRecord.byteCount)
    bytes.withUnsafeMutableBytes { bytes in
      content.withUnsafeBytes { record.encode(into: bytes, content: $0) }
    }
    return bytes
  }

  private func parseRecord(_ head: [UInt8]) throws -> UndoRecord {
    try head.withUnsafeBytes { try UndoRecord(parsing: $0, of: header, at: 4096) }
  }

  @Test func recordIsStable() throws {
    let record = UndoRecord(range: ByteRange(start: 0x3000, end: 0x4000), isZeroes: false)
    let content = [UInt8](repeating: 0xA5, count: 4096)
    let bytes = head(record, content)
    #expect(Array(bytes[0..<4]) == Array("UREC".utf8))
    #expect(Array(bytes[8..<24]) == [0, 0, 0, 0, 0, 0, 0x30, 0, 0, 0, 0, 0, 0, 0, 0x10, 0])
    #expect(bytes[24...].allSatisfy { $0 == 0 })
    #expect(try parseRecord(bytes) == record)

    let zeroes = UndoRecord(range: ByteRange(start: 0, end: 1 << 20), isZeroes: true)
    #expect(head(zeroes, [])[27] == 1)
    #expect(try parseRecord(head(zeroes, [])) == zeroes)
    #expect(zeroes.contentBytes == 0)
  }

  @Test func everyFlippedBitOfARecordIsSeen() {
    let record = UndoRecord(range: ByteRange(start: 0x3000, end: 0x4000), isZeroes: false)
    let content = [UInt8](repeating: 0xA5, count: 4096)
    let bytes = head(record, content) + content
    for bit in 0..<(bytes.count * 8) {
      var damaged = bytes
      damaged[bit / 8] ^= 1 << UInt8(bit % 8)
      let parsed = try? parseRecord(Array(damaged[..<32]))
      let isIntact = damaged.withUnsafeBytes {
        UndoRecord.isIntact(
          UnsafeRawBufferPointer(rebasing: $0[..<32]),
          content: UnsafeRawBufferPointer(rebasing: $0[32...]))
      }
      #expect(parsed == nil || !isIntact, "bit \(bit)")
    }
  }

  @Test func recordOutsideTheVolumeIsRefused() {
    for range in [
      ByteRange(start: 1 << 20, end: (1 << 20) + 4096), ByteRange(start: 100, end: 4196),
      ByteRange(start: 4096, end: 4196),
    ] {
      let content = [UInt8](repeating: 1, count: Int(range.length))
      #expect(throws: UndoFileError.self) {
        try parseRecord(head(UndoRecord(range: range, isZeroes: false), content))
      }
    }
  }
}
