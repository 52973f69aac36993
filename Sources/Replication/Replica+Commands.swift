/// What administrators ask: roles, connections, detach, invalidate, shutdown.
///
/// One command at a time. A command that changes the role waits for a handshake under way, and a
/// handshake waits for a command that has begun, so no report is untrue when it arrives.
import BlockTypes
import Metadata
import Wire

extension Replica {
  /// How long a command may wait for peers, disk and handshakes. Milliseconds.
  static var commandTimeoutMs: UInt64 { 10_000 }

  mutating func take(_ command: Command, _ token: UInt64) {
    switch command {
    case .pauseSync: pauseSync(true, token)
    case .resumeSync: pauseSync(false, token)
    case .resyncAllowed(let slot, let isAllowed):
      // Nobody says it again: it counts whatever else is under way.
      resyncIsAllowed(slot, isAllowed)
      reply(token, .done)
    case _ where self.command != nil: reply(token, .refused(.transient))

    case .connect: connect(token)
    case .discard(let plan): beginSpecialConnect(plan, token)
    case .connectTentatively: beginSpecialConnect(nil, token)
    case .giveWay(let slot, let heldOpen): giveWay(slot, heldOpen: heldOpen, token)
    case .disconnect where exposed != nil && goodPeer != nil:
      reply(token, .refused(.clientsLiveOnPeer))
    case .disconnect where servesPrimary: reply(token, .refused(.primaryLivesHere))
    case .disconnect:
      leaveAll(.byCommand)
      reply(token, .done)
    case .invalidate: beginInvalidate(token)
    case .invalidateRemote: beginInvalidateRemote(token)
    case .verify(let plan): beginVerify(plan, token)

    case .primary(let force): queue(.primary(force: force), token)
    case .secondary(heldOpen: true) where role == .primary: reply(token, .refused(.heldOpen))
    case .secondary: queue(.secondary, token)
    case .detach where servesPrimary: reply(token, .refused(.primaryLivesHere))
    case .detach where role == .primary: detachUnderClients(token)
    case .detach: queue(.detach, token)
    case .skipFirstSync: queue(.skipFirstSync, token)
    case .shutdown: queue(.shutdown, token)
    }
  }

  /// Says how a command ended that is not, or not any more, the one under way.
  mutating func reply(_ token: UInt64, _ result: CommandResult) {
    effects.push(.reply(token: token, result))
  }

  mutating func queue(_ kind: PendingCommand.Kind, _ token: UInt64) {
    command = PendingCommand(
      kind: kind, token: token, deadline: now.advanced(milliseconds: Self.commandTimeoutMs))
  }

  private mutating func connect(_ token: UInt64) {
    forgetDiscards()
    for slot in 0..<peers.count {
      peers[slot].isTentative = false
      beginConnecting(slot)
    }
    reply(token, .done)
  }

  /// When the command under way expires. One that is being made durable ends with the disk.
  var commandDeadline: Instant {
    guard let command else { return .never }
    if case .persisting = command.stage { return .never }
    return command.deadline
  }

  /// The role when the record of it that is on its way to the disk has arrived. Another change of
  /// the superblock must not overtake that record with the role before.
  var isOrBecomesPrimary: Bool {
    guard let command, case .persisting = command.stage else { return role == .primary }
    switch command.kind {
    case .primary: return true
    case .secondary, .shutdown: return false
    case .detach, .skipFirstSync: return role == .primary
    }
  }

  /// Whether a handshake must wait because a command is changing what would be reported.
  var commandIsUnderWay: Bool {
    guard let command else { return false }
    if case .queued = command.stage { return false }
    return true
  }

  /// Whether clients may not submit any more because the node is leaving the Primary role.
  var isDemoting: Bool {
    switch command?.kind {
    case .secondary, .shutdown: true
    case .primary, .detach, .skipFirstSync, nil: false
    }
  }

  mutating func finish(_ result: CommandResult) {
    guard let pending = command else { return }
    command = nil
    reply(pending.token, result)
  }

  mutating func advanceCommand() {
    guard let pending = command else { return }
    switch pending.stage {
    case .queued: if !isShakingHands { beginQueued(pending) }
    case .asking: continueAsking(pending)
    case .persisting(let version):
      if !hasSuperblock || versionDurable >= version { persisted(pending) }
    case .draining: if isDrained { flushForCommand() }
    case .sweeping(let number): if sweep.done >= number { commandSwept(pending) }
    case .flushing: break
    }
  }

