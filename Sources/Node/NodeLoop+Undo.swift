/// Keeping what a discard loses, off the reactor's thread.
import BlockIO
import BlockTypes
import Configuration
import Control
import Foundation
import Glibc
import Metadata
import Replication
import Wire

extension NodeLoop {
  /// Starts to keep what the core is about to give up. The answer comes by the mailbox.
  mutating func keepUndo(_ slot: Int, _ peer: Int, _ number: UInt64) {
    guard let box = volumes[slot] else { return }
    let name = box.volume.configuration.name
    guard let plan = box.volume.undoPlan(peer, unixSeconds()),
      let disk = box.volume.disk?.dataDescriptor
    else { return undoFailed(slot, peer, number, "the disk is gone") }
    // The lock on the disk is the open file's: it is held until both descriptors are closed.
    let source = fcntl(disk, F_DUPFD_CLOEXEC, 0)
    guard source >= 0 else {
      return undoFailed(
        slot, peer, number, "\(SystemError(call: "fcntl", errno: errno, path: nil))")
    }
    let cancellation = UndoCancellation()
    box.volume.undo?.cancel()
    box.volume.undo = cancellation
    options.log(.info, "\(name): keeping what will be discarded")
    let mailbox = mailbox
    let life = box.volume.life
    let thread = Thread {
      var writer = UndoWriter(plan, source: source, cancellation)
      let result = writer.run()
      close(source)
      mailbox.postPatiently(.undoEnded(life, peer: peer, number: number, result))
    }
    thread.name = "undo"
    thread.start()
  }

  private mutating func undoFailed(_ slot: Int, _ peer: Int, _ number: UInt64, _ why: String) {
    guard let box = volumes[slot] else { return }
    options.log(.error, "\(box.volume.configuration.name): undo file: \(why)")
    box.volume.step(
      .undoEnded(peer: peer, number: number, .failed), &reactor, &server)
  }

  mutating func undoEnded(_ life: VolumeLife, _ peer: Int, _ number: UInt64, _ result: UndoResult) {
    let resource = life.resource
    guard let slot = slot(of: life), let box = volumes[slot],
      box.volume.replica.awaitsUndo(number, peer: peer)
    else {
      // The data may have changed while it was read, and nothing was given up for it.
      guard let path = result.path else { return }
      options.log(.info, "\(resource): \(path) is removed: nobody waits for it any more")
      let thread = Thread { _ = unsafe unlink(path) }
      thread.start()
      return
    }
    box.volume.undo = nil
    options.log(
      result.outcome == .kept ? .info : .error, "\(resource): undo file: \(result.text)")
    box.volume.step(
      .undoEnded(peer: peer, number: number, result.outcome), &reactor, &server)
  }
}

extension Volume {
  /// What is to be kept for a peer, and where.
  fileprivate func undoPlan(_ peer: Int, _ seconds: UInt64) -> UndoPlan? {
    guard let block = replica.superblock else { return nil }
    var header = UndoHeader(
      resource: configuration.name, volumeBytes: block.volumeBytes, node: host.nodeID,
      peer: peerHosts[peer].nodeID)
    let marks = replica.marksToKeep(peer: peer)
    let meeting = replica.lastMeeting(withPeer: peer)
    header.keptAt = seconds
    header.isWhole = marks == nil
    header.newest = block.lineage.newest
    header.ancestor = meeting?.ancestor
    header.survivor = meeting?.theirs.lineage.newest
    return UndoPlan(
      header: header, marks: marks, directory: configuration.options.undoDirectory,
      limit: configuration.options.undoLimit)
  }

  /// What `connect --discard-my-data` would lose, in words.
  func discardLines() -> [String] {
    peerHosts.indices.flatMap { Control.discardLines(configuration.name, discardLoss($0)) }
  }

  private func discardLoss(_ peer: Int) -> DiscardLoss {
    let changes = replica.changes(sincePeer: peer)
    let meeting = replica.lastMeeting(withPeer: peer)
    let status = replica.status(ofPeer: peer)
    var loss = DiscardLoss(
      peer: peerHosts[peer].name, volumeBytes: replica.superblock?.volumeBytes ?? 0,
      blocks: changes.blocks, ranges: changes.runs, extents: changes.extents)
    loss.isPrimary = replica.role == .primary
    loss.isConnected = status.connection == .connected
    let isParted = meeting.map { $0.isUnresolved || $0.decision.givesDataUp } ?? false
    loss.isAlone = status.base != nil || isParted
    loss.isWhole =
      loss.isAlone
      && (replica.countsAll(forPeer: peer) || meeting.map { !$0.bitmapsCover } ?? false)
    loss.isMarked =
      changes.blocks > 0 && !replica.countsAll(forPeer: peer) && replica.disk == .upToDate
    if let base = status.base, let lineage = replica.superblock?.lineage {
      loss.generations = lineage.generations(after: base).map(\.status)
    }
    loss.directory = configuration.options.undoDirectory
    loss.limit = configuration.options.undoLimit
    return loss
  }
}
