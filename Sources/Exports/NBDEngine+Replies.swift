/// Completions of the core and the replies to the client.
///
/// What must hold: a WRITE's buffer is released at its completion, a READ's after it was queued to
/// be sent (the transport holds it until it left); nothing is sent for a session that is gone.

import BlockIO
import BlockTypes

extension NBDEngine {
  /// The data of a piece of a READ are in another buffer.
  mutating func substitute<T: NBDTransport & ~Copyable>(
    _ tag: UInt64, buffer: BufferID, _ transport: inout T
  ) {
    let id = SlotID(tag: tag)
    let old = pieces[id].buffer
    precondition(old != .none, "only a READ has a place for data")
    pieces[id].buffer = buffer
    transport.release(old)
  }

  /// The core has completed a piece.
  ///
  /// - Parameter error: 0, or an errno of either sign.
  mutating func complete<T: NBDTransport & ~Copyable>(
    _ tag: UInt64, error: Int32, _ transport: inout T
  ) {
    let id = SlotID(tag: tag)
    let piece = pieces[id]
    let slot = piece.session
    precondition(sessions[slot].pieces > 0, "a completion for a session without pieces")
    sessions[slot].pieces -= 1
    exports[gate: sessions[slot].export.value].pieces -= 1
    if piece.length == piece.total {
      completeOnly(id, piece, error: error, &transport)
    } else {
      completeOne(id, piece, error: error, &transport)
    }
    if sessions[slot].phase == .gone { freeIfQuiet(slot) }
  }

  /// The only piece of its request: the path of nearly every request.
  @inline(__always)
  private mutating func completeOnly<T: NBDTransport & ~Copyable>(
    _ id: SlotID, _ piece: NBDPiece, error: Int32, _ transport: inout T
  ) {
    if error != 0 {
      answerFailure(piece, error: error, &transport)
    } else {
      count(piece)
      if piece.command != NBDCommand.read.rawValue {
        answerDone(piece.session, cookie: piece.cookie, &transport)
      } else if piece.streams {
        answerData(piece, isDone: true, &transport)
      } else {
        answerWholeRead(id, &transport)
      }
    }
    if piece.buffer != .none { releaseBuffer(piece, &transport) }
    pieces.remove(id)
    requestEnded(piece.session, &transport)
  }

  /// One of several pieces.
  private mutating func completeOne<T: NBDTransport & ~Copyable>(
    _ id: SlotID, _ piece: NBDPiece, error: Int32, _ transport: inout T
  ) {
    if piece.command == NBDCommand.write.rawValue { releaseBuffer(piece, &transport) }
    let isFirst = piece.first == NBDSession.noPiece
    let firstID = isFirst ? id : piece.first
    var first = isFirst ? piece : pieces[firstID]
    precondition(first.remaining > 0, "more completions than pieces")
    first.remaining -= 1
    if error != 0, first.error == 0 { first.error = error }

    let isWholeRead = piece.command == NBDCommand.read.rawValue && !piece.streams
    if piece.command == NBDCommand.read.rawValue, piece.streams {
      let isDone = first.remaining == 0 && first.error == 0
      if error == 0 { answerData(piece, isDone: isDone, &transport) }
      releaseBuffer(piece, &transport)
    }
    // The pieces of a READ with one reply are kept, in order, until the last has come.
    if !isFirst, !isWholeRead { pieces.remove(id) }
    pieces[firstID] = first
    if first.remaining == 0 { finish(firstID, &transport) }
  }

  /// Answers a request of several pieces that have all completed, and frees its first piece.
  private mutating func finish<T: NBDTransport & ~Copyable>(
    _ id: SlotID, _ transport: inout T
  ) {
    let first = pieces[id]
    let slot = first.session
    let isRead = first.command == NBDCommand.read.rawValue
    if first.error != 0 {
      answerFailure(first, error: first.error, &transport)
    } else {
      count(first)
      if !isRead {
        answerDone(slot, cookie: first.cookie, &transport)
      } else if !first.streams {
        answerWholeRead(id, &transport)
      }
    }
    if isRead, !first.streams {
      releaseChain(id, &transport)
    } else {
      pieces.remove(id)
    }
    requestEnded(slot, &transport)
  }

