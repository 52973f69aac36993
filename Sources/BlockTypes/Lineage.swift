/// The history of a replica: which generations of data it has passed through.
///
/// A generation begins when a write is about to be acknowledged that some replica will not have.
/// Two lineages therefore tell which replica lacks what: equal, one extends the other, parted after
/// a common ancestor (split brain), or nothing in common (unrelated data).
///
/// Invariants:
/// - numbers rise strictly from oldest to newest;
/// - at most `Lineage.limit` generations, the oldest are dropped;
/// - an empty lineage means "never held valid data".

/// One generation of data. `number`, `id` and `author` say which; the rest is about it.
public struct Generation: Hashable, Sendable, BitwiseCopyable {
  /// Counts up along a lineage; orders, but does not identify.
  public let number: UInt64
  /// 64 random bits; identifies.
  public let id: UInt64
  /// The node that began the generation.
  public let author: NodeID
  /// When it began by the author's clock, in seconds since 1970; 0 when unknown. For people only.
  public var beganAt: UInt32 = 0
  /// Its author was Primary when it lost the peer, not only later.
  public var continuesPrimary = false

  /// Joins the parts.
  public init(number: UInt64, id: UInt64, author: NodeID) {
    self.number = number
    self.id = id
    self.author = author
  }

  /// Whether both are the same generation, whatever is known about it.
  public static func == (left: Generation, right: Generation) -> Bool {
    left.id == right.id && left.number == right.number && left.author == right.author
  }

  /// Hashes what says which generation it is.
  public func hash(into hasher: inout Hasher) {
    hasher.combine(id)
    hasher.combine(number)
  }
}

/// How one lineage stands to another.
public enum LineageRelation: Equatable, Sendable {
  /// Neither has a generation.
  case bothEmpty
  /// The other one is empty, this one is not.
  case otherEmpty
  /// This one is empty, the other one is not.
  case selfEmpty
  /// The same newest generation.
  case equal
  /// This one has everything of the other and more.
  case extends
  /// The other one has everything of this one and more.
  case extended
  /// Both went on after `ancestor`: split brain.
  case parted(ancestor: Generation)
  /// No generation in common.
  case unrelated
}

/// The generations a replica has passed through, newest last.
public struct Lineage: Equatable, Sendable {
  /// Most generations kept. DRBD keeps 32 history UUIDs.
  public static let limit = 32
  /// Largest generation number believed of a disk, so that counting on from it cannot overflow.
  public static let numberLimit: UInt64 = 1 << 62
  /// Largest generation number believed of a peer. A peer at this limit still leaves this node
  /// 2^32 generations of its own before its superblock would be refused.
  public static let peerNumberLimit: UInt64 = numberLimit - (1 << 32)

  /// Oldest first.
  public private(set) var generations: [Generation]

  /// A lineage that never held data.
  public init() { generations = [] }

  /// A lineage read from disk or from a peer; `nil` when numbers do not rise, end above
  /// `numberLimit`, or there are too many.
  public init?(_ generations: [Generation]) {
    guard generations.count <= Self.limit else { return nil }
    if let newest = generations.last, newest.number > Self.numberLimit { return nil }
    for (older, newer) in zip(generations, generations.dropFirst())
    where older.number >= newer.number {
      return nil
    }
    self.generations = generations
  }

  /// Whether valid data was never held.
  public var isEmpty: Bool { generations.isEmpty }
  /// The generation of the data now.
  public var newest: Generation? { generations.last }

  /// Begins a generation, forgetting the oldest when there are too many.
  public mutating func begin(
    id: UInt64, author: NodeID, at seconds: UInt32 = 0, continuesPrimary: Bool = false
  ) {
    let number = (newest?.number ?? 0) + 1
    if generations.count == Self.limit { generations.removeFirst() }
    var generation = Generation(number: number, id: id, author: author)
    generation.beganAt = seconds
    generation.continuesPrimary = continuesPrimary
    generations.append(generation)
  }

  /// Gives up what came after `ancestor`, which is one of these.
  public mutating func cut(after ancestor: Generation) {
    guard let last = generations.lastIndex(of: ancestor) else {
      preconditionFailure("a lineage is cut at one of its own generations")
    }
    generations.removeSubrange((last + 1)...)
  }

  /// Gives up the newest generation, if there is one.
  public mutating func forgetNewest() {
    if !generations.isEmpty { generations.removeLast() }
  }

  /// What came after `ancestor`, oldest first: everything when it is none of these.
  public func generations(after ancestor: Generation) -> ArraySlice<Generation> {
    guard let last = generations.lastIndex(of: ancestor) else { return generations[...] }
    return generations[(last + 1)...]
  }

  /// Compares two lineages. Pure, total and antisymmetric.
  public func relation(to other: Lineage) -> LineageRelation {
    guard let mine = newest else { return other.isEmpty ? .bothEmpty : .selfEmpty }
    guard let theirs = other.newest else { return .otherEmpty }
    if mine == theirs { return .equal }
    if generations.contains(theirs) { return .extends }
    if other.generations.contains(mine) { return .extended }
    if let ancestor = generations.last(where: { other.generations.contains($0) }) {
      return .parted(ancestor: ancestor)
    }
    return .unrelated
  }
}

extension Generation {
  /// Stands for "no generation at all" as the base of a peer that never had data.
  public static func beforeAll(_ node: NodeID) -> Generation {
    Generation(number: 0, id: 0, author: node)
  }

  /// Whether this stands for "no generation at all": numbers of generations begin with 1.
  public var isBeforeAll: Bool { number == 0 }
}
