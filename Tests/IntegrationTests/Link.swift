/// The cable between two nodes: each node in a network namespace of its own, a pair of virtual
/// Ethernet devices between them, and the ways in which it can fail.
///
/// What must hold: nothing of this machine's own network changes; namespaces and devices go with
/// the value. Control and NBD sockets are files and stay within reach.
import Foundation

final class Link {
  /// How the cable fails. Packets of a connection are dropped without a word to anyone, but for
  /// `down`, where the sender's kernel knows.
  enum Cut: String, CaseIterable {
    case down, alphaIsDeaf, betaIsDeaf, bothAreDeaf
  }

  private let name: String
  private(set) var cut: Cut?

  init() throws {
    name = "ashlar-\(UUID().uuidString.prefix(8))"
    try succeed("ip", "netns", "add", space("alpha"))
    try succeed("ip", "netns", "add", space("beta"))
    try succeed(
      "ip", "link", "add", "cable", "netns", space("alpha"), "type", "veth", "peer", "name",
      "cable", "netns", space("beta"))
    for node in ["alpha", "beta"] {
      try inside(node, "ip", "address", "add", "\(address(node))/24", "dev", "cable")
      try inside(node, "ip", "link", "set", "cable", "up")
      try inside(node, "ip", "link", "set", "lo", "up")
    }
  }

  deinit {
    for node in ["alpha", "beta"] { _ = try? run(["ip", "netns", "delete", space(node)]) }
  }

  private func space(_ node: String) -> String { "\(name)-\(node)" }

  func address(_ node: String) -> String { node == "alpha" ? "10.77.0.1" : "10.77.0.2" }

  /// What to put in front of a command that is to run on a node.
  func prefix(_ node: String) -> [String] { ["nsenter", "--net=/run/netns/\(space(node))"] }

  private func inside(_ node: String, _ arguments: String...) throws {
    let output = try run(prefix(node) + arguments)
    guard output.status == 0 else { throw Failure("\(output)") }
  }

  /// Cuts the cable until `heal`.
  func cut(_ cut: Cut) throws {
    precondition(self.cut == nil, "the cable is cut already")
    self.cut = cut
    switch cut {
    case .down: try inside("alpha", "ip", "link", "set", "cable", "down")
    case .alphaIsDeaf: try deafen("alpha")
    case .betaIsDeaf: try deafen("beta")
    case .bothAreDeaf:
      try deafen("alpha")
      try deafen("beta")
    }
  }

  private func deafen(_ node: String) throws {
    let rules = "add table inet cut; add chain inet cut deaf { type filter hook input priority 0; "
    try inside(node, "nft", rules + "policy drop; }")
  }

  /// Makes the cable whole.
  func heal() throws {
    switch cut {
    case nil: return
    case .down: try inside("alpha", "ip", "link", "set", "cable", "up")
    case .alphaIsDeaf: try inside("alpha", "nft", "delete table inet cut")
    case .betaIsDeaf: try inside("beta", "nft", "delete table inet cut")
    case .bothAreDeaf:
      try inside("alpha", "nft", "delete table inet cut")
      try inside("beta", "nft", "delete table inet cut")
    }
    cut = nil
  }
}