  private mutating func answerFailure<T: NBDTransport & ~Copyable>(
    _ piece: NBDPiece, error: Int32, _ transport: inout T
  ) {
    let code = NBDError.code(errno: error)
    let refusal = NBDRefusal(code, Self.reason(code))
    answerError(piece.session, cookie: piece.cookie, refusal, &transport)
  }

  private static func reason(_ code: UInt32) -> StaticString {
    switch code {
    case NBDError.shutdown: "the export is closing on this node"
    case NBDError.notPermitted: "this node may not write to the volume now"
    case NBDError.noSpace: "no space left on the backing disk"
    case NBDError.notSupported: "not supported by the backing disk"
    default: "the volume reported an I/O error; see the log of ashlard"
    }
  }

  /// One request less; what waited for that goes on.
  @inline(__always)
  private mutating func requestEnded<T: NBDTransport & ~Copyable>(
    _ slot: UInt32, _ transport: inout T
  ) {
    precondition(sessions[slot].inFlight > 0, "more requests ended than began")
    sessions[slot].inFlight -= 1
    exports[gate: sessions[slot].export.value].inFlight -= 1
    switch sessions[slot].phase {
    case .transmission: if sessions[slot].input == .limit { resume(slot, &transport) }
    case .draining: endDrainIfDone(slot, &transport)
    case .handshake, .gone, .free: break
    }
  }

  /// Gives up the request that is being taken in. Pieces already in the core go on; the request is
  /// answered with `error` when they are done.
  mutating func abandonIntake<T: NBDTransport & ~Copyable>(
    _ slot: UInt32, error: Int32, _ transport: inout T
  ) {
    let input = sessions[slot].input
    guard input == .payload || input == .resources else { return }
    sessions[slot].input = .header
    if input == .resources { leaveLine(slot) }
    if input == .payload {
      let id = sessions[slot].piece
      transport.release(pieces[id].buffer)
      pieces.remove(id)
    }
    if sessions[slot].issued > 0 {
      let id = sessions[slot].first
      if pieces[id].error == 0 { pieces[id].error = error }
      pieces[id].remaining -= 1
      if pieces[id].remaining == 0 { finish(id, &transport) }
    } else {
      let refusal = NBDRefusal(UInt32(error), Self.reason(UInt32(error)))
      answerError(slot, cookie: sessions[slot].request.cookie, refusal, &transport)
      requestEnded(slot, &transport)
    }
  }

  @inline(__always)
  private mutating func count(_ first: NBDPiece) {
    let export = sessions[first.session].export.value
    switch first.command {
    case NBDCommand.read.rawValue:
      exports[gate: export].statistics.reads &+= 1
      exports[gate: export].statistics.bytesRead &+= UInt64(first.total)
    case NBDCommand.write.rawValue:
      exports[gate: export].statistics.writes &+= 1
      exports[gate: export].statistics.bytesWritten &+= UInt64(first.total)
    default: exports[gate: export].statistics.others &+= 1
    }
  }
}

/// Replies.
extension NBDEngine {
  /// The stream on which the session can still be answered.
  @inline(__always)
  private func answerStream(_ slot: UInt32) -> StreamID? {
    sessions[slot].isAnswerable ? sessions[slot].stream : nil
  }

  @inline(__always)
  private func sendScratch<T: NBDTransport & ~Copyable>(
    _ stream: StreamID, _ count: Int, _ transport: inout T
  ) {
    unsafe transport.send(stream, UnsafeRawBufferPointer(start: scratch, count: count))
  }

