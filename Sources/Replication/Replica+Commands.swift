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
  static var commandTimeoutMs: UInt64 { 10_000 }

  mutating func begin(_ command: Command, _ token: UInt64) {
    switch command {
    case .pauseSync: return pauseSync(true, token)
    case .resumeSync: return pauseSync(false, token)
    default: break
    }
    guard self.command == nil else {
      effects.push(.reply(token: token, .refused(.transient)))
      return
    }
    switch command {
    case .connect:
      for slot in 0..<peers.count {
        peers[slot].discardsMyData = false
        peers[slot].isTentative = false
        peers[slot].declinesUndo = false
        peers[slot].givesWay = false
        beginConnecting(slot)
      }
      effects.push(.reply(token: token, .done))
    case .discard(let plan): beginSpecialConnect(plan, token)
    case .connectTentatively: beginSpecialConnect(nil, token)
    case .resyncAllowed(let slot, let isAllowed):
      resyncIsAllowed(slot, isAllowed)
      effects.push(.reply(token: token, .done))
    case .giveWay(let slot, let heldOpen): giveWay(slot, heldOpen: heldOpen, token)
    case .disconnect where exposed != nil && goodPeer != nil:
      effects.push(.reply(token: token, .refused(.clientsLiveOnPeer)))
    case .disconnect:
      for slot in 0..<peers.count { leave(slot, .byCommand) }
      effects.push(.reply(token: token, .done))
    case .secondary(heldOpen: true) where role == .primary:
      effects.push(.reply(token: token, .refused(.heldOpen)))
    case .detach where servesPrimary:
      effects.push(.reply(token: token, .refused(.primaryLivesHere)))
    case .detach where role == .primary:
      detachUnderClients(token)
    case .invalidate: beginInvalidate(token)
    case .verify(let plan): beginVerify(plan, token)
    case .invalidateRemote: beginInvalidateRemote(token)
    case .pauseSync, .resumeSync: preconditionFailure("done before")
    case .primary, .secondary, .detach, .shutdown, .skipFirstSync:
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

  /// The role when the record of it that is on its way to the disk has arrived. Another change of
  /// the superblock must not overtake that record with the role before.
  var isOrBecomesPrimary: Bool {
    guard let command, case .persisting = command.stage else { return role == .primary }
    switch command.command {
    case .primary: return true
    case .secondary, .shutdown: return false
    case .connect, .discard, .connectTentatively, .resyncAllowed, .giveWay, .disconnect, .detach,
      .invalidate, .invalidateRemote, .skipFirstSync, .pauseSync, .resumeSync, .verify:
      return role == .primary
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
    switch command?.command {
    case .secondary, .shutdown: true
    case .connect, .discard, .connectTentatively, .resyncAllowed, .giveWay, .disconnect, .primary,
      .detach, .invalidate, .invalidateRemote, .skipFirstSync, .pauseSync, .resumeSync, .verify,
      nil:
      false
    }
  }

  private mutating func finish(_ result: CommandResult) {
    guard let pending = command else { return }
    command = nil
    effects.push(.reply(token: pending.token, result))
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
    switch pending.command {
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
    case .connect, .discard, .connectTentatively, .resyncAllowed, .giveWay, .disconnect,
      .invalidate, .invalidateRemote, .pauseSync, .resumeSync, .verify:
      preconditionFailure("done at once")
    }
    if let begun = command, case .draining = begun.stage { advanceCommand() }
  }

  // MARK: Promotion

  private mutating func beginPromotion(force: Bool) {
    if role == .primary { return finish(.done) }
    if anyPeerIsPrimary { return finish(.refused(.multiplePrimaries)) }
    let hasData = disk == .upToDate
    let mayForce =
      isForced(force) && !isTarget
      && (disk == .inconsistent || disk == .outdated || disk == .consistent)
    guard hasData || mayForce else { return finish(.refused(whyNotPromoted)) }
    for slot in 0..<peers.count {
      if peers[slot].promoteAsked, !peers[slot].promoteAnswered { peers[slot].stalePromotions += 1 }
      peers[slot].promoteAsked = false
      peers[slot].promoteAnswered = false
    }
    promotionNumber += 1
    command?.stage = .asking
    if let pending = command { continueAsking(pending) }
  }

  /// What this node's own data lacks: a peer that has everything does not make up for it.
  private var whyNotPromoted: Refusal {
    if disk == .diskless || disk == .failed { return .noDiskToPromote }
    return isTarget ? .targetOfResync : .needUpToDateData
  }

  /// Whether this node's data is being replaced: writes come without a Primary.
  private var isTarget: Bool {
    for slot in 0..<peers.count where peers[slot].replication.isTarget { return true }
    return isRepairTarget
  }

  private func isForced(_ force: Bool) -> Bool {
    force || options.sabotage == .promoteOutdated && disk == .outdated
  }

  private var anyPeerIsPrimary: Bool {
    for slot in 0..<peers.count where peers[slot].role == .primary { return true }
    return false
  }

  private var anyPeerGoesOn: Bool {
    for slot in 0..<peers.count where goesOnAlone(slot) { return true }
    return false
  }

  private mutating func continueAsking(_ pending: PendingCommand) {
    var isAnswered = true
    for slot in 0..<peers.count where peers[slot].state == .connected {
      guard let connection = peers[slot].connection else { continue }
      if !peers[slot].promoteAsked {
        peers[slot].promoteAsked = true
        var request = MessageHeader(.promoteRequest, id: promotionNumber)
        if case .primary(force: true) = pending.command { request.length = 1 }
        effects.push(.send(connection, request, .none))
        expectAnswer(slot)
      }
      let mustWait = options.sabotage != .promoteUnasked
      if !peers[slot].promoteAnswered, mustWait { isAnswered = false }
    }
    guard isAnswered else { return }
    guard case .primary(let force) = pending.command, var block = superblock,
      disk == .upToDate || isForced(force)
    else {
      // The disk failed meanwhile. Who granted must not go on believing that we are Primary.
      tellRole(role)
      return finish(.refused(whyNotPromoted))
    }
    block.dirty = true
    block.wasPrimary = true
    startsAnew(block.lineage)
    if disk != .upToDate {
      // The operator's word that this data counts: a generation of its own, unknown to all peers.
      // What an Inconsistent disk was being made into does not count any more, only what it was.
      for slot in 0..<peers.count where peers[slot].base == nil || disk == .inconsistent {
        peers[slot].base = block.lineage.newest ?? Generation.beforeAll(options.node)
      }
      block.lineage.begin(id: entropy, author: options.node, at: unixSeconds)
      block.diskState = .upToDate
      crashed = false
      isForcing = true
      if let generation = block.lineage.newest { effects.push(.note(.newGeneration(generation))) }
    }
    superblock = block
    let version = changeSuperblock()
    command?.stage = .persisting(version: version)
  }

  /// What this node took for a Primary without a disk, that Primary's clients know. What clients
  /// write here from now on, they do not: a generation of its own, if there is a write.
  private mutating func startsAnew(_ history: Lineage) {
    guard let newest = history.newest, newest.continuesPrimary, newest.author == options.node else {
      return
    }
    for slot in 0..<peers.count where peers[slot].base != nil { peers[slot].mayShareNewest = true }
  }

  private mutating func promoted() {
    guard superblock?.diskState == .upToDate else {
      // The disk failed before it could take this down, or is known to be Outdated by now.
      isForcing = false
      tellRole(role)
      return finish(.refused(whyNotPromoted))
    }
    become(role: .primary)
    become(disk: .upToDate)
    forgetUndo()
    tellRole(.primary)
    finish(.done)
    guard isForcing else { return }
    isForcing = false
    for slot in 0..<peers.count where peers[slot].state == .connected {
      loseConnection(slot, .renegotiate)
    }
  }

  mutating func receivedPromoteRequest(_ slot: Int, _ header: MessageHeader) {
    var isRefused = role == .primary
    if case .primary? = command?.command, commandIsUnderWay {
      if options.node < peers[slot].node {
        isRefused = true
      } else if case .asking? = command?.stage {
        finish(.refused(.multiplePrimaries))
        tellRole(role)
      } else {
        isRefused = true
      }
    }
    for other in 0..<peers.count where other != slot && peers[other].role == .primary {
      isRefused = true
    }
    guard !isRefused else { return answerPromotion(slot, header.id, .refused) }
    let isForced = header.length == 1
    guard isForced || !remembersMore(than: slot) else {
      return answerPromotion(slot, header.id, .dataIsOlder)
    }
    if isForced { lost = nil }
    become(slot, peerRole: .primary)
    peers[slot].grantID = header.id
    guard var block = superblock, !block.dirty else {
      peers[slot].versionOfGrant = versionWanted
      return grantWhenDurable(slot)
    }
    // Its writes may come as soon as it has our answer: a crash from now on must be seen as one.
    block.dirty = true
    superblock = block
    peers[slot].versionOfGrant = changeSuperblock()
    if options.sabotage == .grantBeforeDirty { grantWhenDurable(slot) }
  }

  mutating func grantWhenDurable(_ slot: Int) {
    guard let version = peers[slot].versionOfGrant else { return }
    let isDurable = versionDurable >= version || options.sabotage == .grantBeforeDirty
    guard !hasSuperblock || isDurable else { return }
    peers[slot].versionOfGrant = nil
    answerPromotion(slot, peers[slot].grantID, .granted)
  }

  /// The length of a `promoteReply`.
  private enum PromotionAnswer: UInt64 {
    case refused = 0
    case granted = 1
    /// Refused: a disk that the answering node has lost held newer data.
    case dataIsOlder = 2
  }

  private mutating func answerPromotion(_ slot: Int, _ id: UInt64, _ answer: PromotionAnswer) {
    guard peers[slot].state == .connected, let connection = peers[slot].connection else { return }
    let header = MessageHeader(.promoteReply, id: id, length: answer.rawValue)
    effects.push(.send(connection, header, .none))
  }

  mutating func receivedPromoteReply(_ slot: Int, _ header: MessageHeader) {
    if header.id < promotionNumber, peers[slot].stalePromotions > 0 {
      // A late answer to an earlier promotion says nothing about the one under way.
      peers[slot].stalePromotions -= 1
      return gotAnswer(slot)
    }
    guard header.id == promotionNumber, peers[slot].promoteAsked, !peers[slot].promoteAnswered
    else { return protocolViolation(slot, .promoteReply) }
    gotAnswer(slot)
    peers[slot].promoteAnswered = true
    guard case .primary? = command?.command, case .asking? = command?.stage else {
      // Given up meanwhile: the peer must not go on believing that we are Primary.
      return tellRole(role)
    }
    guard header.length != PromotionAnswer.granted.rawValue else { return }
    let isOlder = header.length == PromotionAnswer.dataIsOlder.rawValue
    finish(.refused(isOlder ? .newerDataWasLost : .multiplePrimaries))
    tellRole(role)
  }

  mutating func receivedRole(_ slot: Int, _ header: MessageHeader) {
    guard let new = UInt8(exactly: header.length).flatMap(Role.init(rawValue:)), new != .unknown
    else { return protocolViolation(slot, .roleChanged) }
    // To become Primary a peer asks first, and we take down that it writes.
    guard new == .secondary || peers[slot].role == .primary else {
      return protocolViolation(slot, .roleChanged)
    }
    become(slot, peerRole: new)
    if new == .secondary, peers[slot].versionOfGrant != nil {
      // It gave up before we could grant.
      peers[slot].versionOfGrant = nil
      answerPromotion(slot, peers[slot].grantID, .refused)
    }
    beginCleanFlush()
  }

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
    let peerWrites = pending.command.leavesPeersBehind && anyPeerGoesOn
    if peerWrites, block.diskState == .upToDate {
      // The Primary goes on without us: what we have is of an older moment from now on.
      block.diskState = .outdated
    }
    block.wasPrimary = false
    block.dirty = crashed || isTarget || (anyPeerIsPrimary && !peerWrites) || isRepairTarget
    superblock = block
    let version = changeSuperblock()
    command?.stage = .persisting(version: version)
  }

  private mutating func persisted(_ pending: PendingCommand) {
    switch pending.command {
    case .primary: promoted()
    case .secondary:
      become(role: .secondary)
      tellRole(.secondary)
      finish(.done)
      hasGivenWay()
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
    case .connect, .discard, .connectTentatively, .resyncAllowed, .giveWay, .disconnect,
      .invalidate, .invalidateRemote, .pauseSync, .resumeSync, .verify:
      preconditionFailure("never persisted as a command")
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
    switch pending.command {
    case .primary: tellRole(role)
    case .detach where isDetaching:
      // The peers were told that the disk is gone, and go on without it: agree anew.
      isDetaching = false
      for slot in 0..<peers.count where peers[slot].state == .connected {
        loseConnection(slot, .renegotiate)
      }
    case .connect, .discard, .connectTentatively, .resyncAllowed, .giveWay, .disconnect,
      .secondary, .detach, .invalidate, .invalidateRemote, .skipFirstSync, .pauseSync, .resumeSync,
      .verify, .shutdown:
      break
    }
  }

  private mutating func beginInvalidate(_ token: UInt64) {
    guard hasSuperblock, disk != .diskless, disk != .failed else {
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
    invalidateData()
    effects.push(.reply(token: token, .done))
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
    if peers[slot].awaitsDiskAck {
      // Both lost their disks: the peer has nothing to put on record.
      peers[slot].awaitsDiskAck = false
      gotAnswer(slot)
    }
    stopWaitingForAccess()
    // A peer that was granted the role may have lost its disk before it took it.
    let goesOnHere = header.offset == UInt64(Role.primary.rawValue)
    if goesOnHere, role != .primary, disk == .upToDate, !isDetaching {
      return servePrimary(slot)
    }
    if peers[slot].replication != .established { loseConnection(slot, .diskFailed) }
  }
}

extension Command {
  /// Whether a Primary peer goes on writing without this node afterwards.
  var leavesPeersBehind: Bool {
    switch self {
    case .detach, .shutdown, .disconnect: true
    case .connect, .discard, .connectTentatively, .resyncAllowed, .giveWay, .primary, .secondary,
      .invalidate, .invalidateRemote, .skipFirstSync, .pauseSync, .resumeSync, .verify:
      false
    }
  }
}
