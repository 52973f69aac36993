/// The metadata of a volume: reading it when a disk is attached, and writing what the core wants.
///
/// A superblock goes to the older copy first. When that is on the disk and the core has nothing
/// newer, the other copy is brought up to date, so that rot of either loses nothing. The two are
/// never written at the same time.
import BlockIO
import BlockTypes
import Exports
import Glibc
import Metadata
import Replication

/// How far the metadata of a disk was read: the activity log after a crash, then the bitmaps.
struct MetadataLoading {
  /// What may be read at once, and how many buffers of that size are left to others: half of the
  /// pool. A disk that does not answer keeps its buffer, and clients need more than sixteen of
  /// 1 MiB to be free; so with many such disks at the start, the later ones take smaller pieces.
  private static let pieces: [(bytes: Int, left: Int)] = {
    let pool = BufferPoolSizes()
    return [
      (1 << 20, pool.huge / 2), (256 << 10, pool.large / 2), (32 << 10, pool.medium / 2),
      (BitmapPage.byteCount, 0),
    ]
  }()

  /// A buffer for the largest piece that leaves enough to others; `nil` when none is free at all.
  static func allocate(_ reactor: inout Reactor) -> (buffer: BufferID, bytes: Int)? {
    for (bytes, left) in pieces {
      if let buffer = reactor.allocate(UInt32(bytes), reserve: UInt32(left)) {
        return (buffer, bytes)
      }
    }
    return nil
  }

  var superblock: Superblock?
  /// The core would refuse the disk: nothing needs to be read.
  var isRefused = false
  var needsLog = false
  var hot = ActivityLogRecovery.none
  /// The next pages to be read.
  var slot = 0
  var page = 0
  /// Pages in the piece that is being read; 0 for the log.
  var pagesInPiece = 0
}

/// The activity log of a disk, put together from pieces.
struct LogRing {
  private var bytes: [UInt8] = []

  /// What has to be read next, at most `limit` bytes; counted from the start of the log.
  func next(_ limit: Int) -> Range<Int> {
    bytes.count..<min(bytes.count + limit, ActivityLog.ringBytes)
  }

  /// Takes the piece that `next` named, or `nil` where it could not be read.
  ///
  /// - Returns: the hot extents; `nil` while more has to be read.
  @safe
  mutating func take(
    _ piece: UnsafeRawBufferPointer?, for block: Superblock
  ) -> ActivityLogRecovery? {
    guard let piece = unsafe piece else {
      bytes = []
      // A log that cannot be read is as good as a damaged one: everything may differ.
      return .damaged(.unreadable)
    }
    bytes.reserveCapacity(ActivityLog.ringBytes)
    unsafe bytes.append(contentsOf: piece)
    guard bytes.count == ActivityLog.ringBytes else { return nil }
    defer { bytes = [] }
    return unsafe bytes.withUnsafeBytes { ActivityLog.recover($0, for: block) }
  }
}

extension Volume {
  /// Reads the next piece, or attaches the disk when there is none.
  mutating func readMetadata(_ reactor: inout Reactor, _ server: inout NBDServer) {
    guard var open = disk, let block = open.loading.superblock, let piece = open.piece else {
      preconditionFailure("metadata is read once its superblock is known")
    }
    let log = logRing.next(open.pieceBytes)
    var position = open.layout.activityLogOffset + UInt64(log.lowerBound)
    var length = log.count
    open.loading.pagesInPiece = 0
    if open.loading.isRefused || !open.loading.needsLog {
      let limit = open.pieceBytes / BitmapPage.byteCount
      guard let pages = nextPages(&open.loading, block, limit) else {
        disk = open
        return finishAttach(block, &reactor, &server)
      }
      position = open.layout.bitmapPageOffset(slot: open.loading.slot, page: pages.lowerBound)
      length = pages.count * BitmapPage.byteCount
      open.loading.pagesInPiece = pages.count
    }
    disk = open
    diskOperations += 1
    reactor.diskRead(
      open.metadataDescriptor, into: piece, length: UInt32(length), at: position,
      tag: NodeTag(.metadataRead, volume: index).value)
  }

  /// The pages that the next piece holds, at most `limit`; `nil` when all that count were read.
  private func nextPages(
    _ loading: inout MetadataLoading, _ block: Superblock, _ limit: Int
  ) -> Range<Int>? {
    guard !loading.isRefused else { return nil }
    while loading.slot < peerHosts.count {
      let count = replica.bitmapPageCount(loading.slot)
      if replica.hasBitmap(ofPeer: loading.slot, in: block), loading.page < count {
        return loading.page..<min(loading.page + limit, count)
      }
      loading.slot += 1
      loading.page = 0
    }
    return nil
  }

  mutating func metadataRead(
    _ result: Int32, _ reactor: inout Reactor, _ server: inout NBDServer
  ) {
    guard var open = disk, let block = open.loading.superblock, let piece = open.piece else {
      preconditionFailure("metadata was read from a disk that is not open")
    }
    guard !isLeaving else {
      detachDisk(&reactor)
      reports.append(
        .attachFailed(token: open.token, .cannotOpen("the resource is being taken down")))
      return
    }
    let memory = unsafe UnsafeRawBufferPointer(reactor.memory(of: piece))
    if open.loading.pagesInPiece == 0 {
      let count = logRing.next(open.pieceBytes).count
      let bytes = unsafe UnsafeRawBufferPointer(rebasing: memory[0..<count])
      if let hot = unsafe logRing.take(result < 0 ? nil : bytes, for: block) {
        open.loading.hot = hot
        open.loading.needsLog = false
        if case .damaged(let damage) = hot {
          reports.append(.warning("activity log: \(damage); the whole volume counts as changed"))
        }
      }
    } else {
      for offset in 0..<open.loading.pagesInPiece {
        let start = offset * BitmapPage.byteCount
        let bytes = unsafe UnsafeRawBufferPointer(
          rebasing: memory[start..<(start + BitmapPage.byteCount)])
        unsafe replica.loadPage(
          open.loading.page + offset, ofPeer: open.loading.slot, block, result < 0 ? nil : bytes)
      }
      open.loading.page += open.loading.pagesInPiece
    }
    disk = open
    readMetadata(&reactor, &server)
  }

