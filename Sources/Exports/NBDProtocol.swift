/// The NBD protocol as numbers and byte layouts: fixed newstyle handshake, compact requests, simple
/// and structured replies. Everything on the wire is big-endian.
///
/// What must hold: parsing never reads outside the bytes it was given and has no state; encoding
/// writes exactly the length its name promises. Source of all constants: the protocol document of
/// the NBD project (`proto.md`); each layout is pinned by a golden-bytes test.

/// Limits of this server; each bounds what a client can make the daemon keep or do.
public enum NBDLimit {
  /// Longest string of the protocol (export names, queries), in bytes.
  public static var stringBytes: Int { 4096 }
  /// Longest data of one handshake option. A longer one ends the session: no client needs it.
  public static var optionBytes: Int { 64 << 10 }
  /// Longest answer to one option; what a stream must have room for beyond its high-water mark.
  public static var answerBytes: Int { 60 << 10 }
  /// Options one client may send before it has to choose an export.
  public static var optionsPerSession: UInt32 { 1024 }
  /// Longest READ or WRITE, the "max payload" of the protocol: 32 MiB, as QEMU and nbdkit have.
  public static var payloadBytes: UInt32 { 32 << 20 }
  /// Longest TRIM or WRITE_ZEROES piece given to the core at once: 128 MiB, as DRBD splits.
  public static var effectPieceBytes: UInt32 { 128 << 20 }
  /// Longest READ that must not be fragmented (flag DF). The protocol asks for 64 KiB at least.
  public static var unfragmentedBytes: UInt32 { 1 << 20 }
}

/// Numbers of the handshake.
enum NBDMagic {
  /// "NBDMAGIC", first bytes of the server.
  static var greeting: UInt64 { 0x4e42_444d_4147_4943 }
  /// "IHAVEOPT", second word of the server and first of every option.
  static var option: UInt64 { 0x4948_4156_454f_5054 }
  /// First word of every option reply.
  static var optionReply: UInt64 { 0x0003_e889_0455_65a9 }
  /// First word of every request.
  static var request: UInt32 { 0x2560_9513 }
  /// First word of a simple reply.
  static var simpleReply: UInt32 { 0x6744_6698 }
  /// First word of a structured reply chunk.
  static var structuredReply: UInt32 { 0x668e_33ef }
}

/// Handshake flags, of the server (16 bits) and of the client (32 bits); the bits are the same.
enum NBDHandshakeFlag {
  static var fixedNewstyle: UInt32 { 1 << 0 }
  static var noZeroes: UInt32 { 1 << 1 }
  /// All that this server offers.
  static var offered: UInt32 { fixedNewstyle | noZeroes }
}

/// Options of the handshake that this server knows. All others are answered `errUnsupported`.
enum NBDOption: UInt32 {
  case exportName = 1
  case abort = 2
  case list = 3
  case info = 6
  case go = 7
  case structuredReply = 8
  case listMetaContext = 9
  case setMetaContext = 10
}

/// Types of an option reply.
enum NBDReply: UInt32 {
  case ack = 1
  case server = 2
  case info = 3
  case metaContext = 4
  case errUnsupported = 0x8000_0001
  case errPolicy = 0x8000_0002
  case errInvalid = 0x8000_0003
  case errUnknown = 0x8000_0006
  case errTooBig = 0x8000_0009
}

/// Items of an INFO or GO answer.
enum NBDInfo: UInt16 {
  case export = 0
  case name = 1
  case description = 2
  case blockSize = 3
}

/// Transmission flags: what an export can do.
enum NBDExportFlag {
  static var hasFlags: UInt16 { 1 << 0 }
  static var readOnly: UInt16 { 1 << 1 }
  static var sendFlush: UInt16 { 1 << 2 }
  static var sendFUA: UInt16 { 1 << 3 }
  static var sendTrim: UInt16 { 1 << 5 }
  static var sendWriteZeroes: UInt16 { 1 << 6 }
  static var sendDF: UInt16 { 1 << 7 }
  static var canMultiConn: UInt16 { 1 << 8 }
  static var sendCache: UInt16 { 1 << 10 }
}

