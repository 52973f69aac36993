/// Whether what a unit holds is right, given which writes were issued and acknowledged.
///
/// A pure function, with a table:
///
///     content                      right when
///     stamp of this load           address right, acknowledged <= sequence <= issued
///     stamp of another load        nothing of this load was acknowledged there
///     no stamp                     nothing of this load was acknowledged there
///     damaged stamp                never, unless torn writes are allowed and a write was in flight
enum Judgement: Equatable, BitwiseCopyable, Sendable {
  /// It is what it has to be.
  case right
  /// An older write than the last acknowledged one, or none at all: an acknowledged write is lost.
  case lost(found: UInt64, acknowledged: UInt64)
  /// A sequence number that was never issued for this unit.
  case impossible(found: UInt64, issued: UInt64)
  /// The stamp belongs to another address.
  case misdirected(from: UInt64)
  /// The checksum is wrong.
  case damaged(found: UInt64, acknowledged: UInt64)
  /// A read-only check met a unit without stamp.
  case unstamped

  /// Judges a unit at `address` of the load with `seed`.
  static func judge(
    _ content: Stamp.Content, address: UInt64, seed: UInt64, acknowledged: UInt64, issued: UInt64,
    allowsTorn: Bool
  ) -> Judgement {
    switch content {
    case .stamp(let stamp):
      guard stamp.address == address else { return .misdirected(from: stamp.address) }
      guard stamp.seed == seed else {
        return acknowledged == 0 ? .right : .lost(found: 0, acknowledged: acknowledged)
      }
      guard stamp.sequence >= acknowledged else {
        return .lost(found: stamp.sequence, acknowledged: acknowledged)
      }
      guard stamp.sequence <= issued else {
        return .impossible(found: stamp.sequence, issued: issued)
      }
      return .right
    case .unstamped:
      return acknowledged == 0 ? .right : .lost(found: 0, acknowledged: acknowledged)
    case .damaged(let stamp):
      if allowsTorn, issued > acknowledged { return .right }
      return .damaged(found: stamp.sequence, acknowledged: acknowledged)
    }
  }

  /// Judges a unit by itself, when it is not known what was written: any whole stamp will do.
  static func judgeAlone(_ content: Stamp.Content, address: UInt64) -> Judgement {
    switch content {
    case .stamp(let stamp):
      stamp.address == address ? .right : .misdirected(from: stamp.address)
    case .damaged(let stamp): .damaged(found: stamp.sequence, acknowledged: 0)
    case .unstamped: .unstamped
    }
  }

  /// What is wrong, in words.
  var text: String {
    switch self {
    case .right: "right"
    case .lost(0, let acknowledged):
      "lost: write \(acknowledged) was acknowledged, the block holds none of this load"
    case .lost(let found, let acknowledged):
      "lost: write \(acknowledged) was acknowledged, the block holds the older write \(found)"
    case .impossible(let found, let issued):
      "impossible: the block holds write \(found), the last one sent there was \(issued)"
    case .misdirected(let address): "misdirected: the block holds what belongs to \(address)"
    case .damaged(let found, let acknowledged):
      "damaged: the checksum is wrong (write \(found), last acknowledged \(acknowledged))"
    case .unstamped: "unstamped: no verified load has written here"
    }
  }
}

/// Counts of a verification, and the first wrong units.
public struct VerificationResult: Codable, Equatable, Sendable {
  /// One wrong unit.
  public struct Finding: Codable, Equatable, Sendable {
    /// Its byte offset.
    public var address: UInt64
    /// What is wrong with it.
    public var reason: String

    /// Joins the parts.
    public init(address: UInt64, reason: String) {
      self.address = address
      self.reason = reason
    }
  }

  /// Units compared.
  public var checkedUnits: UInt64 = 0
  /// Units that are wrong.
  public var wrongUnits: UInt64 = 0
  /// The first of them.
  public var findings: [Finding] = []

  /// Most findings that are kept.
  public static let findingLimit = 16

  /// Nothing checked yet.
  public init() {}

  /// Counts one wrong unit. This may allocate: the load has failed already.
  mutating func add(_ judgement: Judgement, address: UInt64) {
    wrongUnits += 1
    if findings.count < Self.findingLimit {
      findings.append(Finding(address: address, reason: judgement.text))
    }
  }
}
