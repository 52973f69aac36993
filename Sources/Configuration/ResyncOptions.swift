/// The options of `disk` that decide how and when a resync runs: rates, and the order of resources.
///
/// What holds in every configuration the parser returns: `resync-after` names resources of the same
/// file, and following it from any resource comes to an end.

extension DiskOptions {
  /// Reads `c-max-rate`, `c-min-rate` and `resync-after`.
  mutating func readResyncOptions(_ section: OptionSection) throws(ConfigurationError) {
    maxRateKiB = try section.rate("c-max-rate") ?? maxRateKiB
    minRateKiB = try section.rate("c-min-rate")
    if let least = minRateKiB, maxRateKiB > 0, least > maxRateKiB,
      let entry = section.entries["c-min-rate"]
    {
      throw .contradiction(
        "c-min-rate \(least) must not be more than c-max-rate \(maxRateKiB) (KiB/s)",
        at: entry.keyword.position)
    }
    if let entry = section.entries["resync-after"] {
      resyncAfter = try Self.resource(entry.value)
    }
  }

  /// KiB/s, DRBD's limit.
  static let mostRate: UInt64 = 4 << 20

  /// `RESOURCE` or `RESOURCE/VOLUME`: the resource.
  private static func resource(_ value: Token) throws(ConfigurationError) -> String {
    let parts = value.text.split(separator: "/", omittingEmptySubsequences: false)
    guard parts.count <= 2, let name = parts.first, !name.isEmpty,
      parts.count == 1 || parts[1] == "0"
    else {
      throw .badValue(
        keyword: "resync-after", value: value.text, expected: "RESOURCE or RESOURCE/0",
        suggestion: nil, at: value.position)
    }
    return String(name)
  }
}

extension OptionSection {
  /// A rate in KiB a second: a number of KiB, or of bytes with a suffix, as DRBD has it.
  fileprivate func rate(_ name: String) throws(ConfigurationError) -> UInt32? {
    guard let value = entries[name]?.value else { return nil }
    let hasSuffix = value.text.last?.isNumber == false
    let unit: UInt64 = hasSuffix ? 1024 : 1
    let number = try value.number(
      keyword: name, in: 0...DiskOptions.mostRate * unit, unit: hasSuffix ? "bytes/s" : "KiB/s")
    return UInt32(number / unit)
  }
}

/// Which resources resync after which, gathered while resources are read.
struct ResyncOrder {
  private var after: [String: Token] = [:]
  private var order: [String] = []

  /// Takes down what one resource says. Inherited from `common`, too.
  mutating func add(_ resource: String, _ section: OptionSection) {
    guard let entry = section.entries["resync-after"] else { return }
    after[resource] = entry.value
    order.append(resource)
  }

  /// Every name is known, and nobody waits for itself.
  func check(_ resources: [ResourceConfiguration]) throws(ConfigurationError) {
    var next: [String: String] = [:]
    for resource in resources { next[resource.name] = resource.disk.resyncAfter }
    let names = resources.map(\.name)
    for name in order {
      guard let wanted = next[name], let token = after[name] else { continue }
      guard names.contains(wanted) else {
        throw .badValue(
          keyword: "resync-after", value: token.text, expected: "a resource of this configuration",
          suggestion: nearestWord(to: wanted, among: names), at: token.position)
      }
      var path = [name]
      var current = wanted
      while current != name, let following = next[current], path.count <= names.count {
        path.append(current)
        current = following
      }
      guard current == name else { continue }
      throw .contradiction(
        "resync-after makes a circle: \((path + [name]).joined(separator: " after "))",
        at: token.position)
    }
  }
}
