/// Options that a running volume takes over.
import Configuration
import Control
import Replication
import Wire

extension Volume {
  /// Takes over one section of a changed file.
  mutating func changeOptions(to new: ResourceConfiguration, for command: ControlCommand) {
    switch command {
    case .netOptions:
      configuration.net = new.net
      replica.options.apply(new.net, on: host.name)
    case .diskOptions:
      configuration.disk = new.disk
      replica.options.apply(new.disk)
    case .resourceOptions:
      configuration.options = new.options
      configuration.handlers = new.handlers
      replica.options.apply(handlers: new.handlers)
      replica.options.keepsUndo = new.options.keepsUndo
    case .status, .show, .events, .up, .down, .attach, .detach, .connect, .disconnect, .primary,
      .secondary, .invalidate, .invalidateRemote, .newCurrentUUID, .pauseSync, .resumeSync, .verify,
      .explainDiscard:
      preconditionFailure("not a section of options")
    }
  }
}

extension ReplicaOptions {
  /// Takes the times and policies of a `net` section, for the host of that name.
  mutating func apply(_ net: NetOptions, on host: String) {
    timeoutMs = net.timeoutMilliseconds
    koCount = UInt64(net.koCount)
    pingIntervalMs = net.pingIntervalMilliseconds
    pingTimeoutMs = net.pingTimeoutMilliseconds
    connectIntervalMs = net.connectIntervalMilliseconds
    verifyAlgorithm = net.verifyAlgorithm.flatMap { DigestAlgorithm(named: $0) }
    checksumAlgorithm = net.checksumAlgorithm.flatMap { DigestAlgorithm(named: $0) }
    if checksumAlgorithm?.provesEquality == false { checksumAlgorithm = nil }
    policy.noPrimary = net.afterSplitBrainNoPrimary.policy(on: host)
    policy.onePrimary =
      switch net.afterSplitBrainOnePrimary {
      case .disconnect: .disconnect
      case .consensus: .consensus
      case .discardSecondary: .discardSecondary
      case .callPrimaryLost: .callPrimaryLost
      case .asNoPrimary: .asNoPrimary
      }
    policy.twoPrimaries =
      switch net.afterSplitBrainTwoPrimaries {
      case .disconnect: .disconnect
      case .callPrimaryLost: .callPrimaryLost
      case .asNoPrimary: .asNoPrimary
      }
    policy.primaryIsTarget =
      switch net.primaryIsTarget {
      case .disconnect: .disconnect
      case .retryConnect: .retryConnect
      case .callPrimaryLost: .callPrimaryLost
      }
  }

  /// Takes a `disk` section. The size of the activity log counts from the next attach on.
  mutating func apply(_ disk: DiskOptions) {
    activityLogSlots = Int(disk.activityLogExtents)
    resyncBytesPerSecondMost = UInt64(disk.maxRateKiB) * 1024
    resyncBytesPerSecondBusy = disk.minRateKiB.map { UInt64($0) * 1024 }
    diskTimeoutMs = UInt64(disk.diskTimeoutTenths) * 100
    errorPolicy =
      switch disk.onIOError {
      case .detach: .detach
      case .passOn: .passOn
      case .callLocalIOError: .callLocalIOError
      }
  }

  /// Takes what the core has to know about handlers.
  mutating func apply(handlers: [String: String]) {
    asksBeforeResyncTarget = handlers[HandlerCall.beforeResyncTarget.name] != nil
  }
}

extension AfterSplitBrainNoPrimary {
  /// What it means on the host of that name.
  fileprivate func policy(on host: String) -> NoPrimaryPolicy {
    switch self {
    case .disconnect: .disconnect
    case .discardYoungerPrimary: .discardYoungerPrimary
    case .discardOlderPrimary: .discardOlderPrimary
    case .discardZeroChanges: .discardZeroChanges
    case .discardLeastChanges: .discardLeastChanges
    case .discardLocal: .discardLocal
    case .discardRemote: .discardRemote
    case .discardNode(let victim): victim == host ? .discardLocal : .discardRemote
    }
  }
}
