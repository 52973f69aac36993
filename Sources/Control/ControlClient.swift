/// The tool's end of the control socket: one request out, one reply back, with a limit on how long
/// either may take. Blocking; for programs that do one thing and exit.

import Glibc

/// Why the daemon could not be asked.
public enum ControlClientError: Error, Equatable, Sendable, CustomStringConvertible {
  /// Nothing listens on the socket.
  case notRunning(node: String, socket: String)
  /// The socket belongs to somebody else.
  case permissionDenied(socket: String)
  /// The daemon did not answer in time.
  case timedOut(seconds: Double, socket: String)
  /// The daemon closed the connection before it answered.
  case closed(socket: String)
  /// A system call failed.
  case system(call: String, reason: String, socket: String)
  /// The message was not understood.
  case message(ControlProtocolError)

  /// The reason and what to do.
  public var description: String {
    switch self {
    case .notRunning(let node, let socket):
      "ashlard is not running for node '\(node)' (nothing listens on \(socket)): start it, "
        + "or check --node and --run-dir"
    case .permissionDenied(let socket):
      "\(socket): Permission denied: run as the user ashlard runs as"
    case .timedOut(let seconds, let socket):
      "ashlard did not answer within \(Int(seconds)) s on \(socket): see its log"
    case .closed(let socket):
      "ashlard closed the connection on \(socket) without an answer: see its log"
    case .system(let call, let reason, let socket):
      "\(call) \(socket): \(reason)"
    case .message(let error):
      error.description
    }
  }
}

/// One connection to a daemon.
public struct ControlClient: ~Copyable {
  private let descriptor: Int32
  private let socket: String
  private let timeoutSeconds: Double

  /// Connects to the daemon of a node.
  ///
  /// - Parameter timeoutSeconds: how long each of sending and answering may take. The default
  ///   leaves room for `down` and `secondary`, which wait for I/O in flight.
  public init(
    paths: RunPaths, timeoutSeconds: Double = 60
  ) throws(ControlClientError) {
    let socket = paths.controlSocket
    self.socket = socket
    self.timeoutSeconds = timeoutSeconds
    descriptor = Glibc.socket(AF_UNIX, Int32(SOCK_STREAM.rawValue) | O_CLOEXEC, 0)
    guard descriptor >= 0 else { throw Self.systemError("socket", socket) }
    var address = sockaddr_un()
    address.sun_family = sa_family_t(AF_UNIX)
    let bytes = Array(socket.utf8)
    guard bytes.count <= RunPaths.longestSocketPath else {
      throw .system(call: "connect", reason: "File name too long", socket: socket)
    }
    unsafe withUnsafeMutableBytes(of: &address.sun_path) { path in
      unsafe path.copyBytes(from: bytes)
    }
    let length = socklen_t(MemoryLayout<sockaddr_un>.size)
    let descriptor = descriptor
    let result = unsafe withUnsafePointer(to: &address) { pointer in
      unsafe pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { generic in
        unsafe connect(descriptor, generic, length)
      }
    }
    guard result == 0 else {
      switch errno {
      case ENOENT, ECONNREFUSED: throw .notRunning(node: paths.node, socket: socket)
      case EACCES, EPERM: throw .permissionDenied(socket: socket)
      default: throw Self.systemError("connect", socket)
      }
    }
  }

  deinit { if descriptor >= 0 { close(descriptor) } }

  /// Sends one request and waits for its reply.
  public func send(_ request: ControlRequest) throws(ControlClientError) -> ControlReply {
    do {
      try write(try ControlCodec.line(request))
      return try ControlCodec.reply(from: try readLine())
    } catch let error as ControlClientError {
      throw error
    } catch let error as ControlProtocolError {
      throw .message(error)
    } catch {
      throw .system(call: "send", reason: "\(error)", socket: socket)
    }
  }

