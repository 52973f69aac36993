/// A whole node in the test's process, without a peer: reactor, control socket, NBD socket.
///
/// What must hold: everything is below one directory of the test, on a file system with direct I/O;
/// the node is ended before the test is.
import BlockIO
import BlockTypes
import Configuration
import Control
import Foundation
import Glibc
import Logging
import Metadata
import Node
import TestSupport
import Testing

/// One node, `alpha`, and the configuration of its resource `r0`. Nobody listens at `beta`.
struct RunningNode {
  let paths: RunPaths
  let configuration: ResourceConfiguration
  var peerPort: UInt16 { configuration.hosts[1].address.port }
  var port: UInt16 { configuration.hosts[0].address.port }

  func ask(
    _ command: ControlCommand, force: Bool = false, _ changed: ResourceConfiguration? = nil
  ) throws -> ControlReply {
    let client = try ControlClient(paths: paths, timeoutSeconds: 120)
    let sent = changed ?? configuration
    return try client.send(
      ControlRequest(command, resource: sent.name, force: force, configuration: sent))
  }

  /// What status shows of the volume.
  func device() throws -> DeviceStatus? { try ask(.status).status?.first?.devices.first }

  /// A command that must succeed.
  func tell(_ command: ControlCommand, force: Bool = false) throws {
    let reply = try ask(command, force: force)
    try #require(reply.exitCode == 0, "\(command): \(reply.standardError)")
  }
}

/// Runs `body` beside a node, then ends the node; returns how many seconds the end took.
@discardableResult
func withNode(
  net: NetOptions = NetOptions(), _ body: @Sendable @escaping (RunningNode) throws -> Void
) async throws -> Double {
  try await withDirectories { directory, paths in
    let ports = try freePorts(2)
    let disk = directory.appending(path: "alpha.img").path
    try makeDisk(disk, bytes: 32 << 20)
    let node = RunningNode(paths: paths, configuration: try configuration(disk, ports, net))
    return try await serve(paths, Configuration()) { try body(node) }
  }
}

/// A directory for disks, and one for sockets, whose paths must be short.
func withDirectories<Value>(_ body: (URL, RunPaths) async throws -> Value) async throws -> Value {
  let package = URL(filePath: #filePath).deletingLastPathComponent()
    .deletingLastPathComponent().deletingLastPathComponent()
  let name = UUID().uuidString.prefix(8)
  let directory = package.appending(path: ".build/node-tests/\(name)")
  let paths = RunPaths(runDirectory: "/tmp/ashlar-node-\(name)", node: "alpha")
  try FileManager.default.createDirectory(at: directory, withIntermediateDirectories: true)
  defer {
    try? FileManager.default.removeItem(at: directory)
    try? FileManager.default.removeItem(atPath: paths.runDirectory)
  }
  return try await body(directory, paths)
}

/// Starts a node, runs `starting` at once and `body`, if there is one, when it is ready, ends the
/// node; returns how many seconds the end took.
@discardableResult
func serve(
  _ paths: RunPaths, _ file: Configuration, starting: @Sendable @escaping () throws -> Void = {},
  _ body: (@Sendable () throws -> Void)?
) async throws -> Double {
  let service = try NodeService(
    node: "alpha", paths: paths, engine: .automatic,
    logger: Logger(label: "test", factory: { _ in SwiftLogNoOpLogHandler() }))
  let ready = DispatchSemaphore(value: 0)
  let serving = Task {
    try await onThread {
      Result {
        try service.serve {
          ready.signal()
        } configuration: {
          file
        }
      }
    }.get()
  }
  let result = await onThread {
    Result {
      try starting()
      guard let body else { return }
      ready.wait()
      try body()
    }
  }
  let began = Date()
  service.stop()
  try await serving.value
  let took = Date().timeIntervalSince(began)
  try result.get()
  return took
}

/// Runs what blocks on a thread of its own.
private func onThread<Value: Sendable>(_ body: @Sendable @escaping () -> Value) async -> Value {
  await withCheckedContinuation { continuation in
    Thread.detachNewThread { continuation.resume(returning: body()) }
  }
}

func configuration(
  _ disk: String, _ ports: [UInt16], _ net: NetOptions = NetOptions(), name: String = "r0"
) throws -> ResourceConfiguration {
  let hosts = try ["alpha", "beta"].enumerated().map { index, name in
    HostConfiguration(
      name: name, nodeID: try #require(NodeID(UInt64(index))),
      address: PeerAddress(host: "127.0.0.1", port: ports[index]),
      volumes: [VolumeConfiguration(number: 0, disk: disk, metaDisk: .internal)])
  }
  return ResourceConfiguration(name: name, net: net, hosts: hosts)
}

/// `r0` and `r1`, each with a fresh disk of its own.
func twoResources(in directory: URL) throws -> Configuration {
  let ports = try freePorts(3)
  var file = Configuration()
  for (index, name) in ["r0", "r1"].enumerated() {
    let disk = directory.appending(path: "\(name).img").path
    try makeDisk(disk, bytes: 32 << 20, resource: name)
    file.resources.append(try configuration(disk, [ports[index], ports[2]], name: name))
  }
  return file
}

/// A sparse file with fresh metadata.
func makeDisk(_ path: String, bytes: UInt64, resource: String = "r0") throws {
  let layout = try MetadataLayout.internal(deviceBytes: bytes)
  var block = Superblock(
    node: try #require(NodeID(0)), resource: resource, volumeBytes: layout.volumeBytes, deviceID: 1)
  block.sequence = 1
  var copy = [UInt8](repeating: 0, count: Superblock.byteCount)
  copy.withUnsafeMutableBytes { block.encode(into: $0) }
  try #require(FileManager.default.createFile(atPath: path, contents: nil))
  let file = try #require(FileHandle(forUpdatingAtPath: path))
  try file.truncate(atOffset: bytes)
  for offset in [layout.superblockOffsets.0, layout.superblockOffsets.1] {
    try file.seek(toOffset: offset)
    try file.write(contentsOf: copy)
  }
  try file.close()
}
