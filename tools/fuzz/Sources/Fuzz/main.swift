/// Runs one fuzz target with libFuzzer's arguments; `tools/fuzz/run` starts it.
///
/// A target takes any bytes. It may refuse them; it may not trap, read out of bounds, hang or keep
/// what it promised to give back. What must hold beyond that is checked with `precondition`.
import CFuzzDriver
import Glibc

/// What is fuzzed, by name.
private func target(_ name: String) -> ((UnsafeRawBufferPointer) -> Void)? {
  switch name {
  case "messages": fuzzMessages
  case "handshake": fuzzHandshake
  case "core": fuzzCore
  case "nbd": fuzzNBD
  case "metadata": fuzzMetadata
  case "configuration": fuzzConfiguration
  default: nil
  }
}

nonisolated(unsafe) private var chosen: (UnsafeRawBufferPointer) -> Void = { _ in }

/// What libFuzzer calls with each input.
@_cdecl("LLVMFuzzerTestOneInput")
public func testOneInput(_ data: UnsafePointer<UInt8>?, _ size: Int) -> Int32 {
  chosen(UnsafeRawBufferPointer(start: data, count: size))
  return 0
}

/// The environment names the target: libFuzzer starts this program again with its own arguments.
private func main() -> Int32 {
  let name = getenv("ASHLAR_FUZZ_TARGET").map { String(cString: $0) } ?? ""
  guard let body = target(name) else {
    print("ASHLAR_FUZZ_TARGET is no target: '\(name)'; use tools/fuzz/run")
    return 1
  }
  chosen = body
  var count = CommandLine.argc
  var arguments: UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>? = CommandLine.unsafeArgv
  return LLVMFuzzerRunDriver(&count, &arguments) { testOneInput($0, $1) }
}

exit(main())
