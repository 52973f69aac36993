internal import BlockIO
internal import Control
internal import Glibc

/// Which disk a load goes to, as the user names it.
public enum TargetAddress: Equatable, Sendable, CustomStringConvertible {
  /// A file or block device, opened with O_DIRECT.
  case raw(path: String)
  /// An export of an NBD server on a Unix socket.
  case nbdUnix(socket: String, export: String)
  /// An export of an NBD server behind TCP.
  case nbdTCP(host: String, port: UInt16, export: String)

  /// Parses `raw:FILE`, `nbd://host:port/export` or `nbd+unix:///export?socket=PATH`.
  public init(_ text: String) throws(BenchError) {
    if text.hasPrefix("raw:") {
      let path = String(text.dropFirst(4))
      guard !path.isEmpty else { throw .badTarget(text, reason: "raw: needs a path after it") }
      self = .raw(path: path)
    } else if text.hasPrefix("nbd+unix://") {
      self = try Self.unix(text, String(text.dropFirst("nbd+unix://".count)))
    } else if text.hasPrefix("nbd://") {
      self = try Self.tcp(text, String(text.dropFirst("nbd://".count)))
    } else if text.hasPrefix("nbds://") || text.hasPrefix("nbds+unix://") {
      throw .badTarget(text, reason: "TLS is not supported; measure the plain export")
    } else {
      throw .badTarget(
        text,
        reason: "write raw:FILE, nbd://HOST[:PORT]/EXPORT or nbd+unix:///EXPORT?socket=PATH, "
          + "or give --volume RESOURCE")
    }
  }

  /// The export of a volume (`r0` or `r0/1`) on the node that `environment` names.
  init(volume: String, environment: NodeEnvironment) throws(BenchError) {
    let parts = volume.split(separator: "/", omittingEmptySubsequences: false)
    var number: UInt16 = 0
    if parts.count == 2 {
      guard let given = UInt16(parts[1]) else {
        throw .badValue(
          option: "--volume", value: volume, allowed: "the volume is a number from 0 to 65535")
      }
      number = given
    }
    guard parts.count <= 2, !parts[0].isEmpty else {
      throw .badValue(option: "--volume", value: volume, allowed: "RESOURCE or RESOURCE/VOLUME")
    }
    try self.init(environment.paths.nbdURI(resource: String(parts[0]), volume: number))
  }

  /// The form in which it can be given again.
  public var description: String {
    switch self {
    case .raw(let path): "raw:\(path)"
    case .nbdUnix(let socket, let export): "nbd+unix:///\(export)?socket=\(socket)"
    case .nbdTCP(let host, let port, let export):
      host.contains(":") ? "nbd://[\(host)]:\(port)/\(export)" : "nbd://\(host):\(port)/\(export)"
    }
  }

  /// The name of the export; empty for a raw target.
  var exportName: String {
    switch self {
    case .raw: ""
    case .nbdUnix(_, let export), .nbdTCP(_, _, let export): export
    }
  }

  private static func unix(_ text: String, _ rest: String) throws(BenchError) -> TargetAddress {
    guard rest.hasPrefix("/") else {
      throw .badTarget(
        text, reason: "a Unix socket has no host: write nbd+unix:///EXPORT?socket=PATH")
    }
    let (path, query) = halves(rest.dropFirst(), at: "?")
    guard let query, query.hasPrefix("socket="), !query.contains("&") else {
      throw .badTarget(text, reason: "the one parameter must be ?socket=PATH")
    }
    let socket = try decoded(query.dropFirst("socket=".count), in: text)
    guard !socket.isEmpty, socket.utf8.count <= 107 else {
      throw .badTarget(
        text, reason: "a socket path has 1 to 107 bytes, this one has \(socket.utf8.count)")
    }
    return .nbdUnix(socket: socket, export: try exportName(path, in: text))
  }

