import BlockIO
import BlockTypes
import Glibc
import Testing

/// Opening a backing disk.
struct DeviceTests {
  /// The facts that the layers above build on.
  @Test func filesTellTheirSize() throws {
    let file = try TemporaryFile(bytes: 12 << 20)
    let device = try BlockDevice(path: file.path)
    #expect(device.byteCount == 12 << 20)
    #expect(device.isBlockDevice == false)
    #expect(device.logicalBlockSize == 512 || device.logicalBlockSize == 4096)
  }

  /// Two daemons on one disk would destroy it.
  @Test func aDiskHasOneUser() throws {
    let file = try TemporaryFile(bytes: 1 << 20)
    do {
      let device = try BlockDevice(path: file.path)
      #expect(device.byteCount == 1 << 20)
      #expect(throws: BlockDeviceError.inUse(path: file.path, errno: EWOULDBLOCK)) {
        _ = try BlockDevice(path: file.path, patienceMs: 0)
      }
      #expect(throws: BlockDeviceError.inUse(path: file.path, errno: EWOULDBLOCK)) {
        _ = try BlockDevice(path: file.path, readOnly: true, patienceMs: 20)
      }
    }
    let first = try BlockDevice(path: file.path, readOnly: true)
    let second = try BlockDevice(path: file.path, readOnly: true)
    #expect(first.byteCount == second.byteCount)
  }

  /// A user that is just going is waited for: the kernel ends a killed process's I/O, and with it
  /// the lock, a little after the process.
  @Test func aLeavingUserIsWaitedFor() throws {
    let file = try TemporaryFile(bytes: 1 << 20)
    let path = file.path
    let holder = open(path, O_RDWR)
    #expect(flock(holder, LOCK_EX) == 0)
    let thread = BackgroundThread {
      usleep(50_000)
      close(holder)
    }
    let device = try BlockDevice(path: path, patienceMs: patienceMs)
    #expect(device.byteCount == 1 << 20)
    thread.join()
  }

  /// What cannot be a disk is refused by what it is.
  @Test func refusalsNameTheirReason() throws {
    #expect(throws: BlockDeviceError.notADisk(path: "/var/tmp")) {
      _ = try BlockDevice(path: "/var/tmp")
    }
    #expect(throws: BlockDeviceError.notADisk(path: "/dev/null")) {
      _ = try BlockDevice(path: "/dev/null")
    }
    let missing = SystemError(call: "stat", errno: ENOENT, path: "/nonexistent")
    #expect(throws: BlockDeviceError.system(missing)) {
      _ = try BlockDevice(path: "/nonexistent")
    }
    #expect("\(missing)" == "stat /nonexistent: No such file or directory (errno 2)")
  }

  /// A file system without direct I/O is refused with a line that says what to do. procfs is one
  /// that every host has.
  @Test func fileSystemsWithoutDirectIOAreRefused() throws {
    #expect(
      throws: BlockDeviceError.directIORefused(path: "/proc/version", fileSystem: "type 0x9fa0")
    ) {
      _ = try BlockDevice(path: "/proc/version", readOnly: true)
    }
    let text = "\(BlockDeviceError.directIORefused(path: "/x/disk", fileSystem: "tmpfs"))"
    #expect(text.hasPrefix("the file system of /x/disk refuses O_DIRECT (tmpfs)"))
    #expect(text.contains("use a block device"))
  }
}

/// The buffer pool.
struct PoolTests {
  /// The smallest class that fits is taken, then larger ones, then none.
  @Test func exhaustedClassesAreStoodInFor() throws {
    var options = ReactorOptions(engine: .libaio)
    options.buffers = BufferPoolSizes(small: 2, medium: 1, large: 1, huge: 1)
    var reactor = try Reactor(options: options)
    var sizes: [Int] = []
    var buffers: [BufferID] = []
    while let buffer = reactor.allocate(4096) {
      buffers.append(buffer)
      sizes.append(reactor.memory(of: buffer).count)
    }
    #expect(sizes == [4096, 4096, 32768, 262_144, 1 << 20])
    #expect(Set(buffers).count == 5)
    reactor.release(buffers[1])
    let again = reactor.allocate(1)
    #expect(again == buffers[1])
    let none = reactor.allocate(4097)
    #expect(none == nil)
  }

  /// A reserve is kept for those who may not wait.
  @Test func reservesAreKept() throws {
    var options = ReactorOptions(engine: .libaio)
    options.buffers = BufferPoolSizes(small: 3, medium: 0, large: 0, huge: 0)
    var reactor = try Reactor(options: options)
    let first = reactor.allocate(4096, reserve: 2)
    #expect(first != nil)
    let refused = reactor.allocate(4096, reserve: 2)
    #expect(refused == nil)
    let urgent = reactor.allocate(4096)
    #expect(urgent != nil)
    let tooLarge = reactor.allocate(4097)
    #expect(tooLarge == nil)
  }

  /// Every buffer starts on a page and none overlaps another.
  @Test func buffersAreAlignedAndApart() throws {
    var options = ReactorOptions(engine: .libaio)
    options.buffers = BufferPoolSizes(small: 5, medium: 3, large: 2, huge: 2)
    var reactor = try Reactor(options: options)
    var buffers: [BufferID] = []
    for bytes: UInt32 in [1 << 20, 1 << 18, 1 << 15, 1 << 12] {
      while let buffer = reactor.allocate(bytes) {
        let memory = reactor.memory(of: buffer)
        #expect(Int(bitPattern: memory.baseAddress) % 4096 == 0)
        memory.initializeMemory(as: UInt8.self, repeating: UInt8(buffer.value + 1))
        buffers.append(buffer)
      }
    }
    #expect(buffers.count == 12)
    for buffer in buffers {
      let byte = UInt8(buffer.value + 1)
      #expect(reactor.memory(of: buffer).allSatisfy { $0 == byte })
    }
  }

  /// A buffer is free when the last holder let go, not before.
  @Test func holdersAreCounted() throws {
    var options = ReactorOptions(engine: .libaio)
    options.buffers = BufferPoolSizes(small: 1, medium: 0, large: 0, huge: 0)
    var reactor = try Reactor(options: options)
    let buffer = try reactor.buffer(4096)
    reactor.retain(buffer)
    reactor.release(buffer)
    #expect(reactor.freeBuffers(holding: 4096) == 0)
    reactor.release(buffer)
    #expect(reactor.freeBuffers(holding: 4096) == 1)
  }

  /// Using or releasing what nobody holds is a bug that must stop the process.
  @Test func lostHoldersTrap() async {
    await #expect(processExitsWith: .failure) {
      var options = ReactorOptions(engine: .libaio)
      options.buffers = BufferPoolSizes(small: 1, medium: 0, large: 0, huge: 0)
      var reactor = try Reactor(options: options)
      guard let buffer = reactor.allocate(1) else { return }
      reactor.release(buffer)
      reactor.release(buffer)
    }
    await #expect(processExitsWith: .failure) {
      var reactor = try Reactor(options: ReactorOptions(engine: .libaio, operationSlots: 16))
      guard let buffer = reactor.allocate(4096) else { return }
      reactor.diskRead(0, into: buffer, bufferOffset: 1, length: 4096, at: 0, tag: 0)
    }
  }
}
