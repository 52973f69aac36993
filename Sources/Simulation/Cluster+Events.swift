/// The loop: take what is due, let the core see it, carry out what the core wants.
import BlockTypes
import Metadata
import Replication
import Wire

extension Cluster {
  /// Lets everything happen that is due up to `time`; stops at the first broken promise.
  package func run(until time: UInt64) {
    while violations.isEmpty, !hasConverged, let next = queue.nextTime, next <= time {
      guard let occurrence = queue.pop() else { return }
      statistics.steps += 1
      eventsAtThisTime = now == lastEventTime ? eventsAtThisTime + 1 : 0
      lastEventTime = now
      if eventsAtThisTime > Self.eventsAtOneTime { violate(.progress, "time stands still") }
      happen(occurrence)
      passPoint()
      checkAfterEvent()
    }
    if violations.isEmpty, !hasConverged, time < .max { queue.advance(to: time) }
  }

  private func happen(_ occurrence: Occurrence) {
    switch occurrence {
    case .disk(let index, let epoch, let purpose, let ticket, let range):
      let node = nodes[index]
      guard node.epoch == epoch else { return }
      if node.hungUntil > now {
        struck(.hangDisk)
        return node.hungAnswers.append(occurrence)
      }
      if postpone(node, occurrence) { return }
      hash.event(at: now, 1 << 56 | UInt64(index) << 48 | ticket.number)
      diskEnded(node, purpose, ticket, range)
    case .network(let reminder): networkHappens(reminder)
    case .sent(let index, let epoch, let buffer):
      guard nodes[index].epoch == epoch else { return }
      give(nodes[index], buffer)
    case .tick(let index, let epoch):
      let node = nodes[index]
      guard node.epoch == epoch else { return }
      if postpone(node, occurrence) { return }
      if failsNow(node, .timer) {
        let late = failure?.isForEver == true ? planRandom.below(1_000_000_000) : 5_000_000_000
        node.tickAt = now + late
        return queue.schedule(at: node.tickAt, .lateTick(node: index, epoch: epoch))
      }
      hash.event(at: now, 3 << 56 | UInt64(index))
      node.tickAt = .max
      tick(node)
    case .lateTick(let index, let epoch):
      guard nodes[index].epoch == epoch else { return }
      nodes[index].tickAt = .max
      tick(nodes[index])
    case .start(let index):
      hash.event(at: now, 4 << 56 | UInt64(index))
      start(index)
    case .client(let slot): clientTurn(slot)
    case .giveWay(let index, let epoch, let peer, let heldOpen):
      guard nodes[index].epoch == epoch, !postpone(nodes[index], occurrence) else { return }
      hash.event(at: now, 16 << 56 | UInt64(index))
      givesWay(nodes[index], peer, heldOpen: heldOpen)
    case .undo(let index, let epoch, let number, let next):
      let node = nodes[index]
      guard node.epoch == epoch else { return }
      if postpone(node, occurrence) { return }
      hash.event(at: now, 15 << 56 | UInt64(index) << 48 | next)
      undoTurn(node, number, next)
    case .operatorTurn: operate()
    case .fault(let number): disturb(number)
    case .strike(let kind): strike(kind)
    case .aimedCut(let kind): if !faultsAreOver { cut(kind) }
    case .aimedEnd(let index, let epoch, let how):
      if nodes[index].epoch == epoch { end(index, how) }
    case .faultEnds(let node, let kind): endFault(kind, node)
    case .faultsOver: endFaults()
    }
  }

  /// A paused process sees nothing until it goes on.
  private func postpone(_ node: SimulatedNode, _ occurrence: Occurrence) -> Bool {
    guard node.pausedUntil > now else { return false }
    struck(.pauseNode)
    queue.schedule(at: node.pausedUntil, occurrence)
    return true
  }

  func drainNetwork() {
    for (time, reminder) in network.scheduled { queue.schedule(at: time, .network(reminder)) }
    network.scheduled.removeAll(keepingCapacity: true)
  }

  private func networkHappens(_ reminder: SimulatedNetwork<WireMessage>.Reminder) {
    if let index = receiver(of: reminder) {
      let node = nodes[index]
      if postpone(node, .network(reminder)) { return }
      // Without a free buffer the driver does not read from the socket.
      if case .deliver = reminder, node.buffers.takenCount == options.bufferCount {
        queue.schedule(at: now + 200_000, .network(reminder))
        return
      }
    }
    noteBlocked(reminder)
    let happening = network.arrive(reminder, now: now, random: &networkRandom)
    drainNetwork()
    guard let happening else { return }
    switch happening {
    case .accepted(let id, let index):
      hash.event(at: now, 5 << 56 | UInt64(index) << 48 | UInt64(id.number))
      step(nodes[index], .accepted(ConnectionID(UInt64(id.number))))
    case .connected(let id, let index):
      hash.event(at: now, 6 << 56 | UInt64(index) << 48 | UInt64(id.number))
      step(nodes[index], .dialed(peer: 0, ConnectionID(UInt64(id.number))))
    case .dialFailed(let id, let index):
      hash.event(at: now, 7 << 56 | UInt64(index) << 48 | UInt64(id.number))
      step(nodes[index], .dialFailed(peer: 0))
    case .closed(let id, let index):
      hash.event(at: now, 8 << 56 | UInt64(index) << 48 | UInt64(id.number))
      say("node \(index) hears that connection \(id.number) is gone")
      step(nodes[index], .closed(ConnectionID(UInt64(id.number))))
    case .received(let id, let index, let message):
      statistics.messages += 1
      receive(nodes[index], ConnectionID(UInt64(id.number)), message)
    }
  }

