/// What administrators ask, carried out on the reactor's thread.
import BlockIO
import BlockTypes
import Configuration
import Control
import Exports
import Glibc
import Metadata
import Replication

extension NodeLoop {
  /// How long an administrator's command bears with what a killed daemon still holds.
  private static var patienceMs: UInt64 { 1_000 }

  mutating func handle(_ message: NodeMessage) {
    switch message {
    case .request(let request, let handler): handle(request, handler)
    case .restore(let wanted, let handler):
      let name = wanted.configuration.name
      let request = ControlRequest(.up, resource: name, configuration: wanted.configuration)
      up(request, handler, as: wanted)
    case .handlerEnded(let life, let peer, let call, let status):
      handlerEnded(life, peer, call, status)
    case .undoEnded(let life, let peer, let number, let result):
      undoEnded(life, peer, number, result)
    case .subscribe(let sink): subscribe(sink)
    case .terminate(let handler): terminate(handler)
    }
  }

  private mutating func handle(_ request: ControlRequest, _ handler: @escaping ReplyHandler) {
    guard !isTerminating else {
      return handler(
        ControlReply(exitCode: 20, standardError: ["ashlard is shutting down"]))
    }
    switch request.command {
    case .status: return handler(statusReply(request))
    case .events:
      // The control socket subscribes watchers itself.
      return handler(ControlReply(refusing: .invalidRequest, object: "events2"))
    case .show: return handler(showReply(request))
    case .up: return up(request, handler)
    case .down, .attach, .detach, .connect, .disconnect, .primary, .secondary, .invalidate,
      .invalidateRemote, .newCurrentUUID, .pauseSync, .resumeSync, .verify, .netOptions,
      .diskOptions, .resourceOptions, .explainDiscard:
      break
    }
    guard let name = request.resource, let slot = slot(of: name) else {
      return handler(
        ControlReply(refusing: .unknownResource, object: request.resource ?? "all"))
    }
    command(request, slot, handler)
  }

  /// The slot of a resource that is up.
  func slot(of name: String) -> Int? {
    for slot in 0..<volumeEnd {
      guard let box = volumes[slot] else { continue }
      if box.volume.configuration.name == name, !box.volume.isLeaving {
        return slot
      }
    }
    return nil
  }

  /// The slot of a resource that has been up ever since.
  func slot(of life: VolumeLife) -> Int? {
    guard let slot = slot(of: life.resource), volumes[slot]?.volume.life == life else { return nil }
    return slot
  }

  private mutating func command(
    _ request: ControlRequest, _ slot: Int, _ handler: @escaping ReplyHandler
  ) {
    guard let box = volumes[slot] else { return }
    switch request.command {
    case .down: down(slot, handler)
    case .attach: attach(request, slot, handler)
    case .detach: give(.detach, slot, handler)
    case .connect:
      if !request.tentative { box.volume.standsAlone = false }
      give(request.connectCommand, slot, handler)
    case .explainDiscard:
      handler(ControlReply(standardOutput: box.volume.discardLines()))
    case .disconnect:
      // Beside another command it is refused, and changes nothing.
      if !box.volume.replica.hasCommand {
        box.volume.mustConnect = false
        box.volume.standsAlone = true
      }
      give(.disconnect, slot, handler)
    case .primary:
      box.volume.wantsPrimary = false
      give(.primary(force: request.force), slot, handler)
    case .secondary:
      box.volume.wantsPrimary = false
      give(.secondary(heldOpen: isOpen(slot)), slot, handler)
    case .invalidate: give(.invalidate, slot, handler)
    case .verify: verify(request.verify ?? VerifyRequest(), slot, handler)
    case .invalidateRemote: give(.invalidateRemote, slot, handler)
    case .newCurrentUUID: give(.skipFirstSync, slot, handler)
    case .pauseSync: give(.pauseSync, slot, handler)
    case .resumeSync: give(.resumeSync, slot, handler)
    case .netOptions, .diskOptions, .resourceOptions:
      guard let configuration = request.configuration, configuration.isSound else {
        return handler(ControlReply(refusing: .invalidRequest, object: request.resource ?? ""))
      }
      box.volume.changeOptions(to: configuration, for: request.command)
      handler(ControlReply())
    case .status, .show, .events, .up: preconditionFailure("handled before")
    }
  }

