internal import Glibc

/// A listening socket.
public struct Listener: ~Copyable {
  /// The descriptor, for `Reactor.accept`.
  public let descriptor: Int32
  /// Where it listens; the port is the real one when 0 was asked for.
  public let address: SocketAddress

  /// Listens at `address`. A Unix socket file that nobody answers on is replaced; `mode` is its mode.
  public init(address: SocketAddress, backlog: Int32 = 128, mode: UInt32 = 0o660)
    throws(SystemError)
  { throw SystemError(call: "listen", errno: ENOSYS, path: address.description) }

  deinit { _ = Glibc.close(descriptor) }
}
