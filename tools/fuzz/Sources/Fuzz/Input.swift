/// Fuzz input as a sequence of choices.

/// Takes numbers and bytes from the front of the input; zeroes when it is used up.
struct Input {
  private let bytes: UnsafeRawBufferPointer
  private var position = 0

  init(_ bytes: UnsafeRawBufferPointer) { self.bytes = bytes }

  var isAtEnd: Bool { position >= bytes.count }

  mutating func byte() -> UInt8 {
    guard position < bytes.count else { return 0 }
    defer { position += 1 }
    return bytes[position]
  }

  /// A number in `0 ..< limit`, at most 256.
  mutating func below(_ limit: Int) -> Int { Int(byte()) % limit }

  mutating func flag() -> Bool { byte() & 1 == 1 }

  mutating func number() -> UInt64 {
    var number: UInt64 = 0
    for _ in 0..<8 { number = number << 8 | UInt64(byte()) }
    return number
  }

  /// The next bytes, fewer at the end.
  mutating func take(_ count: Int) -> UnsafeRawBufferPointer {
    let end = min(bytes.count, position + count)
    defer { position = end }
    return UnsafeRawBufferPointer(rebasing: bytes[position..<end])
  }

  /// All that is left.
  mutating func rest() -> UnsafeRawBufferPointer { take(bytes.count) }
}

/// A copy that may be changed.
func copy(_ bytes: UnsafeRawBufferPointer, padding count: Int = 0) -> [UInt8] {
  Array(bytes) + [UInt8](repeating: 0, count: max(0, count - bytes.count))
}
