/// The server's side of the fixed newstyle handshake: bytes in, bytes out, no I/O.
///
///     greeting sent ── client flags ──▶ options ──┬─ GO, EXPORT_NAME ──▶ transmission
///                          │             ▲  │     └─ ABORT ────────────▶ close
///                          ▼             └──┘ all others, answered in turn
///                        close (unknown flags, bad magic, a limit passed)
///
/// What must hold:
/// - every option is consumed whole and answered, so the session stays in step with the client;
/// - no more than one option (16 + 64 KiB bytes) is kept, and bytes after GO are left alone;
/// - at most one option is answered a step, so that the caller can wait until an answer has gone
///   out before it makes the next: a client that does not read cannot pile up answers here.
///
/// This is not the path of an I/O: arrays and strings are fine here.

import BlockTypes

/// What client and server agreed on.
struct NBDAgreement: Equatable, BitwiseCopyable {
  var export: ExportSlot
  /// READ is answered with chunks.
  var structured: Bool
  /// base:allocation was selected for this export.
  var allocationContext: Bool
}

/// One handshake.
struct NBDHandshake {
  /// What the caller does next.
  enum Outcome: Equatable {
    /// All bytes are consumed: wait for more.
    case wantsMore
    /// An option was answered; there may be more in the same bytes.
    case answered
    /// The client chose an export; the bytes that follow are requests.
    case transmission(NBDAgreement)
    /// Send what was put out, then close.
    case close(NBDCloseReason)
  }

  private enum State: Equatable {
    case clientFlags
    case optionHeader
    case optionData(option: UInt32, length: Int)
  }

  private var state = State.clientFlags
  /// The unfinished message; never longer than `wanted`.
  private var pending: [UInt8] = []
  private var optionCount: UInt32 = 0
  var fixedNewstyle = false
  var noZeroes = false
  var structured = false
  /// The export for which base:allocation was selected.
  var contextExport: ExportSlot?
  /// Longest READ or WRITE of this server.
  let payloadBytesMax: UInt32

  init(payloadBytesMax: UInt32) { self.payloadBytesMax = payloadBytesMax }

  /// The first bytes of a session: two magic numbers and the handshake flags, 18 bytes.
  static func greeting(into output: inout [UInt8]) {
    output.appendBigEndian(NBDMagic.greeting)
    output.appendBigEndian(NBDMagic.option)
    output.appendBigEndian(UInt16(NBDHandshakeFlag.offered))
  }

  /// Bytes kept from earlier calls; for tests of the bound.
  var pendingByteCount: Int { pending.count }

  /// Bytes that make the current message complete.
  private var wanted: Int {
    switch state {
    case .clientFlags: 4
    case .optionHeader: 16
    case .optionData(_, let length): length
    }
  }

  /// Takes what it needs of `bytes` and answers at most one option.
  ///
  /// - Parameter consumed: set to how many of `bytes` were used up.
  /// - Parameter output: the answer is appended.
  mutating func receive(
    _ bytes: UnsafeRawBufferPointer, consumed: inout Int, exports: borrowing ExportTable,
    output: inout [UInt8]
  ) -> Outcome {
    consumed = 0
    while true {
      let take = min(wanted - pending.count, bytes.count - consumed)
      if take > 0 {
        unsafe pending.append(contentsOf: bytes[consumed..<consumed + take])
        consumed += take
      }
      guard pending.count == wanted else { return .wantsMore }
      let message = pending
      pending.removeAll(keepingCapacity: true)
      if let outcome = complete(message, exports: exports, output: &output) { return outcome }
    }
  }

  /// Handles one complete message; `nil` means "go on with the next part".
  private mutating func complete(
    _ message: [UInt8], exports: borrowing ExportTable, output: inout [UInt8]
  ) -> Outcome? {
    switch state {
    case .clientFlags:
      let flags = message.bigEndianUInt32(at: 0)
      guard flags & ~NBDHandshakeFlag.offered == 0 else {
        return .close(.unknownClientFlags(flags))
      }
      fixedNewstyle = flags & NBDHandshakeFlag.fixedNewstyle != 0
      noZeroes = flags & NBDHandshakeFlag.noZeroes != 0
      state = .optionHeader
      return nil
    case .optionHeader:
      return acceptHeader(message)
    case .optionData(let option, _):
      state = .optionHeader
      return answer(option, data: message, exports: exports, output: &output)
    }
  }

