/// What a node reports about a resource: the keys of `drbdsetup status --json` with their meaning,
/// and a few of Ashlar's own, which are absent when there is nothing to say.
///
/// Counters and sizes are KiB, as DRBD's are; the `rs-` amounts are sectors, as DRBD's are.

/// One resource as this node sees it.
public struct ResourceStatus: Equatable, Sendable, Codable {
  /// The resource's name.
  public var name: String
  /// This node's id.
  public var nodeID: Int
  /// This node's role.
  public var role: RoleName
  /// Whether I/O is suspended for any of the reasons below.
  public var suspended = false
  /// By `suspend-io`.
  public var suspendedUser = false
  /// Because no UpToDate data can be reached.
  public var suspendedNoData = false
  /// While a peer is being fenced.
  public var suspendedFencing = false
  /// For lack of quorum.
  public var suspendedQuorum = false
  /// Whether I/O is failed on purpose after a forced demotion.
  public var forceIOFailures = false
  /// How writes are ordered on this node's disks; always `flush`.
  public var writeOrdering = "flush"
  /// This node's volumes.
  public var devices: [DeviceStatus] = []
  /// The connections to the peers.
  public var connections: [ConnectionStatus] = []

  /// A resource without volumes and peers.
  public init(name: String, nodeID: Int, role: RoleName) {
    self.name = name
    self.nodeID = nodeID
    self.role = role
  }

  enum CodingKeys: String, CodingKey {
    case name, role, suspended, devices, connections
    case nodeID = "node-id"
    case suspendedUser = "suspended-user"
    case suspendedNoData = "suspended-no-data"
    case suspendedFencing = "suspended-fencing"
    case suspendedQuorum = "suspended-quorum"
    case forceIOFailures = "force-io-failures"
    case writeOrdering = "write-ordering"
  }
}

/// Ashlar: what became of errors of a backing disk since the daemon began.
public struct DiskErrorStatus: Equatable, Sendable, Codable {
  /// Reads of clients that the disk could not serve.
  public var read: UInt64
  /// Writes, flushes and changes of metadata that failed.
  public var write: UInt64
  /// Times the disk was given up because it did not answer.
  public var timeouts: UInt64
  /// Reads of clients that a peer served.
  public var readFromPeer: UInt64
  /// Reads after which the range was written anew, with the peer's data.
  public var repaired: UInt64

  /// Joins the numbers.
  public init(
    read: UInt64, write: UInt64, timeouts: UInt64, readFromPeer: UInt64, repaired: UInt64
  ) {
    self.read = read
    self.write = write
    self.timeouts = timeouts
    self.readFromPeer = readFromPeer
    self.repaired = repaired
  }

  enum CodingKeys: String, CodingKey {
    case read, write, timeouts, repaired
    case readFromPeer = "read-from-peer"
  }
}

/// One volume on this node.
public struct DeviceStatus: Equatable, Sendable, Codable {
  /// The volume number.
  public var volume: Int
  /// DRBD's minor. Ashlar has none: the resource's place in the daemon's list.
  public var minor: Int
  /// The state of the backing disk.
  public var diskState: DiskStateName
  /// Whether the volume has no disk on purpose.
  public var client = false
  /// Whether a client holds the volume open.
  public var open = false
  /// Whether the volume has quorum.
  public var quorum = true
  /// Usable size in KiB.
  public var size: UInt64 = 0
  /// KiB read from the backing disk.
  public var read: UInt64 = 0
  /// KiB written to the backing disk.
  public var written: UInt64 = 0
  /// Activity-log transactions written.
  public var activityLogWrites: UInt64 = 0
  /// Bitmap blocks written.
  public var bitmapWrites: UInt64 = 0
  /// Requests of clients in flight.
  public var upperPending: UInt64 = 0
  /// Requests to the backing disk in flight.
  public var lowerPending: UInt64 = 0
  /// Whether activity-log updates are switched off. Ashlar never does.
  public var activityLogSuspended = false
  /// `no`, or what holds I/O up: `upper`, `lower`.
  public var blocked = "no"
  /// Ashlar: path of the backing disk.
  public var disk: String?
  /// Ashlar: `io_uring` or `libaio`.
  public var engine: String?
  /// Ashlar: number and id of the newest generation of the lineage, as `7:1f0c5e...`.
  public var generation: String?
  /// Ashlar: the history of the data, oldest first.
  public var lineage: [GenerationStatus]?
  /// Ashlar: the data was found dirty at attach and has not been compared with the peer's since.
  public var crashed: Bool?
  /// Ashlar: why the disk is not UpToDate or was refused, in words.
  public var reason: String?
  /// Ashlar: what became of errors of the disk; absent while there was none.
  public var diskErrors: DiskErrorStatus?

