/// Clients: they keep a number of requests in flight at the Primary and remember what was promised.
import BlockTypes
package import Replication
import Wire

/// A client that makes one request after another.
struct ClientSlot {
  var pending: PendingRequest?
  var outcome: Outcome?
}

/// A request that has not been completed.
struct PendingRequest {
  let tag: UInt64
  let node: Int
  let operation: Replication.Operation
  let sectors: Range<Int>
  let forceUnitAccess: Bool
  let begun: UInt64
  /// The record of a change.
  let change: Int?
  /// A read: the floors when it began. A flush: those of node 0.
  var floors: [UInt64]
  /// A flush: the floors of node 1.
  let otherFloors: [UInt64]
  /// Where a read finds its data; changes when the data comes from the peer.
  var buffer: BufferID
  /// It was sent where it must be refused.
  let expectsRefusal: Bool
}

extension Cluster {
  /// Lets the clients begin.
  package func startClients() {
    for slot in clients.indices {
      queue.schedule(at: now + UInt64(slot) * 1_000, .client(slot: slot))
    }
  }

  /// Lets one client make one request, for scenarios that make each request by hand.
  package func request(
    client slot: Int, node: Int, _ operation: Replication.Operation, _ sectors: Range<Int>,
    forceUnitAccess: Bool = false
  ) {
    precondition(clients[slot].pending == nil, "client \(slot) waits for an answer")
    submit(slot, nodes[node], operation, sectors, forceUnitAccess: forceUnitAccess)
  }

  /// Whether the request of a client has not been completed.
  package func isPending(client slot: Int) -> Bool { clients[slot].pending != nil }

  /// How the last request of a client ended; `nil` before that, or when its node died.
  package func outcome(client slot: Int) -> Outcome? { clients[slot].outcome }

  /// Requests that have not been completed.
  package var pendingRequests: Int { clients.reduce(0) { $0 + ($1.pending == nil ? 0 : 1) } }

  /// Whether a request of a client to `node` that covers `sector` is under way.
  func isInFlight(_ sector: Int, node: Int) -> Bool {
    clients.contains { slot in
      guard let pending = slot.pending, pending.change != nil else { return false }
      return pending.node == node && pending.sectors.contains(sector)
    }
  }

  /// Reads that were under way while a change failed may return what was there before it.
  private func changeFailed(_ node: SimulatedNode, _ failed: PendingRequest) {
    guard let change = failed.change else { return }
    history.fail(change)
    for slot in clients.indices {
      guard let read = clients[slot].pending, read.operation == .read, read.node == node.index,
        read.sectors.overlaps(failed.sectors)
      else { continue }
      let floors = history.readFloors(
        on: node.index, sectors: read.sectors, authority: authority(node))
      clients[slot].pending?.floors = zip(read.floors, floors).map { min($0, $1) }
    }
  }

  func clientTurn(_ slot: Int) {
    guard clients[slot].pending == nil, clientRequestsLeft > 0 else { return }
    hash.event(at: now, 10 << 56 | UInt64(slot))
    guard !clientsAreHeld, let node = chooseNode(slot) else {
      queue.schedule(at: now + 20_000_000, .client(slot: slot))
      return
    }
    clientRequestsLeft -= 1
    let dice = clientRandom.below(100)
    let sectors = drawSectors()
    var limit = options.readPercent
    if dice < limit { return submit(slot, node, .read, sectors) }
    limit += options.flushPercent
    if dice < limit { return submit(slot, node, .flush, 0..<0) }
    limit += options.trimPercent
    if dice < limit { return submit(slot, node, .trim, sectors) }
    limit += options.zeroPercent
    let durable = clientRandom.chance(options.forceUnitAccess)
    submit(
      slot, node, dice < limit ? .writeZeroes : .write, sectors, forceUnitAccess: durable)
  }

  private func chooseNode(_ slot: Int) -> SimulatedNode? {
    if clientRandom.chance(options.wrongNode) {
      let secondaries = nodes.filter { isReachable($0) && $0.role == .secondary }
      if let node = secondaries.first { return node }
    }
    let primaries = nodes.filter { isReachable($0) && $0.role == .primary }
    if primaries.count == 2 { return primaries[slot % 2] }
    return primaries.first
  }

  private func isReachable(_ node: SimulatedNode) -> Bool {
    node.isRunning && node.pausedUntil <= now
  }

