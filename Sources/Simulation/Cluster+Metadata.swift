/// Metadata on the simulated disks: superblock copies, activity log, bitmap pages.
///
/// A superblock goes to the older copy first; when that is on the disk and the core has nothing
/// newer, the other copy is brought up to date, so that rot of either loses nothing.
import BlockTypes
import Metadata
import Replication

extension DiskPurpose {
  var isMirror: Bool {
    if case .mirror = self { true } else { false }
  }
}

extension Cluster {
  func copyStart(_ copy: Int) -> Int { volumeSectors + copy * Self.copySectors }
  var ringStart: Int { volumeSectors + 2 * Self.copySectors }
  func pageStart(_ page: Int) -> Int {
    ringStart + Self.ringSectors + page * Self.pageSectors
  }

  func bytes(_ node: SimulatedNode, _ start: Int, _ count: Int) -> [UInt8] {
    node.disk.bytes(for: (start..<(start + count)).map { node.disk.word(at: $0) })
  }

  /// Writes fresh metadata, as `create-md` does. The data is whatever the disk holds.
  package func createMetadata(_ node: SimulatedNode) {
    let block = Superblock(
      node: Self.nodeID(node.index), resource: "simulated",
      volumeBytes: UInt64(volumeSectors) * sectorSize, deviceID: entropy.next())
    node.sequence = 0
    var blocks = [block, block]
    blocks[0].sequence = 0
    blocks[1].sequence = 1
    for copy in 0...1 {
      let words = node.disk.words(for: Self.encode(blocks[copy]))
      let ticket = node.disk.submit(
        .write(words), start: copyStart(copy), count: Self.copySectors, forceUnitAccess: true,
        random: &diskRandom[node.index])
      _ = node.disk.finish(ticket, random: &diskRandom[node.index])
    }
    node.durableSuperblock = readSuperblock(node)
  }

  static func encode(_ block: Superblock) -> [UInt8] {
    var bytes = [UInt8](repeating: 0, count: Superblock.byteCount)
    unsafe bytes.withUnsafeMutableBytes { block.encode(into: $0) }
    return bytes
  }

  /// What an attach would find, and which copy the next write goes to.
  func readSuperblock(_ node: SimulatedNode) -> Superblock? {
    let copies = (0...1).map { bytes(node, copyStart($0), Self.copySectors) }
    let choice = unsafe copies[0].withUnsafeBytes { first in
      unsafe copies[1].withUnsafeBytes { second in
        SuperblockChoice(copyA: first, copyB: second)
      }
    }
    switch choice {
    case .found(let block, let copy):
      node.nextCopy = 1 - copy
      node.sequence = block.sequence
      return block
    case .none, .damaged:
      violate(.metadata, "node \(node.index) has no valid superblock: \(choice)")
      return nil
    }
  }

  // MARK: Writing

  func writeSuperblock(_ node: SimulatedNode) {
    guard !node.isWritingCopy else {
      node.wantsSuperblock = true
      return
    }
    node.wantsSuperblock = false
    node.isWritingCopy = true
    guard var block = node.replica.superblock else {
      // The disk was dropped in the same step: the core still waits for an answer.
      submit(
        node, .superblock, .read, SlotRange(start: 0, count: 0), forceUnitAccess: false)
      node.pendingSuperblock = nil
      return
    }
    node.sequence += 1
    block.sequence = node.sequence
    node.pendingSuperblock = block
    say(
      """
      node \(node.index) writes superblock \(block.sequence): \(block.diskState) dirty \
      \(block.dirty) primary \(block.wasPrimary) lineage \(Self.text(block.lineage)) base \
      \(block.peers.first?.base.map(Self.text) ?? "-") full \
      \(block.peers.first?.isFull ?? true) run \(block.activityLogRun)
      """)
    let words = node.disk.words(for: Self.encode(block))
    if options.canary != .leaveOtherCopy { node.mirrored = words }
    writeCopy(node, words, .superblock)
    guard options.canary == .writeBothCopies else { return }
    node.mirrored = nil
    let other = SlotRange(start: copyStart(1 - node.nextCopy), count: Self.copySectors)
    submit(node, .untimely, .write(words), other, forceUnitAccess: true)
  }

  private func writeCopy(_ node: SimulatedNode, _ words: [UInt64], _ purpose: DiskPurpose) {
    let range = SlotRange(start: copyStart(node.nextCopy), count: Self.copySectors)
    let isDurable = options.canary != .cacheSuperblock
    submit(node, purpose, .write(words), range, forceUnitAccess: isDurable)
  }

  func copyEnded(_ node: SimulatedNode, isMirror: Bool, _ result: Int32) {
    node.isWritingCopy = false
    let isBlank = !isMirror && node.pendingSuperblock == nil
    if !isBlank { node.wroteCopyInEpoch = result >= 0 ? node.epoch : -1 }
    let changesCopy = !isBlank && options.canary != .writeOneCopy
    if changesCopy, result >= 0 { node.nextCopy = 1 - node.nextCopy }
    if !isMirror {
      if let block = node.pendingSuperblock {
        // A write that fails may be there all the same.
        isDurable(result >= 0 ? block : readSuperblock(node), node)
      }
      node.pendingSuperblock = nil
      let epoch = node.epoch
      step(node, .superblockWritten(result: min(result, 0)))
      guard node.epoch == epoch else { return }
    } else if result < 0 {
      let epoch = node.epoch
      step(node, .superblockCopyFailed)
      guard node.epoch == epoch else { return }
    }
    if node.wantsSuperblock {
      writeSuperblock(node)
    } else if !node.isWritingCopy, let words = node.mirrored, result >= 0 {
      node.mirrored = nil
      node.isWritingCopy = true
      writeCopy(node, words, .mirror)
    }
  }

