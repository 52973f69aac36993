/// The rules applied to the whole package. A violation is reported as `file:line: what`.
import Foundation
import Testing

/// Where a rule is broken on purpose. Every entry says why, and goes when the reason goes.
let exceptions: [RuleException] = [
  RuleException(
    rule: "no class", path: "Sources/BlockIO/Mailbox.swift",
    reason: "the control plane and the reactor share one mailbox; it is made once, not per I/O"),
  RuleException(
    rule: "no usleep(", path: "Sources/BlockIO/Predecessor.swift",
    reason: "waits once, when a listener is made, for the sockets of a killed predecessor"),
  RuleException(
    rule: "no usleep(", path: "Sources/BlockIO/BlockDevice.swift",
    reason: "waits once, when a disk is opened, for the lock of a killed predecessor"),
  RuleException(
    rule: "no usleep(", path: "Sources/BlockIO/ReactorLoop.swift",
    reason: "the kernel is short of memory and nothing completed that could free some"),
]

/// The text files of the package that people write, relative to its root.
func packageFiles() throws -> [SourceText] {
  let root = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
    .deletingLastPathComponent()
  let written: Set<String> = ["swift", "c", "h", "sh", "py"]
  var files: [SourceText] = []
  for folder in ["Sources", "Tests", "CShims", "tools", "Benchmarks"] {
    let directory = root.appending(path: folder)
    guard let entries = FileManager.default.enumerator(atPath: directory.path) else { continue }
    for case let entry as String in entries {
      let isScript = folder == "tools" && !entry.contains(".")
      guard isScript || written.contains(URL(filePath: entry).pathExtension) else { continue }
      guard !entry.contains(".build") else { continue }
      let url = directory.appending(path: entry)
      guard (try url.resourceValues(forKeys: [.isRegularFileKey])).isRegularFile == true else {
        continue
      }
      files.append(
        SourceText(
          path: "\(folder)/\(entry)", text: try String(contentsOf: url, encoding: .utf8)))
    }
  }
  let manifest = try String(contentsOf: root.appending(path: "Package.swift"), encoding: .utf8)
  return files + [SourceText(path: "Package.swift", text: manifest)]
}

/// The rule tests hold bad snippets, and the rules name what they ban.
private func isAboutRules(_ path: String) -> Bool { path.hasPrefix("Tests/HouseRulesTests/") }

@Test func `the tree keeps the house rules`() throws {
  let files = try packageFiles()
  #expect(files.count > 20, "only \(files.count) files found; is the path right?")
  for file in files {
    for rule in allRules where !isAboutRules(file.path) || sizeRules.contains(named: rule.name) {
      for violation in rule.check(file) where !isExcepted(violation) {
        Issue.record("\(violation)")
      }
    }
  }
}

@Test func `every exception is still needed`() throws {
  let files = try packageFiles()
  for exception in exceptions {
    let isUsed = files.contains { file in
      file.path == exception.path
        && allRules.contains { rule in
          rule.name == exception.rule && !rule.check(file).isEmpty
        }
    }
    #expect(isUsed, "\(exception.path) no longer breaks '\(exception.rule)'")
    #expect(exception.reason.count > 20, "\(exception.path): the exception gives no reason")
  }
}

@Test func `every target has a row in the table of dependencies`() throws {
  let targets = Set(try packageFiles().compactMap(\.target))
  #expect(targets == Set(allowedImports.keys))
}

@Test func `the table of dependencies has no circle`() {
  // A target is placed once all it may import is placed; what a circle holds is never placed.
  var placed: Set<String> = []
  var isGrowing = true
  while isGrowing {
    let ready = allowedImports.keys.filter { target in
      !placed.contains(target)
        && allowedImports[target, default: []].allSatisfy {
          placed.contains($0) || allowedImports[$0] == nil
        }
    }
    placed.formUnion(ready)
    isGrowing = !ready.isEmpty
  }
  #expect(placed == Set(allowedImports.keys))
}

private func isExcepted(_ violation: Violation) -> Bool {
  exceptions.contains { $0.rule == violation.rule && $0.path == violation.path }
}

extension [Rule] {
  fileprivate func contains(named name: String) -> Bool { contains { $0.name == name } }
}
