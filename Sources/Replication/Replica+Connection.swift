/// The life of a connection: both sides listen and dial, one connection is kept.
///
/// Who dialed says `hello` first; who accepted answers `helloReply`, which makes the connection the
/// agreed one, or `reject`. Of two crossing dials the one of the lower node id is kept.
///
/// A `hello` never replaces a connection that works, whoever says it. A peer that we believe
/// connected may have lost the connection: then it comes with another instance (the daemon
/// restarted) or a higher epoch (it counted a loss), which a late dial from before does not. We ask
/// on the connection we have and refuse the new one; if no answer comes, the old one is lost as by
/// any ping, and the peer's next dial finds us free.
import BlockTypes
import Wire

extension Replica {
  mutating func dialed(_ slot: Int, _ connection: ConnectionID) {
    peers[slot].isDialing = false
    guard peers[slot].state == .connecting, peers[slot].dialed == nil else {
      effects.push(.close(connection))
      return
    }
    peers[slot].dialed = connection
    peers[slot].handshakeDeadline = now.advanced(milliseconds: options.handshakeTimeoutMs)
    effects.push(.sendControl(connection, .hello))
  }

  /// - Parameter reason: why the two ends do not agree; `nil` when nobody answered. It is not
  ///   proven, so it stops nothing: the next dial may meet the true peer, or a corrected file.
  mutating func dialFailed(_ slot: Int, _ reason: Reason? = nil) {
    peers[slot].isDialing = false
    if peers[slot].state == .connecting {
      if let reason {
        peers[slot].reason = reason
      } else if peers[slot].reason == .none {
        peers[slot].reason = .peerUnreachable
      }
    }
    scheduleRetry(slot)
  }

  mutating func acceptedConnection(_ connection: ConnectionID, _ node: NodeID?) {
    for index in 0..<accepted.count where accepted[index].connection == nil {
      accepted[index].connection = connection
      accepted[index].node = node
      accepted[index].deadline = now.advanced(milliseconds: options.handshakeTimeoutMs)
      return
    }
    effects.push(.close(connection))
  }

  mutating func expireAccepted() {
    for index in 0..<accepted.count {
      guard let connection = accepted[index].connection, now >= accepted[index].deadline else {
        continue
      }
      accepted[index] = .free
      effects.push(.close(connection))
    }
  }

  mutating func connectionClosed(_ connection: ConnectionID, _ reason: Reason) {
    for index in 0..<accepted.count where accepted[index].connection == connection {
      accepted[index] = .free
      return
    }
    for slot in 0..<peers.count {
      if peers[slot].dialed == connection {
        peers[slot].dialed = nil
        scheduleRetry(slot)
      } else if peers[slot].connection == connection {
        peers[slot].connection = nil
        loseConnection(slot, reason)
      }
    }
  }

  /// The peer whose agreed connection or open dial this is.
  func slot(of connection: ConnectionID) -> Int? {
    for slot in 0..<peers.count
    where peers[slot].connection == connection || peers[slot].dialed == connection {
      return slot
    }
    return nil
  }

  mutating func received(
    _ connection: ConnectionID, _ header: MessageHeader, _ control: UnsafeRawBufferPointer,
    _ buffer: BufferID
  ) {
    if let slot = slot(of: connection) {
      peers[slot].lastReceived = now
      peers[slot].pingSentAt = nil
      if peers[slot].dialed == connection {
        releaseIfAny(buffer)
        unsafe receivedOnDial(slot, connection, header, control)
      } else {
        unsafe receivedOnAgreed(slot, header, control, buffer)
      }
      return
    }
    for index in 0..<accepted.count where accepted[index].connection == connection {
      let proven = accepted[index].node
      accepted[index] = .free
      releaseIfAny(buffer)
      guard header.type == .hello, let hello = try? Hello(parsing: control),
        proven == nil || hello.node == proven
      else {
        refuse(connection, .protocolError)
        return
      }
      considerHello(hello, connection)
      return
    }
    // A connection given up in this turn: what was still queued for it is dropped.
    releaseIfAny(buffer)
  }

  mutating func releaseIfAny(_ buffer: BufferID) {
    if buffer != .none { effects.push(.release(buffer)) }
  }

  private mutating func refuse(_ connection: ConnectionID, _ reason: Reason) {
    var header = MessageHeader(.reject)
    header.length = UInt64(reason.rawValue)
    effects.push(.send(connection, header, .none))
    effects.push(.close(connection))
  }

