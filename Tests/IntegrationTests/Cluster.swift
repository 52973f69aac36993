/// Two nodes on this machine, alpha and beta, with one mirrored volume, made of the shipped
/// programs and talking as two machines would.
///
/// What must hold: everything a cluster makes is below its own directories; a failed test shows
/// what the daemons said; no process outlives the test.
import Foundation
import Glibc
import TestSupport
import Testing

/// One machine of the cluster.
final class ClusterNode {
  let name: String
  let id: Int
  /// Where it listens for its peer.
  let address: String
  var disk: URL
  fileprivate(set) var daemon: BackgroundProcess?
  /// Logs of this node's daemons, oldest first.
  fileprivate(set) var logs: [URL] = []

  init(name: String, id: Int, address: String, disk: URL) {
    self.name = name
    self.id = id
    self.address = address
    self.disk = disk
  }
}

/// What is special about a cluster.
struct ClusterOptions {
  /// Size of a backing disk.
  var sizeMiB = 64
  var net = slowMachine
  var disk = ""
  var options = ""
  /// Further arguments of `ashlard`.
  var daemon: [String] = []
  /// The cable between the nodes; without one, both are in this machine's own network.
  var link: Link?
  /// Directories of backing disks that are not in the cluster's own, by node.
  var diskDirectories: [String: URL] = [:]
  /// Resources beside `r0`, each with a `disk` section of its own; their disks are as large. They
  /// are not brought up.
  var others: [(name: String, disk: String)] = []
  /// What is between the nodes flips a bit after so many bytes, now sooner, now later; not together
  /// with a link.
  var bytesPerFlip: Int?
}

final class Cluster {
  let resource = "r0"
  let alpha: ClusterNode
  let beta: ClusterNode
  var nodes: [ClusterNode] { [alpha, beta] }
  /// Size of the volume: the backing disk less its metadata. Known once the volume is up.
  private(set) var bytes = 0
  /// Backing disks and logs; on a real file system, which can do O_DIRECT.
  let directory: URL
  /// Sockets, whose paths must be short.
  let runDirectory: URL
  let link: Link?
  private let daemonArguments: [String]
  /// What is between the nodes, where that flips bits.
  private(set) var rottenWire: BackgroundProcess?
  /// Where the peer finds a node, if not where it listens.
  private var detours: [String: String] = [:]
  private let disk: String
  private let resourceOptions: String
  /// The configuration of the other resources.
  private let otherText: String

  fileprivate init(_ options: ClusterOptions) throws {
    link = options.link
    daemonArguments = options.daemon
    let name = UUID().uuidString.prefix(8)
    directory = Machine.package.appending(path: ".build/integration/\(name)")
    runDirectory = URL(filePath: "/tmp/ashlar-\(name)")
    for url in [directory, runDirectory] {
      try FileManager.default.createDirectory(at: url, withIntermediateDirectories: true)
    }
    let ports = try freePorts(options.bytesPerFlip == nil ? 2 : 4)
    let directory = directory
    let nodes = ["alpha", "beta"].enumerated().map { id, name in
      ClusterNode(
        name: name, id: id, address: "\(options.link?.address(name) ?? "127.0.0.1"):\(ports[id])",
        disk: (options.diskDirectories[name] ?? directory).appending(path: "\(name).img"))
    }
    (alpha, beta) = (nodes[0], nodes[1])
    for node in nodes { try succeed("truncate", "-s", "\(options.sizeMiB)M", node.disk.path) }
    disk = options.disk
    resourceOptions = options.options
    otherText = try options.others.map {
      try Self.resource($0.name, disk: $0.disk, options, directory)
    }.joined(separator: "\n")
    if let bytesPerFlip = options.bytesPerFlip { try flipBits(bytesPerFlip, ports) }
    for node in nodes { try configure(node, net: options.net) }
  }

  /// Where a node's configuration is: of its own only where the two nodes must differ.
  func configuration(_ node: ClusterNode) -> URL {
    directory.appending(path: detours.isEmpty ? "ashlar.conf" : "\(node.name).conf")
  }

  private func environment(_ node: ClusterNode) -> [String: String] {
    ["ASHLAR_CONFIG": configuration(node).path]
  }

  /// Writes a node's configuration, which both have unless bits are flipped between them.
  func configure(_ node: ClusterNode, net: String) throws {
    let hosts = nodes.map { other in
      """
        on \(other.name) {
          node-id \(other.id);
          address \(other === node ? other.address : detours[other.name] ?? other.address);
          volume 0 { disk \(other.disk.path); meta-disk internal; }
        }
      """
    }
    let text = """
      resource \(resource) {
        net { protocol C; \(net) }
        disk { \(disk) }
        options { size 2; min-size 1; undo-directory \(directory.path)/undo; \(resourceOptions) }
      \(hosts.joined(separator: "\n"))
      }

      \(otherText)
      """
    let file = configuration(node)
    try text.write(to: file, atomically: true, encoding: .utf8)
    // It may hold a secret.
    try FileManager.default.setAttributes([.posixPermissions: 0o600], ofItemAtPath: file.path)
  }

