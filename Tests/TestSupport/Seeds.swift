/// Randomness for tests: everything follows from one 64-bit seed, which a failure prints.

public import BlockTypes
import Glibc

/// SplitMix64: one word of state, the same numbers on every machine.
public struct SeededGenerator: RandomNumberGenerator {
  private var state: UInt64

  /// A generator whose numbers follow from `seed`.
  public init(seed: UInt64) { state = seed }

  /// The next 64 bits.
  public mutating func next() -> UInt64 {
    state &+= 0x9E37_79B9_7F4A_7C15
    var mixed = state
    mixed = (mixed ^ (mixed >> 30)) &* 0xBF58_476D_1CE4_E5B9
    mixed = (mixed ^ (mixed >> 27)) &* 0x94D0_49BB_1331_11EB
    return mixed ^ (mixed >> 31)
  }

  /// A number in `0 ..< limit`.
  public mutating func below(_ limit: Int) -> Int { Int(next() % UInt64(limit)) }

  /// `true` in one of `n` cases.
  public mutating func oneIn(_ n: Int) -> Bool { below(n) == 0 }
}

/// The seeds of a test: `count` fixed ones, or the one in `ASHLAR_SEED` to replay a failure.
public func seeds(count: Int) -> [UInt64] {
  guard let text = getenv("ASHLAR_SEED").map({ String(cString: $0) }) else {
    return (0..<UInt64(count)).map { 0xA5_0000 + $0 }
  }
  let isHex = text.hasPrefix("0x")
  guard let seed = UInt64(isHex ? String(text.dropFirst(2)) : text, radix: isHex ? 16 : 10) else {
    preconditionFailure("ASHLAR_SEED is not a number: \(text)")
  }
  return [seed]
}

/// `bytes` as a buffer for a parser.
public func parse<Value, Failure: Error>(
  _ bytes: [UInt8], _ body: (UnsafeRawBufferPointer) throws(Failure) -> Value
) throws(Failure) -> Value {
  // `withUnsafeBytes` of Array does not carry typed errors; a Result does.
  let result = bytes.withUnsafeBytes { raw in
    Result { () throws(Failure) in try body(raw) }
  }
  return try result.get()
}

/// What `body` writes into `count` bytes that hold `filler` before.
public func written(
  _ count: Int, filler: UInt8 = 0xEE, _ body: (UnsafeMutableRawBufferPointer) -> Void
) -> [UInt8] {
  var bytes = [UInt8](repeating: filler, count: count)
  bytes.withUnsafeMutableBytes { body($0) }
  return bytes
}

/// The node with this number, which the test knows to be one.
public func node(_ value: UInt64) -> NodeID {
  guard let node = NodeID(value) else { preconditionFailure("\(value) is no node id") }
  return node
}

/// CRC32C by its definition, bit by bit: independent of the shim.
public func slowCRC32C(_ bytes: some Sequence<UInt8>) -> UInt32 {
  var crc = UInt32.max
  for byte in bytes {
    crc ^= UInt32(byte)
    for _ in 0..<8 { crc = crc & 1 == 1 ? crc >> 1 ^ 0x82F6_3B78 : crc >> 1 }
  }
  return ~crc
}
