/// Taking requests in: parse, judge, cut into pieces, and give the pieces to the core.
///
/// What must hold: a refused request's payload is skipped to the byte, so that the next header is
/// found; a range is compared with the export before it is added up; the first piece of a request
/// is given to the core only when its buffer is full.

import BlockIO
import BlockTypes

/// Why a request is refused: the protocol's error number and a reason for the client's log.
struct NBDRefusal: BitwiseCopyable {
  var error: UInt32
  var reason: StaticString

  init(_ error: UInt32, _ reason: StaticString) {
    self.error = error
    self.reason = reason
  }
}

extension NBDEngine {
  /// Takes as many requests as there are in the window and limits allow.
  mutating func process<T: NBDTransport & ~Copyable>(_ slot: UInt32, _ transport: inout T) {
    while let stream = sessions[slot].stream, sessions[slot].phase == .transmission {
      switch sessions[slot].input {
      case .payload, .resources, .limit: return
      case .refused:
        guard skipRefused(slot, stream, &transport) else { return }
      case .header:
        let isFull = sessions[slot].inFlight >= options.requestsPerClientMax
        if isFull || transport.sendIsCongested(stream) {
          sessions[slot].input = .limit
          return
        }
        let window = unsafe transport.received(stream)
        guard window.count >= NBDRequest.byteCount else { return }
        guard let request = unsafe NBDRequest(parsing: window, at: 0) else {
          let magic = unsafe UInt32(bigEndian: window.loadUnaligned(as: UInt32.self))
          return close(slot, .badMagic(UInt64(magic)), &transport)
        }
        transport.consume(stream, NBDRequest.byteCount)
        statistics.requests &+= 1
        guard start(slot, stream, request, &transport) else { return }
      }
    }
  }

  /// Skips the payload of a refused WRITE; `false` when more of it is to come.
  private mutating func skipRefused<T: NBDTransport & ~Copyable>(
    _ slot: UInt32, _ stream: StreamID, _ transport: inout T
  ) -> Bool {
    let available = unsafe transport.received(stream).count
    let count = min(available, Int(sessions[slot].refusedRemaining))
    if count > 0 { transport.consume(stream, count) }
    sessions[slot].refusedRemaining -= UInt32(count)
    guard sessions[slot].refusedRemaining == 0 else { return false }
    sessions[slot].input = .header
    return true
  }

  /// Begins a request; `true` when the next header may be looked at.
  @inline(__always)
  private mutating func start<T: NBDTransport & ~Copyable>(
    _ slot: UInt32, _ stream: StreamID, _ request: NBDRequest, _ transport: inout T
  ) -> Bool {
    let export = sessions[slot].export.value
    let isPlainTransfer =
      request.command <= NBDCommand.write.rawValue
      && request.flags & ~NBDCommandFlag.fua == 0
      && (request.offset | UInt64(request.length)) & (sectorSize - 1) == 0
      && request.length > 0 && request.length <= options.payloadBytesMax
      && exports[gate: export].isWritable
      && request.offset <= exports[gate: export].sizeBytes
      && UInt64(request.length) <= exports[gate: export].sizeBytes - request.offset
    if !isPlainTransfer {
      guard judge(slot, stream, request, &transport) else {
        return sessions[slot].phase == .transmission
      }
    }
    sessions[slot].request = request
    sessions[slot].issued = 0
    sessions[slot].inFlight += 1
    exports[gate: export].inFlight += 1
    return takeIn(slot, &transport)
  }

  /// Handles everything that is not a plain READ or WRITE; `true` when the core has to be asked.
  private mutating func judge<T: NBDTransport & ~Copyable>(
    _ slot: UInt32, _ stream: StreamID, _ request: NBDRequest, _ transport: inout T
  ) -> Bool {
    let command = NBDCommand(rawValue: request.command)
    if command == .disconnect {
      drain(slot, .disconnected, &transport)
      return false
    }
    if command == .write, request.length > options.payloadBytesMax {
      // Skipping up to 4 GiB for a client that ignores the advertised limit serves nobody.
      let limit = options.payloadBytesMax
      close(slot, .payloadTooLong(request.length, limit: limit), &transport)
      return false
    }
    if let refusal = refusal(of: request, command, slot) {
      answerError(slot, cookie: request.cookie, refusal, &transport)
      if command == .write, request.length > 0 {
        sessions[slot].refusedRemaining = request.length
        sessions[slot].input = .refused
      }
      return false
    }
    switch command {
    case .flush: return true
    case .read where request.length == 0:
      answerEmptyRead(slot, cookie: request.cookie, &transport)
      return false
    case .blockStatus:
      answerBlockStatus(slot, request, &transport)
      return false
    case .cache:
      answerDone(slot, cookie: request.cookie, &transport)
      return false
    case .read, .write, .trim, .writeZeroes:
      if request.length > 0 { return true }
      answerDone(slot, cookie: request.cookie, &transport)
      return false
    case .disconnect, nil: return false
    }
  }