  /// Puts a program between the nodes that flips bits.
  private func flipBits(_ bytesPerFlip: Int, _ ports: [UInt16]) throws {
    for node in nodes { detours[node.name] = "127.0.0.1:\(ports[2 + node.id])" }
    let pairs = nodes.map { "\(ports[2 + $0.id])=\(ports[$0.id])" }
    let program = Machine.package.appending(path: "Tests/IntegrationTests/Clients/flip.py").path
    let process = try BackgroundProcess(
      [program, "\(bytesPerFlip)"] + pairs, log: directory.appending(path: "flip.log"))
    rottenWire = process
    try waitUntil("bits are flipped", explanation: { process.text }) {
      process.text.contains("ready")
    }
  }

  /// A resource beside `r0`, with new sparse disks.
  private static func resource(
    _ name: String, disk: String, _ options: ClusterOptions, _ directory: URL
  ) throws -> String {
    let ports = try freePorts(2)
    var lines = ["resource \(name) {", "  net { \(options.net) }", "  disk { \(disk) }"]
    for (id, node) in ["alpha", "beta"].enumerated() {
      let path = directory.appending(path: "\(name)-\(node).img").path
      try succeed("truncate", "-s", "\(options.sizeMiB)M", path)
      lines.append(
        "  on \(node) { node-id \(id); address 127.0.0.1:\(ports[id]); disk \(path); }")
    }
    return (lines + ["}", ""]).joined(separator: "\n")
  }

  func peer(of node: ClusterNode) -> ClusterNode { node === alpha ? beta : alpha }

  // MARK: Daemons

  /// Starts a node's daemon and waits for the line that says it is ready.
  func start(_ node: ClusterNode) throws {
    precondition(node.daemon?.isRunning != true, "\(node.name) runs already")
    let log = directory.appending(path: "\(node.name)-\(node.logs.count).log")
    node.logs.append(log)
    let prefix = link?.prefix(node.name) ?? []
    node.daemon = try BackgroundProcess(
      prefix + [
        Machine.programs.appending(path: "ashlard").path, "--node", node.name, "--run-dir",
        runDirectory.path,
      ] + daemonArguments, log: log, environment: environment(node))
    try waitUntil("\(node.name) is ready", explanation: { node.daemon?.text ?? "" }) {
      guard node.daemon?.isRunning == true else {
        throw Failure("ashlard on \(node.name) ended with \(node.daemon?.status ?? 0)")
      }
      return node.daemon?.text.contains("is ready") == true
    }
  }

  /// kill -9. Returns when the kernel has let go of the daemon's disk, too: it finishes what a
  /// killed process had asked of a disk, which may take longer than a new daemon waits.
  func kill(_ node: ClusterNode) throws {
    node.daemon?.kill()
    try succeed("flock", "--exclusive", "--timeout", "\(Int(patience))", node.disk.path, "true")
  }

  /// SIGTERM; the daemon must end by itself and with status 0.
  func stop(_ node: ClusterNode) throws {
    guard let daemon = node.daemon, daemon.isRunning else { return }
    daemon.signal(SIGTERM)
    guard try daemon.wait() == 0 else {
      throw Failure("ashlard on \(node.name) ended with \(daemon.status) after SIGTERM")
    }
  }

  // MARK: Administration

  /// Runs ashlaradm on a node.
  func ask(_ node: ClusterNode, _ arguments: String...) throws -> Output {
    try ask(node, arguments)
  }

  func ask(_ node: ClusterNode, _ arguments: [String]) throws -> Output {
    let program = Machine.programs.appending(path: "ashlaradm").path
    return try run(
      [program, "--node", node.name, "--run-dir", runDirectory.path] + arguments,
      environment: environment(node))
  }

  /// Runs an ashlaradm command that must succeed.
  @discardableResult
  func tell(_ node: ClusterNode, _ arguments: String...) throws -> String {
    let output = try ask(node, arguments)
    guard output.status == 0 else { throw Failure("\(output)") }
    return output.text.trimmingCharacters(in: .newlines)
  }

  /// The NBD URI of the volume on a node.
  func uri(_ node: ClusterNode) throws -> String { try tell(node, "sh-dev", resource) }

