/// Connections of a volume: accepting, dialing, cutting the stream into messages, sending.
import Authentication
import BlockIO
import BlockTypes
import Exports
import Glibc
import Replication
import Wire

extension Volume {
  /// Receive window of a link: many small messages in one receive.
  static var windowBytes: Int { 256 << 10 }
  /// Send ring of a link: the headers, with tags, of every request that both sides may have in
  /// flight, twice.
  static var sendBytes: Int { 512 << 10 }
  /// How long a closing link may take to send what is queued. Milliseconds.
  static var closeMs: UInt64 { 2_000 }
  /// How long a dial may take. Milliseconds.
  static var dialMs: UInt64 { 5_000 }
  /// Pause after a failed accept: out of descriptors or memory, at once it would only fail again.
  static var acceptPauseMs: UInt64 { 100 }

  mutating func startAccepting(_ reactor: inout Reactor) {
    isAccepting = true
    acceptRetry = .never
    reactor.accept(listener.descriptor, tag: NodeTag(.accept, volume: index).value)
  }

  mutating func stopAccepting(_ reactor: inout Reactor) {
    acceptRetry = .never
    if isAccepting { reactor.cancel(tag: NodeTag(.accept, volume: index).value) }
  }

  mutating func accepted(
    _ result: Int32, _ reactor: inout Reactor, _ server: inout NBDServer
  ) {
    if result == -ECANCELED || isLeaving {
      if result >= 0 { _ = Glibc.close(result) }
      isAccepting = false
      return
    }
    guard result >= 0 else {
      isAccepting = false
      acceptRetry = reactor.now.advanced(milliseconds: Self.acceptPauseMs)
      return
    }
    startAccepting(&reactor)
    beginAccepting(result, &reactor)
  }

  mutating func dial(_ peer: Int, _ reactor: inout Reactor) {
    dialsInFlight += 1
    dialDeadlines[peer] = reactor.now.advanced(milliseconds: Self.dialMs)
    // From the address that the peer has for this node: it takes no other for a peer.
    reactor.connect(peerAddresses[peer], from: listener.address, tag: dialTag(peer))
  }

  private func dialTag(_ peer: Int) -> UInt64 {
    NodeTag(.connect, volume: index, id: SlotID(slot: UInt32(peer), generation: 0)).value
  }

  /// Cancels the dials whose time is over; each completes as a failed one.
  mutating func giveUpDials(before now: Instant, _ reactor: inout Reactor) {
    for peer in 0..<dialDeadlines.count {
      guard dialDeadlines[peer] != .never, dialDeadlines[peer] <= now else { continue }
      dialDeadlines[peer] = .never
      reactor.cancel(tag: dialTag(peer))
    }
  }

  /// Cancels all dials.
  mutating func stopDialing(_ reactor: inout Reactor) {
    for peer in 0..<dialDeadlines.count where dialDeadlines[peer] != .never {
      dialDeadlines[peer] = .never
      reactor.cancel(tag: dialTag(peer))
    }
  }

  mutating func connected(
    _ peer: Int, _ result: Int32, _ reactor: inout Reactor, _ server: inout NBDServer
  ) {
    dialsInFlight -= 1
    dialDeadlines[peer] = .never
    guard !isLeaving else {
      if result >= 0 { _ = Glibc.close(result) }
      return
    }
    guard result >= 0, beginDialed(result, peer, &reactor) else {
      return step(.dialFailed(peer: peer), &reactor, &server)
    }
  }

  /// Takes over a socket; `nil`, and the socket is closed, when there are too many.
  mutating func openLink(_ descriptor: Int32, _ reactor: inout Reactor) -> ConnectionID? {
    for index in 0..<links.count where links[index] == nil {
      linkCounter += 1
      let connection = PeerLink.connection(index: index, counter: linkCounter)
      let tag = NodeTag(.peerStream, volume: self.index, id: PeerLink.tagID(of: connection))
      guard
        let stream = reactor.openStream(
          descriptor, tag: tag.value, window: Self.windowBytes, sendBytes: Self.sendBytes)
      else { break }
      links[index] = PeerLink(connection: connection, stream: stream)
      guards[index] = .initial
      return connection
    }
    _ = Glibc.close(descriptor)
    return nil
  }

  private func link(of connection: ConnectionID) -> PeerLink? {
    guard let link = links[PeerLink.index(of: connection)], link.connection == connection else {
      return nil
    }
    return link
  }

  // MARK: Receiving

