/// drbdadm's spellings, and what a wrong command line prints and returns.

import Control
import Testing

@testable import ashlaradm

@Suite struct CommandLineTests {
  private let commands = ["primary", "status", "up", "verify", "help"]

  @Test(
    arguments: [
      (["primary", "r0"], ["primary", "r0"]),
      (["--", "--force", "primary", "r0"], ["primary", "--force", "r0"]),
      (["--force", "primary", "r0"], ["primary", "--force", "r0"]),
      (["-c", "up", "primary", "r0"], ["primary", "-c", "up", "r0"]),
      (["--config=up", "primary"], ["primary", "--config=up"]),
      (
        ["--", "--overwrite-data-of-peer", "primary", "all"],
        ["primary", "--overwrite-data-of-peer", "all"]
      ),
      (["primary", "--force=yes", "r0"], ["primary", "--force", "r0"]),
      (["primary", "--force=no", "r0"], ["primary", "r0"]),
      (
        ["--", "--verbose", "--statistics", "status", "r0"],
        ["status", "--verbose", "--statistics", "r0"]
      ),
      (
        ["--", "--repair", "--from", "alpha", "verify", "r0"],
        ["verify", "--repair", "--from", "alpha", "r0"]
      ),
      (["--version"], ["--version"]),
      ([], []),
    ] as [([String], [String])])
  func spellingsBecomeOne(typed: [String], common: [String]) throws {
    #expect(try commonForm(of: typed, commands: commands) == common)
  }

  /// No option's value is taken for a command, whichever command has it.
  @Test func everyOptionWithAValueMayComeFirst() throws {
    for (path, command) in allCommands() where path.count == 1 {
      for option in try optionsWithValue(of: command) {
        let typed = [option, "value"] + path
        #expect(
          try commonForm(of: typed, commands: Ashlaradm.commandNames) == path + [option, "value"],
          "\(path): \(option)")
      }
    }
  }

  @Test func unknownWordIsNoCommand() {
    #expect(throws: CommandLineError.unknownCommand("r0")) {
      try commonForm(of: ["--force", "r0", "primary"], commands: commands)
    }
  }

  /// The words and codes of drbdadm's transcripts.
  @Test(
    arguments: [
      (["frobnicate", "r0"], 1, "ashlaradm: Unknown command 'frobnicate'"),
      (["primry", "r0"], 1, "did you mean 'primary'?"),
      ([], 1, "No command specified"),
      (["up"], 1, "No resource names specified"),
      (["primary"], 1, "No resource names specified"),
      (["--nosuchoption", "up", "r0"], 1, "--nosuchoption"),
      (["primary", "--nosuchoption", "r0"], 1, "--nosuchoption"),
      (["up", "nosuch"], 1, "'nosuch' not defined in your config (for this host).\n"),
      (["status", "nosuch"], 1, "'nosuch' not defined in your config (for this host).\n"),
      (["sh-dev", "nosuch"], 1, "'nosuch' not defined in your config (for this host).\n"),
      (["up", "r0/1"], 1, "r0 has no volume 1"),
      (["up", "r0/x"], 1, "'x' is not a volume number [0..65534]"),
      (["up", "r0"], 20, "ashlard is not running for node 'alpha'"),
      (
        ["-c", "/nosuch.conf", "status"], 20,
        "Can not open '/nosuch.conf': No such file or directory\n"
      ),
      (["--node", "a/b", "status"], 1, "node name 'a/b' is not valid"),
      (["wait-sync", "-t", "soon", "r0"], 1, "soon"),
    ] as [([String], Int, String)])
  func wrongCommandLine(arguments: [String], exit: Int, words: String) throws {
    let bench = try Bench()
    let result = try bench.run(arguments)
    #expect(result.status == Int32(exit), "\(result)")
    #expect(result.error.contains(words), "\(result)")
    #expect(result.output == "", "\(result)")
  }

  /// A node that is in no `on` section has no resources.
  @Test func otherHostHasNoResources() throws {
    let bench = try Bench(node: "gamma")
    let result = try bench.run("up", "r0")
    #expect(result.status == 1)
    #expect(result.error == "'r0' not defined in your config (for this host).\n")
    #expect(try bench.run("up", "all").error.contains("no resources defined for node 'gamma'"))
    #expect(try bench.run("sh-resources").output == "\n")
  }

  @Test func emptyConfiguration() throws {
    let bench = try Bench()
    try bench.configure("")
    for command in ["up", "status"] {
      let result = try bench.run(command, "r0")
      #expect(result.status == 1, "\(result)")
      #expect(result.error == "no resources defined!\n", "\(result)")
    }
  }

  @Test func invalidConfigurationIsTen() throws {
    let bench = try Bench()
    try bench.configure("resource r0 {\n  protokol C;\n}\n")
    let result = try bench.run("dump", "r0")
    #expect(result.status == 10, "\(result)")
    #expect(result.error.contains("ashlar.conf:2:3: Parse error: 'an option keyword' expected"))
  }

  @Test func helpAndVersionSucceed() throws {
    let bench = try Bench()
    for arguments in [["--help"], ["help"], ["help", "primary"], ["primary", "--help"]] {
      let result = try bench.run(arguments)
      #expect(result.status == 0, "\(result)")
      #expect(result.output.contains("USAGE: ashlaradm"), "\(result)")
    }
    let completion = try bench.run("--generate-completion-script", "bash")
    #expect(completion.status == 0 && completion.output.contains("wait-sync"))
    #expect(try bench.run("--version").output == "ashlaradm 0.1.0\n")
  }

  @Test func fileCommandsNeedNoDaemon() throws {
    let bench = try Bench(options: "net { ping-int 5; }")
    #expect(
      try bench.run("sh-dev", "r0").output
        == "nbd+unix:///r0?socket=\(bench.paths.runDirectory)/nbd-alpha.sock\n")
    #expect(try bench.run("sh-resources").output == "r0\n")
    let dump = try bench.run("dump")
    #expect(dump.output.contains("# resource r0 on alpha\n"), "\(dump)")
    #expect(dump.output.contains("        ping-int         5;\n"), "\(dump)")
    #expect(
      try bench.run("-d", "up", "r0").output == "ashlard up r0 --protocol=C --ping-int=5\n")
    #expect(
      try bench.run("-d", "--", "--force", "primary", "all").output
        == "ashlard primary r0 --force\n")
  }
}