  /// Attaches the disk that the request names; without a configuration the one of before.
  private mutating func attach(
    _ request: ControlRequest, _ slot: Int, _ handler: @escaping ReplyHandler
  ) {
    guard let box = volumes[slot] else { return }
    if let configuration = request.configuration {
      guard configuration.isSound, box.volume.takeDisk(of: configuration) else {
        return handler(
          ControlReply(
            refusing: Control.Refusal.invalidRequest.with(
              "the configuration describes another node or volume"),
            object: request.resource ?? ""))
      }
    }
    let token = register(.plain, slot, handler)
    box.volume.beginAttach(token, patienceMs: Self.patienceMs, &reactor)
  }

  /// Gives the core a command; its answer goes to the handler.
  mutating func give(
    _ command: Command, _ slot: Int, _ handler: @escaping ReplyHandler
  ) {
    guard let box = volumes[slot] else { return }
    let token = register(.plain, slot, handler)
    box.volume.step(.command(command, token: token), &reactor, &server)
  }

  func isOpen(_ slot: Int) -> Bool {
    guard let box = volumes[slot], let export = box.volume.exportSlot else {
      return false
    }
    return server.openClientCount(export) > 0
  }

  // MARK: Status

  private func statusReply(_ request: ControlRequest) -> ControlReply {
    let slots = slots(for: request)
    if let missing = refusal(of: request, slots) { return missing }
    return ControlReply(
      status: slots.compactMap { slot in status(of: slot) })
  }

  /// What `status` shows of a volume.
  func status(of slot: Int) -> ResourceStatus? {
    volumes[slot]?.volume.status(
      engine: reactor.engineDescription, isOpen: isOpen(slot), now: reactor.now)
  }

  private func showReply(_ request: ControlRequest) -> ControlReply {
    let slots = slots(for: request)
    if let missing = refusal(of: request, slots) { return missing }
    return ControlReply(
      configurations: slots.compactMap { volumes[$0]?.volume.configuration })
  }

  /// The volumes that a query is about: the one it names, or all that are up.
  private func slots(for request: ControlRequest) -> [Int] {
    if let name = request.resource { return slot(of: name).map { [$0] } ?? [] }
    return (0..<volumeEnd).filter { slot in
      guard let box = volumes[slot] else { return false }
      return !box.volume.isLeaving
    }
  }

  /// What a query that names a resource is told when that is not up.
  private func refusal(of request: ControlRequest, _ slots: [Int]) -> ControlReply? {
    guard let name = request.resource, slots.isEmpty else { return nil }
    return ControlReply(exitCode: 10, standardError: ["\(name): No such resource"])
  }

  // MARK: Up and down

  /// Whether the volume of that name was taken down and its disk has not let go of everything.
  private func isStillLeaving(_ name: String) -> Bool {
    for slot in 0..<volumeEnd {
      guard let box = volumes[slot], box.volume.isLeaving else { continue }
      if box.volume.configuration.name == name { return true }
    }
    return false
  }

  private mutating func up(
    _ request: ControlRequest, _ handler: @escaping ReplyHandler,
    as restored: NodeMessage.Restored? = nil
  ) {
    guard let configuration = request.configuration else {
      return handler(
        ControlReply(refusing: .invalidRequest, object: request.resource ?? "up"))
    }
    let name = configuration.name
    guard configuration.isSound, request.resource == nil || request.resource == name else {
      return handler(ControlReply(refusing: .invalidRequest, object: name))
    }
    guard slot(of: name) == nil else {
      return handler(ControlReply(refusing: .resourceExists, object: name))
    }
    guard configuration.host(named: options.node) != nil else {
      return handler(
        ControlReply(
          exitCode: 1,
          standardError: ["'\(name)' not defined in your config (for this host)."]))
    }
    guard !isStillLeaving(name) else {
      return handler(
        ControlReply(
          refusing: Control.Refusal.transient.with(
            "it is still being taken down; try again"), object: name))
    }
    var free: Int?
    for slot in (0..<volumes.count).reversed() where volumes[slot] == nil {
      free = slot
    }
    guard let slot = free else {
      return handler(
        ControlReply(
          exitCode: 10,
          standardError: ["\(name): this node has \(Self.volumeLimit) volumes, the limit"]))
    }
    // What fails at the start is asked for again.
    let patienceMs = restored == nil ? Self.patienceMs : 0
    do {
      try makeVolume(slot, configuration, patienceMs: patienceMs)
    } catch {
      let refusal: Control.Refusal =
        error.errno == EADDRNOTAVAIL ? .localAddressMissing : .localAddressInUse
      return handler(ControlReply(refusing: refusal.with("\(error)"), object: name))
    }
    guard let box = volumes[slot] else { return }
    box.volume.wantsPrimary = restored?.wantsPrimary ?? false
    box.volume.standsAlone = restored?.isDisconnected ?? false
    box.volume.startAccepting(&reactor)
    publish("create", slot)
    let token = register(restored == nil ? .upAttach : .restoreAttach, slot, handler)
    box.volume.beginAttach(token, patienceMs: patienceMs, &reactor)
  }

