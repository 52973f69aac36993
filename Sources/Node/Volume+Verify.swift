/// Digests of an online verify: made and compared on the reactor's thread, 256 KiB at a time.
import BlockIO
import BlockTypes
import Configuration
import Control
import Replication
import Wire

extension Volume {
  /// Sends the digests of a buffer's blocks; they fit the scratch space and the send ring.
  mutating func sendDigests(
    _ connection: ConnectionID, _ header: MessageHeader, _ buffer: BufferID, _ bytes: Int,
    _ algorithm: DigestAlgorithm, _ reactor: inout Reactor
  ) {
    let payload = Int(header.payloadBytes)
    unsafe header.encode(into: scratch)
    let data = unsafe UnsafeRawBufferPointer(rebasing: reactor.memory(of: buffer)[0..<bytes])
    let place = unsafe UnsafeMutableRawBufferPointer(
      rebasing: scratch[MessageHeader.byteCount..<(MessageHeader.byteCount + payload)])
    BlockDigest.encode(algorithm, data, into: place)
    sendScratch(connection, header, &reactor)
  }

  mutating func compareDigests(
    _ id: SlotID, _ data: BufferID, _ bytes: Int, _ digests: BufferID,
    _ algorithm: DigestAlgorithm, _ reactor: inout Reactor
  ) {
    precondition(compared == nil, "the core has not seen the comparison before")
    let count = Int(BlockDigest.blocks(UInt64(bytes))) * algorithm.byteCount
    let mine = unsafe UnsafeRawBufferPointer(rebasing: reactor.memory(of: data)[0..<bytes])
    let theirs = unsafe UnsafeRawBufferPointer(rebasing: reactor.memory(of: digests)[0..<count])
    compared = (id, BlockDigest.differing(algorithm, mine, theirs))
  }

  /// What a repair would copy, in words, as the marks are now.
  func repairLines(_ plan: VerifyPlan) -> [String] {
    peerHosts.indices.flatMap { Control.repairLines(configuration.name, outlook($0, plan)) }
  }

  private func outlook(_ peer: Int, _ plan: VerifyPlan) -> RepairOutlook {
    let isMine = plan.repairSource == .local
    let other = peerHosts[peer].name
    var outlook = RepairOutlook(
      source: isMine ? host.name : other, target: isMine ? other : host.name)
    outlook.onlyMarked = plan.onlyMarked
    let volumeBytes = replica.exposedBytes
    // A block that a place lies in is repaired whole.
    let stop = min(plan.stop, volumeBytes)
    let range = ByteRange(
      start: min(plan.start, stop), end: (stop + blockSize - 1) / blockSize * blockSize)
    var next = BlockIndex(0)
    while let marked = replica.markedRange(forPeer: peer, from: next, within: range) {
      outlook.rangeCount += 1
      outlook.bytes += marked.length
      if outlook.ranges.count < RepairOutlook.rangeLimit {
        outlook.ranges.append(marked.start..<marked.end)
      }
      next = BlockIndex(marked.end / blockSize)
    }
    let state = replica.status(ofPeer: peer)
    if state.connection != .connected {
      outlook.obstacle = "not connected to \(other)"
    } else if replica.disk != .upToDate || state.disk != .upToDate {
      outlook.obstacle = "both nodes have to be UpToDate"
    }
    return outlook
  }

  /// The keys of a verify, and its percentage done.
  func addVerifyDetails(
    _ device: inout PeerDeviceStatus, _ state: PeerStatus, _ now: Instant
  ) {
    guard state.replication == .verifyS, let verify = state.verify else { return }
    let done = verify.position - verify.range.start
    let elapsedMs = max(now.milliseconds(since: verify.started), 1)
    device.hasOnlineVerifyDetails = true
    device.percentResyncDone = Double(done) * 100 / Double(max(verify.range.length, 1))
    device.verifyStart = verify.range.start / sectorSize
    device.verifyStop = verify.range.end / sectorSize
    device.verifyPosition = verify.position / sectorSize
    device.verifyLeft = (verify.range.end - verify.position) / sectorSize
    device.verifySkipped = 0
    let rateKiB = done / 1024 * 1000 / elapsedMs
    device.resyncRate = rateKiB
    if rateKiB > 0 {
      device.estimatedSecondsToFinish = (verify.range.end - verify.position) / 1024 / rateKiB
    }
  }
}

extension NodeLoop {
  /// Begins a verify, after finding out which side a repair shall copy from.
  mutating func verify(
    _ request: VerifyRequest, _ slot: Int, _ handler: @escaping ReplyHandler
  ) {
    guard let box = volumes[slot] else { return }
    var plan = VerifyPlan()
    plan.start = request.start ?? 0
    plan.stop = request.stop ?? .max
    plan.onlyMarked = request.onlyMarked ?? false
    if let source = request.repairFrom {
      let configuration = box.volume.configuration
      guard configuration.host(named: source) != nil else {
        let names = configuration.hosts.map(\.name).joined(separator: ", ")
        return handler(
          ControlReply(
            refusing: .invalidRequest.with("there is no node '\(source)', only \(names)"),
            object: configuration.name))
      }
      plan.repairSource = source == options.node ? .local : .peer
      if request.explainsOnly == true {
        return handler(ControlReply(standardOutput: box.volume.repairLines(plan)))
      }
    } else if plan.onlyMarked {
      return handler(
        ControlReply(
          refusing: .invalidRequest.with("what is marked can only be repaired: name a side"),
          object: box.volume.configuration.name))
    }
    give(.verify(plan), slot, handler)
  }

  /// What digests spared a resync, in the kernel module's words.
  func logEqual(_ peer: String, _ blocks: UInt64, _ equal: UInt64) {
    guard equal > 0 else { return }
    let total = max(blocks, equal)
    let kib = blockSize / 1024
    options.log(
      .info,
      "\(peer): \(equal * 100 / total) % had equal checksums, eliminated: \(equal * kib)K; "
        + "transferred \((total - equal) * kib)K total \(total * kib)K")
  }

  /// Log lines of a verify, in the kernel module's words where it has some.
  func logVerify(_ peer: String, _ note: Note) {
    switch note {
    case .verifyStarted(_, let range):
      options.log(
        .info, "\(peer): Starting Online Verify from sector \(range.start / sectorSize)")
    case .outOfSync(_, let range):
      options.log(
        .error,
        "\(peer): Out of sync: start=\(range.start / sectorSize), "
          + "size=\(range.length / sectorSize) (sectors)")
    case .repaired(_, let range):
      options.log(
        .info,
        "\(peer): Repaired: start=\(range.start / sectorSize), "
          + "size=\(range.length / sectorSize) (sectors)")
    case .verifyEnded(_, let progress):
      let seconds = reactor.now.milliseconds(since: progress.started) / 1000
      if progress.isComplete {
        options.log(.info, "\(peer): Online verify done (total \(seconds) sec)")
      } else {
        let sector = progress.position / sectorSize
        options.log(
          .warning,
          "\(peer): Online verify stopped at sector \(sector); "
            + "'ashlaradm verify --start=\(sector)s' goes on there")
      }
      logFound(peer, progress)
    default: preconditionFailure("no note of a verify")
    }
  }

  private func logFound(_ peer: String, _ progress: VerifyProgress) {
    guard progress.blocksFound > 0 else { return }
    options.log(
      .error, "\(peer): Online verify found \(progress.blocksFound) 4k blocks out of sync!")
    if progress.blocksRepaired > 0 {
      options.log(.info, "\(peer): \(progress.blocksRepaired) 4k blocks were repaired")
    }
  }
}
