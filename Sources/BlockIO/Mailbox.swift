internal import CHost
internal import Glibc

/// Wakes a sleeping reactor from another thread.
///
/// Invariant: the descriptor is open as long as anybody holds the object; ringing needs no lock.
public final class Doorbell: Sendable {
  let descriptor: Int32

  init() throws(SystemError) {
    descriptor = chost_eventfd()
    guard descriptor >= 0 else { throw SystemError(call: "eventfd", errno: -descriptor) }
  }

  deinit { _ = Glibc.close(descriptor) }

  /// Makes the reactor deliver `.mailbox` soon. Rings before it wakes count once.
  public func ring() {
    var one: UInt64 = 1
    // It could only block after 2^64 - 2 rings without one wake-up, and nothing else can fail.
    let written = unsafe Glibc.write(descriptor, &one, 8)
    precondition(written == 8 || errno == EINTR, "the doorbell is broken")
  }
}

// Unchecked: `messages` is only touched with `mutex` held. `Synchronization.Mutex` would say so by
// type, but the thread sanitizer of 6.3.1 reports false races with it.
/// Carries control messages from any thread to the reactor's. Bounded; not for I/O.
///
/// Invariants: messages leave in the order they came; the doorbell rings once for each change from
/// empty to not empty, so the drain after a `.mailbox` event finds everything.
@safe
public final class Mailbox<Message: Sendable>: @unchecked Sendable {
  private let mutex: UnsafeMutablePointer<pthread_mutex_t>
  private var messages: [Message] = []
  private let capacity: Int
  private let doorbell: Doorbell

  /// A mailbox for at most `capacity` messages that rings `doorbell`.
  public init(capacity: Int, doorbell: Doorbell) {
    precondition(capacity > 0, "a mailbox needs a place")
    self.capacity = capacity
    self.doorbell = doorbell
    unsafe mutex = .allocate(capacity: 1)
    unsafe mutex.initialize(to: pthread_mutex_t())
    let failed = unsafe pthread_mutex_init(mutex, nil)
    precondition(failed == 0, "pthread_mutex_init")
    messages.reserveCapacity(capacity)
  }

  deinit {
    _ = unsafe pthread_mutex_destroy(mutex)
    unsafe mutex.deallocate()
  }

  /// Puts a message in and wakes the reactor; `false`, and nothing happens, when the box is full.
  public func post(_ message: Message) -> Bool {
    _ = unsafe pthread_mutex_lock(mutex)
    let wasEmpty = messages.isEmpty
    let fits = messages.count < capacity
    if fits { messages.append(message) }
    _ = unsafe pthread_mutex_unlock(mutex)
    if fits, wasEmpty { doorbell.ring() }
    return fits
  }

  /// Takes everything out, oldest first. On the reactor's thread, after `.mailbox`.
  public func drain() -> [Message] {
    _ = unsafe pthread_mutex_lock(mutex)
    let taken = messages
    messages.removeAll(keepingCapacity: false)
    _ = unsafe pthread_mutex_unlock(mutex)
    return taken
  }
}
