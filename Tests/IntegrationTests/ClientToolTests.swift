/// The volume as other people's programs see it: libnbd's tools, QEMU's tools and fio.
import Foundation
import Testing

extension Integration {
  @Suite struct ClientTools {
    @Test(.needs("nbdinfo"))
    func `nbdinfo finds every capability of the export`() throws {
      try withCluster { cluster in
        let uri = try cluster.uri(cluster.alpha)
        let text = try succeed("nbdinfo", "--json", uri)
        let info = try #require(
          try JSONSerialization.jsonObject(with: Data(text.utf8)) as? [String: Any])
        #expect(info["protocol"] as? String == "newstyle-fixed")
        #expect(info["structured"] as? Bool == true)
        let exports = try #require(info["exports"] as? [[String: Any]])
        let export = try #require(exports.first)
        #expect(export["export-name"] as? String == cluster.resource)
        for key in ["can_flush", "can_fua", "can_trim", "can_zero", "can_multi_conn"] {
          #expect(export[key] as? Bool == true, "\(key)")
        }
        #expect(export["is_read_only"] as? Bool == false)
        #expect(export["contexts"] as? [String] == ["base:allocation"])
        let size = try #require(export["export-size"] as? Int)
        #expect(size % 4096 == 0)
        #expect(size <= 64 << 20)
        #expect(size > 60 << 20)
        #expect(try succeed("nbdinfo", "--list", uri).contains(cluster.resource))
      }
    }

    @Test(.needs("nbdcopy", "cmp"))
    func `nbdcopy writes over several connections and reads back the same bytes`() throws {
      try withCluster { cluster in
        let uri = try cluster.uri(cluster.alpha)
        let bytes = try succeed("nbdinfo", "--size", uri)
        let source = cluster.directory.appending(path: "source").path
        let copy = cluster.directory.appending(path: "copy").path
        try succeed("sh", "-c", "head -c \(bytes) /dev/urandom > \(source)")
        try succeed("nbdcopy", "--connections=4", "--requests=64", "--flush", source, uri)
        try succeed("nbdcopy", "--connections=4", uri, copy)
        try succeed("cmp", source, copy)
        try succeed("cmp", "-n", bytes, source, cluster.beta.disk.path)
        try cluster.expectIdenticalDisks()
      }
    }

    @Test(.needsPythonNBD)
    func `every kind of request has its effect on both replicas`() throws {
      try withCluster { cluster in
        let script = """
          h.pwrite(b"\\x5a" * 65536, 4096)
          assert h.pread(65536, 4096) == b"\\x5a" * 65536
          h.pwrite(b"\\xa5" * 4096, 0, nbd.CMD_FLAG_FUA)
          h.zero(8192, 8192)
          assert h.pread(8192, 8192) == bytes(8192)
          assert h.pread(4096, 16384) == b"\\x5a" * 4096
          h.zero(4096, 32768, nbd.CMD_FLAG_NO_HOLE | nbd.CMD_FLAG_FUA)
          assert h.pread(4096, 32768) == bytes(4096)
          h.trim(4096, 65536)
          h.flush()
          """
        try scriptNBD(cluster.uri(cluster.alpha), script)
        try cluster.expectIdenticalDisks()
      }
    }

    @Test(.needsPythonNBD)
    func `illegal requests get an error and the connection lives on`() throws {
      try withCluster { cluster in
        let script = """
          h.set_strict_mode(0)
          size = h.get_size()
          def refused(action):
              try:
                  action()
              except nbd.Error as error:
                  assert error.errnum in (errno.EINVAL, errno.ENOSPC), error
                  return
              raise AssertionError("not refused")
          refused(lambda: h.pread(4096, size))
          refused(lambda: h.pwrite(bytes(4096), size - 512))
          refused(lambda: h.trim(4096, size))
          refused(lambda: h.zero(4096, size))
          refused(lambda: h.pread(100, 0))
          refused(lambda: h.pwrite(bytes(512), 100))
          refused(lambda: h.flush(1 << 9))
          assert len(h.pread(4096, size - 4096)) == 4096
          """
        try scriptNBD(cluster.uri(cluster.alpha), "import errno\n" + script)
      }
    }

