/// One `resource` section -> `ResourceConfiguration`, given what `common` says.

import BlockTypes

/// The option sections that `common` and `resource` share.
struct CommonSections: Equatable, Sendable {
  var net = OptionSection()
  var disk = OptionSection()
  var options = OptionSection()
  var handlers = OptionSection()
  /// Where each of the sections was opened first, to refuse a second one.
  private var opened: [String: SourcePosition] = [:]
  /// `protocol` at the level of the resource: 8.3's spelling, still widely used.
  private var outerProtocol: OptionSection.Entry?

  /// Reads `statement` if it is one of these sections; false when it is something else.
  mutating func read(
    _ statement: Statement, warnings: inout WarningList
  ) throws(ConfigurationError) -> Bool {
    let keyword = statement.keyword
    switch keyword.text {
    case "protocol":
      try once(keyword)
      outerProtocol = OptionSection.Entry(keyword: keyword, value: try statement.onlyValue())
      return true
    case "net", "disk", "options", "startup", "handlers":
      guard statement.block != nil || keyword.text != "disk" else { return false }
      try once(keyword)
      try statement.requireArguments(atMost: 0)
      let block = try statement.section()
      switch keyword.text {
      case "net": net = try Vocabulary.net.read(block, warnings: &warnings)
      case "disk": disk = try Vocabulary.disk.read(block, warnings: &warnings)
      case "options": options = try Vocabulary.options.read(block, warnings: &warnings)
      case "startup": _ = try Vocabulary.startup.read(block, warnings: &warnings)
      default: handlers = try Vocabulary.handlers.read(block, warnings: &warnings)
      }
      return true
    default:
      return false
    }
  }

  /// `net` with the outer `protocol` in it.
  func netWithProtocol() throws(ConfigurationError) -> OptionSection {
    var result = net
    if let outerProtocol {
      try result.add(outerProtocol.keyword, value: outerProtocol.value)
    }
    return result
  }

  private mutating func once(_ keyword: Token) throws(ConfigurationError) {
    let name = keyword.text
    if let first = opened.updateValue(keyword.position, forKey: name) {
      throw .conflict(
        kind: "section", what: name, at: keyword.position, firstUsedAt: first)
    }
  }
}

/// What one place says about a volume; `nil` where it says nothing.
struct VolumeDraft: Equatable, Sendable {
  var position: SourcePosition
  var disk: Token?
  var metaDisk: Token?
  var device: Token?

  /// Reads one of the volume's statements; false when it is something else.
  mutating func read(_ statement: Statement) throws(ConfigurationError) -> Bool {
    switch statement.keyword.text {
    case "disk":
      guard statement.block == nil else {
        throw .unsupported(
          "disk {", alternative: "write it at the level of the resource",
          at: statement.keyword.position)
      }
      try set(\.disk, statement.keyword, try statement.onlyValue("a path"))
    case "meta-disk", "flexible-meta-disk":
      try set(\.metaDisk, statement.keyword, try statement.onlyValue("internal | a path"))
    case "device":
      // `device /dev/drbd0 minor 0;`, `device minor 0;`, `device /dev/drbd0;`
      try statement.requireNoBlock()
      try statement.requireArguments(atMost: 3)
      try set(\.device, statement.keyword, statement.keyword)
    default:
      return false
    }
    return true
  }

  private mutating func set(
    _ field: WritableKeyPath<VolumeDraft, Token?>, _ keyword: Token, _ value: Token
  ) throws(ConfigurationError) {
    if let first = self[keyPath: field] {
      throw .conflict(
        kind: "statement", what: keyword.text, at: keyword.position, firstUsedAt: first.position)
    }
    self[keyPath: field] = value
  }

  /// This draft where it says something, `outer` elsewhere.
  func merged(over outer: VolumeDraft?) -> VolumeDraft {
    var result = self
    result.disk = disk ?? outer?.disk
    result.metaDisk = metaDisk ?? outer?.metaDisk
    result.device = device ?? outer?.device
    return result
  }
}

/// The volumes that one section names. Statements without `volume` belong to volume 0.
struct VolumeDrafts: Equatable, Sendable {
  private(set) var byNumber: [UInt16: VolumeDraft] = [:]
  private var explicit: [UInt16: SourcePosition] = [:]

