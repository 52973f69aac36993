/// The header in front of every message between peers, and its bytes.
///
/// ```
/// bytes  0-3   magic "ASHL"
///        4     type            MessageType
///        5     flags           bit 0 FUA, bit 1 may unmap, others 0
///        6-7   volume          0 in version 1
///        8-11  payload bytes   0 ... 1 MiB, what follows the header
///       12-15  CRC32C          of the 40 bytes with this field 0
///       16-23  id              chosen by the asker, echoed in the answer
///       24-31  offset          bytes on the volume
///       32-39  length          bytes the operation covers, or a number the type defines
/// ```
/// All numbers are big-endian. The CRC is over the header alone: it catches a parser that lost its
/// place in the stream before a length or an offset of garbage is believed.
import BlockTypes
import CChecksum

/// What a message is.
public enum MessageType: UInt8, Sendable, BitwiseCopyable, CaseIterable {
  case hello = 1
  case helloReply = 2
  case reject = 3
  case state = 4
  case verdict = 5
  /// Before all others, see `Greeting`.
  case greeting = 6
  /// That the sender knows the shared secret.
  case proof = 7

  case write = 10
  case writeZeroes = 11
  case trim = 12
  case flush = 13
  case ack = 14

  case resyncRequest = 20
  case resyncData = 21
  case resyncAck = 22
  case syncDone = 23
  case syncDoneAck = 24
  /// Blocks that may differ, see `BitmapChunk`.
  case bitmap = 25
  case bitmapAck = 26
  /// The source has told all of its bitmap.
  case bitmapDone = 27
  /// The target has told all of its bitmap, and the source's history and bits are on its disk.
  case syncReady = 28
  /// The source has forgotten, durably, that the target is behind: the blocks may be pulled.
  case syncStart = 29

  case promoteRequest = 30
  case promoteReply = 31
  case roleChanged = 32
  case diskChanged = 33
  case goodbye = 34

  /// As `resyncData`, for a range of zeroes.
  case resyncZeroes = 35
  /// The source cannot read the range that was asked for.
  case resyncUnreadable = 36
  case syncPause = 37
  /// Take your data for bad and copy mine.
  case invalidate = 38

  case ping = 40
  case pong = 41

  /// Compare the volumes: `length` is a `DigestAlgorithm`.
  case verifyStart = 50
  /// The answer: `length` is 0, or why not (`VerifyRefusal`).
  case verifyReady = 51
  /// Digests of a range are wanted; whoever answers keeps the range locked until `verifyResult`.
  case verifyRequest = 52
  /// The same by a node that has the range locked itself.
  case verifyRequestLocked = 53
  /// A digest of each block; `length` is the id of the range that is kept locked, or 0.
  case verifyDigests = 54
  /// Not now: ask again by the other way.
  case verifySkipped = 55
  /// `length` has a bit for each block that differs; the range is not wanted locked any more.
  case verifyResult = 56
  /// All is compared, or the comparison is given up.
  case verifyEnd = 57

  /// A resync by checksum: a digest of each block the target has from `offset` on; `length` is a
  /// `DigestAlgorithm`.
  case resyncDigests = 58
  /// The answer: `length` has a bit for each block that differs. The others are in sync.
  case resyncCompared = 59

  /// Copy what is marked in the range from the sender.
  case repairBegin = 60
  /// A range is wanted; whoever answers keeps it locked until `repairAck`.
  case repairRequest = 61
  /// The same by a node that has the range locked itself.
  case repairRequestLocked = 62
  /// The data; `length` is the id of the range that is kept locked, or 0.
  case repairData = 63
  /// `length` bytes were written, or 0: not now.
  case repairAck = 64
  /// `length` is 0: ask again by the other way; 1: it cannot be read.
  case repairSkipped = 65
  /// What is marked was copied, or cannot be.
  case repairEnd = 66

  /// A Primary reads what its own disk does not have, or cannot read.
  case readRequest = 67
  case readData = 68
  /// The range cannot be read here either.
  case readFailed = 69
  /// Answers the `diskChanged` of a Primary, which goes on through this node: that the sender lacks
  /// what comes is on disk here, as generation `offset` with `id`, by author `length`.
  case diskChangedAck = 70
  /// Both disks are fresh, and the administrator says that they hold the same: both take generation
  /// `offset` with `id`, by author `length`, as their first.
  case assumeEqual = 71

  /// Whether the payload goes to an aligned pooled buffer: volume data, and digests, which wait for
  /// what they are compared with.
  public var carriesData: Bool {
    switch self {
    case .write, .resyncData, .verifyDigests, .resyncDigests, .repairData, .readData: true
    default: false
    }
  }

  /// Whether the payload is what the volume contains or will contain.
  public var carriesVolumeData: Bool {
    switch self {
    case .write, .resyncData, .repairData, .readData: true
    default: false
    }
  }

  /// The most payload bytes this type may carry.
  public var payloadLimit: UInt32 {
    switch self {
    case .write, .resyncData, .repairData, .readData: maxPayloadBytes
    case .hello, .helloReply, .reject, .state, .syncDone, .bitmap, .verifyDigests, .resyncDigests:
      maxControlPayloadBytes
    // A greeting with a name of 128 bytes; the longest HMAC has 64.
    case .greeting, .proof: 176
    case .verdict, .writeZeroes, .trim, .flush, .ack, .resyncRequest, .resyncAck, .syncDoneAck,
      .bitmapAck, .bitmapDone, .syncReady, .syncStart, .promoteRequest, .promoteReply,
      .roleChanged, .diskChanged, .goodbye, .resyncZeroes,
      .resyncUnreadable, .syncPause, .invalidate, .ping, .pong, .verifyStart, .verifyReady,
      .verifyRequest, .verifyRequestLocked, .verifySkipped, .verifyResult, .verifyEnd,
      .resyncCompared, .repairBegin, .repairRequest, .repairRequestLocked, .repairAck,
      .repairSkipped, .repairEnd, .readRequest, .readFailed, .diskChangedAck,
      .assumeEqual:
      0
    }
  }
}

