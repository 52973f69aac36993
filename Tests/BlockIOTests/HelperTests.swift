import BlockTypes
import CHelper
import CHost
import Glibc
import TestSupport
import Testing

/// The threads that do what may block. A pipe stands for a disk that does not answer: reading it
/// takes until the test writes to it.
struct HelperTests {
  /// With transfers that go on in the kernel, and with threads that wait for each.
  static let transferCounts: [UInt32] = [64, 0]

  /// Every kind of job does what its name says and comes back with its own tag.
  @Test(arguments: transferCounts)
  func jobsAreDone(transfers: UInt32) throws {
    let file = try TemporaryFile(bytes: 1 << 20)
    let descriptor = open(file.path, O_RDWR)
    try #require(descriptor >= 0)
    defer { close(descriptor) }
    let helper = try Helper(jobs: 16, transfers: transfers)
    let content = pattern(8192, seed: 3)
    helper.memory.copyBytes(from: content)
    let memory = helper.memory.baseAddress!
    #expect(chelper_write(helper.handle, descriptor, memory, 4096, 65536, 0, 1) == 0)
    let durably = UInt32(CHELPER_DSYNC)
    #expect(
      chelper_write(helper.handle, descriptor, memory + 4096, 4096, 69632, durably, 2) == 0)
    #expect(try helper.results(2) == [1: 4096, 2: 4096])
    #expect(chelper_datasync(helper.handle, descriptor, 3) == 0)
    // Keeps the size, punches a hole.
    #expect(chelper_fallocate(helper.handle, descriptor, 3, 0, 4096, 4) == 0)
    #expect(try helper.results(2) == [3: 0, 4: 0])
    let target = memory + 8192
    #expect(chelper_read(helper.handle, descriptor, target, 8192, 65536, 5) == 0)
    #expect(chelper_read(helper.handle, descriptor, memory, 4096, 1 << 30, 6) == 0)
    #expect(try helper.results(2) == [5: 8192, 6: 0])
    #expect(Array(UnsafeRawBufferPointer(start: target, count: 8192)) == content)
    #expect(try Array(file.content()[65536..<73728]) == content)
  }

  /// What the kernel says is the result: no disk, no space, a disk that fails, a wrong call.
  @Test(arguments: transferCounts)
  func errorsAreResults(transfers: UInt32) throws {
    let full = open("/dev/full", O_RDWR)
    // Reading memory at an address where none is fails as a broken disk does.
    let broken = open("/proc/self/mem", O_RDONLY)
    try #require(full >= 0 && broken >= 0)
    let pipe = try Pipe()
    defer {
      close(full)
      close(broken)
    }
    let helper = try Helper(jobs: 16, transfers: transfers)
    let memory = helper.memory.baseAddress!
    #expect(chelper_write(helper.handle, full, memory, 4096, 0, 0, 1) == 0)
    #expect(chelper_read(helper.handle, broken, memory, 4096, 0, 2) == 0)
    #expect(chelper_read(helper.handle, 9999, memory, 4096, 0, 3) == 0)
    #expect(chelper_datasync(helper.handle, 9999, 4) == 0)
    #expect(chelper_fallocate(helper.handle, 9999, 0, 0, 4096, 5) == 0)
    #expect(chelper_datasync(helper.handle, pipe.output, 6) == 0)
    #expect(
      try helper.results(6)
        == [1: -ENOSPC, 2: -EIO, 3: -EBADF, 4: -EBADF, 5: -EBADF, 6: -EINVAL])
  }

  /// Jobs beyond the room are refused, not lost, and the room comes back.
  @Test func roomIsBounded() throws {
    let helper = try Helper(jobs: 3, transfers: 64)
    let pipe = try Pipe()
    let memory = helper.memory.baseAddress!
    for round in 0..<3 {
      for tag: UInt64 in 0..<3 {
        let given = chelper_read(
          helper.handle, pipe.output, memory + Int(tag), 1, .max, tag)
        #expect(given == 0)
      }
      #expect(chelper_datasync(helper.handle, 9999, 9) == -EBUSY, "round \(round)")
      pipe.write(bytes: 3)
      #expect(try helper.results(3) == [0: 1, 1: 1, 2: 1])
    }
  }

  /// A disk that does not answer holds up no other disk, and its transfers no flush, however many
  /// there are.
  @Test func aHangingDiskHoldsUpNoOther() throws {
    let file = try TemporaryFile(bytes: 1 << 20)
    let descriptor = open(file.path, O_RDWR)
    try #require(descriptor >= 0)
    defer { close(descriptor) }
    let helper = try Helper(jobs: 64, transfers: 64)
    let pipe = try Pipe()
    let memory = helper.memory.baseAddress!
    for tag: UInt64 in 0..<40 {
      let given = chelper_read(
        helper.handle, pipe.output, memory, 1, .max, tag)
      #expect(given == 0)
    }
    #expect(chelper_datasync(helper.handle, pipe.output, 100) == 0)
    #expect(try helper.results(1) == [100: -EINVAL])
    for tag: UInt64 in 101..<105 {
      #expect(chelper_write(helper.handle, descriptor, memory, 512, tag * 512, 0, tag) == 0)
    }
    #expect(try helper.results(4) == [101: 512, 102: 512, 103: 512, 104: 512])
    #expect(chelper_datasync(helper.handle, descriptor, 105) == 0)
    #expect(try helper.results(1) == [105: 0])
    pipe.write(bytes: 40)
    #expect(try helper.results(40) == Dictionary(uniqueKeysWithValues: (0..<40).map { ($0, 1) }))
  }

  /// Neither do many disks that hang, each with as much under way as it may have: were threads
  /// not enough for all of them, no disk of the node could be flushed any more.
  @Test(arguments: [5, 30, 60], transferCounts)
  func manyHangingDisksHoldUpNoOther(count: Int, transfers: UInt32) throws {
    let file = try OpenFile(bytes: 1 << 20)
    let disks = try HangingDisks(count)
    let helper = try Helper(jobs: 4096, transfers: transfers)
    defer { disks.answer() }
    let memory = helper.memory.baseAddress!
    // More than the four that may begin, so that some wait on every disk.
    let each = 6
    for (index, descriptor) in disks.descriptors.enumerated() {
      for offset in 0..<each {
        let tag = UInt64(index * each + offset)
        #expect(chelper_read(helper.handle, descriptor, memory, 1, .max, tag) == 0)
      }
    }
    let first = UInt64(count * each)
    #expect(chelper_datasync(helper.handle, file.descriptor, first) == 0)
    #expect(try helper.results(1) == [first: 0])
    #expect(chelper_fallocate(helper.handle, file.descriptor, 3, 0, 4096, first + 1) == 0)
    #expect(chelper_write(helper.handle, file.descriptor, memory, 512, 0, 0, first + 2) == 0)
    #expect(try helper.results(2) == [first + 1: 0, first + 2: 512])
    disks.answer()
    let late = try helper.results(count * each)
    #expect(late == Dictionary(uniqueKeysWithValues: (0..<first).map { ($0, 0) }))
  }

  /// Where more hang than there are threads for, what may begin waits for one of them, and all
  /// comes back once when the disks answer.
  @Test func whatFindsNoThreadIsDoneLater() throws {
    let file = try OpenFile(bytes: 1 << 20)
    let disks = try HangingDisks(Int(CHELPER_THREADS / CHELPER_TRANSFERS) + 2)
    let helper = try Helper(jobs: 4096, transfers: 0)
    defer { disks.answer() }
    var tag: UInt64 = 0
    for descriptor in disks.descriptors {
      for _ in 0..<5 {
        let memory = helper.memory.baseAddress!
        #expect(chelper_read(helper.handle, descriptor, memory, 1, .max, tag) == 0)
        tag += 1
      }
    }
    #expect(chelper_datasync(helper.handle, file.descriptor, tag) == 0)
    disks.answer()
    let results = try helper.results(Int(tag) + 1)
    #expect(results == Dictionary(uniqueKeysWithValues: (0...tag).map { ($0, 0) }))
  }

  /// Random jobs on several files: each comes back once, with the result of its kind.
  @Test(arguments: transferCounts)
  func everyJobComesBackOnce(transfers: UInt32) throws {
    let files = [
      try OpenFile(bytes: 1 << 20), try OpenFile(bytes: 1 << 20), try OpenFile(bytes: 1 << 20),
    ]
    let helper = try Helper(jobs: 100, transfers: transfers)
    let memory = helper.memory.baseAddress!
    var generator = SeededGenerator(seed: 12)
    var expected: [UInt64: Int32] = [:]
    var next: UInt64 = 0
    for _ in 0..<40 {
      for _ in 0..<25 {
        let descriptor = files[Int(generator.next() % 3)].descriptor
        let offset = generator.next() % 256 * 4096
        next += 1
        switch generator.next() % 4 {
        case 0:
          #expect(chelper_datasync(helper.handle, descriptor, next) == 0)
          expected[next] = 0
        case 1:
          #expect(chelper_fallocate(helper.handle, descriptor, 3, offset, 4096, next) == 0)
          expected[next] = 0
        case 2:
          #expect(chelper_read(helper.handle, descriptor, memory, 512, offset, next) == 0)
          expected[next] = 512
        default:
          #expect(
            chelper_write(helper.handle, descriptor, memory + 4096, 1024, offset, 0, next) == 0)
          expected[next] = 1024
        }
      }
      for (tag, result) in try helper.results(15) {
        #expect(expected.removeValue(forKey: tag) == result, "tag \(tag)")
      }
      if generator.next() % 8 == 0 {
        #expect(try helper.results(expected.count) == expected)
        expected = [:]
      }
      while expected.count > 75 {
        for (tag, result) in try helper.results(1) {
          #expect(expected.removeValue(forKey: tag) == result, "tag \(tag)")
        }
      }
    }
    #expect(try helper.results(expected.count) == expected)
  }

  /// A helper ends with its threads, whether or not anybody looked at the results.
  @Test func destroyingEndsTheThreads() throws {
    for _ in 0..<20 {
      let helper = try Helper(jobs: 16, transfers: 8)
      for tag: UInt64 in 0..<16 {
        #expect(chelper_datasync(helper.handle, 9999, tag) == 0)
      }
    }
  }
}

