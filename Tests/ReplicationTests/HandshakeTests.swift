/// From the first dial to agreement: who keeps which connection, what must be durable before what.
import BlockTypes
import Metadata
import Replication
import TestSupport
import Testing
import Wire

@Suite struct ConnectionTests {
  @Test func connectDialsAtOnceAndSaysHello() {
    let rig = Rig()
    rig.attach(superblock())
    rig.command(.connect)
    rig.step(.tick)
    #expect(rig.effects.kinds == ["dial"])

    rig.step(.dialed(peer: 0, rig.newConnection()))

    #expect(rig.effects.kinds == ["send hello"])
  }

  /// 0, 100, 200, 400 ... ms, at most `connect-int`.
  @Test func failedDialsBackOff() {
    let rig = Rig()
    rig.command(.connect)
    var pauses: [UInt64] = []
    for _ in 0..<10 {
      let before = rig.now
      rig.passDeadline()
      #expect(rig.effects.kinds == ["dial"])
      pauses.append(rig.now.milliseconds(since: before))
      rig.step(.dialFailed(peer: 0))
    }

    #expect(pauses == [0, 100, 200, 400, 800, 1_600, 3_200, 6_400, 10_000, 10_000])
    #expect(rig.peer.reason == .peerUnreachable)
  }

  /// What ends each connection soon, such as an unreadable block under a resync, must not make the
  /// two reconnect as fast as they can; what worked for a while is retried at once.
  @Test func connectionsThatEndSoonBackOff() {
    let rig = Rig.connected()
    var pauses: [UInt64] = []
    for _ in 0..<4 {
      rig.breakConnection()
      pauses.append(rig.replica.nextDeadline.milliseconds(since: rig.now))
      rig.dialAndGreetAgain()
      rig.shakeHands(peerReport())
    }
    rig.advance(milliseconds: 1_000)
    rig.breakConnection()
    pauses.append(rig.replica.nextDeadline.milliseconds(since: rig.now))

    #expect(pauses == [100, 200, 400, 800, 0])
  }

  @Test func standAloneRefusesAHello() {
    let rig = Rig()
    let connection = rig.newConnection()
    rig.step(.accepted(connection))

    rig.receiveHello(.hello, on: connection)

    #expect(rig.effects.kinds == ["send reject", "close"])
    #expect(rig.sent(.reject)?.length == UInt64(Reason.peerStandAlone.rawValue))
  }

  @Test func strangerIsRefusedWithTheReason() {
    let rig = Rig()
    rig.command(.connect)
    let connection = rig.newConnection()
    rig.step(.accepted(connection))
    rig.receiveHello(.hello, on: connection, from: node(9))

    #expect(rig.sent(.reject)?.length == UInt64(Reason.unknownNode.rawValue))
    #expect(rig.state == .connecting)
  }

  /// Of two crossing dials the one of the lower node is kept: here ours.
  @Test func lowerNodeKeepsItsOwnDial() {
    let rig = Rig()
    rig.command(.connect)
    rig.passDeadline()
    let mine = rig.newConnection()
    rig.step(.dialed(peer: 0, mine))
    let theirs = rig.newConnection()
    rig.step(.accepted(theirs))

    rig.receiveHello(.hello, on: theirs)

    #expect(rig.closed == [theirs])
    #expect(rig.sent(.reject)?.length == UInt64(Reason.tieBreak.rawValue))
    rig.receiveHello(.helloReply, on: mine)
    #expect(rig.state.isHandshake)
  }

  @Test func higherNodeGivesUpItsOwnDial() {
    var options = ReplicaOptions(node: other, resource: "r0", peers: [me], instance: 42)
    options.koCount = 7
    let rig = Rig(options: options)
    rig.command(.connect)
    rig.passDeadline()
    let mine = rig.newConnection()
    rig.step(.dialed(peer: 0, mine))
    let theirs = rig.newConnection()
    rig.step(.accepted(theirs))

    rig.receiveHello(.hello, on: theirs, from: me)

    #expect(rig.closed == [mine])
    #expect(rig.state.isHandshake)
  }

