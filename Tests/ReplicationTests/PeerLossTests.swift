/// Losing the peer: what is on record before a client hears that a write succeeded without it.
import BlockTypes
import Metadata
import Replication
import TestSupport
import Testing
import Wire

@Suite struct PeerLossTests {
  /// Were the client told first, a crash would lose the only record that the peer lacks the write,
  /// and both replicas would look equal (P3).
  @Test func generationIsDurableBeforeTheWriteInFlightCompletes() {
    let rig = Rig.primary()
    rig.submit(.write, tag: 1)
    rig.finishDisk()

    rig.breakConnection()
    #expect(rig.completions.isEmpty)
    #expect(rig.superblockIsPending)
    rig.finishSuperblock()

    #expect(rig.completions == [1: .done])
    let block = rig.durable.last
    #expect(block?.lineage.generations.count == 2)
    #expect(block?.peers.first?.base == lineage(1).newest)
    rig.expectSettled()
  }

  /// The disk may be slower than the superblock: it is still waited for.
  @Test func writeInFlightStillWaitsForTheLocalDisk() {
    let rig = Rig.primary()
    rig.submit(.write, tag: 1)
    rig.breakConnection()
    rig.finishDisk()
    #expect(rig.completions.isEmpty)

    rig.finishSuperblock()

    #expect(rig.completions == [1: .done])
  }

  /// An idle link that flaps costs nothing: no write, no generation (DESIGN 5.1).
  @Test func idleLossMintsNothing() {
    let rig = Rig.primary()
    let before = rig.replica.superblock?.lineage

    rig.breakConnection()
    rig.settle()

    #expect(rig.replica.superblock?.lineage == before)
  }

  /// One generation for one absence, however many writes.
  @Test func laterWritesAloneMintNoMore() {
    let rig = Rig.lonePrimary()
    for block: UInt64 in 0..<5 {
      rig.submit(.write, blocks: block..<(block + 1))
      rig.settle()
    }

    #expect(rig.completions.count == 5)
    #expect(rig.replica.superblock?.lineage.generations.count == 2)
    rig.expectSettled()
  }

  /// The peer may have taken the newest generation over just before this node's process ended: it
  /// lacks what is written from now on. With the same generation on both, an administrator who
  /// forces the peer would make a history that looks longer than this one.
  @Test func firstWriteAfterARestartBeginsAGeneration() {
    let rig = Rig()
    var block = superblock(.upToDate, lineage(1, 2))
    block.peers = [PeerSlotRecord(node: other, base: lineage(1).newest)]
    rig.attach(block, marked: 3..<9)
    rig.command(.primary(force: false))
    rig.settle()
    #expect(rig.replica.superblock?.lineage.generations.count == 2)
    for block: UInt64 in 0..<3 {
      rig.submit(.write, blocks: block..<(block + 1))
      rig.settle()
    }

    #expect(rig.replica.superblock?.lineage.generations.count == 3)
    #expect(rig.durable.last?.peers.first?.base == lineage(1).newest)
  }

  /// A flush changes nothing that the peer could lack.
  @Test func flushAloneMintsNothing() {
    let rig = Rig.lonePrimary()
    rig.submit(.flush)
    rig.settle()

    #expect(rig.completions == [0: .done])
    #expect(rig.replica.superblock?.lineage == lineage(1))
  }

  /// A superblock write under way does not count for a change that was made after it began.
  @Test func generationMintedDuringASuperblockWriteWaitsForTheNextOne() {
    let rig = Rig.connected()
    let token = rig.command(.primary(force: false))
    rig.receive(.promoteReply, id: rig.sent(.promoteRequest)?.id ?? 0, length: 1)
    rig.finishSuperblock()
    #expect(rig.replies[token] == .done)
    rig.submit(.write, tag: 1)
    rig.finishDisk()
    rig.breakConnection()
    #expect(rig.superblockIsPending)
    let minted = rig.replica.superblock?.lineage

    rig.finishSuperblock()

    #expect(rig.durable.last?.lineage == minted)
    #expect(rig.completions == [1: .done])
  }

