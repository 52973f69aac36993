/// What other threads ask the reactor's thread to do.
import BlockIO
import BlockTypes
import Configuration
import Glibc
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
  case handlerEnded(VolumeLife, peer: Int, HandlerCall, status: Int32)
  /// What a discard would lose was kept, or could not be.
  case undoEnded(VolumeLife, peer: Int, number: UInt64, UndoResult)
  /// Somebody watches with `events2`.
  case subscribe(EventSink)
  /// Clean end of the program.
  case terminate(ReplyHandler)

  /// A resource that was up when the program ended.
  struct Restored: Sendable {
    var configuration: ResourceConfiguration
    var wantsPrimary: Bool
    /// An administrator disconnected it: it stands alone.
    var isDisconnected: Bool
  }
}

/// A resource from one `up` to its `down`: an answer that comes later is not for the next one.
struct VolumeLife: Hashable, Sendable {
  var resource: String
  var number: UInt64
}

extension Mailbox<NodeMessage> {
  /// Posts what somebody waits for, from a thread that may wait: a mailbox that is full is emptied
  /// at the next turn of the loop.
  func postPatiently(_ message: NodeMessage) {
    for _ in 0..<600 {
      if post(message) { return }
      usleep(100_000)
    }
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
    /// The same at the daemon's start: whoever asks says why it failed, and may ask again.
    case restoreAttach
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
