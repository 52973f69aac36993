/// What a replica wants done: the output of the core. The driver carries effects out in order.
///
/// Buffers: the driver holds a buffer while a disk effect or a `send` uses it; `release` gives up
/// the holder that came with the request. A buffer returns to its pool with its last holder.
public import BlockTypes
public import Wire

/// A handshake message. The driver asks `Replica.encode` for the bytes before the next event.
public enum ControlMessage: Equatable, Sendable, BitwiseCopyable {
  case hello
  case helloReply
  case state
  case syncDone
  /// The chunk with this number of the peer's bitmap.
  case bitmap(UInt32)
}

/// What a replica wants done.
public enum Effect: Equatable, Sendable, BitwiseCopyable {
  /// Read the range into the buffer.
  case read(SlotID, ByteRange, BufferID)
  /// Take a buffer from the pool when there is one, then read the range into it.
  case serve(SlotID, ByteRange)
  /// Write the buffer to the range; `durable`: on stable storage before it completes.
  case write(SlotID, ByteRange, BufferID, durable: Bool)
  /// Make the range read as zeroes; as a hole where `mayUnmap` and the disk can.
  case writeZeroes(SlotID, ByteRange, mayUnmap: Bool, durable: Bool)
  /// Everything completed before this is on stable storage when it completes.
  case flush(SlotID)
  /// Write `Replica.superblock` as it is now to the older copy, durably.
  case writeSuperblock
  /// Write the page that `Replica.encodePage` gives, durably.
  case writeBitmapPage(UInt8)
  /// Write the transaction that `Replica.encodeActivityLog` gives, durably.
  case writeActivityLog

  /// Send a message; the buffer holds `header.payloadBytes` bytes of payload, or is `none`.
  case send(ConnectionID, MessageHeader, BufferID)
  /// Send a handshake message.
  case sendControl(ConnectionID, ControlMessage)
  /// Send a message whose payload are the digests of the first `bytes` bytes of the buffer.
  case sendDigests(ConnectionID, MessageHeader, BufferID, bytes: UInt32, DigestAlgorithm)
  /// Compare the first `bytes` bytes of `data` with the digests in the other buffer. The result is
  /// the next event: `digestsCompared`.
  case compareDigests(
    SlotID, data: BufferID, bytes: UInt32, digests: BufferID, DigestAlgorithm)
  /// Keep what `marksToKeep` says, outside of the volume and on stable storage, and answer with
  /// `undoEnded`. It may take long; nothing of it changes before the answer.
  case keepUndo(peer: Int, number: UInt64)
  /// Connect to the peer in this slot.
  case dial(peer: Int)
  /// Close after what is queued was sent. No event follows for this connection.
  case close(ConnectionID)

  case release(BufferID)
  /// The data of this read are in this buffer, not in the one that came with it. The driver keeps
  /// the new one for as long as it would have kept the old one.
  case substitute(tag: UInt64, BufferID)
  case complete(tag: UInt64, Outcome)
  case reply(token: UInt64, CommandResult)
  /// The disk must not be used any more; close it when what is in flight has ended.
  case detachDisk
  /// Something to tell people: state, role and reasons are in the replica's properties.
  case note(Note)
}

/// Something that happened, for the log. The text names what changed from what to what.
public enum Note: Equatable, Sendable, BitwiseCopyable {
  case role(from: Role, to: Role)
  case disk(from: DiskState, to: DiskState)
  case connection(peer: Int, from: ConnectionState, to: ConnectionState, Reason)
  case replication(peer: Int, from: ReplicationState, to: ReplicationState)
  case peerDisk(peer: Int, from: DiskState, to: DiskState)
  case peerRole(peer: Int, from: Role, to: Role)
  case decision(peer: Int, Decision)
  case handler(peer: Int, HandlerCall)
  /// A policy names this Primary as victim: the driver answers with the command `giveWay`.
  case mustGiveWay(peer: Int)
  case newGeneration(Generation)
  /// So many blocks were marked; of them, so many were found equal by their digests.
  case resyncDone(peer: Int, blocks: UInt64, equal: UInt64)
  /// Whether the resync rests, or on whose wish, may have changed.
  case resyncPaused(peer: Int)
  /// An online verify began with this range.
  case verifyStarted(peer: Int, ByteRange)
  /// A verify found that the two replicas differ in this range.
  case outOfSync(peer: Int, ByteRange)
  /// The target of a repair has the source's content in this range.
  case repaired(peer: Int, ByteRange)
  /// An online verify has compared everything, or was given up before `range.end`.
  case verifyEnded(peer: Int, VerifyProgress)
  case diskError(SlotID, errno: Int32)
  /// A block that could not be read was read from the peer and written anew.
  case rewritten(ByteRange)
  /// The disk has not ended an operation for so long.
  case diskTimeout(milliseconds: UInt64)
  case protocolError(peer: Int, MessageType)
}
