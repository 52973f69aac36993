/// What happens to a replica: the input of the core. All trivial values, no references.
public import BlockTypes
import Wire

/// A connection to a peer as the driver numbers it. Never used twice.
public struct ConnectionID: Hashable, Sendable, BitwiseCopyable {
  /// The driver's number.
  public let value: UInt64

  /// Wraps the driver's number.
  public init(_ value: UInt64) { self.value = value }
}

/// What a client or a peer asks of the disk.
public enum Operation: UInt8, Sendable, BitwiseCopyable {
  case read, write, writeZeroes, trim, flush

  /// Whether the operation changes data.
  public var changesData: Bool { self == .write || self == .writeZeroes || self == .trim }
}

/// One request of a client of the exported volume.
public struct ClientRequest: Sendable, BitwiseCopyable {
  /// What is asked.
  public var operation: Operation
  /// The data must be on stable storage of every participating replica before completion.
  public var forceUnitAccess = false
  /// Zeroes may be stored as a hole.
  public var mayUnmap = false
  /// The bytes it covers: multiples of 512; empty for a flush; at most 1 MiB for read and write.
  public var range: ByteRange
  /// Payload of a write, place for the data of a read. The core gives it back with `release`.
  public var buffer = BufferID.none
  /// Returned with the completion.
  public var tag: UInt64

  /// Joins the parts.
  public init(_ operation: Operation, _ range: ByteRange, tag: UInt64) {
    self.operation = operation
    self.range = range
    self.tag = tag
  }
}

/// What an administrator asks. `heldOpen` is the driver's word on whether a client has it open.
public enum Command: Sendable, BitwiseCopyable {
  case connect
  /// Connect, and give up what the peer lacks if both wrote without each other.
  case discard(DiscardPlan)
  /// Connect, decide, change nothing and disconnect.
  case connectTentatively
  /// The handler `before-resync-target` ended for the peer in this slot.
  case resyncAllowed(peer: Int, Bool)
  /// Give up the Primary role and the data for the peer in this slot, as a policy says.
  case giveWay(peer: Int, heldOpen: Bool)
  case disconnect
  case primary(force: Bool)
  case secondary(heldOpen: Bool)
  case detach
  case invalidate
  /// Compare this replica with the peer's.
  case verify(VerifyPlan)
  case invalidateRemote
  /// Both fresh disks hold the same: nothing needs to be copied.
  case skipFirstSync
  case pauseSync
  case resumeSync
  /// Clean end of the program: demote, say goodbye, flush, mark clean.
  case shutdown
}

extension Command {
  /// Connect, and give up, once it is kept, what the peer lacks if both wrote without each other.
  public static var connectDiscarding: Command { .discard(DiscardPlan()) }
}

/// What happens to a replica.
public enum Event: Sendable, BitwiseCopyable {
  case submit(ClientRequest)
  /// A disk effect ended: bytes or 0, or a negative errno. `buffer` is what a `serve` was given;
  /// `none` when it was read and is all zeroes.
  case diskCompleted(SlotID, result: Int32, buffer: BufferID)
  /// The last `writeSuperblock` effect ended: 0 or a negative errno.
  case superblockWritten(result: Int32)
  /// The copy of the superblock that is brought up to date after the other could not be written.
  case superblockCopyFailed
  /// A `writeBitmapPage` effect ended: 0 or a negative errno.
  case bitmapPageWritten(UInt8, result: Int32)
  /// The `writeActivityLog` effect ended: 0 or a negative errno.
  case activityLogWritten(result: Int32)
  /// A `compareDigests` effect was carried out: a bit for each block of the range that differs, the
  /// first one lowest.
  case digestsCompared(SlotID, differing: UInt64)
  /// A `dial` effect made a connection.
  case dialed(peer: Int, ConnectionID)
  /// A `dial` effect failed.
  case dialFailed(peer: Int)
  /// A `dial` effect made a connection, and the two ends do not agree on what it is to be.
  case dialRefused(peer: Int, Reason)
  /// Somebody connected. Who it is, the first message tells; it must be `from` where that is known.
  case accepted(ConnectionID, from: NodeID? = nil)
  /// What came on the connection is not what was sent; the driver has closed it.
  case corrupted(ConnectionID)
  /// The connection broke, or sent something that is not a message.
  case closed(ConnectionID)
  case command(Command, token: UInt64)
  /// Whether another resource is to resync before this one.
  case resyncOrder(mustWait: Bool)
  /// A `keepUndo` effect ended.
  case undoEnded(peer: Int, number: UInt64, UndoOutcome)
  /// Time has come to `nextDeadline`.
  case tick
}

