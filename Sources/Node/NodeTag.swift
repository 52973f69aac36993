/// How a volume's operations are told apart when they come back from the reactor.
///
/// ```
/// bits 63-56  kind        bits 55-48  volume slot
/// bits 47-32  slot        bits 31-0   generation      (or a link's index and counter)
/// ```
import BlockTypes

/// What a 64-bit tag stands for. Kind 1 belongs to the NBD server.
enum TagKind: UInt8 {
  case export = 1
  /// A disk operation of the core.
  case operation = 0x10
  /// Zeroes that must be flushed before they count.
  case zeroesThenFlush = 0x11
  case superblockWrite = 0x12
  case superblockRead = 0x13
  case peerStream = 0x14
  case accept = 0x15
  case connect = 0x16
  /// The second copy of a superblock.
  case mirrorWrite = 0x17
  case bitmapPageWrite = 0x18
  case activityLogWrite = 0x19
  /// A piece of the activity log or of a bitmap, while a disk is attached.
  case metadataRead = 0x1A
}

struct NodeTag: BitwiseCopyable {
  let value: UInt64

  init(_ value: UInt64) { self.value = value }

  init(_ kind: TagKind, volume: Int, id: SlotID = SlotID(slot: 0, generation: 0)) {
    precondition(volume < 256, "volume slots are 8 bits")
    precondition(id.slot < 1 << 16, "operation slots are 16 bits")
    value =
      UInt64(kind.rawValue) << 56 | UInt64(volume) << 48 | UInt64(id.slot) << 32
      | UInt64(id.generation)
  }

  var kind: TagKind? { TagKind(rawValue: UInt8(truncatingIfNeeded: value >> 56)) }
  var volume: Int { Int(value >> 48 & 0xFF) }
  var id: SlotID {
    SlotID(
      slot: UInt32(value >> 32 & 0xFFFF), generation: UInt32(truncatingIfNeeded: value))
  }
}
