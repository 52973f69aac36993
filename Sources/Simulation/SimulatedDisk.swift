/// One backing disk with a volatile write cache, in sectors of 512 bytes.
///
/// Fault model, which every answer of this type stays within:
/// - an operation in flight when its process is killed was carried out, not carried out, or torn:
///   any subset of its sectors; what had completed is kept;
/// - a power loss keeps any subset of the writes that had completed since the last flush, each
///   whole, lost or torn; what a completed flush or FUA covers is kept;
/// - a sector is atomic; a read that overlaps a write in flight may see either value in each
///   sector;
/// - a write that fails has changed any subset of its sectors;
/// - after a failed flush the cached writes can still be read but no later flush saves them.
///
/// Contents are 64-bit words (`SectorStamp`) for the volume. Sectors of the metadata area carry the
/// index of a 512-byte string in `blobs`, so superblocks are real bytes under the same rules.
package struct SimulatedDisk {
  /// What is asked of the disk.
  package enum Operation: Equatable, Sendable {
    /// Reads `count` sectors.
    case read
    /// Puts one word into each sector.
    case write([UInt64])
    /// Puts zeroes: write-zeroes and discard.
    case zero
    /// Makes everything that completed before now stable.
    case flush
  }

  /// Names an operation in flight.
  package struct Ticket: Hashable, Sendable {
    let number: UInt64
  }

  /// An operation that ended.
  package struct Outcome: Equatable, Sendable {
    /// 0, or a negative errno.
    package let result: Int32
    /// What was read; empty for anything but a read that went well.
    package let words: [UInt64]
  }

  private struct Flight {
    let ticket: Ticket
    let operation: Operation
    let start: Int
    let count: Int
    let forceUnitAccess: Bool
    let fails: Bool
    /// What the sectors of a read held when it began.
    let before: [UInt64]
    /// For a flush: the newest completed write that it covers.
    let covers: UInt64
  }

  /// A completed write that no flush has made stable yet.
  private struct Cached {
    let version: UInt64
    let start: Int
    let words: [UInt64]
    /// A flush failed after it: nothing but luck saves it.
    var doomed = false

    /// The same write without one of its sectors.
    func without(_ sector: Int) -> [Cached] {
      guard sector >= start, sector < start + words.count else { return [self] }
      let index = sector - start
      return [
        Cached(version: version, start: start, words: Array(words[..<index]), doomed: doomed),
        Cached(
          version: version, start: sector + 1, words: Array(words[(index + 1)...]),
          doomed: doomed),
      ].filter { !$0.words.isEmpty }
    }
  }

  /// Counted for the report of a run.
  package struct Counters: Equatable, Sendable {
    package var reads = 0
    package var writes = 0
    package var flushes = 0
    package var errors = 0
    package var readErrors = 0
    /// Reads that met an unreadable sector.
    package var badReads = 0
    package var writeErrors = 0
    package var flushErrors = 0
    package var torn = 0
    package var lost = 0
    package var racingWrites = 0
  }

  /// Sectors of the volume and of the metadata behind it.
  package let sectorCount: Int
  /// What a read returns, and the order number of the write that put it there.
  private var current: [UInt64]
  private var currentVersion: [UInt64]
  /// What survives any power loss.
  private var stable: [UInt64]
  private var stableVersion: [UInt64]
  private var cache: [Cached] = []
  private var flights: [Flight] = []
  private var version: UInt64 = 1
  private var nextTicket: UInt64 = 0
  /// Sectors that cannot be read until they are written again.
  private var badSectors: Set<Int> = []
  private var blobs: [[UInt8]] = [[UInt8](repeating: 0, count: 512)]

  /// What was done and what went wrong.
  package private(set) var counters = Counters()
  /// Faults that operations submitted from now on meet.
  package var faults = DiskFaults()

  /// Cached writes beyond this number reach the platter by themselves, oldest first, as in a drive.
  private static let cacheLimit = 512

  /// A disk of zeroes.
  package init(sectorCount: Int) {
    self.sectorCount = sectorCount
    current = Array(repeating: 0, count: sectorCount)
    currentVersion = Array(repeating: 0, count: sectorCount)
    stable = current
    stableVersion = currentVersion
  }

  /// Operations in flight.
  package var inFlight: Int { flights.count }

  /// Whether a flush failed over writes that are still cached: the disk needs a power cycle.
  package var hasDoomedWrites: Bool { cache.contains { $0.doomed } }

  /// What a read of `sector` would return now, with no operation in flight.
  package func word(at sector: Int) -> UInt64 { current[sector] }

  /// The first `count` blocks of eight sectors in which two disks differ. Most of the time of a run
  /// would go into asking for each sector.
  package func blocksDiffering(from other: SimulatedDisk, count: Int) -> [Int] {
    let (mine, theirs) = (current, other.current)
    return (0..<count).filter { block in
      for sector in (block * 8)..<(block * 8 + 8) where mine[sector] != theirs[sector] {
        return true
      }
      return false
    }
  }

  /// What `sector` would hold after the worst power loss now.
  package func stableWord(at sector: Int) -> UInt64 { stable[sector] }

  /// Whether a power loss now could leave anything but the present content in `sector`.
  package func isStable(at sector: Int) -> Bool { stableVersion[sector] == currentVersion[sector] }

  /// Makes a sector unreadable until it is written again.
  package mutating func spoil(_ sector: Int) { badSectors.insert(sector) }

  /// Whether a sector cannot be read.
  package func isBad(_ sector: Int) -> Bool { badSectors.contains(sector) }

  /// Makes every sector readable.
  package mutating func heal() { badSectors = [] }

  /// Changes what a sector holds, as bit rot does: also what any power loss would leave.
  package mutating func rot(_ sector: Int) {
    current[sector] ^= 1 << 50
    stable[sector] = current[sector]
    cache = cache.flatMap { $0.without(sector) }
  }

  /// Flips one bit of a sector of the metadata area, as `rot` does.
  package mutating func rotMetadata(_ sector: Int, bit: Int) {
    var bytes = blobs[Int(current[sector])]
    bytes[bit / 8] ^= 1 << UInt8(bit % 8)
    blobs.append(bytes)
    current[sector] = UInt64(blobs.count - 1)
    stable[sector] = current[sector]
    cache = cache.flatMap { $0.without(sector) }
  }

  /// Begins an operation on `count` sectors from `start`, and says how it will be named.
  package mutating func submit(
    _ operation: Operation, start: Int, count: Int, forceUnitAccess: Bool = false,
    random: inout SeededGenerator
  ) -> Ticket {
    precondition(start >= 0 && start + count <= sectorCount, "outside the disk")
    let ticket = Ticket(number: nextTicket)
    nextTicket += 1
    var before: [UInt64] = []
    switch operation {
    case .read:
      counters.reads += 1
      before = Array(current[start..<(start + count)])
    case .write(let words):
      precondition(words.count == count, "one word a sector")
      counters.writes += 1
      noteRace(start, count)
    case .zero:
      counters.writes += 1
      noteRace(start, count)
    case .flush:
      counters.flushes += 1
    }
    var fails = faults.strikes(operation, start: start, count: count, random: &random)
    if operation == .read, !badSectors.isEmpty {
      if (start..<(start + count)).contains(where: { badSectors.contains($0) }) {
        counters.badReads += 1
        fails = true
      }
    }
    flights.append(
      Flight(
        ticket: ticket, operation: operation, start: start, count: count,
        forceUnitAccess: forceUnitAccess, fails: fails, before: before, covers: version))
    return ticket
  }

  /// Ends an operation.
  package mutating func finish(_ ticket: Ticket, random: inout SeededGenerator) -> Outcome? {
    guard let index = flights.firstIndex(where: { $0.ticket == ticket }) else { return nil }
    let flight = flights.remove(at: index)
    let end = flight.start + flight.count
    if flight.fails {
      counters.errors += 1
      switch flight.operation {
      case .read: counters.readErrors += 1
      case .write, .zero: counters.writeErrors += 1
      case .flush: counters.flushErrors += 1
      }
      switch flight.operation {
      case .read: break
      case .write, .zero: store(flight, keep: .some, stable: false, random: &random)
      case .flush: for index in cache.indices { cache[index].doomed = true }
      }
      return Outcome(result: -5, words: [])
    }
    switch flight.operation {
    case .read:
      var words = Array(current[flight.start..<end])
      blend(&words, flight, random: &random)
      return Outcome(result: 0, words: words)
    case .write, .zero:
      store(flight, keep: .all, stable: flight.forceUnitAccess, random: &random)
      destage(beyond: Self.cacheLimit)
    case .flush:
      makeStable(upTo: flight.covers)
    }
    return Outcome(result: 0, words: [])
  }

  /// Ends everything that is under way.
  package mutating func finishAll(random: inout SeededGenerator) {
    while let flight = flights.first { _ = finish(flight.ticket, random: &random) }
  }

  /// The process that used the disk is gone; the machine is not.
  package mutating func kill(random: inout SeededGenerator) {
    let pending = flights
    flights.removeAll()
    for flight in pending {
      switch flight.operation {
      case .read, .flush: break
      case .write, .zero: store(flight, keep: .drawn, stable: false, random: &random)
      }
    }
  }

  /// The machine lost power: the cache is gone but for what luck had put on the platter.
  package mutating func powerLoss(random: inout SeededGenerator) {
    kill(random: &random)
    let entries = cache
    cache.removeAll()
    for entry in entries {
      let fate: Keep = entry.doomed ? .nothing : .drawn
      for offset in kept(entry.words.count, fate, random: &random) {
        let sector = entry.start + offset
        guard entry.version > stableVersion[sector] else { continue }
        stable[sector] = entry.words[offset]
        stableVersion[sector] = entry.version
      }
    }
    current = stable
    currentVersion = stableVersion
  }
}