/// Most payload bytes of a message that is not volume data: one page of a bitmap, which is more
/// than 32 generations of 24 bytes.
public let maxControlPayloadBytes: UInt32 = 4096

/// Why bytes from a peer are not a message. The connection cannot go on after any of these.
public enum WireError: Error, Equatable, Sendable {
  case truncated(have: Int, need: Int)
  case badMagic(UInt32)
  case badChecksum(found: UInt32, computed: UInt32)
  case unknownType(UInt8)
  case unknownFlags(UInt8)
  case payloadTooLong(MessageType, UInt32, limit: UInt32)
  case fieldOutOfRange(StaticStringField, UInt64)
  /// What came is not what was sent. The words are the kernel module's.
  case digestMismatch(MessageType, offset: UInt64, length: UInt64)

  /// Names a field of a payload in an error.
  public enum StaticStringField: Sendable, Equatable {
    case nodeID, nameLength, nameBytes, diskState, role, flags, lineageCount, generationOrder
    case generationNumber, volumeBytes, protocolRange, outOfSyncBlocks, policy
    case bitmapEncoding, bitmapRun, side, integrity, authentication
  }
}

/// The fixed part of a message.
public struct MessageHeader: Equatable, Sendable, BitwiseCopyable {
  /// Bytes of an encoded header.
  public static let byteCount = 40
  /// "ASHL".
  public static let magic: UInt32 = 0x4153_484C

  /// What the message is.
  public var type: MessageType
  /// The data must be on stable storage before the answer.
  public var forceUnitAccess = false
  /// Zeroes may be stored as a hole.
  public var mayUnmap = false
  /// Volume number in the resource; 0 in version 1, which has a connection a volume.
  public var volume: UInt16 = 0
  /// Bytes that follow the header.
  public var payloadBytes: UInt32 = 0
  /// Chosen by the asker, echoed in the answer.
  public var id: UInt64 = 0
  /// Byte offset on the volume.
  public var offset: UInt64 = 0
  /// Bytes the operation covers, or a number that the type defines.
  public var length: UInt64 = 0

  /// A header with everything else 0.
  public init(_ type: MessageType, id: UInt64 = 0, offset: UInt64 = 0, length: UInt64 = 0) {
    self.type = type
    self.id = id
    self.offset = offset
    self.length = length
  }

  /// Parses the first 40 bytes of `bytes`.
  ///
  /// - Throws: the first thing that is wrong; the caller closes the connection.
  @safe
  public init(parsing bytes: UnsafeRawBufferPointer) throws(WireError) {
    guard bytes.count >= Self.byteCount else {
      throw .truncated(have: bytes.count, need: Self.byteCount)
    }
    let reader = unsafe ByteReader(bytes)
    let magic = reader.uint32(at: 0)
    guard magic == Self.magic else { throw .badMagic(magic) }
    let stored = reader.uint32(at: 12)
    let computed = unsafe Self.checksum(bytes)
    guard stored == computed else { throw .badChecksum(found: stored, computed: computed) }
    guard let type = MessageType(rawValue: reader.uint8(at: 4)) else {
      throw .unknownType(reader.uint8(at: 4))
    }
    let flags = reader.uint8(at: 5)
    guard flags & ~3 == 0 else { throw .unknownFlags(flags) }
    let payload = reader.uint32(at: 8)
    guard payload <= type.payloadLimit else {
      throw .payloadTooLong(type, payload, limit: type.payloadLimit)
    }
    self.init(
      type, id: reader.uint64(at: 16), offset: reader.uint64(at: 24),
      length: reader.uint64(at: 32))
    forceUnitAccess = flags & 1 != 0
    mayUnmap = flags & 2 != 0
    volume = reader.uint16(at: 6)
    payloadBytes = payload
  }

  /// Writes the 40 bytes to the start of `bytes`.
  @safe
  public func encode(into bytes: UnsafeMutableRawBufferPointer) {
    precondition(bytes.count >= Self.byteCount, "no room for a header")
    var writer = unsafe ByteWriter(bytes)
    writer.put(Self.magic)
    writer.put(type.rawValue)
    writer.put((forceUnitAccess ? 1 : 0) | (mayUnmap ? 2 : 0) as UInt8)
    writer.put(volume)
    writer.put(payloadBytes)
    writer.put(0 as UInt32)
    writer.put(id)
    writer.put(offset)
    writer.put(length)
    let crc = unsafe Self.checksum(UnsafeRawBufferPointer(bytes))
    writer.position = 12
    writer.put(crc)
  }

  private static func checksum(_ bytes: UnsafeRawBufferPointer) -> UInt32 {
    var zero: UInt32 = 0
    guard let base = bytes.baseAddress else { return 0 }
    var crc = unsafe cchecksum_crc32c(0, base, 12)
    crc = unsafe cchecksum_crc32c(crc, &zero, 4)
    return unsafe cchecksum_crc32c(crc, base + 16, 24)
  }
}
