/// Scenarios of the checklist that one replica and its reports decide. Names begin with the
/// scenario in docs/scenarios.md.
import BlockTypes
import Metadata
import Replication
import TestSupport
import Testing
import Wire

@Suite struct ScenarioTests {
  /// Outdated says "the other one may have gone on". It did not, and the meeting shows it.
  @Test(arguments: [Role.primary, .secondary])
  func `R17: an Outdated replica that lacks nothing is UpToDate at once`(role: Role) {
    let rig = Rig()
    rig.attach(superblock(.outdated, lineage(1, 2)))
    rig.dialAndGreet(isPrimary: role == .primary)
    rig.shakeHands(peerReport(.upToDate, lineage(1, 2), role: role))

    #expect(rig.replication == .established)
    #expect(rig.replica.disk == .upToDate && rig.peer.disk == .upToDate)
    #expect(rig.peer.blocksOutOfSync == 0)
  }

  /// Whoever crashed, was Primary before, or has the lower number.
  @Test func `R19: with equal generations the UpToDate replica is the source`() {
    for flags in 0..<32 {
      let has = { (bit: Int) in flags & (1 << bit) != 0 }
      var good = peerReport(.upToDate, lineage(1, 2), crashed: has(0))
      var bad = peerReport(.inconsistent, lineage(1, 2), crashed: has(1))
      good.wasPrimary = has(2)
      bad.wasPrimary = has(3)
      for blocks in [0, 7] as [UInt64] {
        bad.outOfSyncBlocks = blocks
        let mine = Decision.decide(mine: good, theirs: bad, iAmLower: has(4))
        let theirs = Decision.decide(mine: bad, theirs: good, iAmLower: !has(4))
        #expect(mine.action == .syncSource && theirs.action == .syncTarget, "flags \(flags)")
      }
    }
  }

  /// Two runs that differ in nothing but the time of day of their hosts; one of them far off.
  @Test(arguments: [1_700_086_400, 1_699_913_600, 0, 5_000_000_000])
  func `C18: a clock that is set changes nothing but what people read`(unixSeconds: UInt64) {
    let (usual, other) = (Rig.went(alone: 1_700_000_000), Rig.went(alone: unixSeconds))

    #expect(usual.effects.kinds == other.effects.kinds)
    #expect(usual.durable == other.durable)
    #expect(usual.replica.nextDeadline == other.replica.nextDeadline)
    let began = { (rig: Rig) in rig.durable.last?.lineage.newest?.beganAt }
    #expect(began(usual) != nil && began(usual) != began(other))
  }
}

extension Rig {
  /// A Primary that lost its peer during a write, went on alone, and waits for the next dial.
  fileprivate static func went(alone unixSeconds: UInt64) -> Rig {
    let rig = Rig.primary { $0.unixSecondsAtZero = unixSeconds }
    rig.submit(.write)
    rig.breakConnection()
    rig.settle()
    rig.submit(.write, blocks: 5..<9)
    rig.settle()
    return rig
  }
}
