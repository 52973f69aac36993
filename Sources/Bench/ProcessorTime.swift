internal import BlockIO
internal import Glibc

/// The processor time that a process has used: all its threads, also those that have ended, in user
/// and kernel mode, in nanoseconds.
///
/// The kernel's CPU clock of the process is read, not `/proc/PID/stat`, whose ticks of 10 ms
/// would hide what a thousand I/Os cost. Time in interrupts and in kernel threads belongs to
/// nobody and is not in it.
struct MeasuredProcess: Equatable, Sendable {
  /// The process.
  let pid: Int32
  /// Its name, for the report.
  let name: String

  /// This process.
  static var own: MeasuredProcess { MeasuredProcess(pid: getpid(), name: "ashlar-bench") }

  /// The processes that `list` names: numbers and names, separated by commas.
  static func parse(_ list: String) throws(BenchError) -> [MeasuredProcess] {
    var found: [MeasuredProcess] = []
    for part in list.split(separator: ",", omittingEmptySubsequences: false) {
      if let pid = Int32(part), pid > 0 {
        guard let name = commandName(pid) else {
          throw .badValue(
            option: "--cpu-of", value: String(part), allowed: "there is no such process")
        }
        found.append(MeasuredProcess(pid: pid, name: name))
      } else {
        let named = allProcesses().filter { commandName($0) == String(part) }
        guard !named.isEmpty, !part.isEmpty else {
          throw .badValue(
            option: "--cpu-of", value: "'\(part)'",
            allowed: "a process id, or the name of a running process")
        }
        found += named.map { MeasuredProcess(pid: $0, name: String(part)) }
      }
    }
    return found
  }

  /// Processor time so far; 0 for a process that has ended.
  func processorNs() -> UInt64 {
    var clock = clockid_t()
    var time = timespec()
    guard unsafe clock_getcpuclockid(pid, &clock) == 0, unsafe clock_gettime(clock, &time) == 0
    else { return 0 }
    return UInt64(time.tv_sec) * 1_000_000_000 + UInt64(time.tv_nsec)
  }

  private static func commandName(_ pid: Int32) -> String? {
    let descriptor = unsafe open("/proc/\(pid)/comm", O_RDONLY | O_CLOEXEC)
    guard descriptor >= 0 else { return nil }
    defer { _ = close(descriptor) }
    var bytes = [UInt8](repeating: 0, count: 64)
    let count = unsafe read(descriptor, &bytes, bytes.count)
    guard count > 0 else { return nil }
    return String(decoding: bytes.prefix(count).filter { $0 != 0x0A }, as: UTF8.self)
  }

  private static func allProcesses() -> [Int32] {
    guard let directory = unsafe opendir("/proc") else { return [] }
    defer { _ = unsafe closedir(directory) }
    var pids: [Int32] = []
    while let entry = unsafe readdir(directory) {
      let name = unsafe withUnsafePointer(to: &entry.pointee.d_name) {
        unsafe $0.withMemoryRebound(to: CChar.self, capacity: 256) { unsafe String(cString: $0) }
      }
      if let pid = Int32(name) { pids.append(pid) }
    }
    return pids.sorted()
  }
}
