/// The backing disk of a volume: opening, reading the superblock, letting go. What else is read and
/// written of the metadata is in `Volume+Metadata.swift`.
import BlockIO
import BlockTypes
import Configuration
import Exports
import Glibc
import Metadata
import Replication

/// An open backing disk and where its metadata is. The devices themselves are owned by the volume.
struct AttachedDisk {
  let dataDescriptor: Int32
  let metadataDescriptor: Int32
  let placement: MetadataPlacement
  /// Right for the number of bitmap slots in the superblock once that was read.
  var layout: MetadataLayout
  /// Two 4 KiB buffers: the copies while they are read, then the one that is written.
  let copies: (BufferID, BufferID)
  /// `Replica.pageWriteLimit` pages of bitmaps on their way to the disk.
  let pages: BufferID
  /// A transaction of the activity log.
  let transaction: BufferID
  /// A piece of the metadata while it is read; `nil` when all was read.
  var piece: BufferID?
  /// Bytes that are read into it at once.
  let pieceBytes: Int
  var loading = MetadataLoading()
  var sequence: UInt64 = 0
  /// The copy that the next write goes to.
  var nextCopy = 0
  var isWritingCopy = false
  /// The core waits for its superblock, which waits for the second copy of the one before.
  var wantsSuperblock = false
  /// One copy was written, the other one is older.
  var wantsMirror = false
  var readsLeft = 2
  /// Why a superblock copy could not be read; 0 when it was.
  var readErrors: (Int32, Int32) = (0, 0)
  /// The attach command that waits.
  var token: UInt64
  var isDetached = false

  /// What a detached disk is waited for.
  static let owesAnswers = "the old disk has not answered yet"

  func offset(ofCopy copy: Int) -> UInt64 {
    copy == 0 ? layout.superblockOffsets.0 : layout.superblockOffsets.1
  }
}

extension Volume {
  /// Opens the disk and begins to read both superblock copies. `token` is answered by a report.
  /// A disk in use is waited for up to `patienceMs`, and every volume of the node with it.
  mutating func beginAttach(_ token: UInt64, patienceMs: UInt64, _ reactor: inout Reactor) {
    if let disk {
      reports.append(
        disk.isDetached
          ? .attachFailed(token: token, .oldDiskBusy)
          : .reply(token: token, .refused(.alreadyAttached)))
      return
    }
    guard let volume = host.volume(0) else {
      reports.append(.attachFailed(token: token, .cannotOpen("no volume 0 is configured")))
      return
    }
    let open: AttachedDisk
    do {
      open = try self.open(volume, token, patienceMs, &reactor)
    } catch {
      dataDevice = nil
      metadataDevice = nil
      reports.append(.attachFailed(token: token, error.failure))
      return
    }
    disk = open
    for copy in 0...1 {
      diskOperations += 1
      reactor.diskRead(
        open.metadataDescriptor, into: copy == 0 ? open.copies.0 : open.copies.1,
        length: UInt32(Superblock.byteCount), at: open.offset(ofCopy: copy),
        tag: NodeTag(
          .superblockRead, volume: index, id: SlotID(slot: UInt32(copy), generation: 0)
        ).value)
    }
  }

  /// Carries a failure out of `open`.
  private struct OpenError: Error {
    let failure: AttachFailure
  }

  private mutating func open(
    _ volume: VolumeConfiguration, _ token: UInt64, _ patienceMs: UInt64, _ reactor: inout Reactor
  ) throws(OpenError) -> AttachedDisk {
    let data = try Self.device(volume.disk, patienceMs)
    do {
      try data.requireSectors()
    } catch {
      throw OpenError(failure: .cannotOpen("\(error)"))
    }
    let descriptor = data.descriptor
    let dataBytes = data.byteCount
    dataDevice = consume data
    var metadataDescriptor = descriptor
    var placement = MetadataPlacement.internal(deviceBytes: dataBytes)
    if case .external(let path) = volume.metaDisk {
      let device = try Self.device(path, patienceMs)
      metadataDescriptor = device.descriptor
      placement = .external(dataBytes: dataBytes, metadataBytes: device.byteCount)
      metadataDevice = consume device
    }
    let layout: MetadataLayout
    do {
      layout = try placement.layout(maxPeers: 1)
    } catch {
      throw OpenError(failure: .cannotOpen("\(volume.disk): \(error)"))
    }
    let sizes = [
      Superblock.byteCount, Superblock.byteCount, Replica.pageWriteLimit * BitmapPage.byteCount,
      ActivityLog.transactionBytes,
    ]
    var buffers: [BufferID] = []
    for size in sizes {
      if let buffer = reactor.allocate(UInt32(size)) { buffers.append(buffer) }
    }
    guard buffers.count == sizes.count, let piece = MetadataLoading.allocate(&reactor) else {
      for buffer in buffers { reactor.release(buffer) }
      throw OpenError(failure: .cannotOpen("no buffer is free; try again"))
    }
    return AttachedDisk(
      dataDescriptor: descriptor, metadataDescriptor: metadataDescriptor, placement: placement,
      layout: layout, copies: (buffers[0], buffers[1]), pages: buffers[2], transaction: buffers[3],
      piece: piece.buffer, pieceBytes: piece.bytes, token: token)
  }