  /// Checks an option's header before a byte of its data is kept.
  private mutating func acceptHeader(_ message: [UInt8]) -> Outcome? {
    let magic = message.bigEndianUInt64(at: 0)
    guard magic == NBDMagic.option else { return .close(.badMagic(magic)) }
    let option = message.bigEndianUInt32(at: 8)
    let length = message.bigEndianUInt32(at: 12)
    let limit = UInt32(NBDLimit.optionBytes)
    guard length <= limit else { return .close(.optionTooLong(length, limit: limit)) }
    optionCount += 1
    guard optionCount <= NBDLimit.optionsPerSession else {
      return .close(.tooManyOptions(limit: NBDLimit.optionsPerSession))
    }
    // A client of the first newstyle cannot parse an option reply: no other option has an answer.
    guard fixedNewstyle || option == NBDOption.exportName.rawValue else {
      return .close(.optionNeedsFixedNewstyle(option))
    }
    state = .optionData(option: option, length: Int(length))
    return nil
  }

  private mutating func answer(
    _ number: UInt32, data: [UInt8], exports: borrowing ExportTable, output: inout [UInt8]
  ) -> Outcome {
    guard let option = NBDOption(rawValue: number) else {
      output.appendReply(number, .errUnsupported, text: "option \(number) is not supported")
      return .answered
    }
    switch option {
    case .exportName: return chooseByName(data, exports: exports, output: &output)
    case .abort:
      output.appendReply(number, .ack)
      return .close(.disconnected)
    case .list: list(data, exports: exports, output: &output)
    case .info: return describe(.info, data, exports: exports, output: &output)
    case .go: return describe(.go, data, exports: exports, output: &output)
    case .structuredReply:
      if !data.isEmpty {
        output.appendReply(number, .errInvalid, text: "STRUCTURED_REPLY takes no data")
      } else if structured {
        output.appendReply(number, .errInvalid, text: "structured replies are already agreed")
      } else {
        structured = true
        output.appendReply(number, .ack)
      }
    case .listMetaContext, .setMetaContext:
      metaContext(option, data, exports: exports, output: &output)
    }
    return .answered
  }
}

extension NBDHandshake {
  /// EXPORT_NAME: the answer has no header and there is no way to say no but to close.
  private func chooseByName(
    _ data: [UInt8], exports: borrowing ExportTable, output: inout [UInt8]
  ) -> Outcome {
    guard data.count <= NBDLimit.stringBytes, let name = String(validating: data, as: UTF8.self),
      let slot = exports.resolve(name), let export = exports.exports[Int(slot.value)],
      exports.refusal(slot) == nil
    else { return .close(.exportNameRefused) }
    output.appendBigEndian(export.sizeBytes)
    output.appendBigEndian(exportFlags)
    if !noZeroes { output.append(contentsOf: repeatElement(0, count: 124)) }
    return .transmission(agreement(slot))
  }

  /// LIST: every export, those that are refused now too, with the reason as description.
  private func list(
    _ data: [UInt8], exports: borrowing ExportTable, output: inout [UInt8]
  ) {
    let option = NBDOption.list.rawValue
    guard data.isEmpty else {
      output.appendReply(option, .errInvalid, text: "LIST takes no data")
      return
    }
    let start = output.count
    for withReason in [true, false] {
      output.removeSubrange(start...)
      for export in exports.exports {
        guard let export else { continue }
        output.appendServerReply(export, withReason: withReason)
      }
      output.appendReply(option, .ack)
      if output.count - start <= NBDLimit.answerBytes { return }
    }
    output.removeSubrange(start...)
    output.appendReply(option, .errTooBig, text: "the list of exports is too long to send")
  }

