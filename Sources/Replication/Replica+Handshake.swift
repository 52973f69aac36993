/// The handshake after `hello`: stop, flush, tell, decide, make it durable, agree.
///
/// Client writes wait from the flush until `Connected`, so the reports cannot become untrue while
/// they travel. A Primary waits for the Secondary's report before it stops its clients: a peer that
/// is slow to get ready delays nobody. The disk is flushed before the report: what it says survives
/// a power loss, and a later FLUSH to both replicas covers writes that were made before this
/// connection.
import BlockTypes
import Metadata
import Wire

extension Replica {
  mutating func beginHandshake(_ slot: Int) {
    become(slot, .quiescing, .none)
    peers[slot].handshakeDeadline = now.advanced(milliseconds: options.handshakeTimeoutMs)
  }

  /// Goes on when the last client write in flight has ended.
  mutating func continueQuiescing() {
    guard clientWrites == 0, waitingBase.isEmpty, !commandIsUnderWay else { return }
    // Writes of an earlier connection must not land after the report was made.
    for slot in 0..<peers.count where peers[slot].requestsHere > 0 { return }
    for slot in 0..<peers.count where peers[slot].state == .quiescing {
      guard !waitsForReport(slot) else { continue }
      guard disk != .diskless, disk != .failed else {
        sendReport(slot)
        continue
      }
      if options.sabotage == .skipHandshakeFlush {
        sendReport(slot)
        continue
      }
      // One that was begun for a handshake given up meanwhile has to end first.
      guard peers[slot].handshakeFlush == nil else { continue }
      peers[slot].handshakeFlush = beginFlush(.handshakeFlush, peer: slot)
    }
  }

  /// Whether this Primary lets its clients go on until the Secondary is ready.
  func waitsForReport(_ slot: Int) -> Bool {
    peers[slot].state == .quiescing && role == .primary && !peers[slot].saidPrimary
      && reports[slot] == nil
  }

  mutating func handshakeFlushed(_ request: Request) {
    let slot = Int(request.peer)
    guard peers[slot].connection == request.connection, peers[slot].state == .quiescing else {
      return
    }
    sendReport(slot)
  }

  private mutating func sendReport(_ slot: Int) {
    guard let connection = peers[slot].connection else { return }
    become(slot, .wfReportParams, .none)
    sentReports[slot] = report(for: slot)
    effects.push(.sendControl(connection, .state))
    decideIfReported(slot)
  }

  /// What this node tells the peer in `slot`.
  func report(for slot: Int) -> StateReport {
    let reported: DiskState = disk == .failed ? .diskless : disk
    var report = StateReport(
      volumeBytes: reported == .diskless ? 0 : superblock?.volumeBytes ?? 0, disk: reported,
      role: role)
    report.usesPeerData = role == .primary && exposed != nil
    addWishes(to: &report, for: slot)
    guard reported != .diskless, let superblock else { return report }
    report.crashed = crashed
    report.wasPrimary = superblock.wasPrimary
    report.base = peers[slot].base
    report.outOfSyncBlocks = bitmaps[slot].setCount
    // The marks may have gone with their disk.
    report.repairWasCut = peers[slot].repairWasCut && bitmaps[slot].setCount > 0
    report.isFull = peers[slot].isFull
    report.lineage = superblock.lineage
    return report
  }

  mutating func receivedReport(_ slot: Int, _ report: StateReport) {
    guard peers[slot].state == .quiescing || peers[slot].state == .wfReportParams,
      reports[slot] == nil
    else { return protocolViolation(slot, .state) }
    reports[slot] = report
    continueQuiescing()
    decideIfReported(slot)
  }

  private mutating func decideIfReported(_ slot: Int) {
    guard peers[slot].state == .wfReportParams, let mine = sentReports[slot],
      let theirs = reports[slot]
    else { return }
    let iAmLower = options.node < peers[slot].node
    var agreed = Decision.decide(mine: mine, theirs: theirs, iAmLower: iAmLower)
    agreed.sabotage(options.sabotage, mine: mine, theirs: theirs, iAmLower: iAmLower)
    effects.push(.note(.decision(peer: slot, agreed)))
    let decision = concluded(
      agreed, slot, Meeting(mine: mine, theirs: theirs, decision: agreed))
    peers[slot].decision = decision
    become(slot, peerRole: theirs.role)
    guard decision.action != .refuse, let connection = peers[slot].connection else {
      peers[slot].refusedConnection = peers[slot].connection
      if let connection = peers[slot].connection, decision.reason.isPermanent {
        var header = MessageHeader(.reject)
        header.length = UInt64(decision.reason.rawValue)
        effects.push(.send(connection, header, .none))
      }
      return loseConnection(slot, decision.reason)
    }
    precondition(peers[slot].connection == connection, "the connection cannot have changed")
    become(slot, .wfVerdict, .none)
    applyDecision(slot, decision, theirs)
    sendVerdictWhenDurable(slot)
  }

