/// In which share of the seeds something happened.
import Foundation
import Simulation

/// Counts seeds, not events: a fault that strikes a thousand times in one seed is still rare.
struct Coverage {
  private var seeds = 0
  private var drawn = [Int](repeating: 0, count: FaultKind.allCases.count)
  private var reached = [Int](repeating: 0, count: Statistics.namesOfReached.count)

  /// Adds one seed: how often each fault was drawn, and how often each had an effect and each
  /// milestone was reached.
  mutating func add(faults: String, reached text: String) {
    seeds += 1
    for (index, count) in faults.split(separator: ",").enumerated()
    where index < drawn.count && count != "0" {
      drawn[index] += 1
    }
    for (index, count) in text.split(separator: ",").enumerated()
    where index < reached.count && count != "0" {
      reached[index] += 1
    }
  }

  /// Prints the table.
  func report() {
    print("\nshare of \(seeds) seeds in which it was drawn, and in which it had an effect:")
    for (index, name) in Statistics.namesOfReached.enumerated() {
      let share = index < drawn.count ? percent(drawn[index]) : "       "
      let column = name.padding(toLength: 26, withPad: " ", startingAt: 0)
      print("  \(column) \(share) \(percent(reached[index]))")
    }
  }

  private func percent(_ count: Int) -> String {
    String(format: "%5.1f %%", Double(count) * 100 / Double(max(seeds, 1)))
  }
}
