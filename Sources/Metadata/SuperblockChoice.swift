/// Two superblock copies, one superblock.
///
/// Every change is written to the older copy first, durably, with the sequence number raised by
/// one. Then the same bytes go to the other copy. So a torn write leaves the other copy valid, and
/// while nothing changes both are equal, so that rot of one loses nothing. At attach the number of
/// the log's run changes, which repairs a damaged copy.

/// The outcome of reading both superblock copies.
public enum SuperblockChoice: Equatable, Sendable {
  /// The newer valid copy, and which one it was (0 or 1): the next write goes to the other.
  case found(Superblock, copy: Int)
  /// No copy was ever written.
  case none
  /// Something is there, but no copy is valid. Never treated as "none": data may depend on it.
  case damaged(SuperblockError, SuperblockError)

  /// Chooses between the two copies.
  ///
  /// A copy that survives beside a damaged one, or beside zeroes, is returned as dirty: the other
  /// one may have been the newer, and have said so. Damage widens a resync, it never narrows it.
  /// Two valid copies that cannot both be of this disk are damage as well: one was written to a
  /// wrong place, and which one is unknown.
  ///
  /// A copy that the disk cannot read is `nil`: damage like any other.
  @safe
  public init(copyA: UnsafeRawBufferPointer?, copyB: UnsafeRawBufferPointer?) {
    let first = unsafe Self.parse(copyA)
    let second = unsafe Self.parse(copyB)
    switch (first, second) {
    case (.success(let a), .success(let b)):
      if let error = Self.contradiction(a, b) {
        self = .damaged(error, error)
      } else {
        self = a.sequence >= b.sequence ? .found(a, copy: 0) : .found(b, copy: 1)
      }
    case (.success(var a), .failure):
      a.dirty = true
      self = .found(a, copy: 0)
    case (.failure, .success(var b)):
      b.dirty = true
      self = .found(b, copy: 1)
    case (.failure(.noMagic), .failure(.noMagic)): self = .none
    case (.failure(let a), .failure(let b)): self = .damaged(a, b)
    }
  }

  private static func parse(
    _ copy: UnsafeRawBufferPointer?
  ) -> Result<Superblock, SuperblockError> {
    guard let copy = unsafe copy else { return .failure(.unreadable) }
    return Result { () throws(SuperblockError) in try Superblock(parsing: copy) }
  }

  private static func contradiction(_ a: Superblock, _ b: Superblock) -> SuperblockError? {
    if a.deviceID != b.deviceID { return .badField("device id of the other copy", b.deviceID) }
    if a.sequence == b.sequence && a != b {
      return .badField("content of the other copy at sequence", b.sequence)
    }
    return nil
  }
}
