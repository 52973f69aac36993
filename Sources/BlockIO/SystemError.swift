internal import Glibc

/// A failed system call: which one, on what, and the kernel's reason.
public struct SystemError: Error, Equatable, CustomStringConvertible, Sendable {
  /// The call that failed, as the manual names it.
  public let call: String
  /// The kernel's reason.
  public let errno: Int32
  /// The file, device or address the call was about.
  public let path: String?

  /// Names a failed call.
  public init(call: StaticString, errno: Int32, path: String? = nil) {
    self.call = call.description
    self.errno = errno
    self.path = path
  }

  /// `open /dev/nvme1n1: Device or resource busy (errno 16)`.
  public var description: String {
    "\(call)\(path.map { " \($0)" } ?? ""): \(errnoText(errno)) (errno \(errno))"
  }
}

/// The kernel's words for `code`. `strerror` is not safe for threads; this is.
public func errnoText(_ code: Int32) -> String {
  var text = [CChar](repeating: 0, count: 128)
  let failed = unsafe strerror_r(code, &text, text.count)
  guard failed == 0 else { return "error \(code)" }
  let bytes = text.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }
  return String(decoding: bytes, as: UTF8.self)
}
