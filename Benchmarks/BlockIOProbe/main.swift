/// Measures what BlockIO costs per operation: wall and processor time, heap allocations, and, under
/// callgrind, instructions (take the difference of two lengths to be rid of the start).
///
///     BlockIOProbe write FILE OPERATIONS DEPTH [engine]   random 4 KiB direct writes
///     BlockIOProbe read FILE OPERATIONS DEPTH [engine]    random 4 KiB direct reads
///     BlockIOProbe frames OPERATIONS DEPTH [engine]       32-byte header + 4 KiB over TCP, 16-byte
///     answer BlockIOProbe stream MIB [engine]                    1 MiB payloads over a Unix socket
internal import BlockIO
internal import BlockTypes
internal import CAllocationCount
internal import Glibc

struct Usage: Error {}

/// Time and allocations from one moment to another.
struct Meter {
  private let start = Meter.wall()
  private let cpu = Meter.processor()
  private let allocations = callocation_count()

  static func wall() -> UInt64 { clock(CLOCK_MONOTONIC) }
  static func processor() -> UInt64 { clock(CLOCK_PROCESS_CPUTIME_ID) }
  private static func clock(_ id: clockid_t) -> UInt64 {
    var time = timespec()
    unsafe clock_gettime(id, &time)
    return UInt64(time.tv_sec) * 1_000_000_000 + UInt64(time.tv_nsec)
  }

  func report(_ name: String, operations: Int, bytes: Int) {
    let allocated = callocation_count() - allocations
    let wall = Double(Meter.wall() - start)
    let cpu = Double(Meter.processor() - cpu)
    let rate = Double(operations) / wall * 1e9
    let throughput = Double(bytes) / 1_048_576 / wall * 1e9
    print(
      "\(name): \(Int(rate)) operations/s, \(Int(throughput)) MiB/s,",
      "\(Int(cpu / Double(operations))) ns processor time and",
      "\(Double(allocated) / Double(operations)) allocations an operation")
  }
}

func engine(_ arguments: ArraySlice<String>) -> EngineChoice {
  switch arguments.first {
  case "libaio": .libaio
  case "io_uring": .ioUring
  default: .automatic
  }
}

func options(_ engine: EngineChoice) -> ReactorOptions {
  var options = ReactorOptions(engine: engine)
  options.registersMemory = unsafe getenv("PROBE_NO_REGISTER") == nil
  return options
}

func disk(
  _ path: String, operations: Int, depth: Int, writing: Bool, _ choice: EngineChoice
) throws {
  let device = try BlockDevice(path: path)
  var reactor = try Reactor(options: options(choice))
  let blocks = device.byteCount / 4096
  var state: UInt64 = 88_172_645_463_325_252
  var submitted = 0
  var completed = 0
  func place() -> UInt64 {
    state ^= state << 13
    state ^= state >> 7
    state ^= state << 17
    return state % blocks * 4096
  }
  func submit(_ reactor: inout Reactor, _ buffer: BufferID) {
    let tag = UInt64(buffer.value)
    if writing {
      reactor.diskWrite(device.descriptor, from: buffer, length: 4096, at: place(), tag: tag)
    } else {
      reactor.diskRead(device.descriptor, into: buffer, length: 4096, at: place(), tag: tag)
    }
    submitted += 1
  }
  for _ in 0..<depth {
    guard let buffer = reactor.allocate(4096) else { throw Usage() }
    submit(&reactor, buffer)
  }
  reactor.wait(until: .never)
  let meter = Meter()
  while completed < operations {
    while let event = reactor.nextEvent() {
      guard case .completion(let tag, let result) = event else { continue }
      precondition(result == 4096, "the disk failed")
      completed += 1
      if submitted < operations { submit(&reactor, BufferID(UInt32(tag))) }
    }
    if completed < operations { reactor.wait(until: .never) }
  }
  meter.report(
    "\(writing ? "write" : "read") depth \(depth) \(reactor.engineDescription)",
    operations: operations, bytes: operations * 4096)
}

/// Both ends of a connection in one reactor.
func connected(
  _ reactor: inout Reactor, _ address: SocketAddress
) throws -> (client: StreamID, server: StreamID) {
  let listener = try Listener(address: address)
  reactor.accept(listener.descriptor, tag: 1)
  reactor.connect(listener.address, tag: 2)
  var server: Int32 = -1
  var client: Int32 = -1
  while server < 0 || client < 0 {
    reactor.wait(until: .never)
    while let event = reactor.nextEvent() {
      guard case .completion(let tag, let result) = event, result >= 0 else { throw Usage() }
      if tag == 1 { server = result } else { client = result }
    }
  }
  guard
    let clientStream = reactor.openStream(client, tag: 1, window: 65536, sendBytes: 1 << 18),
    let serverStream = reactor.openStream(server, tag: 2, window: 65536, sendBytes: 1 << 18)
  else { throw Usage() }
  return (clientStream, serverStream)
}