extension SimulatedDisk {
  /// Which sectors of a write are carried out.
  private enum Keep {
    case all
    case nothing
    /// A random subset.
    case some
    /// All, nothing or a subset, as chance has it.
    case drawn
  }

  private mutating func kept(
    _ count: Int, _ keep: Keep, random: inout SeededGenerator
  ) -> [Int] {
    switch keep {
    case .all: return Array(0..<count)
    case .nothing: return []
    case .some:
      counters.torn += 1
      // Mostly a prefix, as a drive does it; else any subset, as a stripe does it.
      if random.coin() { return Array(0..<random.index(count + 1)) }
      return (0..<count).filter { _ in random.coin() }
    case .drawn:
      switch random.below(3) {
      case 0: return kept(count, .all, random: &random)
      case 1:
        counters.lost += 1
        return []
      default: return kept(count, .some, random: &random)
      }
    }
  }

  private mutating func store(
    _ flight: Flight, keep: Keep, stable isStable: Bool, random: inout SeededGenerator
  ) {
    store(flight, kept(flight.count, keep, random: &random), stable: isStable)
  }

  private mutating func store(_ flight: Flight, _ offsets: [Int], stable isStable: Bool) {
    let words =
      switch flight.operation {
      case .write(let words): words
      case .read, .zero, .flush: [UInt64](repeating: 0, count: flight.count)
      }
    guard !offsets.isEmpty else { return }
    version += 1
    for offset in offsets {
      let sector = flight.start + offset
      current[sector] = words[offset]
      currentVersion[sector] = version
      badSectors.remove(sector)
      if isStable {
        stable[sector] = words[offset]
        stableVersion[sector] = version
      }
    }
    if isStable { return }
    if offsets.count == flight.count {
      cache.append(Cached(version: version, start: flight.start, words: words))
    } else {
      for offset in offsets {
        let sector = flight.start + offset
        cache.append(Cached(version: version, start: sector, words: [words[offset]]))
      }
    }
  }

