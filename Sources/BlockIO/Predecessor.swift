/// What a killed predecessor still holds: its listening sockets outlive the process for a moment,
/// because the kernel takes a ring down, and its pending accepts with it, after the process is
/// gone.
internal import Glibc

/// Repeats an attempt while it fails with `busy`, for at most `patienceMs`.
///
/// Most often a few milliseconds pass; a second is what the other volumes of a running node can
/// bear. For making a listener only: it stops the thread.
///
/// - Parameter attempt: 0 or an errno.
/// - Returns: what the last attempt returned.
func retryWhile(busy: Int32, patienceMs: UInt64 = 1_000, _ attempt: () -> Int32) -> Int32 {
  var result = attempt()
  var waitedMs: UInt64 = 0
  while result == busy, waitedMs < patienceMs {
    usleep(10_000)
    waitedMs += 10
    result = attempt()
  }
  return result
}
