/// The options Ashlar acts on, with DRBD's names, units, defaults and ranges.
///
/// Statements that are accepted without effect are not here but in `Vocabulary.swift`.

/// When a write is complete.
public enum ReplicationProtocol: String, Sendable, Codable, CaseIterable {
  /// When it is in the local disk and the send buffer. Refused for now.
  case a = "A"
  /// When the peer has received it. Refused for now.
  case b = "B"
  /// When the peer has written it.
  case c = "C"
}

/// `net { }`: how peers talk and when one is given up.
public struct NetOptions: Equatable, Sendable, Codable {
  /// `protocol`.
  public var replicationProtocol: ReplicationProtocol = .c
  /// `timeout`: tenths of a second a peer may take for an answer it owes.
  public var timeoutTenths: UInt32 = 60
  /// `ko-count`: timeouts after which a peer that does not finish a write is cut.
  public var koCount: UInt32 = 7
  /// `ping-int`: seconds of silence before a keep-alive.
  public var pingIntervalSeconds: UInt32 = 10
  /// `ping-timeout`: tenths of a second a keep-alive may take.
  public var pingTimeoutTenths: UInt32 = 5
  /// `connect-int`: seconds between two attempts to connect.
  public var connectIntervalSeconds: UInt32 = 10
  /// `verify-alg`: what an online verify compares. Without one there is no verify.
  public var verifyAlgorithm: String?
  /// `csums-alg`: what a resync compares before it copies. Without one it copies what is marked.
  public var checksumAlgorithm: String?
  /// `cram-hmac-alg`: with what the peers prove that they know the secret.
  public var authenticationAlgorithm: String?
  /// `shared-secret`. Only with `cram-hmac-alg`.
  public var sharedSecret: String?
  /// `data-integrity-alg`: what is sent with data so that its receiver sees a change.
  public var dataIntegrityAlgorithm: String?
  /// `after-sb-0pri`.
  public var afterSplitBrainNoPrimary = AfterSplitBrainNoPrimary.disconnect
  /// `after-sb-1pri`.
  public var afterSplitBrainOnePrimary = AfterSplitBrainOnePrimary.disconnect
  /// `after-sb-2pri`: who gives way after a split brain when both are Primary.
  public var afterSplitBrainTwoPrimaries = AfterSplitBrainTwoPrimaries.disconnect
  /// `rr-conflict`.
  public var primaryIsTarget = PrimaryIsTarget.disconnect

  /// The defaults.
  public init() {}

  /// `timeout` in milliseconds.
  public var timeoutMilliseconds: UInt64 { UInt64(timeoutTenths) * 100 }
  /// `ping-timeout` in milliseconds.
  public var pingTimeoutMilliseconds: UInt64 { UInt64(pingTimeoutTenths) * 100 }
  /// `ping-int` in milliseconds.
  public var pingIntervalMilliseconds: UInt64 { UInt64(pingIntervalSeconds) * 1000 }
  /// `connect-int` in milliseconds.
  public var connectIntervalMilliseconds: UInt64 { UInt64(connectIntervalSeconds) * 1000 }
}

/// Which kernel interface carries the disk I/O.
public enum IOEngine: String, Sendable, Codable, CaseIterable {
  /// io_uring; falls back to libaio with a line in the log where the host has switched it off.
  case ioUring = "io_uring"
  /// Linux native AIO and epoll.
  case libaio
}

/// `on-io-error`: what follows from a write that the backing disk could not do.
public enum OnIOError: String, Equatable, Sendable, Codable, CaseIterable {
  /// The disk is detached, and the peer's is used.
  case detach
  /// A Primary's clients get the error, and the disk is kept.
  case passOn = "pass_on"
  /// As `detach`, and the handler `local-io-error` is called.
  case callLocalIOError = "call-local-io-error"
}

/// `disk { }`: how the backing disk is used.
public struct DiskOptions: Equatable, Sendable, Codable {
  /// `io-engine`.
  public var ioEngine: IOEngine = .ioUring
  /// `al-extents`: extents of 4 MiB that may be written without a word to the activity log.
  public var activityLogExtents: UInt32 = 16_384
  /// `c-max-rate`: KiB of the volume that a resync copies in a second at most; 0: no limit.
  public var maxRateKiB: UInt32 = 0
  /// `c-min-rate`: KiB that it copies in a second while clients are active; 0: clients do not
  /// count; not set: as much as fits into half of the time.
  public var minRateKiB: UInt32?
  /// `resync-after`: the resource that is to be in sync before.
  public var resyncAfter: String?
  /// `on-io-error`.
  public var onIOError: OnIOError = .detach
  /// `disk-timeout` in tenths of a second; 0 waits for ever.
  public var diskTimeoutTenths: UInt32 = 0

  /// The defaults.
  public init() {}
}

/// `options { }`: what holds for the resource as a whole.
public struct ResourceOptions: Equatable, Sendable, Codable {
  /// `size`: replicas of the data. Equals the number of hosts with a disk.
  public var size: UInt32 = 2
  /// `min-size`: replicas that must hold a write before it is acknowledged.
  public var minSize: UInt32 = 1
  /// `undo-limit`: bytes that an undo file may take; 0 keeps none.
  public var undoLimit: UInt64 = 10 << 30
  /// `undo-directory`: where undo files are kept.
  public var undoDirectory = "/var/lib/ashlar/undo"

  /// Whether what a discard loses is kept.
  public var keepsUndo: Bool { undoLimit > 0 }

  /// The defaults.
  public init() {}
}
