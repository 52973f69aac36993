/// The control socket: one JSON object a line each way, on SwiftNIO, away from the reactor's
/// thread.
///
/// Bounds: 32 connections, 64 KiB a request, 64 requests of a connection that are not answered;
/// 60 s without a request closes a connection.
import BlockIO
import Control
import Glibc
import Logging
import NIOConcurrencyHelpers
import NIOCore
import NIOPosix

/// A client that watches with `events2`. One that does not read is closed, so that nothing is left
/// out silently.
final class EventSink: @unchecked Sendable {
  // Unchecked: `waiting` and `isGone` are touched with `lock` held; a channel may be used by any
  // thread.
  private let channel: any Channel
  private let lock = NIOLock()
  private var waiting = 0
  private var isGone = false

  /// Messages that may wait for the client to read.
  private static let limit = 4096

  init(_ channel: any Channel) {
    self.channel = channel
    channel.closeFuture.whenComplete { _ in self.lock.withLock { self.isGone = true } }
  }

  /// Sends the client away.
  func close() { channel.close(promise: nil) }

  /// Sends a message; `false` when there is nobody any more.
  func send(_ reply: ControlReply) -> Bool {
    let isLate = lock.withLock { () -> Bool? in
      if isGone { return nil }
      waiting += 1
      return waiting > Self.limit
    }
    guard let isLate else { return false }
    guard !isLate else {
      channel.close(promise: nil)
      return false
    }
    let channel = channel
    channel.eventLoop.execute {
      guard let line = try? ControlCodec.line(reply) else { return channel.close(promise: nil) }
      channel.writeAndFlush(ByteBuffer(bytes: line)).whenComplete { _ in
        self.lock.withLock { self.waiting -= 1 }
      }
    }
    return true
  }
}

/// Takes a request and answers it once, from any thread.
typealias RequestHandler = @Sendable (ControlRequest, @escaping ReplyHandler) -> Void

/// Serves the control socket.
struct ControlServer {
  private let channel: any Channel

  /// Connections at a time: an administrator's shells and scripts, not an API for the world.
  static let connectionLimit = 32

  /// Listens on `path`, replacing a socket file that a dead daemon left behind.
  static func start(
    path: String, group: MultiThreadedEventLoopGroup,
    subscribe: @escaping @Sendable (EventSink) -> Void, handler: @escaping RequestHandler
  ) throws -> ControlServer {
    let counter = ConnectionCounter()
    let channel = try ServerBootstrap(group: group)
      .serverChannelOption(.backlog, value: 64)
      .childChannelInitializer { channel in
        channel.eventLoop.makeCompletedFuture {
          guard counter.enter() else { throw ChannelError.ioOnClosedChannel }
          channel.closeFuture.whenComplete { _ in counter.leave() }
          let pipeline = channel.pipeline.syncOperations
          try pipeline.addHandler(IdleStateHandler(readTimeout: .seconds(60)))
          try pipeline.addHandler(
            ByteToMessageHandler(LineDecoder(), maximumBufferSize: ControlCodec.requestBytes))
          try pipeline.addHandler(ControlHandler(subscribe: subscribe, handler: handler))
        }
      }
      .bind(unixDomainSocketPath: path, cleanupExistingSocketFile: true).wait()
    // Whatever the umask: who may write here commands the node, and reads its secrets.
    guard unsafe chmod(path, 0o600) == 0 else {
      let reason = errno
      try? channel.close().wait()
      throw SystemError(call: "chmod", errno: reason, path: path)
    }
    return ControlServer(channel: channel)
  }

  func close() {
    try? channel.close().wait()
  }
}

/// Counts open connections; used on one event loop only.
private final class ConnectionCounter: @unchecked Sendable {
  // Unchecked: the group has one thread, and every call is made on it.
  private var count = 0

  func enter() -> Bool {
    guard count < ControlServer.connectionLimit else { return false }
    count += 1
    return true
  }

  func leave() { count -= 1 }
}

/// Cuts the stream into lines.
private struct LineDecoder: ByteToMessageDecoder {
  typealias InboundOut = ByteBuffer

  mutating func decode(context: ChannelHandlerContext, buffer: inout ByteBuffer)
    -> DecodingState
  {
    guard let end = buffer.readableBytesView.firstIndex(of: UInt8(ascii: "\n")) else {
      return .needMoreData
    }
    let length = end - buffer.readerIndex + 1
    guard let line = buffer.readSlice(length: length) else { return .needMoreData }
    context.fireChannelRead(wrapInboundOut(line))
    return .continue
  }

  mutating func decodeLast(
    context: ChannelHandlerContext, buffer: inout ByteBuffer, seenEOF: Bool
  ) -> DecodingState { .needMoreData }
}

/// Turns lines into requests and replies into lines.
private final class ControlHandler: ChannelInboundHandler {
  typealias InboundIn = ByteBuffer
  typealias OutboundOut = ByteBuffer

  private let subscribe: @Sendable (EventSink) -> Void
  private let handler: RequestHandler
  /// Requests whose answers have not been sent. Touched on the connection's event loop only.
  private var unanswered = 0

  /// Requests a client may send ahead. One that goes beyond reads no answers, or wants no good.
  private static let unansweredLimit = 64

  init(
    subscribe: @escaping @Sendable (EventSink) -> Void, handler: @escaping RequestHandler
  ) {
    self.subscribe = subscribe
    self.handler = handler
  }

  func channelRead(context: ChannelHandlerContext, data: NIOAny) {
    let line = unwrapInboundIn(data)
    let request: ControlRequest
    do {
      request = try ControlCodec.request(from: line.readableBytesView)
    } catch {
      write(ControlReply(exitCode: 20, standardError: ["ashlard: \(error)"]), context.channel)
      return
    }
    let channel = context.channel
    guard unanswered < Self.unansweredLimit, channel.isWritable else {
      return context.close(promise: nil)
    }
    guard request.command != .events else {
      // A watcher says nothing more.
      let pipeline = context.pipeline.syncOperations
      if let idle = try? pipeline.context(handlerType: IdleStateHandler.self) {
        pipeline.removeHandler(context: idle, promise: nil)
      }
      return subscribe(EventSink(channel))
    }
    unanswered += 1
    let bound = NIOLoopBound(self, eventLoop: channel.eventLoop)
    handler(request) { reply in
      channel.eventLoop.execute {
        bound.value.unanswered -= 1
        Self.write(reply, channel)
      }
    }
  }

  private func write(_ reply: ControlReply, _ channel: any Channel) {
    Self.write(reply, channel)
  }

  private static func write(_ reply: ControlReply, _ channel: any Channel) {
    let line: [UInt8]
    do {
      line = try ControlCodec.line(reply)
    } catch {
      channel.close(promise: nil)
      return
    }
    channel.writeAndFlush(ByteBuffer(bytes: line), promise: nil)
  }

  func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
    if event is IdleStateHandler.IdleStateEvent { context.close(promise: nil) }
  }

  func errorCaught(context: ChannelHandlerContext, error: any Error) {
    context.close(promise: nil)
  }
}
