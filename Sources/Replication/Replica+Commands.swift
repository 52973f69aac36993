/// What administrators ask: roles, connections, detach, invalidate, shutdown.
///
/// One command at a time. A command that changes the role waits for a handshake under way, and a
/// handshake waits for a command that has begun, so no report is untrue when it arrives.
/// Promotion asks every connected peer first; of two that ask at once the lower node id wins.
import BlockTypes
import Metadata
import Wire

extension Replica {
  /// How long a command may wait for peers, disk and handshakes. Milliseconds.
  private static var commandTimeoutMs: UInt64 { 10_000 }

  mutating func begin(_ command: Command, _ token: UInt64) {
    guard self.command == nil else {
      effects.push(.reply(token: token, .refused(.transient)))
      return
    }
    switch command {
    case .connect:
      for slot in 0..<peers.count { beginConnecting(slot) }
      effects.push(.reply(token: token, .done))
    case .disconnect:
      for slot in 0..<peers.count { leave(slot, .byCommand) }
      effects.push(.reply(token: token, .done))
    case .secondary(heldOpen: true) where role == .primary:
      effects.push(.reply(token: token, .refused(.heldOpen)))
    case .detach where role == .primary:
      effects.push(.reply(token: token, .refused(.primaryNeedsDisk)))
    case .invalidate: beginInvalidate(token)
    case .primary, .secondary, .detach, .shutdown:
      self.command = PendingCommand(
        command: command, token: token, stage: .queued,
        deadline: now.advanced(milliseconds: Self.commandTimeoutMs))
    }
  }

  /// When the command under way expires. One that is being made durable ends with the disk.
  var commandDeadline: Instant {
    guard let command else { return .never }
    if case .persisting = command.stage { return .never }
    return command.deadline
  }

  /// Whether a handshake must wait because a command is changing what would be reported.
  var commandIsUnderWay: Bool {
    guard let command else { return false }
    if case .queued = command.stage { return false }
    return true
  }

  /// Whether clients may not submit any more because the node is leaving the Primary role.
  var isDemoting: Bool {
    switch command?.command {
    case .secondary, .shutdown: true
    case .connect, .disconnect, .primary, .detach, .invalidate, nil: false
    }
  }

  private mutating func finish(_ result: CommandResult) {
    guard let pending = command else { return }
    command = nil
    effects.push(.reply(token: pending.token, result))
    continueQuiescing()
  }

  mutating func advanceCommand() {
    guard let pending = command else { return }
    switch pending.stage {
    case .queued: if !isShakingHands { beginQueued(pending) }
    case .asking: continueAsking(pending)
    case .persisting(let version):
      if superblock == nil || versionDurable >= version { persisted(pending) }
    case .draining: if isDrained { flushForCommand() }
    case .flushing: break
    }
  }

  private var isDrained: Bool {
    guard clientRequests == 0 else { return false }
    for slot in 0..<peers.count where peers[slot].requestsHere > 0 { return false }
    return true
  }

  private mutating func beginQueued(_ pending: PendingCommand) {
    switch pending.command {
    case .primary(let force): beginPromotion(force: force)
    case .secondary:
      if role == .secondary { finish(.done) } else { command?.stage = .draining }
    case .shutdown: command?.stage = .draining
    case .detach:
      guard disk != .diskless else { return finish(.done) }
      isDetaching = true
      tellDisk(.diskless)
      command?.stage = .draining
    case .connect, .disconnect, .invalidate: preconditionFailure("done at once")
    }
    if case .draining? = command?.stage, isDrained { flushForCommand() }
  }

  // MARK: Promotion

  private mutating func beginPromotion(force: Bool) {
    if role == .primary { return finish(.done) }
    if anyPeerIsPrimary { return finish(.refused(.multiplePrimaries)) }
    var isTarget = false
    for slot in 0..<peers.count where peers[slot].replication == .syncTarget { isTarget = true }
    let hasData = disk == .upToDate
    let mayForce =
      force && !isTarget && (disk == .inconsistent || disk == .outdated || disk == .consistent)
    guard hasData || mayForce else { return finish(.refused(.needUpToDateData)) }
    for slot in 0..<peers.count {
      peers[slot].promoteAsked = false
      peers[slot].promoteAnswered = false
    }
    command?.stage = .asking
    if let pending = command { continueAsking(pending) }
  }

  private var anyPeerIsPrimary: Bool {
    for slot in 0..<peers.count where peers[slot].role == .primary { return true }
    return false
  }

