/// One volume on this node: carries out what its `Replica` wants on the reactor.
///
/// Invariants:
/// - every effect is carried out before the next event is given to the core;
/// - the disk is closed only when nothing of it is in flight;
/// - a link's stream is closed exactly once, and its half-received payload goes back to the pool.
import Authentication
import BlockIO
import BlockTypes
import Configuration
import Exports
import Glibc
import Metadata
import Replication
import Wire

/// What a volume tells the node, to be handled after the reactor's turn.
enum VolumeReport: Sendable {
  case reply(token: UInt64, CommandResult)
  case note(Note)
  case attachFailed(token: UInt64, AttachFailure)
  case warning(String)
  /// What the core is about to give up is to be kept.
  case undo(peer: Int, number: UInt64)
}

/// Why a disk could not be attached.
enum AttachFailure: Sendable {
  /// The disk that was detached has operations that it did not answer.
  case oldDiskBusy
  case cannotOpen(String)
  case noMetadata
  case damaged(String)
  case readError(errno: Int32)
  case wrongSize(volumeBytes: UInt64, layoutBytes: UInt64)
  case noMemory(neededBytes: UInt64)
}

/// Bytes moved, for `status`.
struct VolumeCounters: BitwiseCopyable {
  var diskReadBytes: UInt64 = 0
  var diskWrittenBytes: UInt64 = 0
  var sentBytes: UInt64 = 0
  var receivedBytes: UInt64 = 0
}

/// One volume on this node.
@safe
struct Volume: ~Copyable {
  let index: Int
  let life: VolumeLife
  var configuration: ResourceConfiguration
  private(set) var host: HostConfiguration
  let peerHosts: [HostConfiguration]
  let listener: Listener
  let peerAddresses: [SocketAddress]
  var replica: Replica
  var disk: AttachedDisk?
  /// What was read of the activity log of a disk that is being attached; not in `disk`, which is
  /// copied often.
  var logRing = LogRing()
  /// Owns the descriptors in `disk`.
  var dataDevice: BlockDevice?
  var metadataDevice: BlockDevice?
  var links: FixedArray<PeerLink?>
  /// For each link: how it begins, until it is open.
  var beginnings: FixedArray<LinkBeginning?>
  /// For each link: what protects its messages.
  var guards: FixedArray<FrameGuard>
  /// For each link: the tag of the payload that is awaited.
  var tags: FixedArray<FrameTag>
  /// Links that are not open yet, and those of them that were accepted.
  var greetingLinks = 0
  var strangers = 0
  var strangerWarning = RareWarning()
  var linkCounter: UInt64 = 0
  /// Links that close, and links that wait for a buffer: a turn looks at links only for these.
  var closingLinks = 0
  var starvedLinks = 0
  /// Resync reads that wait for a buffer.
  var starvedServes: FIFO<StarvedServe>
  /// Disk effects that wait for a free operation of the reactor, which all volumes share.
  var starvedEffects: FIFO<Effect>
  /// The buffer of each resync read in flight, by the core's slot.
  var serveBuffers: FixedArray<BufferID>
  /// What a comparison of digests gave: the core's next event.
  var compared: (SlotID, UInt64)?
  var diskOperations = 0
  var dialsInFlight = 0
  /// When the dial to each peer is given up; the kernel's own patience is minutes.
  var dialDeadlines: FixedArray<Instant>
  var isAccepting = false
  /// When a failed accept is tried again.
  var acceptRetry = Instant.never
  var counters = VolumeCounters()
  var reports: [VolumeReport] = []
  var entropy: Entropy
  var exportSlot: ExportSlot?
  var isExportedWritable = false
  /// The node held the Primary role before it was restarted and takes it again when that is safe.
  var wantsPrimary = false
  /// The newest generation of the disk that the role was held with.
  var heldGeneration: Generation?
  /// Where resyncs are limited: it may fill its disk now.
  var hasResyncTurn = false
  /// What is kept for a discard is being written.
  var undo: UndoCancellation?
  /// Forgotten as soon as nothing is in flight.
  var isLeaving = false
  /// It was disconnected by an administrator, in this life of the daemon or in the one before: a
  /// disk that is attached is then no reason to connect.
  var standsAlone = false
  /// The core is to be told to connect, after `up`, as soon as the command under way has ended.
  var mustConnect = false
  /// The node ends, and this volume could not be left yet: a command was under way.
  var wantsShutdown = false
  /// The node ends, and this volume could not be left in time.
  var couldNotLeave = false
  let scratch: UnsafeMutableRawBufferPointer