  /// Sends one request and gives every reply to `each` until it says `false` or the daemon ends.
  public func watch(
    _ request: ControlRequest, _ each: (ControlReply) -> Bool
  ) throws(ControlClientError) {
    var waiting: [UInt8] = []
    var chunk = [UInt8](repeating: 0, count: 64 << 10)
    let line: [UInt8]
    do { line = try ControlCodec.line(request) } catch { throw .message(error) }
    try write(line)
    while true {
      try wait(for: Int16(POLLIN), until: .infinity)
      let count = unsafe chunk.withUnsafeMutableBytes { buffer in
        unsafe recv(descriptor, buffer.baseAddress!, buffer.count, Int32(MSG_DONTWAIT))
      }
      if count < 0 && (errno == EINTR || errno == EAGAIN) { continue }
      guard count > 0 else { throw .closed(socket: socket) }
      waiting += chunk[..<count]
      while let end = waiting.firstIndex(of: UInt8(ascii: "\n")) {
        let reply: ControlReply
        do { reply = try ControlCodec.reply(from: waiting[...end]) } catch {
          throw .message(error)
        }
        waiting.removeSubrange(...end)
        if !each(reply) { return }
      }
      guard waiting.count < ControlCodec.replyBytes else {
        throw .message(.tooLong(limit: ControlCodec.replyBytes))
      }
    }
  }

  private func write(_ bytes: [UInt8]) throws(ControlClientError) {
    let deadline = now() + timeoutSeconds
    var sent = 0
    while sent < bytes.count {
      try wait(for: Int16(POLLOUT), until: deadline)
      let count = unsafe bytes.withUnsafeBytes { buffer in
        unsafe Glibc.send(
          descriptor, buffer.baseAddress! + sent, buffer.count - sent,
          Int32(MSG_NOSIGNAL) | Int32(MSG_DONTWAIT))
      }
      if count < 0 && (errno == EINTR || errno == EAGAIN) { continue }
      if count < 0 && errno == EPIPE { throw .closed(socket: socket) }
      guard count > 0 else { throw Self.systemError("send", socket) }
      sent += count
    }
  }

  private func readLine() throws(ControlClientError) -> [UInt8] {
    let deadline = now() + timeoutSeconds
    var line: [UInt8] = []
    var chunk = [UInt8](repeating: 0, count: 64 << 10)
    while true {
      try wait(for: Int16(POLLIN), until: deadline)
      let count = unsafe chunk.withUnsafeMutableBytes { buffer in
        unsafe recv(
          descriptor, buffer.baseAddress!, buffer.count, Int32(MSG_DONTWAIT))
      }
      if count < 0 && (errno == EINTR || errno == EAGAIN) { continue }
      if count == 0 || (count < 0 && errno == ECONNRESET) { throw .closed(socket: socket) }
      guard count > 0 else { throw Self.systemError("recv", socket) }
      let received = chunk[..<count]
      guard let end = received.firstIndex(of: UInt8(ascii: "\n")) else {
        line += received
        guard line.count < ControlCodec.replyBytes else {
          throw .message(.tooLong(limit: ControlCodec.replyBytes))
        }
        continue
      }
      return line + received[..<end]
    }
  }

  private func wait(for events: Int16, until deadline: Double) throws(ControlClientError) {
    while true {
      let left = deadline - now()
      guard left > 0 else { throw .timedOut(seconds: timeoutSeconds, socket: socket) }
      var entry = pollfd(fd: descriptor, events: events, revents: 0)
      let count = unsafe poll(&entry, 1, Int32(min(left * 1000 + 1, 1e9)))
      if count > 0 { return }
      if count < 0 && errno != EINTR { throw Self.systemError("poll", socket) }
    }
  }

  private func now() -> Double {
    var time = timespec()
    unsafe clock_gettime(CLOCK_MONOTONIC, &time)
    return Double(time.tv_sec) + Double(time.tv_nsec) / 1e9
  }

  private static func systemError(_ call: String, _ socket: String) -> ControlClientError {
    .system(call: call, reason: unsafe String(cString: strerror(errno)), socket: socket)
  }
}
