/// Why a command was refused, in the words and with the exit codes of DRBD, because scripts and
/// operators know them.

/// One refusal: `r0: State change failed: (-12) Device is held open by someone`.
public struct Refusal: Error, Equatable, Sendable {
  /// DRBD's number: negative for a state change, positive for a configuration request.
  public var code: Int
  /// What the number means.
  public var text: String
  /// The exit code of the tool.
  public var exitCode: Int32
  /// Further lines: who holds the device and the like.
  public var details: [String] = []
  /// The last line: what to do. `{}` stands for the object.
  public var hint: String?

  /// Joins the parts.
  public init(
    code: Int, text: String, exitCode: Int32, details: [String] = [], hint: String? = nil
  ) {
    self.code = code
    self.text = text
    self.exitCode = exitCode
    self.details = details
    self.hint = hint
  }

  /// The same refusal with a line that says who, why or what to do.
  public func with(_ detail: String) -> Refusal {
    var result = self
    result.details.append(detail)
    return result
  }

  /// The lines for standard error.
  public func lines(object: String) -> [String] {
    let kind = code < 0 ? "State change failed" : "Failure"
    let advice = hint.map { [$0.replacing("{}", with: object)] } ?? []
    return ["\(object): \(kind): (\(code)) \(text)"] + details + advice
  }
}

extension Refusal {
  private static func state(
    _ code: Int, _ text: String, exit: Int32 = 11, hint: String? = nil
  ) -> Refusal {
    Refusal(code: code, text: text, exitCode: exit, hint: hint)
  }

  private static func request(_ code: Int, _ text: String, hint: String? = nil) -> Refusal {
    Refusal(code: code, text: text, exitCode: 10, hint: hint)
  }

  /// A second Primary.
  public static let multiplePrimaries = state(
    -1, "Multiple primaries not allowed by config",
    hint: "run 'ashlaradm secondary {}' on the other node first")
  private static func needUpToDate(_ hint: String) -> Refusal {
    state(-2, "Need access to UpToDate data", exit: 17, hint: hint)
  }

  /// Promotion without good data here.
  public static let needUpToDateData = needUpToDate(
    "connect to a peer that is UpToDate and wait for the resync, or run 'ashlaradm primary "
      + "--force {}' on the node whose data counts")
  /// Promotion of a node whose data is being replaced; `--force` does not help.
  public static let targetOfResync = needUpToDate(
    "this node's data is being replaced by the peer's: run 'ashlaradm wait-sync {}' first")
  /// Promotion without a disk; `--force` does not help.
  public static let noDiskToPromote = needUpToDate(
    "this node has no disk: run 'ashlaradm attach {}' first, or promote the peer")
  /// Promotion while this node or a peer remembers newer data of a disk that it has lost.
  public static let newerDataWasLost = needUpToDate(
    "a disk that was lost held newer data: run 'ashlaradm attach {}' where it was, or, if it is "
      + "gone for good, 'ashlaradm primary --force {}' here")
  /// `detach` or `disconnect` of the only copy that a Primary has.
  public static let primaryLivesHere = needUpToDate(
    "the peer is Primary and has no other good disk: run 'ashlaradm attach {}' there and wait for "
      + "the resync, or make it Secondary first")
  /// `disconnect` from the only copy that this Primary has.
  public static let clientsLiveOnPeer = needUpToDate(
    "the clients of this node use the peer's disk: run 'ashlaradm attach {}' and wait for the "
      + "resync, or 'ashlaradm secondary {}' first")
  /// `attach` under a Primary's clients without a peer that has what they have seen.
  public static let nobodyFillsTheDisk = needUpToDate(
    "no connected peer has what the clients of this Primary have seen: connect to it, or run "
      + "'ashlaradm secondary {}' first")
  /// A resync without a disk here.
  public static let noLocalDisk = state(
    -4, "Can not resync without local disk", hint: "run 'ashlaradm attach {}' first")
  /// A resync without a disk there.
  public static let noRemoteDisk = state(
    -5, "Can not resync without remote disk",
    hint: "connect to a peer with an UpToDate disk first")
  /// A resync or verify runs.
  public static let alreadyActive = state(
    -8, "Can not start OV/resync since it is already active",
    hint: "'ashlaradm status {}' shows how far it is")
  /// Nothing is configured to compare with.
  public static let noVerifyAlgorithm = state(
    -14, "Need a verify algorithm to start online verify",
    hint: "write 'verify-alg crc32c;' into the 'net' section, then run 'ashlaradm adjust {}'")
  /// There is nobody to compare with.
  public static let needConnection = state(
    -15, "Need a connection to start verify or resync",
    hint: "run 'ashlaradm connect {}' first")
  /// The peer refused.
  public static let refusedByPeer = state(
    -10, "State change was refused by peer node", hint: "the peer's log says why")
  /// A disk is needed.
  public static let diskless = state(
    -11, "Device is diskless, the requested operation needs a disk")
  /// A client has the volume open.
  public static let heldOpen = state(
    -12, "Device is held open by someone", hint: "close the clients of {} first")
  /// A command or a handshake is under way.
  public static let transient = state(-18, "In transient state, retry after next state change")
  /// The answer did not come in time.
  public static let timedOut = state(
    -23, "Timeout in operation", hint: "see 'ashlaradm status {}', then try again")