  private mutating func finishAttach(
    _ block: Superblock, _ reactor: inout Reactor, _ server: inout NBDServer
  ) {
    guard let open = disk else { return }
    if let piece = open.piece { reactor.release(piece) }
    disk?.piece = nil
    // Given up before the node ended: by its administrator, by a policy, or in a clean stop.
    if !block.wasPrimary { wantsPrimary = false }
    heldGeneration = block.lineage.newest
    replica.attach(
      block, hot: open.loading.hot, token: open.token, at: reactor.now, entropy: entropy.next())
    // A refusal leaves the core Diskless: then the disk is not ours.
    if replica.superblock == nil { detachDisk(&reactor) }
    carryOut(&reactor, &server)
  }

  // MARK: Writing

  /// Writes the core's superblock as it is now over the older copy.
  mutating func writeSuperblock(_ reactor: inout Reactor) {
    guard var open = disk, var block = replica.superblock else {
      preconditionFailure("the core writes superblocks only while a disk is attached")
    }
    guard !open.isWritingCopy else {
      disk?.wantsSuperblock = true
      return
    }
    open.wantsSuperblock = false
    open.wantsMirror = false
    open.isWritingCopy = true
    open.sequence += 1
    block.sequence = open.sequence
    let memory = unsafe reactor.memory(of: open.nextCopy == 0 ? open.copies.0 : open.copies.1)
    unsafe block.encode(
      into: UnsafeMutableRawBufferPointer(rebasing: memory[0..<Superblock.byteCount]))
    disk = open
    writeCopy(.superblockWrite, &reactor)
  }

  private mutating func writeCopy(_ kind: TagKind, _ reactor: inout Reactor) {
    guard let open = disk else { return }
    diskOperations += 1
    reactor.diskWrite(
      open.metadataDescriptor, from: open.nextCopy == 0 ? open.copies.0 : open.copies.1,
      length: UInt32(Superblock.byteCount), at: open.offset(ofCopy: open.nextCopy), durable: true,
      tag: NodeTag(kind, volume: index).value)
  }

  /// A copy of the superblock was written, or could not be.
  mutating func copyWritten(
    _ result: Int32, isMirror: Bool, _ reactor: inout Reactor, _ server: inout NBDServer
  ) {
    guard var open = disk else { preconditionFailure("a copy of a disk that is not open") }
    let isAwaited = open.wantsSuperblock
    open.isWritingCopy = false
    open.wantsSuperblock = false
    if result >= 0 { open.nextCopy = 1 - open.nextCopy }
    open.wantsMirror = !isMirror && result >= 0
    disk = open
    if !isMirror {
      step(.superblockWritten(result: result), &reactor, &server)
    } else if result < 0 {
      step(.superblockCopyFailed, &reactor, &server)
    }
    if isAwaited {
      guard replica.superblock == nil else { return writeSuperblock(&reactor) }
      // The core let the disk go while it waited, and the disk may be closed. Nothing was written,
      // and nothing failed.
      step(.superblockWritten(result: 0), &reactor, &server)
    } else if let open = disk, open.wantsMirror, !open.isWritingCopy {
      mirror(&reactor)
    }
  }

  private mutating func mirror(_ reactor: inout Reactor) {
    guard let open = disk else { return }
    let (old, new) = open.nextCopy == 0 ? open.copies : (open.copies.1, open.copies.0)
    unsafe reactor.memory(of: old).copyMemory(
      from: UnsafeRawBufferPointer(rebasing: reactor.memory(of: new)[0..<Superblock.byteCount]))
    disk?.wantsMirror = false
    disk?.isWritingCopy = true
    writeCopy(.mirrorWrite, &reactor)
  }

  mutating func writeBitmapPage(_ entry: UInt8, _ reactor: inout Reactor) {
    guard let open = disk else { preconditionFailure("pages are written to a disk") }
    let start = Int(entry) * BitmapPage.byteCount
    let memory = unsafe reactor.memory(of: open.pages)
    let (slot, page) = unsafe replica.encodePage(
      entry,
      into: UnsafeMutableRawBufferPointer(rebasing: memory[start..<(start + BitmapPage.byteCount)]))
    diskOperations += 1
    reactor.diskWrite(
      open.metadataDescriptor, from: open.pages, bufferOffset: UInt32(start),
      length: UInt32(BitmapPage.byteCount),
      at: open.layout.bitmapPageOffset(slot: slot, page: page), durable: true,
      tag: NodeTag(
        .bitmapPageWrite, volume: index, id: SlotID(slot: UInt32(entry), generation: 0)
      ).value)
  }

  mutating func writeActivityLog(_ reactor: inout Reactor) {
    guard let open = disk else { preconditionFailure("the log is written to a disk") }
    let memory = unsafe reactor.memory(of: open.transaction)
    let offset = unsafe replica.encodeActivityLog(
      into: UnsafeMutableRawBufferPointer(rebasing: memory[0..<ActivityLog.transactionBytes]))
    diskOperations += 1
    reactor.diskWrite(
      open.metadataDescriptor, from: open.transaction,
      length: UInt32(ActivityLog.transactionBytes), at: open.layout.activityLogOffset + offset,
      durable: true, tag: NodeTag(.activityLogWrite, volume: index).value)
  }
}
