/// Hostile files: any bytes give a configuration or a typed error, never a crash, in bounded time.
/// Replay one seed with: ASHLAR_SEED=7 swift test --filter GarbageTests

import Configuration
import Foundation
import Testing

/// A small generator whose sequence depends on the seed alone.
private struct SeededGenerator: RandomNumberGenerator {
  private var state: UInt64

  init(seed: UInt64) { state = seed &* 0x9E37_79B9_7F4A_7C15 &+ 1 }

  mutating func next() -> UInt64 {
    state ^= state >> 12
    state ^= state << 25
    state ^= state >> 27
    return state &* 0x2545_F491_4F6C_DD1D
  }
}

private let seeds: [UInt64] =
  ProcessInfo.processInfo.environment["ASHLAR_SEED"].flatMap { UInt64($0) }.map { [$0] }
  ?? Array(1...400)

private let words = [
  "resource", "r0", "on", "alpha", "bravo", "{", "}", ";", "\"", "#", "\n", "net", "disk", "none",
  "options", "volume", "0", "1", "address", "10.0.0.1:1", "[::1]:2", ":", "[", "]", "ipv6",
  "meta-disk", "internal", "/dev/x", "node-id", "99999999999999999999999", "timeout", "60", "1k",
  "common", "global", "skip", "include", "protocol", "C", "\\", "\u{0}", "\u{FF}", "é", "size",
  "floating", "connection-mesh", "hosts", "handlers", "startup", "-1", "4P", "18446744073709551615",
]

@Suite struct GarbageTests {
  @Test func anyBytesGiveAValueOrAnError() {
    for seed in seeds {
      var generator = SeededGenerator(seed: seed)
      let count = Int.random(in: 0..<600, using: &generator)
      let bytes = (0..<count).map { _ in UInt8.random(in: 0...255, using: &generator) }
      check(bytes, seed: seed)
    }
  }

  @Test func anyWordsGiveAValueOrAnError() {
    for seed in seeds {
      var generator = SeededGenerator(seed: seed)
      let count = Int.random(in: 0..<200, using: &generator)
      let text = (0..<count).map { _ in words.randomElement(using: &generator) ?? "" }
        .joined(separator: Bool.random(using: &generator) ? " " : "")
      check(Array(text.utf8), seed: seed)
    }
  }

  /// A good file with a few bytes changed reaches deeper than noise.
  @Test func damagedFilesGiveAValueOrAnError() {
    for seed in seeds {
      var generator = SeededGenerator(seed: seed)
      var bytes = Array(twoNodes.utf8)
      for _ in 0..<Int.random(in: 1...6, using: &generator) {
        let place = Int.random(in: 0..<bytes.count, using: &generator)
        switch Int.random(in: 0..<3, using: &generator) {
        case 0: bytes[place] = UInt8.random(in: 0...255, using: &generator)
        case 1: bytes.remove(at: place)
        default:
          bytes.insert(contentsOf: (words.randomElement(using: &generator) ?? "").utf8, at: place)
        }
      }
      check(bytes, seed: seed)
    }
  }

  /// Nothing but nesting: the parser's stack is bounded.
  @Test func deepNestingIsRefused() {
    check(Array(String(repeating: "a{", count: 200_000).utf8), seed: 0)
    check(Array(String(repeating: "{", count: 200_000).utf8), seed: 0)
  }

  private func check(_ bytes: [UInt8], seed: UInt64) {
    do {
      let configuration = try Configuration.load(
        path: "/g", files: TextFiles(["/g": bytes]))
      #expect(configuration.resources.allSatisfy { $0.hosts.count == 2 }, "seed \(seed)")
    } catch {
      #expect(!error.description.isEmpty, "seed \(seed)")
      #expect(error.description.utf8.count < 2000, "seed \(seed): \(error)")
    }
  }
}
