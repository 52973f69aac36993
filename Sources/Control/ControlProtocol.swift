/// What the administrator's tool and the daemon say to each other: one JSON object a line each way,
/// over the node's Unix socket. One connection may carry several requests, one after the other.
///
/// A request is at most `ControlCodec.requestBytes` long; both sides check the version before they
/// look at anything else.

public import Configuration
import Foundation

/// What the daemon is asked to do. Commands that only read a file are not here.
public enum ControlCommand: String, Sendable, Codable, CaseIterable {
  /// The state of one resource or all: the reply carries `status`.
  case status
  /// The configuration that runs, of one resource or all: the reply carries `configurations`.
  case show
  /// Every change from now on: one reply with `status`, then one with lines for each change.
  case events = "events2"
  /// Create the resource, attach its disk and connect. Carries `configuration`.
  case up
  /// Disconnect, detach and forget the resource.
  case down
  /// Attach the backing disk. Carries `configuration`.
  case attach
  case detach
  /// Start to connect. Carries `configuration`.
  case connect
  /// What `connect --discard-my-data` would lose, in words. Changes nothing.
  case explainDiscard = "explain-discard"
  case disconnect
  case primary
  case secondary
  /// Take this node's data for bad and copy the peer's.
  case invalidate
  /// Compare the replicas. Carries `verify`.
  case verify
  /// Take the peer's data for bad and copy this node's.
  case invalidateRemote = "invalidate-remote"
  /// Both fresh disks hold the same: skip the first sync.
  case newCurrentUUID = "new-current-uuid"
  case pauseSync = "pause-sync"
  case resumeSync = "resume-sync"
  /// Use the `net` section of `configuration` from now on.
  case netOptions = "net-options"
  /// Use the `disk` section of `configuration` from now on.
  case diskOptions = "disk-options"
  /// Use the `options` section of `configuration` from now on.
  case resourceOptions = "resource-options"
}

/// What `verify` compares, in bytes; `nil` is the begin or the end of the volume. And, where it is
/// to be repaired, from which side.
public struct VerifyRequest: Equatable, Sendable, Codable {
  /// `--start`.
  public var start: UInt64?
  /// `--stop`.
  public var stop: UInt64?
  /// `--repair --from`: the name of the node whose data is copied where the two differ.
  public var repairFrom: String?
  /// `--marked`: repair what an earlier verify has marked, and compare nothing.
  public var onlyMarked: Bool?

  /// `--dry-run`: say what a repair would copy of what is marked, and do nothing.
  public var explainsOnly: Bool?

  /// Joins the parts.
  public init(
    start: UInt64? = nil, stop: UInt64? = nil, repairFrom: String? = nil, onlyMarked: Bool? = nil,
    explainsOnly: Bool? = nil
  ) {
    self.start = start
    self.stop = stop
    self.repairFrom = repairFrom
    self.onlyMarked = onlyMarked
    self.explainsOnly = explainsOnly
  }
}

/// One request.
public struct ControlRequest: Equatable, Sendable, Codable {
  /// The version of the protocol.
  public var version: Int
  /// What to do.
  public var command: ControlCommand
  /// To which resource; `nil` means all, where the command allows it (`status`, `show`).
  public var resource: String?
  /// To which volume; `nil` means all.
  public var volume: UInt16?
  /// `--force`.
  public var force: Bool
  /// `--discard-my-data`, for `connect`.
  public var discardMyData = false
  /// `--no-undo`, for `connect --discard-my-data`.
  public var noUndo = false
  /// `--tentative`, for `connect`.
  public var tentative = false
  /// What the file says about the resource, for the commands that change it.
  public var configuration: ResourceConfiguration?
  /// What to compare, for `verify`.
  public var verify: VerifyRequest?

  /// A request of this version.
  public init(
    _ command: ControlCommand, resource: String? = nil, volume: UInt16? = nil,
    force: Bool = false, configuration: ResourceConfiguration? = nil
  ) {
    self.version = ControlCodec.version
    self.command = command
    self.resource = resource
    self.volume = volume
    self.force = force
    self.configuration = configuration
  }

  enum CodingKeys: String, CodingKey {
    case version, command, resource, volume, force, configuration, tentative, verify
    case discardMyData = "discard-my-data"
    case noUndo = "no-undo"
  }

  /// Reads a request; flags may be left out.
  public init(from decoder: any Decoder) throws {
    let container = try decoder.container(keyedBy: CodingKeys.self)
    version = try container.decode(Int.self, forKey: .version)
    command = try container.decode(ControlCommand.self, forKey: .command)
    resource = try container.decodeIfPresent(String.self, forKey: .resource)
    volume = try container.decodeIfPresent(UInt16.self, forKey: .volume)
    force = try container.decodeIfPresent(Bool.self, forKey: .force) ?? false
    discardMyData = try container.decodeIfPresent(Bool.self, forKey: .discardMyData) ?? false
    noUndo = try container.decodeIfPresent(Bool.self, forKey: .noUndo) ?? false
    tentative = try container.decodeIfPresent(Bool.self, forKey: .tentative) ?? false
    configuration = try container.decodeIfPresent(
      ResourceConfiguration.self, forKey: .configuration)
    verify = try container.decodeIfPresent(VerifyRequest.self, forKey: .verify)
  }
}

