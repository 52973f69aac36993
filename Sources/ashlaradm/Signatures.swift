/// What seems to be on a disk already: metadata of Ashlar or DRBD, file systems, partition tables.
///
/// A guess from known bytes at known places. It protects from a mistyped path; finding nothing
/// proves nothing.

/// Something recognised on a disk.
struct Finding: Equatable, Sendable {
  /// "ext2/3/4 file system" and the like.
  var what: String
  /// Bytes it uses from the start of the disk, where the format says so.
  var usedBytes: UInt64?
}

/// Bytes at the start of a disk that hold all signatures known here.
let signatureBytes = 68 << 10

/// What the first bytes of a disk look like.
func findings(inStart bytes: [UInt8]) -> [Finding] {
  var findings: [Finding] = []
  if little16(bytes, 1080) == 0xEF53 { findings.append(extFileSystem(bytes)) }
  if has("XFSB", at: 0, bytes) { findings.append(xfsFileSystem(bytes)) }
  if has("_BHRfS_M", at: 65600, bytes) {
    findings.append(
      Finding(what: "btrfs file system", usedBytes: little64(bytes, 65536 + 0x70)))
  }
  let names: [(String, Int, String)] = [
    ("NTFS    ", 3, "NTFS file system"), ("FAT32   ", 82, "FAT file system"),
    ("FAT16   ", 54, "FAT file system"), ("LUKS\u{BA}\u{BE}", 0, "LUKS container"),
    ("SWAPSPACE2", 4086, "swap space"), ("hsqs", 0, "squashfs file system"),
    ("QFI\u{FB}", 0, "qcow2 image"), ("EFI PART", 512, "GPT partition table"),
  ]
  for (name, offset, what) in names where has(name, at: offset, bytes) {
    findings.append(Finding(what: what, usedBytes: nil))
  }
  for sector in 0..<4 where has("LABELONE", at: sector * 512, bytes) {
    findings.append(Finding(what: "LVM physical volume", usedBytes: nil))
  }
  if findings.isEmpty && hasPartitions(bytes) {
    findings.append(Finding(what: "DOS partition table", usedBytes: nil))
  }
  return findings
}

/// Whether the last 4 KiB of a disk are DRBD's internal metadata (8.3, 8.4 or 9).
func isDRBDMetadata(_ block: [UInt8]) -> Bool {
  guard block.count >= 64 else { return false }
  let magic = big32(block, 60)
  return (0x8374_026B...0x8374_026D).contains(magic)
}

private func extFileSystem(_ bytes: [UInt8]) -> Finding {
  let blocks = UInt64(little32(bytes, 1024 + 4))
  // 64-bit file systems keep the upper half apart.
  let isWide = little32(bytes, 1024 + 96) & 0x80 != 0
  let upper = isWide ? UInt64(little32(bytes, 1024 + 336)) << 32 : 0
  let shift = little32(bytes, 1024 + 24)
  let used = shift <= 6 ? multiplied(blocks | upper, 1024 << UInt64(shift)) : nil
  let hasJournal = little32(bytes, 1024 + 92) & 0x4 != 0
  return Finding(what: hasJournal ? "ext3/4 file system" : "ext2 file system", usedBytes: used)
}

private func xfsFileSystem(_ bytes: [UInt8]) -> Finding {
  Finding(
    what: "XFS file system", usedBytes: multiplied(big64(bytes, 8), UInt64(big32(bytes, 4))))
}

/// A boot sector with at least one entry that names a type and a length.
private func hasPartitions(_ bytes: [UInt8]) -> Bool {
  guard little16(bytes, 510) == 0xAA55 else { return false }
  return (0..<4).contains { index in
    let entry = 446 + index * 16
    return bytes[entry + 4] != 0 && little32(bytes, entry + 12) != 0
  }
}

private func multiplied(_ left: UInt64, _ right: UInt64) -> UInt64? {
  let (product, overflowed) = left.multipliedReportingOverflow(by: right)
  return overflowed ? nil : product
}

/// Whether the characters of `text`, one byte each, stand at `offset`.
private func has(_ text: String, at offset: Int, _ bytes: [UInt8]) -> Bool {
  let wanted = text.unicodeScalars.map { UInt8(truncatingIfNeeded: $0.value) }
  guard offset + wanted.count <= bytes.count else { return false }
  return Array(bytes[offset..<(offset + wanted.count)]) == wanted
}

/// Bytes beyond the end read as 0: a short disk has no signature there.
private func byte(_ bytes: [UInt8], _ offset: Int) -> UInt8 {
  offset < bytes.count ? bytes[offset] : 0
}

private func little16(_ bytes: [UInt8], _ offset: Int) -> UInt32 {
  UInt32(byte(bytes, offset)) | UInt32(byte(bytes, offset + 1)) << 8
}

private func little32(_ bytes: [UInt8], _ offset: Int) -> UInt32 {
  little16(bytes, offset) | little16(bytes, offset + 2) << 16
}

private func little64(_ bytes: [UInt8], _ offset: Int) -> UInt64 {
  UInt64(little32(bytes, offset)) | UInt64(little32(bytes, offset + 4)) << 32
}

private func big32(_ bytes: [UInt8], _ offset: Int) -> UInt32 {
  little32(bytes, offset).byteSwapped
}

private func big64(_ bytes: [UInt8], _ offset: Int) -> UInt64 {
  little64(bytes, offset).byteSwapped
}
