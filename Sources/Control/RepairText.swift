/// What `verify --repair --dry-run` prints: which ranges a repair would copy, and which way.

/// What a repair of what is marked would copy.
public struct RepairOutlook: Equatable, Sendable {
  /// The most ranges that are listed one by one.
  public static let rangeLimit = 256

  /// The node whose data would be copied.
  public var source: String
  /// The node whose data would be replaced.
  public var target: String
  /// Marked ranges of the volume in bytes, the first `rangeLimit`.
  public var ranges: [Range<UInt64>] = []
  /// How many marked ranges there are.
  public var rangeCount: UInt64 = 0
  /// Bytes in all of them.
  public var bytes: UInt64 = 0
  /// Nothing is compared before.
  public var onlyMarked = false
  /// Why it would be refused now, in words.
  public var obstacle: String?

  /// Joins what has no default.
  public init(source: String, target: String) {
    self.source = source
    self.target = target
  }
}

/// The lines of the dry run.
public func repairLines(_ resource: String, _ outlook: RepairOutlook) -> [String] {
  var lines: [String] = []
  if let obstacle = outlook.obstacle {
    lines.append("\(resource): \(obstacle): 'verify --repair' would be refused now")
  }
  let direction = "from \(outlook.source) to \(outlook.target)"
  if outlook.ranges.isEmpty {
    lines.append("\(resource): nothing is marked as different in this range")
  } else {
    let ranges = outlook.rangeCount == 1 ? "1 range" : "\(outlook.rangeCount) ranges"
    lines.append(
      "\(resource): \(ranges), \(outlook.bytes / 1024) KiB, would be copied \(direction):")
    for range in outlook.ranges {
      lines.append(
        "  start=\(range.lowerBound / 512), size=\((range.upperBound - range.lowerBound) / 512) "
          + "(sectors)")
    }
    let left = outlook.rangeCount - UInt64(outlook.ranges.count)
    if left > 0 { lines.append("  and \(left) more") }
  }
  if !outlook.onlyMarked {
    lines.append("what a comparison finds besides would be copied \(direction), too")
  }
  return lines + ["nothing was changed"]
}