/// The answer to one request.
public struct ControlReply: Equatable, Sendable, Codable {
  /// The version of the protocol.
  public var version: Int
  /// The exit code for the tool; 0 is success.
  public var exitCode: Int32
  /// DRBD's number of the refusal (``Refusal/code``); `nil` unless refused.
  public var refusal: Int?
  /// Lines for standard output.
  public var standardOutput: [String]
  /// Lines for standard error.
  public var standardError: [String]
  /// The answer to `status`.
  public var status: [ResourceStatus]?
  /// The answer to `show`.
  public var configurations: [ResourceConfiguration]?

  /// A reply of this version.
  public init(
    exitCode: Int32 = 0, standardOutput: [String] = [], standardError: [String] = [],
    status: [ResourceStatus]? = nil, configurations: [ResourceConfiguration]? = nil
  ) {
    self.version = ControlCodec.version
    self.exitCode = exitCode
    self.standardOutput = standardOutput
    self.standardError = standardError
    self.status = status
    self.configurations = configurations
  }

  /// A reply that refuses, in DRBD's words.
  public init(refusing refusal: Refusal, object: String) {
    self.init(exitCode: refusal.exitCode, standardError: refusal.lines(object: object))
    self.refusal = refusal.code
  }
}

/// Why a line is not a message.
public enum ControlProtocolError: Error, Equatable, Sendable, CustomStringConvertible {
  /// Longer than the bound.
  case tooLong(limit: Int)
  /// Of another version of the protocol.
  case version(Int, supported: Int)
  /// Not the JSON that was expected.
  case malformed(String)

  /// The reason and, where there is one, what to do.
  public var description: String {
    switch self {
    case .tooLong(let limit): "control message longer than \(limit) bytes"
    case .version(let version, let supported):
      "control protocol version \(version), but this program speaks \(supported); "
        + "update ashlard and ashlaradm together"
    case .malformed(let reason): "malformed control message: \(reason)"
    }
  }
}

/// Messages <-> lines.
public enum ControlCodec {
  /// The version of the protocol. Changes whenever an old program could misunderstand a new one.
  public static let version = 1
  /// Longest request in bytes, with its line feed.
  public static let requestBytes = 64 << 10
  /// Longest reply in bytes, with its line feed: some thousand resources at 4 KiB each.
  public static let replyBytes = 16 << 20

  /// The line of a request, with its line feed.
  public static func line(_ request: ControlRequest) throws(ControlProtocolError) -> [UInt8] {
    try encoded(request, limit: requestBytes)
  }

  /// The line of a reply, with its line feed.
  public static func line(_ reply: ControlReply) throws(ControlProtocolError) -> [UInt8] {
    try encoded(reply, limit: replyBytes)
  }

  /// The request in a line, with or without its line feed.
  public static func request(
    from line: some Collection<UInt8>
  ) throws(ControlProtocolError) -> ControlRequest {
    try decoded(ControlRequest.self, from: line, limit: requestBytes)
  }

  /// The reply in a line, with or without its line feed.
  public static func reply(
    from line: some Collection<UInt8>
  ) throws(ControlProtocolError) -> ControlReply {
    try decoded(ControlReply.self, from: line, limit: replyBytes)
  }

  private struct Version: Codable {
    var version: Int
  }

  private static func encoded(
    _ message: some Encodable, limit: Int
  ) throws(ControlProtocolError) -> [UInt8] {
    let encoder = JSONEncoder()
    encoder.outputFormatting = [.withoutEscapingSlashes, .sortedKeys]
    let bytes: [UInt8]
    do {
      bytes = Array(try encoder.encode(message))
    } catch {
      throw .malformed("\(error)")
    }
    guard bytes.count < limit else { throw .tooLong(limit: limit) }
    return bytes + [UInt8(ascii: "\n")]
  }

  private static func decoded<Message: Decodable>(
    _ type: Message.Type, from line: some Collection<UInt8>, limit: Int
  ) throws(ControlProtocolError) -> Message {
    guard line.count <= limit else { throw .tooLong(limit: limit) }
    let data = Data(line)
    let decoder = JSONDecoder()
    do {
      let version = try decoder.decode(Version.self, from: data).version
      guard version == self.version else {
        throw ControlProtocolError.version(version, supported: self.version)
      }
      return try decoder.decode(type, from: data)
    } catch let error as ControlProtocolError {
      throw error
    } catch let error as DecodingError {
      throw .malformed(summary(error))
    } catch {
      throw .malformed("\(error)")
    }
  }

  private static func summary(_ error: DecodingError) -> String {
    func path(_ context: DecodingError.Context) -> String {
      context.codingPath.map(\.stringValue).joined(separator: ".")
    }
    return switch error {
    case .keyNotFound(let key, let context):
      "'\(path(context))' has no '\(key.stringValue)'"
    case .typeMismatch(_, let context), .valueNotFound(_, let context),
      .dataCorrupted(let context):
      "'\(path(context))': \(context.debugDescription)"
    @unknown default: "\(error)"
    }
  }
}