    @Test(.needsPythonNBD)
    func `a Secondary takes no write from a client`() throws {
      try withCluster { cluster in
        let output = try tryScriptNBD(
          cluster.uri(cluster.beta), "h.set_strict_mode(0)\nh.pwrite(bytes(4096), 0)")
        #expect(output.status != 0)
        #expect(output.text.contains("nbd.Error") || output.text.contains("nbd_connect_uri"))
        try cluster.expectIdenticalDisks()
      }
    }

    @Test(.needs("qemu-img"))
    func `qemu-img converts onto the volume and finds no difference`() throws {
      try withCluster { cluster in
        let uri = try cluster.uri(cluster.alpha)
        let bytes = try succeed("nbdinfo", "--size", uri)
        let source = cluster.directory.appending(path: "source").path
        // Half random, half a hole.
        try succeed("sh", "-c", "head -c 20000000 /dev/urandom > \(source)")
        try succeed("truncate", "-s", bytes, source)
        try succeed(
          "qemu-img", "convert", "-n", "-W", "-m", "16", "-f", "raw", "-O", "raw", source, uri)
        try succeed("qemu-img", "compare", "-f", "raw", "-F", "raw", source, uri)
        try succeed("qemu-img", "map", "-f", "raw", "--output=json", uri)
        try cluster.expectIdenticalDisks()
      }
    }

    @Test(.needs("qemu-io"))
    func `qemu-io finds its patterns after FUA writes, zeroes and discards`() throws {
      try withCluster { cluster in
        let commands = [
          "write -P 0x5a 4k 64k", "read -P 0x5a 4k 64k", "write -f -P 0x11 1M 512",
          "read -P 0x11 1M 512", "write -z -u 8k 8k", "read -P 0 8k 8k", "discard 2M 1M", "flush",
          "aio_write -P 0x77 4M 2M", "aio_flush", "read -P 0x77 4M 2M",
        ]
        let uri = try cluster.uri(cluster.alpha)
        let output = try run(["qemu-io", "-f", "raw"] + commands.flatMap { ["-c", $0] } + [uri])
        #expect(output.status == 0, "\(output)")
        #expect(!output.text.contains("verification failed"), "\(output)")
        try cluster.expectIdenticalDisks()
      }
    }

    @Test(.needs("fio"), arguments: [(4, 32), (64, 8), (1024, 4)])
    func `fio verifies what it wrote`(kibibytes: Int, depth: Int) throws {
      try withCluster { cluster in
        try fio(
          cluster, "--rw=randwrite", "--bs=\(kibibytes)k", "--iodepth=\(depth)", "--size=48m",
          "--verify=crc32c", "--do_verify=1", "--verify_fatal=1")
        try cluster.expectIdenticalDisks()
      }
    }
  }
}

/// Runs fio's nbd engine against alpha.
func fio(_ cluster: Cluster, _ arguments: String...) throws {
  let output = try run(
    ["fio", "--name=test", "--ioengine=nbd", "--uri=\(cluster.uri(cluster.alpha))"] + arguments)
  guard output.status == 0 else { throw Failure("\(output)") }
}

/// Runs a Python script with `h` connected to an export, as nbdsh does but with Debian's own
/// Python, which is the one that has libnbd.
func tryScriptNBD(_ uri: String, _ script: String) throws -> Output {
  try run(["/usr/bin/python3", "-m", "nbd", "-u", uri, "-c", script])
}

/// Runs a Python script that must succeed.
func scriptNBD(_ uri: String, _ script: String) throws {
  let output = try tryScriptNBD(uri, script)
  guard output.status == 0 else { throw Failure("\(output)") }
}
