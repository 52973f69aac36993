/// Histories as people and scripts read them.
import Testing

@testable import Control

private func generation(_ number: UInt64, _ id: String, author: Int, _ seconds: UInt32 = 0)
  -> GenerationStatus
{
  GenerationStatus(number: number, id: id, author: author, began: isoTime(seconds))
}

private let ids = (
  "1111111111111111", "2222222222222222", "3333333333333333", "4444444444444444"
)

/// This node, alpha, stands alone after a split brain with beta.
private func split() -> ResourceStatus {
  var resource = ResourceStatus(name: "r0", nodeID: 0, role: .primary)
  var device = DeviceStatus(volume: 0, minor: 0, diskState: .upToDate)
  device.lineage = [
    generation(1, ids.0, author: 0), generation(2, ids.1, author: 0, 1_795_239_963),
  ]
  resource.devices = [device]
  var beta = ConnectionStatus(peerNodeID: 1, name: "beta", connectionState: .standAlone)
  beta.reason = "Split-Brain detected but unresolved, dropping connection!"
  beta.splitBrain = SplitBrainStatus(
    common: generation(1, ids.0, author: 0),
    local: SideHistoryStatus(
      generations: [generation(2, ids.1, author: 0, 1_795_239_963)], changed: 40, role: .primary,
      disk: .upToDate),
    peer: SideHistoryStatus(
      generations: [generation(2, ids.2, author: 1, 1_795_240_000)], changed: 80,
      role: .secondary, disk: .upToDate), bitmapsCover: true)
  var peer = PeerDeviceStatus(volume: 0, replicationState: .off, peerDiskState: .unknown)
  peer.base = generation(1, ids.0, author: 0)
  peer.outOfSync = 40
  beta.peerDevices = [peer]
  resource.connections = [beta]
  return resource
}

@Suite struct HistoryTextTests {
  @Test(
    arguments: [
      (0, nil), (1, "1970-01-01T00:00:01Z"), (951_782_400, "2000-02-29T00:00:00Z"),
      (1_795_239_963, "2026-11-21T05:46:03Z"), (UInt32.max, "2106-02-07T06:28:15Z"),
    ] as [(UInt32, String?)])
  func secondsBecomeADate(seconds: UInt32, text: String?) { #expect(isoTime(seconds) == text) }

  /// The shape of DRBD 8.4: four ids and seven flags.
  @Test func generationLineHasDRBDsShape() {
    let resource = split()
    #expect(
      generationLine(resource, resource.devices[0])
        == "2222222222222222:1111111111111111:1111111111111111:0000000000000000:1:1:1:0:0:0:0")
  }

  @Test func generationTableSaysWhenAndByWhom() {
    let resource = split()
    #expect(
      generationTable(resource, resource.devices[0]) == """
        r0/0: UpToDate, Primary
               2  2222222222222222  2026-11-21T05:46:03Z by this node  <- current
               1  1111111111111111  time unknown         by this node
          for beta: changes are counted since generation 1:1111111111111111, 40 KiB

        """)
  }

  @Test func bothHistoriesAreExplainedAndBothWaysOut() {
    #expect(
      splitBrainText(split()) == """
        r0: split brain with beta
          both were the same at
                 1  1111111111111111  time unknown         by this node
          since then this node (Primary, UpToDate) wrote alone:
                 2  2222222222222222  2026-11-21T05:46:03Z by this node
            40 KiB in blocks that changed
          since then beta (Secondary, UpToDate) wrote alone:
                 2  3333333333333333  2026-11-21T05:46:40Z by beta
            80 KiB in blocks that changed
          to keep the data of beta, losing 40 KiB since 2026-11-21T05:46:03Z written here \
        (about 120 KiB are copied):
            here:     ashlaradm secondary r0; ashlaradm connect --discard-my-data r0
            beta: ashlaradm connect r0
          to keep the data of this node, losing 80 KiB since 2026-11-21T05:46:40Z written on \
        beta (about 120 KiB are copied):
            beta: ashlaradm secondary r0; ashlaradm connect --discard-my-data r0
            here:     ashlaradm connect r0

        """)
    #expect(splitBrainText(split(), isLossOnly: true).hasPrefix("  to keep the data of beta"))
  }

  @Test func withoutASplitBrainTheLastMeetingIsTold() {
    var resource = split()
    resource.connections[0].splitBrain = nil
    resource.connections[0].decision = "no sync (same generation, no crash)"
    #expect(
      splitBrainText(resource)
        == "r0: no split brain with beta is known; last meeting: no sync "
        + "(same generation, no crash)\n")
  }

  @Test func statusShowsWhatEachSideWrote() {
    #expect(
      statusText([split()], options: StatusTextOptions(width: 120)) == """
        r0 role:Primary
          disk:UpToDate
          beta connection:StandAlone reason:"Split-Brain detected but unresolved, dropping \
        connection!"
            split-brain common-generation:1:1111111111111111
              local changed:40 since:2026-11-21T05:46:03Z by-node:0 generation:2:2222222222222222
              peer changed:80 since:2026-11-21T05:46:40Z by-node:1 generation:2:3333333333333333


        """)
  }
}
