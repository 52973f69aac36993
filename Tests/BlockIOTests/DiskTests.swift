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
  /// a file of which the page cache has the first part does it when it is asked not to wait.
  @Test(arguments: engines)
  func shortTransfersAreContinued(engine: EngineChoice) throws {
    let bytes = 256 << 10
    let content = pattern(bytes, seed: 6)
    let file = try TemporaryFile(bytes: bytes)
    let descriptor = open(file.path, O_RDWR)
    try #require(descriptor >= 0)
    defer { close(descriptor) }
    try #require(write(descriptor, content, bytes) == bytes)
    var reactor = try Reactor(options: smallOptions(engine))
    let target = try reactor.buffer(UInt32(bytes) + 512)
    for cached in [4096, 65536, 131_072] {
      try #require(fsync(descriptor) == 0)
      #expect(posix_fadvise(descriptor, 0, 0, POSIX_FADV_DONTNEED) == 0)
      #expect(posix_fadvise(descriptor, 0, 0, POSIX_FADV_RANDOM) == 0)
      var start = [UInt8](repeating: 0, count: cached)
      #expect(pread(descriptor, &start, cached, 0) == cached)
      reactor.diskRead(
        descriptor, into: target, bufferOffset: 512, length: UInt32(bytes), at: 0, tag: 1)
      try reactor.expectCompletion(tag: 1, Int32(bytes))
      #expect(reactor.bytes(target, 512..<512 + bytes) == content)
    }
  }

  /// Writes to blocks that the file system has yet to allocate may have to wait, which the kernel
  /// refuses; they are done all the same, like flushes, zeroes and discards between them.
  @Test(arguments: engines, ["/var/tmp", "/dev/shm"])
  func writesThatMustWaitAreDone(engine: EngineChoice, directory: String) throws {
    let file = try TemporaryFile(bytes: 32 << 20, under: directory)
    let device = try BlockDevice(path: file.path)
    var reactor = try Reactor(options: smallOptions(engine))
    let content = pattern(131_072, seed: 9)
    let buffer = try reactor.buffer(131_072)
    reactor.fill(buffer, content)
    for index: UInt64 in 0..<64 {
      reactor.diskWrite(
        device.descriptor, from: buffer, length: 131_072, at: index * 262_144,
        durable: index % 8 == 0, tag: index)
      if index % 4 == 0 { reactor.diskFlush(device.descriptor, tag: 100 + index) }
    }
    reactor.diskDiscard(device.descriptor, at: 20 << 20, length: 65536, tag: 200)
    var seen: [UInt64: Int32] = [:]
    while reactor.operationsInFlight > 0 {
      guard case .completion(let tag, let result) = try reactor.awaitEvent() else { continue }
      #expect(seen.updateValue(result, forKey: tag) == nil, "tag \(tag) completed twice")
    }
    #expect(seen.count == 64 + 16 + 1)
    for (tag, result) in seen { #expect(result == (tag < 64 ? 131_072 : 0), "tag \(tag)") }
    let written = try file.content()
    for index in 0..<64 {
      let at = index * 262_144
      #expect(Array(written[at..<at + 131_072]) == content, "write \(index)")
      #expect(written[at + 131_072] == 0)
    }
  }

  /// A disk that does not answer costs its own operations only. A pipe stands for it.
  @Test func aHangingDiskLeavesTheReactorAlive() throws {
    let file = try TemporaryFile(bytes: 1 << 20)
    let device = try BlockDevice(path: file.path)
    var reactor = try Reactor(options: smallOptions(.ioUring))
    let pipe = try Pipe()
    let stuck = try reactor.buffer(4096)
    for tag: UInt64 in 100..<120 {
      reactor.diskRead(pipe.output, into: stuck, length: 512, at: .max, tag: tag)
    }
    reactor.expectNothing()
    let buffer = try reactor.buffer(4096)
    for tag: UInt64 in 0..<16 {
      reactor.diskWrite(device.descriptor, from: buffer, length: 4096, at: tag * 4096, tag: tag)
      try reactor.expectCompletion(tag: tag, 4096)
      reactor.diskFlush(device.descriptor, tag: 50)
      try reactor.expectCompletion(tag: 50, 0)
    }
    pipe.write(bytes: 20 * 512)
    var tags: Set<UInt64> = []
    while reactor.operationsInFlight > 0 {
      guard case .completion(let tag, 512) = try reactor.awaitEvent() else { continue }
      tags.insert(tag)
    }
    #expect(tags == Set(100..<120))
  }

  /// A disk that never answers does not hold up the end for ever; its memory goes to nobody else.
  @Test func droppingLeavesAHangingDiskBehind() throws {
    var options = smallOptions(.ioUring)
    options.quiesceLimitMs = 50
    let pipe = try Pipe()
    do {
      var reactor = try Reactor(options: options)
      let buffer = try reactor.buffer(4096)
      reactor.diskRead(pipe.output, into: buffer, length: 4096, at: .max, tag: 1)
      reactor.expectNothing()
    }
    // The thread still writes into its buffer: the test ends well if that memory is there.
    pipe.write(bytes: 4096)
  }

  /// The kernel is given nothing that makes it start threads of its own: those never end and wake
  /// up every five seconds. In a process without other tests.
  @Test func theKernelStartsNoThreads() async {
    await #expect(processExitsWith: .success) {
      let file = try TemporaryFile(bytes: 8 << 20)
      do {
        let device = try BlockDevice(path: file.path)
        var reactor = try Reactor(options: smallOptions(.ioUring))
        let buffer = try reactor.buffer(1 << 20)
        for index: UInt64 in 0..<6 {
          let durable = index % 2 == 0
          reactor.diskWrite(
            device.descriptor, from: buffer, length: 1 << 20, at: index << 20, durable: durable,
            tag: 1)
          reactor.diskRead(device.descriptor, into: buffer, length: 4096, at: index << 20, tag: 2)
        }
        reactor.diskFlush(device.descriptor, tag: 3)
        reactor.diskDiscard(device.descriptor, at: 0, length: 65536, tag: 4)
        reactor.diskWriteZeroes(
          device.descriptor, at: 1 << 20, length: 1 << 20, mayUnmap: false, tag: 5)
        try reactor.drain()
        let names = threadNames()
        precondition(names.contains("disk-helper"), "nothing had to wait: \(names)")
        precondition(!names.contains { $0.hasPrefix("iou-wrk") }, "the kernel's: \(names)")
      }
    }
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
