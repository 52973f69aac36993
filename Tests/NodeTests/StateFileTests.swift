/// What a daemon remembers of itself.
import Foundation
import Testing

@testable import Node

@Suite struct StateFileTests {
  /// The clients of a machine that was restarted are gone: a role is for somebody to give.
  @Test func `a role is remembered until the machine restarts, and what is up for good`() throws {
    let path = NSTemporaryDirectory() + "ashlar-state-\(UUID()).json"
    defer { try? FileManager.default.removeItem(atPath: path) }
    #expect(try NodeState.read(path) == NodeState())
    var state = NodeState()
    state.setUp("r0")
    state.setUp("r1")
    state.setPrimary("r1", true)
    state.setDisconnected("r0", true)
    try state.write(path, boot: "one")
    #expect(try NodeState.read(path, boot: "one").resources == state.resources)
    let later = try NodeState.read(path, boot: "two")
    #expect(later.resources.map(\.name) == ["r0", "r1"])
    #expect(later.resources.map(\.primary) == [false, false])
    #expect(later.resources.map(\.disconnected) == [nil, nil])
    #expect(NodeState.currentBoot?.isEmpty == false)
    // What is brought up anew owes nothing to what it was.
    state.setPrimary("r0", true)
    state.setUp("r0")
    #expect(state.resources.last == NodeState.Resource(name: "r0", primary: false))
    #expect(state.resources.count == 2)
    // What cannot be written is said, and the old list stays.
    #expect(throws: (any Error).self) { try state.write("/nonexistent/up.json") }
    // One that cannot be read is not taken for an empty one.
    #expect(throws: (any Error).self) { try NodeState.read(NSTemporaryDirectory()) }
  }
}
