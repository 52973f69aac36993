import Foundation
import Testing

/// Real clients against the server on the reactor. A test is skipped when its program is missing;
/// `tools/setup` installs them all.
@Suite(.serialized) struct ClientTests {
  private func expectSuccess(_ ended: Ended, sourceLocation: SourceLocation = #_sourceLocation) {
    #expect(ended.status == 0, "\(ended)", sourceLocation: sourceLocation)
  }

  @Test(.enabled(if: Program.areInstalled("nbdinfo"), "nbdinfo (libnbd-bin) is not installed"))
  func nbdinfoSeesWhatIsOffered() throws {
    let server = try MemoryServer(mebibytes: 16)
    let json = try Program.run("nbdinfo", "--json", server.uri())
    expectSuccess(json)
    let object = try JSONSerialization.jsonObject(with: Data(json.output.utf8))
    let exports = try #require((object as? [String: Any])?["exports"] as? [[String: Any]])
    let export = try #require(exports.first)
    #expect(export["export-name"] as? String == "r0")
    #expect(export["export-size"] as? Int == 16 << 20)
    for name in ["can_cache", "can_df", "can_flush", "can_fua", "can_multi_conn", "can_trim"] {
      #expect(export[name] as? Bool == true, "\(name)")
    }
    #expect(export["can_zero"] as? Bool == true)
    for name in ["can_fast_zero", "is_read_only", "is_rotational"] {
      #expect(export[name] as? Bool == false, "\(name)")
    }
    #expect(export["block_size_minimum"] as? Int == 512)
    #expect(export["block_size_preferred"] as? Int == 4096)
    #expect(export["block_size_maximum"] as? Int == 32 << 20)
    #expect(export["contexts"] as? [String] == ["base:allocation"])

    let map = try Program.run("nbdinfo", "--map", server.uri())
    expectSuccess(map)
    #expect(
      map.output.split(separator: " ").map(String.init) == ["0", "\(16 << 20)", "0", "data\n"])
    for (question, status) in [("multi-conn", Int32(0)), ("fua", 0), ("fast-zero", 2)] {
      let answer = try Program.run("nbdinfo", "--can", question, server.uri())
      #expect(answer.status == status, "\(answer)")
    }
    try server.end()
  }

  @Test(.enabled(if: Program.areInstalled("nbdinfo"), "nbdinfo (libnbd-bin) is not installed"))
  func severalExportsAreListedAndChosenByName() throws {
    let server = try MemoryServer(mebibytes: 16)
    try server.command("add r0/1 4")
    let list = try Program.run("nbdinfo", "--list", "--json", server.uri(""))
    expectSuccess(list)
    #expect(list.output.contains("\"r0\"") && list.output.contains("\"r0/1\""), "\(list)")
    let size = try Program.run("nbdinfo", "--size", server.uri("r0/1"))
    #expect(size.output == "\(4 << 20)\n", "\(size)")
    let unnamed = try Program.run("nbdinfo", "--size", server.uri(""))
    #expect(unnamed.status != 0, "the empty name means nothing when there are two")
    try server.command("remove r0/1")
    let only = try Program.run("nbdinfo", "--size", server.uri(""))
    #expect(only.output == "\(16 << 20)\n", "\(only)")
  }

  @Test(.enabled(if: Program.areInstalled("qemu-img"), "qemu-img (qemu-utils) is not installed"))
  func aSecondaryTellsQemuWhy() throws {
    let server = try MemoryServer(mebibytes: 16)
    try server.command("refuse r0 r0 is Secondary on this node; promote it first")
    let refused = try Program.run("qemu-img", "info", server.uri())
    #expect(refused.status != 0)
    #expect(refused.output.contains("r0 is Secondary on this node; promote it first"), "\(refused)")
    try server.command("allow r0")
    expectSuccess(try Program.run("qemu-img", "info", server.uri()))
  }

  @Test(
    .enabled(if: Program.areInstalled("nbdcopy", "cmp"), "nbdcopy (libnbd-bin) is not installed"))
  func nbdcopyBringsBackWhatItWrote() throws {
    let server = try MemoryServer(mebibytes: 64)
    let source = server.directory.appending(path: "source")
    let result = server.directory.appending(path: "result")
    var generator = SystemRandomNumberGenerator()
    var data = Data(capacity: 64 << 20)
    for _ in 0..<(64 << 20) / 65536 {
      let word = UInt64.random(in: 0...UInt64.max, using: &generator)
      // Every third run of 64 KiB is zeroes, which nbdcopy sends as WRITE_ZEROES.
      let bytes = withUnsafeBytes(of: word % 3 == 0 ? 0 : word) { Data($0) }
      for _ in 0..<8192 { data.append(bytes) }
    }
    try data.write(to: source)
    expectSuccess(
      try Program.run(
        "nbdcopy", "--connections=4", "--requests=64", "--flush", source.path, server.uri()))
    expectSuccess(try Program.run("nbdcopy", server.uri(), result.path))
    expectSuccess(try Program.run("cmp", source.path, result.path))
    try server.end()
  }

  @Test(.enabled(if: Program.areInstalled("qemu-io"), "qemu-io (qemu-utils) is not installed"))
  func qemuIOWritesReadsZeroesAndDiscards() throws {
    let server = try MemoryServer(mebibytes: 64)
    let ended = try Program.run(
      "qemu-io", "-f", "raw", "-c", "write -P 0x5a 4k 64k", "-c", "read -P 0x5a 4k 64k", "-c",
      "write -f -P 3 1M 33M", "-c", "read -P 3 1M 33M", "-c", "flush", "-c", "discard 1M 1M",
      "-c", "write -z -u 2M 1M", "-c", "read -P 0 2M 1M", "-c", "write -z 40M 20M", "-c",
      "read -P 0 40M 20M", "-c", "aio_write -P 9 8M 2M", "-c", "aio_write -P 8 10M 2M", "-c",
      "aio_flush", "-c", "read -P 9 8M 2M", "-c", "read -P 8 10M 2M", server.uri())
    expectSuccess(ended)
    #expect(!ended.output.contains("failed"), "\(ended)")
    try server.end()
  }

  @Test(.enabled(if: Program.areInstalled("qemu-img"), "qemu-img (qemu-utils) is not installed"))
  func qemuImgConvertsAndCompares() throws {
    let server = try MemoryServer(mebibytes: 32)
    let image = server.directory.appending(path: "image").path
    let pattern = (0..<32).map { ["-c", "write -P \($0 + 1) \($0)M 600k"] }.flatMap { $0 }
    expectSuccess(try Program.run("qemu-img", "create", "-f", "raw", image, "32M"))
    let fill = Process()
    fill.executableURL = URL(filePath: Program.path("qemu-io") ?? "")
    fill.arguments = ["-f", "raw"] + pattern + [image]
    fill.standardOutput = FileHandle.nullDevice
    try fill.run()
    fill.waitUntilExit()
    expectSuccess(
      try Program.run(
        "qemu-img", "convert", "-n", "-W", "-m", "16", "-f", "raw", "-O", "raw", image,
        server.uri()))
    expectSuccess(
      try Program.run("qemu-img", "compare", "-f", "raw", "-F", "raw", image, server.uri()))
    try server.end()
  }

  @Test(.enabled(if: Program.areInstalled("fio"), "fio is not installed"))
  func fioVerifiesItsChecksums() throws {
    let server = try MemoryServer(mebibytes: 64)
    for blocks in ["4k", "512-300k"] {
      let sizes = blocks.contains("-") ? "--bsrange=\(blocks)" : "--bs=\(blocks)"
      let ended = try Program.run(
        "fio", "--name=verify", "--ioengine=nbd", "--uri=\(server.uri())", "--rw=randwrite",
        sizes, "--blockalign=512", "--iodepth=32", "--size=48m", "--verify=crc32c",
        "--verify_backlog=512", "--verify_state_save=0", "--do_verify=1", "--fsync=100")
      expectSuccess(ended)
      #expect(ended.output.contains("err= 0"), "\(ended)")
    }
    try server.end()
  }

  @Test(.enabled(if: Program.hasPythonModule, "python3-libnbd is not installed"))
  func libnbdGetsAnErrorForEveryIllegalRequest() throws {
    let server = try MemoryServer(mebibytes: 16)
    let script = """
      import nbd, errno
      h = nbd.NBD()
      h.set_strict_mode(0)
      h.add_meta_context("base:allocation")
      h.connect_uri("\(server.uri())")
      size = h.get_size()
      def fails(number, call, *arguments, **named):
          try:
              call(*arguments, **named)
          except nbd.Error as e:
              assert e.errnum == number, (call, arguments, named, e.errnum, e.string)
          else:
              raise AssertionError(("no error", call, arguments, named))
      fails(errno.EINVAL, h.pread, 512, 1)
      fails(errno.EINVAL, h.pread, 511, 0)
      fails(errno.EINVAL, h.pread, 512, size)
      fails(errno.EINVAL, h.pread, 1024, size - 512)
      fails(errno.EINVAL, h.pread, 512, (1 << 63) - 512)
      fails(errno.ENOSPC, h.pwrite, b"x" * 512, size)
      fails(errno.ENOSPC, h.pwrite, b"x" * 1024, size - 512)
      fails(errno.EINVAL, h.pwrite, b"x" * 100, 0)
      fails(errno.EINVAL, h.trim, 512, size)
      fails(errno.EINVAL, h.trim, 100, 0)
      fails(errno.ENOSPC, h.zero, 512, size)
      fails(errno.EINVAL, h.zero, 512, 0, nbd.CMD_FLAG_FAST_ZERO)
      fails(errno.EINVAL, h.pwrite, b"x" * 512, 0, 0x8000)
      fails(errno.EINVAL, h.flush, nbd.CMD_FLAG_DF)
      fails(errno.EINVAL, h.block_status, 0, 0, lambda *a: 0)
      fails(errno.EOVERFLOW, h.pread, 2 << 20, 0, nbd.CMD_FLAG_DF)
      assert h.pread(0, 0) == b""
      h.pwrite(b"", 0)
      h.trim(0, 0)
      h.pwrite(b"y" * 4096, 4096, nbd.CMD_FLAG_FUA)
      h.cache(4096, 4096)
      h.flush(nbd.CMD_FLAG_FUA)
      assert h.pread(4096, 4096, nbd.CMD_FLAG_DF) == b"y" * 4096
      found = []
      h.block_status(size, 0, lambda name, offset, entries, error: found.append((name, entries)))
      assert found == [("base:allocation", [size, 0])], found
      assert h.pread(3 << 20, 0)[4096:8192] == b"y" * 4096
      h.shutdown()
      print("all as expected")
      """
    let ended = try Program.run("python3", "-c", script)
    expectSuccess(ended)
    #expect(ended.output.contains("all as expected"), "\(ended)")
    try server.end()
  }

  @Test(.enabled(if: Program.hasPythonModule, "python3-libnbd is not installed"))
  func libnbdGetsAnAnswerToEveryOption() throws {
    let server = try MemoryServer(mebibytes: 16)
    try server.command("add r0/1 4")
    let script = """
      import nbd
      h = nbd.NBD()
      h.set_opt_mode(True)
      h.connect_uri("\(server.uri())")
      names = []
      assert h.opt_list(lambda name, text: names.append(name)) == 2
      assert names == ["r0", "r0/1"], names
      h.set_export_name("nope")
      try:
          h.opt_info()
          raise AssertionError("info of nothing")
      except nbd.Error:
          pass
      found = []
      h.set_export_name("r0/1")
      h.add_meta_context("base:")
      assert h.opt_list_meta_context(lambda name: found.append(name)) == 1
      assert found == ["base:allocation"], found
      h.opt_info()
      assert h.get_size() == 4 << 20
      h.set_export_name("r0")
      h.opt_go()
      assert h.get_size() == 16 << 20
      assert h.get_protocol() == "newstyle-fixed"
      assert h.get_structured_replies_negotiated()
      h.shutdown()
      g = nbd.NBD()
      g.set_opt_mode(True)
      g.connect_uri("\(server.uri())")
      g.opt_abort()
      s = nbd.NBD()
      s.set_request_structured_replies(False)
      s.connect_uri("\(server.uri())")
      assert not s.get_structured_replies_negotiated()
      s.pwrite(b"z" * (5 << 20), 512)
      assert s.pread(5 << 20, 512) == b"z" * (5 << 20)
      s.shutdown()
      o = nbd.NBD()
      o.set_handshake_flags(0)
      o.connect_uri("\(server.uri())")
      assert o.pread(512, 512) == b"z" * 512
      print("all as expected")
      """
    let ended = try Program.run("python3", "-c", script)
    expectSuccess(ended)
    #expect(ended.output.contains("all as expected"), "\(ended)")
    #expect(server.isRunning)
    try server.end()
  }
}
