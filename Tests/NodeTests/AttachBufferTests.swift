/// Reading the metadata of many disks at a time leaves buffers to clients.
import BlockIO
import BlockTypes
import Metadata
import TestSupport
import Testing

@testable import Node

@Suite struct AttachBufferTests {
  /// Every volume of a node waits for a disk that does not answer: each has a buffer to read into,
  /// and requests of every size go on elsewhere.
  @Test func disksThatDoNotAnswerLeaveBuffersToClients() throws {
    var options = ReactorOptions()
    options.registersMemory = false
    var reactor = try Reactor(options: options)
    var sizes: [Int] = []
    for number in 0..<NodeLoop.volumeLimit {
      let found = MetadataLoading.allocate(&reactor)
      let piece = try #require(found, "disk \(number)")
      let room = reactor.memory(of: piece.buffer).count
      #expect(room >= piece.bytes)
      sizes.append(piece.bytes)
    }
    // A node with few volumes reads as much as it can.
    #expect(sizes.prefix(32).allSatisfy { $0 == 1 << 20 })
    #expect(sizes.last == 32 << 10)
    // Of each size what the server leaves to replication, and ten more.
    for bytes: UInt32 in [4 << 10, 32 << 10, 256 << 10, 1 << 20] {
      for _ in 0..<10 {
        let buffer = reactor.allocate(bytes, reserve: 16)
        #expect(buffer != nil, "\(bytes) bytes")
      }
    }
  }

  /// Where clients hold all there is, a disk is refused; with one buffer it is read block by block.
  @Test func aDiskIsReadBlockByBlockWhereNothingElseIsFree() throws {
    var options = ReactorOptions()
    options.registersMemory = false
    options.buffers = BufferPoolSizes(small: 1, medium: 0, large: 0, huge: 0)
    var reactor = try Reactor(options: options)
    let piece = MetadataLoading.allocate(&reactor)
    #expect(piece?.bytes == BitmapPage.byteCount)
    let second = MetadataLoading.allocate(&reactor)
    #expect(second == nil)
  }

  /// The log says the same, however small the pieces are in which it is read.
  @Test(arguments: [4096, 32 << 10, 256 << 10, 1 << 20])
  func theLogIsPutTogether(pieceBytes: Int) throws {
    let (bytes, block) = try log()
    let whole = bytes.withUnsafeBytes { ActivityLog.recover($0, for: block) }
    guard case .extents(let extents) = whole else {
      Issue.record("\(whole)")
      return
    }
    #expect(!extents.isEmpty)
    var ring = LogRing()
    // Twice, as for a disk that is attached again.
    for _ in 0..<2 {
      var found: ActivityLogRecovery?
      while found == nil {
        let next = ring.next(pieceBytes)
        try #require(!next.isEmpty && next.count <= pieceBytes)
        found = bytes[next].withUnsafeBytes { ring.take($0, for: block) }
      }
      #expect(found == whole)
    }
    // One piece that cannot be read is enough.
    if pieceBytes < bytes.count {
      let first = bytes[ring.next(pieceBytes)].withUnsafeBytes { ring.take($0, for: block) }
      #expect(first == nil)
    }
    let failed = ring.take(nil, for: block)
    #expect(failed == .damaged(.unreadable))
    #expect(ring.next(pieceBytes).lowerBound == 0)
  }

  /// A log that has gone round, so that what counts is all over it.
  private func log() throws -> ([UInt8], Superblock) {
    var bytes = [UInt8](repeating: 0, count: ActivityLog.ringBytes)
    var log = ActivityLog(slotCount: 64, deviceID: 5, run: 2)
    for number in 0..<300 {
      let range = ActivityLog.range(ofExtent: UInt32(number))
      _ = log.touch(range)
      if log.wantsFlush { log.flushCompleted(log.flushBegan()) }
      let isPlanned = log.planTransaction()
      try #require(isPlanned)
      let start = Int(log.transactionOffset)
      bytes.withUnsafeMutableBytes {
        log.encodeTransaction(
          into: UnsafeMutableRawBufferPointer(
            rebasing: $0[start..<start + ActivityLog.transactionBytes]))
      }
      log.transactionWritten()
      log.unpin(range)
    }
    var block = Superblock(
      node: try #require(NodeID(0)), resource: "r0", volumeBytes: 1 << 40, deviceID: 5)
    block.activityLogRun = 2
    return (bytes, block)
  }
}