  private mutating func considerHello(_ hello: Hello, _ connection: ConnectionID) {
    guard hello.versions.contains(Hello.protocolVersion) else {
      return refuse(connection, .noCommonVersion)
    }
    guard hello.resource == options.resource else { return refuse(connection, .wrongResource) }
    guard let slot = options.peers.firstIndex(of: hello.node) else {
      return refuse(connection, .unknownNode)
    }
    switch peers[slot].state {
    case .standAlone:
      return refuse(connection, .peerStandAlone)
    case .connecting:
      if let reason = whyNotMet(slot) { return refuse(connection, reason) }
      if let mine = peers[slot].dialed {
        if options.node < hello.node { return refuse(connection, .tieBreak) }
        peers[slot].dialed = nil
        effects.push(.close(mine))
      }
    case .quiescing, .wfReportParams, .wfVerdict, .connected:
      let isSameRun = hello.instance == peers[slot].peerInstance
      guard !isSameRun || hello.epoch > peers[slot].peerEpoch else {
        return refuse(connection, .tieBreak)
      }
      askWhetherAlive(slot)
      return refuse(connection, .tieBreak)
    }
    effects.push(.sendControl(connection, .helloReply))
    adopt(connection, hello, slot)
  }

  /// Somebody says that the peer has no connection to us any more.
  private mutating func askWhetherAlive(_ slot: Int) {
    guard let connection = peers[slot].connection, peers[slot].pingSentAt == nil else { return }
    peers[slot].pingSentAt = now
    effects.push(.send(connection, MessageHeader(.ping), .none))
  }

  private mutating func receivedOnDial(
    _ slot: Int, _ connection: ConnectionID, _ header: MessageHeader,
    _ control: UnsafeRawBufferPointer
  ) {
    if header.type == .helloReply, let hello = try? Hello(parsing: control),
      hello.node == peers[slot].node, hello.resource == options.resource,
      hello.versions.contains(Hello.protocolVersion)
    {
      peers[slot].dialed = nil
      adopt(connection, hello, slot)
      return
    }
    peers[slot].dialed = nil
    effects.push(.close(connection))
    let told = UInt8(exactly: header.length).flatMap(Reason.init(rawValue:)) ?? .protocolError
    let reason = header.type == .reject ? told : .protocolError
    if reason != .tieBreak { peers[slot].reason = reason }
    scheduleRetry(slot)
  }

  private mutating func adopt(_ connection: ConnectionID, _ hello: Hello, _ slot: Int) {
    peers[slot].connection = connection
    peers[slot].peerInstance = hello.instance
    peers[slot].peerEpoch = hello.epoch
    peers[slot].saidPrimary = hello.isPrimary
    peers[slot].lastReceived = now
    peers[slot].lastProgress = now
    peers[slot].pingSentAt = nil
    peers[slot].outstanding = 0
    beginHandshake(slot)
  }

  mutating func become(_ slot: Int, _ state: ConnectionState, _ reason: Reason) {
    let old = peers[slot].state
    peers[slot].reason = reason
    guard old != state else { return }
    peers[slot].state = state
    effects.push(.note(.connection(peer: slot, from: old, to: state, reason)))
  }

  /// Begins to dial and to accept.
  mutating func beginConnecting(_ slot: Int) {
    guard peers[slot].state == .standAlone else { return }
    become(slot, .connecting, .none)
    peers[slot].retryPauseMs = 0
    scheduleRetry(slot)
  }

  /// The peer is met when what it would replace is kept, and the handler has prepared for that.
  private func whyNotMet(_ slot: Int) -> Reason? {
    if isKeepingUndo(slot) { return .undoIsKept }
    return peers[slot].handlerRuns ? .handlerRuns : nil
  }

  /// Sets the next dial: at once the first time, then after 100 ms, doubling up to `connect-int`.
  mutating func scheduleRetry(_ slot: Int) {
    guard peers[slot].state == .connecting else { return }
    guard whyNotMet(slot) == nil else {
      peers[slot].retryAt = .never
      return
    }
    peers[slot].retryAt = now.advanced(milliseconds: peers[slot].retryPauseMs)
    let doubled = max(100, peers[slot].retryPauseMs * 2)
    peers[slot].retryPauseMs = min(doubled, options.connectIntervalMs)
  }

  /// A connection that lived so long has worked: longer than the first few pauses between dials.
  private static var workingMs: UInt64 { 1_000 }

  /// Gives up the agreed connection. Permanent reasons and commands lead to StandAlone.
  mutating func loseConnection(_ slot: Int, _ reason: Reason) {
    if let connection = peers[slot].connection { effects.push(.close(connection)) }
    if let connection = peers[slot].dialed { effects.push(.close(connection)) }
    peers[slot].connection = nil
    peers[slot].dialed = nil
    guard peers[slot].state != .standAlone else { return }
    let worked =
      peers[slot].state == .connected
      && now.milliseconds(since: peers[slot].connectedAt) >= Self.workingMs
    peers[slot].epoch += 1
    // A connection that worked is retried at once. A handshake that fails is not hammered, nor one
    // that ends soon each time: an unreadable block ends a resync again and again.
    if worked || reason == .renegotiate { peers[slot].retryPauseMs = 0 }
    // One second at least where nothing changes by itself soon.
    let rests: [Reason] = [
      .tentative, .primaryWouldBeTargetForNow, .handlerRuns, .peerMustYield,
      .primaryMustYieldAfterSplitBrain,
    ]
    if rests.contains(reason) {
      peers[slot].retryPauseMs = max(peers[slot].retryPauseMs, 1_000)
    }
    let isAnswered = reason == .tentative && peers[slot].isTentative
    if isAnswered { peers[slot].isTentative = false }
    let staysDown =
      reason.isPermanent || isAnswered || reason == .byCommand || reason == .shutdown
      || reason == .handlerRefused
    if peers[slot].state == .connected { peers[slot].wasLostAsPrimary = role == .primary }
    if reason == .byCommand {
      peers[slot].discardsMyData = false
      peers[slot].givesWay = false
    }
    become(slot, staysDown ? .standAlone : .connecting, reason)
    forgetPeerState(slot)
    dropRequests(of: slot)
    scheduleRetry(slot)
  }

