/// What a configuration decides about conflicting histories without an administrator: DRBD's
/// `after-sb-0pri`, `after-sb-1pri`, `after-sb-2pri` and `rr-conflict`. Both ends tell theirs; a
/// policy that only one of them has decides nothing, nor does the default (P3).
///
/// No data is replaced under a Primary: one that a policy names becomes Secondary first, which it
/// can only while no client has it open.

/// `after-sb-0pri`: who gives way when nobody is Primary.
public enum NoPrimaryPolicy: UInt8, Sendable, BitwiseCopyable, CaseIterable {
  case disconnect = 0
  /// Whoever became Primary while the other one was.
  case discardYoungerPrimary = 1
  /// Whoever was Primary when the two lost each other.
  case discardOlderPrimary = 2
  /// A side that wrote nothing.
  case discardZeroChanges = 3
  /// The side that wrote fewer blocks.
  case discardLeastChanges = 4
  /// The side that says so; the other one must say `discardRemote`.
  case discardLocal = 5
  case discardRemote = 6

  /// What the peer must have for both to mean the same.
  public var mirrored: NoPrimaryPolicy {
    switch self {
    case .discardLocal: .discardRemote
    case .discardRemote: .discardLocal
    case .disconnect, .discardYoungerPrimary, .discardOlderPrimary, .discardZeroChanges,
      .discardLeastChanges:
      self
    }
  }
}

/// `after-sb-1pri`: who gives way when one side is Primary.
public enum OnePrimaryPolicy: UInt8, Sendable, BitwiseCopyable, CaseIterable {
  case disconnect = 0
  /// The side that `after-sb-0pri` names, if that is the Secondary.
  case consensus = 1
  case discardSecondary = 2
  /// The side that `after-sb-0pri` names. A Primary gives way if no client has it open; else its
  /// handler `pri-lost-after-sb` is run.
  case callPrimaryLost = 3
  /// `violently-as0p`: the same without the handler.
  case asNoPrimary = 4
}

/// `after-sb-2pri`: who gives way when both are Primary.
public enum TwoPrimariesPolicy: UInt8, Sendable, BitwiseCopyable, CaseIterable {
  case disconnect = 0
  /// The side that `after-sb-0pri` names. It gives way if no client has it open; else its handler
  /// `pri-lost-after-sb` is run.
  case callPrimaryLost = 1
  /// `violently-as0p`: the same without the handler.
  case asNoPrimary = 2
}

/// `rr-conflict`: what happens when a Primary would have to become the target of a resync.
public enum PrimaryIsTargetPolicy: UInt8, Sendable, BitwiseCopyable, CaseIterable {
  case disconnect = 0
  case retryConnect = 1
  /// The Primary's handler `pri-lost` is run.
  case callPrimaryLost = 2
}

/// What the configuration decides on its own.
public struct ConflictPolicy: Equatable, Sendable, BitwiseCopyable {
  /// Nobody is Primary.
  public var noPrimary = NoPrimaryPolicy.disconnect
  /// One side is Primary.
  public var onePrimary = OnePrimaryPolicy.disconnect
  /// A Primary would be target.
  public var primaryIsTarget = PrimaryIsTargetPolicy.disconnect

  /// Both are Primary.
  public var twoPrimaries = TwoPrimariesPolicy.disconnect

  /// Decides nothing.
  public init() {}

  init(_ reader: ByteReader, at offset: Int) throws(WireError) {
    guard let noPrimary = NoPrimaryPolicy(rawValue: reader.uint8(at: offset)),
      let onePrimary = OnePrimaryPolicy(rawValue: reader.uint8(at: offset + 1)),
      let primaryIsTarget = PrimaryIsTargetPolicy(rawValue: reader.uint8(at: offset + 2)),
      let twoPrimaries = TwoPrimariesPolicy(rawValue: reader.uint8(at: offset + 3))
    else { throw .fieldOutOfRange(.policy, UInt64(reader.uint32(at: offset))) }
    self.noPrimary = noPrimary
    self.onePrimary = onePrimary
    self.primaryIsTarget = primaryIsTarget
    self.twoPrimaries = twoPrimaries
  }
}
