/// Which resources were up, and where this node was Primary: read back when the daemon starts.
///
/// Written to a new file that replaces the old one and is on the disk before the command that
/// changed it is answered: after a power loss it is the old or the new list. A role is taken up
/// again, and a connection stays cut, only while the machine runs on: with the machine the clients
/// have gone, too, and what comes up then is as new.
import BlockIO
import Foundation
import Glibc

/// What the daemon was doing for its administrator.
struct NodeState: Codable, Equatable {
  /// One resource that was up.
  struct Resource: Codable, Equatable {
    var name: String
    var primary: Bool
    /// An administrator disconnected it.
    var disconnected: Bool?
  }
  var resources: [Resource] = []
  /// The start of the machine that the roles belong to.
  var boot: String?

  /// This start of the machine.
  static let currentBoot: String? =
    try? String(contentsOfFile: "/proc/sys/kernel/random/boot_id", encoding: .utf8)
    .trimmingCharacters(in: .whitespacesAndNewlines)

  /// Brought up anew: Secondary, and connecting, whatever it was before.
  mutating func setUp(_ name: String) {
    setDown(name)
    resources.append(Resource(name: name, primary: false))
  }

  mutating func setDown(_ name: String) { resources.removeAll { $0.name == name } }

  mutating func setPrimary(_ name: String, _ primary: Bool) {
    for index in resources.indices where resources[index].name == name {
      resources[index].primary = primary
    }
  }

  mutating func setDisconnected(_ name: String, _ disconnected: Bool) {
    for index in resources.indices where resources[index].name == name {
      resources[index].disconnected = disconnected ? true : nil
    }
  }

  /// The node was ended cleanly: no role is held any more.
  mutating func setAllSecondary() {
    for index in resources.indices { resources[index].primary = false }
  }

  /// The list at `path`; empty when there is none. What an earlier start of the machine left is
  /// Secondary and connects.
  ///
  /// - Throws: when there is a list that cannot be read: it is not to be taken for an empty one.
  static func read(_ path: String, boot: String? = currentBoot) throws -> NodeState {
    let file: FileHandle
    do throws(SystemError) {
      file = try open(path, O_RDONLY)
    } catch {
      guard error.errno == ENOENT else { throw error }
      return NodeState()
    }
    var state = try JSONDecoder().decode(NodeState.self, from: file.readToEnd() ?? Data())
    if state.boot != boot {
      state.resources = state.resources.map { Resource(name: $0.name, primary: false) }
    }
    state.boot = boot
    return state
  }

  func write(_ path: String, boot: String? = currentBoot) throws {
    var written = self
    written.boot = boot
    let encoder = JSONEncoder()
    encoder.outputFormatting = [.prettyPrinted, .sortedKeys]
    let part = path + ".new"
    let file = try Self.open(part, O_WRONLY | O_CREAT | O_TRUNC)
    try file.write(contentsOf: encoder.encode(written))
    try file.synchronize()
    try file.close()
    guard unsafe rename(part, path) == 0 else {
      throw SystemError(call: "rename", errno: errno, path: part)
    }
    let directory = URL(fileURLWithPath: path).deletingLastPathComponent().path
    try Self.open(directory, O_RDONLY | O_DIRECTORY).synchronize()
  }

  private static func open(
    _ path: String, _ flags: Int32
  ) throws(SystemError) -> FileHandle {
    let descriptor = unsafe Glibc.open(path, flags | O_CLOEXEC, 0o640)
    guard descriptor >= 0 else { throw SystemError(call: "open", errno: errno, path: path) }
    return FileHandle(fileDescriptor: descriptor, closeOnDealloc: true)
  }
}