  private var isDrained: Bool {
    guard clientRequests == 0 else { return false }
    for slot in 0..<peers.count where peers[slot].requestsHere > 0 { return false }
    return true
  }

  private mutating func beginQueued(_ pending: PendingCommand) {
    switch pending.kind {
    case .primary(let force): beginPromotion(force: force)
    case .secondary:
      if role == .secondary { finish(.done) } else { command?.stage = .draining }
    case .shutdown:
      // A Secondary leaves first: were writes still acknowledged after its last flush, a power
      // loss could take them from a replica that says it is clean.
      if role != .primary { leaveAll(.shutdown) }
      for slot in 0..<peers.count { giveVerifyUp(slot) }
      command?.stage = .draining
    case .detach:
      guard disk != .diskless else { return finish(.done) }
      for slot in 0..<peers.count { giveVerifyUp(slot) }
      isDetaching = true
      tellDisk(.diskless)
      command?.stage = .draining
    case .skipFirstSync:
      if let refusal = skipFirstSync() { finish(.refused(refusal)) }
    }
    if let begun = command, case .draining = begun.stage { advanceCommand() }
  }

  // MARK: Clean

  /// Flushes when nobody writes any more, so that a crash from then on counts as none.
  mutating func beginCleanFlush() {
    guard role == .secondary, !anyPeerIsPrimary, superblock?.dirty == true, !isTarget else {
      return
    }
    guard cleanFlush == nil else {
      cleanFlushIsWantedAgain = true
      return
    }
    cleanFlushIsWantedAgain = false
    cleanFlushIsStale = false
    cleanSweep = nil
    for slot in 0..<peers.count where peers[slot].requestsHere > 0 { return }
    cleanFlush = beginFlush(.cleanFlush)
  }

  /// Something is about to be written that a flush under way does not cover.
  mutating func flushesAreStale() {
    cleanFlushIsStale = true
    commandFlushIsStale = true
  }

  mutating func cleanFlushed() {
    if cleanFlushIsWantedAgain { return beginCleanFlush() }
    guard !cleanFlushIsStale, hasSuperblock else { return }
    cleanSweep = wantSweep()
  }

  /// Nobody writes, everything that was written is on the disk, and so are the marks.
  mutating func markClean() {
    guard !cleanFlushIsStale, role == .secondary, !anyPeerIsPrimary, command == nil, !isTarget,
      var block = superblock,
      block.dirty, !crashed
    else { return }
    block.dirty = false
    superblock = block
    changeSuperblock()
  }

  // MARK: Leaving

  private mutating func flushForCommand() {
    guard disk != .diskless, disk != .failed else {
      if let pending = command { persisted(pending) }
      return
    }
    // One that was begun for a command given up meanwhile has to end first.
    guard commandFlush == nil else { return }
    commandFlushIsStale = false
    let flush = beginFlush(.commandFlush)
    commandFlush = flush
    command?.stage = .flushing(flush)
  }

  mutating func commandFlushed(_ id: SlotID) {
    guard let pending = command, case .flushing(id) = pending.stage else { return }
    guard hasSuperblock else { return persisted(pending) }
    let number = options.sabotage == .leaveWithoutMarks ? sweep.done : wantSweep()
    command?.stage = .sweeping(number)
  }

  /// Everything that was written and marked is on the disk.
  private mutating func commandSwept(_ pending: PendingCommand) {
    // Without a disk there is nothing to take down, and nothing keeps the node from leaving.
    guard var block = superblock else { return persisted(pending) }
    let peerWrites = pending.kind.leavesPeersBehind && anyPeerGoesOn
    if peerWrites, block.diskState == .upToDate {
      // The Primary goes on without us: what we have is of an older moment from now on.
      block.diskState = .outdated
    }
    block.wasPrimary = false
    // A repair or a resync goes on meanwhile: what it has written since is in no flush.
    block.dirty = crashed || isTarget || commandFlushIsStale || anyPeerIsPrimary && !peerWrites
    superblock = block
    let version = changeSuperblock()
    command?.stage = .persisting(version: version)
  }