  private mutating func makeVolume(
    _ slot: Int, _ configuration: ResourceConfiguration, patienceMs: UInt64
  ) throws(SystemError) {
    guard let host = configuration.host(named: options.node) else { return }
    let peers = configuration.peers(of: options.node)
    guard let address = SocketAddress(host: host.address.host, port: host.address.port) else {
      throw SystemError(call: "inet_pton", errno: EINVAL, path: host.address.description)
    }
    var addresses: [SocketAddress] = []
    for peer in peers {
      guard let address = SocketAddress(host: peer.address.host, port: peer.address.port) else {
        throw SystemError(call: "inet_pton", errno: EINVAL, path: peer.address.description)
      }
      addresses.append(address)
    }
    let listener = try Listener(address: address, patienceMs: patienceMs)
    var replica = ReplicaOptions(
      node: host.nodeID, resource: configuration.name, peers: peers.map(\.nodeID),
      instance: options.instance)
    replica.apply(configuration.net, on: options.node)
    replica.apply(configuration.disk)
    replica.apply(handlers: configuration.handlers)
    replica.keepsUndo = configuration.options.keepsUndo
    // A clock that was set back may say less than the time since the machine started.
    let (atZero, isBefore) = unixSeconds().subtractingReportingOverflow(
      reactor.now.nanoseconds / 1_000_000_000)
    replica.unixSecondsAtZero = isBefore ? 0 : atZero
    seed = seed &* 6_364_136_223_846_793_005 &+ UInt64(slot) &+ 1
    nextToken += 1
    volumes[slot] = VolumeBox(
      Volume(
        index: slot, life: nextToken, configuration: configuration, node: options.node,
        listener: listener,
        options: replica, peerAddresses: addresses, seed: seed))
    volumeEnd = max(volumeEnd, slot + 1)
  }

  private mutating func down(_ slot: Int, _ handler: @escaping ReplyHandler) {
    guard let box = volumes[slot] else { return }
    guard !isOpen(slot) else {
      let name = box.volume.configuration.name
      return handler(
        ControlReply(refusing: Refusal.heldOpen.with("failed to demote"), object: name))
    }
    let token = register(.down, slot, handler)
    box.volume.step(.command(.shutdown, token: token), &reactor, &server)
  }

  private mutating func terminate(_ handler: @escaping ReplyHandler) {
    guard !isTerminating else { return }
    isTerminating = true
    terminateBy = reactor.now.advanced(milliseconds: Self.terminateMs)
    server.stopListening(reactor: &reactor)
    server.closeSessions(of: nil, reactor: &reactor)
    for slot in 0..<volumeEnd { shutDown(slot) }
    terminateHandler = handler
  }

  /// Asks a volume to end cleanly.
  private mutating func shutDown(_ slot: Int) {
    guard let box = volumes[slot], !box.volume.isLeaving else { return }
    box.volume.wantsPrimary = false
    box.volume.wantsShutdown = false
    let token = register(.terminate, slot) { _ in }
    box.volume.step(.command(.shutdown, token: token), &reactor, &server)
  }

  mutating func finishTerminating() {
    guard let handler = terminateHandler else { return }
    if reactor.now >= terminateBy {
      options.log(.error, "a disk or a client did not let go in time; ending all the same")
    } else {
      guard finishedVolumes(), server.isIdle else { return }
    }
    terminateHandler = nil
    isStopped = true
    handler(ControlReply())
  }

  // MARK: Ends of commands

