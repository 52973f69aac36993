/// Golden texts: scripts and people read these lines, so a change here is a change of interface.

import Control
import Foundation
import Testing

/// A resource in the middle of its initial sync, as the source sees it.
func syncingResource() -> ResourceStatus {
  var device = DeviceStatus(volume: 0, minor: 0, diskState: .upToDate)
  device.size = 98264
  device.read = 29120
  device.activityLogWrites = 8
  var peer = PeerDeviceStatus(
    volume: 0, replicationState: .syncSource, peerDiskState: .inconsistent)
  peer.sent = 29120
  peer.outOfSync = 69144
  peer.hasSyncDetails = true
  peer.resyncTotal = 98264 * 2
  var connection = ConnectionStatus(
    peerNodeID: 1, name: "bravo", connectionState: .connected)
  connection.peerRole = .secondary
  connection.peerDevices = [peer]
  var resource = ResourceStatus(name: "r0", nodeID: 0, role: .primary)
  resource.devices = [device]
  resource.connections = [connection]
  return resource
}

/// The same after the sync.
func syncedResource() -> ResourceStatus {
  var resource = syncingResource()
  resource.connections[0].peerDevices[0].replicationState = .established
  resource.connections[0].peerDevices[0].peerDiskState = .upToDate
  resource.connections[0].peerDevices[0].outOfSync = 0
  resource.connections[0].peerDevices[0].sent = 98264
  resource.connections[0].peerDevices[0].resyncTotal = nil
  return resource
}

@Suite struct StatusTextTests {
  @Test func connectedResourceIsFourLines() {
    #expect(
      statusText([syncedResource()]) == """
        r0 role:Primary
          disk:UpToDate
          bravo role:Secondary
            replication:Established peer-disk:UpToDate


        """)
  }

  /// Without a peer only the connection's state is said.
  @Test func connectingPeerIsOneLine() {
    var resource = syncedResource()
    resource.role = .secondary
    resource.connections[0].connectionState = .connecting
    resource.connections[0].peerRole = .unknown
    resource.connections[0].peerDevices[0].replicationState = .off
    resource.connections[0].peerDevices[0].peerDiskState = .unknown
    #expect(
      statusText([resource]) == """
        r0 role:Secondary
          disk:UpToDate
          bravo connection:Connecting


        """)
  }

  /// DRBD hides why it stands alone; Ashlar says it, as one quoted word.
  @Test func standAloneSaysWhy() {
    var resource = syncedResource()
    resource.connections[0].connectionState = .standAlone
    resource.connections[0].peerRole = .unknown
    resource.connections[0].peerDevices = []
    resource.connections[0].reason = "split brain: \"both\" wrote\nsince generation 4"
    #expect(
      statusText([resource]) == """
        r0 role:Primary
          disk:UpToDate
          bravo connection:StandAlone
              reason:"split brain: \\"both\\" wrote since generation 4"


        """)
  }

  @Test func statisticsFollowOnTheirOwnLines() {
    var resource = syncingResource()
    resource.devices[0].read = 27164
    resource.connections[0].peerDevices[0].sent = 27164
    resource.connections[0].peerDevices[0].outOfSync = 71100
    #expect(
      statusText([resource], options: StatusTextOptions(statistics: true)) == """
        r0 role:Primary
          disk:UpToDate
              read:27164 written:0
          bravo role:Secondary
            replication:SyncSource peer-disk:Inconsistent done:27.60
                received:0 sent:27164 out-of-sync:71100


        """)
  }

  @Test func verboseStatisticsWrapAtEightyColumns() {
    let options = StatusTextOptions(verbose: true, statistics: true)
    #expect(
      statusText([syncingResource()], options: options) == """
        r0 node-id:0 role:Primary suspended:no
            write-ordering:flush
          volume:0 minor:0 disk:UpToDate open:no
              size:98264 read:29120 written:0 al-writes:8 bm-writes:0 upper-pending:0
              lower-pending:0 al-suspended:no blocked:no
          bravo node-id:1 connection:Connected role:Secondary congested:no
            volume:0 replication:SyncSource peer-disk:Inconsistent done:29.60
                resync-suspended:no
                received:0 sent:29120 out-of-sync:69144 pending:0 unacked:0


        """)
  }

  /// A running sync also says how fast and how long.
  @Test func runningSyncShowsRateAndTimeToGo() {
    var resource = syncingResource()
    resource.connections[0].peerDevices[0].resyncRate = 2812
    let text = statusText([resource], options: StatusTextOptions(width: 120))
    #expect(text.contains("done:29.60 rate:2812 eta:0:00:25\n"))
  }

  @Test func pausedSyncSaysWhoPausedIt() {
    var resource = syncingResource()
    resource.connections[0].peerDevices[0].replicationState = .pausedSyncSource
    resource.connections[0].peerDevices[0].percentResyncDone = 49.73
    resource.connections[0].peerDevices[0].resyncSuspended = "user"
    #expect(
      statusText([resource]).hasSuffix(
        """
          bravo role:Secondary
            replication:PausedSyncS peer-disk:Inconsistent done:49.73
                resync-suspended:user


        """))
  }

  /// Colours never change where lines break, and never appear unasked.
  @Test func coloursOnlyDecorate() {
    let resources = [syncingResource(), syncedResource()]
    let plain = statusText(resources, options: StatusTextOptions(verbose: true))
    let colored = statusText(resources, options: StatusTextOptions(verbose: true, color: true))

    #expect(plain.contains("\u{1B}") == false)
    #expect(colored.contains("\u{1B}[32mUpToDate\u{1B}[0m"))
    let stripped = colored.replacing(/\u{1B}\[[0-9;]*m/, with: "")
    #expect(stripped == plain)
  }

  /// The keys of `drbdsetup status --json`, exactly, and no Ashlar key without a value.
  @Test func jsonHasDRBDsKeys() throws {
    let data = try JSONEncoder().encode(syncedResource())
    let object = try #require(try JSONSerialization.jsonObject(with: data) as? [String: Any])
    let keys: Set<String> = [
      "name", "node-id", "role", "suspended", "suspended-user", "suspended-no-data",
      "suspended-fencing", "suspended-quorum", "force-io-failures", "write-ordering", "devices",
      "connections",
    ]
    #expect(Set(object.keys) == keys)
    let device = try #require((object["devices"] as? [[String: Any]])?.first)
    let deviceKeys: Set<String> = [
      "volume", "minor", "disk-state", "client", "open", "quorum", "size", "read", "written",
      "al-writes", "bm-writes", "upper-pending", "lower-pending", "al-suspended", "blocked",
    ]
    #expect(Set(device.keys) == deviceKeys)
    let connection = try #require((object["connections"] as? [[String: Any]])?.first)
    let connectionKeys: Set<String> = [
      "peer-node-id", "name", "connection-state", "congested", "peer-role", "tls",
      "ap-in-flight", "rs-in-flight", "paths", "peer_devices",
    ]
    #expect(Set(connection.keys) == connectionKeys)
    let peer = try #require((connection["peer_devices"] as? [[String: Any]])?.first)
    let peerKeys: Set<String> = [
      "volume", "replication-state", "peer-disk-state", "peer-client", "resync-suspended",
      "received", "sent", "out-of-sync", "pending", "unacked", "has-sync-details",
      "has-online-verify-details", "percent-in-sync",
    ]
    #expect(Set(peer.keys) == peerKeys)
  }
}
