/// A client's request from submission to completion: order, durability, overlap, refusals.
import BlockTypes
import Metadata
import Replication
import TestSupport
import Testing
import Wire

@Suite struct WritePathTests {
  /// The network round trip is the longer of the two, so it begins first.
  @Test func writeIsSentBeforeItIsQueuedForTheDisk() {
    let rig = Rig.primary()

    rig.submit(.write)

    #expect(rig.effects.kinds == ["send write", "write"])
    let header = rig.sent(.write)
    #expect(header?.payloadBytes == 4096 && header?.length == 4096 && header?.offset == 0)
  }

  /// V01: what the export received once goes to both, so a client that changes its memory during
  /// a write cannot make them differ.
  @Test func diskAndPeerGetTheSameBuffer() {
    let rig = Rig.primary()

    rig.submit(.write)

    var buffers: [BufferID] = []
    for effect in rig.effects {
      switch effect {
      case .send(_, let header, let buffer) where header.type == .write: buffers.append(buffer)
      case .write(_, _, let buffer, durable: _): buffers.append(buffer)
      default: break
      }
    }
    #expect(buffers.count == 2 && Set(buffers).count == 1 && buffers.first != BufferID.none)
  }

  /// Protocol C: local disk and peer, in either order, before the client hears of it (P1).
  @Test(arguments: [true, false])
  func writeCompletesOnlyAfterBoth(diskFirst: Bool) throws {
    let rig = Rig.primary()
    rig.submit(.write, tag: 5)
    let header = try #require(rig.sent(.write))

    if diskFirst { rig.finishDisk() } else { rig.acknowledge(header) }
    #expect(rig.completions.isEmpty)
    if diskFirst { rig.acknowledge(header) } else { rig.finishDisk() }

    #expect(rig.effects.kinds == ["complete done", "release"])
    #expect(rig.completions == [5: .done])
    rig.expectSettled()
  }

  @Test func forceUnitAccessReachesBothDisks() {
    let rig = Rig.primary()

    rig.submit(.write, fua: true)

    #expect(rig.effects.kinds == ["send write", "write durably"])
    #expect(rig.sent(.write)?.forceUnitAccess == true)
  }

  /// DRBD flushes only locally; here an acknowledged FLUSH is durable on both (P1).
  @Test func flushIsCompletedOnlyAfterBothFlushed() throws {
    let rig = Rig.primary()

    rig.submit(.flush, tag: 8)
    #expect(rig.effects.kinds == ["send flush", "flush"])
    rig.finishDisk()
    #expect(rig.completions.isEmpty)
    rig.acknowledge(try #require(rig.sent(.flush)))

    #expect(rig.completions == [8: .done])
  }

  @Test(arguments: [Operation.trim, .writeZeroes])
  func trimAndZeroesAreReplicatedAsSuch(operation: Operation) throws {
    let rig = Rig.primary()

    rig.submit(operation, blocks: 2..<4)

    let type: MessageType = operation == .trim ? .trim : .writeZeroes
    #expect(rig.effects.kinds == ["send \(type)", "write zeroes"])
    #expect(rig.sent(type)?.payloadBytes == 0)
    #expect(rig.sent(type)?.mayUnmap == (operation == .trim))
    rig.finishDisk()
    rig.acknowledge(try #require(rig.sent(type)))
    #expect(rig.completions == [2: .done])
    rig.expectSettled()
  }

  @Test func readIsLocalAndGivesItsBufferBack() {
    let rig = Rig.primary()

    rig.submit(.read, blocks: 3..<4)
    #expect(rig.effects.kinds == ["read"])
    rig.finishDisk()

    #expect(rig.effects.kinds == ["complete done", "release"])
    rig.expectSettled()
  }

  /// Overlapping writes end in the same order everywhere (P6): the second is not even sent before
  /// the first is complete, and a third that overlaps only the second does not overtake it.
  @Test func overlappingWritesGoOneAfterTheOther() throws {
    let rig = Rig.primary()
    rig.submit(.write, blocks: 0..<2)
    let first = try #require(rig.sent(.write))
    rig.submit(.write, blocks: 1..<4)
    #expect(rig.effects.kinds == [])
    rig.submit(.write, blocks: 3..<5)
    #expect(rig.effects.kinds == [])
    rig.submit(.write, blocks: 8..<9)
    #expect(rig.effects.kinds == ["send write", "write"], "a write elsewhere does not wait")
    rig.settleDisk()

    rig.acknowledge(first)

    #expect(rig.effects.kinds == ["complete done", "release", "send write", "write"])
    #expect(rig.sent(.write)?.offset == blockSize)
  }

  /// A flush covers what was completed before it; it has nothing to wait for.
  @Test func flushDoesNotWaitForWritesUnderWay() {
    let rig = Rig.primary()
    rig.submit(.write)
    rig.submit(.flush, tag: 50)

    #expect(rig.effects.kinds == ["send flush", "flush"])
  }

  @Test func secondaryRefusesClients() {
    let rig = Rig.secondary()

    rig.submit(.write, tag: 1)
    rig.submit(.read, tag: 2)

    #expect(rig.completions == [1: .notPrimary, 2: .notPrimary])
    rig.expectSettled()
  }

  /// The edges of the volume, of a sector, and of one request.
  @Test(arguments: [
    (ByteRange(start: volumeBytes - 512, end: volumeBytes + 512), Operation.write),
    (ByteRange(start: 0, end: 513), .write),
    (ByteRange(start: 1, end: 513), .read),
    (ByteRange(start: 512, end: 512), .write),
    (ByteRange(start: 0, end: UInt64(maxPayloadBytes) + 512), .write),
    (ByteRange(start: 0, end: UInt64(maxPayloadBytes) + 512), .read),
    (ByteRange(start: .max - 511, end: .max), .trim),
  ])
  func requestThatDoesNotFitIsInvalid(range: ByteRange, operation: Operation) {
    let rig = Rig.lonePrimary()
    var request = ClientRequest(operation, range, tag: 3)
    request.buffer = rig.takeBuffer()

    rig.step(.submit(request))

    #expect(rig.effects.kinds == ["complete invalid", "release"])
    rig.expectSettled()
  }

  @Test func longTrimIsOneRequest() {
    let rig = Rig.lonePrimary()

    rig.submit(.trim, blocks: 0..<(volumeBytes / blockSize))

    #expect(rig.effects.kinds.contains("write zeroes"))
  }

  @Test func exportThatExceedsItsLimitTraps() async {
    await #expect(processExitsWith: .failure) {
      let rig = Rig { $0.clientRequestLimit = 2 }
      rig.attach(superblock())
      rig.command(.primary(force: false))
      rig.settle()
      for block: UInt64 in 0..<3 { rig.submit(.write, blocks: block..<(block + 1)) }
    }
  }

  @Test func completionNobodyAskedForTraps() async {
    await #expect(processExitsWith: .failure) {
      let rig = Rig.lonePrimary()
      rig.step(.diskCompleted(SlotID(slot: 0, generation: 9), result: 0, buffer: .none))
    }
  }

  @Test func secondCompletionTraps() async {
    await #expect(processExitsWith: .failure) {
      let rig = Rig.lonePrimary()
      rig.submit(.read)
      guard let id = rig.disk.first?.diskRequest else { return }
      rig.step(.diskCompleted(id, result: 0, buffer: .none))
      rig.step(.diskCompleted(id, result: 0, buffer: .none))
    }
  }

  @Test func superblockNobodyAskedForTraps() async {
    await #expect(processExitsWith: .failure) {
      let rig = Rig.lonePrimary()
      rig.step(.superblockWritten(result: 0))
    }
  }
}
