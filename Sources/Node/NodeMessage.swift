/// What other threads ask the reactor's thread to do.
import BlockTypes
import Configuration
import Replication
public import Control

/// Takes the answer to a request, on the reactor's thread: it must hand it on and return at once.
public typealias ReplyHandler = @Sendable (ControlReply) -> Void

/// A message in the node's mailbox.
enum NodeMessage: Sendable {
  case request(ControlRequest, ReplyHandler)
  /// The program starts: bring the resource up, and make it Primary again when that is safe.
  case restore(Restored, ReplyHandler)
  /// A handler ended with this exit status.
  case handlerEnded(resource: String, peer: Int, HandlerCall, status: Int32)
  /// What a discard would lose was kept, or could not be.
  case undoEnded(resource: String, peer: Int, number: UInt64, UndoResult)
  /// Somebody watches with `events2`.
  case subscribe(EventSink)
  /// Clean end of the program.
  case terminate(ReplyHandler)

  /// A resource that was up when the program ended.
  struct Restored: Sendable {
    var configuration: ResourceConfiguration
    var wantsPrimary: Bool
  }
}

/// An answer that waits until a volume is gone.
struct Farewell {
  var reply: ControlReply
  var deadline: Instant
  var handler: ReplyHandler
}

/// A request that waits for a volume.
struct PendingReply {
  enum Kind {
    case plain
    /// `up`: connect when the disk is attached, undo everything when it cannot be.
    case upAttach
    /// `down`: forget the volume.
    case down
    /// The node's end.
    case terminate
    /// Taking up the Primary role again: nobody waits.
    case silent
    /// The connect after `up`, repeated where another command is under way: nobody waits.
    case upConnect
  }
  var kind: Kind
  var volume: Int
  var handler: ReplyHandler
}
