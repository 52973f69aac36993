/// Options that a running volume takes over.
import Configuration
import Control
import Replication

extension Volume {
  /// Takes over one section of a changed file.
  mutating func changeOptions(to new: ResourceConfiguration, for command: ControlCommand) {
    switch command {
    case .netOptions:
      configuration.net = new.net
      replica.options.apply(new.net)
    case .diskOptions: configuration.disk = new.disk
    case .resourceOptions: configuration.options = new.options
    case .status, .show, .up, .down, .attach, .detach, .connect, .disconnect, .primary,
      .secondary, .invalidate:
      preconditionFailure("not a section of options")
    }
  }
}

extension ReplicaOptions {
  /// Takes the times of a `net` section.
  mutating func apply(_ net: NetOptions) {
    timeoutMs = net.timeoutMilliseconds
    koCount = UInt64(net.koCount)
    pingIntervalMs = net.pingIntervalMilliseconds
    pingTimeoutMs = net.pingTimeoutMilliseconds
    connectIntervalMs = net.connectIntervalMilliseconds
  }
}
