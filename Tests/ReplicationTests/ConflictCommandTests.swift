/// What a replica does about conflicting histories: orders of the administrator, handlers, what it
/// remembers for `status`.
import BlockTypes
import Metadata
import TestSupport
import Testing
import Wire

@testable import Replication

extension Effect {
  fileprivate var handler: HandlerCall? {
    if case .note(.handler(_, let call)) = self { call } else { nil }
  }
}

@Suite struct ConflictCommandTests {
  /// Attached, wrote alone since generation 1, and the peer did, too.
  private func split(_ change: (inout ReplicaOptions) -> Void = { _ in }) -> Rig {
    let rig = Rig(change)
    var block = superblock(.upToDate, lineage(1, 2))
    block.peers = [PeerSlotRecord(node: other, base: lineage(1).newest)]
    rig.attach(block)
    return rig
  }

  private var peerApart: StateReport {
    var report = peerReport(.upToDate, lineage(1, 3))
    report.base = lineage(1).newest
    return report
  }

  private func meet(_ rig: Rig, _ report: StateReport, by command: Command = .connect) {
    rig.command(command)
    rig.passDeadline()
    rig.connection = rig.newConnection()
    rig.step(.dialed(peer: 0, rig.connection))
    rig.receiveHello(.helloReply, on: rig.connection, isPrimary: report.role == .primary)
    rig.settle()
    rig.receive(report)
  }

  @Test func b01BothHistoriesAreRememberedAfterTheRefusal() throws {
    let rig = split()
    let before = rig.replica.superblock
    meet(rig, peerApart)

    #expect(rig.state == .standAlone)
    #expect(rig.peer.reason == .splitBrain)
    #expect(rig.replica.superblock == before, "both data sets stay as they are")
    #expect(rig.effects.compactMap(\.handler) == [.initialSplitBrain, .splitBrain])
    let last = rig.replica.lastMeeting(withPeer: 0)
    let meeting = try #require(last)
    #expect(meeting.ancestor == lineage(1).newest)
    #expect(meeting.theirs.lineage == lineage(1, 3))
  }

  @Test func b01DiscardedHistoryIsGoneOnDiskBeforeTheSourceMaySend() {
    let rig = split()
    meet(rig, peerApart, by: .discard(.withoutUndo))
    #expect(rig.sent(.verdict) == nil)
    rig.finishSuperblock()

    #expect(rig.durable.last?.lineage == lineage(1))
    #expect(rig.durable.last?.diskState == .inconsistent)
    #expect(rig.durable.last?.peers.first?.base == lineage(1).newest)
    #expect(rig.sent(.verdict)?.length == UInt64(Action.syncTarget.rawValue))
  }

  /// Cut right after the decision: the resync goes on without asking the administrator again.
  @Test func b01InterruptedDiscardGoesOnByItself() {
    let rig = split()
    meet(rig, peerApart, by: .discard(.withoutUndo))
    rig.finishSuperblock()
    rig.breakConnection()
    rig.dialAndGreetAgain()
    rig.settle()
    rig.receive(peerApart)
    rig.settle()

    #expect(rig.sent(.verdict)?.length == UInt64(Action.syncTarget.rawValue))
  }

  @Test func b02DiscardingOnAPrimaryIsRefusedWithDRBDsWords() {
    let rig = split()
    rig.command(.primary(force: false))
    rig.settle()
    let token = rig.command(.connectDiscarding)

    #expect(rig.replies[token] == .refused(.discardOnPrimary))
    #expect(Refusal.discardOnPrimary.text == "--discard-my-data not allowed when primary.")
    #expect(rig.state == .standAlone)
  }

  /// The order is not kept for a Primary that was promoted while it waited for the peer.
  @Test func b02OrderDoesNotOutliveAPromotion() {
    let rig = split()
    rig.command(.connectDiscarding)
    rig.command(.primary(force: false))
    rig.settle()
    rig.passDeadline()
    rig.connection = rig.newConnection()
    rig.step(.dialed(peer: 0, rig.connection))
    rig.receiveHello(.helloReply, on: rig.connection)
    rig.receive(peerApart)
    rig.settle()

    #expect(rig.peer.reason == .splitBrain)
  }

  /// Nor the role: what was written meanwhile is newer than the order.
  @Test func b02OrderIsForgottenWithAPromotion() {
    let rig = split()
    rig.command(.connectDiscarding)
    rig.command(.primary(force: false))
    rig.settle()
    rig.command(.secondary(heldOpen: false))
    rig.settle()
    meet(rig, peerApart)
    #expect(rig.peer.reason == .splitBrain)
  }

  @Test func orderEndsWithDisconnectAndWithAPlainConnect() {
    for end in [Command.disconnect, .connect] {
      let rig = split()
      rig.command(.connectDiscarding)
      rig.command(end)
      meet(rig, peerApart)
      #expect(rig.peer.reason == .splitBrain, "\(end)")
    }
  }