  /// What must be on disk before the peer may act on our word.
  private mutating func applyDecision(_ slot: Int, _ decision: Decision, _ theirs: StateReport) {
    guard var block = superblock, disk != .diskless, disk != .failed else {
      peers[slot].versionOfVerdict = versionDurable
      return
    }
    let old = block
    let oldBase = peers[slot].base
    // What was asked is done with the first meeting that both agree on.
    if options.sabotage != .discardAgain { peers[slot].discardsMyData = false }
    switch decision.action {
    case .syncTarget:
      block.diskState = .inconsistent
      block.wasPrimary = role == .primary
      block.dirty = true
      cutLineage(&block.lineage, slot, decision.cut)
      become(disk: .inconsistent)
    case .syncSource:
      block.diskState = .upToDate
      become(disk: .upToDate)
    case .noSync:
      if decision.makesBothUpToDate {
        block.diskState = .upToDate
        block.wasPrimary = role == .primary
        become(disk: .upToDate)
      }
    case .refuse: preconditionFailure("a refusal changes nothing")
    }
    if decision.extent == .full { markAll(slot) }
    // Writes may come as soon as we agree: a crash from now on must be seen as one.
    if role == .primary || theirs.role == .primary { block.dirty = true }
    superblock = block
    let isChanged =
      block != old || peers[slot].base != oldBase || decision.extent == .full
    peers[slot].versionOfVerdict = isChanged ? changeSuperblock() : versionWanted
  }

  mutating func sendVerdictWhenDurable(_ slot: Int) {
    guard peers[slot].state == .wfVerdict, !peers[slot].verdictSent,
      let connection = peers[slot].connection, let decision = peers[slot].decision
    else { return }
    let isDurable =
      versionDurable >= peers[slot].versionOfVerdict || options.sabotage == .agreeBeforeDurable
    guard !hasSuperblock || isDurable else { return }
    peers[slot].verdictSent = true
    var header = MessageHeader(.verdict)
    header.length = UInt64(decision.action.rawValue)
    header.offset = UInt64(decision.extent.rawValue)
    effects.push(.send(connection, header, .none))
    agreeIfBothDecided(slot)
  }

  mutating func receivedVerdict(_ slot: Int, _ header: MessageHeader) {
    guard let action = UInt8(exactly: header.length).flatMap(Action.init(rawValue:)),
      let extent = UInt8(exactly: header.offset).flatMap(SyncExtent.init(rawValue:)),
      action != .refuse, peers[slot].state.isHandshake, peers[slot].peerVerdict == nil
    else { return protocolViolation(slot, .verdict) }
    peers[slot].peerVerdict = Verdict(action: action, extent: extent)
    agreeIfBothDecided(slot)
  }

  private mutating func agreeIfBothDecided(_ slot: Int) {
    guard peers[slot].verdictSent, let theirs = peers[slot].peerVerdict,
      let decision = peers[slot].decision, let report = reports[slot]
    else { return }
    guard decision.action.mirrored == theirs.action, decision.extent == theirs.extent else {
      return loseConnection(slot, .disagreement)
    }
    become(slot, .connected, .none)
    peers[slot].connectedAt = now
    forgetUndo(slot)
    if exposed != nil, report.disk == .upToDate {
      exposed = report.lineage
      peers[slot].mayFollowExposed = true
    }
    become(slot, peerDisk: peerDisk(after: decision, report))
    switch decision.action {
    case .noSync:
      become(slot, replication: .established)
      beginCleanFlush()
    case .syncSource, .syncTarget: beginBitmapExchange(slot, decision)
    case .refuse: preconditionFailure("a refusal is never agreed on")
    }
  }

  private func peerDisk(after decision: Decision, _ report: StateReport) -> DiskState {
    switch decision.action {
    case .syncSource: .inconsistent
    case .syncTarget: .upToDate
    case .noSync where decision.makesBothUpToDate: .upToDate
    case .noSync, .refuse: report.disk
    }
  }

  /// Our report on a connection that was refused because of it.
  private func encodeRefused(
    _ message: ControlMessage, _ connection: ConnectionID,
    _ body: UnsafeMutableRawBufferPointer, _ bytes: UnsafeMutableRawBufferPointer
  ) -> Int {
    guard case .state = message else { return 0 }
    for slot in 0..<peers.count where peers[slot].refusedConnection == connection {
      guard let report = meetings[slot]?.mine else { return 0 }
      var header = MessageHeader(.state)
      let payload = report.encode(into: body)
      header.payloadBytes = UInt32(payload)
      header.encode(into: bytes)
      return MessageHeader.byteCount + payload
    }
    return 0
  }

  /// The bytes of a handshake message, header and payload; returns their count. 0 when the
  /// connection was given up in the same step: nothing is to be sent.
  ///
  /// - Parameter bytes: at least 40 + `maxControlPayloadBytes`.
  @safe
  public func encode(
    _ message: ControlMessage, for connection: ConnectionID,
    into bytes: UnsafeMutableRawBufferPointer
  ) -> Int {
    let body = unsafe UnsafeMutableRawBufferPointer(
      rebasing: bytes[MessageHeader.byteCount...])
    guard let slot = slot(of: connection) else {
      return unsafe encodeRefused(message, connection, body, bytes)
    }
    var header: MessageHeader
    let payload: Int
    switch message {
    case .hello, .helloReply:
      header = MessageHeader(message == .hello ? .hello : .helloReply)
      var hello = Hello(
        node: options.node, instance: options.instance, epoch: peers[slot].epoch,
        resource: options.resource)
      hello.isPrimary = role == .primary
      payload = hello.encode(into: body)
    case .state, .syncDone:
      header = MessageHeader(message == .state ? .state : .syncDone)
      guard let report = sentReports[slot] else { return 0 }
      payload = report.encode(into: body)
    case .bitmap(let chunk):
      let first = UInt64(chunk) * options.bitmapChunkBlocks
      let end = min(first + options.bitmapChunkBlocks, bitmaps[slot].blockCount)
      header = MessageHeader(.bitmap, offset: first * blockSize)
      let (count, encoding) = BitmapChunk.encode(bitmaps[slot], first..<end, into: body)
      header.length = encoding.rawValue
      payload = count
    }
    header.payloadBytes = UInt32(payload)
    header.encode(into: bytes)
    return MessageHeader.byteCount + payload
  }
}
