/// Histories in words and numbers: `get-gi`, `show-gi` and `split-brain`.

/// The line of `get-gi`, in the form of DRBD 8.4: current generation, base of the bitmap, two older
/// generations, and seven flags: consistent, up to date, Primary, connected, full resync needed,
/// peer outdated or inconsistent, crashed.
public func generationLine(_ resource: ResourceStatus, _ device: DeviceStatus) -> String {
  let ids = (device.lineage ?? []).reversed().map(\.id)
  let none = String(repeating: "0", count: 16)
  let connection = resource.connections.first
  let peer = connection?.peerDevices.first { $0.volume == device.volume }
  let isConsistent = [.upToDate, .consistent, .outdated].contains(device.diskState)
  let isPeerOld = [.outdated, .inconsistent].contains(peer?.peerDiskState)
  let flags = [
    isConsistent, device.diskState == .upToDate, resource.role == .primary,
    connection?.connectionState == .connected, ids.isEmpty, isPeerOld, device.crashed == true,
  ]
  let words =
    [ids.first ?? none, peer?.base?.id ?? none] + (1...2).map { $0 < ids.count ? ids[$0] : none }
  return (words + flags.map { $0 ? "1" : "0" }).joined(separator: ":")
}

/// The text of `show-gi`: the history of the data as a table, newest first.
public func generationTable(_ resource: ResourceStatus, _ device: DeviceStatus) -> String {
  var lines = [
    "\(resource.name)/\(device.volume): \(device.diskState.rawValue), \(resource.role.rawValue)"
      + (device.crashed == true ? ", crashed and not compared with its peer since" : "")
  ]
  let generations = device.lineage ?? []
  if generations.isEmpty { lines.append("  no generation: valid data was never held") }
  for (index, generation) in generations.reversed().enumerated() {
    lines.append(
      "  " + columns(generation) + " by \(nodeName(generation.author, resource))"
        + (index == 0 ? "  <- current" : ""))
  }
  for connection in resource.connections {
    let peer = connection.peerDevices.first { $0.volume == device.volume }
    if let base = peer?.base {
      lines.append(
        "  for \(connection.name): changes are counted since generation \(base.text), "
          + "\(peer?.outOfSync ?? 0) KiB")
    } else {
      lines.append("  for \(connection.name): it shares the current generation")
    }
  }
  return lines.joined(separator: "\n") + "\n"
}

/// The text of `split-brain`.
///
/// - Parameter isLossOnly: only what either choice would lose.
public func splitBrainText(_ resource: ResourceStatus, isLossOnly: Bool = false) -> String {
  var lines: [String] = []
  for connection in resource.connections {
    guard let split = connection.splitBrain else {
      let decision = connection.decision.map { "; last meeting: \($0)" } ?? ""
      lines.append("\(resource.name): no split brain with \(connection.name) is known\(decision)")
      continue
    }
    if !isLossOnly { lines += story(resource, connection, split) }
    lines += losses(resource, connection, split)
  }
  return lines.joined(separator: "\n") + "\n"
}

private func story(
  _ resource: ResourceStatus, _ connection: ConnectionStatus, _ split: SplitBrainStatus
) -> [String] {
  var lines = ["\(resource.name): split brain with \(connection.name)"]
  if let common = split.common {
    lines.append("  both were the same at")
    lines.append("    " + columns(common) + " by \(nodeName(common.author, resource))")
  }
  for (name, side) in [("this node", split.local), (connection.name, split.peer)] {
    lines.append("  since then \(name) (\(side.role.rawValue), \(side.disk.rawValue)) wrote alone:")
    lines += side.generations.map {
      "    " + columns($0) + " by \(nodeName($0.author, resource))"
    }
    lines.append(
      "    \(side.changed.map { "\($0) KiB in blocks that changed" } ?? "an unknown amount")")
  }
  return lines
}

private func losses(
  _ resource: ResourceStatus, _ connection: ConnectionStatus, _ split: SplitBrainStatus
) -> [String] {
  func amount(_ side: SideHistoryStatus) -> String {
    let since = side.since.map { " since \($0)" } ?? ""
    return (side.changed.map { "\($0) KiB" } ?? "everything it wrote alone") + since
  }
  let copies =
    split.bitmapsCover
    ? "about \((split.local.changed ?? 0) + (split.peer.changed ?? 0)) KiB are copied"
    : "the whole volume is copied"
  let name = resource.name
  return [
    "  to keep the data of \(connection.name), losing \(amount(split.local)) written here "
      + "(\(copies)):",
    "    here:     ashlaradm secondary \(name); "
      + "ashlaradm connect --discard-my-data \(name)",
    "    \(connection.name): ashlaradm connect \(name)",
    "  to keep the data of this node, losing \(amount(split.peer)) written on "
      + "\(connection.name) (\(copies)):",
    "    \(connection.name): ashlaradm secondary \(name); "
      + "ashlaradm connect --discard-my-data \(name)",
    "    here:     ashlaradm connect \(name)",
  ]
}

private func columns(_ generation: GenerationStatus) -> String {
  let number = "\(generation.number)"
  let indent = String(repeating: " ", count: max(0, 6 - number.count))
  return "\(indent)\(number)  \(generation.id)  \(generation.began ?? "time unknown        ")"
}

private func nodeName(_ id: Int, _ resource: ResourceStatus) -> String {
  if id == resource.nodeID { return "this node" }
  return resource.connections.first { $0.peerNodeID == id }?.name ?? "node \(id)"
}