  /// What is wrong with the request, if anything is.
  private func refusal(
    of request: NBDRequest, _ command: NBDCommand?, _ slot: UInt32
  ) -> NBDRefusal? {
    guard let command else { return NBDRefusal(NBDError.invalid, "unknown command") }
    let gate = exports[gate: sessions[slot].export.value]
    guard gate.isWritable else {
      return NBDRefusal(NBDError.shutdown, "this node no longer serves the export")
    }
    var allowed = NBDCommandFlag.fua
    switch command {
    case .read: if sessions[slot].structured { allowed |= NBDCommandFlag.dontFragment }
    case .writeZeroes: allowed |= NBDCommandFlag.noHole
    case .blockStatus: allowed |= NBDCommandFlag.requestOne
    case .write, .disconnect, .flush, .trim, .cache: break
    }
    guard request.flags & ~allowed == 0 else {
      return NBDRefusal(NBDError.invalid, "unknown or unsuitable command flag")
    }
    // A FLUSH has no range; what a client puts there means nothing.
    guard command != .flush else { return nil }

    let length = UInt64(request.length)
    let isInside = request.offset <= gate.sizeBytes && length <= gate.sizeBytes - request.offset
    guard isInside else {
      let isWrite = command == .write || command == .writeZeroes
      return NBDRefusal(
        isWrite ? NBDError.noSpace : NBDError.invalid, "range reaches past the end of the export")
    }
    guard (request.offset | length) & (sectorSize - 1) == 0 else {
      return NBDRefusal(NBDError.invalid, "offset and length must be multiples of 512")
    }
    if command == .read {
      guard request.length <= options.payloadBytesMax else {
        return NBDRefusal(NBDError.invalid, "READ is longer than the advertised maximum")
      }
      let isWhole = request.flags & NBDCommandFlag.dontFragment != 0
      guard !isWhole || request.length <= NBDLimit.unfragmentedBytes else {
        return NBDRefusal(NBDError.overflow, "unfragmented READ is longer than 1 MiB")
      }
    }
    if command == .blockStatus {
      guard sessions[slot].allocationContext else {
        return NBDRefusal(NBDError.invalid, "no metadata context was selected")
      }
      guard length > 0 else {
        return NBDRefusal(NBDError.invalid, "BLOCK_STATUS of an empty range")
      }
    }
    return nil
  }
}

/// Pieces.
extension NBDEngine {
  /// Goes on with the session's request; `true` when all of it is with the core, `false` when it
  /// waits for payload or resources.
  @inline(__always)
  mutating func takeIn<T: NBDTransport & ~Copyable>(
    _ slot: UInt32, _ transport: inout T
  ) -> Bool {
    switch sessions[slot].request.command {
    case NBDCommand.write.rawValue: return takeInWrite(slot, &transport)
    case NBDCommand.read.rawValue:
      let isWhole = !sessions[slot].structured && sessions[slot].request.length > maxPayloadBytes
      return isWhole ? takeInWholeRead(slot, &transport) : takeInRead(slot, &transport)
    default: return takeInEffect(slot, &transport)
    }
  }

  private mutating func takeInWrite<T: NBDTransport & ~Copyable>(
    _ slot: UInt32, _ transport: inout T
  ) -> Bool {
    guard let stream = sessions[slot].stream else { return false }
    repeat {
      let left = sessions[slot].request.length - sessions[slot].issued
      let count = min(left, maxPayloadBytes)
      guard let (id, buffer) = makePiece(slot, count, withBuffer: true, &transport) else {
        return wait(slot)
      }
      sessions[slot].piece = id
      let isHere = transport.receivePayload(
        stream, into: buffer, bufferOffset: 0, length: count)
      guard isHere else {
        sessions[slot].input = .payload
        return false
      }
      issue(slot, id, count, buffer)
    } while sessions[slot].issued < sessions[slot].request.length
    sessions[slot].input = .header
    return true
  }