  private static func tcp(_ text: String, _ rest: String) throws(BenchError) -> TargetAddress {
    let (authority, path) = halves(rest[...], at: "/")
    guard !authority.contains("@"), path?.contains("?") != true else {
      throw .badTarget(text, reason: "users and parameters have no meaning here")
    }
    var host = authority
    var port: UInt16 = 10809
    let afterBracket = authority.lastIndex(of: "]") ?? authority.startIndex
    if let colon = authority[afterBracket...].lastIndex(of: ":") {
      guard let given = UInt16(authority[authority.index(after: colon)...]), given > 0 else {
        throw .badTarget(text, reason: "the port must be a number from 1 to 65535")
      }
      port = given
      host = authority[..<colon]
    }
    if host.hasPrefix("["), host.hasSuffix("]") { host = host.dropFirst().dropLast() }
    guard !host.isEmpty else { throw .badTarget(text, reason: "the host is missing") }
    return .nbdTCP(host: String(host), port: port, export: try exportName(path ?? "", in: text))
  }

  private static func exportName(_ text: Substring, in whole: String) throws(BenchError) -> String {
    let name = try decoded(text, in: whole)
    guard name.utf8.count <= NBDNumber.longestName else {
      throw .badTarget(
        whole, reason: "an export name has at most \(NBDNumber.longestName) bytes")
    }
    return name
  }

  private static func halves(_ text: Substring, at mark: Character) -> (Substring, Substring?) {
    guard let index = text.firstIndex(of: mark) else { return (text, nil) }
    return (text[..<index], text[text.index(after: index)...])
  }

  private static func decoded(_ text: Substring, in whole: String) throws(BenchError) -> String {
    var bytes: [UInt8] = []
    var rest = text.utf8[...]
    while let byte = rest.popFirst() {
      guard byte == UInt8(ascii: "%") else {
        bytes.append(byte)
        continue
      }
      let digits = rest.prefix(2)
      let isHex = digits.count == 2 && digits.allSatisfy { Character(UnicodeScalar($0)).isHexDigit }
      guard isHex, let value = UInt8(String(decoding: digits, as: UTF8.self), radix: 16), value > 0
      else {
        throw .badTarget(whole, reason: "% must be followed by two hexadecimal digits, not 00")
      }
      bytes.append(value)
      rest = rest.dropFirst(2)
    }
    guard let decoded = String(validating: bytes, as: UTF8.self) else {
      throw .badTarget(whole, reason: "it is not UTF-8")
    }
    return decoded
  }
}

/// The numeric address of an NBD server. Looks names up, which may take seconds: before the load
/// only.
func resolve(_ target: TargetAddress) throws(BenchError) -> SocketAddress {
  switch target {
  case .raw: preconditionFailure("a raw target has no socket")
  case .nbdUnix(let socket, _): return .unix(path: socket)
  case .nbdTCP(let host, let port, _):
    if let address = SocketAddress(host: host, port: port) { return address }
    var hints = unsafe addrinfo()
    unsafe hints.ai_socktype = Int32(SOCK_STREAM.rawValue)
    var found: UnsafeMutablePointer<addrinfo>?
    let failed = unsafe getaddrinfo(host, nil, &hints, &found)
    guard failed == 0, let first = unsafe found else {
      let reason = unsafe String(cString: gai_strerror(failed))
      throw .badTarget(target.description, reason: "host \(host): \(reason)")
    }
    defer { unsafe freeaddrinfo(first) }
    var name = [CChar](repeating: 0, count: 64)
    let unnamed = unsafe getnameinfo(
      first.pointee.ai_addr, first.pointee.ai_addrlen, &name, 64, nil, 0, NI_NUMERICHOST)
    let text = String(
      decoding: name.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
    guard unnamed == 0, let address = SocketAddress(host: text, port: port) else {
      throw .badTarget(target.description, reason: "host \(host) has no usable address")
    }
    return address
  }
}