  /// A volume without data.
  public init(volume: Int, minor: Int, diskState: DiskStateName) {
    self.volume = volume
    self.minor = minor
    self.diskState = diskState
  }

  enum CodingKeys: String, CodingKey {
    case volume, minor, client, open, quorum, size, read, written, blocked
    case disk, engine, generation, lineage, crashed, reason
    case diskErrors = "disk-errors"
    case diskState = "disk-state"
    case activityLogWrites = "al-writes"
    case bitmapWrites = "bm-writes"
    case upperPending = "upper-pending"
    case lowerPending = "lower-pending"
    case activityLogSuspended = "al-suspended"
  }
}

/// The connection to one peer.
public struct ConnectionStatus: Equatable, Sendable, Codable {
  /// The peer's node id.
  public var peerNodeID: Int
  /// The peer's name.
  public var name: String
  /// The state of the connection.
  public var connectionState: ConnectionStateName
  /// Whether the send queue is full.
  public var congested = false
  /// The peer's role.
  public var peerRole: RoleName = .unknown
  /// Whether the connection is encrypted.
  public var tls = false
  /// KiB of clients' writes sent and not yet acknowledged.
  public var applicationInFlight: UInt64 = 0
  /// KiB of resync requested and not yet received.
  public var resyncInFlight: UInt64 = 0
  /// The address pairs; one.
  public var paths: [PathStatus] = []
  /// The volumes on the peer.
  public var peerDevices: [PeerDeviceStatus] = []
  /// Ashlar: why the connection is not Connected, in words.
  public var reason: String?
  /// Ashlar: what the two nodes decided when they last met, in words.
  public var decision: String?
  /// Ashlar: the two histories, while a split brain is not resolved.
  public var splitBrain: SplitBrainStatus?

  /// A connection without volumes.
  public init(peerNodeID: Int, name: String, connectionState: ConnectionStateName) {
    self.peerNodeID = peerNodeID
    self.name = name
    self.connectionState = connectionState
  }

  enum CodingKeys: String, CodingKey {
    case name, congested, tls, paths, reason, decision
    case splitBrain = "split-brain"
    case peerNodeID = "peer-node-id"
    case connectionState = "connection-state"
    case peerRole = "peer-role"
    case applicationInFlight = "ap-in-flight"
    case resyncInFlight = "rs-in-flight"
    case peerDevices = "peer_devices"
  }
}

/// One pair of addresses between two nodes.
public struct PathStatus: Equatable, Sendable, Codable {
  /// One end.
  public struct Endpoint: Equatable, Sendable, Codable {
    /// A numeric address.
    public var address: String
    /// The TCP port.
    public var port: Int
    /// `ipv4` or `ipv6`.
    public var family: String

    /// Joins the parts.
    public init(address: String, port: Int, family: String) {
      self.address = address
      self.port = port
      self.family = family
    }
  }

  /// This node's end.
  public var thisHost: Endpoint
  /// The peer's end.
  public var remoteHost: Endpoint
  /// Whether the path carries the connection.
  public var established: Bool

  /// Joins the parts.
  public init(thisHost: Endpoint, remoteHost: Endpoint, established: Bool) {
    self.thisHost = thisHost
    self.remoteHost = remoteHost
    self.established = established
  }

  enum CodingKeys: String, CodingKey {
    case established
    case thisHost = "this_host"
    case remoteHost = "remote_host"
  }
}