  mutating func resolve(_ token: UInt64, _ result: CommandResult) {
    resolveReply(token, result)
    guard isTerminating else { return }
    for slot in 0..<volumeEnd {
      guard let box = volumes[slot], box.volume.wantsShutdown else { continue }
      if !box.volume.replica.hasCommand { shutDown(slot) }
    }
  }

  /// The end of `up`: the core is told to connect, and again when a command that was under way then
  /// has ended.
  private mutating func connect(_ slot: Int) {
    guard let box = volumes[slot] else { return }
    box.volume.mustConnect = false
    let token = register(.upConnect, slot) { _ in }
    box.volume.step(.command(.connect, token: token), &reactor, &server)
  }

  mutating func connectIfDue(_ slot: Int) {
    guard let box = volumes[slot], box.volume.mustConnect,
      !box.volume.isLeaving, !box.volume.replica.hasCommand
    else { return }
    connect(slot)
  }

  private mutating func resolveReply(_ token: UInt64, _ result: CommandResult) {
    guard let reply = pending.removeValue(forKey: token),
      let box = volumes[reply.volume]
    else { return }
    let name = box.volume.configuration.name
    switch (reply.kind, result) {
    case (.plain, .done), (.silent, .done), (.upConnect, .done): reply.handler(ControlReply())
    case (.upConnect, .refused(.transient)): box.volume.mustConnect = true
    case (.upAttach, .done), (.restoreAttach, .done):
      reply.handler(ControlReply())
      if !box.volume.standsAlone { connect(reply.volume) }
    case (.upAttach, .refused(let refusal)), (.restoreAttach, .refused(let refusal)):
      leave(reply.volume, Self.refused(refusal, name), reply.handler)
    case (.down, .done):
      leave(reply.volume, ControlReply(), reply.handler)
    case (.terminate, .done): leave(reply.volume, ControlReply(), reply.handler)
    case (.terminate, .refused(.transient)):
      // The command that is under way ends within its own time.
      box.volume.wantsShutdown = true
    case (.terminate, .refused(let refusal)):
      // It stays dirty on disk: that is what it is.
      options.log(.error, "\(name): could not be left cleanly: \(refusal.text)")
      box.volume.couldNotLeave = true
    case (.silent, .refused(let refusal)), (.upConnect, .refused(let refusal)):
      options.log(.warning, "\(name): \(refusal.text)")
    case (.plain, .refused(let refusal)), (.down, .refused(let refusal)):
      reply.handler(Self.refused(refusal, name))
    }
  }

  private static func refused(_ refusal: Replication.Refusal, _ name: String) -> ControlReply {
    ControlReply(refusing: refusal.control, object: name)
  }

  /// Lets go of everything of a volume; its memory is freed, and the answer given, when the kernel
  /// has let go, too.
  private mutating func leave(
    _ slot: Int, _ reply: ControlReply, _ handler: @escaping ReplyHandler
  ) {
    guard let box = volumes[slot] else { return handler(reply) }
    publish("destroy", slot)
    let deadline = reactor.now.advanced(milliseconds: Self.farewellMs)
    farewells[slot] = Farewell(reply: reply, deadline: deadline, handler: handler)
    if let export = box.volume.exportSlot {
      // Who came while the volume was being left must not stay with an export that is gone.
      server.closeSessions(of: export, reactor: &reactor)
      _ = server.removeExport(named: box.volume.configuration.name)
    }
    box.volume.isLeaving = true
    box.volume.stopAccepting(&reactor)
    box.volume.stopDialing(&reactor)
    box.volume.expireGreetings(all: true, &reactor, &server)
    box.volume.detachDisk(&reactor)
  }

  mutating func attachFailed(_ token: UInt64, _ failure: AttachFailure) {
    guard let reply = pending.removeValue(forKey: token),
      let box = volumes[reply.volume]
    else { return }
    let name = box.volume.configuration.name
    let answer = failure.reply(name)
    switch reply.kind {
    case .upAttach where !box.volume.isLeaving, .restoreAttach where !box.volume.isLeaving:
      leave(reply.volume, answer, reply.handler)
    default: reply.handler(answer)
    }
    if case .restoreAttach = reply.kind { return }
    for line in answer.standardError { options.log(.error, "\(name): \(line)") }
  }
}

extension ControlRequest {
  /// What `connect` asks of the core.
  fileprivate var connectCommand: Command {
    if tentative { return .connectTentatively }
    guard discardMyData else { return .connect }
    return .discard(noUndo ? .withoutUndo : DiscardPlan())
  }
}