  private mutating func forgetPeerState(_ slot: Int) {
    abandonVerify(slot, .needConnection)
    if peers[slot].replication.isVerifying { rememberCutRepair(slot) }
    peers[slot].repairSource = nil
    peers[slot].repair = nil
    become(slot, replication: .off)
    become(slot, peerRole: .unknown)
    become(slot, peerDisk: .unknown)
    reports[slot] = nil
    sentReports[slot] = nil
    peers[slot].decision = nil
    peers[slot].verdictSent = false
    peers[slot].peerVerdict = nil
    peers[slot].outstanding = 0
    peers[slot].pingSentAt = nil
    peers[slot].isPausedByPeer = false
    peers[slot].peerWaitsForResync = false
    peers[slot].sync = SyncSteps()
    peers[slot].awaitsDiskAck = false
    peers[slot].versionOfDiskAck = nil
    peers[slot].promotion = PromotionSteps()
  }

  mutating func become(_ slot: Int, replication new: ReplicationState) {
    let old = peers[slot].replication
    guard old != new else { return }
    peers[slot].replication = new
    if old == .syncTarget { letGoOfExtents(slot) }
    effects.push(.note(.replication(peer: slot, from: old, to: new)))
  }

  mutating func become(_ slot: Int, peerRole new: Role) {
    let old = peers[slot].role
    guard old != new else { return }
    peers[slot].role = new
    effects.push(.note(.peerRole(peer: slot, from: old, to: new)))
  }

  mutating func become(_ slot: Int, peerDisk new: DiskState) {
    let old = peers[slot].disk
    guard old != new else { return }
    peers[slot].disk = new
    effects.push(.note(.peerDisk(peer: slot, from: old, to: new)))
  }

  mutating func protocolViolation(_ slot: Int, _ type: MessageType) {
    effects.push(.note(.protocolError(peer: slot, type)))
    loseConnection(slot, .protocolError)
  }

  mutating func tickPeer(_ slot: Int) {
    switch peers[slot].state {
    case .standAlone: break
    case .connecting:
      if let connection = peers[slot].dialed {
        guard now >= peers[slot].handshakeDeadline else { return }
        peers[slot].dialed = nil
        peers[slot].reason = .handshakeTimeout
        effects.push(.close(connection))
        scheduleRetry(slot)
      } else if !peers[slot].isDialing, now >= peers[slot].retryAt {
        peers[slot].isDialing = true
        effects.push(.dial(peer: slot))
      }
    case .quiescing, .wfReportParams, .wfVerdict:
      if now >= peers[slot].handshakeDeadline { return loseConnection(slot, .handshakeTimeout) }
      guard let sent = peers[slot].pingSentAt,
        now >= sent.advanced(milliseconds: options.pingTimeoutMs)
      else { return }
      loseConnection(slot, .supersededByPeer)
    case .connected: tickConnected(slot)
    }
  }

  private mutating func tickConnected(_ slot: Int) {
    guard let connection = peers[slot].connection else { return }
    if let sent = peers[slot].pingSentAt {
      if now >= sent.advanced(milliseconds: options.pingTimeoutMs) {
        return loseConnection(slot, .pingTimeout)
      }
    } else if now
      >= peers[slot].lastReceived.advanced(milliseconds: peers[slot].pingPauseMs(options))
    {
      peers[slot].pingSentAt = now
      effects.push(.send(connection, MessageHeader(.ping), .none))
    }
    if now >= peers[slot].sync.retryPullsAt { retryPulls(slot) }
    if peers[slot].replication == .verifyS { verifyMore(slot) }
    let limit = peers[slot].lastProgress.advanced(
      milliseconds: options.timeoutMs * options.koCount)
    if peers[slot].outstanding > 0, now >= limit { loseConnection(slot, .writeTimeout) }
  }

  /// Counts an answer that is now due from the peer.
  mutating func expectAnswer(_ slot: Int) {
    if peers[slot].outstanding == 0 { peers[slot].lastProgress = now }
    peers[slot].outstanding += 1
  }

  mutating func gotAnswer(_ slot: Int) {
    precondition(peers[slot].outstanding > 0, "an answer that was not counted as due")
    peers[slot].outstanding -= 1
    peers[slot].lastProgress = now
  }
}