  /// A dial from before the connection says hello late: it must not replace what works.
  @Test func staleHelloDoesNotReplaceTheConnection() {
    let rig = Rig.connected()
    let late = rig.newConnection()
    rig.step(.accepted(late))

    rig.receiveHello(.hello, on: late, instance: 77, epoch: 0)

    #expect(rig.closed == [late])
    #expect(rig.state == .connected)
  }

  /// The peer says that it has lost the connection (higher epoch) or was restarted (another
  /// instance). Somebody else may say so, too: a connection that answers is kept.
  @Test(arguments: [(77, 1), (78, 0)] as [(UInt64, UInt64)])
  func newHelloDoesNotReplaceAConnectionThatAnswers(instance: UInt64, epoch: UInt64) {
    let rig = Rig.connected()
    for _ in 0..<3 {
      let new = rig.newConnection()
      rig.step(.accepted(new))
      rig.receiveHello(.hello, on: new, instance: instance, epoch: epoch)
      #expect(rig.effects.kinds == ["send ping", "send reject", "close"])
      #expect(rig.sent(.reject)?.length == UInt64(Reason.tieBreak.rawValue))
      #expect(rig.closed.last == new)

      rig.receive(.pong)
      rig.advance(milliseconds: 600)

      #expect(rig.state == .connected)
      #expect(!rig.closed.contains(rig.connection))
    }
  }

  /// We have not noticed that the connection is gone: asked, nobody answers, and the next hello of
  /// the peer finds us free. However often it is said meanwhile, the time for an answer is one.
  @Test(arguments: [(77, 1), (78, 0)] as [(UInt64, UInt64)])
  func newHelloReplacesADeadConnection(instance: UInt64, epoch: UInt64) {
    let rig = Rig.connected()
    let old = rig.connection
    for pause: UInt64 in [0, 200, 200] {
      rig.advance(milliseconds: pause)
      let new = rig.newConnection()
      rig.step(.accepted(new))
      rig.receiveHello(.hello, on: new, instance: instance, epoch: epoch)
      #expect(rig.closed.last == new)
    }
    rig.advance(milliseconds: 100)
    #expect(rig.closed.last == old)
    #expect(rig.state == .connecting && rig.peer.reason == .pingTimeout)

    let new = rig.newConnection()
    rig.step(.accepted(new))
    rig.receiveHello(.hello, on: new, instance: instance, epoch: epoch)
    #expect(rig.state.isHandshake || rig.sent(.reject)?.length == UInt64(Reason.tieBreak.rawValue))
  }

  /// In the middle of a handshake it is the same.
  @Test func newHelloEndsNoHandshakeThatAnswers() {
    let rig = Rig()
    rig.attach(superblock())
    rig.dialAndGreet()
    let old = rig.connection
    let late = rig.newConnection()
    rig.step(.accepted(late))
    rig.receiveHello(.hello, on: late, instance: 78, epoch: 0)
    #expect(rig.closed == [late])
    rig.receive(.pong)
    rig.advance(milliseconds: 600)
    #expect(rig.state.isHandshake)

    let next = rig.newConnection()
    rig.step(.accepted(next))
    rig.receiveHello(.hello, on: next, instance: 78, epoch: 0)
    rig.advance(milliseconds: 600)
    #expect(rig.closed == [late, next, old])
    #expect(rig.state == .connecting)
  }

  /// Who has proven to be one node cannot say hello as another.
  @Test func helloOfAnotherThanWasProvenIsRefused() {
    let rig = Rig()
    rig.command(.connect)
    let connection = rig.newConnection()
    rig.step(.accepted(connection, from: node(9)))
    rig.receiveHello(.hello, on: connection)

    #expect(rig.sent(.reject)?.length == UInt64(Reason.protocolError.rawValue))
    #expect(rig.state == .connecting)
    let proven = rig.newConnection()
    rig.step(.accepted(proven, from: other))
    rig.receiveHello(.hello, on: proven)
    #expect(rig.state.isHandshake)
  }

