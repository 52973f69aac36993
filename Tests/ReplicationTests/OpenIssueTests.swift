/// Cases that DRBD's issue tracker lists as open, as two replicas would meet them here.
import BlockTypes
import Metadata
import Replication
import TestSupport
import Testing
import Wire

private func decide(_ mine: StateReport, _ theirs: StateReport) -> Decision {
  Decision.decide(mine: mine, theirs: theirs, iAmLower: true)
}

@Suite struct OpenIssueTests {
  /// LINBIT/drbd#145: equal generations, 16 marked blocks on the survivor, and "no sync" dropped
  /// the marks of a replica that had shut down cleanly.
  @Test func drbd145MarkedBlocksAreCopiedThoughGenerationsAreEqual() {
    var survivor = peerReport(.upToDate, lineage(1, 2), role: .primary)
    survivor.outOfSyncBlocks = 16
    let returning = peerReport(.outdated, lineage(1, 2))

    let decision = decide(survivor, returning)

    #expect(decision.action == .syncSource)
    #expect(decision.extent == .bitmap)
    #expect(decision.rule == .equalMarked)
  }

  /// The same with nobody Primary: the marks say who is right.
  @Test func drbd145MarksOnOneSideMakeItTheSource() {
    var marked = peerReport(.upToDate, lineage(1, 2))
    marked.outOfSyncBlocks = 16

    #expect(decide(peerReport(.upToDate, lineage(1, 2)), marked).action == .syncTarget)
  }

  /// Here the survivor's writes began a generation, so the ids are not even equal.
  @Test func drbd145WritesWithoutThePeerBeginAGeneration() {
    let rig = Rig.primary()
    rig.receive(.goodbye, length: UInt64(Role.secondary.rawValue))
    rig.submit(.write)
    rig.settle()

    #expect(rig.replica.superblock?.lineage.generations.count == 2)
    #expect(rig.peer.base == lineage(1).newest)
  }

  /// LINBIT/drbd#143: a missed end of resync names the Outdated node as source; it refuses, and the
  /// two try 13 times a second for ever.
  @Test(arguments: [Role.primary, .secondary])
  func drbd143OutdatedNodeIsNotTheSource(role: Role) {
    let current = peerReport(.upToDate, lineage(1, 2), role: role)
    var outdated = peerReport(.outdated, lineage(1, 2))
    outdated.base = lineage(1).newest
    outdated.outOfSyncBlocks = 4096

    let decision = decide(current, outdated)

    #expect(decision.action == .syncSource)
    #expect(decision.extent == .bitmap)
  }

  /// A refusal that an operator has to end is no reason to try again; one that may end by itself is
  /// tried again with a pause.
  @Test func drbd143RefusalsAreNotHammered() {
    let rig = Rig()
    rig.attach(superblock(.upToDate, lineage(1, 2)))
    rig.dialAndGreet()
    rig.settle()
    rig.receive(peerReport(.upToDate, lineage(1, 3)))
    #expect(rig.replica.nextDeadline == .never)

    let patient = Rig { $0.policy.primaryIsTarget = .retryConnect }
    patient.attach(superblock())
    patient.command(.primary(force: false))
    patient.settle()
    patient.dialAndGreet()
    patient.receive(peerReport(.upToDate, lineage(1, 2)))
    patient.settle()
    #expect(patient.peer.reason == .primaryWouldBeTargetForNow)
    #expect(patient.state == .connecting)
    #expect(patient.replica.nextDeadline >= patient.now.advanced(milliseconds: 1_000))
  }

  /// Marks that only one side has, with everything Connected, UpToDate and quiet, never drained
  /// (home-operations/miroir#389, #469, #497). No pair with marks is called in sync.
  @Test(arguments: [Role.primary, .secondary])
  func miroir389OneSidedMarksAlwaysDrain(role: Role) {
    for isMine in [true, false] {
      var mine = peerReport(.upToDate, lineage(1), role: role)
      var theirs = peerReport(.upToDate, lineage(1))
      if isMine { mine.outOfSyncBlocks = 1 } else { theirs.outOfSyncBlocks = 1 }
      let decision = decide(mine, theirs)
      #expect(decision.extent == .bitmap)
      #expect(role == .secondary || decision.action == .syncSource)
    }
  }

  /// Role flapping minted two ids and left one side in WFBitMapS and the other Established
  /// (home-operations/miroir#390, #397). Here a promotion begins no generation, a write does.
  @Test func miroir390FastRoleChangesBeginNoGeneration() {
    let rig = Rig.lonePrimary()
    for _ in 0..<20 {
      rig.command(.secondary(heldOpen: false))
      rig.settle()
      rig.command(.primary(force: false))
      rig.settle()
    }

    #expect(rig.replica.role == .primary)
    #expect(rig.replica.superblock?.lineage == lineage(1))
  }

  /// LINBIT/drbd#137 and #40: a target stuck behind sources. A target whose source cannot serve is
  /// not left waiting: it is no target.
  @Test(arguments: [DiskState.diskless, .inconsistent, .outdated])
  func drbd137NobodyWaitsForASourceThatCannotServe(disk: DiskState) {
    let broken = peerReport(.inconsistent, lineage(1))
    #expect(decide(broken, peerReport(disk, lineage(1))).action == .noSync)
  }

  /// `quorate-data-divergence` (known to fail): two replicas with equal ids and different data.
  /// Equal ids prove nothing here while either crashed or marked a block.
  @Test func quorateDataDivergenceEqualIdsAreNoProof() {
    for crashed in [(true, false), (false, true), (true, true)] {
      let decision = decide(
        peerReport(.consistent, lineage(1), crashed: crashed.0),
        peerReport(.consistent, lineage(1), crashed: crashed.1))
      #expect(decision.extent == .bitmap)
    }
  }
}
