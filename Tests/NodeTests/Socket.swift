/// Blocking sockets for tests that play a client or a peer of a node.
import Glibc
import TestSupport
import Testing

final class Socket {
  let descriptor: Int32

  /// Connects to a TCP port of this machine; does not wait when `patient` is not set.
  init(port: UInt16, patient: Bool = true, from host: UInt32 = 0x7F00_0001) throws {
    let kind = Int32(SOCK_STREAM.rawValue) | (patient ? 0 : Int32(SOCK_NONBLOCK.rawValue))
    descriptor = socket(AF_INET, kind, 0)
    let bound = withLoopbackAddress(0, host: host) { bind(descriptor, $0, $1) }
    try #require(bound == 0, "bind: \(errno)")
    let result = withLoopbackAddress(port) { connect(descriptor, $0, $1) }
    try #require(result == 0 || (!patient && errno == EINPROGRESS), "connect: \(errno)")
    setTimeout()
  }

  /// Listens at a TCP port of this machine.
  init(listeningAt port: UInt16, backlog: Int32) throws {
    descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
    var one: Int32 = 1
    setsockopt(descriptor, SOL_SOCKET, SO_REUSEADDR, &one, 4)
    try #require(withLoopbackAddress(port) { bind(descriptor, $0, $1) } == 0, "bind: \(errno)")
    try #require(listen(descriptor, backlog) == 0)
    setTimeout()
  }

  /// Takes over a connected socket.
  private init(connected descriptor: Int32) {
    self.descriptor = descriptor
    setTimeout()
  }

  /// Waits for the next caller.
  func accept() throws -> Socket {
    let caller = Glibc.accept(descriptor, nil, nil)
    try #require(caller >= 0, "accept: \(errno)")
    return Socket(connected: caller)
  }

  /// Connects to a Unix socket.
  init(path: String) throws {
    descriptor = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue), 0)
    var address = sockaddr_un()
    address.sun_family = sa_family_t(AF_UNIX)
    withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: Array(path.utf8)) }
    let descriptor = descriptor
    let result = withUnsafePointer(to: &address) {
      $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
        connect(descriptor, $0, socklen_t(MemoryLayout<sockaddr_un>.size))
      }
    }
    try #require(result == 0, "connect: \(errno)")
    setTimeout()
  }

  deinit { close(descriptor) }

  private func setTimeout() {
    var limit = timeval(tv_sec: 120, tv_usec: 0)
    setsockopt(
      descriptor, SOL_SOCKET, SO_RCVTIMEO, &limit, socklen_t(MemoryLayout<timeval>.size))
  }

  func send(_ bytes: [UInt8]) throws { try #require(isSent(bytes), "send: \(errno)") }

  /// Whether all bytes were taken.
  func isSent(_ bytes: [UInt8]) -> Bool {
    Glibc.send(descriptor, bytes, bytes.count, Int32(MSG_NOSIGNAL)) == bytes.count
  }

  /// Exactly `count` bytes.
  func receive(_ count: Int) throws -> [UInt8] {
    guard count > 0 else { return [] }
    var bytes = [UInt8](repeating: 0, count: count)
    let received = recv(descriptor, &bytes, count, Int32(MSG_WAITALL))
    try #require(received == count, "\(received) of \(count) bytes, errno \(errno)")
    return bytes
  }

  /// Whether the other side closes before the time is over, whatever it sends first.
  func isClosed() -> Bool {
    var bytes = [UInt8](repeating: 0, count: 4096)
    while true {
      let received = recv(descriptor, &bytes, bytes.count, 0)
      if received == 0 || (received < 0 && errno == ECONNRESET) { return true }
      if received < 0 { return false }
    }
  }
}

/// The bytes of a number in network order.
func bytes<Number: FixedWidthInteger>(_ number: Number) -> [UInt8] {
  withUnsafeBytes(of: number.bigEndian) { Array($0) }
}

extension Socket {
  /// An NBD client that is in transmission on export `r0`.
  static func client(_ path: String) throws -> Socket {
    let socket = try Socket(path: path)
    _ = try socket.receive(18)
    let data = bytes(UInt32(2)) + Array("r0".utf8) + bytes(UInt16(0))
    try socket.send(
      bytes(UInt32(3)) + Array("IHAVEOPT".utf8) + bytes(UInt32(7)) + bytes(UInt32(data.count))
        + data)
    while true {
      let header = try socket.receive(20)
      let type = number(header[12..<16])
      _ = try socket.receive(number(header[16..<20]))
      try #require(type < 1 << 31, "the option was refused: \(type)")
      if type == 1 { return socket }
    }
  }

  /// Sends `count` requests at once.
  func request(_ command: UInt16, count: Int, offset: UInt64 = 0, length: UInt32 = 0) throws {
    let one =
      bytes(UInt32(0x2560_9513)) + bytes(UInt16(0)) + bytes(command) + bytes(UInt64(7))
      + bytes(offset) + bytes(length)
    try send(Array(repeatElement(one, count: count).joined()))
  }

  /// The error number of the next simple reply.
  func reply() throws -> Int { number(try receive(16)[4..<8]) }
}

private func number(_ bytes: ArraySlice<UInt8>) -> Int { bytes.reduce(0) { $0 << 8 | Int($1) } }