  /// A stream event for the link that `tag` names.
  mutating func streamEvent(
    _ event: ReactorEvent, _ tag: NodeTag, _ reactor: inout Reactor, _ server: inout NBDServer
  ) {
    let index = Int(tag.id.slot)
    guard let link = links[index], PeerLink.tagID(of: link.connection) == tag.id else { return }
    switch event {
    case .received: readLink(index, &reactor, &server)
    case .payload:
      deliverData(index, &reactor, &server)
      readLink(index, &reactor, &server)
    case .drained:
      links[index]?.isCongested = false
      readLink(index, &reactor, &server)
    case .closed:
      // What arrived whole before the end still counts: an answer may be among it.
      readLink(index, &reactor, &server)
      guard let link = links[index], PeerLink.tagID(of: link.connection) == tag.id else { return }
      end(index, .closed(link.connection), &reactor, &server)
    case .completion, .mailbox: preconditionFailure("not a stream event")
    }
  }

  /// Takes every whole message out of the window.
  mutating func readLink(
    _ index: Int, _ reactor: inout Reactor, _ server: inout NBDServer
  ) {
    while let link = links[index], link.header == nil, !link.isStarved, link.closeBy == .never {
      // A peer that does not read our answers may not make us queue more of them.
      if reactor.sendRingIsNearlyFull(link.stream), !link.isCongested {
        links[index]?.isCongested = true
      }
      if links[index]?.isCongested == true { return }
      switch PeerLink.parse(link.stream, link.format, &reactor) {
      case .needMore: return
      case .message(let header, let tagBytes):
        deliver(index, header, tagBytes, &reactor, &server)
      case .data(let header, let tagBytes):
        guard replica.expectsData(on: link.connection) else {
          warnRarely("peer connection: data before the handshake; closing it", reactor.now)
          return end(index, .closed(link.connection), &reactor, &server)
        }
        if tagBytes > 0 { takeTag(index, tagBytes, &reactor) }
        links[index]?.header = header
        guard startPayload(index, header, &reactor) else { return }
        deliverData(index, &reactor, &server)
      case .broken(let error):
        warnRarely("peer connection: \(error); closing it", reactor.now)
        return end(index, .closed(link.connection), &reactor, &server)
      }
    }
    if let link = links[index], let header = link.header, link.buffer == .none, !link.isStarved {
      if startPayload(index, header, &reactor) {
        deliverData(index, &reactor, &server)
        readLink(index, &reactor, &server)
      }
    }
  }

  /// Starts to receive the payload; `true` when all of it was there already.
  private mutating func startPayload(
    _ index: Int, _ header: MessageHeader, _ reactor: inout Reactor
  ) -> Bool {
    guard let stream = links[index]?.stream else { return false }
    guard let buffer = reactor.allocate(header.payloadBytes) else {
      links[index]?.isStarved = true
      starvedLinks += 1
      return false
    }
    links[index]?.buffer = buffer
    return reactor.receivePayload(stream, into: buffer, length: header.payloadBytes)
  }

  private mutating func deliverData(
    _ index: Int, _ reactor: inout Reactor, _ server: inout NBDServer
  ) {
    guard let link = links[index], let header = link.header else { return }
    if link.format.tagBytes(header) > 0 {
      let memory = unsafe UnsafeRawBufferPointer(
        rebasing: reactor.memory(of: link.buffer)[0..<Int(header.payloadBytes)])
      guard guards[index].opens(header, tags[index], memory) else {
        return refuseCorrupt(index, header, &reactor, &server)
      }
    }
    links[index]?.header = nil
    links[index]?.buffer = .none
    counters.receivedBytes += UInt64(header.payloadBytes)
    unsafe replica.receive(
      link.connection, header, control: UnsafeRawBufferPointer(start: nil, count: 0),
      buffer: link.buffer, at: reactor.now, entropy: entropy.next())
    carryOut(&reactor, &server)
  }

  private mutating func deliver(
    _ index: Int, _ header: MessageHeader, _ tagBytes: Int, _ reactor: inout Reactor,
    _ server: inout NBDServer
  ) {
    guard let link = links[index] else { return }
    if tagBytes > 0 { takeTag(index, tagBytes, &reactor) }
    let payloadBytes = Int(header.payloadBytes)
    let window = unsafe reactor.received(link.stream)
    let control = unsafe UnsafeRawBufferPointer(rebasing: window[0..<payloadBytes])
    if tagBytes > 0 {
      guard guards[index].opens(header, tags[index], control) else {
        return refuseCorrupt(index, header, &reactor, &server)
      }
    }
    if greetingLinks > 0, let step = beginnings[index]?.handshake.receive(header, control) {
      reactor.consume(link.stream, payloadBytes)
      return goOn(index, step, &reactor, &server)
    }
    replica.receive(
      link.connection, header, control: control, buffer: .none, at: reactor.now,
      entropy: entropy.next())
    if payloadBytes > 0 { reactor.consume(link.stream, payloadBytes) }
    carryOut(&reactor, &server)
  }

  /// Keeps the tag at the front of the window.
  private mutating func takeTag(_ index: Int, _ count: Int, _ reactor: inout Reactor) {
    guard let stream = links[index]?.stream else { return }
    tags[index] = unsafe FrameTag(reactor.received(stream), count: count)
    reactor.consume(stream, count)
  }