/// Seconds since 1970 by the clock that people read.
func unixSeconds() -> UInt64 {
  var time = timespec()
  unsafe clock_gettime(CLOCK_REALTIME, &time)
  return UInt64(max(0, time.tv_sec))
}

extension ResourceConfiguration {
  /// Whether the core can run it. The parser's values are; the control socket takes anything.
  var isSound: Bool {
    let nameBytes = name.utf8.count
    guard nameBytes > 0, nameBytes <= Superblock.nameLimit else { return false }
    guard !hosts.isEmpty, hosts.count <= Superblock.peerSlotLimit else { return false }
    guard Set(hosts.map(\.nodeID)).count == hosts.count else { return false }
    guard Set(hosts.map(\.name)).count == hosts.count else { return false }
    guard ActivityLog.slotCounts.contains(Int(disk.activityLogExtents)) else { return false }
    guard net.isProtectionKnown else { return false }
    return net.koCount > 0 && net.timeoutTenths > 0 && net.pingTimeoutTenths > 0
      && net.pingIntervalSeconds > 0 && net.connectIntervalSeconds > 0
  }
}

extension AttachFailure {
  func reply(_ name: String) -> ControlReply {
    switch self {
    case .oldDiskBusy:
      ControlReply(
        refusing: Control.Refusal.transient.with("\(AttachedDisk.owesAnswers); try again"),
        object: name)
    case .cannotOpen(let text):
      ControlReply(refusing: Control.Refusal.cannotOpenDisk.with(text), object: name)
    case .noMetadata:
      ControlReply(
        exitCode: 1,
        standardError: [
          "No valid meta data found",
          "run 'ashlaradm create-md \(name)' on this node first; "
            + "if the size of this disk was changed, restore its old size first: create-md forgets "
            + "the history",
        ])
    case .damaged(let text):
      ControlReply(
        refusing: Control.Refusal.noMetadata.with(
          "both copies of the superblock are damaged (\(text)); "
            + "'ashlaradm create-md \(name)' makes new ones, and a resync from the peer follows"),
        object: name)
    case .readError(let errno):
      ControlReply(
        refusing: Control.Refusal.metadataReadError.with(errnoText(errno)), object: name)
    case .wrongSize(let volume, let layout):
      ControlReply(
        refusing: Control.Refusal.implicitShrink.with(
          "the metadata describes a volume of \(volume) bytes, but the disk has room for "
            + "\(layout)"), object: name)
    case .noMemory(let needed):
      ControlReply(
        refusing: Control.Refusal.outOfMemory.with(
          "the bitmaps of this volume take \(needed >> 20) MiB of memory"), object: name)
    }
  }
}

extension Replication.Refusal {
  /// The refusal as the tool prints it.
  var control: Control.Refusal {
    switch self {
    case .multiplePrimaries: .multiplePrimaries
    case .needUpToDateData: .needUpToDateData
    case .targetOfResync: .targetOfResync
    case .noDiskToPromote: .noDiskToPromote
    case .newerDataWasLost: .newerDataWasLost
    case .primaryLivesHere: .primaryLivesHere
    case .clientsLiveOnPeer: .clientsLiveOnPeer
    case .nobodyFillsTheDisk: .nobodyFillsTheDisk
    case .noRemoteDisk: .noRemoteDisk
    case .noLocalDisk: .noLocalDisk
    case .heldOpen: .heldOpen
    case .transient: .transient.with("a command or handshake is under way; try again")
    case .peerRefused: .refusedByPeer
    case .timeout: .timedOut
    case .primaryNeedsDisk:
      .diskless.with(
        "this node is Primary, and no peer with UpToDate data is connected; "
          + "run 'ashlaradm secondary' first")
    case .alreadyAttached: .alreadyAttached
    case .wrongMetadata:
      .noMetadata.with("the metadata belongs to another node or resource")
    case .discardOnPrimary: .discardOnPrimary
    case .alreadyConnected: .alreadyConnected
    case .alreadyActive: .alreadyActive
    case .noVerifyAlgorithm: .noVerifyAlgorithm
    case .needConnection: .needConnection
    case .invalidRange: .invalidRequest.with("the range is empty or outside the volume")
    case .dataNotCurrent: .dataNotCurrent
    case .dataNotFresh: .dataNotFresh
    }
  }
}
