/// Disks that are taken away, copied and put back while their machine is switched off.
import BlockTypes
import Metadata
import Replication
import Testing

@testable import Simulation

/// What a backing disk held at one moment, metadata included.
struct DiskImage {
  fileprivate let disk: SimulatedDisk
}

extension Scenario {
  /// Copies the whole disk of a node that is switched off.
  func image(of node: Int) -> DiskImage {
    precondition(!cluster.nodes[node].isRunning, "a disk in use has no image")
    return DiskImage(disk: cluster.nodes[node].disk)
  }

  /// Puts an image back, as a backup is restored.
  func restore(_ image: DiskImage, on node: Int) {
    replace(disk: image.disk, on: node)
    cluster.nodes[node].durableSuperblock = cluster.readSuperblock(cluster.nodes[node])
    cluster.readMarks(cluster.nodes[node])
  }

  /// A blank disk with fresh metadata, as after `create-md` on a new one.
  func putBlankDisk(on node: Int) {
    replace(disk: SimulatedDisk(sectorCount: cluster.nodes[node].disk.sectorCount), on: node)
    cluster.createMetadata(cluster.nodes[node])
    cluster.readMarks(cluster.nodes[node])
  }

  private func replace(disk: SimulatedDisk, on index: Int) {
    let node = cluster.nodes[index]
    precondition(!node.isRunning, "a disk in use is not replaced")
    node.disk = disk
    // What the other replica believes about this one is true no more, and nobody can know it.
    node.everRotten = Set(0..<cluster.options.volumeBlocks)
    cluster.history.gaveUp(index)
  }

  /// From here on every block that differs must be marked again.
  func expectCoverage() {
    for node in cluster.nodes { node.everRotten = [] }
    cluster.checkCoverage()
  }

  /// Takes a node away cleanly.
  func stop(_ node: Int) {
    tell(node, .shutdown)
    let other = cluster.nodes[1 - node]
    if other.isRunning { run { _ in other.connection != .connected } }
  }

  /// Writes a long range piece by piece.
  func fill(_ node: Int, _ sectors: Range<Int>) {
    for start in stride(from: sectors.lowerBound, to: sectors.upperBound, by: 128) {
      let piece = start..<min(start + 128, sectors.upperBound)
      guard write(node, piece) == .done else {
        Issue.record("\(piece) was not written")
        return expectNoViolation()
      }
    }
  }

  /// The node goes on alone for one write, and its peer gets it: one more generation.
  func passThroughGeneration(_ sectors: Range<Int>) {
    partition()
    write(0, sectors)
    heal()
  }
}
