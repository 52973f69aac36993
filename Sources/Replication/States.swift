/// The names of states and reasons that `status` shows. DRBD's words where DRBD has one.

/// DRBD's connection states.
public enum ConnectionState: UInt8, Sendable, BitwiseCopyable {
  case standAlone
  case connecting
  /// Handshake: writes in flight end, then the disk is flushed.
  case quiescing
  /// Handshake: state reports travel.
  case wfReportParams
  /// Handshake: each side makes its decision durable and tells it.
  case wfVerdict
  case connected

  /// DRBD's spelling.
  public var name: String {
    switch self {
    case .standAlone: "StandAlone"
    case .connecting: "Connecting"
    case .quiescing, .wfReportParams, .wfVerdict: "WFReportParams"
    case .connected: "Connected"
    }
  }

  /// Whether the two nodes are between the first message and agreement.
  public var isHandshake: Bool {
    self == .quiescing || self == .wfReportParams || self == .wfVerdict
  }
}

/// DRBD's replication states that exist so far.
public enum ReplicationState: UInt8, Sendable, BitwiseCopyable {
  case off, established
  /// The bitmaps travel.
  case wfBitMapS, wfBitMapT
  case syncSource, syncTarget
  /// The contents are compared: here, where it was asked for, and there.
  case verifyS, verifyT

  /// DRBD's spelling.
  public var name: String {
    switch self {
    case .off: "Off"
    case .established: "Established"
    case .wfBitMapS: "WFBitMapS"
    case .wfBitMapT: "WFBitMapT"
    case .syncSource: "SyncSource"
    case .syncTarget: "SyncTarget"
    case .verifyS: "VerifyS"
    case .verifyT: "VerifyT"
    }
  }

  /// Whether this node's data is being replaced by the peer's.
  public var isTarget: Bool { self == .wfBitMapT || self == .syncTarget }
  /// Whether this node's data replaces the peer's.
  public var isSource: Bool { self == .wfBitMapS || self == .syncSource }
  /// Whether the two replicas are compared.
  public var isVerifying: Bool { self == .verifyS || self == .verifyT }
}

/// Why a connection is not there, or was given up.
public enum Reason: UInt8, Sendable, BitwiseCopyable {
  case none
  case notConfigured
  case byCommand
  case peerUnreachable
  case peerClosed
  case peerSaidGoodbye
  case peerStandAlone
  case pingTimeout
  case writeTimeout
  case handshakeTimeout
  case protocolError
  case wrongResource
  case unknownNode
  case noCommonVersion
  case supersededByPeer
  case tieBreak
  case renegotiate
  case splitBrain
  case unrelatedData
  case bothPrimary
  case primaryWouldBeTarget
  case bothHoldUnshared
  case inconsistentAhead
  case sizeMismatch
  case disagreement
  case diskFailed
  case shutdown
  case bothDiscard
  case nothingToDiscard
  case noGoodSource
  case policiesDiffer
  case bitmapsDoNotCover
  case primaryMustYield
  case primaryMustYieldAfterSplitBrain
  case primaryWouldBeTargetForNow
  case tentative
  case handlerRuns
  case handlerRefused
  case undoIsKept
  case undoTooLarge
  case undoNoSpace
  case undoFailed
  case peerMustYield
  case primaryCannotYield
  case authenticationFailed
  case authenticationMissing
  case authenticationUnexpected
  case authenticationAlgorithm
  case ownChallenge
  case integrityAlgorithm
  case digestMismatch
  case exposedDataDiffers

