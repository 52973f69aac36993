internal import BlockIO
internal import Glibc

/// For each unit of a region, the last write that was issued and the last that was acknowledged.
///
/// It lives in memory, or in a file that is mapped: then it survives the program however that ends
/// (not the host), costs no system call per I/O, and a later run can check the disk against it.
///
/// Invariants:
/// - a write is noted as issued before it is sent, and as acknowledged after its reply came, so at
///   any instant a unit holds its acknowledged write, or one up to the issued one;
/// - at most one write per unit is in flight: the owner sees to that;
/// - sequence numbers never repeat in one log, not over several runs either.
///
///     page 0: magic, version, seed, unit bytes, block bytes, region bytes, next sequence; each is
///             checked against its range and the file's length
///     page 1-: per unit: issued u64, acknowledged u64
@safe
struct WriteLog: ~Copyable {
  private let memory: UnsafeMutableRawPointer
  private let mappedBytes: Int
  private let entries: UnsafeMutablePointer<Entry>

  /// The seed in the stamps.
  let seed: UInt64
  /// Bytes of a unit.
  let unitBytes: UInt32
  /// Bytes of the I/Os of the load that wrote it.
  let blockBytes: UInt32
  /// Bytes of the region, which starts at 0.
  let regionBytes: UInt64

  struct Entry: BitwiseCopyable {
    var issued: UInt64
    var acknowledged: UInt64
  }

  /// `ASHLWLOG`, read as a little-endian number.
  private static let magic: UInt64 = 0x474F_4C57_4C48_5341
  private static let version: UInt64 = 1
  private static let headerBytes = 4096
  /// Most units of one log: 1 GiB of memory, 256 GiB of volume.
  static let unitLimit: UInt64 = 1 << 26

  /// The unit for blocks of `blockBytes`: 4 KiB, the block that Ashlar keeps coherent, or the
  /// largest power of two below that divides the block.
  static func unitBytes(blockBytes: UInt64) -> UInt32 {
    UInt32(min(4096, blockBytes & (~blockBytes &+ 1)))
  }

  /// Units in the region.
  var unitCount: Int { Int(regionBytes / UInt64(unitBytes)) }

  /// A log in memory, or a new or continued one in the file at `path`.
  init(
    path: String?, seed: UInt64, blockBytes: UInt64, regionBytes: UInt64
  ) throws(BenchError) {
    let unitBytes = Self.unitBytes(blockBytes: blockBytes)
    let units = regionBytes / UInt64(unitBytes)
    guard units <= Self.unitLimit else {
      throw .badValue(
        option: "--size", value: sizeText(regionBytes),
        allowed: "--verify remembers at most \(sizeText(Self.unitLimit * UInt64(unitBytes)))")
    }
    var header = Header(
      seed: seed, unitBytes: UInt64(unitBytes), blockBytes: blockBytes, regionBytes: regionBytes)
    let mapped = unsafe try Self.map(path, bytes: header.logBytes)
    if unsafe mapped.isNew {
      unsafe header.write(to: mapped.memory)
    } else {
      let found = unsafe Header(mapped.memory)
      header.seed = found.seed
      guard found == header, unsafe Header.isValid(mapped.memory) else {
        _ = unsafe munmap(mapped.memory, header.logBytes)
        throw Self.foreign(path ?? "")
      }
    }
    unsafe self.init(mapped.memory, header)
  }

  /// Opens an existing log to check a disk against it.
  init(reading path: String) throws(BenchError) {
    let descriptor = unsafe open(path, O_RDONLY | O_CLOEXEC)
    guard descriptor >= 0 else {
      throw .system(SystemError(call: "open", errno: errno, path: path))
    }
    defer { _ = close(descriptor) }
    let end = Int(lseek(descriptor, 0, SEEK_END))
    guard end >= Self.headerBytes else {
      throw .badLog(path: path, reason: "\(end) bytes are too few for a log")
    }
    let mapped = unsafe mmap(nil, end, PROT_READ, MAP_SHARED, descriptor, 0)
    guard let start = unsafe mapped, unsafe start != MAP_FAILED else {
      throw .system(SystemError(call: "mmap", errno: errno, path: path))
    }
    let header = unsafe Header(start)
    guard unsafe Header.isValid(start), header.isPossible, header.logBytes == end else {
      _ = unsafe munmap(start, end)
      throw .badLog(path: path, reason: "it is not a write log of this version, or is damaged")
    }
    unsafe self.init(start, header)
  }

  /// Block and region of the log at `path`.
  static func geometry(
    of path: String
  ) throws(BenchError) -> (blockBytes: UInt64, regionBytes: UInt64) {
    let log = try WriteLog(reading: path)
    return (UInt64(log.blockBytes), log.regionBytes)
  }

  @unsafe
  private init(_ memory: UnsafeMutableRawPointer, _ header: Header) {
    unsafe self.memory = memory
    mappedBytes = header.logBytes
    unsafe entries = (memory + Self.headerBytes).bindMemory(
      to: Entry.self, capacity: Int(header.regionBytes / header.unitBytes))
    seed = header.seed
    unitBytes = UInt32(header.unitBytes)
    blockBytes = UInt32(header.blockBytes)
    regionBytes = header.regionBytes
  }

  private static func foreign(_ path: String) -> BenchError {
    .badLog(path: path, reason: "it belongs to another load (--bs, --size); delete or rename it")
  }

  deinit { _ = unsafe munmap(memory, mappedBytes) }

