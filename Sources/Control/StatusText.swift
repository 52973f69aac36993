/// The text of `status`, in the shape of `drbdsetup status`: the resource, then its volumes, then
/// one paragraph a peer, and an empty line. `key:value`, so that scripts can split it.
///
/// What only Ashlar says: `reason:"..."` where a connection or disk is not as it should be, and
/// `rate:` (KiB/s) and `eta:` beside `done:` while a resync runs.

/// How much to show, and how.
public struct StatusTextOptions: Equatable, Sendable {
  /// Also what is as it should be.
  public var verbose = false
  /// Also counters.
  public var statistics = false
  /// Colours for a terminal.
  public var color = false
  /// Columns after which a line continues on the next.
  public var width = 80

  /// The short form without colours.
  public init(
    verbose: Bool = false, statistics: Bool = false, color: Bool = false, width: Int = 80
  ) {
    self.verbose = verbose
    self.statistics = statistics
    self.color = color
    self.width = width
  }
}

/// The text for `resources`, each followed by an empty line.
public func statusText(
  _ resources: [ResourceStatus], options: StatusTextOptions = StatusTextOptions()
) -> String {
  resources.map { resource in
    var writer = StatusWriter(options: options)
    writer.resource(resource)
    return writer.text + "\n"
  }.joined()
}

/// Collects the items of one resource and breaks lines.
private struct StatusWriter {
  let options: StatusTextOptions
  private(set) var text = ""
  private var column = 0
  private var isLineEmpty = true

  init(options: StatusTextOptions) { self.options = options }

  mutating func resource(_ resource: ResourceStatus) {
    begin(indent: 0, resource.name, .bold)
    if options.verbose { item("node-id:\(resource.nodeID)") }
    item("role:", resource.role.rawValue, Style(resource.role))
    let reasons = suspensions(resource)
    if options.verbose || resource.suspended {
      let isSuspended = resource.suspended
      let value = isSuspended && !reasons.isEmpty ? reasons.joined(separator: ",") : nil
      item("suspended:", value ?? (isSuspended ? "yes" : "no"), isSuspended ? .bad : nil)
    }
    if resource.forceIOFailures { item("force-io-failures:", "yes", .bad) }
    end()
    if options.verbose && options.statistics {
      begin(indent: 4, "write-ordering:\(resource.writeOrdering)", nil)
      end()
    }
    for device in resource.devices {
      self.device(device, isOnly: resource.devices.count == 1)
    }
    for connection in resource.connections {
      self.connection(connection, isOnly: resource.devices.count <= 1)
    }
  }

  private func suspensions(_ resource: ResourceStatus) -> [String] {
    [
      (resource.suspendedUser, "user"), (resource.suspendedNoData, "no-data"),
      (resource.suspendedFencing, "fencing"), (resource.suspendedQuorum, "quorum"),
    ].filter(\.0).map(\.1)
  }

  private mutating func device(_ device: DeviceStatus, isOnly: Bool) {
    begin(indent: 2)
    if options.verbose || !isOnly { item("volume:\(device.volume)", indent: 6) }
    if options.verbose { item("minor:\(device.minor)", indent: 6) }
    item("disk:", device.diskState.rawValue, Style(device.diskState), indent: 6)
    if device.client { item("client:yes", indent: 6) }
    if let reason = device.reason { item("reason:", quoted(reason), nil, indent: 6) }
    if options.verbose {
      if let disk = device.disk { item("backing_dev:\(disk)", indent: 6) }
      if let engine = device.engine { item("engine:\(engine)", indent: 6) }
      if let generation = device.generation { item("generation:\(generation)", indent: 6) }
      item("open:\(device.open ? "yes" : "no")", indent: 6)
    }
    if !device.quorum { item("quorum:", "no", .bad, indent: 6) }
    if options.statistics {
      end()
      begin(indent: 6)
      if options.verbose { item("size:\(device.size)", indent: 6) }
      item("read:\(device.read)", indent: 6)
      item("written:\(device.written)", indent: 6)
      if options.verbose {
        item("al-writes:\(device.activityLogWrites)", indent: 6)
        item("bm-writes:\(device.bitmapWrites)", indent: 6)
        item("upper-pending:\(device.upperPending)", indent: 6)
        item("lower-pending:\(device.lowerPending)", indent: 6)
        item("al-suspended:\(device.activityLogSuspended ? "yes" : "no")", indent: 6)
      }
    }
    if options.verbose || device.blocked != "no" {
      item("blocked:", device.blocked, device.blocked == "no" ? nil : .bad, indent: 6)
    }
    end()
  }