  /// INFO and GO, which must answer alike; only GO moves on.
  private func describe(
    _ option: NBDOption, _ data: [UInt8], exports: borrowing ExportTable, output: inout [UInt8]
  ) -> Outcome {
    let number = option.rawValue
    let query: NBDInfoQuery
    do { query = try NBDInfoQuery(parsing: data) } catch {
      output.appendReply(number, .errInvalid, text: "\(error)")
      return .answered
    }
    guard
      let (slot, export) = usable(
        query.name, option: number, exports: exports, output: &output)
    else { return .answered }

    output.appendReplyHeader(number, .info, length: 12)
    output.appendBigEndian(NBDInfo.export.rawValue)
    output.appendBigEndian(export.sizeBytes)
    output.appendBigEndian(exportFlags)
    if query.wants(.name) {
      let name = Array(export.name.utf8)
      output.appendReplyHeader(number, .info, length: 2 + name.count)
      output.appendBigEndian(NBDInfo.name.rawValue)
      output.append(contentsOf: name)
    }
    // Sent unasked too: a client that did not ask may still learn that 1-byte I/O is refused.
    output.appendReplyHeader(number, .info, length: 14)
    output.appendBigEndian(NBDInfo.blockSize.rawValue)
    output.appendBigEndian(UInt32(sectorSize))
    output.appendBigEndian(UInt32(blockSize))
    output.appendBigEndian(payloadBytesMax)
    output.appendReply(number, .ack)
    return option == .go ? .transmission(agreement(slot)) : .answered
  }

  /// LIST_META_CONTEXT and SET_META_CONTEXT; base:allocation is the only context.
  private mutating func metaContext(
    _ option: NBDOption, _ data: [UInt8], exports: borrowing ExportTable, output: inout [UInt8]
  ) {
    let number = option.rawValue
    // SET replaces the earlier selection even when it fails.
    if option == .setMetaContext { contextExport = nil }
    guard structured else {
      output.appendReply(number, .errInvalid, text: "agree to STRUCTURED_REPLY first")
      return
    }
    let query: NBDContextQuery
    do { query = try NBDContextQuery(parsing: data) } catch {
      output.appendReply(number, .errInvalid, text: "\(error)")
      return
    }
    guard
      let (slot, _) = usable(
        query.name, option: number, exports: exports, output: &output)
    else { return }
    let matches =
      switch option {
      case .listMetaContext:
        query.queries == 0 || query.namesAllocation || query.namesBaseNamespace
      default: query.namesAllocation
      }
    if matches {
      let name = Array("\(NBDContext.name)".utf8)
      output.appendReplyHeader(number, .metaContext, length: 4 + name.count)
      // The id is reserved in an answer to LIST.
      output.appendBigEndian(option == .setMetaContext ? NBDContext.id : 0)
      output.append(contentsOf: name)
      if option == .setMetaContext { contextExport = slot }
    }
    output.appendReply(number, .ack)
  }

  /// The export of that name if a client may use it now; otherwise the refusal is put out.
  private func usable(
    _ name: String, option: UInt32, exports: borrowing ExportTable, output: inout [UInt8]
  ) -> (ExportSlot, NBDExport)? {
    guard let slot = exports.resolve(name), let export = exports.exports[Int(slot.value)] else {
      let text = name.isEmpty ? "name an export: there is not exactly one" : "no such export"
      output.appendReply(option, .errUnknown, text: text)
      return nil
    }
    if let reason = exports.refusal(slot) {
      output.appendReply(option, .errPolicy, text: reason)
      return nil
    }
    return (slot, export)
  }

  /// Transmission flags, the same for all exports: one engine serves all connections of an export,
  /// so a flushed write on one is seen by all (CAN_MULTI_CONN).
  private var exportFlags: UInt16 {
    var flags = NBDExportFlag.hasFlags | NBDExportFlag.sendFlush | NBDExportFlag.sendFUA
    flags |= NBDExportFlag.sendTrim | NBDExportFlag.sendWriteZeroes
    flags |= NBDExportFlag.canMultiConn | NBDExportFlag.sendCache
    if structured { flags |= NBDExportFlag.sendDF }
    return flags
  }

  private func agreement(_ slot: ExportSlot) -> NBDAgreement {
    NBDAgreement(
      export: slot, structured: structured,
      allocationContext: structured && contextExport == slot)
  }
}
