/// What a node reports about histories: the generations of a disk and, after a split brain, what
/// each side wrote since when. All of it is Ashlar's own; DRBD shows ids only.

/// One generation of data.
public struct GenerationStatus: Equatable, Sendable, Codable {
  /// Orders the generations of one history.
  public var number: UInt64
  /// 16 hexadecimal digits that identify it.
  public var id: String
  /// The node that began it.
  public var author: Int
  /// When it began by the author's clock, as `2026-11-21T05:46:03Z`; absent when unknown.
  public var began: String?

  /// Joins the parts.
  public init(number: UInt64, id: String, author: Int, began: String?) {
    self.number = number
    self.id = id
    self.author = author
    self.began = began
  }

  /// Number and id, as in `generation`.
  public var text: String { "\(number):\(id)" }
}

/// What one side did alone.
public struct SideHistoryStatus: Equatable, Sendable, Codable {
  /// The generations that the other side does not have, oldest first.
  public var generations: [GenerationStatus]
  /// KiB that changed since the common generation, or may have; absent when it is not known.
  public var changed: UInt64?
  /// The side's role when the two met.
  public var role: RoleName
  /// The side's disk when the two met.
  public var disk: DiskStateName

  /// Joins the parts.
  public init(
    generations: [GenerationStatus], changed: UInt64?, role: RoleName, disk: DiskStateName
  ) {
    self.generations = generations
    self.changed = changed
    self.role = role
    self.disk = disk
  }

  /// When it began to write alone, where that is known.
  public var since: String? { generations.first?.began }
}

/// Two histories that parted.
public struct SplitBrainStatus: Equatable, Sendable, Codable {
  /// The newest generation that both have; absent when neither knows one.
  public var common: GenerationStatus?
  /// This node's side.
  public var local: SideHistoryStatus
  /// The peer's side.
  public var peer: SideHistoryStatus
  /// Whether discarding one side copies only what changed.
  public var bitmapsCover: Bool

  /// Joins the parts.
  public init(
    common: GenerationStatus?, local: SideHistoryStatus, peer: SideHistoryStatus,
    bitmapsCover: Bool
  ) {
    self.common = common
    self.local = local
    self.peer = peer
    self.bitmapsCover = bitmapsCover
  }

  enum CodingKeys: String, CodingKey {
    case common, local, peer
    case bitmapsCover = "bitmaps-cover"
  }
}

/// `seconds` since 1970 as `2026-11-21T05:46:03Z`; `nil` for 0, which means unknown.
public func isoTime(_ seconds: UInt32) -> String? {
  guard seconds > 0 else { return nil }
  // Days since 0000-03-01, so that the leap day ends a year (Hinnant, "chrono-compatible
  // low-level date algorithms").
  let days = Int(seconds) / 86_400 + 719_468
  let era = days / 146_097
  let dayOfEra = days % 146_097
  let yearOfEra = (dayOfEra - dayOfEra / 1460 + dayOfEra / 36_524 - dayOfEra / 146_096) / 365
  let dayOfYear = dayOfEra - (365 * yearOfEra + yearOfEra / 4 - yearOfEra / 100)
  let shifted = (5 * dayOfYear + 2) / 153
  let day = dayOfYear - (153 * shifted + 2) / 5 + 1
  let month = shifted < 10 ? shifted + 3 : shifted - 9
  let year = yearOfEra + era * 400 + (month <= 2 ? 1 : 0)
  func two(_ number: Int) -> String { number < 10 ? "0\(number)" : "\(number)" }
  let time = Int(seconds) % 86_400
  return "\(year)-\(two(month))-\(two(day))T\(two(time / 3600)):\(two(time / 60 % 60)):"
    + "\(two(time % 60))Z"
}
