/// How much a resync has to copy: a pure function of the two reports.
///
/// The blocks set on either side suffice only if it is proved that the data agrees everywhere else:
///
/// - no side counts all blocks as set;
/// - the target's history up to some generation is the source's, and outside its set blocks it
///   holds that generation. This is its newest one; for an Inconsistent target also the one that
///   its interrupted resync copies (`StateReport.base`), whatever it held before;
/// - the source's slot counts from that generation or from an earlier one.
///
/// A target without history, or one whose generation the source has forgotten, is copied whole.
import BlockTypes
import Wire

/// What a target copies from its source.
public enum SyncExtent: UInt8, Sendable, BitwiseCopyable, CaseIterable {
  /// Nothing: no resync.
  case none = 0
  /// The blocks that are set in either side's bitmap.
  case bitmap = 1
  /// Every block.
  case full = 2

  /// The least that makes `target` equal to `source`.
  init(source: StateReport, target: StateReport) {
    self = .full
    guard !source.isFull, !target.isFull, let newest = source.lineage.newest else { return }
    let countsFrom = source.base ?? newest
    if let held = target.lineage.newest, source.lineage.holds(held, from: countsFrom) {
      self = .bitmap
    }
    if target.disk == .inconsistent, let copied = target.base,
      source.lineage.holds(copied, from: countsFrom)
    {
      self = .bitmap
    }
  }
}

extension Lineage {
  /// Whether `generation` is one of these, and `base` is it or an earlier one.
  func holds(_ generation: Generation, from base: Generation) -> Bool {
    guard generations.contains(generation), base.number <= generation.number else { return false }
    return base.isBeforeAll || generations.contains(base)
  }
}
