/// A part of an out-of-sync bitmap on its way to the peer.
///
/// `offset` of the header is the first byte of the volume that the chunk describes, `length` says
/// how the payload describes it:
/// - 0: one bit a block, lowest bit of the first byte first; at most 4096 bytes, 128 MiB of volume;
/// - 1: runs of set bits, 4 bytes each: 0-1 first block in the chunk, 2-3 blocks less one.
///
/// A block that no chunk names is not marked by the sender. The shorter of the two forms is sent.
public import BlockTypes

/// How a payload describes blocks.
public enum BitmapEncoding: UInt64, Sendable, BitwiseCopyable {
  case bits = 0
  case runs = 1
}

/// A part of an out-of-sync bitmap.
public enum BitmapChunk {
  /// Most blocks one chunk may describe.
  public static let blockLimit: UInt64 = UInt64(maxControlPayloadBytes) * 8
  /// Bytes of a run.
  static let runBytes = 4

  /// Writes the marked blocks of `bitmap` in `blocks` and returns the payload's length and form.
  @safe
  public static func encode(
    _ bitmap: borrowing BlockBitmap, _ blocks: Range<UInt64>,
    into bytes: UnsafeMutableRawBufferPointer
  ) -> (count: Int, encoding: BitmapEncoding) {
    precondition(blocks.count <= Int(blockLimit), "more blocks than a chunk has bits")
    let bitBytes = (blocks.count + 7) / 8
    precondition(bytes.count >= bitBytes, "no room for the chunk")
    var writer = unsafe ByteWriter(bytes)
    var next = blocks.lowerBound
    while let first = bitmap.firstSet(from: BlockIndex(next)), first.value < blocks.upperBound {
      let count = bitmap.runLength(from: first, limit: blocks.upperBound - first.value)
      guard writer.position + runBytes <= bitBytes else {
        unsafe encodeBits(bitmap, blocks, into: bytes)
        return (bitBytes, .bits)
      }
      writer.put(UInt16(first.value - blocks.lowerBound))
      writer.put(UInt16(count - 1))
      next = first.value + count
    }
    return (writer.position, .runs)
  }

  private static func encodeBits(
    _ bitmap: borrowing BlockBitmap, _ blocks: Range<UInt64>,
    into bytes: UnsafeMutableRawBufferPointer
  ) {
    for index in 0..<((blocks.count + 7) / 8) { unsafe bytes[index] = 0 }
    var next = blocks.lowerBound
    while let block = bitmap.firstSet(from: BlockIndex(next)), block.value < blocks.upperBound {
      let bit = Int(block.value - blocks.lowerBound)
      let old = unsafe bytes[bit / 8]
      unsafe bytes[bit / 8] = old | 1 << UInt8(bit % 8)
      next = block.value + 1
    }
  }

  /// Marks in `bitmap` what a chunk from a peer names. Nothing is changed when it throws.
  @safe
  public static func merge(
    _ header: MessageHeader, _ payload: UnsafeRawBufferPointer, volumeBytes: UInt64,
    into bitmap: inout BlockBitmap
  ) throws(WireError) {
    guard let encoding = BitmapEncoding(rawValue: header.length) else {
      throw .fieldOutOfRange(.bitmapEncoding, header.length)
    }
    guard header.offset % blockSize == 0, header.offset < volumeBytes else {
      throw .fieldOutOfRange(.bitmapRun, header.offset)
    }
    let first = header.offset / blockSize
    let reader = unsafe ByteReader(payload)
    switch encoding {
    case .bits: try mergeBits(reader, first, volumeBytes, &bitmap)
    case .runs: try mergeRuns(reader, first, volumeBytes, &bitmap)
    }
  }

  private static func mergeRuns(
    _ reader: ByteReader, _ first: UInt64, _ volumeBytes: UInt64, _ bitmap: inout BlockBitmap
  ) throws(WireError) {
    guard reader.count % runBytes == 0 else {
      throw .fieldOutOfRange(.bitmapRun, UInt64(reader.count))
    }
    for isChecked in [false, true] {
      for position in stride(from: 0, to: reader.count, by: runBytes) {
        let start = first + UInt64(reader.uint16(at: position))
        let end = start + UInt64(reader.uint16(at: position + 2)) + 1
        guard end <= bitmap.blockCount else { throw .fieldOutOfRange(.bitmapRun, end) }
        guard isChecked else { continue }
        bitmap.set(blocks(start..<end, volumeBytes))
      }
    }
  }

  private static func mergeBits(
    _ reader: ByteReader, _ first: UInt64, _ volumeBytes: UInt64, _ bitmap: inout BlockBitmap
  ) throws(WireError) {
    for isChecked in [false, true] {
      for index in 0..<reader.count {
        var byte = reader.uint8(at: index)
        while byte != 0 {
          let block = first + UInt64(index) * 8 + UInt64(byte.trailingZeroBitCount)
          guard block < bitmap.blockCount else { throw .fieldOutOfRange(.bitmapRun, block) }
          if isChecked { bitmap.set(blocks(block..<(block + 1), volumeBytes)) }
          byte &= byte - 1
        }
      }
    }
  }

  private static func blocks(_ blocks: Range<UInt64>, _ volumeBytes: UInt64) -> ByteRange {
    ByteRange(
      start: blocks.lowerBound * blockSize, end: min(blocks.upperBound * blockSize, volumeBytes))
  }
}