  /// Operations of the reactor that disk effects leave free: an accept, dials and superblocks of
  /// every volume.
  static var operationReserve: Int { 1024 }
  /// Buffers of each size that reads for a peer leave free for what peers send. Two nodes that
  /// resync from each other would otherwise wait for each other's buffers.
  static var serveReserve: UInt32 { 8 }

  struct StarvedServe: BitwiseCopyable {
    var id: SlotID
    var range: ByteRange
  }

  init(
    index: Int, life: UInt64, configuration: ResourceConfiguration, node: String,
    listener: consuming Listener, options: ReplicaOptions, peerAddresses: [SocketAddress],
    seed: UInt64
  ) {
    guard let host = configuration.host(named: node) else {
      preconditionFailure("checked before the volume is made")
    }
    self.index = index
    self.life = VolumeLife(resource: configuration.name, number: life)
    self.configuration = configuration
    self.host = host
    self.listener = listener
    self.peerAddresses = peerAddresses
    peerHosts = configuration.peers(of: node)
    replica = Replica(options: options)
    serveBuffers = FixedArray(count: replica.requestCapacity) { _ in .none }
    links = FixedArray(count: PeerLink.limit) { _ in nil }
    beginnings = FixedArray(count: PeerLink.limit) { _ in nil }
    guards = FixedArray(count: PeerLink.limit) { _ in .initial }
    tags = FixedArray(count: PeerLink.limit) { _ in .none }
    dialDeadlines = FixedArray(count: peerHosts.count) { _ in .never }
    starvedEffects = FIFO(capacity: replica.requestCapacity, filler: .writeSuperblock)
    starvedServes = FIFO(
      capacity: replica.requestCapacity,
      filler: StarvedServe(
        id: SlotID(slot: 0, generation: 0), range: ByteRange(start: 0, end: 0)))
    entropy = Entropy(seed: seed)
    unsafe scratch = .allocate(
      byteCount: MessageHeader.byteCount + Int(maxControlPayloadBytes) + FrameTag.limit,
      alignment: 16)
  }

  deinit { unsafe scratch.deallocate() }

  /// Takes the backing disk of a changed file for the next attach, unless a disk is open.
  ///
  /// Nothing else of the file is taken: where the node listens was decided when it came up.
  /// Returns false, and takes nothing, where that file does not describe this node's volume.
  mutating func takeDisk(of new: ResourceConfiguration) -> Bool {
    guard let named = new.host(named: host.name), named.nodeID == host.nodeID,
      named.volumes.map(\.number) == host.volumes.map(\.number)
    else { return false }
    guard disk == nil else { return true }
    host.volumes = named.volumes
    for index in configuration.hosts.indices where configuration.hosts[index].name == host.name {
      configuration.hosts[index].volumes = named.volumes
    }
    return true
  }

  // MARK: Events

  /// Gives the core an event and carries out what it wants.
  mutating func step(
    _ event: Event, _ reactor: inout Reactor, _ server: inout NBDServer
  ) {
    replica.step(event, at: reactor.now, entropy: entropy.next())
    carryOut(&reactor, &server)
  }

  /// A disk operation, accept or connect of this volume ended.
  mutating func completed(
    _ tag: NodeTag, _ result: Int32, _ reactor: inout Reactor, _ server: inout NBDServer
  ) {
    switch tag.kind {
    case .operation:
      diskOperations -= 1
      operationEnded(tag.id, result, &reactor, &server)
    case .zeroesThenFlush:
      guard result >= 0, let open = disk else {
        diskOperations -= 1
        return operationEnded(tag.id, result, &reactor, &server)
      }
      reactor.diskFlush(
        open.dataDescriptor, tag: NodeTag(.operation, volume: index, id: tag.id).value)
    case .superblockWrite, .mirrorWrite:
      diskOperations -= 1
      copyWritten(result, isMirror: tag.kind == .mirrorWrite, &reactor, &server)
    case .bitmapPageWrite:
      diskOperations -= 1
      step(.bitmapPageWritten(UInt8(tag.id.slot), result: result), &reactor, &server)
    case .activityLogWrite:
      diskOperations -= 1
      step(.activityLogWritten(result: result), &reactor, &server)
    case .metadataRead:
      diskOperations -= 1
      metadataRead(result, &reactor, &server)
    case .superblockRead:
      diskOperations -= 1
      superblockRead(Int(tag.id.slot), result, &reactor, &server)
    case .accept: accepted(result, &reactor, &server)
    case .connect: connected(Int(tag.id.slot), result, &reactor, &server)
    case .peerStream, .export, nil: preconditionFailure("not an operation of a volume")
    }
    closeDiskIfIdle(&reactor)
  }

