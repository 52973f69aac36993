import Foundation
import Glibc
import TestSupport
import Testing

/// Clients that misbehave, on real sockets: the server must outlive them and serve the others.
@Suite(.serialized) struct RoughClientTests {
  /// A plain connection that says what it likes.
  private final class RawClient {
    let descriptor: Int32

    init(_ path: String) throws {
      descriptor = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue), 0)
      var address = sockaddr_un()
      address.sun_family = sa_family_t(AF_UNIX)
      withUnsafeMutableBytes(of: &address.sun_path) { bytes in
        bytes.copyBytes(from: path.utf8.prefix(107))
      }
      let failed = withUnsafePointer(to: &address) {
        $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
          Glibc.connect(descriptor, $0, socklen_t(MemoryLayout<sockaddr_un>.size))
        }
      }
      try #require(failed == 0, "connect: \(errno)")
      var limit = timeval(tv_sec: 120, tv_usec: 0)
      setsockopt(
        descriptor, SOL_SOCKET, SO_RCVTIMEO, &limit, socklen_t(MemoryLayout<timeval>.size))
    }

    deinit { close(descriptor) }

    func send(_ bytes: [UInt8]) {
      var rest = bytes[...]
      while !rest.isEmpty {
        let count = rest.withUnsafeBytes {
          Glibc.send(descriptor, $0.baseAddress, $0.count, Int32(MSG_NOSIGNAL))
        }
        guard count > 0 else { return }
        rest = rest.dropFirst(count)
      }
    }

    /// Reads exactly `count` bytes; fewer when the server closed.
    func read(_ count: Int) -> [UInt8] {
      var bytes = [UInt8](repeating: 0, count: count)
      var have = 0
      while have < count {
        let got = bytes.withUnsafeMutableBytes {
          recv(descriptor, $0.baseAddress! + have, count - have, 0)
        }
        guard got > 0 else { break }
        have += got
      }
      return Array(bytes.prefix(have))
    }

    /// Whether the server closes the connection before anything else comes.
    func isClosedByServer() -> Bool { read(1).isEmpty && errno != EAGAIN }

    func negotiate() {
      _ = read(18)
      send(Bytes.clientFlags(3) + Bytes.option(8) + Bytes.option(7, Bytes.info("r0")))
      _ = read(20 + 32 + 34 + 20)
    }
  }

  private func waitUntil(_ what: String, _ condition: () throws -> Bool) throws {
    let limit = Date().addingTimeInterval(120)
    while try !condition() {
      try #require(Date() < limit, "\(what) did not happen")
      usleep(20_000)
    }
  }

  @Test func aSilentClientIsClosedAfterItsDeadline() throws {
    let server = try MemoryServer(mebibytes: 16, "handshake=200")
    let client = try RawClient(server.socket)
    #expect(client.read(18).count == 18)
    #expect(client.isClosedByServer())
    try waitUntil("the log says why") {
      server.log.contains("no export chosen before the handshake deadline")
    }
    try server.end()
  }

  @Test func clientsBeyondTheLimitAreClosedAtOnce() throws {
    let server = try MemoryServer(mebibytes: 16, "clients=3")
    var clients = try (0..<3).map { _ in try RawClient(server.socket) }
    for client in clients { client.negotiate() }
    let extra = try RawClient(server.socket)
    #expect(extra.isClosedByServer())
    try waitUntil("the log says why") { server.log.contains("3 clients are connected, the limit") }
    clients.removeLast()
    try waitUntil("the place is free again") {
      let next = try RawClient(server.socket)
      return next.read(18).count == 18
    }
    try server.end()
  }

  /// Connections cut at random places while others copy: nothing of the server is lost.
  @Test(.enabled(if: Program.areInstalled("nbdcopy"), "nbdcopy (libnbd-bin) is not installed"))
  func cutConnectionsDoNotDisturbOthers() throws {
    // Five usable 1 MiB buffers and few small ones: everybody has to wait for buffers.
    let server = try MemoryServer(mebibytes: 32, "huge=6")
    let file = server.directory.appending(path: "file").path
    let copied = server.directory.appending(path: "copied").path
    let data = Data((0..<(32 << 20)).map { UInt8(truncatingIfNeeded: $0 &* 31 &+ $0 >> 12) })
    try data.write(to: URL(filePath: file))
    let copy = Process()
    copy.executableURL = URL(filePath: Program.path("nbdcopy") ?? "")
    copy.arguments = ["--connections=4", "--requests=64", file, server.uri()]
    try copy.run()
    var generator = SystemRandomNumberGenerator()
    var rounds = 0
    while copy.isRunning || rounds < 100 {
      rounds += 1
      let client = try RawClient(server.socket)
      client.negotiate()
      // Reads only, and the start of a write: what nbdcopy has written stays.
      let write = Bytes.request(Bytes.write, offset: 0, length: 1 << 20) + [1, 2, 3]
      let session =
        Bytes.request(Bytes.read, cookie: 1, length: 3 << 20)
        + Bytes.request(Bytes.read, cookie: 2, length: 512) + Bytes.request(Bytes.flush) + write
      let length = Int.random(in: 1...session.count, using: &generator)
      client.send(Array(session.prefix(length)))
      // The whole first request was sent: at least a piece of its answer comes.
      if rounds % 3 == 0, length >= 28 { _ = client.read(100_000) }
    }
    copy.waitUntilExit()
    #expect(copy.terminationStatus == 0)
    let back = try Program.run("nbdcopy", server.uri(), copied)
    #expect(back.status == 0, "\(back)")
    #expect(try Data(contentsOf: URL(filePath: copied)) == data)
    try waitUntil("all clients are gone") { try server.command("clients r0") == "0" }
    #expect(server.isRunning)
    try server.end()
  }

  /// One client holds all buffers and reads nothing, one waits, and many come, ask and give up: the
  /// line of those who wait does not grow with them.
  @Test func clientsThatGiveUpWaitingDoNotPileUp() throws {
    let server = try MemoryServer(mebibytes: 16, "huge=6", "clients=20")
    let holder = try RawClient(server.socket)
    holder.negotiate()
    let read = Bytes.request(Bytes.read, length: 1 << 20)
    // More than the socket's buffers take, whatever this machine gives them.
    holder.send(Array(repeatElement(read, count: 64).joined()))
    func waits() throws -> Int {
      let words = try server.command("statistics").split(separator: " ")
      return Int(words.first { $0.hasPrefix("waits=") }?.dropFirst(6) ?? "") ?? -1
    }
    var before = 0
    try waitUntil("the holder has got stuck") {
      let last = before
      before = try waits()
      usleep(200_000)
      return before > 0 && before == last
    }
    let front = try RawClient(server.socket)
    front.negotiate()
    front.send(read)
    try waitUntil("another waits") { try waits() == before + 1 }
    for _ in 0..<150 {
      let client = try RawClient(server.socket)
      client.negotiate()
      client.send(read)
    }
    try waitUntil("all have given up") { try server.command("clients r0") == "2" }
    #expect(try waits() == before + 151)
    for _ in 0..<64 { #expect(holder.read(28 + 1 << 20).count == 28 + 1 << 20) }
    #expect(front.read(28 + 1 << 20).count == 28 + 1 << 20)
    try server.end()
  }

  @Test func aClosedExportEndsItsClients() throws {
    let server = try MemoryServer(mebibytes: 16)
    let client = try RawClient(server.socket)
    client.negotiate()
    client.send(Bytes.write([UInt8](repeating: 1, count: 4096), at: 0, cookie: 7))
    #expect(Array(client.read(16).suffix(8)) == Bytes.u64(7))
    try server.command("refuse r0 Secondary")
    client.send(Bytes.request(Bytes.read, cookie: 8, length: 512))
    let header = client.read(20)
    let payload = client.read(Int(header.last ?? 0))
    #expect(header[6..<8] == [0x80, 0x01])
    #expect(payload.prefix(4) == [0, 0, 0, 108])
    #expect(payload.dropFirst(6).elementsEqual("this node no longer serves the export".utf8))
    try server.command("close")
    while !client.read(4096).isEmpty {}
    try waitUntil("the client is gone") { try server.command("clients r0") == "0" }
    try waitUntil("the log says why") { server.log.contains("export closed on this node") }
    try server.end()
  }

  @Test func errorsOfTheVolumeReachTheClient() throws {
    let server = try MemoryServer(mebibytes: 16)
    let client = try RawClient(server.socket)
    client.negotiate()
    try server.command("fail 28")
    client.send(Bytes.write([UInt8](repeating: 1, count: 4096), at: 0, cookie: 7))
    let header = client.read(24)
    #expect(header[6..<8] == [0x80, 0x01])
    #expect(Array(header[20..<24]) == Bytes.u32(28))
    try server.end()
  }

  /// Whether the programs were built with optimisation; without, Swift allocates for many things.
  private static var isOptimised: Bool {
    var isDebug = false
    // Only evaluated in debug builds.
    Swift.assert(
      {
        isDebug = true; return true
      }())
    return !isDebug
  }

  /// A steady state allocates nothing: counted over requests of a connection that is already open.
  @Test(.enabled(if: isOptimised, "counts only with swift test -c release"))
  func requestsAllocateNothing() throws {
    let server = try MemoryServer(mebibytes: 16)
    let client = try RawClient(server.socket)
    client.negotiate()
    func work(_ count: Int) {
      for index in 0..<count {
        let offset = UInt64(index % 4096) * 4096
        client.send(Bytes.write([UInt8](repeating: 1, count: 4096), at: offset))
        client.send(Bytes.request(Bytes.read, offset: offset, length: 4096))
        client.send(Bytes.request(Bytes.flush))
        #expect(client.read(16 + 28 + 4096 + 16).count == 4156)
      }
    }
    work(50)
    try server.command("statistics")
    work(1000)
    let line = try server.command("statistics")
    let count = line.split(separator: "=").last.flatMap { Int($0) } ?? .max
    // The command line itself is read by another thread, which allocates a little.
    #expect(count < 40, "\(line)")
    try server.end()
  }

  @Test(
    .enabled(if: Program.areInstalled("qemu-io"), "qemu-io (qemu-utils) is not installed"),
    arguments: ["engine=automatic", "engine=libaio"])
  func theServerAlsoListensAtATCPPort(engine: String) throws {
    let port = try freePorts(1)[0]
    let server = try MemoryServer(mebibytes: 16, "port=\(port)", engine)
    let ended = try Program.run(
      "qemu-io", "-f", "raw", "-c", "write -P 7 0 8M", "-c", "read -P 7 0 8M", "-c",
      "aio_write -P 8 0 2M", "-c", "aio_read 4M 2M", "-c", "aio_flush",
      "nbd://127.0.0.1:\(port)/r0")
    #expect(ended.status == 0 && !ended.output.contains("failed"), "\(ended)")
    try server.end()
  }
}
