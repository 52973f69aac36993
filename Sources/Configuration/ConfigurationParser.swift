/// A configuration file and its includes -> a validated `Configuration`, or the first error.
///
/// Files are read in full before a resource is built, so that `common` counts wherever it stands.

import BlockTypes

extension Configuration {
  /// Reads and validates the file at `path` and everything it includes.
  ///
  /// - Throws: `ConfigurationError`, naming file, line and column of the first thing that is wrong.
  public static func load(
    path: String, files: some ConfigurationFiles = SystemConfigurationFiles()
  ) throws(ConfigurationError) -> Configuration {
    var loader = Loader()
    try loader.read(path, from: files, includedAt: nil, stack: [])
    return try loader.configuration(file: path)
  }

  /// Validates the text of one file. An `include` in it is looked up from `file`'s directory.
  public static func parse(
    text: String, file: String
  ) throws(ConfigurationError) -> Configuration {
    try load(path: file, files: OneFile(path: file, content: Array(text.utf8)))
  }
}

/// One text in memory; everything else comes from the file system.
private struct OneFile: ConfigurationFiles {
  let path: String
  let content: [UInt8]

  func read(_ path: String) -> Result<[UInt8], ConfigurationFileError> {
    path == self.path ? .success(content) : SystemConfigurationFiles().read(path)
  }

  func expand(_ pattern: String) -> [String] { SystemConfigurationFiles().expand(pattern) }
}

/// The statements of all files, sorted by kind.
private struct Loader {
  private var globalOptions = GlobalOptions()
  private var globalPosition: SourcePosition?
  private var common = CommonSections()
  private var commonPosition: SourcePosition?
  private var resources: [Statement] = []
  private var warnings = WarningList()
  private var fileCount = 0
  private var byteCount = 0

  mutating func read(
    _ path: String, from files: some ConfigurationFiles, includedAt: SourcePosition?,
    stack: [String]
  ) throws(ConfigurationError) {
    let place = includedAt ?? SourcePosition(file: path, line: 1, column: 1)
    fileCount += 1
    guard fileCount <= Limits.files else {
      throw .limitExceeded("configuration files", limit: Limits.files, at: place)
    }
    guard stack.count < Limits.includeDepth else {
      throw .limitExceeded("nested includes", limit: Limits.includeDepth, at: place)
    }
    guard !stack.contains(path) else { throw .includeCycle(path: path, at: place) }
    let content: [UInt8]
    switch files.read(path) {
    case .success(let bytes): content = bytes
    case .failure(let error):
      throw .cannotRead(path: path, reason: error.reason, includedAt: includedAt)
    }
    if files.isReadableByAll(path) { warnings.openFiles.insert(path) }
    byteCount += content.count
    guard byteCount <= Limits.totalBytes else {
      throw .limitExceeded("bytes of configuration", limit: Limits.totalBytes, at: place)
    }
    var parser = try StatementParser(text: content, file: path)
    for statement in try parser.statements() {
      if statement.keyword.text == "include" {
        try include(statement, of: path, from: files, stack: stack + [path])
      } else {
        try take(statement)
      }
    }
  }

  private mutating func include(
    _ statement: Statement, of path: String, from files: some ConfigurationFiles,
    stack: [String]
  ) throws(ConfigurationError) {
    let pattern = try statement.onlyValue("a file name or pattern")
    let directory = path.lastIndex(of: "/").map { String(path[...$0]) } ?? ""
    let full = pattern.text.hasPrefix("/") ? pattern.text : directory + pattern.text
    let isPattern = full.contains { "*?[".contains($0) }
    // As in DRBD, a pattern may match nothing; a plain name must exist.
    let paths = isPattern ? files.expand(full) : [full]
    for path in paths {
      try read(path, from: files, includedAt: statement.keyword.position, stack: stack)
    }
  }

  private mutating func take(_ statement: Statement) throws(ConfigurationError) {
    let keyword = statement.keyword
    switch keyword.text {
    case "global":
      try once(&globalPosition, keyword)
      try statement.requireArguments(atMost: 0)
      let section = try Vocabulary.global.read(try statement.section(), warnings: &warnings)
      globalOptions.usageCount = section.entries["usage-count"]?.value.text
    case "common":
      try once(&commonPosition, keyword)
      try statement.requireArguments(atMost: 0)
      for inner in try statement.section() {
        if try common.read(inner, warnings: &warnings) { continue }
        try Vocabulary.common.judge(inner, warnings: &warnings)
      }
    case "resource":
      guard resources.count < Limits.resources else {
        throw .limitExceeded("resources", limit: Limits.resources, at: keyword.position)
      }
      resources.append(statement)
    case "skip":
      // `skip resource r1 { ... }`: the words must be well-formed, their meaning is ignored.
      break
    default:
      try Vocabulary.topLevel.judge(statement, warnings: &warnings)
    }
  }

  private func once(
    _ place: inout SourcePosition?, _ keyword: Token
  ) throws(ConfigurationError) {
    if let first = place {
      throw .conflict(
        kind: "section", what: keyword.text, at: keyword.position, firstUsedAt: first)
    }
    place = keyword.position
  }

  mutating func configuration(file: String) throws(ConfigurationError) -> Configuration {
    // On its own too, so that a mistake in `common` shows before the first resource exists.
    _ = try NetOptions(try common.netWithProtocol())
    _ = try DiskOptions(common.disk)
    var usage = Usage()
    var result: [ResourceConfiguration] = []
    for statement in resources {
      result.append(
        try ResourceSection(statement, warnings: &warnings)
          .configuration(common: common, usage: &usage))
    }
    try usage.resyncOrder.check(result)
    return Configuration(
      globalOptions: globalOptions, resources: result, warnings: warnings.warnings, file: file)
  }
}

/// What has been used once and must not be used again.
struct Usage {
  private struct Key: Hashable {
    var kind: String
    var what: String
  }

  private var first: [Key: SourcePosition] = [:]
  var resyncOrder = ResyncOrder()

  /// Notes a use; throws when there was one before. `kind` and `what` appear in the error.
  mutating func claim(
    _ kind: String, _ what: String, at position: SourcePosition
  ) throws(ConfigurationError) {
    let key = Key(kind: kind, what: what)
    if let earlier = first.updateValue(position, forKey: key) {
      throw .conflict(kind: kind, what: what, at: position, firstUsedAt: earlier)
    }
  }
}
