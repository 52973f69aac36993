/// The truth about what clients wrote: which value each sector may hold, on which replica.
///
/// Every change by a client is a record with the moments of its begin and of its acknowledgement,
/// on a counter that rises with each of them. A sector's value is judged against a floor: the
/// latest begin of an acknowledged write that must not be lost. The value of a write that was
/// acknowledged before the floor began is stale; a write that was never acknowledged may appear or
/// not.
///
/// For each replica two floors are kept for each sector:
/// - `held`: of acknowledged writes that this replica took part in; falls to `durable` when the
///   replica loses power;
/// - `durable`: of those that an acknowledged flush or FUA covers; never falls, but with the disk.
///
/// A replica is `exclusive` while it holds an acknowledged write that the other one lacks. Both at
/// once is a fork: the two must refuse each other until an operator gives one side up.
package struct WriteHistory {
  /// One change by a client.
  package struct Record: Sendable {
    /// The node it was sent to.
    package let node: Int
    /// The sectors it covers.
    package let sectors: Range<Int>
    /// Whether it puts zeroes instead of stamps.
    package let zeroes: Bool
    /// When it began.
    package let begun: UInt64
    /// When it was acknowledged; `never` when it was not, or failed, or its node died.
    package var acknowledged = UInt64.max
    /// The other replica lacked it then.
    var isAlone = false
    /// It was answered with an error: what its sectors hold may be old or new, now and later.
    var hasFailed = false
  }

  /// Why a value may not stand in a sector.
  package enum Fault: Error, Equatable, Sendable, CustomStringConvertible {
    /// The value was made for another sector, by another run, or by nobody.
    case foreign
    /// A newer write had been acknowledged before.
    case stale(floor: UInt64)
    /// The write was made on the other side of a split brain.
    case crossed

    package var description: String {
      switch self {
      case .foreign: "that nobody wrote there"
      case .stale(let floor): "older than the write acknowledged after \(floor)"
      case .crossed: "written on the other side of the split brain"
      }
    }
  }

  private let seed: UInt64
  /// Index is the sequence in the stamp; the first record is the zeroes of a new disk.
  private var records: [Record]
  /// Records that put zeroes into each sector.
  private var zeroers: [[Int]]
  private var clock: UInt64 = 0
  private var held: [[UInt64]]
  private var durable: [[UInt64]]
  /// What clients of this node have seen since they began: what a read returned to them, and their
  /// own writes that were acknowledged.
  private var observed: [[UInt64]]
  private var exclusiveSince: [UInt64?] = [nil, nil]
  private var exclusiveLast: [UInt64] = [0, 0]
  /// What each replica acknowledged alone up to then is on both by now, or given up.
  private var aloneAfter: [UInt64] = [0, 0]

  /// Sectors of the volume.
  package let sectorCount: Int

  /// A volume of zeroes on two replicas.
  package init(sectorCount: Int, seed: UInt64) {
    self.sectorCount = sectorCount
    self.seed = seed
    records = [
      Record(node: 0, sectors: 0..<sectorCount, zeroes: true, begun: 0, acknowledged: 0)
    ]
    zeroers = Array(repeating: [0], count: sectorCount)
    let none = [UInt64](repeating: 0, count: sectorCount)
    held = [none, none]
    durable = [none, none]
    observed = [none, none]
  }

  /// Begins a change on `node` and returns its number.
  package mutating func begin(node: Int, sectors: Range<Int>, zeroes: Bool) -> Int {
    clock += 1
    records.append(Record(node: node, sectors: sectors, zeroes: zeroes, begun: clock))
    let number = records.count - 1
    if zeroes { for sector in sectors { zeroers[sector].append(number) } }
    return number
  }

  /// The record of a change.
  package func record(_ number: Int) -> Record { records[number] }

  /// The words that change `number` writes.
  package func words(_ number: Int) -> [UInt64] {
    let record = records[number]
    return record.sectors.map { sector in
      record.zeroes
        ? 0 : SectorStamp(sequence: UInt64(number), sector: UInt64(sector), seed: seed).bits
    }
  }

  /// Whether `word` in `sector` was written by a change that began after `change`.
  package func isNewer(_ word: UInt64, sector: Int, than change: Int) -> Bool {
    let begun = records[change].begun
    if word == 0 { return zeroers[sector].contains { records[$0].begun > begun } }
    let stamp = SectorStamp(bits: word)
    let number = Int(stamp.sequence)
    guard stamp.belongs(in: UInt64(sector), seed: seed), number < records.count else {
      return false
    }
    return records[number].begun > begun
  }

  /// A change was acknowledged while `holders` had it, and had it stable where FUA asked for that.
  ///
  /// - Parameter isShared: the other replica lacks nothing of it, though it is not sure to keep it.
  package mutating func acknowledge(
    _ number: Int, holders: Set2, durableOn: Set2 = [], isShared: Bool = false
  ) {
    clock += 1
    records[number].acknowledged = clock
    let begun = records[number].begun
    for sector in records[number].sectors {
      observed[records[number].node][sector] = max(observed[records[number].node][sector], begun)
    }
    for node in 0...1 where holders.contains(node) {
      for sector in records[number].sectors {
        held[node][sector] = max(held[node][sector], begun)
        if durableOn.contains(node) { durable[node][sector] = max(durable[node][sector], begun) }
      }
      guard !holders.contains(1 - node), !isShared else { continue }
      records[number].isAlone = true
      if exclusiveSince[node] == nil { exclusiveSince[node] = clock }
      exclusiveLast[node] = clock
    }
  }

  /// A change was answered with an error. Who has read it while it was under way may read what was
  /// there before: it may have been on a disk that is lost, and nowhere else.
  package mutating func fail(_ number: Int) {
    records[number].hasFailed = true
    let (node, begun) = (records[number].node, records[number].begun)
    for sector in records[number].sectors where observed[node][sector] == begun {
      let others = records.lazy.filter {
        $0.node == node && $0.acknowledged != .max && $0.begun < begun
          && $0.sectors.contains(sector)
      }
      observed[node][sector] = others.map(\.begun).max() ?? 0
    }
  }

  /// Whether `node` holds acknowledged writes that the other one lacks.
  package func isExclusive(_ node: Int) -> Bool { exclusiveSince[node] != nil }

  /// Whether `word` in `sector` of `node` is of a write that it acknowledged alone and that the
  /// other replica has not got since.
  package func isOnly(_ word: UInt64, sector: Int, on node: Int) -> Bool {
    let stamp = SectorStamp(bits: word)
    guard word != 0, stamp.belongs(in: UInt64(sector), seed: seed),
      Int(stamp.sequence) < records.count
    else { return false }
    let record = records[Int(stamp.sequence)]
    return record.node == node && record.isAlone && record.acknowledged != .max
      && record.acknowledged > aloneAfter[node]
  }

  /// Whether each replica holds acknowledged writes that the other one lacks.
  package var isForked: Bool { isExclusive(0) && isExclusive(1) }
}

