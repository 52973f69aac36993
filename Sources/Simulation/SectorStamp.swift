/// The content of one 512-byte sector, as 64 bits: which write put it there, and where it belongs.
///
/// A stamp carries its own address, so data that lands in the wrong place is seen as such, and the
/// low bits of the seed, so data of another run cannot pass for this one's. Zero is a sector of
/// zeroes.
package struct SectorStamp: Hashable, Sendable, BitwiseCopyable, CustomStringConvertible {
  /// sequence of the write (24 bits) | sector (24 bits) | seed (16 bits).
  package let bits: UInt64

  /// The stamp with these bits, as found on a disk.
  package init(bits: UInt64) { self.bits = bits }

  /// What write number `sequence` puts into `sector`. The sequence starts at 1.
  package init(sequence: UInt64, sector: UInt64, seed: UInt64) {
    precondition(sequence > 0, "sequence 0 is a sector of zeroes")
    precondition(sequence < 1 << 24, "more writes than a stamp can number")
    precondition(sector < 1 << 24, "more sectors than a stamp can number")
    bits = sequence << 40 | sector << 16 | (seed & 0xFFFF)
  }

  /// A sector of zeroes: never written, trimmed, or zeroed.
  package static var zero: SectorStamp { SectorStamp(bits: 0) }

  /// Which write.
  package var sequence: UInt64 { bits >> 40 }
  /// Where it belongs.
  package var sector: UInt64 { bits >> 16 & 0xFF_FFFF }

  /// Whether a client of the run with `seed` may have put this into `sector`.
  package func belongs(in sector: UInt64, seed: UInt64) -> Bool {
    bits == 0 || (self.sector == sector && bits & 0xFFFF == seed & 0xFFFF)
  }

  package var description: String { bits == 0 ? "zero" : "w\(sequence)@\(sector)" }
}