  private func drawSectors() -> Range<Int> {
    let hot =
      clientRandom.below(4) > 0
      ? min(options.hotBlocks, options.volumeBlocks) : options.volumeBlocks
    let whole = clientRandom.coin()
    var start = clientRandom.index(hot * 8)
    var count = 1 + clientRandom.index(options.requestSectors)
    if whole {
      start = start / 8 * 8
      count = max(8, count / 8 * 8)
    }
    let end = min(start + count, volumeSectors)
    return start..<end
  }

  /// Submits a request for a client that has none.
  func submit(
    _ slot: Int, _ node: SimulatedNode, _ operation: Replication.Operation,
    _ sectors: Range<Int>, forceUnitAccess: Bool = false
  ) {
    clientSerial += 1
    let tag = clientSerial << 16 | UInt64(slot)
    var change: Int?
    var floors: [UInt64] = []
    var otherFloors: [UInt64] = []
    var words: [UInt64] = []
    switch operation {
    case .read:
      floors = history.readFloors(on: node.index, sectors: sectors, authority: authority(node))
      statistics.reads += 1
      words = [UInt64](repeating: 0, count: sectors.count)
    case .flush:
      floors = history.heldFloors(on: 0)
      otherFloors = history.heldFloors(on: 1)
      statistics.flushes += 1
    case .write, .writeZeroes, .trim:
      let number = history.begin(
        node: node.index, sectors: sectors, zeroes: operation != .write)
      if operation == .write { words = history.words(number) }
      change = number
      statistics.writes += 1
    }
    var buffer = BufferID.none
    if operation == .read || operation == .write {
      guard let taken = node.buffers.take(words) else {
        // The export has no buffer: it does not read from its client.
        queue.schedule(at: now + 1_000_000, .client(slot: slot))
        return
      }
      buffer = taken
    }
    let range = ByteRange(
      start: UInt64(sectors.lowerBound) * sectorSize, end: UInt64(sectors.upperBound) * sectorSize)
    var request = ClientRequest(operation, range, tag: tag)
    request.forceUnitAccess = forceUnitAccess
    request.buffer = buffer
    clients[slot].outcome = nil
    clients[slot].pending = PendingRequest(
      tag: tag, node: node.index, operation: operation, sectors: sectors,
      forceUnitAccess: forceUnitAccess, begun: now, change: change, floors: floors,
      otherFloors: otherFloors, buffer: buffer, expectsRefusal: node.role != .primary)
    say(
      """
      client \(slot) asks node \(node.index): \(operation) \(change.map { "w\($0) " } ?? "")\
      \(sectors)\(forceUnitAccess ? " FUA" : "")
      """)
    step(node, .submit(request))
  }

  func substitute(_ node: SimulatedNode, _ tag: UInt64, _ buffer: BufferID) {
    let slot = Int(tag & 0xFFFF)
    guard slot < clients.count, clients[slot].pending?.tag == tag else {
      return violate(.completion, "node \(node.index) has data for a read that is not under way")
    }
    statistics.peerReads += 1
    clients[slot].pending?.buffer = buffer
  }

  func completed(_ node: SimulatedNode, _ tag: UInt64, _ outcome: Outcome) {
    let slot = Int(tag & 0xFFFF)
    guard slot < clients.count, let pending = clients[slot].pending, pending.tag == tag else {
      violate(.completion, "node \(node.index) completes a request that is not under way")
      return
    }
    clients[slot].pending = nil
    clients[slot].outcome = outcome
    hash.event(at: now, 11 << 56 | UInt64(slot))
    say("client \(slot) is answered: \(pending.operation) \(outcome)")
    if pending.expectsRefusal, outcome == .done {
      violate(.oneWriter, "node \(node.index) served a client though it was Secondary")
    }
    switch outcome {
    case .done: checkDone(node, pending)
    case .ioError:
      statistics.failed += 1
      changeFailed(node, pending)
    case .notPrimary: statistics.refused += 1
    case .invalid: violate(.completion, "a valid \(pending.operation) was called invalid")
    }
    var pause = options.think.draw(&clientRandom)
    if options.burstRequests > 0 {
      if burstLeft > 0 {
        burstLeft -= 1
      } else {
        pause += clientRandom.within(10_000_000...500_000_000)
      }
    }
    if outcome != .done { pause += 5_000_000 }
    queue.schedule(at: now + pause, .client(slot: slot))
  }

  /// The clients of a node that died learn nothing about their requests.
  func abandonClients(of index: Int) {
    for slot in clients.indices where clients[slot].pending?.node == index {
      clients[slot].pending = nil
      statistics.abandoned += 1
      queue.schedule(at: now + 50_000_000, .client(slot: slot))
    }
  }
}