  /// The writes of a unit.
  @inline(__always)
  subscript(unit: Int) -> Entry {
    precondition(unit >= 0 && unit < unitCount, "unit outside the log")
    return unsafe entries[unit]
  }

  /// Writes that were ever issued.
  var writeCount: UInt64 {
    unsafe memory.load(fromByteOffset: Header.sequenceOffset, as: UInt64.self) &- 1
  }

  /// A sequence number that no write has had.
  @inline(__always)
  mutating func nextSequence() -> UInt64 {
    let next = unsafe memory.load(fromByteOffset: Header.sequenceOffset, as: UInt64.self)
    unsafe memory.storeBytes(
      of: next &+ 1, toByteOffset: Header.sequenceOffset, as: UInt64.self)
    return next
  }

  /// Notes that a write is about to be sent.
  @inline(__always)
  mutating func noteIssued(_ unit: Int, _ sequence: UInt64) {
    precondition(unit >= 0 && unit < unitCount, "unit outside the log")
    unsafe entries[unit].issued = sequence
  }

  /// Notes that a write was acknowledged.
  @inline(__always)
  mutating func noteAcknowledged(_ unit: Int, _ sequence: UInt64) {
    precondition(unit >= 0 && unit < unitCount, "unit outside the log")
    unsafe entries[unit].acknowledged = sequence
  }

  private static func map(
    _ path: String?, bytes: Int
  ) throws(BenchError) -> (memory: UnsafeMutableRawPointer, isNew: Bool) {
    var descriptor: Int32 = -1
    var isNew = true
    if let path {
      descriptor = unsafe open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0o644)
      guard descriptor >= 0 else {
        throw .system(SystemError(call: "open", errno: errno, path: path))
      }
      let end = lseek(descriptor, 0, SEEK_END)
      isNew = end == 0
      // All of it is reserved now: a full disk must not become a SIGBUS in the middle of the load.
      let failed = isNew ? posix_fallocate(descriptor, 0, off_t(bytes)) : 0
      guard failed == 0, isNew || end == off_t(bytes) else {
        _ = close(descriptor)
        guard failed == 0 else {
          throw .system(SystemError(call: "fallocate", errno: failed, path: path))
        }
        throw foreign(path)
      }
    }
    defer { if descriptor >= 0 { _ = close(descriptor) } }
    let flags = descriptor >= 0 ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS
    let mapped = unsafe mmap(nil, bytes, PROT_READ | PROT_WRITE, flags, descriptor, 0)
    guard let memory = unsafe mapped, unsafe memory != MAP_FAILED else {
      throw .system(SystemError(call: "mmap", errno: errno, path: path ?? "write log"))
    }
    return unsafe (memory, isNew)
  }

  /// The first page, apart from the next sequence number, which changes.
  private struct Header: Equatable, BitwiseCopyable {
    var seed: UInt64
    var unitBytes: UInt64
    var blockBytes: UInt64
    var regionBytes: UInt64

    static let sequenceOffset = 48

    /// Bytes of the log; the sizes are possible.
    var logBytes: Int {
      WriteLog.headerBytes + Int(regionBytes / unitBytes) * MemoryLayout<Entry>.stride
    }

    /// Whether the sizes can belong to a log.
    var isPossible: Bool {
      let isPower = unitBytes & (unitBytes &- 1) == 0
      return unitBytes >= 512 && unitBytes <= 4096 && isPower
        && blockBytes >= unitBytes && blockBytes <= Workload.blockBytesLimit
        && blockBytes % unitBytes == 0
        && regionBytes >= blockBytes && regionBytes % unitBytes == 0
        && regionBytes / unitBytes <= WriteLog.unitLimit
    }

    init(seed: UInt64, unitBytes: UInt64, blockBytes: UInt64, regionBytes: UInt64) {
      self.seed = seed
      self.unitBytes = unitBytes
      self.blockBytes = blockBytes
      self.regionBytes = regionBytes
    }

    @unsafe
    init(_ memory: UnsafeMutableRawPointer) {
      seed = unsafe memory.load(fromByteOffset: 16, as: UInt64.self)
      unitBytes = unsafe memory.load(fromByteOffset: 24, as: UInt64.self)
      blockBytes = unsafe memory.load(fromByteOffset: 32, as: UInt64.self)
      regionBytes = unsafe memory.load(fromByteOffset: 40, as: UInt64.self)
    }

    @unsafe
    static func isValid(_ memory: UnsafeMutableRawPointer) -> Bool {
      unsafe memory.load(fromByteOffset: 0, as: UInt64.self) == WriteLog.magic
        && memory.load(fromByteOffset: 8, as: UInt64.self) == WriteLog.version
    }

    @unsafe
    func write(to memory: UnsafeMutableRawPointer) {
      unsafe memory.storeBytes(of: WriteLog.magic, toByteOffset: 0, as: UInt64.self)
      unsafe memory.storeBytes(of: WriteLog.version, toByteOffset: 8, as: UInt64.self)
      unsafe memory.storeBytes(of: seed, toByteOffset: 16, as: UInt64.self)
      unsafe memory.storeBytes(of: unitBytes, toByteOffset: 24, as: UInt64.self)
      unsafe memory.storeBytes(of: blockBytes, toByteOffset: 32, as: UInt64.self)
      unsafe memory.storeBytes(of: regionBytes, toByteOffset: 40, as: UInt64.self)
      // 0 means "never", so the first write is number 1.
      unsafe memory.storeBytes(of: UInt64(1), toByteOffset: Self.sequenceOffset, as: UInt64.self)
    }
  }
}
