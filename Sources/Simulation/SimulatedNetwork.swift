/// TCP-like connections between two nodes.
///
/// What holds, as it does for TCP:
/// - each direction delivers messages in order, once, without gaps: what arrives before a cut is a
///   prefix of what was sent;
/// - the two ends of a connection learn of its end at different times, and an end whose peer lost
///   power or whose path is blocked may never be told;
/// - a blocked path delivers nothing; what waited is delivered in order when it opens again, unless
///   the connection was closed in between;
/// - a dial to a node that does not listen is refused; on a blocked path it is retried, then fails.
///
/// The network schedules nothing itself: it leaves `(time, event)` pairs in `scheduled`, and is
/// asked again by `arrive` when the time has come.
package struct SimulatedNetwork<Message> {
  /// Names a connection; never used twice in a run.
  package struct ConnectionID: Hashable, Sendable {
    package let number: Int
  }

  /// What the network asks to be reminded of.
  package enum Reminder: Sendable {
    /// A dial may have reached the other side.
    case dial(ConnectionID, attempt: Int)
    /// The dialler learns that it is connected.
    case established(ConnectionID)
    /// A message may arrive at `side`.
    case deliver(ConnectionID, side: Int)
    /// `side` learns that the connection is gone.
    case close(ConnectionID, side: Int)
  }

  /// What a node sees.
  package enum Happening {
    /// A connection that another node dialled.
    case accepted(ConnectionID, node: Int)
    /// A dial of this node came through.
    case connected(ConnectionID, node: Int)
    /// A dial of this node was refused or timed out.
    case dialFailed(ConnectionID, node: Int)
    /// A message came in.
    case received(ConnectionID, node: Int, Message)
    /// The connection is gone; nothing more comes from it.
    case closed(ConnectionID, node: Int)
  }

  private struct InFlight {
    let message: Message
    let due: UInt64
  }

  private struct Connection {
    let dialler: Int
    /// Whether each side has an open socket. Side = node number.
    var open = [false, false]
    /// Messages on their way to each side.
    var toward: [[InFlight]] = [[], []]
    /// The last delivery time promised toward each side: later messages arrive no earlier.
    var lastDue: [UInt64] = [0, 0]
    /// Nothing that is sent toward this side arrives any more.
    var dead = [false, false]
    /// A side that will be told that the connection is gone.
    var closing = [false, false]
    /// The dialler was told that it is connected.
    var isEstablished = false
  }

  /// How the network behaves in ordinary times.
  package struct Options: Equatable, Sendable {
    /// One way.
    package var delay = Latency(floorUs: 50, spreadUs: 100)
    /// How long until an end hears of a cut, in microseconds.
    package var noticeUs: UInt64 = 100_000
    /// A dial on a blocked path gives up after this many tries, one second apart.
    package var dialTries = 5

    /// A quiet local network.
    package init() {}
  }

  /// How the network behaves.
  package var options: Options
  /// The next message that is sent arrives with a flipped bit.
  package var corruptNext = false
  private var connections: [Connection] = []
  /// Whether nothing gets through from node 0 to 1, and from 1 to 0.
  private var blockedFrom = [false, false]
  /// Whether a process listens on each node.
  private var listening = [false, false]
  /// What the caller must schedule; it empties this.
  package var scheduled: [(time: UInt64, reminder: Reminder)] = []

  /// No connections, nobody listening.
  package init(options: Options) { self.options = options }

  /// Connections with at least one open end.
  package var openConnections: [ConnectionID] {
    connections.indices.filter { connections[$0].open.contains(true) }
      .map { ConnectionID(number: $0) }
  }

  /// Whether `node` has an open socket for `id`.
  package func isOpen(_ id: ConnectionID, node: Int) -> Bool { connections[id.number].open[node] }

  /// The connection with this number.
  package func id(_ number: UInt64) -> ConnectionID { ConnectionID(number: Int(number)) }

  /// The node that dialled `id`.
  package func dialler(of id: ConnectionID) -> Int { connections[id.number].dialler }

  /// Says whether `node` accepts connections.
  package mutating func setListening(_ value: Bool, node: Int) { listening[node] = value }

  /// `node` dials the other one.
  package mutating func dial(
    from node: Int, now: UInt64, random: inout SeededGenerator
  ) -> ConnectionID {
    let id = ConnectionID(number: connections.count)
    var connection = Connection(dialler: node)
    connection.open[node] = true
    connections.append(connection)
    scheduled.append((now + options.delay.draw(&random), .dial(id, attempt: 0)))
    return id
  }

  /// `node` sends `message`; on a connection that is gone this is silently nothing.
  package mutating func send(
    _ message: Message, on id: ConnectionID, from node: Int, now: UInt64,
    random: inout SeededGenerator
  ) {
    let target = 1 - node
    guard connections[id.number].open[node] else { return }
    if connections[id.number].dead[target] {
      // The other machine has no such connection: it answers with a reset, if anything gets
      // through.
      if !connections[id.number].closing[node], !blockedFrom[node], !blockedFrom[target],
        listening[target]
      {
        tell(id, side: node, at: now + 2 * options.delay.draw(&random))
      }
      return
    }
    let due = max(now + options.delay.draw(&random), connections[id.number].lastDue[target])
    connections[id.number].lastDue[target] = due
    connections[id.number].toward[target].append(InFlight(message: message, due: due))
    scheduled.append((due, .deliver(id, side: target)))
  }

  /// `node` closes its end: the other one gets what was sent before, then the end of the stream.
  package mutating func close(
    _ id: ConnectionID, node: Int, now: UInt64, random: inout SeededGenerator
  ) {
    guard connections[id.number].open[node] else { return }
    connections[id.number].open[node] = false
    connections[id.number].toward[node].removeAll()
    connections[id.number].dead[node] = true
    let other = 1 - node
    let after = max(now, connections[id.number].lastDue[other]) + options.delay.draw(&random)
    tell(id, side: other, at: after)
  }

  /// The process on `node` is gone: its kernel closes every socket.
  package mutating func processGone(
    _ node: Int, now: UInt64, random: inout SeededGenerator
  ) {
    listening[node] = false
    for id in openConnections {
      truncate(id, toward: 1 - node, random: &random)
      close(id, node: node, now: now, random: &random)
    }
  }

  /// The machine `node` lost power: the other end is told nothing.
  package mutating func powerGone(_ node: Int, random: inout SeededGenerator) {
    listening[node] = false
    for id in openConnections {
      truncate(id, toward: 1 - node, random: &random)
      connections[id.number].open[node] = false
      connections[id.number].dead[node] = true
      connections[id.number].toward[node].removeAll()
    }
  }
}

