/// Constructs that are banned, each with the reason and the place where it is banned.

/// A word of code that may not occur in some targets; `nil` means in no file of `Sources`.
struct BannedConstruct {
  let word: String
  let targets: Set<String>?
  let reason: String
}

let bannedConstructs: [BannedConstruct] = [
  // Costs that multiply with every I/O.
  BannedConstruct(
    word: "Foundation", targets: dataPath, reason: "its types allocate and count references"),
  BannedConstruct(word: "async", targets: dataPath, reason: "a suspension costs more than the I/O"),
  BannedConstruct(word: "await", targets: dataPath, reason: "a suspension costs more than the I/O"),
  BannedConstruct(word: "actor", targets: dataPath, reason: "a hop costs more than the I/O"),
  BannedConstruct(word: "any", targets: dataPath, reason: "an existential allocates; use some"),
  BannedConstruct(word: "class", targets: dataPath, reason: "an object counts references"),
  BannedConstruct(word: "@escaping", targets: dataPath, reason: "an escaping closure allocates"),
  BannedConstruct(word: "Any", targets: dataPath, reason: "an existential allocates"),

  // What would make the simulated core another core than the shipped one.
  BannedConstruct(word: "Glibc", targets: core, reason: "the core knows no operating system"),
  BannedConstruct(word: "Date", targets: core, reason: "time is an argument"),
  BannedConstruct(word: "ContinuousClock", targets: core, reason: "time is an argument"),
  BannedConstruct(word: "SuspendingClock", targets: core, reason: "time is an argument"),
  BannedConstruct(
    word: "SystemRandomNumberGenerator", targets: core, reason: "random bits are an argument"),
  BannedConstruct(word: ".random(", targets: core, reason: "random bits are an argument"),
  BannedConstruct(word: "print(", targets: dataPath, reason: "a reactor thread writes no text"),
  BannedConstruct(word: "sleep(", targets: dataPath, reason: "a reactor thread never waits"),
  BannedConstruct(word: "usleep(", targets: dataPath, reason: "a reactor thread never waits"),

  // Never, anywhere in shipped code.
  BannedConstruct(word: "try!", targets: nil, reason: "an error is handled or thrown on"),
  BannedConstruct(word: "as!", targets: nil, reason: "a wrong type is an error, not a crash"),
  BannedConstruct(
    word: "fatalError", targets: nil,
    reason: "outside data throws; an impossible state is preconditionFailure with its name"),
  BannedConstruct(
    word: "assert(", targets: nil, reason: "gone in release builds; use precondition"),
  BannedConstruct(
    word: "nonisolated(unsafe)", targets: nil, reason: "shared state has one owner"),
]

let constructRules: [Rule] = bannedConstructs.map { banned in
  Rule("no \(banned.word)", banned.reason) { source in
    guard let target = source.target, source.path.hasSuffix(".swift") else { return [] }
    if let targets = banned.targets, !targets.contains(target) { return [] }
    return source.lineIndices(containing: banned.word).map {
      source.violation("no \(banned.word)", at: $0, "'\(banned.word)': \(banned.reason)")
    }
  }
}

let textRules: [Rule] = [
  Rule("unchecked-sendable", "a promise to the compiler is explained") { source in
    guard source.target != nil else { return [] }
    return source.lineIndices(containing: "@unchecked").filter { index in
      // The comment stands in the block of comment and attribute lines right above.
      var above = index - 1
      while above >= 0, source.lines[above].drop(while: { $0 == " " }).hasPrefix("@") {
        above -= 1
      }
      return above < 0 || !source.lines[above].contains("//")
    }.map {
      source.violation("unchecked-sendable", at: $0, "@unchecked without a comment saying why")
    }
  },
  Rule("unchecked-build", "the checks are what stops a wrong write") { source in
    guard source.contains("-Ounchecked") else { return [] }
    return source.lines.indices.filter { source.lines[$0].contains("-Ounchecked") }.map {
      source.violation("unchecked-build", at: $0, "-Ounchecked removes every check")
    }
  },
  Rule("left-over", "work to do is an issue, not a comment") { source in
    ["TODO", "FIXME", "XXX", "HACK"].filter(source.contains).flatMap { word in
      source.lines.indices.filter { source.lines[$0].containsWord(word) }.map {
        source.violation("left-over", at: $0, "'\(word)' in the source")
      }
    }
  },
  Rule("vocabulary", "one word for one thing, the field's own") { source in
    ["slave", "Slave", "blacklist", "whitelist"].filter(source.contains).flatMap { word in
      source.lines.indices.filter { source.lines[$0].containsWord(word) }.map {
        source.violation("vocabulary", at: $0, "'\(word)' is not a word of this project")
      }
    }
  },
  Rule("file-head", "the first lines say the subject and what must hold") { source in
    guard source.path.hasSuffix(".swift"), source.path != "Package.swift" else { return [] }
    let first = source.lines.indices.first { index in
      let line = source.code[index].drop(while: { $0 == " " })
      let isBlank = source.lines[index].allSatisfy { $0 == " " }
      let isImport = [
        "import ", "public import ", "internal import ", "private import ",
        "package import ", "@testable import ", "@preconcurrency import ",
      ]
      .contains { line.hasPrefix($0) }
      return !isBlank && !isImport
    }
    guard let first else { return [] }
    return source.lines[first].hasPrefix("//")
      ? [] : [source.violation("file-head", at: first, "no comment says what this file is for")]
  },
]
