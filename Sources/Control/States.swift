/// The states an administrator sees, spelled as DRBD spells them. The daemon maps its own states to
/// these; scripts match on the words, so a word never changes.

/// The role of a node in a resource.
public enum RoleName: String, Sendable, Codable, CaseIterable {
  case primary = "Primary"
  case secondary = "Secondary"
  /// Of a peer that cannot be seen.
  case unknown = "Unknown"
}

/// The state of a replica's disk.
public enum DiskStateName: String, Sendable, Codable, CaseIterable {
  case diskless = "Diskless"
  case attaching = "Attaching"
  case detaching = "Detaching"
  case failed = "Failed"
  case negotiating = "Negotiating"
  case inconsistent = "Inconsistent"
  case outdated = "Outdated"
  case unknown = "DUnknown"
  case consistent = "Consistent"
  case upToDate = "UpToDate"
}

/// The state of the connection to a peer.
public enum ConnectionStateName: String, Sendable, Codable, CaseIterable {
  case standAlone = "StandAlone"
  case disconnecting = "Disconnecting"
  case unconnected = "Unconnected"
  case timeout = "Timeout"
  case brokenPipe = "BrokenPipe"
  case networkFailure = "NetworkFailure"
  case protocolError = "ProtocolError"
  case tearDown = "TearDown"
  case connecting = "Connecting"
  case connected = "Connected"
}

/// What a connection does with a volume.
public enum ReplicationStateName: String, Sendable, Codable, CaseIterable {
  case off = "Off"
  case established = "Established"
  case startingSyncSource = "StartingSyncS"
  case startingSyncTarget = "StartingSyncT"
  case waitForBitmapSource = "WFBitMapS"
  case waitForBitmapTarget = "WFBitMapT"
  case syncSource = "SyncSource"
  case syncTarget = "SyncTarget"
  case pausedSyncSource = "PausedSyncS"
  case pausedSyncTarget = "PausedSyncT"
  case verifySource = "VerifyS"
  case verifyTarget = "VerifyT"

  /// Whether data is being copied, or will be once a pause ends.
  public var isSyncing: Bool {
    switch self {
    case .syncSource, .syncTarget, .pausedSyncSource, .pausedSyncTarget, .startingSyncSource,
      .startingSyncTarget, .waitForBitmapSource, .waitForBitmapTarget:
      true
    case .off, .established, .verifySource, .verifyTarget:
      false
    }
  }
}

/// The one word that `cstate` and `/proc/drbd` of DRBD 8.4 show for connection and replication.
public func legacyConnectionState(
  _ connection: ConnectionStateName, _ replication: ReplicationStateName
) -> String {
  switch connection {
  case .connected:
    replication == .established || replication == .off ? "Connected" : replication.rawValue
  case .connecting: "WFConnection"
  case .standAlone, .disconnecting, .unconnected, .timeout, .brokenPipe, .networkFailure,
    .protocolError, .tearDown:
    connection.rawValue
  }
}
