/// What a node knows of the connections of one resource before one is made: who may be at the other
/// end, and what both must agree on.
public import BlockTypes
public import Digests
public import Wire

/// `shared-secret`. Its text cannot get into a log by accident.
public struct SharedSecret: Equatable, Sendable, CustomStringConvertible, CustomReflectable {
  /// The bytes as configured, without an ending.
  let bytes: [UInt8]

  /// Takes the configured text.
  public init(_ text: String) { bytes = Array(text.utf8) }

  /// Says nothing about the secret.
  public var description: String { "(a secret)" }
  /// Says nothing about the secret.
  public var customMirror: Mirror { Mirror(self, children: [:]) }
}

/// What both ends of a connection must agree on, as one of them is configured.
public struct LinkSettings: Sendable {
  /// This node.
  public var node: NodeID
  /// Who may be at the other end.
  public var peers: [NodeID]
  /// The resource.
  public var resource: String
  /// `data-integrity-alg`.
  public var integrity = IntegrityAlgorithm.none
  /// `cram-hmac-alg` and `shared-secret`: both or neither.
  public var authentication: Authentication?

  /// With what the two ends prove who they are.
  public struct Authentication: Sendable {
    /// `cram-hmac-alg`.
    public var algorithm: HashAlgorithm
    /// `shared-secret`.
    public var secret: SharedSecret

    /// Joins the parts.
    public init(algorithm: HashAlgorithm, secret: SharedSecret) {
      self.algorithm = algorithm
      self.secret = secret
    }
  }

  /// Joins what has no default.
  public init(node: NodeID, peers: [NodeID], resource: String) {
    self.node = node
    self.peers = peers
    self.resource = resource
  }
}
