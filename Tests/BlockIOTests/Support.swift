import BlockIO
import BlockTypes
import Glibc
import TestSupport
import Testing

/// The engines that every test of the reactor runs with. libaio is always there; a host with
/// io_uring switched off tests the other half only.
let engines: [EngineChoice] = [.ioUring, .libaio]

/// A file that is removed with the value. In /var/tmp, which is on a disk where /tmp often is not.
struct TemporaryFile: ~Copyable {
  let path: String

  init(bytes: Int, under directory: String = "/var/tmp") throws {
    var template = Array("\(directory)/ashlar-blockio-XXXXXX".utf8CString)
    let descriptor = mkstemp(&template)
    try #require(descriptor >= 0)
    #expect(ftruncate(descriptor, off_t(bytes)) == 0)
    close(descriptor)
    path = String(decoding: template.dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self)
  }

  deinit { unlink(path) }

  /// The whole content, by ordinary reads.
  func content() throws -> [UInt8] {
    let descriptor = open(path, O_RDONLY)
    try #require(descriptor >= 0)
    defer { close(descriptor) }
    var result: [UInt8] = []
    var piece = [UInt8](repeating: 0, count: 1 << 16)
    while true {
      let count = read(descriptor, &piece, piece.count)
      try #require(count >= 0)
      if count == 0 { return result }
      result += piece[..<count]
    }
  }

  /// Fills the file with one byte value.
  func fill(_ byte: UInt8, bytes: Int) throws {
    let descriptor = open(path, O_WRONLY)
    try #require(descriptor >= 0)
    defer { close(descriptor) }
    let content = [UInt8](repeating: byte, count: bytes)
    #expect(write(descriptor, content, bytes) == bytes)
  }
}

/// How long a test waits for what takes a moment, on a machine that may be slow and busy.
let patienceMs: UInt64 = 60_000

/// Few buffers and slots, so that limits are met early.
func smallOptions(_ engine: EngineChoice) -> ReactorOptions {
  ReactorOptions(
    engine: engine, operationSlots: 256, streamSlots: 16,
    buffers: BufferPoolSizes(small: 64, medium: 16, large: 8, huge: 4))
}

