/// Which target may import which. Dependencies point inward: the core knows no operating system,
/// and nothing knows the programs. `docs/architecture.md` draws the same table.
///
/// What must hold: every folder in `Sources` has a row.

let allowedImports: [String: Set<String>] = [
  "BlockTypes": [],
  "Digests": ["Crypto"],
  "Wire": ["BlockTypes", "CChecksum", "Digests"],
  "Metadata": ["BlockTypes", "CChecksum"],
  "Replication": ["BlockTypes", "Wire", "Metadata"],
  "Authentication": ["BlockTypes", "Digests", "Wire", "Replication"],
  "Simulation": ["BlockTypes", "Wire", "Metadata", "Replication"],
  "BlockIO": [
    "BlockTypes", "CUring", "CAIO", "CHelper", "CHost", "Glibc", "Synchronization",
  ],
  "Exports": ["BlockTypes", "BlockIO", "Glibc"],
  "Configuration": ["BlockTypes", "Glibc", "Foundation"],
  "Control": ["BlockTypes", "Configuration", "Glibc", "Foundation"],
  "Node": [
    "BlockTypes", "Digests", "Wire", "Metadata", "Replication", "Authentication", "BlockIO",
    "Exports", "Configuration", "Control", "Glibc", "Synchronization", "Foundation", "Logging",
    "NIOConcurrencyHelpers",
    "NIOCore", "NIOPosix",
  ],
  "ashlard": [
    "Node", "BlockIO", "Configuration", "Control", "Glibc", "Dispatch", "Foundation",
    "ArgumentParser", "Logging",
  ],
  "ashlaradm": [
    "BlockTypes", "Configuration", "Control", "Metadata", "BlockIO", "Glibc", "Foundation",
    "ArgumentParser",
  ],
  "Bench": [
    "BlockTypes", "BlockIO", "Control", "CChecksum", "Glibc", "Foundation", "ArgumentParser",
    "Histogram", "Synchronization",
  ],
  "ashlar-bench": ["Bench", "ArgumentParser"],
  "ashlar-sim": ["BlockTypes", "Simulation", "Glibc", "Foundation", "ArgumentParser"],
]

let dependencyRules: [Rule] = [
  Rule("dependency", "dependencies point inward") { source in
    guard let target = source.target, source.path.hasSuffix(".swift") else { return [] }
    guard let allowed = allowedImports[target] else {
      return [source.violation("dependency", at: 0, "target \(target) has no row in the table")]
    }
    return imports(in: source).filter { !allowed.contains($0.module) }.map {
      source.violation("dependency", at: $0.line, "\(target) may not import \($0.module)")
    }
  }
]

/// The modules a file imports, whatever the access level, attribute or kind of the import.
private func imports(in source: SourceText) -> [(module: String, line: Int)] {
  source.code.indices.compactMap { index in
    let words = source.code[index].split(separator: " ").map(String.init)
    guard let position = words.firstIndex(of: "import"), position + 1 < words.count else {
      return nil
    }
    let kinds: Set<String> = ["struct", "class", "enum", "protocol", "func", "var", "let"]
    let isKind = kinds.contains(words[position + 1]) && position + 2 < words.count
    let path = words[position + (isKind ? 2 : 1)]
    return (String(path.split(separator: ".")[0]), index)
  }
}