  /// Success without data.
  @inline(__always)
  mutating func answerDone<T: NBDTransport & ~Copyable>(
    _ slot: UInt32, cookie: UInt64, _ transport: inout T
  ) {
    guard let stream = answerStream(slot) else { return }
    sendScratch(
      stream, unsafe NBDReplyBytes.simple(scratch, error: 0, cookie: cookie), &transport)
  }

  /// An error; with the reason where the client can take one.
  mutating func answerError<T: NBDTransport & ~Copyable>(
    _ slot: UInt32, cookie: UInt64, _ refusal: NBDRefusal, _ transport: inout T
  ) {
    if sessions[slot].phase == .transmission || sessions[slot].phase == .draining {
      exports[gate: sessions[slot].export.value].statistics.errors &+= 1
    }
    guard let stream = answerStream(slot) else { return }
    let count =
      if sessions[slot].structured {
        unsafe NBDReplyBytes.error(
          scratch, error: refusal.error, cookie: cookie, message: refusal.reason)
      } else {
        unsafe NBDReplyBytes.simple(scratch, error: refusal.error, cookie: cookie)
      }
    sendScratch(stream, count, &transport)
  }

  /// Success of a READ of nothing.
  mutating func answerEmptyRead<T: NBDTransport & ~Copyable>(
    _ slot: UInt32, cookie: UInt64, _ transport: inout T
  ) {
    guard sessions[slot].structured, let stream = answerStream(slot) else {
      return answerDone(slot, cookie: cookie, &transport)
    }
    let count = unsafe NBDReplyBytes.chunk(
      scratch, flags: NBDChunk.done, type: NBDChunk.none, cookie: cookie, length: 0)
    sendScratch(stream, count, &transport)
  }

  /// One extent, "allocated data": always true, whatever the backing disk knows.
  mutating func answerBlockStatus<T: NBDTransport & ~Copyable>(
    _ slot: UInt32, _ request: NBDRequest, _ transport: inout T
  ) {
    guard let stream = answerStream(slot) else { return }
    let count = unsafe NBDReplyBytes.blockStatus(
      scratch, cookie: request.cookie, count: request.length, extentFlags: 0)
    sendScratch(stream, count, &transport)
  }

  /// One chunk of a READ.
  @inline(__always)
  private mutating func answerData<T: NBDTransport & ~Copyable>(
    _ piece: NBDPiece, isDone: Bool, _ transport: inout T
  ) {
    guard let stream = answerStream(piece.session) else { return }
    let count = unsafe NBDReplyBytes.offsetData(
      scratch, done: isDone, cookie: piece.cookie, offset: piece.offset, count: piece.length)
    sendScratch(stream, count, &transport)
    transport.send(stream, payload: piece.buffer, bufferOffset: 0, length: piece.length)
  }

  /// The simple reply to a READ: header, then the data of all pieces.
  private mutating func answerWholeRead<T: NBDTransport & ~Copyable>(
    _ first: SlotID, _ transport: inout T
  ) {
    guard let stream = answerStream(pieces[first].session) else { return }
    let header = unsafe NBDReplyBytes.simple(scratch, error: 0, cookie: pieces[first].cookie)
    sendScratch(stream, header, &transport)
    var id = first
    while id != NBDSession.noPiece {
      let piece = pieces[id]
      transport.send(stream, payload: piece.buffer, bufferOffset: 0, length: piece.length)
      id = piece.next
    }
  }

  private mutating func releaseChain<T: NBDTransport & ~Copyable>(
    _ first: SlotID, _ transport: inout T
  ) {
    var id = first
    while id != NBDSession.noPiece {
      let piece = pieces[id]
      releaseBuffer(piece, &transport)
      pieces.remove(id)
      id = piece.next
    }
  }

  /// Gives back the buffer of a piece that was in the core.
  @inline(__always)
  private mutating func releaseBuffer<T: NBDTransport & ~Copyable>(
    _ piece: NBDPiece, _ transport: inout T
  ) {
    transport.release(piece.buffer)
    exports[gate: sessions[piece.session].export.value].held[piece.bufferClass] -= 1
  }
}
