/// What is exported: names, sizes and whether a client may use it now.
///
/// What must hold: a slot number is given to one name until that export is removed *and* its last
/// request has completed, so a slot in flight never means another volume.

import BlockTypes

/// A volume offered to NBD clients, as its owner describes it.
public struct NBDExport: Equatable, Sendable {
  /// Whether clients may use the export on this node now.
  public enum State: Equatable, Sendable {
    /// Clients may read and write.
    case writable
    /// Clients are refused; the text tells their user why, for example
    /// `r0 is Secondary on this node; run 'ashlaradm primary r0' here first`.
    case refused(reason: String)
  }

  /// The name clients ask for: `r0` is volume 0 of resource r0, `r0/1` its volume 1.
  public var name: String
  /// Size in bytes, a multiple of 512.
  public var sizeBytes: UInt64
  /// Whether clients may use it.
  public var state: State

  /// Describes an export. The name must be 1 to 4096 bytes of UTF-8, the size a multiple of 512.
  public init(name: String, sizeBytes: UInt64, state: State) {
    precondition(!name.isEmpty, "an export needs a name")
    precondition(name.utf8.count <= NBDLimit.stringBytes, "an export name has 4096 bytes at most")
    precondition(sizeBytes % sectorSize == 0, "export size must be a multiple of 512")
    self.name = name
    self.sizeBytes = sizeBytes
    self.state = state
  }
}

/// Number of an export in this server; what requests carry instead of the name.
public struct ExportSlot: Hashable, Sendable, BitwiseCopyable {
  /// Index in the table.
  public let value: UInt32

  /// Wraps an index.
  public init(_ value: UInt32) { self.value = value }
}

/// Traffic of one export since it was added.
public struct NBDExportStatistics: Equatable, Sendable, BitwiseCopyable {
  /// Clients connected to it now.
  public var clients: UInt32 = 0
  /// READ requests completed without error.
  public var reads: UInt64 = 0
  /// WRITE requests completed without error.
  public var writes: UInt64 = 0
  /// FLUSH, TRIM and WRITE_ZEROES requests completed without error.
  public var others: UInt64 = 0
  /// Requests answered with an error.
  public var errors: UInt64 = 0
  /// Bytes read by clients.
  public var bytesRead: UInt64 = 0
  /// Bytes written by clients.
  public var bytesWritten: UInt64 = 0

  /// Nothing counted yet.
  public init() {}
}

/// The part of an export that every request looks at.
struct ExportGate: BitwiseCopyable {
  var sizeBytes: UInt64 = 0
  var isWritable = false
  /// Client requests in the core; a removed export keeps its slot until this is 0.
  var inFlight: UInt32 = 0
  /// Pieces in the core.
  var pieces: UInt32 = 0
  /// Buffers of those pieces, by size.
  var held: InlineArray<4, UInt32> = [0, 0, 0, 0]
  /// Sessions whose client has left and that wait for their pieces.
  var gone: UInt32 = 0
  /// Sessions that wait for buffers or pieces.
  var waiting: UInt32 = 0
  /// The last walk along those who wait in which one of this export found nothing.
  var exhaustedInWalk: UInt64 = 0
  var statistics = NBDExportStatistics()
}

/// All exports of a server. Names are looked up in the handshake only; requests carry the slot.
@safe
struct ExportTable: ~Copyable {
  /// `nil` where a slot is free, or removed but still in flight.
  private(set) var exports: [NBDExport?]
  private let gates: UnsafeMutablePointer<ExportGate>
  let capacity: Int
  /// So many clients may have left requests in the core; then no new ones are let in.
  var goneMax = UInt32.max
  /// Exports that are offered.
  private var count = 0
  /// Whether what one takes is missed by another.
  private(set) var areSeveral = false

  init(capacity: Int) {
    precondition(capacity > 0, "a server needs room for an export")
    self.capacity = capacity
    exports = Array(repeating: nil, count: capacity)
    unsafe gates = .allocate(capacity: capacity)
    unsafe gates.initialize(repeating: ExportGate(), count: capacity)
  }

  deinit { unsafe gates.deallocate() }

  subscript(gate slot: UInt32) -> ExportGate {
    @inline(__always) _read {
      precondition(Int(slot) < capacity, "export slot outside the table")
      yield unsafe gates[Int(slot)]
    }
    @inline(__always) _modify {
      precondition(Int(slot) < capacity, "export slot outside the table")
      yield unsafe &gates[Int(slot)]
    }
  }

  /// Adds or replaces the export of that name; `nil` when the table is full.
  mutating func set(_ export: NBDExport) -> ExportSlot? {
    let slot: Int
    if let known = exports.firstIndex(where: { $0?.name == export.name }) {
      slot = known
    } else {
      var free: Int?
      for index in 0..<capacity where exports[index] == nil {
        if unsafe gates[index].inFlight == 0 && gates[index].statistics.clients == 0 {
          free = index
          break
        }
      }
      guard let free else { return nil }
      unsafe gates[free] = ExportGate()
      slot = free
      count += 1
      areSeveral = count > 1
    }
    exports[slot] = export
    unsafe gates[slot].sizeBytes = export.sizeBytes
    unsafe gates[slot].isWritable = export.state == .writable
    return ExportSlot(UInt32(slot))
  }

  /// Takes the export away; new requests to its slot are refused from now on.
  mutating func remove(name: String) -> ExportSlot? {
    guard let slot = slot(named: name) else { return nil }
    exports[Int(slot.value)] = nil
    count -= 1
    areSeveral = count > 1
    unsafe gates[Int(slot.value)].isWritable = false
    return slot
  }

  /// The slot of the export with exactly this name.
  func slot(named name: String) -> ExportSlot? {
    exports.firstIndex { $0?.name == name }.map { ExportSlot(UInt32($0)) }
  }

  /// Why no new client may use the export now; `nil` when it may.
  func refusal(_ slot: ExportSlot) -> String? {
    guard let export = exports[Int(slot.value)] else { return "no such export" }
    if case .refused(let reason) = export.state { return reason }
    let gone = self[gate: slot.value].gone
    guard gone >= goneMax else { return nil }
    return "\(gone) clients of \(export.name) have left requests that its disk or peer does not "
      + "answer; new ones are let in when it does"
  }

  /// What a client's name means: the empty name is the only export when there is exactly one.
  func resolve(_ name: String) -> ExportSlot? {
    guard name.isEmpty else { return slot(named: name) }
    var found: ExportSlot?
    for (index, export) in exports.enumerated() where export != nil {
      if found != nil { return nil }
      found = ExportSlot(UInt32(index))
    }
    return found
  }
}