  /// B13: `connect` begins to connect where the node stands alone, and changes nothing where it is
  /// connecting or connected.
  @Test func b13ConnectIsTheSameTwice() {
    let rig = split()
    for _ in 0..<2 {
      let token = rig.command(.connect)
      #expect(rig.replies[token] == .done)
      #expect(rig.state == .connecting)
    }
    let pair = Rig.connected()
    let token = pair.command(.connect)
    #expect(pair.replies[token] == .done)
    #expect(pair.state == .connected && pair.closed.isEmpty)
  }

  @Test func discardingOnAConnectionIsRefused() {
    let rig = Rig.connected()
    let token = rig.command(.connectDiscarding)
    #expect(rig.replies[token] == .refused(.alreadyConnected))
    #expect(rig.state == .connected)
  }

  @Test(arguments: [
    peerReport(), peerReport(.upToDate, lineage(1, 2)), peerReport(.inconsistent, Lineage()),
    peerReport(.upToDate, lineage(9)), peerReport(.diskless),
  ])
  func r24TentativeMeetingChangesNothing(report: StateReport) throws {
    let rig = Rig()
    rig.attach(superblock())
    let before = rig.replica.superblock
    meet(rig, report, by: .connectTentatively)

    #expect(rig.state == .standAlone)
    #expect(rig.peer.reason == .tentative)
    #expect(rig.replica.superblock == before)
    #expect(!rig.superblockIsPending)
    #expect(rig.replica.disk == .upToDate)
    let last = rig.replica.lastMeeting(withPeer: 0)
    let meeting = try #require(last)
    #expect(
      meeting.decision
        == Decision.decide(mine: meeting.mine, theirs: report, iAmLower: true))
  }

  /// The side that was not asked goes on trying, without a hurry.
  @Test func r24PeerOfATentativeMeetingKeepsConnecting() {
    let rig = Rig()
    rig.attach(superblock())
    var report = peerReport(.upToDate, lineage(1, 2))
    report.isTentative = true
    meet(rig, report)

    #expect(rig.state == .connecting)
    #expect(rig.replica.disk == .upToDate)
    #expect(rig.replica.nextDeadline >= rig.now.advanced(milliseconds: 1_000))
  }

  /// Behind its peer, and its handler runs.
  private func asking() -> Rig {
    let rig = Rig { $0.asksBeforeResyncTarget = true }
    rig.attach(superblock())
    meet(rig, peerReport(.upToDate, lineage(1, 2)))
    return rig
  }

  /// The handler agrees, and the two meet again.
  private func expectTarget(_ rig: Rig, sourceLocation: SourceLocation = #_sourceLocation) {
    rig.command(.resyncAllowed(peer: 0, true))
    rig.dialAndGreetAgain()
    rig.settle()
    rig.receive(peerReport(.upToDate, lineage(1, 2)))
    rig.settle()
    let verdict = rig.sent(.verdict)?.length
    #expect(verdict == UInt64(Action.syncTarget.rawValue), sourceLocation: sourceLocation)
  }

  @Test func handlerAgreesBeforeANodeBecomesTarget() {
    let rig = asking()
    #expect(rig.effects.compactMap(\.handler) == [.beforeResyncTarget])
    #expect(rig.state == .connecting)
    #expect(rig.replica.disk == .outdated, "the peer has more, whatever the handler does")

    expectTarget(rig)
  }

  /// A snapshot that is taken again while the resync runs replaces the good one.
  @Test func handlerIsCalledOnceHoweverLongItTakes() {
    let rig = asking()
    #expect(rig.replica.peers[0].retryAt == .never, "this node does not dial meanwhile")

    rig.command(.disconnect)
    rig.command(.connect)
    #expect(rig.replica.peers[0].retryAt == .never)
    #expect(rig.effects.compactMap(\.handler).isEmpty)

    expectTarget(rig)
  }

  @Test func handlerThatFailsKeepsTheNodesApart() {
    let rig = asking()
    rig.command(.resyncAllowed(peer: 0, false))

    #expect(rig.state == .standAlone)
    #expect(rig.peer.reason == .handlerRefused)
    let token = rig.command(.primary(force: false))
    #expect(rig.replies[token] == .refused(.needUpToDateData), "it knows that it is behind")
  }

  private static func giveWay(_ options: inout ReplicaOptions) {
    options.policy.noPrimary = .discardLeastChanges
    options.policy.onePrimary = .callPrimaryLost
    options.policy.twoPrimaries = .callPrimaryLost
  }

  /// A Primary, and a peer that has written more without it.
  private func named(role: Role) -> Rig {
    let rig = split(Self.giveWay)
    rig.command(.primary(force: false))
    rig.settle()
    var report = peerApart
    report.role = role
    report.outOfSyncBlocks = 9
    report.policy = rig.replica.options.policy
    meet(rig, report)
    rig.settle()
    return rig
  }

  /// B05, B06: no data is replaced under a Primary. It gives up its role first, then its data.
  @Test(arguments: [Role.primary, .secondary])
  func b06PrimaryThatAPolicyNamesGivesWay(peerRole: Role) {
    let rig = named(role: peerRole)
    #expect(rig.state == .connecting && rig.peer.reason == .primaryMustYieldAfterSplitBrain)
    #expect(rig.effects.contains(.note(.mustGiveWay(peer: 0))))
    #expect(rig.replica.role == .primary && rig.replica.disk == .upToDate)

    let token = rig.command(.giveWay(peer: 0, heldOpen: false))
    rig.settle()
    #expect(rig.replies[token] == .done)
    #expect(rig.replica.role == .secondary)
    var report = peerApart
    report.role = peerRole
    report.outOfSyncBlocks = 9
    report.policy = rig.replica.options.policy
    meet(rig, report)
    #expect(rig.undos.count == 1, "what it loses is kept as well")
    #expect(rig.replica.disk == .upToDate)
    rig.step(.undoEnded(peer: 0, number: rig.undos.last ?? 0, .kept))
    meet(rig, report)
    rig.settle()
    #expect(rig.sent(.verdict)?.length == UInt64(Action.syncTarget.rawValue))
  }

  /// One that a client holds open stays as it is, and an administrator has to decide.
  @Test(arguments: [true, false])
  func b06PrimaryThatIsHeldOpenStandsAlone(callsHandler: Bool) {
    let rig = named(role: .primary)
    if !callsHandler { rig.replica.options.policy.twoPrimaries = .asNoPrimary }
    let before = rig.replica.superblock
    let token = rig.command(.giveWay(peer: 0, heldOpen: true))
    #expect(rig.replies[token] == .refused(.heldOpen))
    #expect(
      rig.effects.compactMap(\.handler)
        == [callsHandler ? .primaryLostAfterSplitBrain : .splitBrain])
    #expect(rig.state == .standAlone && rig.peer.reason == .primaryCannotYield)
    #expect(rig.replica.role == .primary && rig.replica.superblock == before)
  }

  /// The side that is not named keeps its role and waits for the other one.
  @Test func b06SurvivorOfAPolicyWaits() {
    let rig = split(Self.giveWay)
    rig.command(.primary(force: false))
    rig.settle()
    var report = peerApart
    report.role = .primary
    report.outOfSyncBlocks = 0
    report.policy = rig.replica.options.policy
    rig.replica.options.policy = report.policy
    meet(rig, report)
    #expect(!rig.effects.contains(.note(.mustGiveWay(peer: 0))))
    #expect(rig.state == .connecting && rig.peer.reason == .peerMustYield)
    #expect(rig.replica.role == .primary)
    #expect(rig.replica.nextDeadline >= rig.now.advanced(milliseconds: 1_000))
    // A command that nobody has a reason for changes nothing.
    rig.command(.giveWay(peer: 0, heldOpen: false))
    rig.settle()
    #expect(rig.replica.role == .primary)
  }

  /// The administrator's word after it counts, not the policy's.
  @Test func b06DisconnectEndsTheGivingWay() {
    let rig = named(role: .primary)
    rig.command(.disconnect)
    rig.command(.giveWay(peer: 0, heldOpen: false))
    rig.settle()
    #expect(rig.replica.role == .primary)
  }

  @Test func primaryThatMustYieldCallsItsHandler() {
    let rig = Rig { $0.policy.primaryIsTarget = .callPrimaryLost }
    rig.attach(superblock())
    rig.command(.primary(force: false))
    rig.settle()
    rig.dialAndGreet()
    rig.receive(peerReport(.upToDate, lineage(1, 2)))
    rig.finishDisk()
    rig.settle()

    #expect(rig.peer.reason == .primaryMustYield)
  }

  /// A generation tells since when, and whether its author had been Primary before the loss.
  @Test func generationTellsWhenItBeganAndHow() throws {
    let rig = Rig.primary { $0.unixSecondsAtZero = 1_000_000 }
    rig.breakConnection()
    rig.submit(.write)
    rig.settle()
    let newest = try #require(rig.replica.superblock?.lineage.newest)
    #expect(newest.beganAt >= 1_000_001)
    #expect(newest.continuesPrimary)

    let later = Rig.lonePrimary()
    later.submit(.write)
    later.settle()
    let second = try #require(later.replica.superblock?.lineage.newest)
    #expect(!second.continuesPrimary)
    #expect(second.beganAt == 0, "unknown is not invented")
  }
}
