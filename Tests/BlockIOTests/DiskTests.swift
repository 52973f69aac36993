import BlockIO
import BlockTypes
import Glibc
import Testing

/// Disk operations on real files, with both engines.
struct DiskTests {
  /// What was written is read back, from the place it was written to.
  @Test(arguments: engines)
  func writtenBytesAreReadBack(engine: EngineChoice) throws {
    let file = try TemporaryFile(bytes: 4 << 20)
    let device = try BlockDevice(path: file.path)
    var reactor = try Reactor(options: smallOptions(engine))
    let content = pattern(8192, seed: 1)
    let source = try reactor.buffer(8192)
    reactor.fill(source, content)
    reactor.diskWrite(device.descriptor, from: source, length: 8192, at: 65536, tag: 7)
    try reactor.expectCompletion(tag: 7, 8192)

    let target = try reactor.buffer(12288)
    reactor.diskRead(
      device.descriptor, into: target, bufferOffset: 4096, length: 8192, at: 65536, tag: 8)
    try reactor.expectCompletion(tag: 8, 8192)
    #expect(reactor.bytes(target, 4096..<12288) == content)
    #expect(try Array(file.content()[65536..<73728]) == content)
    reactor.release(source)
    reactor.release(target)
    #expect(reactor.operationsInFlight == 0)
  }