  /// The reason in words, for the log and `status`.
  public var text: String {
    switch self {
    case .none: ""
    case .notConfigured: "connect was never asked for"
    case .byCommand: "disconnected by the administrator"
    case .peerUnreachable: "the peer does not answer"
    case .peerClosed: "the connection to the peer broke"
    case .peerSaidGoodbye: "the peer disconnected on request"
    case .peerStandAlone: "the peer is StandAlone and refuses connections"
    case .pingTimeout: "PingAck did not arrive in time"
    case .writeTimeout: "the peer did not finish a request within timeout * ko-count"
    case .handshakeTimeout: "the handshake did not end in time"
    case .protocolError: "the peer sent a message that a correct peer cannot send"
    case .wrongResource: "the other side has another resource at this address"
    case .unknownNode: "the other side is no peer of this resource"
    case .noCommonVersion: "no protocol version in common"
    case .supersededByPeer: "the peer opened a newer connection"
    case .tieBreak: "both sides dialed; the other connection is kept"
    case .renegotiate: "the state changed and is negotiated anew"
    case .splitBrain: "Split-Brain detected but unresolved, dropping connection!"
    case .unrelatedData: "Unrelated data, aborting!"
    case .bothPrimary: "both nodes are Primary"
    case .primaryWouldBeTarget: "I shall become SyncTarget, but I am primary!"
    case .bothHoldUnshared: "both sides hold writes the other lacks under one generation"
    case .inconsistentAhead: "the side that is ahead is Inconsistent; no good copy is reachable"
    case .sizeMismatch: "the volumes differ in size"
    case .disagreement: "the two sides came to different decisions"
    case .diskFailed: "a disk failed"
    case .shutdown: "the daemon ends"
    case .bothDiscard: "both sides were asked to discard their data"
    case .nothingToDiscard:
      "no split brain: the peer holds nothing newer; 'invalidate' gives this data up"
    case .noGoodSource:
      "what would be left is Outdated or Inconsistent; 'primary --force' there makes it count"
    case .policiesDiffer:
      "Split-Brain detected but unresolved: the after-sb options of the two nodes differ"
    case .bitmapsDoNotCover:
      "Split-Brain detected but unresolved: the bitmaps do not cover what changed"
    case .primaryMustYield:
      "I shall become SyncTarget, but I am primary: calling the handler pri-lost"
    case .primaryMustYieldAfterSplitBrain:
      "Split-Brain detected: a policy names this Primary; it gives up its role and its data"
    case .peerMustYield: "Split-Brain detected: a policy names the peer, which is Primary"
    case .primaryCannotYield:
      "Split-Brain detected but unresolved: a policy names this Primary, but a client holds it open"
    case .primaryWouldBeTargetForNow:
      "I shall become SyncTarget, but I am primary; trying again until I am not"
    case .tentative: "a tentative connection: nothing was changed"
    case .handlerRuns: "the handler before-resync-target runs"
    case .handlerRefused: "the handler before-resync-target failed"
    case .undoIsKept: "what will be discarded is being kept in an undo file"
    case .undoTooLarge:
      "what would be discarded does not fit 'undo-limit': raise it, or discard with --no-undo"
    case .undoNoSpace:
      "no room for the undo file: make some, or discard with --no-undo"
    case .undoFailed:
      "the undo file could not be written (see the log): try again, or discard with --no-undo"
    case .authenticationFailed:
      "Authentication of peer failed: it does not know the shared-secret of this node"
    case .authenticationMissing:
      "Authentication of peer failed: it has no shared-secret"
    case .authenticationUnexpected:
      "Authentication of peer failed: it wants one, and there is no shared-secret here"
    case .authenticationAlgorithm:
      "Authentication of peer failed: cram-hmac-alg of the two nodes differs"
    case .ownChallenge: "Authentication of peer failed: what this node said itself came back"
    case .integrityAlgorithm: "data-integrity-alg of the two nodes differs"
    case .digestMismatch: "Digest integrity check FAILED"
    case .exposedDataDiffers:
      "the Primary lost its disk; its clients have seen newer data than the peer is sure to have"
    }
  }

  /// Whether trying again by itself cannot help: an operator must decide.
  public var isPermanent: Bool {
    switch self {
    case .splitBrain, .unrelatedData, .bothPrimary, .primaryWouldBeTarget, .bothHoldUnshared,
      .inconsistentAhead, .sizeMismatch, .bothDiscard, .nothingToDiscard, .noGoodSource,
      .policiesDiffer, .bitmapsDoNotCover, .primaryMustYield, .primaryCannotYield,
      .undoTooLarge, .undoNoSpace, .undoFailed, .exposedDataDiffers:
      true
    case .none, .notConfigured, .byCommand, .peerUnreachable, .peerClosed, .peerSaidGoodbye,
      .peerStandAlone, .pingTimeout, .writeTimeout, .handshakeTimeout, .protocolError,
      .wrongResource, .unknownNode, .noCommonVersion, .supersededByPeer, .tieBreak, .renegotiate,
      .disagreement, .diskFailed, .shutdown, .primaryWouldBeTargetForNow, .tentative,
      .handlerRuns, .handlerRefused, .undoIsKept, .authenticationFailed,
      .authenticationMissing, .authenticationUnexpected, .authenticationAlgorithm,
      .ownChallenge, .integrityAlgorithm, .digestMismatch,
      .peerMustYield, .primaryMustYieldAfterSplitBrain:
      false
    }
  }

  /// Whether both sides wrote without each other and nobody has decided whose data counts.
  public var isSplitBrain: Bool {
    switch self {
    case .splitBrain, .bothHoldUnshared, .policiesDiffer, .bitmapsDoNotCover,
      .primaryMustYieldAfterSplitBrain, .peerMustYield, .primaryCannotYield, .undoIsKept,
      .undoTooLarge, .undoNoSpace, .undoFailed:
      true
    default: false
    }
  }
}
