internal import Foundation

/// Reports as text for people and as JSON for programs.

/// Lines up the columns: the first to the left, the others to the right.
func table(_ rows: [[String]]) -> String {
  let columns = rows.map(\.count).max() ?? 0
  let widths = (0..<columns).map { column in
    rows.map { column < $0.count ? $0[column].count : 0 }.max() ?? 0
  }
  return rows.map { row in
    let cells = row.enumerated().map { column, text in
      let padding = String(repeating: " ", count: widths[column] - text.count)
      return column == 0 ? text + padding : padding + text
    }
    var line = cells.joined(separator: "  ")
    while line.last == " " { line.removeLast() }
    return line
  }.joined(separator: "\n")
}

/// The report as JSON, keys sorted, so that two reports can be compared line by line.
func json(_ report: some Encodable) throws -> String {
  let encoder = JSONEncoder()
  encoder.keyEncodingStrategy = .convertToSnakeCase
  encoder.outputFormatting = [.prettyPrinted, .sortedKeys, .withoutEscapingSlashes]
  return String(decoding: try encoder.encode(report), as: UTF8.self)
}

extension RunReport {
  private static let heading = [
    "", "IOPS", "MiB/s", "min", "mean", "p50", "p99", "p99.9", "max us",
  ]

  /// The report for a terminal.
  func text(workload: Workload) -> String {
    let runtime = decimal(self.workload.runtimeSeconds, places: 1)
    var lines = [
      rounds > 1
        ? "\(workload.summary); medians of \(rounds) rounds of \(runtime) s"
        : "\(workload.summary); \(decimal(result.seconds, places: 1)) s"
    ]
    lines.append("target   \(result.target) (\(sizeText(self.workload.regionBytes)) used)")
    if let against { lines.append("against  \(against.target)") }
    var rows = [Self.heading]
    rows += Self.rows("read", result.read, against?.read, readRatio)
    rows += Self.rows("write", result.write, against?.write, writeRatio)
    rows += Self.rows("flush", result.flush, against?.flush, nil)
    lines += ["", table(rows), ""]
    lines += result.cpu.map { Self.processorLine($0, "") }
    lines += (against?.cpu ?? []).map { Self.processorLine($0, " (against)") }
    if let verification { lines.append(verification.text) }
    return lines.joined(separator: "\n")
  }

  private static func rows(
    _ name: String, _ figures: DirectionFigures?, _ other: DirectionFigures?, _ ratio: Ratio?
  ) -> [[String]] {
    guard let figures else { return [] }
    var rows = [row(name, figures)]
    if let other { rows.append(row("  against", other)) }
    if let ratio {
      rows.append([
        "  ratio", decimal(ratio.iops, places: 2), "", "", decimal(ratio.meanLatency, places: 2),
        "",
        decimal(ratio.p99Latency, places: 2),
      ])
    }
    return rows
  }

  private static func row(_ name: String, _ figures: DirectionFigures) -> [String] {
    let latency = figures.latencyUs
    return [name, decimal(figures.iops, places: 0), decimal(figures.mibPerSecond, places: 1)]
      + [latency.min, latency.mean, latency.p50, latency.p99, latency.p999, latency.max]
      .map { decimal($0, places: 1) }
  }

  private static func processorLine(_ process: ProcessFigures, _ suffix: String) -> String {
    "CPU per I/O: \(decimal(process.usPerIo, places: 2)) us \(process.name)[\(process.pid)], "
      + "\(decimal(process.percent, places: 0)) % of one processor\(suffix)"
  }
}

extension VerificationResult {
  /// The result for a terminal.
  var text: String {
    guard wrongUnits > 0 else { return "verified: \(checkedUnits) blocks, all right" }
    var lines = ["verified: \(checkedUnits) blocks, \(wrongUnits) WRONG"]
    lines += findings.map { "  at \($0.address): \($0.reason)" }
    if wrongUnits > UInt64(findings.count) {
      lines.append("  and \(wrongUnits - UInt64(findings.count)) more")
    }
    return lines.joined(separator: "\n")
  }
}

extension FloorReport {
  /// The report for a terminal.
  var text: String {
    var lines = [
      "4 KiB, depth 1; medians of \(rounds) rounds, "
        + "\(decimal(sampleSeconds, places: 1)) s a sample",
      "raw     \(rawTarget)",
    ]
    if let volumeTarget { lines.append("volume  \(volumeTarget)") }
    var rows = [["", "mean", "p50", "p99 us", "mean of each round"]]
    rows.append(Self.row("raw write", rawWrite))
    rows.append(Self.row("raw read", rawRead))
    rows.append(Self.row("TCP ping-pong", tcpPingPong))
    rows.append(Self.row("Unix ping-pong", unixPingPong))
    rows.append(["floor of a write", decimal(writeFloorUs, places: 1)])
    rows.append(["floor of a read", decimal(readFloorUs, places: 1)])
    if let volumeWrite { rows.append(Self.row("volume write", volumeWrite.volume)) }
    if let volumeRead { rows.append(Self.row("volume read", volumeRead.volume)) }
    lines += ["", table(rows)]
    if volumeWrite != nil || volumeRead != nil { lines.append("") }
    if let volumeWrite {
      lines.append(Self.verdict("write / (raw write + TCP + Unix)", volumeWrite))
    }
    if let volumeRead { lines.append(Self.verdict("read / (raw read + Unix)", volumeRead)) }
    return lines.joined(separator: "\n")
  }

  private static func row(_ name: String, _ figures: FloorFigures) -> [String] {
    [name] + [figures.meanUs, figures.p50Us, figures.p99Us].map { decimal($0, places: 1) }
      + [figures.roundMeansUs.map { decimal($0, places: 1) }.joined(separator: " ")]
  }

  private static func verdict(_ name: String, _ ratio: FloorRatio) -> String {
    var line = "volume \(name) = \(decimal(ratio.ratio, places: 2))"
    if let limit = ratio.limit {
      line += ratio.isWithinLimit ? ", within " : ", ABOVE THE LIMIT of "
      line += decimal(limit, places: 2)
    }
    return line
  }
}