extension SimulatedNetwork {
  /// How a connection is cut.
  package enum Cut: Equatable, Sendable {
    /// Both ends hear of it, each in its own time.
    case bothTold
    /// The given node is never told, unless it sends and the path is open.
    case halfOpen(untold: Int)
  }

  /// Cuts a connection: in each direction a prefix of what is in flight still arrives.
  package mutating func cut(
    _ id: ConnectionID, _ kind: Cut, now: UInt64, random: inout SeededGenerator
  ) {
    for side in 0...1 {
      truncate(id, toward: side, random: &random)
      connections[id.number].dead[side] = true
    }
    for side in 0...1 where connections[id.number].open[side] {
      if kind == .halfOpen(untold: side) { continue }
      let notice = random.below(options.noticeUs * 1000 + 1)
      tell(id, side: side, at: max(now + notice, connections[id.number].lastDue[side]))
    }
  }

  /// Blocks or opens the path from `node` to the other one.
  package mutating func setBlocked(
    _ value: Bool, from node: Int, now: UInt64, random: inout SeededGenerator
  ) {
    blockedFrom[node] = value
    guard !value else { return }
    let side = 1 - node
    for id in openConnections {
      // Retransmission finds the open path after up to a second, then everything arrives in order.
      var due = now + random.below(1_000_000_000)
      for index in connections[id.number].toward[side].indices {
        due = max(due, connections[id.number].toward[side][index].due)
        let message = connections[id.number].toward[side][index].message
        connections[id.number].toward[side][index] = InFlight(message: message, due: due)
        scheduled.append((due, .deliver(id, side: side)))
      }
      connections[id.number].lastDue[side] = max(due, connections[id.number].lastDue[side])
      if connections[id.number].closing[side] {
        scheduled.append((connections[id.number].lastDue[side], .close(id, side: side)))
      }
    }
  }

