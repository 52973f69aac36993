/// One replica with a disk that answers when the test says so, and a peer that the test plays.
///
/// What must hold: every disk effect is answered once, every buffer is released once. The rig keeps
/// both accounts; `expectSettled` closes them.
import BlockTypes
import Metadata
import Replication
import TestSupport
import Testing
import Wire

/// This node, its one peer, and the volume they share.
let me = node(0)
let other = node(1)
let volumeBytes: UInt64 = 8 << 20

func lineage(_ ids: UInt64...) -> Lineage {
  let generations = ids.enumerated().map { index, id in
    Generation(number: UInt64(index + 1), id: id, author: other)
  }
  guard let lineage = Lineage(generations) else { preconditionFailure("a bad lineage in a test") }
  return lineage
}

/// A superblock of this node; by default clean, UpToDate, with the history `lineage(1)`.
func superblock(
  _ state: StoredDiskState = .upToDate, _ history: Lineage = lineage(1), dirty: Bool = false
) -> Superblock {
  var block = Superblock(node: me, resource: "r0", volumeBytes: volumeBytes, deviceID: 7)
  block.diskState = state
  block.lineage = history
  block.dirty = dirty
  block.peers = [PeerSlotRecord(node: other, base: nil)]
  return block
}

/// What the peer tells about itself; by default an UpToDate Secondary with the history
/// `lineage(1)`.
func peerReport(
  _ disk: DiskState = .upToDate, _ history: Lineage = lineage(1), role: Role = .secondary,
  crashed: Bool = false
) -> StateReport {
  var report = StateReport(
    volumeBytes: disk == .diskless ? 0 : volumeBytes, disk: disk, role: role)
  report.lineage = disk == .diskless ? Lineage() : history
  report.crashed = crashed
  return report
}

final class Rig {
  var replica: Replica
  var now = Instant(nanoseconds: 1_000_000_000)
  /// Effects of the last step.
  var effects: [Effect] = []
  /// Everything that was sent and not looked at.
  var sent: [MessageHeader] = []
  var controls: [ControlMessage] = []
  /// Disk effects without an answer, oldest first.
  var disk: [Effect] = []
  /// What the next comparison of digests finds.
  var differing: UInt64 = 0
  private var comparing: SlotID?
  var superblockIsPending = false
  /// Pages and transactions of the log are answered by the test, not at once.
  var holdsLog = false
  /// Those that have no answer.
  var metadata: [Effect] = []
  /// The page of the bitmap that was written last.
  var page: [UInt8]?
  /// Superblocks as they became durable, newest last.
  var durable: [Superblock] = []
  var completions: [UInt64: Outcome] = [:]
  /// Where the data of a read is, when it is not in the buffer that came with it.
  var substituted: [UInt64: BufferID] = [:]
  var replies: [UInt64: CommandResult] = [:]
  var closed: [ConnectionID] = []
  /// Dials that were asked for and have no answer.
  var dialing = 0
  /// Numbers of what was to be kept before a discard.
  var undos: [UInt64] = []
  /// Whether disk effects are allowed: between an attach that was granted and `detachDisk`.
  var hasDisk = false
  var connection = ConnectionID(0)
  /// Buffers out there: how often each was given away minus how often it came back.
  var held: [BufferID: Int] = [:]
  private var nextConnection: UInt64 = 100
  private var nextToken: UInt64 = 1_000_000
  private var nextBuffer: UInt32 = 0
  private var entropy: UInt64 = 0x5EED
  private var writing: Superblock?

  init(_ change: (inout ReplicaOptions) -> Void = { _ in }) {
    var options = ReplicaOptions(node: me, resource: "r0", peers: [other], instance: 42)
    change(&options)
    replica = Replica(options: options)
  }

  init(options: ReplicaOptions) { replica = Replica(options: options) }

  // MARK: Driving

  func step(_ event: Event) {
    entropy &+= 1
    replica.step(event, at: now, entropy: entropy)
    drain()
  }

  /// Attaches a disk, whose bitmap marks `marked`, or cannot be read. Its log is ready unless
  /// `holdsLog` is set.
  func attach(
    _ block: Superblock, marked: Range<UInt64>? = nil, hot: ActivityLogRecovery = .none,
    isReadable: Bool = true
  ) {
    entropy &+= 1
    if replica.prepareAttach(block) {
      if let marked { load(marked, block) }
      if !isReadable { replica.loadPage(0, ofPeer: 0, block, nil) }
    }
    replica.attach(block, hot: hot, token: 1, at: now, entropy: entropy)
    drain()
    while !holdsLog, superblockIsPending, !isReady { finishSuperblock() }
    durable = []
  }

  private var isReady: Bool { replica.superblock?.activityLogRun == durable.last?.activityLogRun }

  private func load(_ marked: Range<UInt64>, _ block: Superblock) {
    var bitmap = BlockBitmap(blockCount: block.volumeBytes / blockSize)
    bitmap.setBlocks(marked)
    let name = BitmapPage(deviceID: block.deviceID, slot: 0, node: other, number: 0)
    var bytes = [UInt8](repeating: 0, count: BitmapPage.byteCount)
    bytes.withUnsafeMutableBytes { name.write(&bitmap, into: $0) }
    bytes.withUnsafeBytes { replica.loadPage(0, ofPeer: 0, block, $0) }
  }