  /// What an unproven side says stops nothing for good: the reason is shown, and tried again.
  @Test func refusedDialsAreTriedAgainAndSayWhy() {
    let rig = Rig()
    rig.command(.connect)
    for reason in [Reason.authenticationFailed, .integrityAlgorithm, .splitBrain] {
      rig.passDeadline()
      #expect(rig.effects.kinds == ["dial"])
      rig.step(.dialRefused(peer: 0, reason))
      #expect(rig.state == .connecting && rig.peer.reason == reason)
      // Silence afterwards does not hide it.
      rig.passDeadline()
      rig.step(.dialFailed(peer: 0))
      #expect(rig.peer.reason == reason)
    }
  }

  /// A digest that does not fit ends the connection with its reason, and it is made anew.
  @Test func corruptedConnectionIsGivenUpAndMadeAnew() {
    let rig = Rig.connected()
    rig.step(.corrupted(rig.connection))
    #expect(rig.state == .connecting && rig.peer.reason == .digestMismatch)
    rig.passDeadline()
    #expect(rig.effects.kinds == ["dial"])
  }

  /// Whoever connects and says nothing is thrown out, and cannot keep others from being heard.
  @Test func silentVisitorsAreThrownOutAndBounded() {
    let rig = Rig()
    rig.command(.connect)
    let visitors = (0..<9).map { _ in rig.newConnection() }
    for visitor in visitors { rig.step(.accepted(visitor)) }
    #expect(rig.closed == [visitors[8]])

    rig.advance(milliseconds: 3_000)

    #expect(Set(rig.closed) == Set(visitors))
  }

  /// Payload of a message that has no business there goes back to the pool.
  @Test func dataBeforeHelloIsReleased() {
    let rig = Rig()
    rig.command(.connect)
    rig.passDeadline()
    let dialed = rig.newConnection()
    rig.step(.dialed(peer: 0, dialed))
    let accepted = rig.newConnection()
    rig.step(.accepted(accepted))

    for connection in [dialed, accepted] {
      var data = MessageHeader(.write, length: 4096)
      data.payloadBytes = 4096
      rig.receive(data, buffer: rig.takeBuffer(), on: connection)
    }

    #expect(Set(rig.closed) == [dialed, accepted])
    rig.expectSettled()
  }

  @Test func peerOfAnotherProtocolIsRefused() {
    let rig = Rig()
    rig.command(.connect)
    let connection = rig.newConnection()
    rig.step(.accepted(connection))
    var hello = Hello(node: other, instance: 1, epoch: 0, resource: "r0")
    hello.versions = 3...9
    rig.receive(hello, as: .hello, on: connection)

    #expect(rig.sent(.reject)?.length == UInt64(Reason.noCommonVersion.rawValue))
  }

  /// The dialer looks, too: the answer may come from something newer than the listener it knew.
  @Test func answerInAnotherProtocolIsNotAdopted() {
    let rig = Rig()
    rig.command(.connect)
    rig.passDeadline()
    let connection = rig.newConnection()
    rig.step(.dialed(peer: 0, connection))
    var hello = Hello(node: other, instance: 1, epoch: 0, resource: "r0")
    hello.versions = 3...9
    rig.receive(hello, as: .helloReply, on: connection)

    #expect(rig.state == .connecting)
    #expect(rig.closed == [connection])
  }
}

@Suite struct HandshakeTests {
  /// What the report says must survive a power loss: flush first, then tell.
  @Test func diskIsFlushedBeforeTheReport() {
    let rig = Rig()
    rig.attach(superblock())
    rig.dialAndGreet()
    #expect(rig.effects.kinds == ["flush"])

    rig.finishDisk()

    #expect(rig.effects.kinds == ["send state"])
    #expect(rig.state == .wfReportParams)
  }

