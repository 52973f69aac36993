/// What `/proc/drbd` of DRBD 8.4 would show, because a generation of scripts reads it.

/// The text for all resources of a node, with its last line feed.
///
/// - Parameters:
///   - version: Ashlar's own version.
///   - protocolVersion: of the peer protocol.
public func procText(
  _ resources: [ResourceStatus], version: String, protocolVersion: Int
) -> String {
  var text = "version: \(version) (api:1/proto:\(protocolVersion)-\(protocolVersion))\n"
  for resource in resources {
    for device in resource.devices {
      text += procLines(resource, device)
    }
  }
  return text
}

private func procLines(_ resource: ResourceStatus, _ device: DeviceStatus) -> String {
  // DRBD 8.4 knew one peer: the first connection stands for it.
  let connection = resource.connections.first
  let peer = connection?.peerDevices.first { $0.volume == device.volume }
  let replication = peer?.replicationState ?? .off
  let state = connection?.connectionState ?? .standAlone
  let minor = device.minor < 10 ? " \(device.minor)" : "\(device.minor)"
  // Without a network configuration there is no protocol to name.
  let letter = state == .standAlone ? " " : "C"
  var text = "\(minor): cs:\(legacyConnectionState(state, replication))"
  text += " ro:\(resource.role.rawValue)/\((connection?.peerRole ?? .unknown).rawValue)"
  text += " ds:\(device.diskState.rawValue)/\((peer?.peerDiskState ?? .unknown).rawValue)"
  text += " \(letter) \(flags(resource, device, peer))\n"
  text += "    ns:\(peer?.sent ?? 0) nr:\(peer?.received ?? 0)"
  text += " dw:\(device.written) dr:\(device.read)"
  text += " al:\(device.activityLogWrites) bm:\(device.bitmapWrites)"
  text += " lo:\(device.lowerPending) pe:\(peer?.pending ?? 0) ua:\(peer?.unacked ?? 0)"
  text += " ap:\(device.upperPending) ep:1 wo:\(resource.writeOrdering.prefix(1))"
  text += " oos:\(peer?.outOfSync ?? 0)\n"
  if let peer, replication == .syncSource || replication == .syncTarget,
    let progress = SyncProgress(peer)
  {
    text += progressLines(progress, want: replication == .syncTarget ? peer.want : nil)
  }
  return text
}

/// `r-----`: running or suspended; waiting for another resync; paused by the peer; by the user;
/// blocked; activity log suspended.
private func flags(
  _ resource: ResourceStatus, _ device: DeviceStatus, _ peer: PeerDeviceStatus?
) -> String {
  let pausedBy = (peer?.resyncSuspended ?? "no").split(separator: ",")
  var text = resource.suspended ? "s" : "r"
  text += pausedBy.contains("dependency") ? "a" : "-"
  text += pausedBy.contains("peer") ? "p" : "-"
  text += pausedBy.contains("user") ? "u" : "-"
  text += device.blocked == "no" ? "-" : "b"
  text += device.activityLogSuspended ? "s" : "-"
  return text
}

private func progressLines(_ progress: SyncProgress, want: UInt64?) -> String {
  let permille = progress.permille
  // The kernel's arithmetic, so that the bar is the same: 19 or 20 columns and the arrow.
  let steps = Int(permille / 50)
  let bar =
    String(repeating: "=", count: max(0, steps - 1)) + ">"
    + String(repeating: ".", count: 20 - steps)
  let percent = "\(permille / 10).\(permille % 10)%"
  let padding = String(repeating: " ", count: max(0, 6 - percent.count))
  // Above 4 GiB the amounts are MiB.
  let unit: (UInt64, String) = progress.totalKiB > 4 << 20 ? (1024, "M") : (1, "K")
  var text = "\t[\(bar)] sync'ed:\(padding)\(percent)"
  text += " (\(progress.leftKiB / unit.0)/\(progress.totalKiB / unit.0))\(unit.1)\n"
  let finish = progress.secondsToGo.map(hoursMinutesSeconds) ?? "stalled"
  text += "\tfinish: \(finish) speed: \(grouped(progress.rate)) (\(grouped(progress.averageRate)))"
  if let want { text += " want: \(grouped(want))" }
  return text + " K/sec\n"
}