/// Commands of the transmission phase.
enum NBDCommand: UInt16 {
  case read = 0
  case write = 1
  case disconnect = 2
  case flush = 3
  case trim = 4
  case cache = 5
  case writeZeroes = 6
  case blockStatus = 7
}

/// Flags of a request.
enum NBDCommandFlag {
  static var fua: UInt16 { 1 << 0 }
  static var noHole: UInt16 { 1 << 1 }
  static var dontFragment: UInt16 { 1 << 2 }
  static var requestOne: UInt16 { 1 << 3 }
}

/// Types of a structured reply chunk.
enum NBDChunk {
  static var none: UInt16 { 0 }
  static var offsetData: UInt16 { 1 }
  static var blockStatus: UInt16 { 5 }
  static var error: UInt16 { 0x8001 }
  /// Flag of the last chunk of a reply.
  static var done: UInt16 { 1 }
}

/// Error numbers of the protocol. They equal Linux's, but only these may be sent.
enum NBDError {
  static var none: UInt32 { 0 }
  static var notPermitted: UInt32 { 1 }
  static var inputOutput: UInt32 { 5 }
  static var outOfMemory: UInt32 { 12 }
  static var invalid: UInt32 { 22 }
  static var noSpace: UInt32 { 28 }
  static var overflow: UInt32 { 75 }
  static var notSupported: UInt32 { 95 }
  static var shutdown: UInt32 { 108 }

  /// The protocol's number for what the core reported: 0 or a Linux errno, of either sign.
  ///
  /// EDQUOT and EFBIG mean "no room" to a client; a number the protocol lacks becomes EIO.
  static func code(errno: Int32) -> UInt32 {
    switch errno.magnitude {
    case 0: none
    case 1, 13, 30: notPermitted
    case 12: outOfMemory
    case 22: invalid
    case 27, 28, 122: noSpace
    case 75: overflow
    case 95: notSupported
    case 108: shutdown
    default: inputOutput
    }
  }
}

/// The only metadata context this server has.
enum NBDContext {
  static var name: StaticString { "base:allocation" }
  /// Its number in replies; any number but the same one in both replies would do.
  static var id: UInt32 { 1 }
}

/// A compact request, 28 bytes:
///
/// | bytes | field |
/// | --- | --- |
/// | 0-3 | magic |
/// | 4-5 | command flags |
/// | 6-7 | command |
/// | 8-15 | cookie, returned in the reply |
/// | 16-23 | offset |
/// | 24-27 | length; for WRITE as many bytes follow |
struct NBDRequest: Equatable, BitwiseCopyable {
  static var byteCount: Int { 28 }

  var flags: UInt16
  var command: UInt16
  var cookie: UInt64
  var offset: UInt64
  var length: UInt32

  init(flags: UInt16, command: UInt16, cookie: UInt64, offset: UInt64, length: UInt32) {
    self.flags = flags
    self.command = command
    self.cookie = cookie
    self.offset = offset
    self.length = length
  }

  /// What an unused slot holds.
  static var filler: NBDRequest {
    NBDRequest(flags: 0, command: 0, cookie: 0, offset: 0, length: 0)
  }

  /// Parses the request at `offset` in `bytes`; `nil` when the magic number is wrong, after which
  /// nothing the client sends can be understood.
  ///
  /// - Parameter bytes: holds at least `byteCount` bytes from `offset` on.
  @inline(__always)
  init?(parsing bytes: UnsafeRawBufferPointer, at start: Int) {
    precondition(start >= 0, "a request starts inside the window")
    precondition(bytes.count &- start >= Self.byteCount, "a request needs 28 bytes")
    guard let base = bytes.baseAddress else { return nil }
    let at = unsafe base + start
    guard unsafe NBDBytes.load(at, 0, as: UInt32.self) == NBDMagic.request else { return nil }
    unsafe flags = NBDBytes.load(at, 4, as: UInt16.self)
    unsafe command = NBDBytes.load(at, 6, as: UInt16.self)
    unsafe cookie = NBDBytes.load(at, 8, as: UInt64.self)
    unsafe offset = NBDBytes.load(at, 16, as: UInt64.self)
    unsafe length = NBDBytes.load(at, 24, as: UInt32.self)
  }
}