  private mutating func connection(_ connection: ConnectionStatus, isOnly: Bool) {
    begin(indent: 2, connection.name, .bold)
    if options.verbose { item("node-id:\(connection.peerNodeID)", indent: 6) }
    let isConnected = connection.connectionState == .connected
    if options.verbose || !isConnected {
      item(
        "connection:", connection.connectionState.rawValue, Style(connection.connectionState),
        indent: 6)
    }
    if options.verbose || isConnected || connection.peerRole != .unknown {
      item("role:", connection.peerRole.rawValue, Style(connection.peerRole), indent: 6)
    }
    if options.verbose || connection.congested {
      let value = connection.congested ? "yes" : "no"
      item("congested:", value, connection.congested ? .warning : nil, indent: 6)
    }
    if let reason = connection.reason { item("reason:", quoted(reason), nil, indent: 6) }
    if options.verbose, let decision = connection.decision {
      item("decision:", quoted(decision), nil, indent: 6)
    }
    end()
    if let split = connection.splitBrain { splitBrain(split) }
    if options.verbose { paths(connection.paths) }
    for device in connection.peerDevices {
      peerDevice(device, isConnected: isConnected, isOnly: isOnly)
    }
  }

  private mutating func splitBrain(_ split: SplitBrainStatus) {
    begin(indent: 4, "split-brain", .bold)
    item("common-generation:\(split.common?.text ?? "none")", indent: 8)
    end()
    for (name, side) in [("local", split.local), ("peer", split.peer)] {
      begin(indent: 6, name, nil)
      item("changed:\(side.changed.map(String.init) ?? "unknown")", indent: 8)
      item("since:\(side.since ?? "unknown")", indent: 8)
      if let author = side.generations.first?.author { item("by-node:\(author)", indent: 8) }
      item("generation:\(side.generations.last?.text ?? "none")", indent: 8)
      end()
    }
  }

  private mutating func paths(_ paths: [PathStatus]) {
    for path in paths {
      begin(indent: 4, "path:", nil)
      item("local:\(address(path.thisHost))", indent: 8)
      item("peer:\(address(path.remoteHost))", indent: 8)
      item("established:\(path.established ? "yes" : "no")", indent: 8)
      end()
    }
  }

  private func address(_ end: PathStatus.Endpoint) -> String {
    let host = end.family == "ipv6" ? "[\(end.address)]" : end.address
    return "\(end.family):\(host):\(end.port)"
  }

  private mutating func peerDevice(
    _ device: PeerDeviceStatus, isConnected: Bool, isOnly: Bool
  ) {
    let hasNews =
      isConnected || device.replicationState != .off || device.peerDiskState != .unknown
    guard options.verbose || options.statistics || hasNews else { return }
    begin(indent: 4)
    if options.verbose || !isOnly { item("volume:\(device.volume)", indent: 8) }
    if options.verbose || device.replicationState != .off {
      item(
        "replication:", device.replicationState.rawValue, Style(device.replicationState),
        indent: 8)
    }
    item("peer-disk:", device.peerDiskState.rawValue, Style(device.peerDiskState), indent: 8)
    if device.peerClient { item("peer-client:yes", indent: 8) }
    if device.replicationState.isSyncing { progress(of: device) }
    if device.hasOnlineVerifyDetails { verifyProgress(of: device) }
    if options.verbose || device.resyncSuspended != "no" {
      let isSuspended = device.resyncSuspended != "no"
      item("resync-suspended:", device.resyncSuspended, isSuspended ? .warning : nil, indent: 8)
    }
    end()
    guard options.statistics else { return }
    begin(indent: 8)
    item("received:\(device.received)", indent: 8)
    item("sent:\(device.sent)", indent: 8)
    item("out-of-sync:\(device.outOfSync)", indent: 8)
    if options.verbose {
      item("pending:\(device.pending)", indent: 8)
      item("unacked:\(device.unacked)", indent: 8)
    }
    end()
  }