  /// A target is Inconsistent on disk before the source may send the first block.
  @Test func targetTakesItDownBeforeItAgrees() {
    let rig = Rig()
    rig.attach(superblock())
    rig.dialAndGreet()
    rig.settle()
    rig.receive(peerReport(.upToDate, lineage(1, 2)))
    #expect(rig.effects.kinds == ["superblock"])
    #expect(rig.sent(.verdict) == nil)

    rig.finishSuperblock()

    #expect(rig.durable.last?.diskState == .inconsistent)
    #expect(rig.sent(.verdict)?.length == UInt64(Action.syncTarget.rawValue))
    #expect(rig.state == .wfVerdict)
  }

  /// With a Primary on the line writes may come at once: dirty before agreement.
  @Test func secondaryIsDirtyBeforeItAgreesWithAPrimary() {
    let rig = Rig()
    rig.attach(superblock())
    rig.dialAndGreet(isPrimary: true)
    rig.settle()
    rig.receive(peerReport(role: .primary))
    #expect(rig.sent(.verdict) == nil)
    rig.finishSuperblock()

    #expect(rig.durable.last?.dirty == true)
    #expect(rig.sent(.verdict) != nil)
  }

  @Test func differentDecisionsEndTheConnection() {
    let rig = Rig()
    rig.attach(superblock())
    rig.dialAndGreet()
    rig.settle()
    rig.receive(peerReport())
    rig.settle()

    rig.receiveVerdict(.syncTarget, .bitmap)

    #expect(rig.peer.reason == .disagreement)
    #expect(rig.state == .connecting)
  }

  /// What was told is what the decision was made from, even when the decision changed the state in
  /// the same step, before the driver asked for the bytes.
  @Test func reportSaysWhatWasTrueWhenItWasMade() throws {
    let rig = Rig()
    rig.attach(superblock())
    rig.dialAndGreet()
    rig.receive(peerReport(.upToDate, lineage(1, 2)))
    rig.finishDisk()
    #expect(rig.effects.kinds == ["send state", "superblock"])

    var bytes = [UInt8](repeating: 0, count: 40 + Int(maxControlPayloadBytes))
    let count = bytes.withUnsafeMutableBytes {
      rig.replica.encode(.state, for: rig.connection, into: $0)
    }
    let payload = Array(bytes[40..<count])
    let report = try parse(payload) { raw throws(WireError) in try StateReport(parsing: raw) }

    #expect(report.disk == .upToDate)
    #expect(rig.replica.disk == .inconsistent)
  }

  @Test(arguments: [
    (peerReport(.upToDate, lineage(1, 3)), Reason.splitBrain),
    (peerReport(.upToDate, lineage(9)), .unrelatedData),
  ])
  func refusalIsToldAndFinal(report: StateReport, reason: Reason) {
    let rig = Rig()
    rig.attach(superblock(.upToDate, lineage(1, 2)))
    rig.dialAndGreet()
    rig.settle()
    let before = rig.replica.superblock

    rig.receive(report)

    #expect(rig.sent(.reject)?.length == UInt64(reason.rawValue))
    #expect(rig.state == .standAlone)
    #expect(rig.peer.reason == reason)
    #expect(rig.replica.superblock == before, "a refusal changes nothing (P3)")
    #expect(rig.replica.nextDeadline == .never, "an operator has to act")
  }

  @Test func refusalOfThePeerIsFinalHereToo() {
    let rig = Rig()
    rig.attach(superblock())
    rig.dialAndGreet()
    rig.settle()
    rig.receive(.reject, length: UInt64(Reason.splitBrain.rawValue))

    #expect(rig.state == .standAlone)
    #expect(rig.peer.reason == .splitBrain)
  }

