/// The only source of randomness of a simulation: xoshiro256**, seeded through SplitMix64.
///
/// The same seed gives the same numbers on every machine and in every build; nothing in this module
/// asks the system for a random number, and nothing iterates a `Dictionary` or a `Set`, whose order
/// changes from process to process.
package struct SeededGenerator: RandomNumberGenerator, Sendable {
  private var state: (UInt64, UInt64, UInt64, UInt64)

  /// A generator whose whole sequence follows from `seed`.
  package init(seed: UInt64) {
    var mixer = seed
    func next() -> UInt64 {
      mixer &+= 0x9E37_79B9_7F4A_7C15
      var word = mixer
      word = (word ^ (word >> 30)) &* 0xBF58_476D_1CE4_E5B9
      word = (word ^ (word >> 27)) &* 0x94D0_49BB_1331_11EB
      return word ^ (word >> 31)
    }
    state = (next(), next(), next(), next())
  }

  /// The next 64 bits.
  package mutating func next() -> UInt64 {
    let result = Self.rotate(state.1 &* 5, by: 7) &* 9
    let shifted = state.1 << 17
    state.2 ^= state.0
    state.3 ^= state.1
    state.1 ^= state.2
    state.0 ^= state.3
    state.2 ^= shifted
    state.3 = Self.rotate(state.3, by: 45)
    return result
  }

  /// A number in `0 ..< bound`.
  package mutating func below(_ bound: UInt64) -> UInt64 {
    precondition(bound > 0, "nothing lies below zero")
    // The bias of a multiplication is below 2^-32 for every bound used here.
    return next().multipliedFullWidth(by: bound).high
  }

  /// A number in `range`.
  package mutating func within(_ range: ClosedRange<UInt64>) -> UInt64 {
    range.lowerBound + below(range.upperBound - range.lowerBound + 1)
  }

  /// An index below `count`.
  package mutating func index(_ count: Int) -> Int { Int(below(UInt64(count))) }

  /// Whether an event of probability `ratio` happens this time.
  package mutating func chance(_ ratio: Ratio) -> Bool {
    guard ratio.numerator > 0 else { return false }
    return below(ratio.denominator) < ratio.numerator
  }

  /// A fair coin.
  package mutating func coin() -> Bool { next() >> 63 == 1 }

  /// An independent generator, so that one part drawing more does not shift all others.
  package mutating func fork() -> SeededGenerator { SeededGenerator(seed: next()) }

  private static func rotate(_ word: UInt64, by count: UInt64) -> UInt64 {
    word << count | word >> (64 - count)
  }
}

/// A probability as two small integers, so that a failing configuration prints exactly.
package struct Ratio: Equatable, Sendable, CustomStringConvertible {
  /// How many ...
  package let numerator: UInt64
  /// ... of how many.
  package let denominator: UInt64

  /// `numerator` of `denominator`.
  package init(_ numerator: UInt64, of denominator: UInt64) {
    precondition(denominator > 0, "a ratio needs a whole")
    precondition(numerator <= denominator, "a probability is at most one")
    self.numerator = numerator
    self.denominator = denominator
  }

  /// Never.
  package static var never: Ratio { Ratio(0, of: 1) }

  package var description: String { numerator == 0 ? "0" : "\(numerator)/\(denominator)" }
}

/// How long something takes: a floor, an even spread above it, and now and then a long tail.
package struct Latency: Equatable, Sendable, CustomStringConvertible {
  /// The least, in microseconds.
  package var floorUs: UInt64
  /// What is added at most in the ordinary case, in microseconds.
  package var spreadUs: UInt64
  /// How often the tail is drawn instead of the spread.
  package var tail: Ratio
  /// The most that the tail adds, in microseconds.
  package var tailUs: UInt64

  /// Joins the parts.
  package init(floorUs: UInt64, spreadUs: UInt64, tail: Ratio = .never, tailUs: UInt64 = 0) {
    self.floorUs = floorUs
    self.spreadUs = spreadUs
    self.tail = tail
    self.tailUs = tailUs
  }

  /// One duration, in nanoseconds.
  package func draw(_ random: inout SeededGenerator) -> UInt64 {
    let most = random.chance(tail) ? tailUs : spreadUs
    return floorUs * 1000 + random.below(most * 1000 + 1)
  }

  package var description: String { "\(floorUs)+\(spreadUs)us tail \(tail) of \(tailUs)us" }
}
