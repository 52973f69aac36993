/// The volume towards its clients.
import Configuration
import BlockIO
import BlockTypes
import Exports
import Metadata
import Replication
import Wire

/// Whether a restarted node may be Primary again.
enum PrimarySafety {
  case yes, notYet, no
}

extension Volume {
  mutating func submit(
    _ request: ExportRequest, _ reactor: inout Reactor, _ server: inout NBDServer
  ) {
    var client = ClientRequest(
      request.operation.core,
      ByteRange(offset: request.offset, length: UInt64(request.length)), tag: request.tag)
    client.forceUnitAccess = request.fua
    client.mayUnmap = request.mayUnmap
    client.buffer = request.buffer
    // The front end keeps its own hold until it has answered; the core releases this one.
    if request.buffer != .none { reactor.retain(request.buffer) }
    step(.submit(client), &reactor, &server)
  }

  /// Why clients may not use the volume on this node.
  var refusalReason: String {
    let name = configuration.name
    guard replica.role == .primary else {
      return "\(name) is Secondary on this node; run 'ashlaradm primary \(name)' here first"
    }
    return "\(name) has no UpToDate data on this node"
  }

  /// Whether anything happened in this turn that the node must look at.
  var needsAttention: Bool {
    !reports.isEmpty || wantsPrimary || exportSlot == nil
      || isExportedWritable != replica.isWritable
  }

  /// Only an agreed connection to a Secondary proves that nobody else was promoted and wrote. Who
  /// wrote meanwhile began a generation, and this node's disk has it now. That blocks were copied
  /// from the peer proves nothing: after a crash those are that were being written.
  var primaryIsSafe: PrimarySafety {
    if replica.role == .primary || isLeaving { return .no }
    guard replica.disk == .upToDate else { return .notYet }
    let newest = replica.superblock?.lineage.newest
    guard newest == heldGeneration || newest?.author == host.nodeID else { return .no }
    for slot in 0..<peerHosts.count {
      let peer = replica.status(ofPeer: slot)
      if peer.role == .primary { return .no }
      guard peer.connection == .connected else { return .notYet }
    }
    return .yes
  }

  /// Whether the kernel has let go of everything, so that the volume can be freed.
  var isIdle: Bool {
    guard diskOperations == 0, dialsInFlight == 0, !isAccepting, disk == nil else { return false }
    guard replica.clientRequestCount == 0 else { return false }
    for index in 0..<links.count where links[index] != nil { return false }
    return true
  }
}

extension ExportOperation {
  var core: Operation {
    switch self {
    case .read: .read
    case .write: .write
    case .trim: .trim
    case .writeZeroes: .writeZeroes
    case .flush: .flush
    }
  }
}
