/// Why a session ended, for the log: one line each, with the value and the limit where there is
/// one.

/// Why a session ended.
public enum NBDCloseReason: Equatable, Sendable, BitwiseCopyable {
  /// The client said goodbye: DISC, or ABORT in the handshake.
  case disconnected
  /// The connection ended without a goodbye; `errno` is 0 for a plain end of stream.
  case connectionLost(errno: Int32)
  /// The export went away or may no longer be used here.
  case exportClosed
  /// The client did not choose an export in time.
  case handshakeTimeout
  /// A closing session did not finish its last requests or replies in time.
  case drainTimeout
  /// The client held buffers that others waited for, and neither sent nor read anything.
  case stalled
  /// There are as many clients as the server takes.
  case tooManyClients(limit: UInt32)
  /// So many clients have left requests that the volumes do not complete; all slots are taken.
  case tooManyGone(UInt32)
  /// Client flags with a bit this server did not offer.
  case unknownClientFlags(UInt32)
  /// An option or request that does not start with its magic number.
  case badMagic(UInt64)
  /// A client without fixed newstyle sent another option than EXPORT_NAME.
  case optionNeedsFixedNewstyle(UInt32)
  /// Option data longer than the limit.
  case optionTooLong(UInt32, limit: UInt32)
  /// More options than the limit.
  case tooManyOptions(limit: UInt32)
  /// EXPORT_NAME for an export that does not exist or may not be used; the protocol has no other
  /// way to refuse it.
  case exportNameRefused
  /// A WRITE with more payload than the limit.
  case payloadTooLong(UInt32, limit: UInt32)

  /// Whether the client did something a correct client does not do.
  public var isFault: Bool {
    switch self {
    case .disconnected, .exportClosed, .connectionLost: false
    default: true
    }
  }
}

extension NBDCloseReason: CustomStringConvertible {
  /// The reason in words, without the client's number.
  public var description: String {
    switch self {
    case .disconnected: "client disconnected"
    case .connectionLost(errno: 0): "client closed the connection"
    case .connectionLost(let errno): "connection lost (errno \(errno))"
    case .exportClosed: "export closed on this node"
    case .handshakeTimeout: "no export chosen before the handshake deadline"
    case .drainTimeout: "last requests or replies not finished in time"
    case .stalled: "no progress while holding buffers that other clients wait for"
    case .tooManyClients(let limit): "refused: \(limit) clients are connected, the limit"
    case .tooManyGone(let count):
      "refused: \(count) clients have left requests that their volumes do not answer"
    case .unknownClientFlags(let flags): "unknown client flags 0x\(String(flags, radix: 16))"
    case .badMagic(let magic): "wrong magic number 0x\(String(magic, radix: 16))"
    case .optionNeedsFixedNewstyle(let option):
      "option \(option) from a client that did not agree to fixed newstyle"
    case .optionTooLong(let length, let limit):
      "option data of \(length) bytes, the limit is \(limit)"
    case .tooManyOptions(let limit): "more than \(limit) options without choosing an export"
    case .exportNameRefused: "EXPORT_NAME asked for an export that is unknown or refused"
    case .payloadTooLong(let length, let limit):
      "WRITE of \(length) bytes, the limit is \(limit)"
    }
  }
}

/// Something the owner of the server may want to log.
public struct NBDNotice: Equatable, Sendable, BitwiseCopyable, CustomStringConvertible {
  /// What happened.
  public enum Kind: Equatable, Sendable, BitwiseCopyable {
    /// A client chose an export.
    case opened
    /// A session ended.
    case closed(NBDCloseReason)
    /// The client left requests that are not completed, as so many before it that its export takes
    /// no more clients until they are.
    case refusesClients
  }

  /// What happened.
  public let kind: Kind
  /// The client, counted from 1 since the server started.
  public let client: UInt64
  /// The export it had chosen, if it had.
  public let export: ExportSlot?

  /// One line for the log.
  public var description: String {
    switch kind {
    case .opened: "nbd client \(client): connected"
    case .closed(let reason): "nbd client \(client): \(reason)"
    case .refusesClients:
      "nbd client \(client): left requests without an answer, as many before it did; its export "
        + "takes no new clients until they are"
    }
  }
}
