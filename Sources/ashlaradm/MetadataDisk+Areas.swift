/// Activity log and bitmaps of a volume that the daemon does not use, and changes of all metadata.

import BlockTypes
import Configuration
import Metadata

extension MetadataDisk {
  /// Bytes read or written at once.
  private static let chunkBytes = 1 << 20

  /// The superblock, which must be there, be valid and belong to `target`; and which copy it is.
  mutating func validSuperblock(
    of target: Target
  ) throws(CommandFailure) -> (superblock: Superblock, copy: Int) {
    let name = target.resource.name
    switch try superblock() {
    case .none:
      throw CommandFailure(
        ExitStatus.usage, "No valid meta data found",
        "on \(metadataPath): run 'ashlaradm create-md \(name)'")
    case .damaged(let first, let second):
      throw CommandFailure(
        ExitStatus.usage, "No valid meta data found",
        "on \(metadataPath): copy 0: \(first); copy 1: \(second)",
        "Nothing was changed. If a peer has the data, run 'ashlaradm create-md \(name)': it is",
        "copied from there in full. If no peer has it, keep an image of this disk first; then",
        "run 'ashlaradm restore-md \(name) FILE' with an earlier dump, or 'create-md' and",
        "'primary --force', which declares the data to be good as it is.")
    case .found(let block, let copy):
      guard block.resource == name, block.node == target.host.nodeID else {
        throw CommandFailure(
          ExitStatus.usage,
          "\(metadataPath) has meta data of resource '\(block.resource)', node id "
            + "\(block.node.value), not of '\(name)', node id \(target.host.nodeID.value)",
          "Correct the disk in the configuration; nothing was changed.")
      }
      try makeRoom(maxPeers: block.maxPeers)
      guard block.volumeBytes == layout.volumeBytes else {
        throw CommandFailure(
          ExitStatus.usage,
          "the meta data on \(metadataPath) is of a volume of \(block.volumeBytes) bytes, the disk "
            + "has room for \(layout.volumeBytes)",
          "The size of \(dataPath) was changed: restore the old one.")
      }
      return (block, copy)
    }
  }

  /// What is worth knowing beside the dump: a copy or a log that is damaged.
  func notes(_ superblock: Superblock, copy: Int) -> [String] {
    var notes = ["copy \(copy) counts"]
    if let error = errorOfCopy(1 - copy) { notes.append("copy \(1 - copy): \(error)") }
    if superblock.dirty, case .damaged(let damage) = activityLog(superblock) {
      notes.append("activity log: \(damage)")
    }
    return notes
  }

  /// Everything, as a start after a crash would see it.
  func dump(_ superblock: Superblock) throws(CommandFailure) -> MetadataDump {
    var bitmaps: [[BitmapWords]] = []
    for slot in superblock.peers.indices {
      guard !superblock.peers[slot].isFull else {
        bitmaps.append([])
        continue
      }
      var bitmap = BlockBitmap(blockCount: superblock.volumeBytes / blockSize)
      try load(&bitmap, slot, superblock)
      bitmaps.append(MetadataDump.words(of: bitmap))
    }
    var hotExtents: [UInt32]? = []
    if superblock.dirty {
      switch activityLog(superblock) {
      case .none: break
      case .extents(let extents): hotExtents = extents
      case .damaged: hotExtents = nil
      }
    }
    return MetadataDump(superblock: superblock, hotExtents: hotExtents, bitmaps: bitmaps)
  }

  /// A log that the disk cannot read is damaged.
  private func activityLog(_ superblock: Superblock) -> ActivityLogRecovery {
    guard let ring = try? read(metadata: layout.activityLogOffset, count: ActivityLog.ringBytes)
    else { return .damaged(.unreadable) }
    return unsafe ring.withUnsafeBytes { ActivityLog.recover($0, for: superblock) }
  }

