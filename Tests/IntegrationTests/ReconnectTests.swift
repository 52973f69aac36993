/// A client below which the daemon dies and comes back.
import Foundation
import Testing

extension Integration {
  @Suite struct ReconnectTests {
    @Test(.needs("qemu-io", "stdbuf", "flock", "cmp"))
    func `C08: a client that reconnects sees a pause and no error when its daemon is killed`()
      throws
    {
      try withCluster { cluster in
        let socket = try cluster.uri(cluster.alpha).components(separatedBy: "socket=")[1]
        let image = [
          "driver=nbd", "server.type=unix", "server.path=\(socket)", "export=\(cluster.resource)",
          "reconnect-delay=\(Int(patience))",
        ]
        let client = try BackgroundProcess(
          ["stdbuf", "-oL", "qemu-io", "--image-opts", image.joined(separator: ",")],
          log: cluster.directory.appending(path: "client.log"), input: true)
        func wait(for answers: Int, _ word: String) throws {
          try waitUntil("\(word) \(answers)", explanation: { client.text }) {
            client.text.components(separatedBy: "\(word) 1048576/1048576").count > answers
          }
        }
        for round in 1...2 {
          try client.write("write -P \(round) 0 1M")
          try wait(for: 2 * round - 1, "wrote")
          try cluster.kill(cluster.alpha)
          try client.write("write -P \(round) 1M 1M")
          try cluster.start(cluster.alpha)
          try wait(for: 2 * round, "wrote")
          // One order at a time: qemu-io does not look for a second line that it has read already.
          for (index, offset) in ["0", "1M"].enumerated() {
            try client.write("read -P \(round) \(offset) 1M")
            try wait(for: 2 * round - 1 + index, "read")
          }
        }
        try client.write("quit")
        #expect(try client.wait() == 0)
        let isClean = !client.text.contains("rror") && !client.text.contains("failed")
        #expect(isClean, "\(client.text)")
        try cluster.waitForSync()
        try cluster.expectIdenticalDisks()
      }
    }
  }
}
