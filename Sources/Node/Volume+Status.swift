/// What `status` shows of a volume.
import BlockTypes
import Configuration
import Control
import Metadata
import Replication
import Wire

extension Volume {
  func status(engine: String, isOpen: Bool, now: Instant) -> ResourceStatus {
    var status = ResourceStatus(
      name: configuration.name, nodeID: Int(host.nodeID.value), role: replica.role.statusName)
    status.suspended = replica.isSuspended && replica.role == .primary
    status.devices = [deviceStatus(engine: engine, isOpen: isOpen)]
    for (slot, peer) in peerHosts.enumerated() {
      status.connections.append(connectionStatus(slot, peer, now))
    }
    return status
  }

  private func deviceStatus(engine: String, isOpen: Bool) -> DeviceStatus {
    let isAttaching = replica.disk == .diskless && disk.map { !$0.isDetached } == true
    var device = DeviceStatus(
      volume: 0, minor: index, diskState: isAttaching ? .attaching : replica.disk.statusName)
    device.open = isOpen
    device.size = replica.exposedBytes / 1024
    device.read = counters.diskReadBytes / 1024
    device.written = counters.diskWrittenBytes / 1024
    device.upperPending = UInt64(replica.clientRequestCount)
    device.lowerPending = UInt64(diskOperations)
    device.disk = host.volume(0)?.disk
    device.engine = engine
    if let newest = replica.superblock?.lineage.newest {
      device.generation = "\(newest.number):\(hexadecimal(newest.id))"
    }
    device.lineage = replica.superblock?.lineage.generations.map(\.status)
    if replica.hasCrashed { device.crashed = true }
    let errors = replica.diskErrors
    if errors != DiskErrors() {
      device.diskErrors = DiskErrorStatus(
        read: errors.readErrors, write: errors.writeErrors, timeouts: errors.timeouts,
        readFromPeer: errors.readsFromPeer, repaired: errors.repairs)
    }
    device.reason = diskReason
    return device
  }

  /// Why the disk is not UpToDate, and what to do.
  private var diskReason: String? {
    if replica.role == .primary, replica.isWritable, replica.disk != .upToDate {
      return replica.disk == .diskless
        ? "no disk is attached; clients use the peer's data"
        : "the disk is being filled; clients use the peer's data where it is stale"
    }
    return switch replica.disk {
    case .upToDate, .unknown, .failed: nil
    case .diskless:
      switch disk {
      case nil: "no disk is attached"
      case let disk? where disk.isDetached: AttachedDisk.owesAnswers
      case _?: "the disk is being attached"
      }
    case .inconsistent: "the data is not complete; connect to an UpToDate peer to resync"
    case .outdated: "the peer went on without this node; connect to it to resync"
    case .consistent:
      "this node crashed and may lack writes that the peer has; connect to it, "
        + "or use 'primary --force' if it is gone for good"
    }
  }

  private func connectionStatus(
    _ slot: Int, _ peer: HostConfiguration, _ now: Instant
  ) -> ConnectionStatus {
    let state = replica.status(ofPeer: slot)
    var connection = ConnectionStatus(
      peerNodeID: Int(peer.nodeID.value), name: peer.name,
      connectionState: state.connection.statusName)
    connection.peerRole = state.role.statusName
    if state.connection != .connected, state.reason != .none {
      connection.reason = state.reason.text
    }
    connection.reason = connection.reason ?? advice(state)
    if let meeting = replica.lastMeeting(withPeer: slot) {
      connection.decision = meeting.decision.text + meeting.amount
      // Marked blocks are kept before a resync as well, where the histories do not part.
      let givesUp = meeting.decision.action != .syncTarget || meeting.decision.givesDataUp
      let isUnresolved = meeting.isUnresolved || state.reason.isSplitBrain && givesUp
      if state.connection != .connected, isUnresolved {
        connection.splitBrain = meeting.status
      }
    }
    connection.paths = [
      PathStatus(
        thisHost: endpoint(host.address), remoteHost: endpoint(peer.address),
        established: state.connection == .connected)
    ]
    var device = PeerDeviceStatus(
      volume: 0, replicationState: state.statusName,
      peerDiskState: state.disk.statusName)
    device.received = counters.receivedBytes / 1024
    device.sent = counters.sentBytes / 1024
    device.outOfSync = state.blocksOutOfSync * blockSize / 1024
    device.pending = UInt64(state.outstanding)
    device.base = state.base?.status
    device.resyncSuspended = state.resyncSuspended
    addSyncDetails(&device, state, now)
    addVerifyDetails(&device, state, now)
    connection.peerDevices = [device]
    return connection
  }

  /// What to do about blocks that a verify found to differ: nobody else knows which side is right.
  private func advice(_ state: PeerStatus) -> String? {
    guard state.replication == .established, state.blocksOutOfSync > 0,
      replica.disk == .upToDate, state.disk == .upToDate
    else { return nil }
    return "\(state.blocksOutOfSync) blocks of 4 KiB differ; 'ashlaradm verify --repair --marked "
      + "--from NODE \(configuration.name)' copies them from the node whose data is right"
  }

