/// What a process may still take, read from what the kernel says.
import Foundation
import Glibc
import Testing

@testable import Node

@Suite struct HostMemoryTests {
  @Test func readsWhatTheHostHas() {
    #expect(HostMemory.ofHost("MemTotal: 10 kB\nMemAvailable:    2048 kB\n") == 2 << 20)
    #expect(HostMemory.ofHost("MemTotal: 10 kB\n") == nil)
  }

  @Test func readsWhatTheLimitLeaves() {
    let page = UInt64(sysconf(Int32(_SC_PAGESIZE)))
    #expect(HostMemory.ofProcess("100 50 3", limit: 150 * page) == 50 * page)
    #expect(HostMemory.ofProcess("100 50 3", limit: 50 * page) == 0)
    #expect(HostMemory.ofProcess("100 50 3", limit: nil) == nil)
  }

  @Test func everyGroupAboveCounts() {
    #expect(
      HostMemory.groups("12:cpu:/x\n0::/system.slice/ashlard.service\n") == [
        "/system.slice/ashlard.service", "/system.slice",
      ])
    #expect(HostMemory.groups("0::/\n").isEmpty)
    #expect(HostMemory.groups("").isEmpty)
  }

  @Test func thisMachineHasSomeAndNotEverything() throws {
    let available = try #require(HostMemory.available)
    #expect(available > 0 && !HostMemory.has(available))
  }
}