  func advance(milliseconds: UInt64) {
    now = now.advanced(milliseconds: milliseconds)
    if now >= replica.nextDeadline { step(.tick) }
  }

  /// Waits until the next deadline and lets it pass.
  func passDeadline() {
    guard replica.nextDeadline != .never else { return }
    now = max(now, replica.nextDeadline)
    step(.tick)
  }

  /// A message of the peer, on the current connection unless another is given.
  func receive(
    _ header: MessageHeader, control: [UInt8] = [], buffer: BufferID = .none,
    on: ConnectionID? = nil
  ) {
    entropy &+= 1
    control.withUnsafeBytes { bytes in
      replica.receive(
        on ?? connection, header, control: bytes, buffer: buffer, at: now, entropy: entropy)
    }
    drain()
  }

  func receive(_ type: MessageType, id: UInt64 = 0, length: UInt64 = 0) {
    receive(MessageHeader(type, id: id, length: length))
  }

  func receive(_ report: StateReport, as type: MessageType = .state) {
    var bytes = [UInt8](repeating: 0, count: Int(maxControlPayloadBytes))
    let count = bytes.withUnsafeMutableBytes { report.encode(into: $0) }
    var header = MessageHeader(type)
    header.payloadBytes = UInt32(count)
    receive(header, control: Array(bytes.prefix(count)))
  }

  func receiveHello(
    _ type: MessageType, on connection: ConnectionID, instance: UInt64 = 77, epoch: UInt64 = 0,
    from: NodeID = other, isPrimary: Bool = false
  ) {
    var hello = Hello(node: from, instance: instance, epoch: epoch, resource: "r0")
    hello.isPrimary = isPrimary
    receive(hello, as: type, on: connection)
  }

  func receive(_ hello: Hello, as type: MessageType, on connection: ConnectionID) {
    var bytes = [UInt8](repeating: 0, count: Int(maxControlPayloadBytes))
    let count = bytes.withUnsafeMutableBytes { hello.encode(into: $0) }
    var header = MessageHeader(type)
    header.payloadBytes = UInt32(count)
    receive(header, control: Array(bytes.prefix(count)), on: connection)
  }

  /// Gives a command and returns its token.
  @discardableResult
  func command(_ command: Command) -> UInt64 {
    nextToken += 1
    step(.command(command, token: nextToken))
    return nextToken
  }

  /// Submits a client request over `blocks`; its tag is the first block.
  func submit(
    _ operation: Operation, blocks: Range<UInt64> = 0..<1, fua: Bool = false, tag: UInt64? = nil
  ) {
    let range =
      operation == .flush
      ? ByteRange(start: 0, end: 0)
      : ByteRange(start: blocks.lowerBound * blockSize, end: blocks.upperBound * blockSize)
    var request = ClientRequest(operation, range, tag: tag ?? blocks.lowerBound)
    request.forceUnitAccess = fua
    if operation == .write || operation == .read { request.buffer = takeBuffer() }
    step(.submit(request))
  }

  func takeBuffer() -> BufferID {
    nextBuffer += 1
    held[BufferID(nextBuffer)] = 1
    return BufferID(nextBuffer)
  }

  func newConnection() -> ConnectionID {
    nextConnection += 1
    return ConnectionID(nextConnection)
  }

  // MARK: The disk

  /// Answers the disk effect at `index`.
  func finishDisk(at index: Int = 0, result: Int32 = 0) {
    let effect = disk.remove(at: index)
    guard let id = effect.diskRequest else { return }
    var buffer = BufferID.none
    if case .serve = effect { buffer = takeBuffer() }
    step(.diskCompleted(id, result: result, buffer: buffer))
  }

  func finishSuperblock(result: Int32 = 0) {
    guard superblockIsPending else {
      Issue.record("no superblock is being written")
      return
    }
    superblockIsPending = false
    if result >= 0, let writing { durable.append(writing) }
    step(.superblockWritten(result: result))
  }

  /// Answers everything of disk and superblock until nothing is left.
  func settle() {
    while !disk.isEmpty || superblockIsPending {
      if disk.isEmpty { finishSuperblock() } else { finishDisk() }
    }
  }

  // MARK: Account

  private func drain() {
    effects = []
    while true {
      while let effect = replica.effects.pop() {
        if effect.isMetadata {
          encode(effect)
          metadata.append(effect)
          if !holdsLog { answerMetadata() }
          continue
        }
        effects.append(effect)
        account(effect)
      }
      guard let id = comparing else { return }
      comparing = nil
      replica.step(.digestsCompared(id, differing: differing), at: now, entropy: entropy)
    }
  }

