/// The lines of `events2`, in the grammar of `drbdsetup events2`: `VERB OBJECT key:value ...`.
///
/// What only Ashlar says comes last on a line and is quoted: `reason:"..."`, `decision:"..."`.

/// The lines that list a resource: `exists`, `create`, or `destroy` in reverse order.
public func eventLines(_ verb: String, _ resource: ResourceStatus) -> [String] {
  let isEnd = verb == "destroy"
  var lines = [
    "\(verb) resource name:\(resource.name)"
      + (isEnd
        ? "" : " role:\(resource.role.rawValue) suspended:\(resource.suspended ? "yes" : "no")")
  ]
  for connection in resource.connections {
    lines.append(
      "\(verb) connection \(key(resource, connection))"
        + (isEnd
          ? ""
          : " connection:\(connection.connectionState.rawValue)"
            + " role:\(connection.peerRole.rawValue)" + quotedItem("reason", connection.reason)))
  }
  for device in resource.devices {
    lines.append(
      "\(verb) device name:\(resource.name) volume:\(device.volume) minor:\(device.minor)"
        + (isEnd ? "" : " disk:\(device.diskState.rawValue)"))
  }
  for connection in resource.connections {
    for device in connection.peerDevices {
      lines.append(
        "\(verb) peer-device \(key(resource, connection)) volume:\(device.volume)"
          + (isEnd
            ? ""
            : " replication:\(device.replicationState.rawValue)"
              + " peer-disk:\(device.peerDiskState.rawValue)"
              + " resync-suspended:\(device.resyncSuspended)"))
    }
  }
  return isEnd ? lines.reversed() : lines
}

/// `reason:"..."`, with a blank in front; nothing when there is no text.
public func quotedItem(_ name: String, _ text: String?) -> String {
  guard let text, !text.isEmpty else { return "" }
  let sound = text.map { character -> String in
    switch character {
    case "\"", "\\": "\\\(character)"
    case "\n", "\r", "\t": " "
    default: String(character)
    }
  }
  return " \(name):\"\(sound.joined())\""
}

/// The resource that a line is about.
public func resourceName(ofEvent line: String) -> Substring? {
  line.split(separator: " ").first { $0.hasPrefix("name:") }?.dropFirst(5)
}

private func key(_ resource: ResourceStatus, _ connection: ConnectionStatus) -> String {
  "name:\(resource.name) peer-node-id:\(connection.peerNodeID) conn-name:\(connection.name)"
}
