/// Where a volume lives: its memory stays in its place, so that no event copies it.

/// A reference to a volume. One of a class would be counted in every event.
///
/// Invariant: the loop frees a volume once, when it takes it out of its slot, and uses no box that
/// it got before from then on.
@safe
struct VolumeBox: BitwiseCopyable {
  private let memory: UnsafeMutablePointer<Volume>

  init(_ volume: consuming Volume) {
    unsafe memory = .allocate(capacity: 1)
    unsafe memory.initialize(to: volume)
  }

  /// Ends the volume. Nobody may use this box, or a copy of it, any more.
  func free() {
    unsafe memory.deinitialize(count: 1)
    unsafe memory.deallocate()
  }

  var volume: Volume {
    @inline(__always) _read { yield unsafe memory.pointee }
    @inline(__always) nonmutating _modify { yield unsafe &memory.pointee }
  }
}
