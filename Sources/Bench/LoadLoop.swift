internal import BlockIO
internal import BlockTypes

/// Keeps a target busy: issues I/Os as the workload says, counts them, measures their latency.
///
/// Invariants:
/// - each slot is free, or its I/O is in flight; `inFlight` counts the latter;
/// - one turn reads the clock twice: when completions came (`Reactor.now`) and before new I/Os are
///   issued, so that the client's own work on one I/O is not counted as latency of the next;
/// - an I/O allocates nothing.
struct LoadLoop<Target: BlockTarget & ~Copyable>: ~Copyable {
  /// Where the next block comes from.
  private enum Source {
    case generated(AddressGenerator)
    /// Every block that was ever written, in order from here.
    case written(from: UInt64)
  }

  var reactor: Reactor
  var target: Target
  var verifier: Verifier
  private var slots: FixedArray<SlotIO>
  private var free: FIFO<UInt32>
  private var done: FIFO<UInt32>
  private var inFlight = 0
  private let workload: Workload
  private let blockCount: UInt64
  /// Phases begun, so that each has random numbers of its own.
  private var phase: UInt64 = 0

  private var source: Source
  private var limiter: RateLimiter
  /// A write that waits for the earlier one to its block.
  private var held: AddressGenerator.Choice?
  private var isSourceEmpty = false
  private var issued: UInt64 = 0
  private var writesSinceFlush: UInt64 = 0
  private var reads = LatencyRecorder()
  private var writes = LatencyRecorder()
  private var flushes = LatencyRecorder()

  /// How long no I/O may be answered before the load gives up. Longer than any failover should
  /// take, so that one shows as a latency and not as an error.
  static var stallLimitNs: UInt64 { 60_000_000_000 }

  init(
    reactor: consuming Reactor, target: consuming Target, workload: Workload,
    verifier: consuming Verifier
  ) throws(BenchError) {
    try target.check(workload)
    blockCount = try workload.blockCount(targetBytes: target.byteCount)
    var reactor = reactor
    var buffers: [BufferID] = []
    for _ in 0..<workload.depth {
      guard let buffer = reactor.allocate(UInt32(workload.blockBytes)) else {
        preconditionFailure("the reactor was made with too few buffers")
      }
      buffers.append(buffer)
    }
    slots = FixedArray(count: workload.depth) { SlotIO(buffer: buffers[$0]) }
    free = FIFO(capacity: workload.depth, filler: 0)
    done = FIFO(capacity: workload.depth, filler: 0)
    for slot in 0..<workload.depth { free.push(UInt32(slot)) }
    source = .generated(AddressGenerator(workload: workload, blockCount: blockCount))
    limiter = RateLimiter(rate: nil, blockBytes: workload.blockBytes, startNs: 0)
    self.workload = workload
    self.reactor = reactor
    self.target = target
    self.verifier = verifier
    fillBuffers()
  }

  /// Random data, so that a target that compresses or skips zeroes gains nothing.
  private mutating func fillBuffers() {
    var random = SeededGenerator(seed: workload.seed)
    for slot in 0..<slots.count {
      let memory = unsafe reactor.memory(of: slots[slot].buffer)
      var offset = 0
      while offset < memory.count {
        unsafe memory.storeBytes(of: random.next(), toByteOffset: offset, as: UInt64.self)
        offset += 8
      }
    }
  }

  /// Runs the load, with its own or another pattern, for `durationNs` and counts.
  mutating func run(
    _ pattern: AccessPattern, durationNs: UInt64
  ) throws(BenchError) -> PhaseCounts {
    reset()
    var phaseWorkload = workload
    phaseWorkload.pattern = pattern
    phaseWorkload.seed &+= phase &+ verifier.earlierWrites
    phase += 1
    source = .generated(AddressGenerator(workload: phaseWorkload, blockCount: blockCount))
    let start = monotonicNs()
    limiter = RateLimiter(rate: workload.rate, blockBytes: workload.blockBytes, startNs: start)
    try turn(until: start + durationNs, start: start)
    return counts(start: start)
  }

  /// Reads every block that was written and lets the verifier check it.
  mutating func readBack() throws(BenchError) -> PhaseCounts {
    reset()
    source = .written(from: 0)
    let start = monotonicNs()
    limiter = RateLimiter(rate: nil, blockBytes: workload.blockBytes, startNs: start)
    try turn(until: .max, start: start)
    return counts(start: start)
  }

  private mutating func reset() {
    precondition(inFlight == 0, "the last phase has not ended")
    reads.reset()
    writes.reset()
    flushes.reset()
    issued = 0
    writesSinceFlush = 0
    held = nil
    isSourceEmpty = false
  }

  private func counts(start: UInt64) -> PhaseCounts {
    let elapsed = reactor.now.nanoseconds > start ? reactor.now.nanoseconds - start : 1
    return PhaseCounts(
      elapsedNs: elapsed, blockBytes: workload.blockBytes, reads: reads.count,
      writes: writes.count, flushes: flushes.count, readLatency: reads.summary,
      writeLatency: writes.summary, flushLatency: flushes.summary)
  }