/// One volume on one peer.
public struct PeerDeviceStatus: Equatable, Sendable, Codable {
  /// The volume number.
  public var volume: Int
  /// What the connection does with the volume.
  public var replicationState: ReplicationStateName
  /// The state of the peer's disk.
  public var peerDiskState: DiskStateName
  /// Whether the peer has no disk on purpose.
  public var peerClient = false
  /// `no`, or who paused the resync: `user`, `peer`, `dependency`, joined by commas.
  public var resyncSuspended = "no"
  /// KiB of data received from the peer.
  public var received: UInt64 = 0
  /// KiB of data sent to the peer.
  public var sent: UInt64 = 0
  /// KiB that differ, or may.
  public var outOfSync: UInt64 = 0
  /// Requests sent that wait for the peer's answer.
  public var pending: UInt64 = 0
  /// Requests of the peer not yet answered.
  public var unacked: UInt64 = 0
  /// Whether the keys of a resync are present.
  public var hasSyncDetails = false
  /// Whether the keys of an online verify are present.
  public var hasOnlineVerifyDetails = false
  /// Percentage of the volume that is in sync.
  public var percentInSync: Double = 0
  /// Percentage of this resync that is done.
  public var percentResyncDone: Double?
  /// Sectors (512 bytes) this resync had to look at when it began, as DRBD counts them.
  public var resyncTotal: UInt64?
  /// Sectors that could not be resynced.
  public var resyncFailed: UInt64?
  /// Sectors found equal by checksum.
  public var resyncSameChecksum: UInt64?
  /// KiB a second the target asks for.
  public var want: UInt64?
  /// Milliseconds since the resync began.
  public var resyncStartedAgoMs: UInt64?
  /// Milliseconds of those it was paused.
  public var resyncPausedMs: UInt64?
  /// Milliseconds of the newest window of measurement.
  public var resyncWindow0Ms: UInt64?
  /// Sectors copied in it.
  public var resyncWindow0Sectors: UInt64?
  /// Milliseconds of the window before.
  public var resyncWindow1Ms: UInt64?
  /// Sectors copied in it.
  public var resyncWindow1Sectors: UInt64?
  /// Seconds until the resync ends at the present rate.
  public var estimatedSecondsToFinish: UInt64?
  /// Ashlar: the generation since which changes are counted for this peer.
  public var base: GenerationStatus?
  /// First sector of the online verify under way.
  public var verifyStart: UInt64?
  /// The sector it stops at.
  public var verifyStop: UInt64?
  /// The sector up to which everything was compared.
  public var verifyPosition: UInt64?
  /// Sectors that are left to compare.
  public var verifyLeft: UInt64?
  /// Sectors that were left out. Ashlar leaves none out.
  public var verifySkipped: UInt64?
  /// Ashlar: KiB a second at present.
  public var resyncRate: UInt64?

  /// A volume on a peer, without a resync.
  public init(
    volume: Int, replicationState: ReplicationStateName, peerDiskState: DiskStateName
  ) {
    self.volume = volume
    self.replicationState = replicationState
    self.peerDiskState = peerDiskState
  }

  enum CodingKeys: String, CodingKey {
    case volume, received, sent, pending, unacked, want, base
    case replicationState = "replication-state"
    case peerDiskState = "peer-disk-state"
    case peerClient = "peer-client"
    case resyncSuspended = "resync-suspended"
    case outOfSync = "out-of-sync"
    case hasSyncDetails = "has-sync-details"
    case hasOnlineVerifyDetails = "has-online-verify-details"
    case percentInSync = "percent-in-sync"
    case percentResyncDone = "percent-resync-done"
    case resyncTotal = "rs-total"
    case resyncFailed = "rs-failed"
    case resyncSameChecksum = "rs-same-csum"
    case resyncStartedAgoMs = "rs-dt-start-ms"
    case resyncPausedMs = "rs-paused-ms"
    case resyncWindow0Ms = "rs-dt0-ms"
    case resyncWindow0Sectors = "rs-db0-sectors"
    case resyncWindow1Ms = "rs-dt1-ms"
    case resyncWindow1Sectors = "rs-db1-sectors"
    case estimatedSecondsToFinish = "estimated-seconds-to-finish"
    case resyncRate = "rs-rate"
    case verifyStart = "ov-start-sector"
    case verifyStop = "ov-stop-sector"
    case verifyPosition = "ov-position"
    case verifyLeft = "ov-left"
    case verifySkipped = "ov-skipped"
  }
}