  /// The peer wrote it, but its disk failed: that it lacks the write must be on record, too.
  @Test func failedAcknowledgementCountsAsALack() throws {
    let rig = Rig.primary()
    rig.submit(.write, tag: 1)
    rig.finishDisk()

    rig.acknowledge(try #require(rig.sent(.write)), failed: true)
    #expect(rig.completions.isEmpty)
    rig.settle()

    #expect(rig.completions == [1: .done])
    #expect(rig.replica.superblock?.lineage.generations.count == 2)
    #expect(rig.peer.disk == .failed)
  }

  /// A peer that answers pings but finishes nothing is cut after timeout * ko-count.
  @Test func peerThatFinishesNothingIsCut() {
    let rig = Rig.primary()
    rig.submit(.write, tag: 1)
    rig.finishDisk()
    let begun = rig.now
    while rig.state == .connected, rig.now.milliseconds(since: begun) < 60_000 {
      rig.passDeadline()
      if rig.sent(.ping) != nil { rig.receive(.pong) }
      _ = rig.takeSent()
    }
    rig.settle()

    #expect(rig.peer.reason == .writeTimeout)
    #expect(rig.now.milliseconds(since: begun) == 42_000)
    #expect(rig.completions == [1: .done])
  }

  @Test func silentPeerIsCutAfterPingTimeout() {
    let rig = Rig.primary()
    rig.advance(milliseconds: 10_000)
    #expect(rig.sent(.ping) != nil)

    rig.advance(milliseconds: 499)
    #expect(rig.state == .connected)
    rig.advance(milliseconds: 1)

    #expect(rig.peer.reason == .pingTimeout)
    #expect(rig.state == .connecting)
  }

  @Test func answerKeepsTheConnection() {
    let rig = Rig.primary()
    rig.advance(milliseconds: 10_000)
    rig.receive(.pong)
    rig.advance(milliseconds: 500)

    #expect(rig.state == .connected)
  }

  /// An acknowledgement that was never due means that one of the two has lost count.
  @Test func acknowledgementOfNothingClosesTheConnection() {
    let rig = Rig.primary()
    rig.submit(.write, tag: 1)
    rig.finishDisk()

    rig.receive(.ack, id: 0xDEAD_BEEF)

    #expect(rig.closed == [rig.connection])
    #expect(rig.peer.reason == .protocolError)
    rig.settle()
    #expect(rig.completions == [1: .done])
    rig.expectSettled()
  }

  @Test func secondAcknowledgementClosesTheConnection() throws {
    let rig = Rig.primary()
    rig.submit(.write, tag: 1)
    let header = try #require(rig.sent(.write))
    rig.acknowledge(header)

    rig.acknowledge(header)

    #expect(rig.peer.reason == .protocolError)
    rig.settle()
    #expect(rig.completions == [1: .done])
    rig.expectSettled()
  }

  /// A Primary that leaves on request may write on: the data here is of an older moment.
  @Test func goodbyeOfAPrimaryOutdates() {
    let rig = Rig.secondary()

    rig.receive(.goodbye, length: UInt64(Role.primary.rawValue))
    rig.settle()

    #expect(rig.replica.disk == .outdated)
    #expect(rig.durable.last?.diskState == .outdated)
  }

  @Test func goodbyeOfASecondaryDoesNot() {
    let rig = Rig.connected()

    rig.receive(.goodbye, length: UInt64(Role.secondary.rawValue))
    rig.settle()

    #expect(rig.replica.disk == .upToDate)
    #expect(rig.state == .connecting)
  }

  /// A write of a connection that is gone keeps its range until the disk is done with it, and is
  /// not acknowledged to anybody.
  @Test func peersWriteOutlivesItsConnectionSilently() {
    let rig = Rig.secondary()
    rig.peerWrites(blocks: 0..<1)
    rig.breakConnection()
    _ = rig.takeSent()

    rig.settle()

    #expect(rig.sent(.ack) == nil)
    rig.expectSettled()
  }
}