  /// The payload that `takeInWrite` asked for is in the buffer.
  mutating func payloadReceived<T: NBDTransport & ~Copyable>(
    _ slot: UInt32, _ transport: inout T
  ) {
    sessions[slot].progress = now
    guard sessions[slot].input == .payload else { return }
    guard sessions[slot].phase == .transmission else {
      abandonIntake(slot, error: Int32(NBDError.shutdown), &transport)
      return endDrainIfDone(slot, &transport)
    }
    let id = sessions[slot].piece
    let piece = pieces[id]
    issue(slot, id, piece.length, piece.buffer)
    if sessions[slot].issued < sessions[slot].request.length {
      guard takeInWrite(slot, &transport) else { return }
    }
    sessions[slot].input = .header
    process(slot, &transport)
  }

  /// A READ whose pieces are answered one by one, or that has only one.
  private mutating func takeInRead<T: NBDTransport & ~Copyable>(
    _ slot: UInt32, _ transport: inout T
  ) -> Bool {
    repeat {
      let count = min(sessions[slot].request.length - sessions[slot].issued, maxPayloadBytes)
      guard let (id, buffer) = makePiece(slot, count, withBuffer: true, &transport) else {
        return wait(slot)
      }
      issue(slot, id, count, buffer)
    } while sessions[slot].issued < sessions[slot].request.length
    sessions[slot].input = .header
    return true
  }

  /// A READ that is answered by one simple reply: it needs all its buffers before any data can
  /// leave, so it takes all of them or none. Two such requests cannot starve each other.
  private mutating func takeInWholeRead<T: NBDTransport & ~Copyable>(
    _ slot: UInt32, _ transport: inout T
  ) -> Bool {
    let total = sessions[slot].request.length
    var head = NBDSession.noPiece
    var tail = NBDSession.noPiece
    while sessions[slot].issued < total {
      let count = min(total - sessions[slot].issued, maxPayloadBytes)
      guard let (id, _) = makePiece(slot, count, withBuffer: true, &transport) else {
        while head != NBDSession.noPiece {
          let piece = pieces[head]
          transport.release(piece.buffer)
          pieces.remove(head)
          head = piece.next
        }
        sessions[slot].issued = 0
        return wait(slot)
      }
      if head == NBDSession.noPiece { head = id } else { pieces[tail].next = id }
      tail = id
      if sessions[slot].issued == 0 { sessions[slot].first = id }
      sessions[slot].issued += count
    }
    sessions[slot].issued = 0
    var id = head
    while id != NBDSession.noPiece {
      let piece = pieces[id]
      issue(slot, id, piece.length, piece.buffer)
      id = piece.next
    }
    sessions[slot].input = .header
    return true
  }

  /// FLUSH, TRIM and WRITE_ZEROES: no payload.
  private mutating func takeInEffect<T: NBDTransport & ~Copyable>(
    _ slot: UInt32, _ transport: inout T
  ) -> Bool {
    let isFlush = sessions[slot].request.command == NBDCommand.flush.rawValue
    if isFlush { sessions[slot].request.length = 0 }
    repeat {
      let left = sessions[slot].request.length - sessions[slot].issued
      let count = min(left, NBDLimit.effectPieceBytes)
      guard let (id, _) = makePiece(slot, count, withBuffer: false, &transport) else {
        return wait(slot)
      }
      issue(slot, id, count, .none)
    } while sessions[slot].issued < sessions[slot].request.length
    sessions[slot].input = .header
    return true
  }

