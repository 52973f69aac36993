/// Resync by checksum (S19): what is equal is not sent, and no mark goes without a proof.
import BlockTypes
import Metadata
import Replication
import TestSupport
import Testing
import Wire

extension Rig {
  /// Target of a resync that compares before it pulls; its first comparisons are being read.
  static func comparingTarget(_ change: (inout ReplicaOptions) -> Void = { _ in }) -> Rig {
    let rig = Rig { options in
      options.checksumAlgorithm = .xxh3
      options.resyncWindow = 2
      change(&options)
    }
    rig.attach(superblock())
    rig.dialAndGreet(isPrimary: true)
    rig.agree(peerReport(.upToDate, lineage(1, 2), role: .primary))
    while rig.replication == .wfBitMapT {
      rig.settle()
      rig.exchangeOne()
    }
    #expect(rig.replication == .syncTarget)
    return rig
  }

  /// The target's digests of `count` blocks from `first` on.
  func receiveTargetDigests(
    first: UInt64 = 0, count: UInt64, id: UInt64 = 7, algorithm: DigestAlgorithm = .xxh3
  ) {
    var header = MessageHeader(
      .resyncDigests, id: id, offset: first &* blockSize, length: UInt64(algorithm.rawValue))
    header.payloadBytes = UInt32(count) * UInt32(algorithm.byteCount)
    receive(header, buffer: takeBuffer())
  }

  fileprivate func answerDigests(_ asked: MessageHeader, differing: UInt64) {
    receive(MessageHeader(.resyncCompared, id: asked.id, offset: asked.offset, length: differing))
  }

  fileprivate func all(_ type: MessageType) -> [MessageHeader] { sent.filter { $0.type == type } }
}

@Suite struct ChecksumResyncTests {
  private static let blocks = volumeBytes / blockSize
  private static let range = 64 * blockSize

  // MARK: Target

  @Test func targetTellsDigestsBeforeItPulls() throws {
    let rig = Rig.comparingTarget()
    #expect(rig.disk.map(\.kind) == ["serve", "serve"])
    #expect(rig.all(.resyncRequest).isEmpty)
    rig.finishDisk()
    let asked = try #require(rig.sent(.resyncDigests))
    #expect(asked.offset == 0 && asked.length == UInt64(DigestAlgorithm.xxh3.rawValue))
    #expect(asked.payloadBytes == 64 * 16)
    #expect(rig.effects.kinds == ["send resyncDigests", "release"])
    #expect(rig.peer.blocksOutOfSync == Self.blocks, "nothing is known yet")
  }

  /// Equal blocks lose their marks, the others are pulled, a run at a time.
  @Test func targetPullsOnlyWhatDiffers() throws {
    let rig = Rig.comparingTarget()
    rig.finishDisk()
    rig.answerDigests(try #require(rig.sent(.resyncDigests)), differing: 0b1100_0001)
    #expect(rig.peer.blocksOutOfSync == Self.blocks - 61)
    let pulls = rig.all(.resyncRequest)
    #expect(pulls.map(\.offset) == [0, 6 * blockSize])
    #expect(pulls.map(\.length) == [blockSize, 2 * blockSize])
  }

  /// A range that is still compared is not pulled, though a later one is compared already.
  @Test func pullsStayBehindTheComparisons() throws {
    let rig = Rig.comparingTarget()
    rig.finishDisk()
    rig.finishDisk()
    let asked = rig.all(.resyncDigests)
    #expect(asked.map(\.offset) == [0, Self.range])
    rig.answerDigests(asked[1], differing: 1)
    #expect(rig.all(.resyncRequest).isEmpty)
    rig.answerDigests(asked[0], differing: 0)
    #expect(rig.all(.resyncRequest).map(\.offset) == [Self.range])
    #expect(rig.all(.resyncRequest).map(\.length) == [blockSize])
  }

  /// What the target cannot read, it cannot compare: it is copied, which may repair it.
  @Test func targetPullsWhatItCannotRead() {
    let rig = Rig.comparingTarget()
    rig.finishDisk(result: -5)
    #expect(rig.all(.resyncRequest).map(\.offset) == [0])
    #expect(rig.sent(.resyncRequest)?.length == Self.range)
    #expect(rig.replica.disk == .inconsistent && rig.state == .connected)
  }

  /// A write of a client settles a block that is being compared, and with it the resync: the end
  /// waits for the comparison.
  @Test func endOfTheResyncWaitsForComparisonsUnderWay() throws {
    let rig = Rig.comparingTarget()
    rig.finishDisk()
    let asked = try #require(rig.sent(.resyncDigests))
    for first in stride(from: 0, to: Self.blocks, by: 256) {
      rig.peerWrites(blocks: first..<(first + 256), id: first)
    }
    while rig.disk.count > 1 { rig.finishDisk(at: 1) }
    #expect(rig.peer.blocksOutOfSync == 0)
    rig.receive(peerReport(.upToDate, lineage(1, 2), role: .primary), as: .syncDone)
    #expect(!rig.disk.contains { $0.kind == "flush" })
    rig.answerDigests(asked, differing: 0)
    #expect(!rig.disk.contains { $0.kind == "flush" })
    rig.finishDisk()
    let second = try #require(rig.sent(.resyncDigests))
    rig.answerDigests(second, differing: .max)
    #expect(rig.disk.map(\.kind) == ["flush"])
    rig.settle()
    #expect(rig.replica.disk == .upToDate && rig.replication == .established)
    rig.breakConnection()
    rig.settle()
    rig.expectSettled()
  }

  @Test func equalBlocksAreCountedInTheEnd() throws {
    let rig = Rig.comparingTarget()
    while rig.peer.blocksOutOfSync > 0 {
      rig.settleDisk()
      for asked in rig.takeSent() where asked.type == .resyncDigests {
        rig.answerDigests(asked, differing: asked.offset == 0 ? 1 : 0)
      }
      rig.feedResync()
    }
    rig.receive(peerReport(.upToDate, lineage(1, 2), role: .primary), as: .syncDone)
    rig.finishDisk()
    rig.finishSuperblock()
    #expect(
      rig.notes.contains(.resyncDone(peer: 0, blocks: Self.blocks, equal: Self.blocks - 1)))
  }

