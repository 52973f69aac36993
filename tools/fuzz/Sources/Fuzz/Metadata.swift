/// What is found on a disk: superblock copies and the ring of the activity log.
import BlockTypes
import CChecksum
import Metadata

/// The first byte chooses the structure and whether its checksum is made right.
func fuzzMetadata(_ bytes: UnsafeRawBufferPointer) {
  var input = Input(bytes)
  let choice = input.byte()
  switch choice % 5 {
  case 0: superblocks(&input, seals: choice & 128 == 0)
  case 1: ring(&input, seals: choice & 128 == 0)
  case 2: layout(&input)
  case 3: page(&input, seals: choice & 128 == 0)
  default: log(&input)
  }
}

private func superblocks(_ input: inout Input, seals: Bool) {
  let length = Int(input.byte()) << 4
  var copies = [
    copy(input.take(length), padding: Superblock.byteCount),
    copy(input.rest(), padding: Superblock.byteCount),
  ].map { Array($0.prefix(Superblock.byteCount)) }
  if seals { for index in 0..<2 { sealSuperblock(&copies[index]) } }
  let choice = copies[0].withUnsafeBytes { first in
    copies[1].withUnsafeBytes { SuperblockChoice(copyA: first, copyB: $0) }
  }
  guard case .found(let block, let index) = choice else { return }
  precondition(index == 0 || index == 1, "no such copy")
  var again = [UInt8](repeating: 0xEE, count: Superblock.byteCount)
  again.withUnsafeMutableBytes { block.encode(into: $0) }
  let second = again.withUnsafeBytes { try? Superblock(parsing: $0) }
  precondition(second == block, "a superblock that does not come back")
}

/// Puts the right magic, version and checksum into a superblock.
private func sealSuperblock(_ bytes: inout [UInt8]) {
  withUnsafeBytes(of: Superblock.magic.bigEndian) { bytes.replaceSubrange(0..<8, with: $0) }
  withUnsafeBytes(of: Superblock.version.bigEndian) { bytes.replaceSubrange(8..<12, with: $0) }
  putChecksum(&bytes, 0..<bytes.count, at: 12)
}

/// CRC32C of a range with the field itself 0.
private func putChecksum(_ bytes: inout [UInt8], _ range: Range<Int>, at field: Int) {
  for index in field..<field + 4 { bytes[index] = 0 }
  let crc = bytes.withUnsafeBytes {
    cchecksum_crc32c(0, $0.baseAddress! + range.lowerBound, range.count)
  }
  withUnsafeBytes(of: crc.bigEndian) { bytes.replaceSubrange(field..<field + 4, with: $0) }
}

/// A page that is refused marks every block of it; one that is believed comes back.
private func page(_ input: inout Input, seals: Bool) {
  guard let node = NodeID(1) else { return }
  let page = BitmapPage(deviceID: 0, slot: 0, node: node, number: 0)
  var bytes = Array(copy(input.rest(), padding: BitmapPage.byteCount).prefix(BitmapPage.byteCount))
  if seals {
    bytes.replaceSubrange(4..<8, with: [0x41, 0x42, 0x4D, 0x50])
    bytes.replaceSubrange(8..<26, with: [UInt8](repeating: 0, count: 17) + [1])
    putChecksum(&bytes, 0..<bytes.count, at: 0)
  }
  var bitmap = BlockBitmap(blockCount: 2 * BlockBitmap.blocksPerPage)
  bitmap.clearAll()
  do {
    try bytes.withUnsafeBytes { raw in
      try page.load(raw, into: &bitmap)
    }
  } catch {
    precondition(bitmap.setCount == BlockBitmap.blocksPerPage, "damage has not widened the resync")
  }
}

private func layout(_ input: inout Input) {
  let bytes = input.number()
  let peers = UInt64(input.byte() % 9)
  guard let layout = try? MetadataLayout.internal(deviceBytes: bytes, maxPeers: max(1, peers))
  else { return }
  precondition(layout.volumeBytes <= bytes, "a volume larger than its disk")
  precondition(layout.volumeBytes % blockSize == 0, "a volume of part of a block")
}