  private func receiver(of reminder: SimulatedNetwork<WireMessage>.Reminder) -> Int? {
    switch reminder {
    case .dial: nil
    case .established(let id): network.dialler(of: id)
    case .deliver(_, let side), .close(_, let side): side
    }
  }

  private func receive(
    _ node: SimulatedNode, _ connection: ConnectionID, _ message: WireMessage
  ) {
    let header: MessageHeader
    do {
      header = try unsafe message.bytes.withUnsafeBytes { bytes throws(WireError) in
        try MessageHeader(parsing: bytes)
      }
    } catch {
      if message.isCorrupt {
        struck(.corruptMessage)
      } else {
        violate(.conduct, "node \(node.index) received a header that does not parse: \(error)")
      }
      return abandon(node, connection, "\(error)", .closed(connection))
    }
    guard isTaken(message, header) else {
      if message.isCorrupt {
        struck(.corruptMessage)
      } else {
        violate(.conduct, "node \(node.index) refuses a message that came as it was sent")
      }
      return abandon(node, connection, "digest mismatch", .corrupted(connection))
    }
    if message.isCorrupt, options.canary != .ignoreDigestMismatch {
      violate(.conduct, "node \(node.index) took a corrupt message as sound")
    }
    if header.type == .hello, !network.isOpen(network.id(connection.value), node: 1 - node.index) {
      reach(.lateHello)
    }
    hash.event(at: now, 9 << 56 | UInt64(node.index) << 48 | UInt64(header.type.rawValue) << 40)
    hash.mix(header.id ^ header.offset << 32 ^ header.length)
    say("node \(node.index) <- \(connection.value) \(Self.text(header))")
    if header.type == .resyncData || header.type == .resyncZeroes { statistics.resyncRanges += 1 }
    if header.type == .resyncData { statistics.resyncBytes += UInt64(header.payloadBytes) }
    var buffer = BufferID.none
    if header.type.carriesData {
      guard let taken = node.buffers.take(message.words) else {
        preconditionFailure("delivery waits for a free buffer")
      }
      buffer = taken
    }
    let instant = clock(node)
    let bits = entropy.next()
    unsafe message.bytes.withUnsafeBytes { bytes in
      let control = unsafe UnsafeRawBufferPointer(rebasing: bytes[MessageHeader.byteCount...])
      node.replica.receive(
        connection, header, control: control, buffer: buffer, at: instant, entropy: bits)
    }
    finishStep(node)
  }

  /// The driver closes a stream in which it lost its place.
  private func abandon(
    _ node: SimulatedNode, _ connection: ConnectionID, _ reason: String, _ event: Event
  ) {
    say("node \(node.index) gives connection \(connection.value) up: \(reason)")
    let id = SimulatedNetwork<WireMessage>.ConnectionID(number: Int(connection.value))
    network.close(id, node: node.index, now: now, random: &networkRandom)
    drainNetwork()
    step(node, event)
  }

  static func text(_ header: MessageHeader) -> String {
    var text = "\(header.type) id \(header.id) offset \(header.offset) length \(header.length)"
    if header.payloadBytes > 0 { text += " payload \(header.payloadBytes)" }
    if header.forceUnitAccess { text += " FUA" }
    return text
  }

  /// Lets the core take one event and carries out what it wants.
  func step(_ node: SimulatedNode, _ event: Event) {
    guard node.isRunning else { return }
    node.replica.step(event, at: clock(node), entropy: entropy.next())
    finishStep(node)
  }

  func finishStep(_ node: SimulatedNode) {
    if let point = faultPoint, point.node == node.index, point.effect == 0 {
      faultPoint = nil
      strike(point)
    }
    let epoch = node.epoch
    while node.epoch == epoch, let effect = node.replica.effects.pop() {
      carryOut(effect, node)
      node.effectCount += 1
      passPoint()
      if let point = faultPoint, point.node == node.index, point.effect == node.effectCount {
        faultPoint = nil
        strike(point)
      }
    }
    if node.epoch == epoch, let (id, differing) = node.compared {
      node.compared = nil
      return step(node, .digestsCompared(id, differing: differing))
    }
    if node.epoch == epoch { armTick(node) }
  }

  func armTick(_ node: SimulatedNode) {
    let deadline = node.replica.nextDeadline
    guard deadline != .never else { return }
    // A timer of the kernel never fires early; a microsecond late is usual.
    let due = max(deadline.nanoseconds, node.clockOffset) - node.clockOffset + 1_000
    guard due < node.tickAt else { return }
    node.tickAt = due
    queue.schedule(at: due, .tick(node: node.index, epoch: node.epoch))
  }

