/// How far a resync is, how fast it goes and when it will end; and the bar that shows it.

/// The numbers of one resync, derived from a peer device's status.
public struct SyncProgress: Equatable, Sendable {
  /// KiB that were out of sync when it began.
  public var totalKiB: UInt64
  /// KiB that still are.
  public var leftKiB: UInt64
  /// KiB a second now.
  public var rate: UInt64
  /// KiB a second since it began, pauses left out.
  public var averageRate: UInt64
  /// Seconds to go at the present rate; `nil` while nothing moves.
  public var secondsToGo: UInt64?

  /// Joins the parts.
  public init(
    totalKiB: UInt64, leftKiB: UInt64, rate: UInt64, averageRate: UInt64, secondsToGo: UInt64?
  ) {
    self.totalKiB = totalKiB
    self.leftKiB = leftKiB
    self.rate = rate
    self.averageRate = averageRate
    self.secondsToGo = secondsToGo
  }

  /// The progress of `device`; `nil` when it does not resync.
  public init?(_ device: PeerDeviceStatus) {
    guard device.replicationState.isSyncing, let sectors = device.resyncTotal else { return nil }
    let total = sectors / 2
    totalKiB = total
    leftKiB = min(device.outOfSync, total)
    let done = total - leftKiB
    let pausedMs = device.resyncPausedMs ?? 0
    let startedMs = device.resyncStartedAgoMs ?? 0
    let elapsedMs = startedMs > pausedMs ? startedMs - pausedMs : 0
    averageRate = Self.perSecond(done, ms: elapsedMs)
    if let rate = device.resyncRate {
      self.rate = rate
    } else if let sectors = device.resyncWindow0Sectors, let ms = device.resyncWindow0Ms {
      rate = Self.perSecond(sectors / 2, ms: ms)
    } else {
      rate = averageRate
    }
    // Rounded up: a resync that is not over never claims 0 seconds.
    let atThisRate = rate > 0 ? leftKiB / rate + (leftKiB.isMultiple(of: rate) ? 0 : 1) : nil
    secondsToGo = device.estimatedSecondsToFinish ?? atThisRate
  }

  /// 0 to 1000.
  public var permille: UInt64 {
    guard totalKiB > 0 else { return 1000 }
    let done = totalKiB - min(leftKiB, totalKiB)
    let (product, overflowed) = done.multipliedReportingOverflow(by: 1000)
    return overflowed ? min(1000, done / (totalKiB / 1000)) : product / totalKiB
  }

  private static func perSecond(_ kib: UInt64, ms: UInt64) -> UInt64 {
    guard ms > 0 else { return 0 }
    let (product, overflowed) = kib.multipliedReportingOverflow(by: 1000)
    return overflowed ? .max : product / ms
  }
}

/// `h:mm:ss`, as DRBD writes a time to go.
public func hoursMinutesSeconds(_ seconds: UInt64) -> String {
  "\(seconds / 3600):\(twoDigits(seconds / 60 % 60)):\(twoDigits(seconds % 60))"
}

private func twoDigits(_ number: UInt64) -> String {
  number < 10 ? "0\(number)" : "\(number)"
}

/// `1,316`: groups of three digits, as in `/proc/drbd`.
func grouped(_ number: UInt64) -> String {
  let digits = Array(String(number))
  var result = ""
  for (index, digit) in digits.enumerated() {
    if index > 0 && (digits.count - index).isMultiple(of: 3) { result += "," }
    result.append(digit)
  }
  return result
}

/// `42.10`: hundredths, without a locale.
func hundredths(_ number: Double) -> String {
  guard number.isFinite, number >= 0, number < 1e15 else { return "0.00" }
  let scaled = UInt64((number * 100).rounded(.down))
  return "\(scaled / 100).\(twoDigits(scaled % 100))"
}

/// `1.5 GiB`: an amount for people, from KiB.
public func humanSize(kib: UInt64) -> String {
  let units = ["KiB", "MiB", "GiB", "TiB", "PiB"]
  var value = Double(kib)
  var unit = 0
  while value >= 1024 && unit + 1 < units.count {
    value /= 1024
    unit += 1
  }
  let tenths = UInt64((value * 10).rounded())
  return unit == 0 ? "\(kib) KiB" : "\(tenths / 10).\(tenths % 10) \(units[unit])"
}

/// The line `wait-sync` draws: `r0  [=====>....]  52.3%  112.4 MiB/s  0:00:42 to go`, at most
/// `width` columns, which has room for the numbers and at least ten of the bar.
public func progressLine(name: String, progress: SyncProgress, width: Int) -> String {
  let permille = progress.permille
  let percent = "\(permille / 10).\(permille % 10)%"
  let padding = String(repeating: " ", count: max(0, 6 - percent.count))
  let time = progress.secondsToGo.map { "\(hoursMinutesSeconds($0)) to go" } ?? "waiting"
  let numbers = "\(padding)\(percent)  \(humanSize(kib: progress.rate))/s  \(time)"
  let barWidth = max(10, min(40, width - name.count - numbers.count - 7))
  return "\(name)  [\(bar(permille: permille, width: barWidth))] \(numbers)"
}

/// `width` columns of `=`, `>` and `.`; only `=` when it is done.
func bar(permille: UInt64, width: Int) -> String {
  precondition(width > 0)
  if permille >= 1000 { return String(repeating: "=", count: width) }
  let done = Int(permille) * width / 1000
  return String(repeating: "=", count: done) + ">"
    + String(repeating: ".", count: width - done - 1)
}
