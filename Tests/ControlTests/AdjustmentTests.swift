/// `adjust` does what differs and nothing else.

import BlockTypes
import Configuration
import Control
import Testing

@Suite struct AdjustmentTests {
  private func resource(_ change: (inout ResourceConfiguration) -> Void = { _ in })
    -> ResourceConfiguration
  {
    func host(_ name: String, _ id: UInt64, _ port: UInt16) -> HostConfiguration {
      HostConfiguration(
        name: name, nodeID: NodeID(id)!, address: PeerAddress(host: "10.0.0.1", port: port),
        volumes: [VolumeConfiguration(number: 0, disk: "/dev/\(name)", metaDisk: .internal)])
    }
    var result = ResourceConfiguration(
      name: "r0", hosts: [host("alpha", 0, 1), host("bravo", 1, 2)], file: "a", line: 1)
    change(&result)
    return result
  }

  private func lines(
    _ wanted: ResourceConfiguration, _ running: ResourceConfiguration?, _ status: ResourceStatus?
  ) throws -> [String] {
    try adjustment(wanted: wanted, running: running, status: status, node: "alpha")
      .map(dryRunLine)
  }

  @Test func nothingDiffersNothingIsDone() throws {
    let moved = resource {
      $0.file = "b"
      $0.line = 9
    }
    #expect(try lines(moved, resource(), syncedResource()) == [])
    // A peer's disk is the peer's business.
    let peer = resource { $0.hosts[1].volumes[0].disk = "/dev/other" }
    #expect(try lines(peer, resource(), syncedResource()) == [])
  }

  @Test func resourceThatIsDownIsBroughtUp() throws {
    #expect(try lines(resource(), nil, nil) == ["ashlard up r0 --protocol=C"])
  }

  @Test func changedOptionsAreSetAlone() throws {
    let wanted = resource {
      $0.net.pingIntervalSeconds = 5
      $0.options.minSize = 2
    }
    #expect(
      try lines(wanted, resource(), syncedResource()) == [
        "ashlard resource-options r0 --size=2 --min-size=2 --undo-limit=10737418240 "
          + "--undo-directory=/var/lib/ashlar/undo",
        "ashlard net-options r0 --protocol=C --timeout=60 --ko-count=7 --ping-int=5 "
          + "--ping-timeout=5 --connect-int=10 --after-sb-0pri=disconnect "
          + "--after-sb-1pri=disconnect --after-sb-2pri=disconnect --rr-conflict=disconnect",
      ])
  }

  /// The daemon keeps the addresses it came up with: a promise to change them would be a lie.
  @Test(arguments: [0, 1]) func changedAddressIsRefused(host: Int) {
    let wanted = resource {
      $0.hosts[host].address.port = 3
      $0.hosts[0].volumes[0].disk = "/dev/new"
    }
    do {
      _ = try adjustment(
        wanted: wanted, running: resource(), status: syncedResource(), node: "alpha")
      Issue.record("accepted")
    } catch {
      #expect(error.text.contains("run 'ashlaradm down r0', then 'ashlaradm up r0'"))
    }
  }

  @Test func theOrderOfHostsIsNoDifference() throws {
    let wanted = resource { $0.hosts.reverse() }
    #expect(try lines(wanted, resource(), syncedResource()) == [])
  }

  /// What the disk is to be travels with the order to attach it.
  @Test func theAttachOfAChangedDiskNamesIt() throws {
    let wanted = resource { $0.hosts[0].volumes[0].disk = "/dev/new" }
    let requests = try adjustment(
      wanted: wanted, running: resource(), status: syncedResource(), node: "alpha")
    let attach = try #require(requests.first { $0.command == .attach })
    #expect(attach.configuration?.host(named: "alpha")?.volume(0)?.disk == "/dev/new")
  }

  @Test func changedDiskIsReattached() throws {
    let wanted = resource { $0.hosts[0].volumes[0].disk = "/dev/new" }
    #expect(
      try lines(wanted, resource(), syncedResource())
        == ["ashlard detach r0/0", "ashlard attach r0/0"])
  }

  @Test func whatIsMissingIsRestored() throws {
    var status = syncedResource()
    status.devices[0].diskState = .diskless
    status.connections[0].connectionState = .standAlone
    #expect(
      try lines(resource(), resource(), status)
        == ["ashlard attach r0/0", "ashlard connect r0 --protocol=C"])
  }

  @Test func changedNodeIDIsRefused() {
    let wanted = resource { $0.hosts[0].nodeID = NodeID(7)! }
    do {
      _ = try adjustment(
        wanted: wanted, running: resource(), status: syncedResource(), node: "alpha")
      Issue.record("accepted")
    } catch {
      #expect(error.text.contains("ashlaradm down r0"))
    }
  }
}
