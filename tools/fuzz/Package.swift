// swift-tools-version: 6.2
// The fuzz targets: what parses bytes of others, instrumented for libFuzzer and AddressSanitizer. A
// package of its own, since those flags must reach every target; `Core` and `Shims` are links to
// the sources of the main package. `tools/fuzz/run` builds and runs it.
import PackageDescription

let instrumented: [SwiftSetting] = [
  .swiftLanguageMode(.v6),
  .enableUpcomingFeature("ExistentialAny"),
  .enableUpcomingFeature("InternalImportsByDefault"),
  .enableUpcomingFeature("MemberImportVisibility"),
  // Tests of the NBD engine need its insides.
  .unsafeFlags(["-sanitize=fuzzer,address", "-enable-testing"]),
]
let shim: [CSetting] = [.unsafeFlags(["-fsanitize=fuzzer-no-link,address", "-O2"])]

let package = Package(
  name: "fuzz",
  dependencies: [.package(url: "https://github.com/apple/swift-crypto", from: "4.5.2")],
  targets: [
    .target(
      name: "CUring", path: "Shims/CUring", cSettings: shim,
      linkerSettings: [.linkedLibrary("uring")]),
    .target(
      name: "CAIO", path: "Shims/CAIO", cSettings: shim, linkerSettings: [.linkedLibrary("aio")]),
    .target(name: "CChecksum", path: "Shims/CChecksum", cSettings: shim),
    .target(name: "CHost", path: "Shims/CHost", cSettings: shim),
    .target(name: "CHelper", path: "Shims/CHelper", cSettings: shim),
    .target(name: "BlockTypes", path: "Core/BlockTypes", swiftSettings: instrumented),
    .target(
      name: "Digests", dependencies: [.product(name: "Crypto", package: "swift-crypto")],
      path: "Core/Digests", swiftSettings: instrumented),
    .target(
      name: "Wire", dependencies: ["BlockTypes", "CChecksum", "Digests"], path: "Core/Wire",
      swiftSettings: instrumented),
    .target(
      name: "Metadata", dependencies: ["BlockTypes", "CChecksum"], path: "Core/Metadata",
      swiftSettings: instrumented),
    .target(
      name: "Replication", dependencies: ["BlockTypes", "Wire", "Metadata"],
      path: "Core/Replication", swiftSettings: instrumented),
    .target(
      name: "Authentication", dependencies: ["BlockTypes", "Digests", "Wire", "Replication"],
      path: "Core/Authentication", swiftSettings: instrumented),
    .target(
      name: "BlockIO", dependencies: ["BlockTypes", "CUring", "CAIO", "CHost", "CHelper"],
      path: "Core/BlockIO", swiftSettings: instrumented),
    .target(
      name: "Exports", dependencies: ["BlockTypes", "BlockIO"], path: "Core/Exports",
      swiftSettings: instrumented),
    .target(
      name: "Configuration", dependencies: ["BlockTypes"], path: "Core/Configuration",
      swiftSettings: instrumented),
    // libFuzzer's entry point, which Swift cannot declare.
    .target(name: "CFuzzDriver"),
    .executableTarget(
      name: "Fuzz",
      dependencies: [
        "CFuzzDriver", "Authentication", "BlockTypes", "Wire", "Metadata", "Replication", "BlockIO",
        "Exports", "Configuration", "CChecksum",
      ], swiftSettings: instrumented,
      // ld.gold, the default, stops with an internal error on this input.
      linkerSettings: [.unsafeFlags(["-sanitize=fuzzer,address", "-use-ld=lld"])]),
  ]
)