  private mutating func verifyProgress(of device: PeerDeviceStatus) {
    item("done:\(hundredths(device.percentResyncDone ?? 0))", indent: 8)
    if let rate = device.resyncRate { item("rate:\(rate)", indent: 8) }
    if let seconds = device.estimatedSecondsToFinish {
      item("eta:\(hoursMinutesSeconds(seconds))", indent: 8)
    }
  }

  private mutating func progress(of device: PeerDeviceStatus) {
    guard let progress = SyncProgress(device) else { return }
    let computed = Double(progress.permille) / 10
    item("done:\(hundredths(device.percentResyncDone ?? computed))", indent: 8)
    guard device.resyncRate != nil else { return }
    item("rate:\(progress.rate)", indent: 8)
    if let seconds = progress.secondsToGo {
      item("eta:\(hoursMinutesSeconds(seconds))", indent: 8)
    }
  }
}

/// What a colour says. The numbers are ANSI's.
private enum Style: String {
  case bold = "1"
  case good = "32"
  case warning = "33"
  case bad = "31"
  case primary = "1;32"

  init?(_ role: RoleName) {
    switch role {
    case .primary: self = .primary
    case .secondary: return nil
    case .unknown: self = .bad
    }
  }

  init(_ state: DiskStateName) {
    switch state {
    case .upToDate: self = .good
    case .attaching, .negotiating, .consistent, .detaching: self = .warning
    case .diskless, .failed, .inconsistent, .outdated, .unknown: self = .bad
    }
  }

  init(_ state: ConnectionStateName) {
    switch state {
    case .connected: self = .good
    case .connecting, .unconnected: self = .warning
    case .standAlone, .disconnecting, .timeout, .brokenPipe, .networkFailure, .protocolError,
      .tearDown:
      self = .bad
    }
  }

  init(_ state: ReplicationStateName) {
    self = state == .established ? .good : .warning
  }
}

extension StatusWriter {
  private func styled(_ text: String, _ style: Style?) -> String {
    guard options.color, let style, !text.isEmpty else { return text }
    return "\u{1B}[\(style.rawValue)m\(text)\u{1B}[0m"
  }

  /// A value that may hold blanks, as one word for scripts that know quotes.
  private func quoted(_ value: String) -> String {
    let sound = value.map { character -> String in
      switch character {
      case "\"", "\\": "\\\(character)"
      case let character where character.unicodeScalars.allSatisfy { $0.value >= 0x20 }:
        String(character)
      default: " "
      }
    }
    return "\"\(sound.joined())\""
  }

  /// Starts a line, with a first word that never wraps.
  private mutating func begin(indent: Int, _ word: String = "", _ style: Style? = nil) {
    text += String(repeating: " ", count: indent) + styled(word, style)
    column = indent + word.count
    isLineEmpty = word.isEmpty
  }

  private mutating func item(_ word: String, indent: Int = 4) {
    item(word, "", nil, indent: indent)
  }

  /// Appends `key` and `value`; on the next line, indented, where they would pass the width.
  private mutating func item(
    _ key: String, _ value: String, _ style: Style?, indent: Int = 4
  ) {
    let width = key.count + value.count
    if !isLineEmpty {
      if column + 1 + width > options.width {
        text += "\n" + String(repeating: " ", count: indent)
        column = indent
      } else {
        text += " "
        column += 1
      }
    }
    text += key + styled(value, style)
    column += width
    isLineEmpty = false
  }

  private mutating func end() {
    text += "\n"
    column = 0
  }
}