  /// Whether the path from `node` to the other one is blocked.
  package func isBlocked(from node: Int) -> Bool { blockedFrom[node] }

  /// A reminder is due: what does a node see?
  package mutating func arrive(
    _ reminder: Reminder, now: UInt64, random: inout SeededGenerator
  ) -> Happening? {
    switch reminder {
    case .dial(let id, let attempt): return dialArrives(id, attempt, now: now, random: &random)
    case .established(let id):
      let node = connections[id.number].dialler
      guard connections[id.number].open[node] else { return nil }
      connections[id.number].isEstablished = true
      return .connected(id, node: node)
    case .deliver(let id, let side):
      guard !blockedFrom[1 - side], connections[id.number].open[side] else { return nil }
      guard let first = connections[id.number].toward[side].first, first.due <= now else {
        return nil
      }
      connections[id.number].toward[side].removeFirst()
      return .received(id, node: side, first.message)
    case .close(let id, let side):
      guard connections[id.number].open[side] else { return nil }
      guard !blockedFrom[1 - side] else { return nil }
      guard connections[id.number].toward[side].isEmpty else {
        // A path that opened again delivers first.
        let after = max(connections[id.number].lastDue[side], now) + 1_000_000
        scheduled.append((after, .close(id, side: side)))
        return nil
      }
      connections[id.number].open[side] = false
      connections[id.number].dead[side] = true
      let isDialling =
        side == connections[id.number].dialler && !connections[id.number].isEstablished
      return isDialling ? .dialFailed(id, node: side) : .closed(id, node: side)
    }
  }

  private mutating func dialArrives(
    _ id: ConnectionID, _ attempt: Int, now: UInt64, random: inout SeededGenerator
  ) -> Happening? {
    let dialler = connections[id.number].dialler
    let target = 1 - dialler
    guard connections[id.number].open[dialler] else { return nil }
    if connections[id.number].closing[dialler] { return nil }
    if blockedFrom[0] || blockedFrom[1] {
      if attempt < options.dialTries {
        scheduled.append((now + 1_000_000_000, .dial(id, attempt: attempt + 1)))
        return nil
      }
      connections[id.number].open[dialler] = false
      return .dialFailed(id, node: dialler)
    }
    guard listening[target] else {
      connections[id.number].open[dialler] = false
      return .dialFailed(id, node: dialler)
    }
    connections[id.number].open[target] = true
    let due = now + options.delay.draw(&random)
    connections[id.number].lastDue[dialler] = due
    scheduled.append((due, .established(id)))
    return .accepted(id, node: target)
  }

  /// Keeps a random prefix of what is on its way to `side`.
  private mutating func truncate(
    _ id: ConnectionID, toward side: Int, random: inout SeededGenerator
  ) {
    let waiting = connections[id.number].toward[side].count
    guard waiting > 0 else { return }
    let keep = random.index(waiting + 1)
    connections[id.number].toward[side].removeLast(waiting - keep)
  }

  private mutating func tell(_ id: ConnectionID, side: Int, at time: UInt64) {
    guard connections[id.number].open[side], !connections[id.number].closing[side] else { return }
    connections[id.number].closing[side] = true
    scheduled.append((time, .close(id, side: side)))
  }
}