  private func addSyncDetails(
    _ device: inout PeerDeviceStatus, _ state: PeerStatus, _ now: Instant
  ) {
    let blocks = (replica.superblock?.volumeBytes ?? 0) / blockSize
    if blocks > 0 {
      device.percentInSync = 100 - Double(state.blocksOutOfSync) * 100 / Double(blocks)
    }
    guard state.replication == .syncSource || state.replication == .syncTarget,
      state.syncBlocksTotal > 0
    else { return }
    let done = state.syncBlocksTotal - min(state.blocksOutOfSync, state.syncBlocksTotal)
    let elapsedMs = max(now.milliseconds(since: state.syncStarted), 1)
    let rateKiB = done * (blockSize / 1024) * 1000 / elapsedMs
    device.hasSyncDetails = true
    device.percentResyncDone = Double(done) * 100 / Double(state.syncBlocksTotal)
    device.resyncTotal = state.syncBlocksTotal * (blockSize / sectorSize)
    device.resyncStartedAgoMs = elapsedMs
    device.resyncRate = rateKiB
    if rateKiB > 0 {
      device.estimatedSecondsToFinish = state.blocksOutOfSync * (blockSize / 1024) / rateKiB
    }
  }

  private func endpoint(_ address: PeerAddress) -> PathStatus.Endpoint {
    PathStatus.Endpoint(
      address: address.host, port: Int(address.port), family: address.family)
  }
}

extension Generation {
  var status: GenerationStatus {
    GenerationStatus(
      number: number, id: hexadecimal(id), author: Int(author.value), began: isoTime(beganAt))
  }
}

extension Meeting {
  /// How much a resync would copy. Blocks that both sides have marked are counted twice.
  fileprivate var amount: String {
    guard decision.action == .syncSource || decision.action == .syncTarget else { return "" }
    if decision.extent == .bitmap {
      return ", \((mine.outOfSyncBlocks + theirs.outOfSyncBlocks) * blockSize / 1024) KiB at most"
    }
    return ", \(mine.volumeBytes / 1024) KiB"
  }

  /// The two histories, for people.
  var status: SplitBrainStatus {
    SplitBrainStatus(
      common: ancestor?.status, local: side(mine), peer: side(theirs),
      bitmapsCover: bitmapsCover)
  }

  private func side(_ report: StateReport) -> SideHistoryStatus {
    let alone =
      ancestor.map { report.lineage.generations(after: $0) } ?? report.lineage.generations[...]
    return SideHistoryStatus(
      generations: alone.map(\.status),
      changed: bitmapsCover ? report.outOfSyncBlocks * blockSize / 1024 : nil,
      role: report.role.statusName, disk: report.disk.statusName)
  }
}

/// 16 digits, as DRBD prints its UUIDs.
func hexadecimal(_ number: UInt64) -> String {
  let digits = String(number, radix: 16, uppercase: true)
  return String(repeating: "0", count: 16 - digits.count) + digits
}

extension Role {
  var statusName: RoleName {
    switch self {
    case .primary: .primary
    case .secondary: .secondary
    case .unknown: .unknown
    }
  }
}

extension DiskState {
  var statusName: DiskStateName {
    switch self {
    case .diskless: .diskless
    case .inconsistent: .inconsistent
    case .outdated: .outdated
    case .consistent: .consistent
    case .upToDate: .upToDate
    case .unknown: .unknown
    case .failed: .failed
    }
  }
}

extension ConnectionState {
  var statusName: ConnectionStateName {
    switch self {
    case .standAlone: .standAlone
    case .connecting, .quiescing, .wfReportParams, .wfVerdict: .connecting
    case .connected: .connected
    }
  }
}

extension PeerStatus {
  /// Who wants a resync to rest, in DRBD's words: `user` and `dependency` (`resync-after`) are of
  /// this node.
  var resyncSuspended: String {
    var reasons: [String] = []
    if isPausedHere { reasons.append("user") }
    if isPausedByPeer || peerWaitsForResync { reasons.append("peer") }
    if waitsForResync { reasons.append("dependency") }
    return reasons.isEmpty ? "no" : reasons.joined(separator: ",")
  }

  var statusName: ReplicationStateName {
    guard resyncSuspended != "no" else { return replication.statusName }
    return switch replication {
    case .syncSource: .pausedSyncSource
    case .syncTarget: .pausedSyncTarget
    default: replication.statusName
    }
  }
}

extension ReplicationState {
  var statusName: ReplicationStateName {
    switch self {
    case .off: .off
    case .established: .established
    case .wfBitMapS: .waitForBitmapSource
    case .wfBitMapT: .waitForBitmapTarget
    case .syncSource: .syncSource
    case .syncTarget: .syncTarget
    case .verifyS: .verifySource
    case .verifyT: .verifyTarget
    }
  }
}
