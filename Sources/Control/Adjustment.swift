/// What `adjust` must do: the least requests that bring a running resource to what the file says.

import BlockTypes
public import Configuration

/// Why a change cannot be made to a running resource.
public struct AdjustmentError: Error, Equatable, Sendable {
  /// The reason and what to do instead.
  public let text: String
}

/// The requests that bring `running` to `wanted`, in order; none when nothing differs.
///
/// - Parameters:
///   - wanted: what the file says.
///   - running: what the daemon runs; `nil` when the resource is not up.
///   - status: the resource's state; `nil` when the resource is not up.
///   - node: this node's name; it has an `on` section in `wanted`.
public func adjustment(
  wanted: ResourceConfiguration, running: ResourceConfiguration?, status: ResourceStatus?,
  node: String
) throws(AdjustmentError) -> [ControlRequest] {
  let name = wanted.name
  func request(_ command: ControlCommand) -> ControlRequest {
    ControlRequest(command, resource: name, configuration: wanted)
  }
  guard let running, let status, let here = wanted.host(named: node) else {
    return [request(.up)]
  }
  let old = running.host(named: node)
  guard old?.nodeID == here.nodeID else {
    throw AdjustmentError(
      text: "node-id of a running resource cannot change: run 'ashlaradm down \(name)' and "
        + "'ashlaradm create-md \(name)' first")
  }
  guard old?.volumes.map(\.number) == here.volumes.map(\.number) else {
    throw AdjustmentError(
      text: "volumes of a running resource cannot change: run 'ashlaradm down \(name)' first")
  }
  // The daemon listens and dials where it was told at `up`.
  guard old?.address == here.address, ends(of: running, but: node) == ends(of: wanted, but: node)
  else {
    throw AdjustmentError(
      text: "addresses, names and node-ids of a running resource cannot change, and nothing was: "
        + "run 'ashlaradm down \(name)', then 'ashlaradm up \(name)'")
  }
  var requests: [ControlRequest] = []
  let connection = status.connections.first?.connectionState ?? .standAlone
  for volume in here.volumes {
    let state = status.devices.first { $0.volume == Int(volume.number) }?.diskState
    let isAttached = state != nil && state != .diskless
    if isAttached && old?.volume(volume.number) == volume { continue }
    if isAttached {
      requests.append(ControlRequest(.detach, resource: name, volume: volume.number))
    }
    requests.append(
      ControlRequest(
        .attach, resource: name, volume: volume.number, configuration: wanted))
  }
  if running.disk != wanted.disk { requests.append(request(.diskOptions)) }
  if running.options != wanted.options || running.handlers != wanted.handlers {
    requests.append(request(.resourceOptions))
  }
  if running.net != wanted.net { requests.append(request(.netOptions)) }
  if connection == .standAlone { requests.append(request(.connect)) }
  return requests
}

/// What a connection depends on: a peer's disk is the peer's business.
private func ends(of resource: ResourceConfiguration, but node: String) -> [String] {
  resource.peers(of: node).map { "\($0.name) \($0.nodeID.value) \($0.address)" }.sorted()
}

/// One request as `--dry-run` prints it.
public func dryRunLine(_ request: ControlRequest) -> String {
  var words = ["ashlard", request.command.rawValue]
  if let resource = request.resource {
    words.append(request.volume.map { "\(resource)/\($0)" } ?? resource)
  }
  if request.force { words.append("--force") }
  if request.discardMyData { words.append("--discard-my-data") }
  if request.noUndo { words.append("--no-undo") }
  if request.tentative { words.append("--tentative") }
  if let configuration = request.configuration {
    words += optionWords(request.command, configuration)
  }
  return words.joined(separator: " ")
}

private func optionWords(
  _ command: ControlCommand, _ configuration: ResourceConfiguration
) -> [String] {
  let net = configuration.net.settings(includingDefaults: command == .netOptions)
  let disk = configuration.disk.settings(includingDefaults: command == .diskOptions)
  let options = configuration.options.settings(includingDefaults: command == .resourceOptions)
  let settings: [(String, String)]
  switch command {
  case .up: settings = disk + options + net
  case .attach, .diskOptions: settings = disk
  case .connect, .netOptions: settings = net
  case .resourceOptions: settings = options
  case .status, .show, .events, .down, .detach, .disconnect, .primary, .secondary, .invalidate,
    .invalidateRemote, .newCurrentUUID, .pauseSync, .resumeSync, .verify, .explainDiscard:
    settings = []
  }
  return settings.map { "--\($0.0)=\($0.1)" }
}
