/// The network model: in order, once, and a prefix of what was sent.
import Testing

@testable import Simulation

/// A network with its own clock, and what each node saw.
private struct Wire2 {
  var network = SimulatedNetwork<Int>(options: .init())
  var queue = EventQueue<SimulatedNetwork<Int>.Reminder>()
  var random: SeededGenerator
  var received: [[Int]] = [[], []]
  var connected: [Int] = []
  var accepted: [Int] = []
  var closed: [Int] = []
  var failed: [Int] = []

  init(seed: UInt64) {
    random = SeededGenerator(seed: seed)
    network.options.delay = Latency(floorUs: 10, spreadUs: 500)
    for node in 0...1 { network.setListening(true, node: node) }
  }

  mutating func drain() {
    for (time, reminder) in network.scheduled { queue.schedule(at: time, reminder) }
    network.scheduled.removeAll()
  }

  mutating func run(until time: UInt64 = .max) {
    drain()
    while let next = queue.nextTime, next <= time, let reminder = queue.pop() {
      let happening = network.arrive(reminder, now: queue.now, random: &random)
      drain()
      switch happening {
      case .accepted(_, let node): accepted.append(node)
      case .connected(_, let node): connected.append(node)
      case .dialFailed(_, let node): failed.append(node)
      case .received(_, let node, let number): received[node].append(number)
      case .closed(_, let node): closed.append(node)
      case nil: break
      }
    }
  }

  mutating func connect() -> SimulatedNetwork<Int>.ConnectionID {
    let id = network.dial(from: 0, now: queue.now, random: &random)
    run()
    return id
  }

  mutating func send(_ numbers: Range<Int>, _ id: SimulatedNetwork<Int>.ConnectionID, from: Int) {
    for number in numbers {
      network.send(number, on: id, from: from, now: queue.now, random: &random)
    }
  }
}

@Suite struct NetworkTests {
  @Test(arguments: 0..<20 as Range<UInt64>)
  func messagesArriveInOrderAndOnce(seed: UInt64) {
    var wire = Wire2(seed: seed)
    let id = wire.connect()
    #expect(wire.connected == [0])
    #expect(wire.accepted == [1])
    wire.send(0..<50, id, from: 0)
    wire.send(100..<150, id, from: 1)
    wire.run()
    #expect(wire.received == [Array(100..<150), Array(0..<50)])
  }

  /// What arrives around a cut is a prefix, and both ends hear of the cut.
  @Test(arguments: 0..<20 as Range<UInt64>)
  func cutDeliversAPrefix(seed: UInt64) {
    var wire = Wire2(seed: seed)
    let id = wire.connect()
    wire.send(0..<50, id, from: 0)
    wire.network.cut(id, .bothTold, now: wire.queue.now, random: &wire.random)
    wire.send(50..<60, id, from: 0)
    wire.run()
    #expect(wire.received[1] == Array(0..<wire.received[1].count))
    #expect(wire.received[1].count <= 50)
    #expect(wire.closed.sorted() == [0, 1])
  }

  @Test func untoldEndHearsOnlyWhenItSends() {
    var wire = Wire2(seed: 1)
    let id = wire.connect()
    wire.network.cut(id, .halfOpen(untold: 0), now: wire.queue.now, random: &wire.random)
    wire.run()
    #expect(wire.closed == [1])
    wire.send(0..<1, id, from: 0)
    wire.run()
    #expect(wire.closed == [1, 0])
    #expect(wire.received[1].isEmpty)
  }

  /// A blocked path holds everything back and delivers it in order later.
  @Test func blockedPathDeliversLater() {
    var wire = Wire2(seed: 2)
    let id = wire.connect()
    wire.network.setBlocked(true, from: 0, now: wire.queue.now, random: &wire.random)
    wire.send(0..<10, id, from: 0)
    wire.send(100..<110, id, from: 1)
    wire.run()
    #expect(wire.received[1].isEmpty)
    #expect(wire.received[0] == Array(100..<110))
    wire.network.setBlocked(false, from: 0, now: wire.queue.now, random: &wire.random)
    wire.run()
    #expect(wire.received[1] == Array(0..<10))
  }

  @Test func dialIsRefusedWhereNobodyListens() {
    var wire = Wire2(seed: 3)
    wire.network.setListening(false, node: 1)
    _ = wire.connect()
    #expect(wire.failed == [0])
    #expect(wire.connected.isEmpty)
  }

  @Test func dialOnABlockedPathFailsInTheEnd() {
    var wire = Wire2(seed: 4)
    wire.network.setBlocked(true, from: 1, now: 0, random: &wire.random)
    _ = wire.connect()
    #expect(wire.failed == [0])
    #expect(wire.queue.now >= 5_000_000_000)
  }

  /// A power loss tells the other end nothing; a killed process does.
  @Test func powerLossIsSilent() {
    var wire = Wire2(seed: 5)
    _ = wire.connect()
    wire.network.powerGone(1, random: &wire.random)
    wire.run()
    #expect(wire.closed.isEmpty)

    var other = Wire2(seed: 5)
    _ = other.connect()
    other.network.processGone(1, now: other.queue.now, random: &other.random)
    other.run()
    #expect(other.closed == [0])
  }
}
