// swift-tools-version: 6.2
import PackageDescription

// Every target: Swift 6 mode, explicit existentials, imports that do not leak, warnings as errors.
let base: [SwiftSetting] = [
  .swiftLanguageMode(.v6),
  .enableUpcomingFeature("ExistentialAny"),
  .enableUpcomingFeature("InternalImportsByDefault"),
  .enableUpcomingFeature("MemberImportVisibility"),
  .treatAllWarnings(as: .error),
]

// Shipped code: every unsafe operation is spelled `unsafe`, so that a review can find it.
// Cross-module optimisation lets the data path specialise across the module boundaries.
let strict: [SwiftSetting] =
  base + [
    .strictMemorySafety(),
    .unsafeFlags(["-cross-module-optimization"], .when(configuration: .release)),
  ]

let cFlags: [CSetting] = [
  .unsafeFlags(["-Wall", "-Wextra", "-Werror", "-O2"])
]

let package = Package(
  name: "ashlar",
  products: [
    .executable(name: "ashlard", targets: ["ashlard"]),
    .executable(name: "ashlaradm", targets: ["ashlaradm"]),
    .executable(name: "ashlar-bench", targets: ["ashlar-bench"]),
    .executable(name: "ashlar-sim", targets: ["ashlar-sim"]),
  ],
  dependencies: [
    .package(url: "https://github.com/apple/swift-argument-parser", from: "1.8.2"),
    .package(url: "https://github.com/apple/swift-crypto", from: "4.5.2"),
    .package(url: "https://github.com/apple/swift-log", from: "1.16.2"),
    .package(url: "https://github.com/apple/swift-nio", from: "2.101.2"),
    .package(url: "https://github.com/HdrHistogram/hdrhistogram-swift", from: "0.2.0"),
  ],
  targets: [
    // C that Swift cannot say. No policy, no state beyond the handle.
    .target(
      name: "CUring", path: "CShims/CUring", cSettings: cFlags,
      linkerSettings: [.linkedLibrary("uring")]),
    .target(
      name: "CAIO", path: "CShims/CAIO", cSettings: cFlags,
      linkerSettings: [.linkedLibrary("aio")]),
    .target(
      name: "CHelper", path: "CShims/CHelper", cSettings: cFlags,
      linkerSettings: [.linkedLibrary("aio")]),
    .target(name: "CChecksum", path: "CShims/CChecksum", cSettings: cFlags),
    .target(name: "CHost", path: "CShims/CHost", cSettings: cFlags),

    // The core: no operating system.
    .target(name: "BlockTypes", swiftSettings: strict),
    .target(
      name: "Digests", dependencies: [.product(name: "Crypto", package: "swift-crypto")],
      swiftSettings: strict),
    .target(
      name: "Wire", dependencies: ["BlockTypes", "CChecksum", "Digests"], swiftSettings: strict),
    .target(name: "Metadata", dependencies: ["BlockTypes", "CChecksum"], swiftSettings: strict),
    .target(
      name: "Replication", dependencies: ["BlockTypes", "Wire", "Metadata"],
      swiftSettings: strict),

    .target(
      name: "Authentication", dependencies: ["BlockTypes", "Digests", "Wire", "Replication"],
      swiftSettings: strict),

    // Two drivers of the core.
    .target(
      name: "Simulation", dependencies: ["BlockTypes", "Wire", "Metadata", "Replication"],
      swiftSettings: strict),
    .target(
      name: "BlockIO", dependencies: ["BlockTypes", "CUring", "CAIO", "CHelper", "CHost"],
      swiftSettings: strict),

    // The rim.
    .target(
      name: "Exports", dependencies: ["BlockTypes", "BlockIO"], swiftSettings: strict),
    .target(name: "Configuration", dependencies: ["BlockTypes"], swiftSettings: strict),
    .target(
      name: "Control", dependencies: ["BlockTypes", "Configuration"], swiftSettings: strict),
    .target(
      name: "Node",
      dependencies: [
        "BlockTypes", "Digests", "Wire", "Metadata", "Replication", "Authentication", "BlockIO",
        "Exports", "Configuration", "Control",
        .product(name: "Logging", package: "swift-log"),
        .product(name: "NIOConcurrencyHelpers", package: "swift-nio"),
        .product(name: "NIOCore", package: "swift-nio"),
        .product(name: "NIOPosix", package: "swift-nio"),
      ], swiftSettings: strict),

    // The benchmark, apart from its program so that tests can reach it.
    .target(
      name: "Bench",
      dependencies: [
        "BlockTypes", "BlockIO", "Control", "CChecksum",
        .product(name: "ArgumentParser", package: "swift-argument-parser"),
        .product(name: "Histogram", package: "hdrhistogram-swift"),
      ], swiftSettings: strict),

    // Programs: parse arguments, wire up, exit.
    .executableTarget(
      name: "ashlard",
      dependencies: [
        "Node", "Configuration", "Control",
        .product(name: "ArgumentParser", package: "swift-argument-parser"),
        .product(name: "Logging", package: "swift-log"),
      ], swiftSettings: strict),
    .executableTarget(
      name: "ashlaradm",
      dependencies: [
        "BlockTypes", "Configuration", "Control", "Metadata", "BlockIO",
        .product(name: "ArgumentParser", package: "swift-argument-parser"),
      ], swiftSettings: strict),
    .executableTarget(
      name: "ashlar-bench",
      dependencies: [
        "Bench", .product(name: "ArgumentParser", package: "swift-argument-parser"),
      ], swiftSettings: strict),
    .executableTarget(
      name: "ashlar-sim",
      dependencies: [
        "Simulation",
        .product(name: "ArgumentParser", package: "swift-argument-parser"),
      ], swiftSettings: strict),

    // Programs that measure; not products.
    .target(
      name: "CAllocationCount", path: "Benchmarks/CAllocationCount",
      cSettings: [.unsafeFlags(["-Wall", "-Wextra", "-Werror", "-O2", "-fno-builtin"])]),
    .executableTarget(
      name: "BlockIOProbe", dependencies: ["BlockTypes", "BlockIO", "CAllocationCount"],
      path: "Benchmarks/BlockIOProbe", swiftSettings: strict),
    .executableTarget(
      name: "NBDProbe", dependencies: ["BlockTypes", "BlockIO", "Exports", "CAllocationCount"],
      path: "Benchmarks/NBDProbe", swiftSettings: strict),

    // Tests, one folder a target. Macro expansion trips strict memory safety, so `base` only.
    .target(
      name: "TestSupport", dependencies: ["BlockTypes"], path: "Tests/TestSupport",
      swiftSettings: base),
    .testTarget(
      name: "BlockTypesTests", dependencies: ["BlockTypes", "TestSupport"], swiftSettings: base),
    .testTarget(
      name: "WireTests", dependencies: ["Wire", "Digests", "BlockTypes", "TestSupport"],
      swiftSettings: base),
    .testTarget(name: "DigestsTests", dependencies: ["Digests"], swiftSettings: base),
    .testTarget(
      name: "AuthenticationTests",
      dependencies: [
        "Authentication", "Digests", "Replication", "Wire", "BlockTypes", "TestSupport",
      ], swiftSettings: base),
    .testTarget(
      name: "MetadataTests",
      dependencies: ["Metadata", "BlockTypes", "TestSupport", "CAllocationCount"],
      swiftSettings: base),
    .testTarget(
      name: "ReplicationTests",
      dependencies: ["Replication", "Metadata", "Wire", "BlockTypes", "TestSupport"],
      swiftSettings: base),
    .testTarget(
      name: "SimulationTests", dependencies: ["Simulation", "BlockTypes"], swiftSettings: base),
    .testTarget(
      name: "BlockIOTests",
      dependencies: ["BlockIO", "BlockTypes", "CChecksum", "CHelper", "CHost", "TestSupport"],
      swiftSettings: base),
    .testTarget(
      name: "ExportsTests",
      dependencies: ["Exports", "BlockIO", "BlockTypes", "NBDProbe", "TestSupport"],
      swiftSettings: base),
    .testTarget(
      name: "NodeTests",
      dependencies: [
        "Node", "BlockIO", "Control", "Configuration", "Metadata", "Replication", "Wire",
        "Authentication", "Digests", "BlockTypes", "TestSupport",
        .product(name: "Logging", package: "swift-log"),
      ], swiftSettings: base),
    .testTarget(
      name: "ConfigurationTests", dependencies: ["Configuration", "BlockTypes"], swiftSettings: base
    ),
    .testTarget(
      name: "ControlTests", dependencies: ["Control", "Configuration", "BlockTypes"],
      swiftSettings: base),
    .testTarget(
      name: "ashlaradmTests",
      dependencies: [
        "ashlaradm", "Control", "Configuration", "BlockTypes", "Metadata", "TestSupport",
        .product(name: "ArgumentParser", package: "swift-argument-parser"),
      ],
      swiftSettings: base),
    .testTarget(
      name: "BenchTests",
      dependencies: [
        "Bench", "BlockIO", "BlockTypes", "ashlar-bench",
        .product(name: "ArgumentParser", package: "swift-argument-parser"),
      ], swiftSettings: base),
    .testTarget(name: "HouseRulesTests", swiftSettings: base),
    // Real processes and real clients; runs the built programs, so it depends on no part of them.
    .testTarget(
      name: "IntegrationTests", dependencies: ["TestSupport"], exclude: ["Clients"],
      swiftSettings: base),
  ]
)