  /// S19: cut at any moment, with reads and answers under way; the next resync compares anew.
  @Test(arguments: [0, 1, 2])
  func cutWhileComparingLosesNothing(finished: Int) {
    let rig = Rig.comparingTarget()
    for _ in 0..<finished { rig.finishDisk() }
    rig.breakConnection()
    #expect(rig.peer.blocksOutOfSync == Self.blocks)
    rig.settle()
    rig.expectSettled()
    #expect(rig.all(.resyncDigests).count == finished, "what was read late is not told")
  }

  @Test func pausedTargetBeginsNoComparison() throws {
    let rig = Rig.comparingTarget()
    rig.command(.pauseSync)
    rig.finishDisk()
    rig.answerDigests(try #require(rig.sent(.resyncDigests)), differing: 0)
    #expect(rig.disk.count == 1, "the one that was under way")
    rig.command(.resumeSync)
    #expect(rig.disk.count == 2)
  }

  @Test func answerThatWasNotAskedForClosesTheConnection() {
    let rig = Rig.comparingTarget()
    rig.receive(MessageHeader(.resyncCompared, id: 1, offset: 0, length: 0))
    #expect(rig.peer.reason == .protocolError)
    #expect(rig.peer.blocksOutOfSync == Self.blocks)
  }

  /// How a disk fails before it is attached again.
  enum DiskFailure: CaseIterable {
    case write, flush, flushThatWasGivenUp, forcedWrite, log, superblock
  }

  /// A disk that could not put on stable storage what it had may return it all the same, until the
  /// power fails: nothing of it is taken for equal, though the digests are.
  @Test(arguments: DiskFailure.allCases)
  func nothingIsEqualOnADiskThatFailedAFlush(failure: DiskFailure) {
    let rig = Rig.secondary { $0.checksumAlgorithm = .xxh3 }
    rig.peerWrites(blocks: 0..<1, id: 1)
    rig.settle()
    switch failure {
    case .write:
      rig.peerWrites(blocks: 1..<2, id: 2)
      rig.finishDisk(result: -5)
    case .flush:
      rig.receive(.flush, id: 2)
      rig.finishDisk(result: -5)
    case .flushThatWasGivenUp:
      rig.receive(.flush, id: 2)
      rig.peerWrites(blocks: 1..<2, id: 3)
      rig.finishDisk(at: 1, result: -5)
      #expect(rig.replica.disk == .diskless && rig.disk.map(\.kind) == ["flush"])
      rig.finishDisk(result: -5)
    case .forcedWrite:
      rig.peerWrites(blocks: 1..<2, id: 2, fua: true)
      rig.finishDisk(result: -5)
    case .log:
      rig.holdsLog = true
      rig.peerWrites(blocks: 1500..<1501, id: 2)
      #expect(rig.metadata.map(\.kind) == ["log"])
      rig.finishMetadata(result: -5)
      rig.holdsLog = false
    case .superblock:
      rig.receive(MessageHeader(.diskChanged, offset: 1))
      rig.finishSuperblock(result: -5)
    }
    #expect(rig.replica.disk == .diskless)
    rig.settle()
    rig.attach(superblock(dirty: true))
    #expect(rig.replies[1] == .done)
    rig.dialAndGreetAgain(isPrimary: true)
    rig.agree(peerReport(.upToDate, lineage(1, 2), role: .primary))
    while rig.replication == .wfBitMapT {
      rig.settle()
      rig.exchangeOne()
    }

    #expect(rig.replication == .syncTarget)
    #expect(rig.disk.contains { $0.kind == "serve" } == (failure == .write))
    #expect((rig.sent(.resyncRequest) == nil) == (failure == .write))
  }

  // MARK: Source

  /// The range is locked from before it is read until it was compared, not longer.
  @Test func sourceComparesUnderTheLock() {
    let rig = Rig.source()
    let before = rig.peer.blocksOutOfSync
    rig.receiveTargetDigests(count: 4)
    #expect(rig.disk.map(\.kind) == ["serve"])
    rig.submit(.write, blocks: 2..<3)
    #expect(rig.sent(.write) == nil)
    rig.differing = 0b0110
    rig.finishDisk()
    #expect(rig.sent(.resyncCompared)?.id == 7 && rig.sent(.resyncCompared)?.length == 0b0110)
    #expect(rig.peer.blocksOutOfSync == before - 2)
    #expect(rig.marked.prefix(3) == [1, 2, 4])
    #expect(rig.sent.last?.type == .write, "after the answer")
  }

  /// A write that is under way is on one side and not yet on the other: nothing is compared.
  @Test func sourceWaitsForTheWriteUnderWay() throws {
    let rig = Rig.source()
    rig.submit(.write, blocks: 2..<3)
    rig.receiveTargetDigests(count: 4)
    rig.settleDisk()
    #expect(rig.sent(.resyncCompared) == nil)
    rig.acknowledge(try #require(rig.sent(.write)))
    #expect(rig.disk.map(\.kind) == ["serve"])
  }

  /// What the source cannot read is not known to be equal.
  @Test func unreadableBlocksStayMarked() {
    let rig = Rig.source()
    let before = rig.peer.blocksOutOfSync
    rig.receiveTargetDigests(count: 4)
    rig.finishDisk(result: -5)
    #expect(rig.sent(.resyncCompared)?.length == .max)
    #expect(rig.peer.blocksOutOfSync == before)
    rig.expectSettled()
  }

  /// The target went away while its digests wait or are compared.
  @Test(arguments: [true, false])
  func lostTargetLeavesItsMarks(isReading: Bool) {
    let rig = Rig.source()
    let before = rig.peer.blocksOutOfSync
    if !isReading { rig.submit(.write, blocks: 0..<1) }
    rig.receiveTargetDigests(count: 4)
    rig.breakConnection()
    rig.settle()
    #expect(rig.peer.blocksOutOfSync == before)
    rig.expectSettled()
  }

  @Test func sourceIsDoneWhenEverythingWasEqual() {
    let rig = Rig.source()
    for first in stride(from: 0, to: Self.blocks, by: 64) {
      rig.receiveTargetDigests(first: first, count: 64)
      rig.settleDisk()
    }
    #expect(rig.peer.blocksOutOfSync == 0)
    rig.settle()
    #expect(rig.controls.last == .syncDone)
  }

  /// 32 bits prove nothing; digests that are none, too many, or of blocks that do not exist.
  @Test(
    arguments: [
      (0, 4, .crc32c), (0, 0, .xxh3), (0, 65, .xxh3), (Self.blocks, 1, .xxh3),
      (Self.blocks - 1, 2, .xxh3), (1 << 51, 1, .xxh3),
    ] as [(UInt64, UInt64, DigestAlgorithm)])
  func digestsThatProveNothingCloseTheConnection(
    first: UInt64, count: UInt64, algorithm: DigestAlgorithm
  ) {
    let rig = Rig.source()
    rig.receiveTargetDigests(first: first, count: count, algorithm: algorithm)
    #expect(rig.peer.reason == .protocolError)
    rig.settle()
    rig.expectSettled()
  }

  /// Each side may know other algorithms: what is in the buffer is what was said with it.
  @Test func onlyStrongDigestsSpareACopy() {
    #expect(DigestAlgorithm.allCases.filter { !$0.provesEquality } == [.crc32c])
  }
}