  private func encode(_ effect: Effect) {
    #expect(hasDisk, "metadata for a disk that was let go")
    var bytes = [UInt8](repeating: 0, count: 4096)
    bytes.withUnsafeMutableBytes { bytes in
      if case .writeBitmapPage(let entry) = effect { _ = replica.encodePage(entry, into: bytes) }
      if case .writeActivityLog = effect { _ = replica.encodeActivityLog(into: bytes) }
    }
    if case .writeBitmapPage = effect { page = bytes }
  }

  /// Answers the oldest page or transaction.
  func finishMetadata(result: Int32 = 0) {
    answerMetadata(result: result)
    drain()
  }

  private func answerMetadata(result: Int32 = 0) {
    let event: Event =
      switch metadata.removeFirst() {
      case .writeBitmapPage(let entry): .bitmapPageWritten(entry, result: result)
      default: .activityLogWritten(result: result)
      }
    entropy &+= 1
    replica.step(event, at: now, entropy: entropy)
  }

  private func account(_ effect: Effect) {
    switch effect {
    case .read, .serve, .write, .writeZeroes, .flush:
      #expect(hasDisk, "an operation on a disk that was let go")
      disk.append(effect)
    case .writeBitmapPage, .writeActivityLog: break
    case .writeSuperblock:
      #expect(hasDisk, "a superblock for a disk that was let go")
      #expect(!superblockIsPending, "two superblocks at once")
      superblockIsPending = true
      writing = replica.superblock
    case .send(let connection, let header, let buffer):
      #expect(!closed.contains(connection), "\(header.type) on a closed connection")
      #expect((buffer == .none) == (header.payloadBytes == 0), "payload without a buffer")
      sent.append(header)
    case .sendDigests(let connection, let header, _, _, _):
      #expect(!closed.contains(connection), "\(header.type) on a closed connection")
      sent.append(header)
    case .compareDigests(let id, _, _, _, _): comparing = id
    case .sendControl(let connection, let message):
      #expect(!closed.contains(connection), "\(message) on a closed connection")
      controls.append(message)
    case .release(let buffer):
      held[buffer, default: 0] -= 1
      #expect(held[buffer] == 0, "\(buffer) released twice or never taken")
    case .substitute(let tag, let buffer): substituted[tag] = buffer
    case .complete(let tag, let outcome):
      #expect(completions[tag] == nil, "tag \(tag) completed twice")
      completions[tag] = outcome
    case .reply(let token, let result):
      #expect(token == 1 || replies[token] == nil, "command \(token) answered twice")
      replies[token] = result
      if token == 1, result == .done { hasDisk = true }
    case .close(let connection):
      #expect(!closed.contains(connection), "closed twice")
      closed.append(connection)
    case .keepUndo(_, let number): undos.append(number)
    case .dial: dialing += 1
    case .detachDisk: hasDisk = false
    case .note: break
    }
  }

  /// Nothing is under way and every buffer came back.
  func expectSettled(_ comment: Comment? = nil) {
    let requests = replica.requestCount
    #expect(requests == 0, comment)
    #expect(held.values.allSatisfy { $0 == 0 }, comment)
  }

  /// What was sent since the last look.
  func takeSent() -> [MessageHeader] {
    defer { sent = [] }
    return sent
  }

  func sent(_ type: MessageType) -> MessageHeader? { sent.last { $0.type == type } }

  var state: ConnectionState { replica.status(ofPeer: 0).connection }
  var replication: ReplicationState { replica.status(ofPeer: 0).replication }
  var peer: PeerStatus { replica.status(ofPeer: 0) }
}

extension Effect {
  /// A page of a bitmap or a transaction of the activity log.
  var isMetadata: Bool {
    switch self {
    case .writeBitmapPage, .writeActivityLog: true
    default: false
    }
  }

  /// The request that a disk effect belongs to.
  var diskRequest: SlotID? {
    switch self {
    case .read(let id, _, _), .serve(let id, _), .write(let id, _, _, _),
      .writeZeroes(let id, _, _, _), .flush(let id):
      id
    default: nil
    }
  }

  /// A word or two for tests of order; `nil` for notes.
  var kind: String? {
    switch self {
    case .read: "read"
    case .serve: "serve"
    case .write(_, _, _, let durable): durable ? "write durably" : "write"
    case .writeZeroes: "write zeroes"
    case .flush: "flush"
    case .writeSuperblock: "superblock"
    case .writeBitmapPage: "page"
    case .writeActivityLog: "log"
    case .send(_, let header, _): "send \(header.type)"
    case .sendDigests(_, let header, _, _, _): "send \(header.type)"
    case .compareDigests: "compare"
    case .sendControl(_, let message): "send \(message)"
    case .keepUndo: "undo"
    case .dial: "dial"
    case .close: "close"
    case .release: "release"
    case .substitute: "substitute"
    case .complete(_, let outcome): "complete \(outcome)"
    case .reply: "reply"
    case .detachDisk: "detach"
    case .note: nil
    }
  }
}

extension [Effect] {
  /// The order of effects, without notes.
  var kinds: [String] { compactMap(\.kind) }
}

extension ControlMessage {
  var isBitmap: Bool {
    if case .bitmap = self { true } else { false }
  }
}