  /// Issues until `end`, then waits for what is in flight.
  private mutating func turn(until end: UInt64, start: UInt64) throws(BenchError) {
    var lastProgress = start
    var now = start
    var wasFull = false
    while true {
      if Interruption.isRequested { isSourceEmpty = true }
      let mayIssue = now < end && !isSourceEmpty
      let wake = mayIssue ? issue(now: now, end: end, wasFull: wasFull) : .max
      if inFlight == 0, now >= end || isSourceEmpty { return }
      wasFull = free.isEmpty || held != nil
      let patience = inFlight > 0 ? lastProgress + Self.stallLimitNs : .max
      let deadline = min(wake, patience, now < end ? end : .max)
      reactor.wait(until: Instant(nanoseconds: deadline))
      while let event = reactor.nextEvent() {
        try target.take(event, &slots, &reactor, &done)
        while let slot = done.pop() { finish(Int(slot)) }
        lastProgress = reactor.now.nanoseconds
      }
      now = monotonicNs()
      if inFlight > 0, now >= lastProgress + Self.stallLimitNs {
        throw .stalled(
          target: target.name, inFlight: inFlight, seconds: Self.stallLimitNs / 1_000_000_000)
      }
    }
  }

  /// Fills free slots with the I/Os that are due; returns when the next one is due.
  private mutating func issue(now: UInt64, end: UInt64, wasFull: Bool) -> UInt64 {
    while !free.isEmpty {
      let due = limiter.dueNs
      guard due <= now else { return due }
      // What was due while all slots were taken has been kept waiting by the target, and that is
      // latency. What is only late because this thread woke late is not.
      let isDelayed = wasFull && limiter.isLimited
      guard let slot = prepare(startNs: isDelayed ? due : now) else { return .max }
      limiter.advance()
      target.submit(slot, slots, &reactor)
    }
    return .max
  }

  /// Takes a slot for the next I/O; `nil` when there is none to do now.
  @inline(__always)
  private mutating func prepare(startNs: UInt64) -> Int? {
    if workload.flushEvery > 0, writesSinceFlush >= workload.flushEvery {
      writesSinceFlush = 0
      return take(kind: .flush, block: 0, startNs: startNs)
    }
    guard let choice = nextChoice() else { return nil }
    if choice.isRead {
      let slot = take(kind: .read, block: choice.block, startNs: startNs)
      if verifier.mode != .off { verifier.prepareRead(slot: slot, block: choice.block) }
      return slot
    }
    if verifier.mode != .off, verifier.isBusy(choice.block) {
      held = choice
      return nil
    }
    let slot = take(
      kind: workload.fua ? .durableWrite : .write, block: choice.block, startNs: startNs)
    if verifier.mode != .off {
      let memory = unsafe reactor.memory(of: slots[slot].buffer)
      slots[slot].sequence = unsafe verifier.prepareWrite(block: choice.block, memory)
    }
    writesSinceFlush += 1
    return slot
  }

  @inline(__always)
  private mutating func nextChoice() -> AddressGenerator.Choice? {
    if let choice = held {
      held = nil
      return choice
    }
    if workload.ioLimit > 0, issued == workload.ioLimit {
      isSourceEmpty = true
      return nil
    }
    issued += 1
    switch source {
    case .generated(var generator):
      let choice = generator.next()
      source = .generated(generator)
      return choice
    case .written(let from):
      guard let block = verifier.nextWritten(from: from) else {
        isSourceEmpty = true
        return nil
      }
      source = .written(from: block + 1)
      return AddressGenerator.Choice(isRead: true, block: block)
    }
  }

  @inline(__always)
  private mutating func take(kind: IOKind, block: UInt64, startNs: UInt64) -> Int {
    guard let number = free.pop() else { preconditionFailure("no free slot") }
    let slot = Int(number)
    precondition(slots[slot].phase == .idle, "a free slot is idle")
    slots[slot].phase = .sent
    slots[slot].kind = kind
    slots[slot].generation &+= 1
    slots[slot].block = block
    slots[slot].offset = block * workload.blockBytes
    slots[slot].length = kind == .flush ? 0 : UInt32(workload.blockBytes)
    slots[slot].startNs = startNs
    inFlight += 1
    return slot
  }

  /// Counts a finished I/O and frees its slot.
  @inline(__always)
  private mutating func finish(_ slot: Int) {
    let io = slots[slot]
    precondition(io.phase == .done, "an I/O is counted when it is done")
    let now = reactor.now.nanoseconds
    let latency = now > io.startNs ? now - io.startNs : 0
    switch io.kind {
    case .read:
      reads.record(latency)
      if verifier.mode != .off {
        let memory = unsafe reactor.memory(of: io.buffer)
        unsafe verifier.finishRead(slot: slot, block: io.block, memory)
      }
    case .write, .durableWrite:
      writes.record(latency)
      if verifier.mode != .off { verifier.finishWrite(block: io.block, sequence: io.sequence) }
    case .flush: flushes.record(latency)
    }
    slots[slot].phase = .idle
    free.push(UInt32(slot))
    inFlight -= 1
  }

  /// Takes leave of the target.
  mutating func close() { target.close(&reactor) }
}

/// What one phase of a load did.
struct PhaseCounts: Sendable {
  var elapsedNs: UInt64
  var blockBytes: UInt64
  var reads: UInt64
  var writes: UInt64
  var flushes: UInt64
  var readLatency: LatencySummary?
  var writeLatency: LatencySummary?
  var flushLatency: LatencySummary?
}