  /// A slot and, if wanted, a buffer for the next piece of the session's request.
  @inline(__always)
  private mutating func makePiece<T: NBDTransport & ~Copyable>(
    _ slot: UInt32, _ count: UInt32, withBuffer: Bool, _ transport: inout T
  ) -> (SlotID, BufferID)? {
    guard pieces.count < pieces.capacity else {
      isOverShare = false
      return nil
    }
    if exports.areSeveral {
      guard hasShareOfPieces(slot) else { return nil }
    }
    var buffer = BufferID.none
    if withBuffer {
      guard isRetrying || waiting.isEmpty || mayPassThoseWhoWait(slot) else { return nil }
      var reserve = options.bufferReserve
      if exports.areSeveral {
        let export = sessions[slot].export.value
        reserve += exports[gate: export].held[NBDPiece.bufferClass(count)]
      }
      guard let free = transport.allocate(count, reserve: reserve) else {
        findWhatIsShort(count, reserve, &transport)
        return nil
      }
      buffer = free
    }
    let request = sessions[slot].request
    let issued = sessions[slot].issued
    let isFirst = issued == 0
    let isOnly = count == request.length
    let piece = NBDPiece(
      session: slot, cookie: request.cookie, offset: request.offset &+ UInt64(issued),
      length: count, buffer: buffer, command: request.command,
      streams: sessions[slot].structured,
      first: isFirst ? NBDSession.noPiece : sessions[slot].first, next: NBDSession.noPiece,
      remaining: isFirst ? (isOnly ? 1 : 2) : 0, error: 0, total: request.length)
    guard let id = pieces.insert(piece) else { preconditionFailure("a free slot was counted") }
    return (id, buffer)
  }

  /// Whether the export of the session holds fewer pieces than it leaves. One piece a session may
  /// have in any case: a request of many holds its first until the others are taken in. Not where
  /// clients have given up: each that comes and goes would leave one.
  private mutating func hasShareOfPieces(_ slot: UInt32) -> Bool {
    let left = pieces.capacity - pieces.count
    let export = sessions[slot].export.value
    let hasGiven = sessions[slot].pieces > 0 || exports[gate: export].gone > 0
    isOverShare = hasGiven && Int(exports[gate: export].pieces) >= left
    return !isOverShare
  }

  /// Whether nobody of the session's export waits, and those who do have what was left to them.
  private func mayPassThoseWhoWait(_ slot: UInt32) -> Bool {
    guard exports.areSeveral, !isShort else { return false }
    return exports[gate: sessions[slot].export.value].waiting == 0
  }

  /// Finds out whether a buffer was refused because the export holds too many.
  private mutating func findWhatIsShort<T: NBDTransport & ~Copyable>(
    _ count: UInt32, _ reserve: UInt32, _ transport: inout T
  ) {
    isOverShare = false
    guard reserve > options.bufferReserve,
      let free = transport.allocate(count, reserve: options.bufferReserve)
    else { return }
    transport.release(free)
    isOverShare = true
  }

  /// Gives a piece to the core.
  @inline(__always)
  private mutating func issue(_ slot: UInt32, _ id: SlotID, _ count: UInt32, _ buffer: BufferID) {
    let request = sessions[slot].request
    let issued = sessions[slot].issued
    let isLast = issued + count == request.length
    if issued == 0 {
      sessions[slot].first = id
    } else if !isLast {
      // The last piece takes over the count that was held while the request was being taken in.
      pieces[sessions[slot].first].remaining += 1
    }
    sessions[slot].issued = issued + count
    sessions[slot].pieces += 1
    let export = sessions[slot].export.value
    exports[gate: export].pieces += 1
    if buffer != .none { exports[gate: export].held[NBDPiece.bufferClass(count)] += 1 }
    let operation: ExportOperation
    switch request.command {
    case NBDCommand.read.rawValue: operation = .read
    case NBDCommand.write.rawValue: operation = .write
    case NBDCommand.trim.rawValue: operation = .trim
    case NBDCommand.writeZeroes.rawValue: operation = .writeZeroes
    default: operation = .flush
    }
    let isFlush = operation == .flush
    // A READ or FLUSH with FUA is legal and means nothing more than without.
    let changesData = !isFlush && operation != .read
    let mayUnmap =
      operation == .trim
      || operation == .writeZeroes && request.flags & NBDCommandFlag.noHole == 0
    requests.push(
      ExportRequest(
        operation: operation, fua: request.flags & NBDCommandFlag.fua != 0 && changesData,
        mayUnmap: mayUnmap,
        export: sessions[slot].export,
        offset: ByteOffset(bytes: isFlush ? 0 : request.offset &+ UInt64(issued)),
        length: count, buffer: buffer, tag: id.tag))
  }

  /// Puts the session at the end of the queue for resources, unless it is there. Always `false`.
  private mutating func wait(_ slot: UInt32) -> Bool {
    guard sessions[slot].input != .resources else { return false }
    sessions[slot].input = .resources
    statistics.waits += 1
    sessions[slot].waitingSince = now
    exports[gate: sessions[slot].export.value].waiting += 1
    waiting.append(slot, &sessions)
    return false
  }
}
