internal import Glibc

/// Where a socket listens or connects to. Numeric only: looking names up may block for seconds, and
/// an address that changes under a replicated disk is a trap.
public enum SocketAddress: Equatable, Sendable, CustomStringConvertible {
  /// IPv4: the four bytes in network order as one number (10.0.0.1 is 0x0A000001), and the port.
  case ipv4(UInt32, port: UInt16)
  /// IPv6: the sixteen bytes as two numbers, the port and the scope of a link-local address.
  case ipv6(high: UInt64, low: UInt64, port: UInt16, scope: UInt32)
  /// A Unix stream socket at a path of at most 107 bytes.
  case unix(path: String)

  /// Parses a numeric host; `nil` when it is neither IPv4 nor IPv6.
  public init?(host: String, port: UInt16) {
    var four = in_addr()
    if unsafe inet_pton(AF_INET, host, &four) == 1 {
      self = .ipv4(UInt32(bigEndian: four.s_addr), port: port)
      return
    }
    var literal = host
    var scope: UInt32 = 0
    if let percent = host.firstIndex(of: "%") {
      literal = String(host[..<percent])
      let zone = String(host[host.index(after: percent)...])
      let number = UInt32(zone)
      scope = if let number { number } else { unsafe if_nametoindex(zone) }
      guard scope != 0 else { return nil }
    }
    var six = in6_addr()
    guard unsafe inet_pton(AF_INET6, literal, &six) == 1 else { return nil }
    let (high, low) = unsafe withUnsafeBytes(of: &six) {
      unsafe (
        UInt64(bigEndian: $0.loadUnaligned(fromByteOffset: 0, as: UInt64.self)),
        UInt64(bigEndian: $0.loadUnaligned(fromByteOffset: 8, as: UInt64.self))
      )
    }
    self = .ipv6(high: high, low: low, port: port, scope: scope)
  }

  /// `10.0.0.1:7789`, `[fe80::1]:7789` or the path.
  public var description: String {
    switch self {
    case .ipv4(let address, let port):
      return
        "\(address >> 24).\(address >> 16 & 255).\(address >> 8 & 255).\(address & 255):\(port)"
    case .ipv6(let high, let low, let port, _):
      var bytes = in6_addr()
      unsafe withUnsafeMutableBytes(of: &bytes) {
        unsafe $0.storeBytes(of: high.bigEndian, toByteOffset: 0, as: UInt64.self)
        unsafe $0.storeBytes(of: low.bigEndian, toByteOffset: 8, as: UInt64.self)
      }
      var text = [CChar](repeating: 0, count: Int(INET6_ADDRSTRLEN))
      guard unsafe inet_ntop(AF_INET6, &bytes, &text, socklen_t(text.count)) != nil else {
        return "[?]:\(port)"
      }
      let shown = text.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }
      return "[\(String(decoding: shown, as: UTF8.self))]:\(port)"
    case .unix(let path): return path
    }
  }

  /// `AF_INET`, `AF_INET6` or `AF_UNIX`.
  var family: Int32 {
    switch self {
    case .ipv4: AF_INET
    case .ipv6: AF_INET6
    case .unix: AF_UNIX
    }
  }

  /// The kernel's form and its length; `nil` when a Unix path is too long.
  var kernelForm: (storage: sockaddr_storage, length: UInt32)? {
    var storage = sockaddr_storage()
    let length = unsafe withUnsafeMutableBytes(of: &storage) { bytes -> Int? in
      switch self {
      case .ipv4(let address, let port):
        var form = sockaddr_in()
        form.sin_family = sa_family_t(AF_INET)
        form.sin_port = port.bigEndian
        form.sin_addr.s_addr = address.bigEndian
        unsafe bytes.storeBytes(of: form, as: sockaddr_in.self)
        return MemoryLayout<sockaddr_in>.size
      case .ipv6(let high, let low, let port, let scope):
        var form = sockaddr_in6()
        form.sin6_family = sa_family_t(AF_INET6)
        form.sin6_port = port.bigEndian
        form.sin6_scope_id = scope
        unsafe withUnsafeMutableBytes(of: &form.sin6_addr) {
          unsafe $0.storeBytes(of: high.bigEndian, toByteOffset: 0, as: UInt64.self)
          unsafe $0.storeBytes(of: low.bigEndian, toByteOffset: 8, as: UInt64.self)
        }
        unsafe bytes.storeBytes(of: form, as: sockaddr_in6.self)
        return MemoryLayout<sockaddr_in6>.size
      case .unix(let path):
        let text = Array(path.utf8)
        let start = MemoryLayout<sockaddr_un>.offset(of: \.sun_path) ?? 2
        // One byte stays for the terminator.
        guard !text.isEmpty, !text.contains(0), text.count <= 107 else { return nil }
        unsafe bytes.storeBytes(of: sa_family_t(AF_UNIX), as: sa_family_t.self)
        for (index, byte) in text.enumerated() { unsafe bytes[start + index] = byte }
        return start + text.count + 1
      }
    }
    guard let length else { return nil }
    return (storage, UInt32(length))
  }
}

extension SocketAddress {
  /// Who is at the other end of a connected TCP socket; `nil` where that cannot be said.
  public init?(peerOf descriptor: Int32) {
    var storage = sockaddr_storage()
    var length = socklen_t(MemoryLayout<sockaddr_storage>.size)
    let result = unsafe withUnsafeMutablePointer(to: &storage) {
      unsafe $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
        unsafe getpeername(descriptor, $0, &length)
      }
    }
    guard result == 0 else { return nil }
    switch Int32(storage.ss_family) {
    case AF_INET:
      let form = unsafe withUnsafeBytes(of: &storage) { unsafe $0.load(as: sockaddr_in.self) }
      self = .ipv4(
        UInt32(bigEndian: form.sin_addr.s_addr), port: UInt16(bigEndian: form.sin_port))
    case AF_INET6:
      var form = unsafe withUnsafeBytes(of: &storage) { unsafe $0.load(as: sockaddr_in6.self) }
      let (high, low) = unsafe withUnsafeBytes(of: &form.sin6_addr) {
        unsafe (
          UInt64(bigEndian: $0.loadUnaligned(fromByteOffset: 0, as: UInt64.self)),
          UInt64(bigEndian: $0.loadUnaligned(fromByteOffset: 8, as: UInt64.self))
        )
      }
      self = .ipv6(
        high: high, low: low, port: UInt16(bigEndian: form.sin6_port), scope: form.sin6_scope_id)
    default: return nil
    }
  }

  /// The description without the port.
  public var host: String {
    guard let colon = description.lastIndex(of: ":") else { return description }
    return String(description[..<colon])
  }

  /// Whether the two are the same host, whatever the ports.
  public func hasSameHost(as other: SocketAddress) -> Bool {
    switch (self, other) {
    case (.ipv4(let mine, _), .ipv4(let theirs, _)): mine == theirs
    case (.ipv6(let high, let low, _, _), .ipv6(let otherHigh, let otherLow, _, _)):
      high == otherHigh && low == otherLow
    case (.unix(let mine), .unix(let theirs)): mine == theirs
    case (.ipv4, _), (.ipv6, _), (.unix, _): false
    }
  }
}