  /// The port is taken.
  public static let localAddressInUse = request(
    102, "Local address(port) already in use.",
    hint: "stop what listens there, or choose another port in 'address'")
  /// This machine does not have the address: the number that DRBD gives for any `bind` that fails.
  public static let localAddressMissing = request(
    102, "Local address(port) not available.",
    hint: "give the address to this machine, or correct 'address' of its 'on' section")
  /// The backing disk cannot be opened.
  public static let cannotOpenDisk = request(104, "Can not open backing device.")
  /// The backing disk cannot be read.
  public static let metadataReadError = request(
    118, "IO error while reading meta data.", hint: "replace the disk")
  /// `create-md` is missing.
  public static let noMetadata = request(119, "No valid meta data found")
  /// The bitmaps do not fit the memory.
  public static let outOfMemory = request(
    122, "kmalloc() failed. Out of memory?",
    hint: "each TiB of a volume takes 32 MiB for each peer; free memory or raise the limit")
  /// A Primary's clients have seen the data that would be given up.
  public static let discardOnPrimary = request(
    123, "--discard-my-data not allowed when primary.",
    hint: "run 'ashlaradm secondary {}' first")
  /// Only a node that stands alone, or waits, can change how it meets its peer.
  public static let alreadyConnected = request(
    125, "Device has a net-config (use disconnect first)",
    hint: "run 'ashlaradm disconnect {}' first")
  /// The disk is attached already.
  public static let alreadyAttached = request(
    124, "Device is attached to a disk (use detach first)")
  /// The disk under a Primary's clients must not hold another history.
  public static let dataNotCurrent = request(
    138, "Can only attach to the data we lost last.",
    hint: "the disk has another history or size than what the clients of this Primary have seen; "
      + "after 'ashlaradm create-md {}' it is filled from the peer")
  /// Only disks that never held data may be taken for equal.
  public static let dataNotFresh = request(
    140, "Not all of the disks are fresh",
    hint: "both nodes need metadata of 'ashlaradm create-md {}', connected and never Primary")
  /// The resource is not up.
  public static let unknownResource = request(
    158, "Unknown resource", hint: "{} is not up: run 'ashlaradm up {}'")
  /// The resource is up already.
  public static let resourceExists = request(
    161, "Resource already exists", hint: "'ashlaradm adjust {}' applies what has changed")
  /// The request makes no sense.
  public static let invalidRequest = request(162, "Invalid configuration request")
  /// The disk is smaller than the volume.
  public static let implicitShrink = request(170, "Implicit device shrinking not allowed.")
}