  func writeBitmapPage(_ node: SimulatedNode, _ entry: UInt8) {
    var bytes = [UInt8](repeating: 0, count: BitmapPage.byteCount)
    let place = unsafe bytes.withUnsafeMutableBytes { node.replica.encodePage(entry, into: $0) }
    say("node \(node.index) writes page \(place.page) of its bitmap")
    submit(
      node, .bitmapPage(entry), .write(node.disk.words(for: bytes)),
      SlotRange(start: pageStart(place.page), count: Self.pageSectors),
      forceUnitAccess: options.canary != .cacheBitmapPages)
  }

  func writeActivityLog(_ node: SimulatedNode) {
    var bytes = [UInt8](repeating: 0, count: ActivityLog.transactionBytes)
    let offset = unsafe bytes.withUnsafeMutableBytes {
      node.replica.encodeActivityLog(into: $0)
    }
    say("node \(node.index) writes its activity log at \(offset)")
    submit(
      node, .activityLog, .write(node.disk.words(for: bytes)),
      SlotRange(start: ringStart + Int(offset) / 512, count: ActivityLog.transactionBytes / 512),
      forceUnitAccess: options.canary != .cacheActivityLog)
  }

  // MARK: Reading

  /// Copies the sectors of the ring that changed since it was read last: a megabyte each time
  /// would be most of the work of a small run.
  private func refreshRing(_ node: SimulatedNode) {
    if node.ring.isEmpty {
      node.ring = [UInt8](repeating: 0, count: Self.ringSectors * 512)
      node.ringWords = [UInt64](repeating: 0, count: Self.ringSectors)
    }
    for sector in 0..<Self.ringSectors {
      let word = node.disk.word(at: ringStart + sector)
      guard word != node.ringWords[sector] else { continue }
      node.ringWords[sector] = word
      node.ring.replaceSubrange(
        (sector * 512)..<(sector * 512 + 512), with: node.disk.bytes(for: [word]))
    }
  }

  /// What the activity log says after a crash.
  private func readLog(_ node: SimulatedNode, _ block: Superblock) -> ActivityLogRecovery {
    guard block.dirty else { return .none }
    refreshRing(node)
    let recovery = unsafe node.ring.withUnsafeBytes {
      ActivityLog.recover(
        $0, deviceID: block.deviceID, run: block.activityLogRun,
        volumeBytes: block.volumeBytes * options.activityLogScale)
    }
    if case .damaged(let damage) = recovery, !node.logHasRotted {
      violate(.metadata, "node \(node.index) has a damaged activity log: \(damage)")
    }
    return recovery
  }

  /// Gives the core the metadata on the disk.
  package func attach(_ index: Int) {
    let node = nodes[index]
    guard let block = readSuperblock(node) else { return }
    node.durableSuperblock = block
    let hot = readLog(node, block)
    say(
      """
      node \(index) attaches: \(block.diskState) dirty \(block.dirty) primary \(block.wasPrimary) \
      lineage \(Self.text(block.lineage)) base \(block.peers.first?.base.map(Self.text) ?? "-") \
      full \(block.peers.first?.isFull ?? true) hot \(hot)
      """)
    if node.replica.prepareAttach(block), node.replica.hasBitmap(ofPeer: 0, in: block) {
      for page in 0..<node.replica.bitmapPageCount(0) {
        guard !metadataRandom.chance(options.passingReadErrors) else {
          say("node \(index) cannot read page \(page) of its bitmap this time")
          node.replica.loadPage(page, ofPeer: 0, block, nil)
          continue
        }
        let bytes = bytes(node, pageStart(page), Self.pageSectors)
        unsafe bytes.withUnsafeBytes { node.replica.loadPage(page, ofPeer: 0, block, $0) }
      }
    }
    node.replica.attach(block, hot: hot, token: 0, at: clock(node), entropy: entropy.next())
    finishStep(node)
  }

  /// Remembers which blocks the disk of a node without a core says may differ.
  func readMarks(_ node: SimulatedNode) {
    guard let block = node.durableSuperblock else { return }
    var bitmap = BlockBitmap(
      blockCount: UInt64(options.volumeBlocks), pageBlocks: Self.pageBlocks)
    if let record = block.peers.first, !record.isFull {
      for page in 0..<bitmap.pageCount {
        let name = BitmapPage(
          deviceID: block.deviceID, slot: 0, node: record.node, number: page)
        let bytes = bytes(node, pageStart(page), Self.pageSectors)
        unsafe bytes.withUnsafeBytes { try? name.load($0, into: &bitmap) }
      }
    } else {
      bitmap.setAll()
    }
    let log = readLog(node, block)
    if case .damaged = log { bitmap.setAll() }
    let blocksPerExtent = ActivityLog.extentBytes / options.activityLogScale / blockSize
    if case .extents(let extents) = log {
      for extent in extents {
        let first = min(UInt64(extent) * blocksPerExtent, bitmap.blockCount)
        bitmap.setBlocks(first..<min(first + blocksPerExtent, bitmap.blockCount))
      }
    }
    for index in node.marksOnDisk.indices {
      node.marksOnDisk[index] = bitmap[BlockIndex(UInt64(index))]
    }
  }
}
