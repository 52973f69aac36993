/// What strangers can write to the log: a line now and then, and what was left out is counted.
import BlockTypes
import Testing

@testable import Node

@Suite struct RareWarningTests {
  private func at(_ milliseconds: UInt64) -> Instant {
    Instant(nanoseconds: 1).advanced(milliseconds: milliseconds)
  }

  @Test func `the same line is not written again for a minute`() {
    var warning = RareWarning()
    #expect(warning.line("a", at: at(0)) == "a")
    for millisecond in 1..<600 {
      #expect(warning.line("a", at: at(UInt64(millisecond) * 100)) == nil)
    }
    #expect(warning.line("a", at: at(60_000)) == "a (599 more like this)")
    #expect(warning.line("a", at: at(60_100)) == nil)
  }

  @Test func `different lines are written once a second at most`() {
    var warning = RareWarning()
    var lines = 0
    for number in 0..<10_000 where warning.line("\(number)", at: at(UInt64(number))) != nil {
      lines += 1
    }
    #expect(lines == 10)
  }
}