func frames(operations: Int, depth: Int, _ choice: EngineChoice) throws {
  var reactor = try Reactor(options: options(choice))
  let (client, server) = try connected(&reactor, .ipv4(0x7F00_0001, port: 0))
  guard let payload = reactor.allocate(4096) else { throw Usage() }
  let header = UnsafeMutableRawBufferPointer.allocate(byteCount: 32, alignment: 16)
  unsafe header.initializeMemory(as: UInt8.self, repeating: 1)
  let answer = unsafe UnsafeRawBufferPointer(rebasing: header[..<16])
  var sent = 0
  var answered = 0
  var pending: BufferID?
  func request(_ reactor: inout Reactor) {
    unsafe reactor.send(client, UnsafeRawBufferPointer(header))
    reactor.send(client, payload: payload, length: 4096)
    sent += 1
  }
  func serve(_ reactor: inout Reactor) {
    while pending == nil, unsafe reactor.received(server).count >= 32 {
      guard let buffer = reactor.allocate(4096) else { return }
      reactor.consume(server, 32)
      guard reactor.receivePayload(server, into: buffer, length: 4096) else {
        pending = buffer
        return
      }
      reactor.release(buffer)
      unsafe reactor.send(server, answer)
    }
  }
  for _ in 0..<depth { request(&reactor) }
  let meter = Meter()
  while answered < operations {
    reactor.wait(until: .never)
    while let event = reactor.nextEvent() {
      switch event {
      case .received(_, 1):
        let count = unsafe reactor.received(client).count / 16
        reactor.consume(client, count * 16)
        answered += count
        for _ in 0..<count where sent < operations { request(&reactor) }
      case .payload(_, 2):
        if let buffer = pending {
          reactor.release(buffer)
          pending = nil
          unsafe reactor.send(server, answer)
        }
        serve(&reactor)
      case .received(_, 2): serve(&reactor)
      default: break
      }
    }
  }
  meter.report(
    "frames depth \(depth) \(reactor.engineDescription)", operations: operations,
    bytes: operations * 4096)
}

func stream(mebibytes: Int, _ choice: EngineChoice) throws {
  var reactor = try Reactor(options: options(choice))
  let path = "/tmp/ashlar-probe-\(getpid()).socket"
  let (client, server) = try connected(&reactor, .unix(path: path))
  guard let source = reactor.allocate(1 << 20), let target = reactor.allocate(1 << 20) else {
    throw Usage()
  }
  var sent = 0
  var received = 0
  let meter = Meter()
  var waiting = false
  while received < mebibytes {
    while sent < mebibytes, sent - received < 8 {
      reactor.send(client, payload: source, length: 1 << 20)
      sent += 1
    }
    while !waiting, received < mebibytes {
      if reactor.receivePayload(server, into: target, length: 1 << 20) {
        received += 1
      } else {
        waiting = true
      }
    }
    reactor.wait(until: .never)
    while let event = reactor.nextEvent() {
      guard case .payload = event else { continue }
      received += 1
      waiting = false
    }
  }
  meter.report(
    "stream \(reactor.engineDescription)", operations: mebibytes, bytes: mebibytes << 20)
}

func run(_ arguments: [String]) throws {
  guard arguments.count >= 3 else { throw Usage() }
  switch arguments[1] {
  case "write", "read":
    guard arguments.count >= 5, let count = Int(arguments[3]), let depth = Int(arguments[4]) else {
      throw Usage()
    }
    try disk(
      arguments[2], operations: count, depth: depth, writing: arguments[1] == "write",
      engine(arguments.dropFirst(5)))
  case "frames":
    guard arguments.count >= 4, let count = Int(arguments[2]), let depth = Int(arguments[3]) else {
      throw Usage()
    }
    try frames(operations: count, depth: depth, engine(arguments.dropFirst(4)))
  case "stream":
    guard let count = Int(arguments[2]) else { throw Usage() }
    try stream(mebibytes: count, engine(arguments.dropFirst(3)))
  default: throw Usage()
  }
}

do {
  try run(CommandLine.arguments)
} catch is Usage {
  print("usage: BlockIOProbe write|read FILE OPERATIONS DEPTH [engine]")
  print("       BlockIOProbe frames OPERATIONS DEPTH [engine]")
  print("       BlockIOProbe stream MIB [engine]")
  exit(2)
} catch {
  print("\(error)")
  exit(1)
}
