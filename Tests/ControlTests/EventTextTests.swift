/// The lines of `events2`.
import Testing

@testable import Control

@Suite struct EventTextTests {
  private func resource() -> ResourceStatus {
    var resource = ResourceStatus(name: "r0", nodeID: 0, role: .primary)
    resource.devices = [DeviceStatus(volume: 0, minor: 3, diskState: .upToDate)]
    var peer = ConnectionStatus(peerNodeID: 1, name: "beta", connectionState: .standAlone)
    peer.reason = "a \"quoted\" reason\nin two lines"
    peer.peerDevices = [
      PeerDeviceStatus(volume: 0, replicationState: .off, peerDiskState: .unknown)
    ]
    resource.connections = [peer]
    return resource
  }

  @Test func listHasDRBDsGrammarAndReasonsLast() {
    #expect(
      eventLines("exists", resource()) == [
        "exists resource name:r0 role:Primary suspended:no",
        "exists connection name:r0 peer-node-id:1 conn-name:beta connection:StandAlone "
          + "role:Unknown reason:\"a \\\"quoted\\\" reason in two lines\"",
        "exists device name:r0 volume:0 minor:3 disk:UpToDate",
        "exists peer-device name:r0 peer-node-id:1 conn-name:beta volume:0 replication:Off "
          + "peer-disk:DUnknown resync-suspended:no",
      ])
  }

  @Test func whatIsDestroyedGoesInReverse() {
    #expect(
      eventLines("destroy", resource()) == [
        "destroy peer-device name:r0 peer-node-id:1 conn-name:beta volume:0",
        "destroy device name:r0 volume:0 minor:3",
        "destroy connection name:r0 peer-node-id:1 conn-name:beta",
        "destroy resource name:r0",
      ])
  }

  @Test func linesNameTheirResource() {
    #expect(resourceName(ofEvent: "change device name:r0 volume:0") == "r0")
    #expect(resourceName(ofEvent: "exists -") == nil)
  }
}
