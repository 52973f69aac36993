internal import Glibc

/// A listening socket, TCP or Unix.
///
/// Invariant: a Unix socket's file exists as long as the value does, and is only removed when it is
/// still the one that was made here.
public struct Listener: ~Copyable {
  /// The descriptor, for `Reactor.accept`.
  public let descriptor: Int32
  /// Where it listens; the port is the real one when 0 was asked for.
  public let address: SocketAddress
  private let device: UInt64
  private let inode: UInt64

  /// Listens at `address`.
  ///
  /// A Unix socket file that was left behind, which nobody answers on, is replaced; one that is
  /// answered on gives `EADDRINUSE`. `mode` is the mode of a Unix socket's file.
  ///
  /// An address in use is tried again for `patienceMs`: see `retryWhile`.
  public init(
    address: SocketAddress, backlog: Int32 = 128, mode: UInt32 = 0o660, patienceMs: UInt64 = 1_000
  ) throws(SystemError) {
    let made = socket(
      address.family, Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue), 0)
    guard made >= 0 else {
      throw SystemError(call: "socket", errno: errno, path: address.description)
    }
    do throws(SystemError) {
      try Self.prepare(made, address, mode)
      try Self.bind(made, to: address, patienceMs: patienceMs)
      guard Glibc.listen(made, backlog) == 0 else {
        throw SystemError(call: "listen", errno: errno, path: address.description)
      }
      descriptor = made
      self.address = Self.boundAddress(made, address)
      (device, inode) = Self.file(of: address)
    } catch {
      _ = Glibc.close(made)
      throw error
    }
  }

  deinit {
    _ = Glibc.close(descriptor)
    if case .unix(let path) = address, inode != 0, Self.file(of: address) == (device, inode) {
      _ = unsafe unlink(path)
    }
  }

  private static func prepare(
    _ descriptor: Int32, _ address: SocketAddress, _ mode: UInt32
  ) throws(SystemError) {
    if case .unix = address {
      // Before the bind, so that the file never exists with a wider mode.
      guard fchmod(descriptor, mode) == 0 else {
        throw SystemError(call: "fchmod", errno: errno, path: address.description)
      }
      return
    }
    var one: Int32 = 1
    guard unsafe setsockopt(descriptor, SOL_SOCKET, SO_REUSEADDR, &one, 4) == 0 else {
      throw SystemError(call: "setsockopt", errno: errno, path: address.description)
    }
    if case .ipv6 = address {
      // An IPv4 listener at the same port is another address of its own.
      _ = unsafe setsockopt(descriptor, Int32(IPPROTO_IPV6), IPV6_V6ONLY, &one, 4)
    }
  }

  private static func bind(
    _ descriptor: Int32, to address: SocketAddress, patienceMs: UInt64
  ) throws(SystemError) {
    guard let (storage, length) = address.kernelForm else {
      throw SystemError(call: "bind", errno: ENAMETOOLONG, path: address.description)
    }
    let result = retryWhile(busy: EADDRINUSE, patienceMs: patienceMs) {
      let first = unsafe call(Glibc.bind, descriptor, storage, length)
      guard first == EADDRINUSE, case .unix(let path) = address, isStale(storage, length) else {
        return first
      }
      guard unsafe unlink(path) == 0 || errno == ENOENT else { return errno }
      return unsafe call(Glibc.bind, descriptor, storage, length)
    }
    guard result == 0 else {
      throw SystemError(call: "bind", errno: result, path: address.description)
    }
  }

  /// Whether nobody answers on the Unix socket.
  private static func isStale(_ storage: sockaddr_storage, _ length: UInt32) -> Bool {
    let type = Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue | SOCK_NONBLOCK.rawValue)
    let descriptor = socket(AF_UNIX, type, 0)
    guard descriptor >= 0 else { return false }
    defer { _ = Glibc.close(descriptor) }
    return unsafe call(Glibc.connect, descriptor, storage, length) == ECONNREFUSED
  }

  /// Calls `bind` or `connect`: 0 or the errno.
  private static func call(
    _ function: (Int32, UnsafePointer<sockaddr>, socklen_t) -> Int32, _ descriptor: Int32,
    _ storage: sockaddr_storage, _ length: UInt32
  ) -> Int32 {
    unsafe withUnsafePointer(to: storage) {
      unsafe $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
        unsafe function(descriptor, $0, length) == 0 ? 0 : errno
      }
    }
  }

  /// The address with the port that the kernel chose.
  private static func boundAddress(
    _ descriptor: Int32, _ address: SocketAddress
  ) -> SocketAddress {
    var storage = sockaddr_storage()
    var length = socklen_t(MemoryLayout<sockaddr_storage>.size)
    let failed = unsafe withUnsafeMutablePointer(to: &storage) {
      unsafe $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
        unsafe getsockname(descriptor, $0, &length)
      }
    }
    guard failed == 0 else { return address }
    // The port is at the same place in both families.
    let port = unsafe withUnsafeBytes(of: storage) {
      unsafe UInt16(bigEndian: $0.loadUnaligned(fromByteOffset: 2, as: UInt16.self))
    }
    switch address {
    case .ipv4(let host, _): return .ipv4(host, port: port)
    case .ipv6(let high, let low, _, let scope):
      return .ipv6(high: high, low: low, port: port, scope: scope)
    case .unix: return address
    }
  }

  /// Which file a Unix socket is; zeroes when there is none.
  private static func file(of address: SocketAddress) -> (UInt64, UInt64) {
    guard case .unix(let path) = address else { return (0, 0) }
    var status = stat()
    guard unsafe stat(path, &status) == 0 else { return (0, 0) }
    return (UInt64(status.st_dev), UInt64(status.st_ino))
  }
}