  private func tick(_ node: SimulatedNode) {
    guard node.replica.nextDeadline <= clock(node) else { return armTick(node) }
    step(node, .tick)
    node.idleTicks = node.replica.nextDeadline <= clock(node) ? node.idleTicks + 1 : 0
    if node.idleTicks > 100 {
      violate(.progress, "node \(node.index) asks for ticks that change nothing")
    }
  }
}

extension Cluster {
  private func diskEnded(
    _ node: SimulatedNode, _ purpose: DiskPurpose, _ ticket: SimulatedDisk.Ticket,
    _ range: SlotRange
  ) {
    guard let outcome = node.disk.finish(ticket, random: &diskRandom[node.index]) else { return }
    if outcome.result < 0 { say("node \(node.index) disk fails: \(purpose)") }
    let result = outcome.result < 0 ? outcome.result : Int32(range.count * 512)
    switch purpose {
    case .request(let id, let buffer):
      if buffer != .none {
        if !outcome.words.isEmpty { fill(node, buffer, outcome.words) }
        give(node, buffer)
      }
      step(node, .diskCompleted(id, result: result, buffer: .none))
    case .serve(let id, let buffer):
      let isZero = !outcome.words.isEmpty && outcome.words.allSatisfy { $0 == 0 }
      if isZero, node.replica.tellsZeroes(id) {
        give(node, buffer)
        return step(node, .diskCompleted(id, result: result, buffer: .none))
      }
      if !outcome.words.isEmpty { fill(node, buffer, outcome.words) }
      step(node, .diskCompleted(id, result: result, buffer: buffer))
    case .swallowed(let id): step(node, .diskCompleted(id, result: 0, buffer: .none))
    case .untimely: break
    case .superblock, .mirror: copyEnded(node, isMirror: purpose.isMirror, result)
    case .bitmapPage(let entry):
      step(node, .bitmapPageWritten(entry, result: min(result, 0)))
    case .activityLog: step(node, .activityLogWritten(result: min(result, 0)))
    }
  }

  func fill(_ node: SimulatedNode, _ buffer: BufferID, _ words: [UInt64]) {
    if !node.buffers.fill(buffer, words) {
      violate(.buffers, "node \(node.index) reads into buffer \(buffer.value), which is free")
    }
  }

  func hold(_ node: SimulatedNode, _ buffer: BufferID) {
    if !node.buffers.hold(buffer) {
      violate(.buffers, "node \(node.index) uses buffer \(buffer.value), which is free")
    }
  }

  /// Gives up one holder; a read for a resync that waits for a buffer may then go on.
  func give(_ node: SimulatedNode, _ buffer: BufferID) {
    if !node.buffers.release(buffer) {
      violate(.buffers, "node \(node.index) releases buffer \(buffer.value), which is free")
    }
    while !node.waitingServes.isEmpty, node.buffers.takenCount < options.bufferCount {
      let (id, range) = node.waitingServes.removeFirst()
      serve(node, id, range)
    }
  }

  func serve(_ node: SimulatedNode, _ id: SlotID, _ range: ByteRange) {
    // What nobody has read must be told from data.
    let unread = [UInt64](repeating: .max, count: Int(range.length / sectorSize))
    guard let buffer = node.buffers.take(unread) else {
      node.waitingServes.append((id, range))
      return
    }
    submit(node, .serve(id, buffer), .read, range)
  }

  func submit(
    _ node: SimulatedNode, _ purpose: DiskPurpose, _ operation: SimulatedDisk.Operation,
    _ range: ByteRange, forceUnitAccess: Bool = false
  ) {
    let sectors = SlotRange(
      start: Int(range.start / sectorSize), count: Int(range.length / sectorSize))
    submit(node, purpose, operation, sectors, forceUnitAccess: forceUnitAccess)
  }

  func submit(
    _ node: SimulatedNode, _ purpose: DiskPurpose, _ operation: SimulatedDisk.Operation,
    _ range: SlotRange, forceUnitAccess: Bool
  ) {
    if let kind = EffectKind(purpose, operation), failsNow(node, kind) {
      node.disk.faults.failsNext = true
    }
    let races = node.disk.counters.racingWrites
    let ticket = node.disk.submit(
      operation, start: range.start, count: range.count, forceUnitAccess: forceUnitAccess,
      random: &diskRandom[node.index])
    if node.disk.counters.racingWrites > races {
      violate(.coherence, "node \(node.index) has two writes to one sector in flight: \(purpose)")
    }
    var due = now + draw(options.diskLatency[node.index], node.index)
    if node.slowByNs > 0, !node.slowsFlushesOnly || operation == .flush {
      struck(.slowDisk)
      due += diskRandom[node.index].below(node.slowByNs)
    }
    if operation == .flush { due += aimCut(node) }
    queue.schedule(
      at: due, .disk(node: node.index, epoch: node.epoch, purpose, ticket, range))
  }
}