  /// Makes a node Primary as soon as the role is free: a peer must first notice that it died.
  func promote(_ node: ClusterNode) throws {
    var last: Output?
    try waitUntil("\(node.name) is Primary", explanation: { "\(last as Any)" }) {
      last = try ask(node, "primary", resource)
      return last?.status == 0
    }
  }

  /// Creates metadata, starts both nodes, makes alpha Primary and waits for the first full sync.
  fileprivate func bringUp() throws {
    for node in nodes {
      try tell(node, "create-md", "--force", resource)
      try start(node)
      try tell(node, "up", resource)
    }
    try waitUntil("the nodes are connected", explanation: state) {
      try tell(alpha, "cstate", resource).contains("Connected")
    }
    try tell(alpha, "primary", "--force", resource)
    try waitForSync()
    guard let size = Int(try succeed("nbdinfo", "--size", uri(alpha))) else {
      throw Failure("nbdinfo gives no size")
    }
    bytes = size
  }

  /// Waits until both nodes say that both disks are UpToDate, nothing is being copied and no block
  /// is out of sync.
  func waitForSync() throws {
    try waitUntil("both nodes are in sync", explanation: state) {
      try nodes.allSatisfy { try isInSync($0) }
    }
  }

  /// How a node says it is connected.
  func connection(_ node: ClusterNode) throws -> String { try tell(node, "cstate", resource) }

  /// Waits until a node no longer takes the other for connected.
  func waitForLoss(at node: ClusterNode) throws {
    try waitUntil("\(node.name) notices that its peer is gone", explanation: state) {
      try connection(node) != "Connected"
    }
  }

  private func isInSync(_ node: ClusterNode) throws -> Bool {
    let output = try ask(node, "status", "--json", resource)
    guard output.status == 0,
      let resources = try? JSONDecoder().decode([Status].self, from: Data(output.text.utf8)),
      let status = resources.first, let connection = status.connections.first
    else { return false }
    let peers = connection.peerDevices
    return connection.connectionState == "Connected" && !peers.isEmpty
      && status.devices.allSatisfy { $0.diskState == "UpToDate" }
      && peers.allSatisfy {
        $0.replicationState == "Established" && $0.peerDiskState == "UpToDate"
          && $0.outOfSync == 0
      }
  }

  /// What both nodes say about the resource.
  func state() -> String {
    nodes.map { node in
      let answer = try? ask(node, "status", "--verbose", resource).text
      return "\n\(node.name): \(answer ?? "no answer")"
    }.joined()
  }

  // MARK: Data

  /// Both backing disks hold the same bytes where the volume's data is.
  func expectIdenticalDisks() throws {
    try succeed("cmp", "-n", "\(bytes)", alpha.disk.path, beta.disk.path)
  }

  // MARK: The end

  fileprivate func showLogs() {
    for node in nodes {
      for log in node.logs.suffix(3) {
        let text = (try? String(contentsOf: log, encoding: .utf8)) ?? ""
        print("---- \(log.lastPathComponent), last lines\n\(text.suffix(6000))")
      }
    }
    print("---- state\(state())")
  }

  fileprivate func remove() {
    for node in nodes { node.daemon?.kill() }
    rottenWire?.kill()
    for url in [directory, runDirectory] { try? FileManager.default.removeItem(at: url) }
  }
}

/// Net options for tests that want no connection to be cut by a time-out: a daemon that does not
/// get the processor for a while answers a ping late.
let slowMachine = "ping-timeout 300; timeout 90; ko-count 7;"

/// Makes a cluster, brings its volume up, runs the test and takes everything away.
func withCluster(
  _ options: ClusterOptions = ClusterOptions(), _ test: (Cluster) throws -> Void
) throws {
  let cluster = try Cluster(options)
  defer { cluster.remove() }
  do {
    try cluster.bringUp()
    try test(cluster)
  } catch {
    cluster.showLogs()
    throw error
  }
}

/// The part of `status --json` that the tests read.
private struct Status: Decodable {
  struct Device: Decodable {
    let diskState: String
    enum CodingKeys: String, CodingKey { case diskState = "disk-state" }
  }
  struct PeerDevice: Decodable {
    let replicationState: String
    let peerDiskState: String
    let outOfSync: Int
    enum CodingKeys: String, CodingKey {
      case outOfSync = "out-of-sync"
      case replicationState = "replication-state"
      case peerDiskState = "peer-disk-state"
    }
  }
  struct Connection: Decodable {
    let connectionState: String
    let peerDevices: [PeerDevice]
    enum CodingKeys: String, CodingKey {
      case connectionState = "connection-state"
      case peerDevices = "peer_devices"
    }
  }
  let devices: [Device]
  let connections: [Connection]
}
