/// What a front end asks of the core: one piece of one client request.

public import BlockTypes

/// What to do with a range of the volume.
public enum ExportOperation: UInt8, Sendable, BitwiseCopyable {
  /// Fill the buffer from the volume.
  case read
  /// Write the buffer to the volume.
  case write
  /// The range is no longer needed; afterwards it may read as anything.
  case trim
  /// The range must read as zeroes.
  case writeZeroes
  /// Everything acknowledged so far must be on stable storage. Offset and length are 0.
  case flush
}

/// A request for the core. Offset and length are multiples of 512 and lie inside the export.
public struct ExportRequest: Equatable, Sendable, BitwiseCopyable {
  /// What to do.
  public var operation: ExportOperation
  /// Complete only when this request's effect is on stable storage.
  public var fua: Bool
  /// The range may lose its storage (TRIM; WRITE_ZEROES without NO_HOLE).
  public var mayUnmap: Bool
  /// Which volume.
  public var export: ExportSlot
  /// Where it starts.
  public var offset: ByteOffset
  /// Bytes: at most `maxPayloadBytes` with a buffer, 128 MiB without.
  public var length: UInt32
  /// Memory of the payload, held by the front end until `complete`; `none` without payload.
  public var buffer: BufferID
  /// What `complete` wants back.
  public var tag: UInt64

  /// What an unused slot holds.
  static var filler: ExportRequest {
    ExportRequest(
      operation: .flush, fua: false, mayUnmap: false, export: ExportSlot(0),
      offset: ByteOffset(bytes: 0), length: 0, buffer: .none, tag: 0)
  }
}
