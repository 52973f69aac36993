/// What a killed predecessor still holds: sockets and disks outlive the process for a moment.
///
/// The kernel takes a killed process's ring down after the process is gone. Until then its pending
/// accepts hold their listening sockets, and its writes in flight hold their disk and its lock: they
/// may still change the disk, so nobody may read it before they are over.
internal import Glibc

/// Repeats an attempt while it fails with `busy`, for at most `patienceMs`.
///
/// Most often a few milliseconds pass; a second is what the other volumes of a running node can bear.
/// For opening and listening only: it stops the thread.
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
