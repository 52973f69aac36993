/// Several files: where includes are looked up, and what bounds them.

import Configuration
import Testing

/// Files in memory.
struct TextFiles: ConfigurationFiles, Sendable {
  var contents: [String: [UInt8]]

  init(_ contents: [String: [UInt8]]) { self.contents = contents }

  init(text: [String: String]) { contents = text.mapValues { Array($0.utf8) } }

  func read(_ path: String) -> Result<[UInt8], ConfigurationFileError> {
    contents[path].map { .success($0) }
      ?? .failure(ConfigurationFileError(reason: "No such file or directory"))
  }

  /// Patterns of the tests have one `*`.
  func expand(_ pattern: String) -> [String] {
    let parts = pattern.split(separator: "*", omittingEmptySubsequences: false)
    return contents.keys.filter { path in
      path.hasPrefix(parts[0]) && path.hasSuffix(parts[1])
    }.sorted()
  }
}

func position(_ file: String, _ line: Int, _ column: Int) -> SourcePosition {
  SourcePosition(file: file, line: line, column: column)
}

@Suite struct IncludeTests {
  /// A pattern is looked up beside the file that holds it; the place of an error is the inner file.
  @Test func patternIsRelativeToItsFile() throws {
    let files = TextFiles(text: [
      "/etc/ashlar/ashlar.conf": "include \"ashlar.d/*.res\";\ncommon { net { ping-int 7; } }",
      "/etc/ashlar/ashlar.d/a.res": twoNodes,
      "/etc/ashlar/ashlar.d/b.res": twoNodes.replacing("r0", with: "r1")
        .replacing(":7789", with: ":7790"),
    ])
    let configuration = try Configuration.load(path: "/etc/ashlar/ashlar.conf", files: files)
    #expect(configuration.resources.map(\.name) == ["r0", "r1"])
    #expect(configuration.resources[1].file == "/etc/ashlar/ashlar.d/b.res")
  }

  /// `common` counts for every resource, also for those read before it.
  @Test func commonIsMergedWhereverItStands() throws {
    let text = twoNodes.replacing("ping-int 5;", with: "") + "common { net { ping-int 7; } }"
    #expect(try parsed(text).resources[0].net.pingIntervalSeconds == 7)
    let own = twoNodes + "common { net { ping-int 7; connect-int 9; } }"
    #expect(try parsed(own).resources[0].net.pingIntervalSeconds == 5)
    #expect(try parsed(own).resources[0].net.connectIntervalSeconds == 9)
  }

  @Test func missingFileIsNamedWithItsInclude() {
    let files = TextFiles(text: ["/a.conf": "\n include \"nosuch.res\";"])
    let expected = ConfigurationError.cannotRead(
      path: "/nosuch.res", reason: "No such file or directory",
      includedAt: position("/a.conf", 2, 2))
    #expect(throws: expected) { try Configuration.load(path: "/a.conf", files: files) }
    #expect(
      expected.description
        == "/a.conf:2:2: Can not open '/nosuch.res': No such file or directory")
    #expect(throws: ConfigurationError.self) {
      try Configuration.load(path: "/none.conf", files: files)
    }
  }

  /// A pattern that matches nothing is what a fresh installation has.
  @Test func emptyPatternIsFine() throws {
    let files = TextFiles(text: ["/a.conf": "include \"ashlar.d/*.res\";"])
    #expect(try Configuration.load(path: "/a.conf", files: files).resources.isEmpty)
  }

  @Test func cycleIsFound() {
    let files = TextFiles(text: ["/a": "include \"/b\";", "/b": "include \"/a\";"])
    #expect(throws: ConfigurationError.includeCycle(path: "/a", at: position("/b", 1, 1))) {
      try Configuration.load(path: "/a", files: files)
    }
  }

  @Test func depthIsBounded() {
    var contents: [String: String] = [:]
    for depth in 0..<20 { contents["/\(depth)"] = "include \"/\(depth + 1)\";" }
    #expect(throws: ConfigurationError.self) {
      try Configuration.load(path: "/0", files: TextFiles(text: contents))
    }
  }

  /// Files that include each other without a cycle must not multiply for ever.
  @Test func countIsBounded() {
    let twice = { (next: Int) in String(repeating: "include \"/\(next)\";", count: 16) }
    var contents: [String: String] = [:]
    for depth in 0..<7 { contents["/\(depth)"] = twice(depth + 1) }
    contents["/7"] = ""
    do {
      _ = try Configuration.load(path: "/0", files: TextFiles(text: contents))
      Issue.record("accepted")
    } catch {
      #expect(error.description.contains("configuration files: more than 4096"), "\(error)")
    }
  }

  @Test func sizeIsBounded() {
    let files = TextFiles(["/a": [UInt8](repeating: 0x20, count: 5 << 20)])
    #expect(throws: ConfigurationError.self) {
      try Configuration.load(path: "/a", files: files)
    }
  }
}