/// A set of the two nodes.
package struct Set2: OptionSet, Sendable {
  package let rawValue: UInt8
  package init(rawValue: UInt8) { self.rawValue = rawValue }
  /// The set of one node.
  package init(_ node: Int) { rawValue = 1 << UInt8(node) }
  /// Whether `node` is in it.
  package func contains(_ node: Int) -> Bool { rawValue & (1 << UInt8(node)) != 0 }
}

extension WriteHistory {
  /// Whose content counts on `node`: that of one replica, or `nil` for the newest of both.
  ///
  /// When one replica went on alone, its content must survive: it has acknowledged writes that the
  /// other lacks, or a lineage on disk that goes further (`ahead`). After an operator promoted a
  /// replica that lacked something (`isBranched`), each side is judged by what it had itself.
  package func authority(on node: Int, ahead: Int?, isBranched: Bool) -> Int? {
    if isBranched || isForked { return node }
    for side in 0...1 where isExclusive(side) { return side }
    return ahead
  }

  /// The floors of all sectors, given whose content counts.
  package func floors(authority: Int?) -> [UInt64] {
    if let authority { return held[authority] }
    return zip(held[0], held[1]).map { max($0, $1) }
  }

  /// What a read that begins now on `node` may not fall below.
  package func readFloors(on node: Int, sectors: Range<Int>, authority: Int?) -> [UInt64] {
    sectors.map { sector in
      let floor =
        authority.map { held[$0][sector] } ?? max(held[0][sector], held[1][sector])
      return max(floor, observed[node][sector])
    }
  }

