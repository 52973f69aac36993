/// Quantities as an administrator writes them: `4k`, `1GiB`, `500ms`, `20MiB/s`.
///
/// Every text gives a value or an error that repeats the text and says what is possible; none traps
/// and none is guessed: `10MB` is refused, because half of all tools mean 1000 by it and half 1024.

/// Why a quantity could not be read.
public enum QuantityError: Error, Equatable, Sendable, CustomStringConvertible {
  /// No number at the start.
  case notANumber(String)
  /// The letters after the number are not a unit.
  case unknownUnit(String, in: String, allowed: String)
  /// The value does not fit into 64 bits.
  case tooLarge(String)

  /// One line that names the text and the alternatives.
  public var description: String {
    switch self {
    case .notANumber(let text): "'\(text)' does not start with a number"
    case .unknownUnit(let unit, let text, let allowed):
      "unknown unit '\(unit)' in '\(text)'; possible are \(allowed)"
    case .tooLarge(let text): "'\(text)' does not fit into 64 bits"
    }
  }
}

/// Splits `text` into its digits and what follows.
private func split(_ text: String) throws(QuantityError) -> (number: UInt64, unit: String) {
  let digits = text.prefix { $0.isASCII && $0.isNumber }
  guard !digits.isEmpty else { throw .notANumber(text) }
  guard let number = UInt64(digits) else { throw .tooLarge(text) }
  return (number, String(text[digits.endIndex...]))
}

private func multiply(
  _ number: UInt64, _ factor: UInt64, _ text: String
) throws(QuantityError) -> UInt64 {
  let (product, overflow) = number.multipliedReportingOverflow(by: factor)
  guard !overflow else { throw .tooLarge(text) }
  return product
}

/// Bytes: a number with `k`, `M`, `G` or `T` (powers of 1024), also written `KiB` and so on.
public func parseSize(_ text: String) throws(QuantityError) -> UInt64 {
  let (number, unit) = try split(text)
  let factor: UInt64
  switch unit {
  case "", "B": factor = 1
  case "k", "K", "KiB": factor = 1 << 10
  case "m", "M", "MiB": factor = 1 << 20
  case "g", "G", "GiB": factor = 1 << 30
  case "t", "T", "TiB": factor = 1 << 40
  default:
    throw .unknownUnit(unit, in: text, allowed: "k, M, G, T and KiB, MiB, GiB, TiB (1024s)")
  }
  return try multiply(number, factor, text)
}

/// Nanoseconds: a number of seconds, or with `ms`, `s`, `m` or `h`.
public func parseDuration(_ text: String) throws(QuantityError) -> UInt64 {
  let (number, unit) = try split(text)
  let factor: UInt64
  switch unit {
  case "ms": factor = 1_000_000
  case "", "s": factor = 1_000_000_000
  case "m", "min": factor = 60_000_000_000
  case "h": factor = 3_600_000_000_000
  default: throw .unknownUnit(unit, in: text, allowed: "ms, s, m and h")
  }
  return try multiply(number, factor, text)
}

/// How fast a load may be issued.
public enum Rate: Equatable, Sendable {
  /// I/Os per second.
  case operations(UInt64)
  /// Bytes per second.
  case bytes(UInt64)
}

/// A rate: a plain number is I/Os per second (`k` means 1000), a size with `/s` is a bandwidth.
public func parseRate(_ text: String) throws(QuantityError) -> Rate {
  if text.hasSuffix("/s") { return .bytes(try parseSize(String(text.dropLast(2)))) }
  let (number, unit) = try split(text)
  switch unit {
  case "", "iops": return .operations(number)
  case "k": return .operations(try multiply(number, 1000, text))
  default:
    throw .unknownUnit(
      unit, in: text, allowed: "none or k (I/Os per second) and KiB/s, MiB/s, GiB/s (bandwidth)")
  }
}

/// `4 KiB`, `1 GiB`, `1536 B`: exact, in the largest unit that divides `bytes`.
public func sizeText(_ bytes: UInt64) -> String {
  let units = ["B", "KiB", "MiB", "GiB", "TiB"]
  var value = bytes
  var unit = 0
  while value > 0, value % 1024 == 0, unit < units.count - 1 {
    value /= 1024
    unit += 1
  }
  return "\(value) \(units[unit])"
}

/// A number with a fixed count of decimals, rounded half away from zero. For tables.
func decimal(_ value: Double, places: Int) -> String {
  guard value.isFinite, value.magnitude < 1e15 else { return "-" }
  var scale = 1.0
  for _ in 0..<places { scale *= 10 }
  let scaled = UInt64((value.magnitude * scale).rounded())
  let sign = value < 0 && scaled > 0 ? "-" : ""
  guard places > 0 else { return "\(sign)\(scaled)" }
  let divisor = UInt64(scale)
  let fraction = String(scaled % divisor)
  let padding = String(repeating: "0", count: places - fraction.count)
  return "\(sign)\(scaled / divisor).\(padding)\(fraction)"
}
