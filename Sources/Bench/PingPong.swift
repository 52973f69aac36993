internal import BlockIO
internal import Glibc

/// Round trips between two processes over a socket: what any program that serves I/O over one must
/// pay, whatever it does inside.
///
/// One side sends 4 KiB, as a write request would be, the other answers with 64 bytes, each with
/// plain blocking calls: nothing that a daemon could do would be shorter. The second process is
/// this program again. It ends when its socket is closed, so it cannot outlive the first.
enum PingPong {
  /// What carries the messages.
  enum Carrier: Sendable {
    /// TCP over the loopback interface.
    case tcp
    /// A Unix stream socket.
    case unix
  }

  /// Bytes of the request: one block.
  static let requestBytes = 4096
  /// Bytes of the answer: the order of a reply header or an acknowledgement.
  static let answerBytes = 64
  /// The command under which the program plays the second process.
  static let command = "answer-pings"

  /// The second process: answers what arrives on `descriptor` until the other side is gone.
  static func answer(on descriptor: Int32) {
    let memory = UnsafeMutableRawPointer.allocate(byteCount: requestBytes, alignment: 64)
    defer { unsafe memory.deallocate() }
    unsafe memory.initializeMemory(as: UInt8.self, repeating: 0, count: requestBytes)
    while unsafe receive(descriptor, memory, requestBytes) {
      guard unsafe sendAll(descriptor, memory, answerBytes) else { return }
    }
  }

  @unsafe
  fileprivate static func receive(
    _ descriptor: Int32, _ memory: UnsafeMutableRawPointer, _ count: Int
  ) -> Bool {
    var have = 0
    while have < count {
      let result = unsafe recv(descriptor, memory + have, count - have, 0)
      if result < 0, errno == EINTR { continue }
      guard result > 0 else { return false }
      have += result
    }
    return true
  }

  @unsafe
  fileprivate static func sendAll(
    _ descriptor: Int32, _ memory: UnsafeMutableRawPointer, _ count: Int
  ) -> Bool {
    var sent = 0
    while sent < count {
      let result = unsafe send(descriptor, memory + sent, count - sent, Int32(MSG_NOSIGNAL))
      if result < 0, errno == EINTR { continue }
      guard result > 0 else { return false }
      sent += result
    }
    return true
  }
}

/// The first process's side, with the second running.
@safe
struct PingPongPair: ~Copyable {
  private let descriptor: Int32
  private let child: pid_t
  private let memory: UnsafeMutableRawPointer

  /// Connects a pair of sockets and starts `program` as the second process on one of them.
  init(_ carrier: PingPong.Carrier, program: String = "/proc/self/exe") throws(BenchError) {
    let (near, far) = carrier == .unix ? try Self.unixPair() : try Self.tcpPair()
    defer { _ = close(far) }
    do throws(BenchError) {
      child = try Self.spawn(program, on: far)
    } catch {
      _ = close(near)
      throw error
    }
    descriptor = near
    unsafe memory = .allocate(byteCount: PingPong.requestBytes, alignment: 64)
    unsafe memory.initializeMemory(as: UInt8.self, repeating: 0x5A, count: PingPong.requestBytes)
  }

  deinit {
    _ = close(descriptor)
    var status: Int32 = 0
    while unsafe waitpid(child, &status, 0) < 0, errno == EINTR {}
    unsafe memory.deallocate()
  }

  /// Round trips for `durationNs`.
  func measure(durationNs: UInt64) throws(BenchError) -> LatencySummary {
    var recorder = LatencyRecorder()
    var before = monotonicNs()
    let end = before + durationNs
    while before < end {
      let isDone =
        unsafe PingPong.sendAll(descriptor, memory, PingPong.requestBytes)
        && PingPong.receive(descriptor, memory, PingPong.answerBytes)
      guard isDone else { throw .helperFailed(reason: "it ended before the measurement did") }
      let after = monotonicNs()
      recorder.record(after - before)
      before = after
    }
    guard let summary = recorder.summary else {
      throw .helperFailed(reason: "no round trip in \(durationNs) ns")
    }
    return summary
  }

  private static func unixPair() throws(BenchError) -> (Int32, Int32) {
    var pair: [Int32] = [-1, -1]
    let type = Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue)
    guard unsafe socketpair(AF_UNIX, type, 0, &pair) == 0 else {
      throw .system(SystemError(call: "socketpair", errno: errno))
    }
    return (pair[0], pair[1])
  }

  private static func tcpPair() throws(BenchError) -> (Int32, Int32) {
    let listener: Listener
    do throws(SystemError) {
      listener = try Listener(address: .ipv4(0x7F00_0001, port: 0))
    } catch {
      throw .system(error)
    }
    guard case .ipv4(_, let port) = listener.address else {
      preconditionFailure("an IPv4 listener has an IPv4 address")
    }
    var address = sockaddr_in()
    address.sin_family = sa_family_t(AF_INET)
    address.sin_port = port.bigEndian
    address.sin_addr.s_addr = UInt32(0x7F00_0001).bigEndian
    let near = socket(
      AF_INET, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
    guard near >= 0 else { throw .system(SystemError(call: "socket", errno: errno)) }
    let size = socklen_t(MemoryLayout<sockaddr_in>.size)
    let connected = unsafe withUnsafePointer(to: &address) {
      unsafe $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { unsafe connect(near, $0, size) }
    }
    // Connected means that it waits in the listener's queue, so this does not block.
    let far = connected == 0 ? accept(listener.descriptor, nil, nil) : -1
    guard far >= 0 else {
      let reason = errno
      _ = close(near)
      throw .system(SystemError(call: "connect", errno: reason, path: "127.0.0.1:\(port)"))
    }
    var one: Int32 = 1
    for end in [near, far] {
      _ = unsafe setsockopt(end, Int32(IPPROTO_TCP), TCP_NODELAY, &one, 4)
      _ = fcntl(end, F_SETFD, FD_CLOEXEC)
    }
    return (near, far)
  }

  private static func spawn(_ program: String, on descriptor: Int32) throws(BenchError) -> pid_t {
    var actions = unsafe posix_spawn_file_actions_t()
    guard unsafe posix_spawn_file_actions_init(&actions) == 0 else {
      throw .helperFailed(reason: "no memory")
    }
    defer { _ = unsafe posix_spawn_file_actions_destroy(&actions) }
    _ = unsafe posix_spawn_file_actions_adddup2(&actions, descriptor, 0)
    var arguments: [UnsafeMutablePointer<CChar>?] = unsafe [
      strdup("ashlar-bench"), strdup(PingPong.command), nil,
    ]
    defer { unsafe arguments.forEach { unsafe free($0) } }
    var child: pid_t = 0
    let failed = unsafe posix_spawn(&child, program, &actions, nil, &arguments, environ)
    guard failed == 0 else { throw .helperFailed(reason: "\(program): \(errnoText(failed))") }
    return child
  }
}