  private mutating func continueAsking(_ pending: PendingCommand) {
    var isAnswered = true
    for slot in 0..<peers.count where peers[slot].state == .connected {
      guard let connection = peers[slot].connection else { continue }
      if !peers[slot].promoteAsked {
        peers[slot].promoteAsked = true
        effects.push(.send(connection, MessageHeader(.promoteRequest), .none))
        expectAnswer(slot)
      }
      if !peers[slot].promoteAnswered { isAnswered = false }
    }
    guard isAnswered else { return }
    guard case .primary(let force) = pending.command, var block = superblock else {
      return finish(.refused(.needUpToDateData))
    }
    guard disk == .upToDate || force else { return finish(.refused(.needUpToDateData)) }
    block.dirty = true
    block.wasPrimary = true
    if disk != .upToDate {
      // The operator's word that this data counts: a generation of its own, unknown to all peers.
      for slot in 0..<peers.count where peers[slot].base == nil {
        peers[slot].base = block.lineage.newest ?? Generation.beforeAll(options.node)
      }
      block.lineage.begin(id: entropy, author: options.node)
      block.diskState = .upToDate
      crashed = false
      isForcing = true
      if let generation = block.lineage.newest { effects.push(.note(.newGeneration(generation))) }
    }
    superblock = block
    let version = changeSuperblock()
    command?.stage = .persisting(version: version)
  }

  private mutating func promoted() {
    become(role: .primary)
    become(disk: .upToDate)
    tellRole(.primary)
    finish(.done)
    guard isForcing else { return }
    isForcing = false
    for slot in 0..<peers.count where peers[slot].state == .connected {
      loseConnection(slot, .renegotiate)
    }
  }

  mutating func receivedPromoteRequest(_ slot: Int) {
    var isRefused = role == .primary
    if case .primary? = command?.command, commandIsUnderWay {
      if options.node < peers[slot].node {
        isRefused = true
      } else if case .asking? = command?.stage {
        finish(.refused(.multiplePrimaries))
      } else {
        isRefused = true
      }
    }
    for other in 0..<peers.count where other != slot && peers[other].role == .primary {
      isRefused = true
    }
    guard !isRefused else { return answerPromotion(slot, granted: false) }
    become(slot, peerRole: .primary)
    guard var block = superblock, !block.dirty else {
      peers[slot].versionOfGrant = versionWanted
      return grantWhenDurable(slot)
    }
    // Its writes may come as soon as it has our answer: a crash from now on must be seen as one.
    block.dirty = true
    superblock = block
    peers[slot].versionOfGrant = changeSuperblock()
  }

  mutating func grantWhenDurable(_ slot: Int) {
    guard let version = peers[slot].versionOfGrant else { return }
    guard superblock == nil || versionDurable >= version else { return }
    peers[slot].versionOfGrant = nil
    answerPromotion(slot, granted: true)
  }

  private mutating func answerPromotion(_ slot: Int, granted: Bool) {
    guard peers[slot].state == .connected, let connection = peers[slot].connection else { return }
    let header = MessageHeader(.promoteReply, length: granted ? 1 : 0)
    effects.push(.send(connection, header, .none))
  }

  mutating func receivedPromoteReply(_ slot: Int, _ header: MessageHeader) {
    guard peers[slot].promoteAsked, !peers[slot].promoteAnswered else {
      return protocolViolation(slot, .promoteReply)
    }
    gotAnswer(slot)
    peers[slot].promoteAnswered = true
    guard case .primary? = command?.command, case .asking? = command?.stage else {
      // Given up meanwhile: the peer must not go on believing that we are Primary.
      return tellRole(role)
    }
    if header.length != 1 {
      finish(.refused(.multiplePrimaries))
      tellRole(role)
    }
  }

  mutating func receivedRole(_ slot: Int, _ header: MessageHeader) {
    guard let new = Role(rawValue: UInt8(truncatingIfNeeded: header.length)), new != .unknown else {
      return protocolViolation(slot, .roleChanged)
    }
    become(slot, peerRole: new)
    if new == .secondary, role == .secondary, disk != .diskless, disk != .failed {
      beginCommandFlush(.cleanFlush)
    }
  }

  /// Nobody writes any more and the disk was flushed: a crash from here on loses nothing.
  mutating func cleanFlushed() {
    guard role == .secondary, !anyPeerIsPrimary, command == nil, var block = superblock,
      block.dirty, !crashed
    else { return }
    block.dirty = false
    superblock = block
    changeSuperblock()
  }

  // MARK: Leaving

  private mutating func flushForCommand() {
    guard disk != .diskless, disk != .failed else {
      command?.stage = .persisting(version: 0)
      if let pending = command { persisted(pending) }
      return
    }
    command?.stage = .flushing
    beginCommandFlush(.commandFlush)
  }