  private mutating func persisted(_ pending: PendingCommand) {
    switch pending.kind {
    case .primary: promoted()
    case .secondary:
      become(role: .secondary)
      tellRole(.secondary)
      finish(.done)
      hasGivenWay()
      // What was written to this disk meanwhile left it dirty, and nobody else may flush it.
      beginCleanFlush()
    case .detach:
      isDetaching = false
      dropDisk()
      leaveSyncs()
      finish(.done)
    case .shutdown:
      become(role: .secondary)
      leaveAll(.shutdown)
      finish(.done)
    case .skipFirstSync:
      skippedFirstSync()
      finish(disk == .upToDate ? .done : .refused(.noLocalDisk))
    }
  }

  private mutating func leaveAll(_ reason: Reason) {
    for slot in 0..<peers.count { leave(slot, reason) }
  }

  /// Says goodbye and goes StandAlone.
  private mutating func leave(_ slot: Int, _ reason: Reason) {
    if peers[slot].state == .connected, let connection = peers[slot].connection {
      // The Primary goes on without us: what we have is of an older moment from now on.
      if goesOnAlone(slot) { markOutdated() }
      let header = MessageHeader(.goodbye, length: UInt64(role.rawValue))
      effects.push(.send(connection, header, .none))
    }
    loseConnection(slot, reason)
  }

  mutating func expireCommand(_ pending: PendingCommand) {
    finish(.refused(.timeout))
    for slot in 0..<peers.count { peers[slot].givesWay = false }
    switch pending.kind {
    case .primary: tellRole(role)
    case .detach where isDetaching:
      // The peers were told that the disk is gone, and go on without it: agree anew.
      isDetaching = false
      for slot in 0..<peers.count where peers[slot].state == .connected {
        loseConnection(slot, .renegotiate)
      }
    case .secondary, .detach, .shutdown, .skipFirstSync: break
    }
  }

  private mutating func beginInvalidate(_ token: UInt64) {
    guard hasSuperblock, disk != .diskless, disk != .failed else {
      reply(token, .refused(.noLocalDisk))
      return
    }
    var mayHelp = true
    for slot in 0..<peers.count where peers[slot].state == .connected {
      mayHelp = peers[slot].disk == .upToDate
    }
    guard role != .primary, mayHelp, !isShakingHands else {
      reply(token, .refused(mayHelp ? .transient : .noRemoteDisk))
      return
    }
    invalidateData()
    reply(token, .done)
  }

  /// The data is declared worthless, and with it the history that it had.
  mutating func invalidateData() {
    guard var block = superblock else { return }
    block.diskState = .inconsistent
    block.lineage = Lineage()
    for slot in 0..<peers.count {
      peers[slot].base = nil
      peers[slot].mayShareNewest = false
      markAll(slot)
    }
    crashed = false
    superblock = block
    become(disk: .inconsistent)
    changeSuperblock()
    for slot in 0..<peers.count where peers[slot].state == .connected {
      loseConnection(slot, .renegotiate)
    }
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
      let header = MessageHeader(
        .diskChanged, offset: UInt64(role.rawValue), length: UInt64(disk.rawValue))
      effects.push(.send(connection, header, .none))
      guard role == .primary, isGood(slot), !peers[slot].awaitsDiskAck else { continue }
      peers[slot].awaitsDiskAck = true
      expectAnswer(slot)
    }
  }

  mutating func receivedDiskChange(_ slot: Int, _ header: MessageHeader) {
    // Losing the disk is the one change that needs no new handshake.
    guard header.length == UInt64(DiskState.diskless.rawValue),
      header.offset <= UInt64(Role.secondary.rawValue)
    else {
      return protocolViolation(slot, .diskChanged)
    }
    become(slot, peerDisk: .diskless)
    stopVerify(slot, .noRemoteDisk)
    let wasAwaited = peers[slot].awaitsDiskAck
    if wasAwaited {
      // Both lost their disks: the peer has nothing to put on record.
      peers[slot].awaitsDiskAck = false
      gotAnswer(slot)
    }
    stopWaitingForAccess()
    if wasAwaited { finishClientRequests() }
    // A peer that was granted the role may have lost its disk before it took it.
    let goesOnHere = header.offset == UInt64(Role.primary.rawValue)
    if goesOnHere, role != .primary, disk == .upToDate, !isDetaching {
      return servePrimary(slot)
    }
    if peers[slot].replication != .established { loseConnection(slot, .diskFailed) }
  }
}

extension PendingCommand.Kind {
  /// Whether a Primary peer goes on writing without this node afterwards.
  var leavesPeersBehind: Bool {
    switch self {
    case .detach, .shutdown: true
    case .primary, .secondary, .skipFirstSync: false
    }
  }
}