/// How a client request ended.
public enum Outcome: Sendable, BitwiseCopyable {
  case done
  /// The disk failed, or there is no UpToDate data.
  case ioError
  /// This node is not Primary.
  case notPrimary
  /// Outside the volume, or not in whole sectors.
  case invalid
}

/// Why a command was refused. What administrators are told to do about it, `Control` says.
public enum Refusal: Sendable, BitwiseCopyable, CaseIterable {
  case multiplePrimaries
  case needUpToDateData
  /// Promotion of a node whose data is being replaced: not even by force.
  case targetOfResync
  /// Promotion without a disk: not even by force.
  case noDiskToPromote
  /// Promotion while a connected peer remembers that the disk it lost held newer data.
  case newerDataWasLost
  /// `detach` of, or `disconnect` from, the only good copy of a peer that is Primary.
  case primaryLivesHere
  /// `disconnect` from the peer whose data a Primary's clients use.
  case clientsLiveOnPeer
  /// `attach` under a Primary's clients without a peer that can fill the disk.
  case nobodyFillsTheDisk
  case noRemoteDisk
  case noLocalDisk
  case heldOpen
  case transient
  case peerRefused
  case timeout
  case primaryNeedsDisk
  case alreadyAttached
  case wrongMetadata
  case discardOnPrimary
  case alreadyConnected
  case alreadyActive
  case noVerifyAlgorithm
  case needConnection
  case invalidRange
  case dataNotCurrent
  case dataNotFresh

  /// DRBD's words.
  public var text: String {
    switch self {
    case .multiplePrimaries: "Multiple primaries not allowed by config"
    case .needUpToDateData: "Need access to UpToDate data"
    case .targetOfResync: "Need access to UpToDate data: this node's data is being replaced"
    case .noDiskToPromote: "Need access to UpToDate data: this node has no disk"
    case .newerDataWasLost: "Need access to UpToDate data: a disk that was lost held newer data"
    case .primaryLivesHere: "Need access to UpToDate data: the Primary uses this node's"
    case .clientsLiveOnPeer: "Need access to UpToDate data: this Primary uses the peer's"
    case .nobodyFillsTheDisk: "Need access to UpToDate data: no peer has what the clients have seen"
    case .noRemoteDisk: "Can not resync without remote disk"
    case .noLocalDisk: "Can not resync without local disk"
    case .heldOpen: "Device is held open by someone"
    case .transient: "In transient state, retry after next state change"
    case .peerRefused: "State change was refused by peer node"
    case .timeout: "Timeout in operation"
    case .primaryNeedsDisk: "Device is diskless, the requested operation requires a disk"
    case .alreadyAttached: "Device is attached to a disk (use detach first)"
    case .wrongMetadata: "No valid meta-data signature found."
    case .discardOnPrimary: "--discard-my-data not allowed when primary."
    case .alreadyConnected: "Device has a net-config (use disconnect first)"
    case .alreadyActive: "Can not start OV/resync since it is already active"
    case .noVerifyAlgorithm: "Need a verify algorithm to start online verify"
    case .needConnection: "Need a connection to start verify or resync"
    case .invalidRange: "Invalid configuration request"
    case .dataNotFresh: "Not all of the disks are fresh"
    case .dataNotCurrent: "Can only attach to the data we lost last."
    }
  }
}

/// How a command ended.
public enum CommandResult: Equatable, Sendable, BitwiseCopyable {
  case done
  case refused(Refusal)
}