  /// Reads a `volume` section or an old-style statement; false when it is something else.
  mutating func read(_ statement: Statement) throws(ConfigurationError) -> Bool {
    let keyword = statement.keyword
    guard keyword.text == "volume" else {
      var draft = byNumber[0] ?? VolumeDraft(position: keyword.position)
      guard try draft.read(statement) else { return false }
      if let first = explicit[0] {
        throw .conflict(kind: "volume", what: "0", at: keyword.position, firstUsedAt: first)
      }
      byNumber[0] = draft
      return true
    }
    let number = try Self.number(of: statement)
    if let first = explicit.updateValue(keyword.position, forKey: number) {
      throw .conflict(
        kind: "volume", what: "\(number)", at: keyword.position, firstUsedAt: first)
    }
    if let old = byNumber[number] {
      throw .conflict(
        kind: "volume", what: "\(number)", at: keyword.position, firstUsedAt: old.position)
    }
    var draft = VolumeDraft(position: keyword.position)
    for inner in try statement.section() {
      guard try draft.read(inner) else { throw Vocabulary.volume.unknown(inner.keyword) }
    }
    byNumber[number] = draft
    return true
  }

  private static func number(of statement: Statement) throws(ConfigurationError) -> UInt16 {
    guard let token = statement.arguments.first else {
      throw .unexpected(
        expected: "a volume number", got: statement.end.text, suggestion: nil,
        at: statement.end.position)
    }
    try statement.requireArguments(atMost: 1)
    let number = try token.number(keyword: "volume", in: 0...65534, unit: "")
    guard number == 0 else {
      throw .unsupported(
        "volume \(number)", alternative: "only volume 0 for now; make one resource for each",
        at: token.position)
    }
    return UInt16(number)
  }
}

/// A `resource` section, read but not yet merged with `common`.
struct ResourceSection: Sendable {
  private var name: Token
  private var keyword: Token
  private var sections = CommonSections()
  private var hosts: [HostDraft] = []
  private var volumes = VolumeDrafts()
  private var mesh: [Token]?

  init(_ statement: Statement, warnings: inout WarningList) throws(ConfigurationError) {
    keyword = statement.keyword
    guard let name = statement.arguments.first else {
      throw .unexpected(
        expected: "a resource name", got: statement.end.text, suggestion: nil,
        at: statement.end.position)
    }
    self.name = name
    try statement.requireArguments(atMost: 1)
    try checkName(name, kind: "resource name")
    guard name.text != "all" else {
      throw .badValue(
        keyword: "resource name", value: "all",
        expected: "another name: 'all' stands for every resource", suggestion: nil,
        at: name.position)
    }
    for inner in try statement.section() {
      try read(inner, warnings: &warnings)
    }
    try warnAboutDevice(&warnings)
  }

  private mutating func read(
    _ statement: Statement, warnings: inout WarningList
  ) throws(ConfigurationError) {
    switch statement.keyword.text {
    case "on":
      let host = try HostDraft(statement, warnings: &warnings)
      if let first = hosts.first(where: { $0.name.text == host.name.text }) {
        throw .conflict(
          kind: "section", what: "on \(host.name.text)", at: host.name.position,
          firstUsedAt: first.name.position)
      }
      hosts.append(host)
    case "connection-mesh":
      for inner in try statement.section() {
        guard inner.keyword.text == "hosts" else {
          try Vocabulary.connectionMesh.judge(inner, warnings: &warnings)
          continue
        }
        try inner.requireNoBlock()
        mesh = (mesh ?? []) + inner.arguments
      }
    default:
      if try sections.read(statement, warnings: &warnings) { return }
      if try volumes.read(statement) { return }
      try Vocabulary.resource.judge(statement, warnings: &warnings)
    }
  }

  /// Once a resource: every file written for DRBD has a `device` on each host.
  private func warnAboutDevice(_ warnings: inout WarningList) throws(ConfigurationError) {
    let drafts = [volumes.byNumber[0]] + hosts.map { $0.volumes.byNumber[0] }
    guard let device = drafts.lazy.compactMap({ $0?.device }).first else { return }
    warnings.add(
      "'device' has no effect: clients use NBD, see 'ashlaradm sh-dev \(name.text)'",
      at: device.position)
  }

