/// The guide names every statement the parser knows: an option nobody can find does not exist.

import Foundation
import Testing

@testable import Configuration

@Suite struct DocumentationTests {
  @Test func everyStatementIsDocumented() throws {
    let root = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
      .deletingLastPathComponent()
    let guide = try String(
      contentsOf: root.appending(path: "docs/configuration.md"), encoding: .utf8)
    let vocabularies: [Vocabulary] = [
      .topLevel, .global, .common, .resource, .host, .volume, .connectionMesh, .net, .disk,
      .options,
    ]
    for vocabulary in vocabularies {
      for word in vocabulary.words where !word.hasPrefix("require-drbd") {
        let isFamily = word.hasPrefix("cmd-timeout-")
        #expect(
          isFamily || guide.contains("`\(word)") || guide.contains("\(word) "),
          "'\(word)' of section '\(vocabulary.section)'")
      }
    }
    #expect(guide.contains("1-600"))
  }
}