  mutating func beginCommandFlush(_ origin: Origin) {
    var flush = Request(
      origin, .flush, ByteRange(start: 0, end: 0), tag: command?.token ?? 0)
    flush.phase = .active
    flush.isLocalPending = true
    effects.push(.flush(insert(flush)))
  }

  mutating func commandFlushed(_ request: Request) {
    guard let pending = command, case .flushing = pending.stage, pending.token == request.tag
    else { return }
    guard var block = superblock else { return finish(.refused(.primaryNeedsDisk)) }
    let peerWrites = pending.command.leavesPeersBehind && anyPeerIsPrimary
    if peerWrites, block.diskState == .upToDate {
      // The Primary goes on without us: what we have is of an older moment from now on.
      block.diskState = .outdated
    }
    block.wasPrimary = false
    block.dirty = crashed || (anyPeerIsPrimary && !peerWrites)
    superblock = block
    let version = changeSuperblock()
    command?.stage = .persisting(version: version)
  }

  private mutating func persisted(_ pending: PendingCommand) {
    switch pending.command {
    case .primary:
      // The disk may have failed while it was to take this down: nothing is on record then.
      if superblock == nil { finish(.refused(.needUpToDateData)) } else { promoted() }
    case .secondary:
      become(role: .secondary)
      tellRole(.secondary)
      finish(.done)
    case .detach:
      isDetaching = false
      dropDisk()
      finish(.done)
    case .shutdown:
      become(role: .secondary)
      for slot in 0..<peers.count { leave(slot, .shutdown) }
      finish(.done)
    case .connect, .disconnect, .invalidate: preconditionFailure("never persisted as a command")
    }
  }

  /// Says goodbye and goes StandAlone.
  private mutating func leave(_ slot: Int, _ reason: Reason) {
    if peers[slot].state == .connected, let connection = peers[slot].connection {
      if peers[slot].role == .primary, reason == .byCommand { markOutdated() }
      let header = MessageHeader(.goodbye, length: UInt64(role.rawValue))
      effects.push(.send(connection, header, .none))
    }
    loseConnection(slot, reason)
  }

  mutating func expireCommand(_ pending: PendingCommand) {
    if case .persisting = pending.stage {
      // The superblock will be durable or the disk fail; either ends the command.
      command?.deadline = .never
      return
    }
    isDetaching = false
    tellRole(role)
    finish(.refused(.timeout))
  }

  private mutating func beginInvalidate(_ token: UInt64) {
    guard var block = superblock, disk != .diskless, disk != .failed else {
      effects.push(.reply(token: token, .refused(.noLocalDisk)))
      return
    }
    var mayHelp = true
    for slot in 0..<peers.count where peers[slot].state == .connected {
      mayHelp = peers[slot].disk == .upToDate
    }
    guard role != .primary, mayHelp, !isShakingHands else {
      effects.push(.reply(token: token, .refused(mayHelp ? .transient : .noRemoteDisk)))
      return
    }
    // The data is declared worthless, and with it the history that it had.
    block.diskState = .inconsistent
    block.lineage = Lineage()
    for slot in 0..<peers.count { peers[slot].base = nil }
    crashed = false
    superblock = block
    become(disk: .inconsistent)
    changeSuperblock()
    for slot in 0..<peers.count where peers[slot].state == .connected {
      loseConnection(slot, .renegotiate)
    }
    effects.push(.reply(token: token, .done))
  }

  mutating func tellRole(_ role: Role) {
    for slot in 0..<peers.count where peers[slot].state == .connected {
      guard let connection = peers[slot].connection else { continue }
      let header = MessageHeader(.roleChanged, length: UInt64(role.rawValue))
      effects.push(.send(connection, header, .none))
    }
  }

  mutating func tellDisk(_ disk: DiskState) {
    for slot in 0..<peers.count where peers[slot].state == .connected {
      guard let connection = peers[slot].connection else { continue }
      let header = MessageHeader(.diskChanged, length: UInt64(disk.rawValue))
      effects.push(.send(connection, header, .none))
    }
  }

  mutating func receivedDiskChange(_ slot: Int, _ header: MessageHeader) {
    guard let new = DiskState(rawValue: UInt8(truncatingIfNeeded: header.length)) else {
      return protocolViolation(slot, .diskChanged)
    }
    become(slot, peerDisk: new)
    if peers[slot].replication != .established { loseConnection(slot, .diskFailed) }
  }
}

extension Command {
  /// Whether a Primary peer goes on writing without this node afterwards.
  var leavesPeersBehind: Bool {
    switch self {
    case .detach, .shutdown, .disconnect: true
    case .connect, .primary, .secondary, .invalidate: false
    }
  }
}