  private mutating func operationEnded(
    _ id: SlotID, _ result: Int32, _ reactor: inout Reactor, _ server: inout NBDServer
  ) {
    var buffer = serveBuffers[Int(id.slot)]
    serveBuffers[Int(id.slot)] = .none
    if buffer != .none, result > 0, replica.tellsZeroes(id),
      unsafe isZero(reactor.memory(of: buffer), Int(result))
    {
      reactor.release(buffer)
      buffer = .none
    }
    step(.diskCompleted(id, result: result, buffer: buffer), &reactor, &server)
  }

  /// Whether a range is read as zeroes: then only that is told to the peer.
  @unsafe private func isZero(_ memory: UnsafeMutableRawBufferPointer, _ count: Int) -> Bool {
    guard count > 8, let base = memory.baseAddress else { return false }
    guard unsafe memory.load(as: UInt64.self) == 0 else { return false }
    // Each byte is equal to the one 8 bytes before it: as fast as the C library compares.
    return unsafe memcmp(base, base + 8, count - 8) == 0
  }

  // MARK: Effects

  mutating func carryOut(_ reactor: inout Reactor, _ server: inout NBDServer) {
    while true {
      carryOutEffects(&reactor, &server)
      guard let (id, differing) = compared else { return }
      compared = nil
      replica.step(
        .digestsCompared(id, differing: differing), at: reactor.now, entropy: entropy.next())
    }
  }

  private mutating func carryOutEffects(
    _ reactor: inout Reactor, _ server: inout NBDServer
  ) {
    while let effect = replica.effects.pop() {
      switch effect {
      case .read, .serve, .write, .writeZeroes, .flush: carryOutOnDisk(effect, &reactor)
      case .writeSuperblock: writeSuperblock(&reactor)
      case .writeBitmapPage(let entry): writeBitmapPage(entry, &reactor)
      case .writeActivityLog: writeActivityLog(&reactor)
      case .send(let connection, let header, let buffer):
        send(connection, header, buffer, &reactor)
      case .sendControl(let connection, let message):
        sendControl(connection, message, &reactor)
      case .sendDigests(let connection, let header, let buffer, let bytes, let algorithm):
        sendDigests(connection, header, buffer, Int(bytes), algorithm, &reactor)
      case .compareDigests(let id, let data, let bytes, let digests, let algorithm):
        compareDigests(id, data, Int(bytes), digests, algorithm, &reactor)
      case .keepUndo(let peer, let number):
        reports.append(.undo(peer: peer, number: number))
      case .dial(let peer): dial(peer, &reactor)
      case .close(let connection): close(connection, &reactor)
      case .release(let buffer): reactor.release(buffer)
      case .substitute(let tag, let buffer):
        // The front end keeps a hold of its own on the buffer that it answers from.
        reactor.retain(buffer)
        server.substitute(tag, buffer: buffer, reactor: &reactor)
      case .complete(let tag, let outcome):
        server.complete(tag, error: outcome.errno, reactor: &reactor)
      case .reply(let token, let result): reports.append(.reply(token: token, result))
      case .detachDisk: detachDisk(&reactor)
      case .note(let note): reports.append(.note(note))
      }
    }
  }

  private mutating func carryOutOnDisk(_ effect: Effect, _ reactor: inout Reactor) {
    guard starvedEffects.isEmpty, reactor.freeOperations > Self.operationReserve else {
      return starvedEffects.push(effect)
    }
    beginOnDisk(effect, &reactor)
  }

  private mutating func beginOnDisk(_ effect: Effect, _ reactor: inout Reactor) {
    guard let open = disk else {
      preconditionFailure("the core uses no disk that is not attached")
    }
    let descriptor = open.dataDescriptor
    switch effect {
    case .read(let id, let range, let buffer):
      diskOperations += 1
      counters.diskReadBytes += range.length
      reactor.diskRead(
        descriptor, into: buffer, length: UInt32(range.length), at: range.start, tag: tag(id))
    case .serve(let id, let range): serve(id, range, descriptor, &reactor)
    case .write(let id, let range, let buffer, let durable):
      diskOperations += 1
      counters.diskWrittenBytes += range.length
      reactor.diskWrite(
        descriptor, from: buffer, length: UInt32(range.length), at: range.start,
        durable: durable, tag: tag(id))
    case .writeZeroes(let id, let range, let mayUnmap, let durable):
      diskOperations += 1
      counters.diskWrittenBytes += range.length
      let kind: TagKind = durable ? .zeroesThenFlush : .operation
      reactor.diskWriteZeroes(
        descriptor, at: range.start, length: range.length, mayUnmap: mayUnmap,
        tag: NodeTag(kind, volume: index, id: id).value)
    case .flush(let id):
      diskOperations += 1
      reactor.diskFlush(descriptor, tag: tag(id))
    case .writeSuperblock, .writeBitmapPage, .writeActivityLog, .send, .sendControl, .sendDigests,
      .compareDigests, .keepUndo, .dial, .close, .release, .substitute, .complete, .reply,
      .detachDisk, .note:
      preconditionFailure("not a disk effect")
    }
  }