/// Big-endian loads and stores at raw addresses. The caller has checked the bounds.
enum NBDBytes {
  @inline(__always)
  static func load<T: FixedWidthInteger & BitwiseCopyable>(
    _ base: UnsafeRawPointer, _ offset: Int, as type: T.Type
  ) -> T {
    unsafe T(bigEndian: base.loadUnaligned(fromByteOffset: offset, as: type))
  }

  @inline(__always)
  static func store<T: FixedWidthInteger & BitwiseCopyable>(
    _ value: T, _ base: UnsafeMutableRawPointer, _ offset: Int
  ) {
    unsafe base.storeBytes(of: value.bigEndian, toByteOffset: offset, as: T.self)
  }
}

/// Reply headers of the transmission phase, written into memory of at least `maxByteCount` bytes.
/// Each function returns how many bytes it wrote.
enum NBDReplyBytes {
  /// Room for every header this file writes, an error message included.
  static var maxByteCount: Int { 256 }
  static var simpleByteCount: Int { 16 }
  static var chunkByteCount: Int { 20 }

  /// A simple reply: magic u32, error u32, cookie u64. READ data follows when `error` is 0.
  @inline(__always)
  static func simple(
    _ out: UnsafeMutableRawPointer, error: UInt32, cookie: UInt64
  ) -> Int {
    unsafe NBDBytes.store(NBDMagic.simpleReply, out, 0)
    unsafe NBDBytes.store(error, out, 4)
    unsafe NBDBytes.store(cookie, out, 8)
    return simpleByteCount
  }

  /// A chunk header: magic u32, flags u16, type u16, cookie u64, payload length u32.
  @inline(__always)
  static func chunk(
    _ out: UnsafeMutableRawPointer, flags: UInt16, type: UInt16, cookie: UInt64, length: UInt32
  ) -> Int {
    unsafe NBDBytes.store(NBDMagic.structuredReply, out, 0)
    unsafe NBDBytes.store(flags, out, 4)
    unsafe NBDBytes.store(type, out, 6)
    unsafe NBDBytes.store(cookie, out, 8)
    unsafe NBDBytes.store(length, out, 16)
    return chunkByteCount
  }

  /// The start of an OFFSET_DATA chunk; `count` bytes of data follow.
  @inline(__always)
  static func offsetData(
    _ out: UnsafeMutableRawPointer, done: Bool, cookie: UInt64, offset: UInt64, count: UInt32
  ) -> Int {
    let header = unsafe chunk(
      out, flags: done ? NBDChunk.done : 0, type: NBDChunk.offsetData, cookie: cookie,
      length: count + 8)
    unsafe NBDBytes.store(offset, out, header)
    return header + 8
  }

  /// An ERROR chunk that ends a reply: error u32, message length u16, message.
  static func error(
    _ out: UnsafeMutableRawPointer, error: UInt32, cookie: UInt64, message: StaticString
  ) -> Int {
    let room = maxByteCount - chunkByteCount - 6
    let count = min(message.utf8CodeUnitCount, room)
    let header = unsafe chunk(
      out, flags: NBDChunk.done, type: NBDChunk.error, cookie: cookie, length: UInt32(6 + count))
    unsafe NBDBytes.store(error, out, header)
    unsafe NBDBytes.store(UInt16(count), out, header + 4)
    unsafe (out + header + 6).copyMemory(from: message.utf8Start, byteCount: count)
    return header + 6 + count
  }

  /// A BLOCK_STATUS chunk that ends a reply, with one extent of `count` bytes.
  static func blockStatus(
    _ out: UnsafeMutableRawPointer, cookie: UInt64, count: UInt32, extentFlags: UInt32
  ) -> Int {
    let header = unsafe chunk(
      out, flags: NBDChunk.done, type: NBDChunk.blockStatus, cookie: cookie, length: 12)
    unsafe NBDBytes.store(NBDContext.id, out, header)
    unsafe NBDBytes.store(count, out, header + 4)
    unsafe NBDBytes.store(extentFlags, out, header + 8)
    return header + 12
  }
}