/// A helper with its eventfd and 64 KiB for its transfers.
private final class Helper {
  let handle: OpaquePointer
  let memory = UnsafeMutableRawBufferPointer.allocate(byteCount: 65536, alignment: 4096)
  private let wake: Int32

  init(jobs: UInt32, transfers: UInt32) throws {
    wake = chost_eventfd()
    var error: Int32 = 0
    handle = try #require(chelper_create(jobs, transfers, wake, &error))
  }

  deinit {
    chelper_destroy(handle)
    close(wake)
    memory.deallocate()
  }

  /// Waits for so many results.
  func results(_ count: Int) throws -> [UInt64: Int32] {
    var found: [UInt64: Int32] = [:]
    var tag: UInt64 = 0
    var result: Int32 = 0
    while found.count < count {
      if chelper_collect(handle, &tag, &result) == 1 {
        #expect(found.updateValue(result, forKey: tag) == nil, "tag \(tag) came twice")
        continue
      }
      var watched = pollfd(fd: wake, events: Int16(POLLIN), revents: 0)
      try #require(poll(&watched, 1, Int32(patienceMs)) == 1, "\(found.count) of \(count) results")
      var rings: UInt64 = 0
      #expect(read(wake, &rings, 8) == 8)
    }
    return found
  }
}

/// An open file that is removed and closed with the object.
private final class OpenFile {
  let descriptor: Int32
  private let file: TemporaryFile

  init(bytes: Int) throws {
    file = try TemporaryFile(bytes: bytes)
    descriptor = open(file.path, O_RDWR)
    try #require(descriptor >= 0)
  }

  deinit { close(descriptor) }
}

/// Descriptors of which each read takes until `answer`, and then has read nothing.
private final class HangingDisks {
  let descriptors: [Int32]
  private var input: Int32

  init(_ count: Int) throws {
    var ends: [Int32] = [0, 0]
    try #require(pipe(&ends) == 0)
    input = ends[1]
    let output = ends[0]
    descriptors = [output] + (1..<count).map { _ in dup(output) }
    try #require(descriptors.allSatisfy { $0 >= 0 })
  }

  deinit {
    answer()
    for descriptor in descriptors { close(descriptor) }
  }

  func answer() {
    if input >= 0 { close(input) }
    input = -1
  }
}
