/// The version of all programs of this package.

/// Ashlar's version, as `--version` and `proc` print it.
public let ashlarVersion = "0.1.0"

/// The version of the peer protocol, as `proc` prints it. The same as `Wire`'s `Hello`.
public let peerProtocolVersion = 2
