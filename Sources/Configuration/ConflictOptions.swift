/// What the configuration decides about conflicting histories: `after-sb-0pri`, `after-sb-1pri`,
/// `after-sb-2pri` and `rr-conflict`, with DRBD's values. The default is `disconnect`: an
/// administrator decides.

/// `after-sb-0pri`: who gives way after a split brain when nobody is Primary.
public enum AfterSplitBrainNoPrimary: Hashable, Sendable {
  case disconnect
  case discardYoungerPrimary
  case discardOlderPrimary
  case discardZeroChanges
  case discardLeastChanges
  case discardLocal
  case discardRemote
  /// `discard-node-NAME`: the host of that name.
  case discardNode(String)

  static let words = [
    "disconnect", "discard-younger-primary", "discard-older-primary", "discard-zero-changes",
    "discard-least-changes", "discard-local", "discard-remote", "discard-node-*",
  ]
  private static let nodePrefix = "discard-node-"
}

extension AfterSplitBrainNoPrimary: RawRepresentable, Codable {
  /// The value as written in the file.
  public var rawValue: String {
    switch self {
    case .disconnect: "disconnect"
    case .discardYoungerPrimary: "discard-younger-primary"
    case .discardOlderPrimary: "discard-older-primary"
    case .discardZeroChanges: "discard-zero-changes"
    case .discardLeastChanges: "discard-least-changes"
    case .discardLocal: "discard-local"
    case .discardRemote: "discard-remote"
    case .discardNode(let name): Self.nodePrefix + name
    }
  }

  /// Reads the value as written in the file.
  public init?(rawValue: String) {
    switch rawValue {
    case "disconnect": self = .disconnect
    case "discard-younger-primary": self = .discardYoungerPrimary
    case "discard-older-primary": self = .discardOlderPrimary
    case "discard-zero-changes": self = .discardZeroChanges
    case "discard-least-changes": self = .discardLeastChanges
    case "discard-local": self = .discardLocal
    case "discard-remote": self = .discardRemote
    default:
      guard rawValue.hasPrefix(Self.nodePrefix), rawValue != Self.nodePrefix else { return nil }
      self = .discardNode(String(rawValue.dropFirst(Self.nodePrefix.count)))
    }
  }
}

/// `after-sb-1pri`: who gives way when one side is Primary.
public enum AfterSplitBrainOnePrimary: String, Sendable, Codable, CaseIterable {
  case disconnect
  case consensus
  case discardSecondary = "discard-secondary"
  case callPrimaryLost = "call-pri-lost-after-sb"
  case asNoPrimary = "violently-as0p"
}

/// `after-sb-2pri`: who gives way when both sides are Primary.
public enum AfterSplitBrainTwoPrimaries: String, Sendable, Codable, CaseIterable {
  case disconnect
  case callPrimaryLost = "call-pri-lost-after-sb"
  case asNoPrimary = "violently-as0p"
}

/// `rr-conflict`: what happens when a Primary would have to become the target of a resync.
public enum PrimaryIsTarget: String, Sendable, Codable, CaseIterable {
  case disconnect
  case retryConnect = "retry-connect"
  case callPrimaryLost = "call-pri-lost"
}

extension NetOptions {
  /// Values that DRBD has and Ashlar refuses, by keyword.
  private static let refused: [String: [String: String]] = [
    "rr-conflict": [
      "violently": "it overwrites data under a running Primary; demote it first",
      "auto-discard": "name the victim with 'ashlaradm connect --discard-my-data'",
    ]
  ]

  /// Reads the conflict options of the merged section.
  mutating func readConflictOptions(_ section: OptionSection) throws(ConfigurationError) {
    for (keyword, values) in Self.refused {
      guard let value = section.entries[keyword]?.value, let why = values[value.text] else {
        continue
      }
      throw .unsupported("\(keyword) \(value.text)", alternative: why, at: value.position)
    }
    if let entry = section.entries["after-sb-0pri"] {
      let value = entry.value
      guard let choice = AfterSplitBrainNoPrimary(rawValue: value.text) else {
        let words = AfterSplitBrainNoPrimary.words
        throw .badValue(
          keyword: "after-sb-0pri", value: value.text, expected: words.joined(separator: " | "),
          suggestion: nearestWord(to: value.text, among: words), at: value.position)
      }
      afterSplitBrainNoPrimary = choice
    }
    if let entry = section.entries["after-sb-1pri"] {
      afterSplitBrainOnePrimary = try entry.value.choice(
        keyword: "after-sb-1pri", of: AfterSplitBrainOnePrimary.self)
    }
    if let entry = section.entries["after-sb-2pri"] {
      afterSplitBrainTwoPrimaries = try entry.value.choice(
        keyword: "after-sb-2pri", of: AfterSplitBrainTwoPrimaries.self)
    }
    if let entry = section.entries["rr-conflict"] {
      primaryIsTarget = try entry.value.choice(keyword: "rr-conflict", of: PrimaryIsTarget.self)
    }
  }
}
