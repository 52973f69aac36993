/// docs/scenarios.md against the tests: what it names exists, and nothing is left out.
import Foundation
import Testing

/// One row of a table in docs/scenarios.md.
struct ScenarioRow: Equatable {
  var id: String
  /// Tests as `Target/File` and the name of the function.
  var tests: [ScenarioTest]
  /// Why there is no test; empty where there is one.
  var reason: String
}

struct ScenarioTest: Hashable, CustomStringConvertible {
  var file: String
  var name: String
  var description: String { "\(file): \(name)" }
}

/// How a reason begins.
private let noTest = ["later: ", "does not arise: "]

/// The rows of the tables: `| R01 | what | tests or a reason |`.
func scenarioRows(in text: String) -> [ScenarioRow] {
  text.split(separator: "\n").compactMap { line in
    let cells = line.split(separator: "|", omittingEmptySubsequences: false)
      .map { $0.trimmingCharacters(in: .whitespaces) }
    guard cells.count == 5, isScenario(cells[1]) else { return nil }
    let hasReason = noTest.contains { cells[3].hasPrefix($0) }
    guard !hasReason else { return ScenarioRow(id: cells[1], tests: [], reason: cells[3]) }
    var tests: [ScenarioTest] = []
    var file = ""
    // What stands between back-quotes: a file, or a test in the file named before it.
    for (index, part) in cells[3].components(separatedBy: "`").enumerated() where index % 2 == 1 {
      if part.contains("Tests/"), !part.contains(" ") {
        file = part
      } else {
        tests.append(ScenarioTest(file: file, name: part))
      }
    }
    return ScenarioRow(id: cells[1], tests: tests, reason: "")
  }
}

/// `R01`: one of the letters of the list and two digits.
private func isScenario(_ text: some StringProtocol) -> Bool {
  guard text.count == 3, let letter = text.first else { return false }
  return "RSBCV".contains(letter) && text.dropFirst().allSatisfy { $0.isASCII && $0.isNumber }
}

/// A test in a source file.
struct TestDeclaration: Hashable {
  /// The name of its function.
  var name: String
  /// What it is called in reports: the text after `@Test(`, else the name.
  var title: String

  /// The scenarios that it is named after: `S02, S03: what holds` and `R24 what holds`.
  var scenarios: [String] {
    let words = title.split(separator: " ").prefix { isScenario($0.filter { !",:".contains($0) }) }
    return words.map { $0.filter { !",:".contains($0) } }
  }
}

/// The tests in a source file: the function after each `@Test`.
func testDeclarations(in source: SourceText) -> [TestDeclaration] {
  var found: [TestDeclaration] = []
  var title: String?
  for (line, code) in zip(source.lines, source.code) {
    if code.contains("@Test") {
      let parts = line.components(separatedBy: "@Test(\"")
      title = parts.count == 2 ? parts[1].components(separatedBy: "\"")[0] : ""
    }
    let text = line.drop { $0 == " " }
    if title?.isEmpty == true, text.first == "\"" { title = text.components(separatedBy: "\"")[1] }
    guard let given = title, let function = code.range(of: "func ") else { continue }
    title = nil
    let start = code.distance(from: code.startIndex, to: function.upperBound)
    let rest = line.dropFirst(start)
    let name = rest.first == "`" ? rest.dropFirst().prefix { $0 != "`" } : rest.prefix { $0 != "(" }
    found.append(TestDeclaration(name: String(name), title: given.isEmpty ? String(name) : given))
  }
  return found
}

/// The scenarios that Ashlar is measured by: their letters, and how many there are.
private let scenarioCounts = [("R", 24), ("S", 27), ("B", 16), ("C", 19), ("V", 16)]

private func scenariosPage() throws -> [ScenarioRow] {
  let root = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
    .deletingLastPathComponent()
  let page = root.appending(path: "docs/scenarios.md")
  return scenarioRows(in: try String(contentsOf: page, encoding: .utf8))
}

private func allTests() throws -> [String: [TestDeclaration]] {
  var tests: [String: [TestDeclaration]] = [:]
  for source in try packageFiles() where source.path.hasPrefix("Tests/") {
    guard source.path.hasSuffix(".swift") else { continue }
    let file = String(source.path.dropFirst("Tests/".count).dropLast(".swift".count))
    tests[file] = testDeclarations(in: source)
  }
  return tests
}

@Test func `docs slash scenarios lists every scenario once, with a test or a reason`() throws {
  let rows = try scenariosPage()
  let expected = scenarioCounts.flatMap { letter, count in
    (1...count).map { letter + ($0 < 10 ? "0\($0)" : "\($0)") }
  }
  #expect(rows.map(\.id) == expected)
  for row in rows where row.tests.isEmpty {
    #expect(
      row.reason.hasPrefix("later: ") || row.reason.hasPrefix("does not arise: "), "\(row.id)")
    #expect(row.reason.count > 15, "\(row.id): '\(row.reason)' is no reason")
  }
}

@Test func `every test that docs slash scenarios names exists`() throws {
  let tests = try allTests()
  for row in try scenariosPage() {
    for test in row.tests {
      #expect(tests[test.file] != nil, "\(row.id): there is no Tests/\(test.file).swift")
      let exists = tests[test.file]?.contains { $0.name == test.name } == true
      #expect(exists, "\(row.id): no test \(test)")
    }
  }
}

@Test func `a test that is named after a scenario is named after one that exists`() throws {
  let known = Set(try scenariosPage().map(\.id))
  var count = 0
  for (file, declarations) in try allTests() {
    for test in declarations {
      count += test.scenarios.count
      for id in test.scenarios { #expect(known.contains(id), "\(file): '\(test.title)'") }
    }
  }
  #expect(count > 30, "only \(count) tests are named after a scenario; are they read right?")
}

@Test func `rows and tests are read as they are written`() {
  let rows = scenarioRows(
    in: """
      # Title
      | id | scenario | test |
      | --- | --- | --- |
      | R01 | first | `WireTests/HelloTests`: `one`, `R01: two`; `NodeTests/A+B`: `three` |
      | S02 | second | later: needs what is not `there` |
      """)
  let tests = [
    ScenarioTest(file: "WireTests/HelloTests", name: "one"),
    ScenarioTest(file: "WireTests/HelloTests", name: "R01: two"),
    ScenarioTest(file: "NodeTests/A+B", name: "three"),
  ]
  #expect(
    rows == [
      ScenarioRow(id: "R01", tests: tests, reason: ""),
      ScenarioRow(id: "S02", tests: [], reason: "later: needs what is not `there`"),
    ])
  let source = SourceText(
    path: "Tests/WireTests/HelloTests.swift",
    text: """
      @Suite struct A {
        @Test func one() {}
        @Test(arguments: 1...2)
        func `R01: two`(number: Int) {}
        // @Test func notOne() {}
        func helper() {}
        @Test(
          "S02, S03: cut", .tags(.slow))
        func three() {}
      }
      """)
  #expect(
    testDeclarations(in: source) == [
      TestDeclaration(name: "one", title: "one"),
      TestDeclaration(name: "R01: two", title: "R01: two"),
      TestDeclaration(name: "three", title: "S02, S03: cut"),
    ])
  #expect(testDeclarations(in: source).map(\.scenarios) == [[], ["R01"], ["S02", "S03"]])
}
