/// Which resources were up, and where this node was Primary: read back when the daemon starts.
///
/// Written to a new file that replaces the old one, so that it is the old or the new list.
import Foundation

/// What the daemon was doing for its administrator.
struct NodeState: Codable, Equatable {
  /// One resource that was up.
  struct Resource: Codable, Equatable {
    var name: String
    var primary: Bool
  }
  var resources: [Resource] = []

  mutating func setUp(_ name: String) {
    if !resources.contains(where: { $0.name == name }) {
      resources.append(Resource(name: name, primary: false))
    }
  }

  mutating func setDown(_ name: String) { resources.removeAll { $0.name == name } }

  mutating func setPrimary(_ name: String, _ primary: Bool) {
    for index in resources.indices where resources[index].name == name {
      resources[index].primary = primary
    }
  }

  /// The node was ended cleanly: no role is held any more.
  mutating func setAllSecondary() {
    for index in resources.indices { resources[index].primary = false }
  }

  /// The list at `path`; empty when there is none.
  static func read(_ path: String) throws -> NodeState {
    guard let data = FileManager.default.contents(atPath: path) else { return NodeState() }
    return try JSONDecoder().decode(NodeState.self, from: data)
  }

  func write(_ path: String) throws {
    let encoder = JSONEncoder()
    encoder.outputFormatting = [.prettyPrinted, .sortedKeys]
    try encoder.encode(self).write(to: URL(fileURLWithPath: path), options: .atomic)
  }
}