  private func tag(_ id: SlotID) -> UInt64 { NodeTag(.operation, volume: index, id: id).value }

  private mutating func serve(
    _ id: SlotID, _ range: ByteRange, _ descriptor: Int32, _ reactor: inout Reactor
  ) {
    guard let buffer = reactor.allocate(UInt32(range.length), reserve: Self.serveReserve) else {
      starvedServes.push(StarvedServe(id: id, range: range))
      return
    }
    serveBuffers[Int(id.slot)] = buffer
    diskOperations += 1
    counters.diskReadBytes += range.length
    reactor.diskRead(
      descriptor, into: buffer, length: UInt32(range.length), at: range.start, tag: tag(id))
  }

  /// Whether something waits for what another volume or a client may give back at any time.
  var isStarved: Bool {
    starvedLinks > 0 || !starvedServes.isEmpty || !starvedEffects.isEmpty
  }

  /// Tries again what waited for operations or buffers. Called once a turn.
  mutating func retryStarved(_ reactor: inout Reactor, _ server: inout NBDServer) {
    while !starvedEffects.isEmpty, reactor.freeOperations > Self.operationReserve {
      guard let effect = starvedEffects.pop() else { break }
      beginOnDisk(effect, &reactor)
    }
    for _ in 0..<starvedServes.count {
      guard let waiting = starvedServes.pop() else { break }
      guard let open = disk else {
        step(
          .diskCompleted(waiting.id, result: -EIO, buffer: .none), &reactor, &server)
        continue
      }
      serve(waiting.id, waiting.range, open.dataDescriptor, &reactor)
    }
    guard starvedLinks > 0 else { return }
    for index in 0..<links.count where links[index]?.isStarved == true {
      links[index]?.isStarved = false
      starvedLinks -= 1
      readLink(index, &reactor, &server)
    }
  }

  // MARK: Time

  var nextDeadline: Instant {
    var deadline = min(replica.nextDeadline, acceptRetry)
    if dialsInFlight > 0 {
      for peer in 0..<dialDeadlines.count { deadline = min(deadline, dialDeadlines[peer]) }
    }
    guard closingLinks > 0 || greetingLinks > 0 else { return deadline }
    for index in 0..<links.count {
      guard let link = links[index] else { continue }
      deadline = min(deadline, link.closeBy)
      if greetingLinks > 0, let beginning = beginnings[index] {
        deadline = min(deadline, beginning.deadline)
      }
    }
    return deadline
  }

  mutating func tick(_ reactor: inout Reactor, _ server: inout NBDServer) {
    if reactor.now >= replica.nextDeadline { step(.tick, &reactor, &server) }
    if reactor.now >= acceptRetry, !isLeaving { startAccepting(&reactor) }
    if dialsInFlight > 0 { giveUpDials(before: reactor.now, &reactor) }
    if greetingLinks > 0 { expireGreetings(&reactor, &server) }
    guard closingLinks > 0 else { return }
    for index in 0..<links.count {
      guard let link = links[index], link.closeBy != .never else { continue }
      if reactor.now >= link.closeBy {
        reactor.closeStream(link.stream)
      } else if reactor.streamExists(link.stream) {
        continue
      }
      forgetLink(index)
    }
  }
}

extension Outcome {
  /// What an NBD client is told.
  var errno: Int32 {
    switch self {
    case .done: 0
    case .ioError: EIO
    case .notPrimary: EPERM
    case .invalid: EINVAL
    }
  }
}

/// A small fast generator for generation ids; seeded from the operating system.
struct Entropy: BitwiseCopyable {
  private var state: UInt64

  init(seed: UInt64) { state = seed }

  /// The next 64 bits (SplitMix64, Steele et al. 2014).
  mutating func next() -> UInt64 {
    state &+= 0x9E37_79B9_7F4A_7C15
    var mixed = state
    mixed = (mixed ^ (mixed >> 30)) &* 0xBF58_476D_1CE4_E5B9
    mixed = (mixed ^ (mixed >> 27)) &* 0x94D0_49BB_1331_11EB
    return mixed ^ (mixed >> 31)
  }
}
