/// Extents of the activity log that cool: what a quiet node would copy after a crash is next to
/// nothing, and a write never begins in an extent that has left.
import BlockTypes
import Metadata
import Replication
import TestSupport
import Testing
import Wire

@Suite struct CoolingTests {
  /// A lone Primary whose client has written one block and is quiet.
  private func writer() -> Rig {
    let rig = Rig.lonePrimary()
    rig.submit(.write, blocks: 5..<6, tag: 5)
    rig.settle()
    #expect(rig.completions[5] == .done)
    return rig
  }

  /// Flush, marks, log; in this order, and then there is nothing more to wake up for.
  @Test func quietExtentIsFlushedMarkedAndLeaves() {
    let rig = writer()
    rig.holdsLog = true
    #expect(rig.replica.nextDeadline == rig.now.advanced(milliseconds: 20_000))

    rig.passDeadline()
    #expect(rig.effects.kinds == ["flush"])
    #expect(rig.replica.nextDeadline == .never)
    rig.finishDisk()
    #expect(rig.metadata.map(\.kind) == ["page"], "the marks before the log")
    rig.finishMetadata()
    #expect(rig.metadata.map(\.kind) == ["log"])
    rig.finishMetadata()

    #expect(rig.metadata.isEmpty && rig.disk.isEmpty)
    #expect(rig.replica.nextDeadline == .never, "an idle node sleeps")
    rig.expectSettled()
  }

  /// A page has the marks of 31 extents. Those that others get during each of its writes are not
  /// waited for: else an extent never left, and cold writes waited with it. They are written when
  /// their own extent leaves.
  @Test func newMarksOfOtherExtentsAreNotWaitedFor() {
    let rig = writer()
    rig.advance(milliseconds: 15_000)
    rig.submit(.write, blocks: 1100..<1101)
    rig.settle()
    rig.holdsLog = true
    rig.passDeadline()
    rig.finishDisk()
    #expect(rig.metadata.map(\.kind) == ["page"])
    rig.submit(.write, blocks: 1101..<1102)
    rig.settle()
    #expect(rig.completions[1101] == .done, "its extent is hot")
    rig.finishMetadata()
    #expect(rig.metadata.map(\.kind) == ["log"])
    rig.finishMetadata()
    #expect(rig.metadata.isEmpty)

    rig.passDeadline()
    rig.settle()
    #expect(rig.metadata.map(\.kind) == ["page"], "the mark of 1101")
    rig.finishMetadata()
    #expect(rig.metadata.map(\.kind) == ["log"])
  }

  /// While its extent leaves, a write waits for the transaction, and for one that makes it hot.
  @Test func writeToAnExtentThatLeavesWaits() {
    let rig = writer()
    rig.holdsLog = true
    rig.passDeadline()
    rig.finishDisk()
    rig.finishMetadata()
    #expect(rig.metadata.map(\.kind) == ["log"])

    rig.submit(.write, blocks: 7..<8, tag: 7)
    #expect(rig.disk.isEmpty)
    rig.finishMetadata()
    #expect(rig.disk.isEmpty && rig.metadata.map(\.kind) == ["log"])
    rig.finishMetadata()

    #expect(rig.disk.map(\.kind) == ["write"])
    rig.settle()
    #expect(rig.completions[7] == .done)
  }

  /// A write that hangs holds its extent, whatever the clock says.
  @Test func extentUnderAWriteStays() {
    let rig = writer()
    rig.submit(.write, blocks: 9..<10, tag: 9)
    rig.advance(milliseconds: 100_000)
    #expect(rig.disk.map(\.kind) == ["write"], "no flush is begun for it")
    rig.finishDisk()
    #expect(rig.completions[9] == .done)
    #expect(rig.replica.nextDeadline == rig.now.advanced(milliseconds: 20_000))
  }

  /// A disk that fails in the pass ends it.
  @Test func diskThatFailsWhileExtentsCoolIsLetGo() {
    let rig = writer()
    rig.passDeadline()
    rig.finishDisk(result: -5)
    #expect(rig.replica.disk == .diskless && !rig.hasDisk)
    #expect(rig.replica.nextDeadline == .never)
    rig.expectSettled()
  }

  /// The target has the extents hot when the data comes: it writes at once.
  @Test func extentsOfAResyncAreHotBeforeItsDataComes() throws {
    let rig = Rig.target { $0.resyncWindow = 2 }
    let asked = try #require(rig.takeSent().first { $0.type == .resyncRequest })
    rig.holdsLog = true
    var data = MessageHeader(.resyncData, id: asked.id, offset: asked.offset, length: 9)
    data.payloadBytes = UInt32(asked.length)
    rig.receive(data, buffer: rig.takeBuffer())

    #expect(rig.disk.map(\.kind) == ["write"])
    #expect(rig.metadata.isEmpty)
  }
}