  /// The floors of `node` alone, as a flush that begins now must make durable.
  package func heldFloors(on node: Int) -> [UInt64] { held[node] }

  /// What `node` must still have after losing power.
  package func durableFloors(on node: Int) -> [UInt64] { durable[node] }

  /// Judges one word found in `sector` on `node`.
  package func judge(
    _ word: UInt64, sector: Int, on node: Int, floor: UInt64
  ) -> Fault? {
    let stamp = SectorStamp(bits: word)
    guard stamp.belongs(in: UInt64(sector), seed: seed) else { return .foreign }
    if word == 0 {
      let newest = zeroers[sector].reversed().contains { records[$0].acknowledged >= floor }
      return newest ? nil : .stale(floor: floor)
    }
    let number = Int(stamp.sequence)
    guard number < records.count else { return .foreign }
    let record = records[number]
    guard record.sectors.contains(sector), !record.zeroes else { return .foreign }
    if record.acknowledged < floor { return .stale(floor: floor) }
    if let since = exclusiveSince[node], isForked, record.node != node,
      record.begun > max(since, exclusiveSince[1 - node] ?? 0)
    {
      return .crossed
    }
    return nil
  }

  /// A read on `node` returned `word`: later reads there return nothing older.
  package mutating func observe(_ word: UInt64, sector: Int, on node: Int) {
    guard word != 0 else { return }
    let number = Int(SectorStamp(bits: word).sequence)
    guard number < records.count, !records[number].hasFailed else { return }
    observed[node][sector] = max(observed[node][sector], records[number].begun)
  }

  /// A flush that began when `node` had to hold `floors` was acknowledged with `node` taking part.
  package mutating func flushed(_ node: Int, floors: [UInt64]) {
    for sector in 0..<sectorCount {
      durable[node][sector] = max(durable[node][sector], floors[sector])
    }
  }

  /// The process on `node` ended, and its clients with it.
  package mutating func processEnded(_ node: Int) { clientsLeft(node) }

  /// Those who use `node` from now on have seen nothing yet.
  package mutating func clientsLeft(_ node: Int) {
    for sector in 0..<sectorCount { observed[node][sector] = 0 }
  }

  /// `node` lost power: only what was durable is sure.
  package mutating func powerLost(_ node: Int) { held[node] = durable[node] }

  /// `node` is about to be overwritten by the other one, or its disk is new.
  ///
  /// - Parameter keepsSeen: its clients go on meanwhile and see nothing older.
  package mutating func gaveUp(_ node: Int, keepsSeen: Bool = false) {
    let none = [UInt64](repeating: 0, count: sectorCount)
    held[node] = none
    durable[node] = none
    if !keepsSeen { observed[node] = none }
    exclusiveSince[node] = nil
    aloneAfter[node] = clock
  }

  /// What a replica that is synced from `source` has when the source says that it is done.
  package func syncDone(from source: Int) -> SyncedContent {
    SyncedContent(held: held[source], durable: durable[source], clock: clock)
  }

  /// What `source` has by now, of which a replica that was synced from it is sure to keep only what
  /// it had taken over by then, `content`: it was not asked to flush since.
  package func syncDone(from source: Int, stable content: SyncedContent) -> SyncedContent {
    SyncedContent(held: held[source], durable: content.durable, clock: clock)
  }

  /// `node` took over what `source` had when it said that the resync was done.
  package mutating func synced(_ node: Int, from source: Int, content: SyncedContent) {
    held[node] = content.held
    durable[node] = content.durable
    exclusiveSince[node] = nil
    for side in 0...1 { aloneAfter[side] = max(aloneAfter[side], content.clock) }
    if exclusiveLast[source] <= content.clock { exclusiveSince[source] = nil }
  }
}

/// What a resync hands over.
package struct SyncedContent: Sendable {
  fileprivate let held: [UInt64]
  fileprivate let durable: [UInt64]
  fileprivate let clock: UInt64
}