  private mutating func makeStable(upTo limit: UInt64) {
    let entries = cache
    cache.removeAll { $0.version <= limit && !$0.doomed }
    for entry in entries where entry.version <= limit && !entry.doomed { settle(entry) }
  }

  private mutating func destage(beyond limit: Int) {
    guard cache.count > limit else { return }
    let excess = cache.count - limit
    for entry in cache.prefix(excess) where !entry.doomed { settle(entry) }
    cache.removeFirst(excess)
  }

  private mutating func settle(_ entry: Cached) {
    for (offset, word) in entry.words.enumerated() {
      let sector = entry.start + offset
      guard entry.version > stableVersion[sector] else { continue }
      stable[sector] = word
      stableVersion[sector] = entry.version
    }
  }

  /// A read that met writes on its way sees, sector by sector, an older or a newer value. A newer
  /// value that was seen once is there: no later read sees the older one again.
  private mutating func blend(
    _ words: inout [UInt64], _ flight: Flight, random: inout SeededGenerator
  ) {
    for offset in words.indices where words[offset] != flight.before[offset] {
      if random.coin() { words[offset] = flight.before[offset] }
    }
    for other in flights {
      let low = max(other.start, flight.start)
      let high = min(other.start + other.count, flight.start + flight.count)
      guard low < high else { continue }
      switch other.operation {
      case .read, .flush: break
      case .write(let theirs):
        for sector in low..<high where random.coin() {
          carryOutEarly(theirs[sector - other.start], sector)
          words[sector - flight.start] = theirs[sector - other.start]
        }
      case .zero:
        for sector in low..<high where random.coin() {
          carryOutEarly(0, sector)
          words[sector - flight.start] = 0
        }
      }
    }
  }

