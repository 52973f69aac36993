import Testing

@testable import Bench

/// Targets as text: every form that is documented, and refusals that say what is wrong.
struct TargetAddressTests {
  @Test func documentedFormsAreUnderstood() throws {
    #expect(try TargetAddress("raw:/dev/vdb") == .raw(path: "/dev/vdb"))
    #expect(
      try TargetAddress("nbd+unix:///r0?socket=/run/ashlar/nbd-a.sock")
        == .nbdUnix(socket: "/run/ashlar/nbd-a.sock", export: "r0"))
    #expect(
      try TargetAddress("nbd+unix:///r0/1?socket=/s") == .nbdUnix(socket: "/s", export: "r0/1"))
    #expect(
      try TargetAddress("nbd://10.0.0.1/r0") == .nbdTCP(host: "10.0.0.1", port: 10809, export: "r0")
    )
    #expect(
      try TargetAddress("nbd://[fe80::1]:99/") == .nbdTCP(host: "fe80::1", port: 99, export: ""))
    #expect(
      try TargetAddress("nbd://localhost:99") == .nbdTCP(host: "localhost", port: 99, export: ""))
  }

  @Test func percentEncodingIsUndone() throws {
    #expect(
      try TargetAddress("nbd+unix:///a%20b?socket=/tmp/%C3%A4.sock")
        == .nbdUnix(socket: "/tmp/ä.sock", export: "a b"))
  }

  @Test(arguments: [
    "", "r0", "raw:", "nbds://host/x", "nbd+unix://host/x?socket=/s", "nbd+unix:///x",
    "nbd+unix:///x?sock=/s", "nbd+unix:///x?socket=", "nbd+unix:///x?socket=/s&a=b", "nbd://",
    "nbd://:10809/x", "nbd://h:0/x", "nbd://h:65536/x", "nbd://h:x/x", "nbd://u@h/x", "nbd://h/x?y",
    "nbd+unix:///%zz?socket=/s", "nbd+unix:///%00?socket=/s", "nbd+unix:///%ff?socket=/s",
    "nbd+unix:///%4?socket=/s",
  ])
  func otherTextsAreRefusedByName(text: String) {
    do {
      let target = try TargetAddress(text)
      Issue.record("'\(text)' was taken as \(target)")
    } catch {
      guard case .badTarget(text, let reason) = error else {
        Issue.record("wrong error: \(error)")
        return
      }
      #expect(!reason.isEmpty)
    }
  }

  @Test func socketPathsTooLongForTheKernelAreRefused() {
    let path = "/" + String(repeating: "x", count: 107)
    #expect(throws: BenchError.self) { try TargetAddress("nbd+unix:///r0?socket=\(path)") }
  }

  @Test func aDescriptionCanBeGivenAgain() throws {
    for text in ["raw:/x", "nbd+unix:///r0?socket=/s", "nbd://h:1/r0", "nbd://[::1]:1/r0"] {
      #expect(try TargetAddress(text).description == text)
    }
  }
}
