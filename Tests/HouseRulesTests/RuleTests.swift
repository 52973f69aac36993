/// Each rule on a small text that breaks it and on one that does not: a rule that cannot fail
/// protects nothing, and a rule that fails on good code is switched off by the next person.
import Testing

/// The names of the rules that `text` breaks when it stands in the file `path`.
private func broken(_ text: String, in path: String = "Sources/Wire/Example.swift") -> Set<String> {
  let source = SourceText(path: path, text: text)
  return Set(allRules.flatMap { $0.check(source) }.map(\.rule))
}

/// A function of Swift whose first and last line are `lines` apart.
private func function(lines: Int) -> String {
  "/// Head.\nfunc long() {\n" + String(repeating: "  work()\n", count: lines - 2) + "}\n"
}

@Test func `a line of 101 columns is reported and one of 100 is not`() {
  #expect(broken("// " + String(repeating: "é", count: 98)) == ["line-length"])
  #expect(broken("// " + String(repeating: "é", count: 97)) == [])
}

@Test func `a file of 601 lines is reported and one of 600 is not`() {
  #expect(broken(String(repeating: "// line\n", count: 601)) == ["file-length"])
  #expect(broken(String(repeating: "// line\n", count: 600)) == [])
}

@Test func `a function of 71 lines is reported and one of 70 is not`() {
  #expect(broken(function(lines: 71)) == ["function-length"])
  #expect(broken(function(lines: 70)) == [])
}

@Test func `functions are measured by their own braces`() {
  let text = """
    /// Head.
    protocol Disk {
      func read(at: Int) -> Int
      init?(_ value: Int, then: () -> Void)
      var size: Int { get }
    }
    extension Disk {
      func find<T>(_ body: (T) -> Int = { _ in 0 }, _ text: String = "}") -> Int where T: Hashable {
        if true { return { 1 }() }  // }
        return 0
      }
      deinit { close() }
    }
    """
  let found = functions(in: SourceText(path: "Sources/Wire/Example.swift", text: text))
  #expect(found.map(\.name) == ["find", "deinit"])
  #expect(found.map(\.lineCount) == [4, 1])
}

@Test func `a long function in C is reported`() {
  let body = String(repeating: "  work();\n", count: 69)
  let text = "/* Head. */\nstatic int run(int a,\n    int b)\n{\n\(body)}\n"
  #expect(broken(text, in: "CShims/CUring/CUring.c") == ["function-length"])
}

@Test(arguments: bannedConstructs.indices)
func `each banned construct is reported where it is banned and nowhere else`(index: Int) {
  let banned = bannedConstructs[index]
  let rule = "no \(banned.word)"
  let snippet = "// Head.\nlet x = \(banned.word) y)\n"
  for target in banned.targets ?? ["Node", "Wire"] {
    #expect(broken(snippet, in: "Sources/\(target)/X.swift").contains(rule), "\(target)")
  }
  #expect(!broken(snippet, in: "Tests/WireTests/X.swift").contains(rule))
  if banned.targets != nil {
    #expect(!broken(snippet, in: "Sources/ashlaradm/X.swift").contains(rule))
  }
}

@Test func `words in comments and literals are not code`() {
  let text = ##"""
    /// An async class: any `await` here is prose. /* not nested */
    /* class /* async */ await */
    let a = "class \(b("async", c) + "any") await"
    let d = #"class " \(async) await"#
    let e = """
      class "" async
      """
    let company = anyone(classes)
    """##
  #expect(broken(text) == [])
}

@Test func `code inside an ended literal is seen again`() {
  #expect(broken("// Head.\nlet a = \"\\\\\"; class B {}") == ["no class"])
  #expect(broken("// Head.\nlet a = \"\\(b(\")\"))\"; class B {}") == ["no class"])
}

@Test func `an unchecked promise needs a comment right above`() {
  let bare = "// Head.\n\nstruct A: @unchecked Sendable {}\n"
  let reasoned =
    "// Head.\n\n// Only the reactor touches it.\n@safe\nstruct A: @unchecked Sendable {}\n"
  #expect(broken(bare) == ["unchecked-sendable"])
  #expect(broken(reasoned) == [])
}

@Test func `a build without checks is reported even in the manifest`() {
  #expect(broken("let flags = [\"-Ounchecked\"]", in: "Package.swift") == ["unchecked-build"])
}

@Test(arguments: ["TODO", "FIXME", "XXX", "HACK"])
func `work left over is reported`(word: String) {
  #expect(broken("// \(word): later") == ["left-over"])
  #expect(broken("# \(word)", in: "tools/test") == ["left-over"])
  #expect(broken("// \(word)ER is another word") == [])
}

@Test func `a word of another vocabulary is reported`() {
  #expect(broken("// the Slave node") == ["vocabulary"])
}

@Test func `a file without a head is reported`() {
  #expect(broken("import BlockTypes\n\nstruct A {}\n") == ["file-head"])
  #expect(broken("import BlockTypes\n\n/// A thing.\nstruct A {}\n") == [])
  #expect(broken("/// A thing.\nimport BlockTypes\n") == [])
}

@Test(arguments: [
  "import BlockIO", "public import BlockIO", "@testable import BlockIO",
  "import struct BlockIO.Ring",
])
func `an import that points outward is reported`(line: String) {
  #expect(broken("// Head.\n\(line)\n") == ["dependency"])
  #expect(broken("// Head.\n\(line)\n", in: "Sources/Exports/X.swift") == [])
}

@Test func `a target without a row is reported`() {
  #expect(broken("// Head.\n", in: "Sources/Helpers/X.swift") == ["dependency"])
}
