/// Where a node's sockets and files are, and how every program finds out which node it is.

import Foundation
import Glibc

/// The paths of one node: sockets and locks in the run directory, which may be emptied whenever the
/// machine starts, and what must outlive that in the state directory. Several nodes can share them.
public struct RunPaths: Equatable, Sendable {
  /// The directory, without a trailing slash.
  public let runDirectory: String
  /// Where what must outlive a restart of the machine is kept, without a trailing slash.
  public let stateDirectory: String
  /// The node's name.
  public let node: String

  /// Longest path of a Unix socket on Linux, without its terminating zero byte.
  public static let longestSocketPath = 107

  /// Joins the parts; without a state directory that is the run directory.
  public init(runDirectory: String, node: String, stateDirectory: String? = nil) {
    self.runDirectory = Self.plain(runDirectory)
    self.stateDirectory = Self.plain(stateDirectory ?? runDirectory)
    self.node = node
  }

  private static func plain(_ directory: String) -> String {
    var directory = directory
    while directory.count > 1 && directory.hasSuffix("/") { directory.removeLast() }
    return directory
  }

  /// The socket on which the daemon takes commands.
  public var controlSocket: String { "\(runDirectory)/ashlard-\(node).sock" }
  /// The socket on which the daemon serves the node's volumes.
  public var nbdSocket: String { "\(runDirectory)/nbd-\(node).sock" }
  /// What was up when the daemon stopped or died.
  public var stateFile: String { "\(stateDirectory)/up-\(node).json" }
  /// Locked by the running daemon.
  public var lockFile: String { "\(runDirectory)/ashlard-\(node).lock" }

  /// The NBD URI under which this node exports a volume.
  public func nbdURI(resource: String, volume: UInt16 = 0) -> String {
    let name = volume == 0 ? resource : "\(resource)/\(volume)"
    return "nbd+unix:///\(percentEncoded(name))?socket=\(percentEncoded(nbdSocket))"
  }

  private func percentEncoded(_ text: String) -> String {
    let plain = Set("-._~/ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789".utf8)
    return text.utf8.map { byte in
      if plain.contains(byte) { return String(UnicodeScalar(byte)) }
      let digits = String(byte, radix: 16, uppercase: true)
      return "%" + (digits.count == 1 ? "0" : "") + digits
    }.joined()
  }
}

/// What is wrong with the choice of node or run directory.
public enum NodeEnvironmentError: Error, Equatable, Sendable, CustomStringConvertible {
  /// The name cannot be part of a file name.
  case badNodeName(String)
  /// The paths of the sockets would be longer than the kernel takes.
  case socketPathTooLong(String)

  /// The reason and what to do.
  public var description: String {
    switch self {
    case .badNodeName(let name):
      "node name '\(name)' is not valid: 1 to 64 letters, digits, '-', '_', '.'; use --node"
    case .socketPathTooLong(let path):
      "socket path '\(path)' is longer than \(RunPaths.longestSocketPath) bytes; "
        + "use a shorter --run-dir"
    }
  }
}

/// Configuration file, node, run and state directory: from the command line, else from the
/// environment (`ASHLAR_CONFIG`, `ASHLAR_NODE`, `ASHLAR_RUN_DIR`, `ASHLAR_STATE_DIR`), else the
/// defaults. Who chooses a run directory and no state directory has the state in the run directory.
public struct NodeEnvironment: Equatable, Sendable {
  /// Path of the configuration file.
  public let configurationFile: String
  /// Whether the path was chosen by the user, not by default.
  public let isConfigurationFileChosen: Bool
  /// This node's name.
  public let node: String
  /// The run directory.
  public let runDirectory: String
  /// The state directory.
  public let stateDirectory: String

  /// The configuration file where nobody says otherwise.
  public static let defaultConfigurationFile = "/etc/ashlar/ashlar.conf"
  /// The run directory where nobody says otherwise.
  public static let defaultRunDirectory = "/run/ashlar"
  /// The state directory where nobody says otherwise: `/run` is emptied when a machine starts.
  public static let defaultStateDirectory = "/var/lib/ashlar"

  /// Decides. An empty argument or variable counts as not given; `environment` is the process's
  /// own unless it is given.
  public init(
    configurationFile: String? = nil, node: String? = nil, runDirectory: String? = nil,
    stateDirectory: String? = nil, environment: [String: String]? = nil
  ) throws(NodeEnvironmentError) {
    let environment = environment ?? ProcessInfo.processInfo.environment
    func chosen(_ argument: String?, _ variable: String) -> String? {
      [argument, environment[variable]].lazy.compactMap { $0 }.first { !$0.isEmpty }
    }
    let file = chosen(configurationFile, "ASHLAR_CONFIG")
    self.configurationFile = file ?? Self.defaultConfigurationFile
    self.isConfigurationFileChosen = file != nil
    self.node = chosen(node, "ASHLAR_NODE") ?? Self.hostName()
    let run = chosen(runDirectory, "ASHLAR_RUN_DIR")
    self.runDirectory = run ?? Self.defaultRunDirectory
    self.stateDirectory =
      chosen(stateDirectory, "ASHLAR_STATE_DIR") ?? run ?? Self.defaultStateDirectory
    let isPlain = self.node.utf8.allSatisfy { $0 > 0x20 && $0 < 0x7F && $0 != UInt8(ascii: "/") }
    guard isPlain, (1...64).contains(self.node.utf8.count) else {
      throw .badNodeName(self.node)
    }
    let socket = paths.controlSocket
    guard socket.utf8.count <= RunPaths.longestSocketPath else { throw .socketPathTooLong(socket) }
  }

  /// The node's paths.
  public var paths: RunPaths {
    RunPaths(runDirectory: runDirectory, node: node, stateDirectory: stateDirectory)
  }

  /// `uname -n`, which is what DRBD compares `on` sections with.
  private static func hostName() -> String {
    var buffer = [CChar](repeating: 0, count: 256)
    let result = unsafe buffer.withUnsafeMutableBufferPointer { bytes in
      unsafe gethostname(bytes.baseAddress!, bytes.count - 1)
    }
    guard result == 0 else { return "" }
    return String(decoding: buffer.prefix { $0 != 0 }.map(UInt8.init(bitPattern:)), as: UTF8.self)
  }
}
