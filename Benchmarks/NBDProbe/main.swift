/// An NBD server whose volume is memory: the front end alone, for tests with real clients and for
/// counting what it costs a request (under callgrind: take the difference of two lengths).
///
///     NBDProbe SOCKET MIB [clients=N] [handshake=MS] [huge=N] [port=N] [engine=libaio]
///              [stop=N]
///
/// Prints `ready` when it listens. Reads commands from standard input, one a line, and answers each
/// with one line: `add NAME MIB`, `refuse NAME REASON`, `allow NAME`, `remove NAME`, `close`, `fail
/// ERRNO` (all later requests), `clients NAME`, `statistics`. Ends in good order at end of input.
internal import BlockIO
internal import BlockTypes
internal import CAllocationCount
internal import Exports
internal import Foundation
internal import Glibc

struct Usage: Error {}

/// `key=value` arguments after the second.
func option(_ name: String) -> String? {
  for argument in CommandLine.arguments.dropFirst(3) where argument.hasPrefix(name + "=") {
    return String(argument.dropFirst(name.count + 1))
  }
  return nil
}

/// Writes a line at once: whoever reads it waits for it.
func say(_ text: String, to descriptor: Int32 = 1) {
  var line = text + "\n"
  line.withUTF8 { bytes in _ = unsafe write(descriptor, bytes.baseAddress, bytes.count) }
}

/// Zeroed memory of a volume; volume n starts at n times the size of the first.
@safe
struct Memory: ~Copyable {
  private let bytes: UnsafeMutableRawPointer
  let size: Int

  init(size: Int) {
    self.size = size
    let mapped = unsafe mmap(
      nil, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
    guard let mapped = unsafe mapped, unsafe mapped != MAP_FAILED else {
      preconditionFailure("no memory for the volume")
    }
    unsafe bytes = mapped
  }

  @inline(__always)
  func carryOut(_ request: ExportRequest, _ reactor: borrowing Reactor) {
    let count = Int(request.length)
    precondition(request.offset.bytes <= UInt64(size), "a request outside the volume")
    precondition(count <= size - Int(request.offset.bytes), "a request outside the volume")
    let place = unsafe bytes + Int(request.offset.bytes)
    switch request.operation {
    case .read:
      unsafe UnsafeMutableRawBufferPointer(rebasing: reactor.memory(of: request.buffer)[..<count])
        .copyMemory(from: UnsafeRawBufferPointer(start: place, count: count))
    case .write:
      unsafe UnsafeMutableRawBufferPointer(start: place, count: count).copyMemory(
        from: UnsafeRawBufferPointer(rebasing: reactor.memory(of: request.buffer)[..<count]))
    case .trim, .writeZeroes: unsafe memset(place, 0, count)
    case .flush: break
    }
  }
}

struct Probe: ~Copyable {
  var reactor: Reactor
  var server: NBDServer
  let memory: Memory
  let mailbox: Mailbox<String?>
  var slots: [String: ExportSlot] = [:]
  var sizes: [String: UInt64] = [:]
  var error: Int32 = 0
  var requests = 0
  var allocations: UInt64 = 0
  var isEnding = false
  /// Requests after which it ends when its clients have gone: for runs without other threads.
  let stop = option("stop").flatMap { Int($0) } ?? .max

  init() throws {
    guard CommandLine.arguments.count >= 3, let mebibytes = Int(CommandLine.arguments[2]) else {
      throw Usage()
    }
    var buffers = BufferPoolSizes()
    if let huge = option("huge").flatMap({ Int($0) }) {
      buffers = BufferPoolSizes(small: 64, medium: 16, large: 8, huge: huge)
    }
    let engine: EngineChoice = option("engine") == "libaio" ? .libaio : .automatic
    let reactor = try Reactor(options: ReactorOptions(engine: engine, buffers: buffers))
    var options = NBDServerOptions(buffers: buffers, bufferReserve: option("huge") == nil ? 16 : 1)
    if let clients = option("clients").flatMap({ Int($0) }) { options.clientsMax = clients }
    if let limit = option("handshake").flatMap({ UInt64($0) }) {
      options.handshakeTimeoutMs = limit
    }
    mailbox = Mailbox(capacity: 64, doorbell: reactor.doorbell)
    self.reactor = reactor
    server = NBDServer(namespace: 7, options: options)
    memory = Memory(size: mebibytes << 20)
  }

  mutating func start() throws {
    set("r0", UInt64(memory.size), .writable)
    _ = try server.listen(at: .unix(path: CommandLine.arguments[1]), reactor: &reactor)
    if let port = option("port").flatMap({ UInt16($0) }) {
      _ = try server.listen(at: .ipv4(0x7F00_0001, port: port), reactor: &reactor)
    }
  }

  mutating func set(_ name: String, _ size: UInt64, _ state: NBDExport.State) {
    let slot = server.setExport(NBDExport(name: name, sizeBytes: size, state: state))
    guard let slot else { return say("too many exports") }
    slots[name] = slot
    sizes[name] = size
  }

  /// One turn; `false` when everything has ended.
  mutating func turn() -> Bool {
    reactor.wait(until: server.nextDeadline)
    while let event = reactor.nextEvent() {
      if server.handle(event, reactor: &reactor) { continue }
      if event == .mailbox { for line in mailbox.drain() { command(line) } }
    }
    while let request = server.nextRequest() {
      requests += 1
      if error == 0 { memory.carryOut(request, reactor) }
      server.complete(request.tag, error: error, reactor: &reactor)
    }
    server.tick(reactor: &reactor)
    while let notice = server.nextNotice() { say("\(notice)", to: 2) }
    return !(isEnding || requests >= stop) || !server.isIdle
  }

  mutating func command(_ line: String?) {
    guard let line else {
      isEnding = true
      server.stopListening(reactor: &reactor)
      server.closeSessions(of: nil, reactor: &reactor)
      return
    }
    let words = line.split(separator: " ", maxSplits: 2).map { String($0) }
    let name = words.count > 1 ? words[1] : ""
    let rest = words.count > 2 ? words[2] : ""
    switch words.first {
    case "add": set(name, (UInt64(rest) ?? 1) << 20, .writable)
    case "refuse": set(name, sizes[name] ?? 0, .refused(reason: rest))
    case "allow": set(name, sizes[name] ?? 0, .writable)
    case "remove": _ = server.removeExport(named: name)
    case "close": server.closeSessions(of: nil, reactor: &reactor)
    case "fail": error = Int32(name) ?? 5
    case "clients":
      let count = slots[name].map { server.openClientCount($0) } ?? -1
      return say("\(count)")
    case "statistics":
      let statistics = server.statistics
      let now = callocation_count()
      say("requests=\(requests) waits=\(statistics.waits) allocations=\(now - allocations)")
      allocations = callocation_count()
      return
    default: return say("unknown command")
    }
    say("done")
  }
}

do {
  var probe = try Probe()
  try probe.start()
  let mailbox = probe.mailbox
  if probe.stop == .max {
    Thread.detachNewThread {
      while let line = readLine() { _ = mailbox.post(line) }
      _ = mailbox.post(nil)
    }
  }
  say("ready")
  while probe.turn() {}
  say("ended")
} catch is Usage {
  say(
    "usage: NBDProbe SOCKET MIB [clients=N] [handshake=MS] [huge=N] [port=N] [engine=libaio]"
      + " [stop=N]")
  exit(64)
} catch {
  say("NBDProbe: \(error)")
  exit(1)
}