  /// One sector of a write in flight has arrived before the rest.
  private mutating func carryOutEarly(_ word: UInt64, _ sector: Int) {
    guard current[sector] != word else { return }
    version += 1
    current[sector] = word
    currentVersion[sector] = version
    cache.append(Cached(version: version, start: sector, words: [word]))
  }

  /// Two writes to one sector in flight at once end in an order that nobody chose.
  private mutating func noteRace(_ start: Int, _ count: Int) {
    for other in flights {
      guard other.start < start + count, start < other.start + other.count else { continue }
      switch other.operation {
      case .read, .flush: break
      case .write, .zero: counters.racingWrites += 1
      }
    }
  }
}

extension SimulatedDisk {
  private var changesInFlight: [Flight] {
    flights.filter { flight in
      switch flight.operation {
      case .read, .flush: false
      case .write, .zero: true
      }
    }
  }

  /// Sectors of each write that a crash now may take: those in flight, and for want of power also
  /// those that completed and no flush covers, the newest first.
  package func unsafeWrites(losesPower: Bool) -> [Int] {
    changesInFlight.map(\.count) + (losesPower ? cache.reversed().map(\.words.count) : [])
  }

  /// A crash of the process or of the machine that takes exactly this: a fate for each of
  /// `unsafeWrites`. What is not named is kept.
  package mutating func crash(losesPower: Bool, _ fates: [Fate]) {
    let changes = changesInFlight
    flights.removeAll()
    let cached = losesPower ? cache : []
    if losesPower { cache.removeAll() }
    var left = fates[...]
    // Oldest last in the list; each is judged by its version, so that the order does not matter.
    for flight in changes {
      let offsets = Array((left.popFirst() ?? .kept).offsets(flight.count))
      store(flight, offsets, stable: losesPower)
    }
    for entry in cached.reversed() {
      let fate = left.popFirst() ?? .kept
      guard !entry.doomed else { continue }
      for offset in fate.offsets(entry.words.count) {
        let sector = entry.start + offset
        guard entry.version > stableVersion[sector] else { continue }
        stable[sector] = entry.words[offset]
        stableVersion[sector] = entry.version
      }
    }
    guard losesPower else { return }
    current = stable
    currentVersion = stableVersion
  }
}

extension SimulatedDisk {
  /// The words that stand for `bytes` in the metadata area; a multiple of 512 bytes.
  package mutating func words(for bytes: [UInt8]) -> [UInt64] {
    precondition(bytes.count % 512 == 0, "metadata is written in whole sectors")
    return stride(from: 0, to: bytes.count, by: 512).map { start in
      let sector = Array(bytes[start..<(start + 512)])
      guard sector.contains(where: { $0 != 0 }) else { return 0 }
      blobs.append(sector)
      return UInt64(blobs.count - 1)
    }
  }

  /// The bytes that `words` of the metadata area stand for.
  package func bytes(for words: [UInt64]) -> [UInt8] {
    words.flatMap { blobs[Int($0)] }
  }
}

/// Faults of a disk: data, not code paths, so that a failing run prints its exact configuration.
package struct DiskFaults: Equatable, Sendable {
  /// A read returns EIO.
  package var readError = Ratio.never
  /// A write returns EIO, having changed any subset of its sectors.
  package var writeError = Ratio.never
  /// A flush returns EIO; cached writes are lost with the next power loss.
  package var flushError = Ratio.never
  /// The next operation fails, whatever it is.
  package var failsNext = false

  /// No faults.
  package init() {}

  mutating func strikes(
    _ operation: SimulatedDisk.Operation, start: Int, count: Int, random: inout SeededGenerator
  ) -> Bool {
    if failsNext {
      failsNext = false
      return true
    }
    return switch operation {
    case .read: random.chance(readError)
    case .write, .zero: random.chance(writeError)
    case .flush: random.chance(flushError)
    }
  }
}