  /// What came is not what was sent: nothing of it is used, and the connection is made anew.
  private mutating func refuseCorrupt(
    _ index: Int, _ header: MessageHeader, _ reactor: inout Reactor, _ server: inout NBDServer
  ) {
    guard let link = links[index] else { return }
    warnRarely(
      "peer connection: Digest integrity check FAILED: \(header.type) at sector "
        + "\(header.offset / sectorSize) +\(header.payloadBytes) bytes; closing it", reactor.now)
    end(index, .corrupted(link.connection), &reactor, &server)
  }

  /// Closes a link without a word, and tells the core where it knows of it.
  private mutating func end(
    _ index: Int, _ event: Event, _ reactor: inout Reactor, _ server: inout NBDServer
  ) {
    let beginning = beginnings[index]
    endGreeting(index)
    drop(index, &reactor)
    guard let beginning else { return step(event, &reactor, &server) }
    if let peer = beginning.dialedPeer {
      step(.dialRefused(peer: peer, .peerClosed), &reactor, &server)
    }
  }

  // MARK: Sending and closing

  mutating func send(
    _ connection: ConnectionID, _ header: MessageHeader, _ buffer: BufferID,
    _ reactor: inout Reactor
  ) {
    guard let link = link(of: connection), link.closeBy == .never else { return }
    unsafe header.encode(into: scratch)
    var count = MessageHeader.byteCount
    let tagBytes = link.format.tagBytes(header)
    if tagBytes > 0 {
      seal(PeerLink.index(of: connection), header, buffer, tagBytes, &reactor)
      count += tagBytes
    }
    unsafe reactor.send(
      link.stream, unsafe UnsafeRawBufferPointer(start: scratch.baseAddress, count: count))
    guard header.payloadBytes > 0 else { return }
    counters.sentBytes += UInt64(header.payloadBytes)
    reactor.send(link.stream, payload: buffer, length: header.payloadBytes)
  }

  /// Puts the tag behind the header in the scratch space. The payload cannot change any more: what
  /// a client sends was copied when it came.
  private mutating func seal(
    _ index: Int, _ header: MessageHeader, _ buffer: BufferID, _ tagBytes: Int,
    _ reactor: inout Reactor
  ) {
    var payload = unsafe UnsafeRawBufferPointer(start: nil, count: 0)
    if header.payloadBytes > 0 {
      unsafe payload = UnsafeRawBufferPointer(
        rebasing: reactor.memory(of: buffer)[0..<Int(header.payloadBytes)])
    }
    let tag = guards[index].seal(header, payload)
    unsafe tag.store(
      tagBytes,
      into: UnsafeMutableRawBufferPointer(rebasing: scratch[MessageHeader.byteCount...]))
  }

  mutating func sendControl(
    _ connection: ConnectionID, _ message: ControlMessage, _ reactor: inout Reactor
  ) {
    let count = unsafe replica.encode(message, for: connection, into: scratch)
    // The core gave the connection up in the same step: there is nothing to say on it.
    guard count > 0 else { return }
    guard let header = try? unsafe MessageHeader(parsing: UnsafeRawBufferPointer(scratch)) else {
      preconditionFailure("the core encodes what can be parsed")
    }
    sendScratch(connection, header, &reactor)
  }

  /// Sends the message at the start of the scratch space, header and payload.
  mutating func sendScratch(
    _ connection: ConnectionID, _ header: MessageHeader, _ reactor: inout Reactor
  ) {
    guard let link = link(of: connection), link.closeBy == .never else { return }
    let count = unsafe guards[PeerLink.index(of: connection)].insertTag(header, into: scratch)
    unsafe reactor.send(
      link.stream, unsafe UnsafeRawBufferPointer(start: scratch.baseAddress, count: count))
  }

  /// Closes a link on the core's wish: what is queued may still leave, for a while.
  mutating func close(_ connection: ConnectionID, _ reactor: inout Reactor) {
    guard let link = link(of: connection), link.closeBy == .never else { return }
    let index = PeerLink.index(of: connection)
    if link.buffer != .none { reactor.release(link.buffer) }
    links[index]?.header = nil
    links[index]?.buffer = .none
    closingLinks += 1
    links[index]?.closeBy = reactor.now.advanced(milliseconds: Self.closeMs)
    reactor.closeAfterSending(link.stream)
  }

  private mutating func drop(_ index: Int, _ reactor: inout Reactor) {
    guard let link = links[index] else { return }
    if link.buffer != .none { reactor.release(link.buffer) }
    reactor.closeStream(link.stream)
    forgetLink(index)
  }

  mutating func forgetLink(_ index: Int) {
    if links[index]?.isStarved == true { starvedLinks -= 1 }
    if let closeBy = links[index]?.closeBy, closeBy != .never { closingLinks -= 1 }
    links[index] = nil
  }
}
