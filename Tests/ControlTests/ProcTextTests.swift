/// `/proc/drbd` as DRBD 8.4 prints it, and the arithmetic of a sync's progress.

import Control
import Testing

/// One progress with the numbers that matter to the bar.
private func proc(left: UInt64, rate: UInt64, average: UInt64, seconds: UInt64) -> String {
  var resource = syncingResource()
  resource.connections[0].peerDevices[0].outOfSync = left
  resource.connections[0].peerDevices[0].resyncRate = rate
  resource.connections[0].peerDevices[0].estimatedSecondsToFinish = seconds
  resource.connections[0].peerDevices[0].resyncStartedAgoMs = (98264 - left) * 1000 / average
  let lines = procText([resource], version: "0.1.0", protocolVersion: 1).split(separator: "\n")
  return lines.suffix(2).joined(separator: "\n")
}

@Suite struct ProcTextTests {
  @Test func connectedVolumeIsTwoLines() {
    var resource = syncedResource()
    resource.devices[0].read = 98264
    #expect(
      procText([resource], version: "0.1.0", protocolVersion: 1) == """
        version: 0.1.0 (api:1/proto:1-1)
         0: cs:Connected ro:Primary/Secondary ds:UpToDate/UpToDate C r-----
            ns:98264 nr:0 dw:0 dr:98264 al:8 bm:0 lo:0 pe:0 ua:0 ap:0 ep:1 wo:f oos:0

        """)
  }

  /// No protocol letter without a connection, and DRBD 8.4's name for Connecting.
  @Test func disconnectedVolumes() {
    var resource = syncedResource()
    resource.role = .secondary
    resource.connections[0].peerRole = .unknown
    resource.connections[0].peerDevices[0].replicationState = .off
    resource.connections[0].peerDevices[0].peerDiskState = .unknown
    resource.connections[0].connectionState = .standAlone
    let alone = procText([resource], version: "0", protocolVersion: 1)
    #expect(
      alone.contains(" 0: cs:StandAlone ro:Secondary/Unknown ds:UpToDate/DUnknown   r-----\n"))

    resource.connections[0].connectionState = .connecting
    resource.devices[0].activityLogSuspended = true
    let connecting = procText([resource], version: "0", protocolVersion: 1)
    #expect(
      connecting.contains(
        " 0: cs:WFConnection ro:Secondary/Unknown ds:UpToDate/DUnknown C r----s\n"))
  }

  /// The bar moves as the kernel's does.
  @Test func progressIsDrawnAsInTheKernel() {
    #expect(
      proc(left: 95628, rate: 1316, average: 1316, seconds: 68)
        == "\t[>....................] sync'ed:  2.6% (95628/98264)K\n"
        + "\tfinish: 0:01:08 speed: 1,316 (1,316) K/sec")
    #expect(
      proc(left: 85882, rate: 2092, average: 2092, seconds: 42)
        == "\t[=>..................] sync'ed: 12.6% (85882/98264)K\n"
        + "\tfinish: 0:00:42 speed: 2,092 (2,092) K/sec")
    #expect(
      proc(left: 32722, rate: 4904, average: 5312, seconds: 6)
        == "\t[============>.......] sync'ed: 66.6% (32722/98264)K\n"
        + "\tfinish: 0:00:06 speed: 4,904 (5,312) K/sec")
  }

  /// Only the target has a rate it wants.
  @Test func targetSaysWhatItWants() {
    var resource = syncingResource()
    resource.connections[0].peerDevices[0].replicationState = .syncTarget
    resource.connections[0].peerDevices[0].want = 204_800
    let text = procText([resource], version: "0", protocolVersion: 1)
    #expect(text.contains("speed: 0 (0) want: 204,800 K/sec\n"))
    #expect(text.contains("finish: stalled "))
  }

  /// Bad numbers from a peer must not trap the tool.
  @Test func hugeAmountsDoNotOverflow() {
    var resource = syncingResource()
    resource.connections[0].peerDevices[0].resyncTotal = .max
    resource.connections[0].peerDevices[0].outOfSync = 0
    resource.connections[0].peerDevices[0].resyncStartedAgoMs = 1
    resource.connections[0].peerDevices[0].resyncRate = .max
    #expect(procText([resource], version: "0", protocolVersion: 1).contains("sync'ed:100"))
    #expect(SyncProgress(resource.connections[0].peerDevices[0])?.permille == 1000)
    resource.connections[0].peerDevices[0].outOfSync = .max
    #expect(SyncProgress(resource.connections[0].peerDevices[0])?.permille == 0)
  }

  @Test func progressLineFitsItsWidth() {
    let progress = SyncProgress(
      totalKiB: 1 << 20, leftKiB: 1 << 19, rate: 115_098, averageRate: 0, secondsToGo: 42)
    #expect(
      progressLine(name: "r0", progress: progress, width: 60)
        == "r0  [========>........]  50.0%  112.4 MiB/s  0:00:42 to go")
    #expect(progressLine(name: "r0", progress: progress, width: 200).count < 100)
  }
}
