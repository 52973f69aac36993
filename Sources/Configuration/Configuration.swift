/// The validated configuration: what the daemon runs and the administrator's tool compares with.
///
/// What holds in every value the parser returns: resource names, addresses and disks are unique;
/// every resource has two hosts with distinct names and node ids, an address each and volume 0 on
/// each; every number is inside its range.

public import BlockTypes

/// All that one configuration file and its includes say.
public struct Configuration: Equatable, Sendable {
  /// The `global` section.
  public var globalOptions: GlobalOptions
  /// The resources, in the order of the files.
  public var resources: [ResourceConfiguration]
  /// Statements without effect, or with another than in DRBD.
  public var warnings: [ConfigurationWarning]
  /// The file given to the parser.
  public var file: String

  /// Joins the parts.
  public init(
    globalOptions: GlobalOptions = GlobalOptions(), resources: [ResourceConfiguration] = [],
    warnings: [ConfigurationWarning] = [], file: String = ""
  ) {
    self.globalOptions = globalOptions
    self.resources = resources
    self.warnings = warnings
    self.file = file
  }

  /// The resource of that name.
  public func resource(named name: String) -> ResourceConfiguration? {
    resources.first { $0.name == name }
  }

  /// The resources that have an `on` section for `node`.
  public func resources(on node: String) -> [ResourceConfiguration] {
    resources.filter { $0.host(named: node) != nil }
  }
}

/// The `global` section. Nothing in it changes what Ashlar does.
public struct GlobalOptions: Equatable, Sendable {
  /// `usage-count` as written. Ashlar never counts its users; the value is kept for `dump`.
  public var usageCount: String?

  /// No `global` section.
  public init(usageCount: String? = nil) { self.usageCount = usageCount }
}

/// One `resource` section with everything it inherits from `common`.
public struct ResourceConfiguration: Equatable, Sendable, Codable {
  /// The resource's name: letters, digits, `-`, `_`, `.`, `+`; at most 64 bytes.
  public var name: String
  /// `net { }` and `protocol`.
  public var net: NetOptions
  /// `disk { }`.
  public var disk: DiskOptions
  /// `options { }`.
  public var options: ResourceOptions
  /// `handlers { }`: the command of each handler that is called, by name.
  public var handlers: [String: String] = [:]
  /// The `on` sections, in the order of the file.
  public var hosts: [HostConfiguration]
  /// The file that defines the resource.
  public var file: String
  /// The line of its `resource` keyword.
  public var line: Int

  /// Joins the parts.
  public init(
    name: String, net: NetOptions = NetOptions(), disk: DiskOptions = DiskOptions(),
    options: ResourceOptions = ResourceOptions(), hosts: [HostConfiguration], file: String = "",
    line: Int = 0
  ) {
    self.name = name
    self.net = net
    self.disk = disk
    self.options = options
    self.hosts = hosts
    self.file = file
    self.line = line
  }

  /// The host of that name.
  public func host(named name: String) -> HostConfiguration? {
    hosts.first { $0.name == name }
  }

  /// The host with that node id.
  public func host(nodeID: NodeID) -> HostConfiguration? {
    hosts.first { $0.nodeID == nodeID }
  }

  /// All hosts but `name`, in the order of the file.
  public func peers(of name: String) -> [HostConfiguration] {
    hosts.filter { $0.name != name }
  }
}

/// One `on HOST { }` section.
public struct HostConfiguration: Equatable, Sendable, Codable {
  /// The node's name: the host name, or what `--node` says.
  public var name: String
  /// `node-id`; by order of the `on` sections where the file does not say it.
  public var nodeID: NodeID
  /// Where this node listens for its peers and they dial it.
  public var address: PeerAddress
  /// The volumes, by number.
  public var volumes: [VolumeConfiguration]

  /// Joins the parts.
  public init(
    name: String, nodeID: NodeID, address: PeerAddress, volumes: [VolumeConfiguration]
  ) {
    self.name = name
    self.nodeID = nodeID
    self.address = address
    self.volumes = volumes
  }

  /// The volume of that number.
  public func volume(_ number: UInt16) -> VolumeConfiguration? {
    volumes.first { $0.number == number }
  }
}

/// An IP address and a TCP port.
public struct PeerAddress: Hashable, Sendable, Codable, CustomStringConvertible {
  /// A numeric IPv4 or IPv6 address, without brackets. Names are not accepted, so that a replica
  /// never waits for a resolver.
  public var host: String
  /// 1 to 65535.
  public var port: UInt16

  /// Joins the parts.
  public init(host: String, port: UInt16) {
    self.host = host
    self.port = port
  }

  /// Whether `host` is an IPv6 address.
  public var isIPv6: Bool { host.contains(":") }

  /// DRBD's word for the address family: `ipv4` or `ipv6`.
  public var family: String { isIPv6 ? "ipv6" : "ipv4" }

  /// `10.0.0.1:7789` or `[fd00::1]:7789`.
  public var description: String { isIPv6 ? "[\(host)]:\(port)" : "\(host):\(port)" }
}

/// One volume on one host.
public struct VolumeConfiguration: Equatable, Sendable, Codable {
  /// The volume number; only 0 for now.
  public var number: UInt16
  /// Path of the backing disk: a block device or a file.
  public var disk: String
  /// Where the metadata is kept.
  public var metaDisk: MetaDisk

  /// Joins the parts.
  public init(number: UInt16, disk: String, metaDisk: MetaDisk) {
    self.number = number
    self.disk = disk
    self.metaDisk = metaDisk
  }
}

/// `meta-disk`: where a volume's metadata is kept.
public enum MetaDisk: Hashable, Sendable, Codable, CustomStringConvertible {
  /// At the end of the backing disk.
  case `internal`
  /// On a device or in a file of its own.
  case external(path: String)

  /// The value as written in the file.
  public var description: String {
    switch self {
    case .internal: "internal"
    case .external(let path): path
    }
  }

  /// Reads the value as written in the file.
  public init(from decoder: any Decoder) throws {
    let text = try decoder.singleValueContainer().decode(String.self)
    self = text == "internal" ? .internal : .external(path: text)
  }

  /// Writes the value as in the file.
  public func encode(to encoder: any Encoder) throws {
    var container = encoder.singleValueContainer()
    try container.encode(description)
  }
}

extension NodeID: Codable {
  /// Reads the number; refuses one above 31.
  public init(from decoder: any Decoder) throws {
    let container = try decoder.singleValueContainer()
    let number = try container.decode(UInt64.self)
    guard let id = NodeID(number) else {
      throw DecodingError.dataCorruptedError(
        in: container, debugDescription: "node-id \(number) out of range [0..\(NodeID.max)]")
    }
    self = id
  }

  /// Writes the number.
  public func encode(to encoder: any Encoder) throws {
    var container = encoder.singleValueContainer()
    try container.encode(value)
  }
}
