/// `primary`: a node takes the role, and what it asks and promises before.
///
/// Every connected peer is asked first, and has on its disk that a Primary writes before it agrees;
/// of two that ask at once the lower node id wins. Only good data is promoted: whoever knows that
/// there is newer refuses, unless the administrator forces it.
import BlockTypes
import Metadata
import Wire

extension Replica {
  mutating func beginPromotion(force: Bool) {
    if role == .primary { return finish(.done) }
    if anyPeerIsPrimary { return finish(.refused(.multiplePrimaries)) }
    let hasData = disk == .upToDate
    let mayForce =
      isForced(force) && !isTarget
      && (disk == .inconsistent || disk == .outdated || disk == .consistent)
    guard hasData || mayForce else { return finish(.refused(whyNotPromoted)) }
    // A disk that was lost here held more, and this one was filled by a peer that lacks it.
    if !force, let block = superblock, lacksWhatWasLost(block.lineage) {
      return finish(.refused(.newerDataWasLost))
    }
    for slot in 0..<peers.count {
      let old = peers[slot].promotion
      if old.isAsked, !old.isAnswered { peers[slot].promotion.stale += 1 }
      peers[slot].promotion.isAsked = false
      peers[slot].promotion.isAnswered = false
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

  /// Whether this node's data is being replaced, or will be as soon as the peer agrees: writes come
  /// without a Primary.
  var isTarget: Bool {
    for slot in 0..<peers.count {
      let isAgreed = peers[slot].state == .wfVerdict && peers[slot].decision?.action == .syncTarget
      if isAgreed || peers[slot].replication.isTarget { return true }
    }
    return isRepairTarget
  }

  private func isForced(_ force: Bool) -> Bool {
    force || options.sabotage == .promoteOutdated && disk == .outdated
  }

  var anyPeerIsPrimary: Bool {
    for slot in 0..<peers.count where peers[slot].role == .primary { return true }
    return false
  }

  var anyPeerGoesOn: Bool {
    for slot in 0..<peers.count where goesOnAlone(slot) { return true }
    return false
  }

  mutating func continueAsking(_ pending: PendingCommand) {
    var isAnswered = true
    for slot in 0..<peers.count where peers[slot].state == .connected {
      guard let connection = peers[slot].connection else { continue }
      if !peers[slot].promotion.isAsked {
        peers[slot].promotion.isAsked = true
        var request = MessageHeader(.promoteRequest, id: promotionNumber)
        if case .primary(force: true) = pending.kind { request.length = 1 }
        effects.push(.send(connection, request, .none))
        expectAnswer(slot)
      }
      let mustWait = options.sabotage != .promoteUnasked
      if !peers[slot].promotion.isAnswered, mustWait { isAnswered = false }
    }
    guard isAnswered else { return }
    guard case .primary(let force) = pending.kind, var block = superblock,
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
      beginByForce(&block)
      isForcing = true
    }
    superblock = block
    let version = changeSuperblock()
    command?.stage = .persisting(version: version)
  }

  /// The operator's word that this data counts: a generation of its own, unknown to all peers.
  ///
  /// An Inconsistent disk may have the history of what it was being made into, of which it lacks a
  /// part that nobody but the old source may have. The newest generation is given up: going on from
  /// it, this node would be called the successor of that source, which would be overwritten (P3).
  /// Having left it both have parted, or have nothing in common where there was no other one. The
  /// base is what was given up: no lineage here has it, so whatever is decided, all is copied.
  private mutating func beginByForce(_ block: inout Superblock) {
    var mayBeTheSources = false
    for slot in 0..<peers.count where disk == .inconsistent && peers[slot].base == nil {
      // `takeOverHistory` forgets the base: with one, the history is this disk's own.
      mayBeTheSources = true
    }
    for slot in 0..<peers.count where peers[slot].base == nil || disk == .inconsistent {
      peers[slot].base = block.lineage.newest ?? Generation.beforeAll(options.node)
    }
    if mayBeTheSources, options.sabotage != .succeedSource { block.lineage.forgetNewest() }
    block.lineage.begin(id: entropy, author: options.node, at: unixSeconds)
    block.diskState = .upToDate
    crashed = false
    if let generation = block.lineage.newest { effects.push(.note(.newGeneration(generation))) }
  }

  /// What this node took for a Primary without a disk, that Primary's clients know. What clients
  /// write here from now on, they do not: a generation of its own, if there is a write.
  private mutating func startsAnew(_ history: Lineage) {
    guard let newest = history.newest, newest.continuesPrimary, newest.author == options.node else {
      return
    }
    for slot in 0..<peers.count where peers[slot].base != nil { peers[slot].mayShareNewest = true }
  }

  mutating func promoted() {
    guard superblock?.diskState == .upToDate else {
      // The disk failed before it could take this down, or is known to be Outdated by now.
      isForcing = false
      tellRole(role)
      return finish(.refused(whyNotPromoted))
    }
    become(role: .primary)
    become(disk: .upToDate)
    forgetUndo()
    if options.sabotage != .discardAgain { forgetDiscards() }
    lost = nil
    tellRole(.primary)
    finish(.done)
    guard isForcing else { return }
    isForcing = false
    for slot in 0..<peers.count where peers[slot].state == .connected {
      loseConnection(slot, .renegotiate)
    }
  }

  /// Whoever is promoted, or told to connect, has changed his mind about what was to be discarded.
  mutating func forgetDiscards() {
    for slot in 0..<peers.count {
      peers[slot].discardsMyData = false
      peers[slot].declinesUndo = false
      peers[slot].givesWay = false
    }
  }

  mutating func receivedPromoteRequest(_ slot: Int, _ header: MessageHeader) {
    var isRefused = role == .primary
    if case .primary? = command?.kind, commandIsUnderWay {
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
    peers[slot].promotion.grantID = header.id
    guard var block = superblock, !block.dirty else {
      peers[slot].promotion.grantVersion = versionWanted
      return grantWhenDurable(slot)
    }
    // Its writes may come as soon as it has our answer: a crash from now on must be seen as one.
    block.dirty = true
    superblock = block
    peers[slot].promotion.grantVersion = changeSuperblock()
    if options.sabotage == .grantBeforeDirty { grantWhenDurable(slot) }
  }

  mutating func grantWhenDurable(_ slot: Int) {
    guard let version = peers[slot].promotion.grantVersion else { return }
    let isDurable = versionDurable >= version || options.sabotage == .grantBeforeDirty
    guard !hasSuperblock || isDurable else { return }
    peers[slot].promotion.grantVersion = nil
    answerPromotion(slot, peers[slot].promotion.grantID, .granted)
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
    if header.id < promotionNumber, peers[slot].promotion.stale > 0 {
      // A late answer to an earlier promotion says nothing about the one under way.
      peers[slot].promotion.stale -= 1
      return gotAnswer(slot)
    }
    guard header.id == promotionNumber, peers[slot].promotion.isAsked,
      !peers[slot].promotion.isAnswered
    else { return protocolViolation(slot, .promoteReply) }
    gotAnswer(slot)
    peers[slot].promotion.isAnswered = true
    guard case .primary? = command?.kind, case .asking? = command?.stage else {
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
    if new == .secondary, peers[slot].promotion.grantVersion != nil {
      // It gave up before we could grant.
      peers[slot].promotion.grantVersion = nil
      answerPromotion(slot, peers[slot].promotion.grantID, .refused)
    }
    beginCleanFlush()
  }
}