  private static func device(
    _ path: String, _ patienceMs: UInt64
  ) throws(OpenError) -> BlockDevice {
    do {
      return try BlockDevice(path: path, patienceMs: patienceMs)
    } catch {
      throw OpenError(failure: .cannotOpen("\(error)"))
    }
  }

  mutating func superblockRead(
    _ copy: Int, _ result: Int32, _ reactor: inout Reactor, _ server: inout NBDServer
  ) {
    guard var open = disk else {
      preconditionFailure("a superblock was read from a disk that is not open")
    }
    open.readsLeft -= 1
    if result < 0 {
      if copy == 0 { open.readErrors.0 = -result } else { open.readErrors.1 = -result }
    }
    let token = open.token
    guard open.readsLeft == 0 else {
      disk = open
      return
    }
    let outcome = unsafe Self.examine(
      &open, reactor.memory(of: open.copies.0), reactor.memory(of: open.copies.1),
      peerCount: peerHosts.count)
    disk = open
    guard !isLeaving else {
      detachDisk(&reactor)
      reports.append(.attachFailed(token: token, .cannotOpen("the resource is being taken down")))
      return
    }
    switch outcome {
    case .success(let block):
      disk?.loading.superblock = block
      disk?.loading.needsLog = block.dirty
      if !replica.prepareAttach(block) { disk?.loading.isRefused = true }
      readMetadata(&reactor, &server)
    case .failure(let error):
      detachDisk(&reactor)
      reports.append(.attachFailed(token: token, error.failure))
    }
  }

  private static func examine(
    _ open: inout AttachedDisk, _ first: UnsafeMutableRawBufferPointer,
    _ second: UnsafeMutableRawBufferPointer, peerCount: Int
  ) -> Result<Superblock, OpenError> {
    let errors = open.readErrors
    guard errors.0 == 0 || errors.1 == 0 else {
      return .failure(OpenError(failure: .readError(errno: errors.0)))
    }
    let count = Superblock.byteCount
    // The other copy serves where one cannot be read, and the next change writes it anew.
    let choice = unsafe SuperblockChoice(
      copyA: errors.0 == 0 ? UnsafeRawBufferPointer(rebasing: first[0..<count]) : nil,
      copyB: errors.1 == 0 ? UnsafeRawBufferPointer(rebasing: second[0..<count]) : nil)
    switch choice {
    case .none: return .failure(OpenError(failure: .noMetadata))
    case .damaged(let a, let b):
      return .failure(OpenError(failure: .damaged("copy 1: \(a); copy 2: \(b)")))
    case .found(let block, let copy):
      do {
        open.layout = try open.placement.layout(maxPeers: block.maxPeers)
      } catch {
        return .failure(OpenError(failure: .cannotOpen("the disk has become too small: \(error)")))
      }
      guard block.volumeBytes == open.layout.volumeBytes else {
        return .failure(
          OpenError(
            failure: .wrongSize(
              volumeBytes: block.volumeBytes, layoutBytes: open.layout.volumeBytes)))
      }
      let blocks = (block.volumeBytes + blockSize - 1) / blockSize
      let needed = BlockBitmap.memoryBytes(blockCount: blocks) * UInt64(peerCount)
      // Small ones are not worth a look at what the host has.
      guard needed <= HostMemory.reserve || HostMemory.has(needed) else {
        return .failure(OpenError(failure: .noMemory(neededBytes: needed)))
      }
      open.sequence = block.sequence
      open.nextCopy = 1 - copy
      return .success(block)
    }
  }

  /// Closes the disk when what is in flight has ended.
  mutating func detachDisk(_ reactor: inout Reactor) {
    undo?.cancel()
    undo = nil
    guard disk != nil else { return }
    disk?.isDetached = true
    closeDiskIfIdle(&reactor)
  }

  mutating func closeDiskIfIdle(_ reactor: inout Reactor) {
    guard diskOperations == 0, starvedEffects.isEmpty, let open = disk, open.isDetached else {
      return
    }
    reactor.release(open.copies.0)
    reactor.release(open.copies.1)
    reactor.release(open.pages)
    reactor.release(open.transaction)
    if let piece = open.piece { reactor.release(piece) }
    logRing = LogRing()
    disk = nil
    dataDevice = nil
    metadataDevice = nil
  }
}