extension Reactor {
  /// Turns the loop until an event comes; fails the test when its patience ends.
  mutating func awaitEvent(sourceLocation: SourceLocation = #_sourceLocation) throws -> ReactorEvent
  {
    let end = now.advanced(milliseconds: patienceMs)
    while true {
      if let event = nextEvent() { return event }
      try #require(now < end, "no event in \(patienceMs) ms", sourceLocation: sourceLocation)
      wait(until: end)
    }
  }

  /// Expects one event next.
  mutating func expect(
    _ expected: ReactorEvent, sourceLocation: SourceLocation = #_sourceLocation
  ) throws {
    let event = try awaitEvent(sourceLocation: sourceLocation)
    #expect(event == expected, sourceLocation: sourceLocation)
  }

  /// Expects a completion next.
  mutating func expectCompletion(
    tag: UInt64, _ result: Int32, sourceLocation: SourceLocation = #_sourceLocation
  ) throws {
    try expect(.completion(tag: tag, result: result), sourceLocation: sourceLocation)
  }

  /// A buffer that must be there.
  mutating func buffer(
    _ bytes: UInt32, sourceLocation: SourceLocation = #_sourceLocation
  ) throws -> BufferID {
    let buffer = allocate(bytes)
    return try #require(buffer, "the pool is exhausted", sourceLocation: sourceLocation)
  }

  /// Turns the loop a few times; the events that came.
  mutating func turn(milliseconds: UInt64 = 20) -> [ReactorEvent] {
    var events: [ReactorEvent] = []
    let end = now.advanced(milliseconds: milliseconds)
    repeat {
      wait(until: end)
      while let event = nextEvent() { events.append(event) }
    } while now < end
    return events
  }

  /// Turns the loop for a while, in which nothing must happen.
  mutating func expectNothing(
    milliseconds: UInt64 = 20, sourceLocation: SourceLocation = #_sourceLocation
  ) {
    let events = turn(milliseconds: milliseconds)
    #expect(events == [], sourceLocation: sourceLocation)
  }

  /// Turns the loop until nothing is in flight.
  mutating func drain() throws {
    let end = now.advanced(milliseconds: patienceMs)
    while operationsInFlight > 0 {
      wait(until: end)
      while nextEvent() != nil {}
      try #require(now < end, "\(operationsInFlight) operations are still in flight")
    }
  }

  /// Turns the loop until so many buffers of 1 MiB are free.
  mutating func awaitHugeBuffers(_ count: Int) throws {
    let end = now.advanced(milliseconds: patienceMs)
    while freeBuffers(holding: 1 << 20) < count {
      wait(until: end)
      while nextEvent() != nil {}
      try #require(now < end, "\(freeBuffers(holding: 1 << 20)) of \(count) buffers are free")
    }
  }

  /// Writes bytes into a buffer.
  mutating func fill(_ buffer: BufferID, _ bytes: [UInt8], at offset: Int = 0) {
    bytes.withUnsafeBytes { source in
      memory(of: buffer)[offset..<offset + bytes.count].copyBytes(from: source)
    }
  }

  /// Reads bytes of a buffer.
  func bytes(_ buffer: BufferID, _ range: Range<Int>) -> [UInt8] {
    Array(memory(of: buffer)[range])
  }

  /// What is in a stream's window.
  func window(_ stream: StreamID) -> [UInt8] { Array(received(stream)) }

  /// Queues bytes.
  mutating func send(_ stream: StreamID, bytes: [UInt8]) {
    bytes.withUnsafeBytes { send(stream, $0) }
  }
}

/// A connected pair of Unix stream sockets.
func makeSocketPair() throws -> (Int32, Int32) {
  var pair: [Int32] = [-1, -1]
  let failed = socketpair(AF_UNIX, Int32(SOCK_STREAM.rawValue), 0, &pair)
  try #require(failed == 0)
  return (pair[0], pair[1])
}

/// Bytes that differ from place to place and from seed to seed; cheap also without optimisation.
func pattern(_ count: Int, seed: UInt64) -> [UInt8] {
  var generator = SeededGenerator(seed: seed)
  let base = (0..<64).map { _ in generator.next() }
  let period = base.withUnsafeBytes { Array($0) }
  return [UInt8](unsafeUninitializedCapacity: count) { memory, used in
    var at = 0
    var round: UInt64 = 0
    while at < count {
      let bytes = min(period.count, count - at)
      memcpy(memory.baseAddress! + at, period, bytes)
      _ = withUnsafeBytes(of: round &* 0x9E37_79B9_7F4A_7C15) {
        memcpy(memory.baseAddress! + at, $0.baseAddress!, min(8, bytes))
      }
      at += bytes
      round += 1
    }
    used = count
  }
}

/// How many descriptors this process has open.
func openDescriptors() -> Int {
  guard let directory = opendir("/proc/self/fd") else { return -1 }
  defer { closedir(directory) }
  var count = 0
  while readdir(directory) != nil { count += 1 }
  return count
}

/// The names of this process's threads.
func threadNames() -> [String] {
  guard let directory = opendir("/proc/self/task") else { return [] }
  defer { closedir(directory) }
  var names: [String] = []
  while let entry = readdir(directory) {
    let name = withUnsafeBytes(of: entry.pointee.d_name) { bytes in
      String(decoding: bytes.prefix { $0 != 0 }, as: UTF8.self)
    }
    let descriptor = open("/proc/self/task/\(name)/comm", O_RDONLY)
    guard descriptor >= 0 else { continue }
    var text = [UInt8](repeating: 0, count: 32)
    let length = read(descriptor, &text, 32)
    close(descriptor)
    names.append(String(decoding: text.prefix(max(length - 1, 0)), as: UTF8.self))
  }
  return names
}

/// A pipe that is closed with the value.
struct Pipe: ~Copyable {
  /// The end to read from.
  let output: Int32
  private let input: Int32

  init() throws {
    var ends: [Int32] = [0, 0]
    try #require(pipe(&ends) == 0)
    output = ends[0]
    input = ends[1]
  }

  deinit {
    close(output)
    close(input)
  }

  /// Writes zeroes.
  func write(bytes: Int) {
    let zeroes = [UInt8](repeating: 0, count: bytes)
    #expect(Glibc.write(input, zeroes, bytes) == bytes)
  }
}