  /// Only a decision sends this node StandAlone, not whatever a peer says.
  @Test(arguments: [
    UInt64(Reason.byCommand.rawValue), UInt64(Reason.shutdown.rawValue), 255,
    256 + UInt64(Reason.splitBrain.rawValue),
  ])
  func rejectWithAnotherReasonIsAnError(value: UInt64) {
    let rig = Rig()
    rig.attach(superblock())
    rig.dialAndGreet()
    rig.receive(.reject, length: value)

    #expect(rig.peer.reason == .protocolError)
    #expect(rig.state == .connecting)
  }

  /// A Primary's clients go on until the Secondary is ready; from then on they wait, so that what
  /// is told stays true, and go on when the two agree or the attempt ends.
  @Test func clientsWaitOnlyForTheEndOfTheHandshake() {
    let rig = Rig.lonePrimary()
    rig.dialAndGreet()
    rig.submit(.write, blocks: 0..<1)
    rig.settle()
    #expect(rig.completions[0] == .done, "not frozen before the peer's report")

    rig.receive(peerReport())
    rig.submit(.write, blocks: 1..<2)
    rig.submit(.flush, tag: 50)
    #expect(!rig.disk.contains { $0.kind == "write" })
    rig.submit(.read, blocks: 2..<3)
    rig.settle()
    #expect(rig.completions[2] == .done, "reads change nothing")
    #expect(rig.completions[1] == nil)

    rig.receiveVerdict(.syncTarget, .bitmap)
    #expect(rig.state == .connected)
    rig.settle()
    for header in rig.takeSent() where [.write, .flush].contains(header.type) {
      rig.acknowledge(header)
    }

    #expect(rig.completions[1] == .done && rig.completions[50] == .done)
    rig.expectSettled()
  }

  @Test func frozenClientsGoOnWhenTheHandshakeTimesOut() {
    let rig = Rig.lonePrimary()
    rig.dialAndGreet()
    rig.receive(peerReport())
    rig.submit(.write, blocks: 1..<2)
    rig.settle()
    #expect(rig.completions[1] == nil)

    rig.advance(milliseconds: 3_000)
    rig.settle()

    #expect(rig.peer.reason == .handshakeTimeout)
    #expect(rig.completions[1] == .done)
  }

  /// A write in flight ends, and its generation is on disk, before the report is made.
  @Test func writesInFlightEndBeforeTheReport() {
    let rig = Rig.primary()
    rig.submit(.write, tag: 1)
    rig.breakConnection()
    rig.dialAndGreetAgain()
    rig.receive(peerReport())
    #expect(!rig.controls.dropFirst().contains(.state) || rig.state == .quiescing)
    rig.settle()

    #expect(rig.completions == [1: .done])
    #expect(rig.sent(.verdict)?.length == UInt64(Action.syncSource.rawValue))
  }

  /// The disk of a node that keeps losing its peer hangs: one flush of the handshake is under way,
  /// however often the peer comes back.
  @Test func hungDiskGetsOneFlushHoweverOftenThePeerReturns() {
    let rig = Rig()
    rig.attach(superblock())
    rig.dialAndGreet()
    for _ in 0..<200 {
      rig.breakConnection()
      rig.dialAndGreetAgain()
    }

    #expect(rig.disk.count == 1)
    rig.settle()
    #expect(rig.state == .wfReportParams, "the flush of this handshake came after the old one")
  }

  /// Writes of an earlier connection must not land after the report was made.
  @Test func reportWaitsForThePeersOldWrites() {
    let rig = Rig.secondary()
    rig.peerWrites(blocks: 0..<1)
    rig.breakConnection()
    rig.dialAndGreetAgain(isPrimary: true)
    #expect(rig.disk.count == 1, "the old write, and no flush yet")

    rig.finishDisk()

    #expect(rig.disk.first?.kind == "flush")
  }
}
