/// TCP ports for servers of a test.
///
/// What must hold: no port is in the range from which the kernel takes ports for outgoing
/// connections. Programs under test dial an address again and again while nobody listens there; a
/// port of that range could be taken by any other connection meanwhile, or by the dialing socket
/// itself, which then talks to itself.

public import Glibc
import Synchronization

/// There is no port, or no file that says which ones the kernel uses itself.
public struct NoFreePort: Error {}

/// Ports that this process gave away before.
private let taken = Mutex<Set<UInt16>>([])

/// `count` different ports of 127.0.0.1 that nothing is bound to.
public func freePorts(_ count: Int) throws -> [UInt16] {
  let range = portsOfServers()
  var found: [UInt16] = []
  for _ in 0..<10_000 where found.count < count {
    let port = UInt16.random(in: range)
    let isNew = taken.withLock { $0.insert(port).inserted }
    if isNew, isFree(port) { found.append(port) }
  }
  guard found.count == count else { throw NoFreePort() }
  return found
}

/// From 10 000 to where the ports of outgoing connections begin.
private func portsOfServers() -> ClosedRange<UInt16> {
  var text = [UInt8](repeating: 0, count: 64)
  let file = open("/proc/sys/net/ipv4/ip_local_port_range", O_RDONLY)
  let length = read(file, &text, text.count)
  close(file)
  let words = String(decoding: text.prefix(max(0, length)), as: UTF8.self).split(separator: "\t")
  let first = words.first.flatMap { UInt16($0) } ?? 32768
  return 10_000...max(first, 12_000) - 1
}

private func isFree(_ port: UInt16) -> Bool {
  let descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
  defer { close(descriptor) }
  return withLoopbackAddress(port) { bind(descriptor, $0, $1) } == 0
}

/// Calls `body` with a port of 127.0.0.1, or of another host of this machine, in the kernel's form.
public func withLoopbackAddress(
  _ port: UInt16, host: UInt32 = 0x7F00_0001,
  _ body: (UnsafePointer<sockaddr>, socklen_t) -> Int32
) -> Int32 {
  var address = sockaddr_in()
  address.sin_family = sa_family_t(AF_INET)
  address.sin_port = port.bigEndian
  address.sin_addr.s_addr = host.bigEndian
  return withUnsafePointer(to: &address) {
    $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
      body($0, socklen_t(MemoryLayout<sockaddr_in>.size))
    }
  }
}