  private func load(
    _ bitmap: inout BlockBitmap, _ slot: Int, _ superblock: Superblock
  ) throws(CommandFailure) {
    let perChunk = Self.chunkBytes / BitmapPage.byteCount
    for first in stride(from: 0, to: bitmap.pageCount, by: perChunk) {
      let count = min(perChunk, bitmap.pageCount - first)
      let bytes = try read(
        metadata: layout.bitmapPageOffset(slot: slot, page: first),
        count: count * BitmapPage.byteCount)
      for index in 0..<count {
        let page = Self.page(first + index, slot, superblock)
        let start = index * BitmapPage.byteCount
        unsafe bytes[start..<start + BitmapPage.byteCount].withUnsafeBytes { raw in
          // A damaged page is all set by now, and the dump shows that.
          _ = try? page.load(raw, into: &bitmap)
        }
      }
    }
  }

  private static func page(_ number: Int, _ slot: Int, _ superblock: Superblock) -> BitmapPage {
    BitmapPage(
      deviceID: superblock.deviceID, slot: slot, node: superblock.peers[slot].node,
      number: number)
  }

  /// Writes the bitmaps of all peers with what `dump` says of them, hot extents included.
  private func writeBitmaps(_ dump: MetadataDump) throws(CommandFailure) {
    for slot in dump.superblock.peers.indices where !dump.superblock.peers[slot].isFull {
      var bitmap = BlockBitmap(blockCount: dump.blockCount)
      dump.apply(to: &bitmap, slot: slot)
      let perChunk = Self.chunkBytes / BitmapPage.byteCount
      for first in stride(from: 0, to: bitmap.pageCount, by: perChunk) {
        let count = min(perChunk, bitmap.pageCount - first)
        var bytes = [UInt8](repeating: 0, count: count * BitmapPage.byteCount)
        for index in 0..<count {
          let page = Self.page(first + index, slot, dump.superblock)
          let start = index * BitmapPage.byteCount
          unsafe bytes[start..<start + BitmapPage.byteCount].withUnsafeMutableBytes {
            page.write(&bitmap, into: $0)
          }
        }
        try write(metadata: layout.bitmapPageOffset(slot: slot, page: first), bytes)
      }
    }
  }

  /// Makes the hot extents part of the bitmaps, and the log void.
  ///
  /// The superblock comes last: a crash before it leaves log and old superblock, and the same can
  /// be done again.
  func apply(_ dump: MetadataDump) throws(CommandFailure) {
    var block = dump.superblock
    if dump.hotExtents == nil {
      for slot in block.peers.indices { block.peers[slot].isFull = true }
    } else {
      try writeBitmaps(dump)
      try flush()
    }
    block.activityLogRun += 1
    try writeCopies(of: block)
  }

  /// Replaces all metadata by `dump`.
  ///
  /// The old superblocks go first and the new ones come last, each step on the disk before the
  /// next: a crash in between leaves no metadata, never a mixture.
  func restore(_ dump: MetadataDump) throws(CommandFailure) {
    var dump = dump
    if dump.hotExtents == nil {
      for slot in dump.superblock.peers.indices { dump.superblock.peers[slot].isFull = true }
    }
    try wipe()
    try writeBitmaps(dump)
    try flush()
    dump.superblock.sequence = 0
    try writeCopies(of: dump.superblock)
  }

  /// Removes superblocks and activity log. Pages of bitmaps are void without them: the next
  /// metadata has another device id.
  func wipe() throws(CommandFailure) {
    try zero(layout.superblockOffsets.0, UInt64(Superblock.byteCount))
    try zero(layout.superblockOffsets.1, UInt64(Superblock.byteCount))
    try flush()
    try zero(layout.activityLogOffset, MetadataLayout.activityLogBytes)
    try flush()
  }

  /// Writes the superblock with the next sequence number, the older copy first.
  private func writeCopies(of superblock: Superblock) throws(CommandFailure) {
    var block = superblock
    block.sequence += 1
    var bytes = [UInt8](repeating: 0, count: Superblock.byteCount)
    unsafe bytes.withUnsafeMutableBytes { block.encode(into: $0) }
    var older = 0
    if case .found(_, let copy) = try self.superblock() { older = 1 - copy }
    for copy in [older, 1 - older] {
      try write(metadata: offset(ofCopy: copy), bytes)
      try flush()
    }
  }
}
