/// What one node must survive: clients, peers and administrators without measure or manners.
import BlockTypes
import Configuration
import Control
import Foundation
import TestSupport
import Testing
import Wire

@Suite(.serialized) struct NodeTests {
  @Test func `requests beyond what a core takes wait, whoever sends them`() async throws {
    try await withNode { node in
      try node.tell(.up)
      try node.tell(.primary, force: true)
      let flush: UInt16 = 3
      let clients = try (0..<4).map { _ in try Socket.client(node.paths.nbdSocket) }
      for client in clients { try client.request(flush, count: 500) }
      for client in clients {
        for _ in 0..<500 { #expect(try client.reply() == 0) }
      }
    }
  }

  @Test func `zeroes that are cut into more pieces than a core takes are all written`()
    async throws
  {
    try await withNode { node in
      try node.tell(.up)
      try node.tell(.primary, force: true)
      let clients = try (0..<3).map { _ in try Socket.client(node.paths.nbdSocket) }
      for client in clients { try client.request(6, count: 500, length: 1 << 20) }
      for client in clients {
        for _ in 0..<500 { #expect(try client.reply() == 0) }
      }
    }
  }

  @Test func `disk and address are free when down answers, whatever a dial is doing`()
    async throws
  {
    let took = try await withNode { node in
      // A listener whose queue is full: the kernel's patience with it is minutes.
      let silent = try Socket(listeningAt: node.peerPort, backlog: 0)
      let filling = try (0..<4).map { _ in try Socket(port: node.peerPort, patient: false) }
      for _ in 0..<3 {
        try node.tell(.up)
        usleep(20_000)
        try node.tell(.down)
      }
      try node.tell(.up)
      _ = (silent, filling)
    }
    #expect(took < 30)
  }

  @Test func `an attach that ends after down does not bring the resource back`() async throws {
    try await withNode { node in
      for _ in 0..<20 {
        let first = try Socket(path: node.paths.controlSocket)
        let second = try Socket(path: node.paths.controlSocket)
        try first.send(
          ControlCodec.line(
            ControlRequest(.up, resource: "r0", configuration: node.configuration)))
        try second.send(ControlCodec.line(ControlRequest(.down, resource: "r0")))
        _ = try (first.receive(1), second.receive(1))
        _ = try node.ask(.down)
        #expect(try node.ask(.status).exitCode == 10)
      }
    }
  }

  @Test(.enabled(if: LoopDevice.isPossible, "needs root and loop devices"))
  func `a disk that takes 4096 bytes only is refused by name`() async throws {
    try await withDirectories { directory, paths in
      let image = directory.appending(path: "image").path
      try makeDisk(image, bytes: 32 << 20)
      let device = try LoopDevice(image, blockBytes: 4096)
      defer { withExtendedLifetime(device) {} }
      let disk = device.path
      let node = RunningNode(
        paths: paths, configuration: try configuration(disk, try freePorts(2)))
      try await serve(paths, Configuration()) {
        let refused = try node.ask(.up)
        #expect(refused.exitCode == 10, "\(refused)")
        let text = refused.standardError.joined(separator: "\n")
        #expect(text.contains("\(disk) takes multiples of 4096 bytes only"), "\(text)")
        #expect(text.contains("cryptsetup luksFormat --sector-size 512"), "\(text)")
      }
    }
  }

  /// `primary` begins in the turn in which the disk is there, before the node connects by itself.
  @Test func `up connects, whatever else is asked at that moment`() async throws {
    try await withNode { node in
      let commands = try Socket(path: node.paths.controlSocket)
      let up = ControlRequest(.up, resource: "r0", configuration: node.configuration)
      let primary = try ControlCodec.line(ControlRequest(.primary, resource: "r0", force: true))
      for round in 0..<60 {
        try commands.send(ControlCodec.line(up))
        for _ in 0..<20 {
          try commands.send(primary)
          usleep(UInt32.random(in: 0...100))
        }
        for _ in 0..<21 { while try commands.receive(1) != [10] {} }
        let status = try node.ask(.status).status?.first
        let state = status?.connections.first?.connectionState
        #expect(state != nil && state != .standAlone, "round \(round)")
        if status?.role == .primary { try node.tell(.secondary) }
        try node.tell(.down)
      }
    }
  }

  @Test func `a configuration that no core can run is refused`() async throws {
    try await withNode { node in
      var changed = [ResourceConfiguration](repeating: node.configuration, count: 10)
      changed[0].name = ""
      changed[1].name = String(repeating: "n", count: 200)
      changed[2].hosts += Array(repeating: changed[2].hosts[1], count: 20)
      changed[3].hosts[1].nodeID = changed[3].hosts[0].nodeID
      changed[4].net.koCount = 0
      changed[5].disk.activityLogExtents = 1 << 20
      // A protection that is not known must not be left out.
      changed[6].net.dataIntegrityAlgorithm = "md5"
      changed[7].net.sharedSecret = "s3cret"
      changed[8].net.authenticationAlgorithm = "sha256"
      changed[9].net.authenticationAlgorithm = "md5"
      changed[9].net.sharedSecret = "s3cret"
      for configuration in changed {
        #expect(try node.ask(.up, configuration).exitCode == 10)
      }
      try node.tell(.up)
      #expect(try node.ask(.netOptions, changed[4]).exitCode == 10)
    }
  }

  /// Otherwise the disk that is being replaced would be attached again, and nobody would notice.
  @Test func `attach takes the disk that the request names, and no other change`() async throws {
    try await withNode { node in
      let new = node.paths.runDirectory + "/new.img"
      try makeDisk(new, bytes: 64 << 20)
      var changed = node.configuration
      changed.hosts[0].volumes[0].disk = new
      changed.hosts[0].address.port += 1
      try node.tell(.up)
      let old = try #require(try node.device())
      // Attached: refused, and still the old one.
      #expect(try node.ask(.attach, changed).exitCode == 10)
      #expect(try node.device()?.disk == old.disk)
      try node.tell(.detach)
      // Another node's place in the file is not ours.
      var foreign = changed
      foreign.hosts[0].nodeID = NodeID(7)!
      #expect(try node.ask(.attach, foreign).exitCode == 10)
      #expect(try node.device()?.diskState == .diskless)
      let reply = try node.ask(.attach, changed)
      #expect(reply.exitCode == 0, "\(reply.standardError)")
      let device = try #require(try node.device())
      #expect(device.disk == new && device.size > old.size, "\(device)")
      let shown = try #require(try node.ask(.show).configurations?.first?.hosts.first)
      #expect(shown.volumes[0].disk == new)
      #expect(shown.address.port == node.port)
    }
  }

  @Test func `data before the handshake is refused, and gets no buffer`() async throws {
    try await withNode { node in
      try node.tell(.up)
      var header = MessageHeader(.write, length: 1 << 20)
      header.payloadBytes = 1 << 20
      var message = [UInt8](repeating: 0, count: MessageHeader.byteCount)
      message.withUnsafeMutableBytes { header.encode(into: $0) }
      // Sooner than after the 3 s that a stranger has to say who it is; not in each of many
      // attempts does the machine stop meanwhile.
      let isRefusedAtOnce = try (0..<20).contains { _ in
        let peer = try Socket(port: node.port)
        let began = ContinuousClock.now
        try peer.send(message)
        #expect(peer.isClosed())
        return ContinuousClock.now - began < .seconds(2)
      }
      #expect(isRefusedAtOnce)
    }
  }

  @Test func `a client that sends requests ahead without end is cut off`() async throws {
    try await withNode { node in
      let client = try Socket(path: node.paths.controlSocket)
      let line = try ControlCodec.line(ControlRequest(.status))
      for _ in 0..<5_000 where client.isSent(line) {}
      #expect(client.isClosed())
      #expect(try node.ask(.up).exitCode == 0)
    }
  }
}