  /// The validated resource.
  func configuration(
    common: CommonSections, usage: inout Usage
  ) throws(ConfigurationError) -> ResourceConfiguration {
    try usage.claim("resource section", name.text, at: keyword.position)
    try checkHosts()
    let net = try sections.netWithProtocol().merged(over: try common.netWithProtocol())
    let options = sections.options.merged(over: common.options)
    let disk = sections.disk.merged(over: common.disk)
    usage.resyncOrder.add(name.text, disk)
    let ids = try nodeIDs()
    var configurations: [HostConfiguration] = []
    for (host, id) in zip(hosts, ids) {
      configurations.append(try configuration(of: host, id: id, usage: &usage))
    }
    var result = ResourceConfiguration(
      name: name.text, net: try NetOptions(net),
      disk: try DiskOptions(disk),
      options: try ResourceOptions(options, hostCount: hosts.count), hosts: configurations,
      file: keyword.position.file, line: keyword.position.line)
    try result.net.checkAuthentication(net)
    let handlers = sections.handlers.merged(over: common.handlers)
    for (name, entry) in handlers.entries { result.handlers[name] = entry.value.text }
    if case .discardNode(let victim) = result.net.afterSplitBrainNoPrimary,
      result.host(named: victim) == nil, let entry = net.entries["after-sb-0pri"]
    {
      let names = hosts.map { "discard-node-\($0.name.text)" }
      throw .badValue(
        keyword: "after-sb-0pri", value: entry.value.text,
        expected: names.joined(separator: " | "),
        suggestion: nearestWord(to: entry.value.text, among: names), at: entry.value.position)
    }
    return result
  }

  private func checkHosts() throws(ConfigurationError) {
    guard hosts.count >= 2 else {
      let what = hosts.isEmpty ? "on <HOST>" : "on <PEER>"
      throw .missing(
        "section '\(what) { ... }'", inside: "resource \(name.text)", at: keyword.position)
    }
    guard hosts.count == 2 else {
      throw .unsupported(
        "on \(hosts[2].name.text)", alternative: "two hosts a resource for now",
        at: hosts[2].name.position)
    }
    guard let mesh else { return }
    let names = hosts.map(\.name.text)
    for token in mesh where !names.contains(token.text) {
      throw .badValue(
        keyword: "hosts", value: token.text, expected: names.joined(separator: " | "),
        suggestion: nearestWord(to: token.text, among: names), at: token.position)
    }
  }

  /// The node ids as written; the lowest free ones, in the order of the hosts, where they are not.
  private func nodeIDs() throws(ConfigurationError) -> [NodeID] {
    var taken: [NodeID: SourcePosition] = [:]
    for host in hosts {
      guard let (id, position) = host.nodeID else { continue }
      if let first = taken.updateValue(position, forKey: id) {
        throw .conflict(
          kind: "node-id", what: "\(id.value)", at: position, firstUsedAt: first)
      }
    }
    var free = (0...UInt64(NodeID.max)).lazy.compactMap { NodeID($0) }
      .filter { taken[$0] == nil }.makeIterator()
    return hosts.compactMap { $0.nodeID?.id ?? free.next() }
  }

  private func configuration(
    of host: HostDraft, id: NodeID, usage: inout Usage
  ) throws(ConfigurationError) -> HostConfiguration {
    let inside = "resource \(name.text), on \(host.name.text) { ... }"
    guard let (address, addressPosition) = host.address else {
      throw .missing("address", inside: inside, at: host.name.position)
    }
    try usage.claim("IP", address.description, at: addressPosition)
    let draft =
      host.volumes.byNumber[0]?.merged(over: volumes.byNumber[0]) ?? volumes.byNumber[0]
    guard let draft, let disk = draft.disk else {
      throw .missing("disk", inside: inside, at: draft?.position ?? host.name.position)
    }
    let diskPath = try path(disk, keyword: "disk")
    try usage.claim("disk", "disk:\(host.name.text):\(diskPath)", at: disk.position)
    var metaDisk = MetaDisk.internal
    if let token = draft.metaDisk, token.text != "internal" {
      let path = try path(token, keyword: "meta-disk")
      try usage.claim("disk", "disk:\(host.name.text):\(path)", at: token.position)
      metaDisk = .external(path: path)
    }
    return HostConfiguration(
      name: host.name.text, nodeID: id, address: address,
      volumes: [VolumeConfiguration(number: 0, disk: diskPath, metaDisk: metaDisk)])
  }

  private func path(_ token: Token, keyword: String) throws(ConfigurationError) -> String {
    let text = token.text
    if text == "none" || text == "\"none\"" {
      throw .unsupported(
        "\(keyword) none", alternative: "diskless nodes come later; name a disk",
        at: token.position)
    }
    if keyword == "meta-disk" && text.hasSuffix("]") {
      throw .unsupported(
        "\(keyword) \(text)", alternative: "give every volume a device or file of its own",
        at: token.position)
    }
    guard text.hasPrefix("/"), text.utf8.count < 4096 else {
      let expected = keyword == "disk" ? "an absolute path" : "'internal' or an absolute path"
      throw .badValue(
        keyword: keyword, value: text, expected: expected,
        suggestion: keyword == "disk" ? nil : nearestWord(to: text, among: ["internal"]),
        at: token.position)
    }
    return text
  }
}
