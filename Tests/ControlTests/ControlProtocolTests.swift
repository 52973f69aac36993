/// The control socket's messages: stable keys, bounded, and refused with a reason when wrong.

import BlockTypes
import Configuration
import Control
import Foundation
import Testing

@Suite struct ControlProtocolTests {
  /// A request survives the line, with the configuration it carries.
  @Test func requestSurvivesTheLine() throws {
    let host = HostConfiguration(
      name: "alpha", nodeID: try #require(NodeID(3)),
      address: PeerAddress(host: "10.0.0.1", port: 7789),
      volumes: [
        VolumeConfiguration(number: 0, disk: "/dev/x", metaDisk: .external(path: "/dev/y"))
      ])
    let resource = ResourceConfiguration(name: "r0", hosts: [host])
    let request = ControlRequest(.up, resource: "r0", force: true, configuration: resource)

    let line = try ControlCodec.line(request)

    #expect(line.last == UInt8(ascii: "\n"))
    #expect(line.dropLast().contains(UInt8(ascii: "\n")) == false)
    #expect(try ControlCodec.request(from: line) == request)
  }

  /// Golden: a shell script may write requests by hand.
  @Test func shortRequestIsUnderstood() throws {
    let text = #"{"version":1,"command":"status"}"#
    #expect(try ControlCodec.request(from: Array(text.utf8)) == ControlRequest(.status))
  }

  /// Old and new programs refuse each other by version, before anything else is read.
  @Test func anotherVersionIsNamed() {
    let text = #"{"version":2,"command":"unheard-of"}"#
    #expect(throws: ControlProtocolError.version(2, supported: 1)) {
      try ControlCodec.request(from: Array(text.utf8))
    }
  }

  /// A refusal names the key that is wrong.
  @Test(arguments: [
    (#"{"version":1}"#, "command"),
    (#"{"version":1,"command":"explode"}"#, "command"),
    (#"{"version":1,"command":"up","volume":"x"}"#, "volume"),
    ("nonsense", "JSON"),
    ("", "JSON"),
  ])
  func malformedRequestIsNamed(text: String, expected: String) {
    do {
      _ = try ControlCodec.request(from: Array(text.utf8))
      Issue.record("accepted '\(text)'")
    } catch {
      #expect(error.description.contains(expected), "\(error)")
    }
  }

  /// A peer on the socket does not choose our memory use.
  @Test func longRequestIsRefused() {
    let line = [UInt8](repeating: UInt8(ascii: " "), count: ControlCodec.requestBytes + 1)
    #expect(throws: ControlProtocolError.tooLong(limit: ControlCodec.requestBytes)) {
      try ControlCodec.request(from: line)
    }
  }

  /// DRBD's wording and exit codes.
  @Test func refusalsReadAsDRBDs() throws {
    let reply = ControlReply(refusing: .heldOpen.with("opened by NBD client 3"), object: "r0")
    #expect(reply.exitCode == 11 && reply.refusal == -12)
    #expect(
      reply.standardError == [
        "r0: State change failed: (-12) Device is held open by someone",
        "opened by NBD client 3", "close the clients of r0 first",
      ])
    #expect(try ControlCodec.reply(from: ControlCodec.line(reply)) == reply)
    #expect(ControlReply(refusing: .needUpToDateData, object: "r0").exitCode == 17)
    #expect(ControlReply(refusing: .unknownResource, object: "r0").exitCode == 10)
  }

  /// One refusal in DRBD's words, but each tells what helps there: `--force` often does not.
  @Test func everyWantOfDataTellsWhatHelps() {
    let force: [Refusal] = [.needUpToDateData, .newerDataWasLost]
    let other: [Refusal] = [
      .targetOfResync, .noDiskToPromote, .primaryLivesHere, .clientsLiveOnPeer,
      .nobodyFillsTheDisk,
    ]
    for refusal in force + other {
      #expect(refusal.code == -2 && refusal.exitCode == 17)
      #expect(refusal.hint?.contains("--force") == force.contains(refusal), "\(refusal)")
    }
    #expect(Set((force + other).compactMap(\.hint)).count == 7)
  }
}
