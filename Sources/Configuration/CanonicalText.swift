/// A validated configuration -> the text that means the same: what `dump` prints.

import BlockTypes

extension NetOptions {
  /// The options as keyword and value; those that have their default value only when asked.
  public func settings(includingDefaults: Bool = false) -> [(String, String)] {
    let normal = NetOptions()
    var result = [("protocol", replicationProtocol.rawValue)]
    func add(_ name: String, _ field: KeyPath<NetOptions, UInt32>) {
      if includingDefaults || self[keyPath: field] != normal[keyPath: field] {
        result.append((name, "\(self[keyPath: field])"))
      }
    }
    add("timeout", \.timeoutTenths)
    add("ko-count", \.koCount)
    add("ping-int", \.pingIntervalSeconds)
    add("ping-timeout", \.pingTimeoutTenths)
    add("connect-int", \.connectIntervalSeconds)
    func add(_ name: String, _ value: String, _ normal: String) {
      if includingDefaults || value != normal { result.append((name, quotedWord(value))) }
    }
    add(
      "after-sb-0pri", afterSplitBrainNoPrimary.rawValue, normal.afterSplitBrainNoPrimary.rawValue)
    add(
      "after-sb-1pri", afterSplitBrainOnePrimary.rawValue,
      normal.afterSplitBrainOnePrimary.rawValue)
    add(
      "after-sb-2pri", afterSplitBrainTwoPrimaries.rawValue,
      normal.afterSplitBrainTwoPrimaries.rawValue)
    add("rr-conflict", primaryIsTarget.rawValue, normal.primaryIsTarget.rawValue)
    if let authenticationAlgorithm {
      result.append(("cram-hmac-alg", quotedWord(authenticationAlgorithm)))
    }
    if let sharedSecret { result.append(("shared-secret", quoted(sharedSecret))) }
    if let dataIntegrityAlgorithm {
      result.append(("data-integrity-alg", quotedWord(dataIntegrityAlgorithm)))
    }
    if let verifyAlgorithm { result.append(("verify-alg", quotedWord(verifyAlgorithm))) }
    if let checksumAlgorithm { result.append(("csums-alg", quotedWord(checksumAlgorithm))) }
    return result
  }
}

extension DiskOptions {
  /// The options as keyword and value; those that have their default value only when asked.
  public func settings(includingDefaults: Bool = false) -> [(String, String)] {
    let normal = DiskOptions()
    var result: [(String, String)] = []
    if includingDefaults || ioEngine != normal.ioEngine {
      result.append(("io-engine", ioEngine.rawValue))
    }
    if includingDefaults || activityLogExtents != normal.activityLogExtents {
      result.append(("al-extents", "\(activityLogExtents)"))
    }
    if includingDefaults || maxRateKiB != normal.maxRateKiB {
      result.append(("c-max-rate", "\(maxRateKiB)"))
    }
    if let minRateKiB { result.append(("c-min-rate", "\(minRateKiB)")) }
    if let resyncAfter { result.append(("resync-after", resyncAfter)) }
    if includingDefaults || onIOError != normal.onIOError {
      result.append(("on-io-error", onIOError.rawValue))
    }
    if includingDefaults || diskTimeoutTenths != normal.diskTimeoutTenths {
      result.append(("disk-timeout", "\(diskTimeoutTenths)"))
    }
    return result
  }
}

extension ResourceOptions {
  /// The options as keyword and value; those that have their default value only when asked.
  public func settings(includingDefaults: Bool = false) -> [(String, String)] {
    let normal = ResourceOptions()
    var result: [(String, String)] = []
    if includingDefaults || size != normal.size { result.append(("size", "\(size)")) }
    if includingDefaults || minSize != normal.minSize {
      result.append(("min-size", "\(minSize)"))
    }
    if includingDefaults || undoLimit != normal.undoLimit {
      result.append(("undo-limit", "\(undoLimit)"))
    }
    if includingDefaults || undoDirectory != normal.undoDirectory {
      result.append(("undo-directory", quotedWord(undoDirectory)))
    }
    return result
  }
}

extension ResourceConfiguration {
  /// The `resource` section, indented by four columns as drbdadm does. Parsing it gives an equal
  /// resource, but for file and line.
  public var canonicalText: String {
    var lines = ["resource \(name) {"]
    for host in hosts {
      lines.append("    on \(host.name) {")
      lines.append("        " + padded("node-id", 17) + "\(host.nodeID.value);")
      lines.append("        " + padded("address", 17) + "\(host.address.family) \(host.address);")
      for volume in host.volumes {
        lines.append("        volume \(volume.number) {")
        lines.append("            " + padded("disk", 17) + "\(quotedWord(volume.disk));")
        let metaDisk = quotedWord(volume.metaDisk.description)
        lines.append("            " + padded("meta-disk", 17) + "\(metaDisk);")
        lines.append("        }")
      }
      lines.append("    }")
    }
    let sections = [
      ("options", options.settings()), ("net", net.settings()), ("disk", disk.settings()),
      ("handlers", handlers.sorted { $0.key < $1.key }.map { ($0.key, quoted($0.value)) }),
    ]
    for (section, settings) in sections where !settings.isEmpty {
      lines.append("    \(section) {")
      lines += settings.map { "        " + padded($0.0, 17) + "\($0.1);" }
      lines.append("    }")
    }
    lines.append("}")
    return lines.joined(separator: "\n") + "\n"
  }
}

private func padded(_ word: String, _ width: Int) -> String {
  word + String(repeating: " ", count: max(1, width - word.count))
}

/// The word itself where it needs no quotes.
private func quotedWord(_ word: String) -> String {
  let needsQuotes = word.isEmpty || word.contains { " \t\r\n{};\"#\\".contains($0) }
  return needsQuotes ? quoted(word) : word
}

private func quoted(_ word: String) -> String {
  let escaped = word.map { "\"\\".contains($0) ? "\\\($0)" : String($0) }.joined()
  return "\"\(escaped)\""
}
