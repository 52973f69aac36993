/// `Clients/writer.py`, the client that knows what it was promised.
import Foundation

/// A writer on the volume of one cluster; what it was promised outlives the runs of the program.
struct Writer {
  /// How the program ends.
  enum End: Int32 {
    case told = 0
    case serverGone = 3
    case refused = 4
  }

  let cluster: Cluster

  private static let program = Machine.package.appending(
    path: "Tests/IntegrationTests/Clients/writer.py"
  ).path
  private var state: String { cluster.directory.appending(path: "writer.state").path }

  /// Starts to write at a node and waits until the first write was acknowledged.
  func start(at node: ClusterNode, seed: UInt64) throws -> BackgroundProcess {
    let load = try BackgroundProcess(
      [
        Self.program, "write", try cluster.uri(node), state, "\(10 * patience)", "\(seed)",
      ], log: cluster.directory.appending(path: "writer.log"), input: true)
    try waitUntil("the writer writes", explanation: { load.text }) {
      // Asked before its words are read, as it may write and end at once.
      let hadEnded = !load.isRunning
      if load.text.contains("writing") { return true }
      if hadEnded { throw Failure("the writer ended with \(load.status)") }
      return false
    }
    return load
  }

  /// Waits until the writer has ended in one of these ways.
  func wait(for load: BackgroundProcess, _ ends: End...) throws {
    let status = try load.wait()
    guard ends.contains(where: { $0.rawValue == status }) else {
      throw Failure("the writer ended with \(status)\n\(load.text)")
    }
  }

  /// Tells the writer to stop; each of its writes must have been answered well.
  func stop(_ load: BackgroundProcess) throws {
    try load.write("stop")
    try wait(for: load, .told)
  }

  /// Reads every block at a node; each must hold its last acknowledged value or a later one.
  func verify(at node: ClusterNode) throws {
    let output = try run([Self.program, "verify", try cluster.uri(node), state])
    guard output.status == 0 else { throw Failure("\(output)") }
  }
}