  /// Many operations at a time each complete once, with their own tag.
  @Test(arguments: engines)
  func parallelOperationsCompleteOnce(engine: EngineChoice) throws {
    let file = try TemporaryFile(bytes: 4 << 20)
    let device = try BlockDevice(path: file.path)
    var reactor = try Reactor(options: smallOptions(engine))
    var seen: [UInt64: Int32] = [:]
    for round in 0..<4 {
      for index in 0..<48 {
        let buffer = try reactor.buffer(4096)
        reactor.fill(buffer, [UInt8](repeating: UInt8(index + round), count: 4096))
        reactor.diskWrite(
          device.descriptor, from: buffer, length: 4096, at: UInt64(index) * 4096,
          tag: UInt64(round * 100 + index))
        // The reactor holds it until the kernel is done.
        reactor.release(buffer)
      }
      while reactor.operationsInFlight > 0 {
        guard case .completion(let tag, let result) = try reactor.awaitEvent() else { continue }
        #expect(seen.updateValue(result, forKey: tag) == nil, "tag \(tag) completed twice")
      }
    }
    #expect(seen.count == 192)
    #expect(seen.values.allSatisfy { $0 == 4096 })
    #expect(reactor.freeBuffers(holding: 4096) == 64)
    let content = try file.content()
    for index in 0..<48 { #expect(content[index * 4096] == UInt8(index + 3)) }
  }

  /// A read past the end is an error, not a buffer with old bytes in it.
  @Test(arguments: engines, [true, false])
  func readingPastTheEndFails(engine: EngineChoice, direct: Bool) throws {
    let file = try TemporaryFile(bytes: 8192 + 512)
    let descriptor = open(file.path, O_RDWR | (direct ? 0x4000 : 0))
    try #require(descriptor >= 0)
    defer { close(descriptor) }
    var reactor = try Reactor(options: smallOptions(engine))
    let buffer = try reactor.buffer(16384)
    reactor.diskRead(descriptor, into: buffer, length: 4096, at: 8192, tag: 1)
    try reactor.expectCompletion(tag: 1, -EIO)
    reactor.diskRead(descriptor, into: buffer, length: 4096, at: 1 << 20, tag: 2)
    try reactor.expectCompletion(tag: 2, -EIO)
    reactor.diskRead(descriptor, into: buffer, length: 8192, at: 0, tag: 3)
    try reactor.expectCompletion(tag: 3, 8192)
  }

  /// A durable write and a flush complete like the others.
  @Test(arguments: engines)
  func durableWritesAndFlushesComplete(engine: EngineChoice) throws {
    let file = try TemporaryFile(bytes: 1 << 20)
    let device = try BlockDevice(path: file.path)
    var reactor = try Reactor(options: smallOptions(engine))
    let buffer = try reactor.buffer(4096)
    reactor.fill(buffer, pattern(4096, seed: 4))
    reactor.diskWrite(
      device.descriptor, from: buffer, length: 4096, at: 0, durable: true, tag: 1)
    try reactor.expectCompletion(tag: 1, 4096)
    reactor.diskFlush(device.descriptor, tag: 2)
    try reactor.expectCompletion(tag: 2, 0)
    #expect(try Array(file.content()[..<4096]) == pattern(4096, seed: 4))
  }

  /// Zeroes are zeroes however the file system makes them: ext4 marks or punches, tmpfs can only
  /// punch, so that marking falls back to writing there.
  @Test(arguments: engines, ["/var/tmp", "/dev/shm"])
  func zeroesAreWritten(engine: EngineChoice, directory: String) throws {
    let bytes = 4 << 20
    for mayUnmap in [true, false] {
      let file = try TemporaryFile(bytes: bytes, under: directory)
      try file.fill(0xAA, bytes: bytes)
      let device = try BlockDevice(path: file.path)
      var reactor = try Reactor(options: smallOptions(engine))
      let length = 3 << 20
      reactor.diskWriteZeroes(
        device.descriptor, at: 4096, length: UInt64(length), mayUnmap: mayUnmap, tag: 5)
      try reactor.expectCompletion(tag: 5, 0)
      let content = try file.content()
      #expect(content.count == bytes)
      #expect(content[..<4096].allSatisfy { $0 == 0xAA })
      #expect(content[4096..<4096 + length].allSatisfy { $0 == 0 })
      #expect(content[(4096 + length)...].allSatisfy { $0 == 0xAA })
    }
  }

  /// Discarding gives space back and leaves the rest alone.
  @Test(arguments: engines)
  func discardFreesSpace(engine: EngineChoice) throws {
    let bytes = 1 << 20
    let file = try TemporaryFile(bytes: bytes)
    try file.fill(0xAA, bytes: bytes)
    let device = try BlockDevice(path: file.path)
    var reactor = try Reactor(options: smallOptions(engine))
    reactor.diskFlush(device.descriptor, tag: 1)
    try reactor.expectCompletion(tag: 1, 0)
    var before = stat()
    stat(file.path, &before)
    reactor.diskDiscard(device.descriptor, at: 65536, length: 524288, tag: 2)
    try reactor.expectCompletion(tag: 2, 0)
    var after = stat()
    stat(file.path, &after)
    #expect(after.st_blocks < before.st_blocks)
    let content = try file.content()
    #expect(content[..<65536].allSatisfy { $0 == 0xAA })
    #expect(content[(65536 + 524288)...].allSatisfy { $0 == 0xAA })
  }

  /// The kernel's refusals arrive as results.
  @Test(arguments: engines)
  func errorsAreResults(engine: EngineChoice) throws {
    let file = try TemporaryFile(bytes: 1 << 20)
    let readOnly = open(file.path, O_RDONLY)
    try #require(readOnly >= 0)
    defer { close(readOnly) }
    var pipeEnds: [Int32] = [0, 0]
    try #require(pipe(&pipeEnds) == 0)
    defer { for end in pipeEnds { close(end) } }
    var reactor = try Reactor(options: smallOptions(engine))
    let buffer = try reactor.buffer(4096)
    reactor.diskWrite(readOnly, from: buffer, length: 4096, at: 0, tag: 1)
    try reactor.expectCompletion(tag: 1, -EBADF)
    reactor.diskRead(9999, into: buffer, length: 4096, at: 0, tag: 2)
    try reactor.expectCompletion(tag: 2, -EBADF)
    reactor.diskWriteZeroes(readOnly, at: 0, length: 4096, mayUnmap: true, tag: 3)
    try reactor.expectCompletion(tag: 3, -EBADF)
    reactor.diskFlush(pipeEnds[0], tag: 4)
    try reactor.expectCompletion(tag: 4, -EINVAL)
    #expect(reactor.operationsInFlight == 0)
  }

  /// Dropping a reactor waits for what the kernel is doing with its memory.
  @Test(arguments: engines)
  func droppingWithWritesInFlight(engine: EngineChoice) throws {
    let file = try TemporaryFile(bytes: 8 << 20)
    let device = try BlockDevice(path: file.path)
    for _ in 0..<5 {
      var reactor = try Reactor(options: smallOptions(engine))
      for index in 0..<60 {
        let buffer = try reactor.buffer(4096)
        reactor.diskWrite(
          device.descriptor, from: buffer, length: 4096, at: UInt64(index) * 4096, tag: 1)
      }
      reactor.diskFlush(device.descriptor, tag: 2)
      reactor.wait(until: reactor.now)
    }
  }

  /// A transfer that the kernel does in pieces is continued where it stopped. Disks do that rarely;
  /// a pipe does it always.
  @Test func shortTransfersAreContinued() throws {
    var ends: [Int32] = [0, 0]
    try #require(pipe(&ends) == 0)
    defer { for end in ends { close(end) } }
    var reactor = try Reactor(options: smallOptions(.ioUring))
    let content = pattern(200_000, seed: 6)
    let source = try reactor.buffer(200_000)
    reactor.fill(source, content)
    let target = try reactor.buffer(200_512)
    reactor.diskRead(
      ends[0], into: target, bufferOffset: 512, length: 200_000, at: 0, tag: 1)
    reactor.expectNothing(milliseconds: 2)
    reactor.diskWrite(ends[1], from: source, length: 200_000, at: 0, tag: 2)
    var completed: Set<UInt64> = []
    while completed.count < 2 {
      guard case .completion(let tag, let result) = try reactor.awaitEvent() else { continue }
      #expect(result == 200_000)
      completed.insert(tag)
    }
    #expect(reactor.bytes(target, 512..<200_512) == content)
  }

  /// A queue that is shorter than what one turn asks for is emptied in between, and completions
  /// that do not fit into their queue are not lost.
  @Test func tinyQueuesLoseNothing() throws {
    let file = try TemporaryFile(bytes: 1 << 20)
    let device = try BlockDevice(path: file.path)
    var options = smallOptions(.ioUring)
    options.submissionEntries = 4
    options.completionEntries = 8
    var reactor = try Reactor(options: options)
    let buffer = try reactor.buffer(4096)
    for index in 0..<200 {
      reactor.diskRead(
        device.descriptor, into: buffer, length: 4096, at: UInt64(index) * 4096,
        tag: UInt64(index))
    }
    var tags: Set<UInt64> = []
    while reactor.operationsInFlight > 0 {
      guard case .completion(let tag, let result) = try reactor.awaitEvent() else { continue }
      #expect(result == 4096)
      #expect(tags.insert(tag).inserted, "tag \(tag) twice")
    }
    #expect(tags.count == 200)
  }
}
