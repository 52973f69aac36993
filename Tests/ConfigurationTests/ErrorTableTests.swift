/// Every way a file can be wrong, with the exact place and text an operator reads.

import Configuration
import Testing

/// A file of the old style, as DRBD's users have them, with one line replaced.
///
/// ```
///  1 resource r0 {            5   on alpha {
///  2   protocol C;            6     address 10.1.1.31:7788;
///  3   disk /dev/ubdb;        7   }
///  4   meta-disk internal;    8   on bravo {   9     address 10.1.1.32:7788;   10   }   11 }
/// ```
private func oldStyle(_ line: Int = 0, _ replacement: String = "") -> String {
  var lines = [
    "resource r0 {", "  protocol C;", "  disk /dev/ubdb;", "  meta-disk internal;",
    "  on alpha {", "    address 10.1.1.31:7788;", "  }", "  on bravo {",
    "    address 10.1.1.32:7788;", "  }", "}",
  ]
  if line > 0 { lines[line - 1] = replacement }
  return lines.joined(separator: "\n") + "\n"
}

/// One wrong file: where it is wrong (line and column) and words the message must hold.
struct BadFile: Sendable, CustomTestStringConvertible {
  let name: String
  let text: String
  let place: String
  let words: [String]

  init(_ name: String, _ text: String, at place: String, _ words: String...) {
    self.name = name
    self.text = text
    self.place = place
    self.words = words
  }

  var testDescription: String { name }
}

private let grammarErrors = [
  BadFile(
    "unknown keyword", oldStyle(2, "  protokol C;"), at: "2:3",
    "Parse error: 'an option keyword' expected", "but got 'protokol'",
    "did you mean 'protocol'?"),
  BadFile(
    "missing semicolon", oldStyle(2, "  protocol C"), at: "3:3",
    "Parse error: ';' expected", "but got 'disk'"),
  BadFile(
    "missing brace at the end", String(oldStyle().dropLast(2)), at: "11:1",
    "'}' expected", "end of the file", "section 'resource' was opened at r0.res:1:1"),
  BadFile("brace too many", oldStyle() + "}", at: "12:1", "but got '}'"),
  BadFile("statement cut off", "resource r0", at: "1:12", "';' expected", "end of file"),
  BadFile("resource without braces", "resource r0;", at: "1:12", "'{' expected", "but got ';'"),
  BadFile("resource without a name", "resource {}", at: "1:10", "'a resource name' expected"),
  BadFile("two names", "resource r0 r1 {}", at: "1:13", "'{' expected", "but got 'r1'"),
  BadFile("anonymous section", "{ }", at: "1:1", "but got '{'"),
  BadFile("string without its end", "include \"r0.res;\n", at: "1:9", "'\"' expected"),
  BadFile("control character", "resource r\u{01}0 {}", at: "1:11", "byte 0x1"),
  BadFile("word at the top", "ressource r0 {}", at: "1:1", "did you mean 'resource'?"),
  BadFile(
    "unknown net option", oldStyle(2, "  net { allow-three-primaries; }"), at: "2:9",
    "'an option keyword' expected", "but got 'allow-three-primaries'",
    "did you mean 'allow-two-primaries'?"),
  BadFile(
    "unknown word in on", oldStyle(6, "    adress 10.1.1.31:7788;"), at: "6:5",
    "node-id | address | volume", "did you mean 'address'?"),
  BadFile("value missing", oldStyle(2, "  net { timeout; }"), at: "2:16", "'a value' expected"),
  BadFile(
    "section where a value is wanted", oldStyle(2, "  protocol { }"), at: "2:12",
    "';' expected", "but got '{'"),
  BadFile(
    "too many levels", String(repeating: "skip x { ", count: 9), at: "1:80",
    "nested sections: more than 8"),
  BadFile(
    "endless statement", String(repeating: "x ", count: 80), at: "1:131",
    "words in one statement: more than 64"),
]

private let valueErrors = [
  BadFile(
    "bad protocol", oldStyle(2, "  protocol D;"), at: "2:12",
    "protocol 'D' is not valid, expected one of A,B,C"),
  BadFile(
    "protocol A", oldStyle(2, "  protocol A;"), at: "2:12", "'protocol A' is not supported",
    "use 'protocol C'"),
  BadFile(
    "number out of range", oldStyle(2, "  net { ping-timeout 5000; }"), at: "2:22",
    "ping-timeout 5000 out of range [1..300] tenths of a second."),
  BadFile(
    "number beyond 64 bits", oldStyle(2, "  net { timeout 99999999999999999999; }"), at: "2:17",
    "timeout 99999999999999999999 out of range [1..600]"),
  BadFile(
    "no number", oldStyle(2, "  net { timeout soon; }"), at: "2:17",
    "timeout 'soon' is not valid, expected a number"),
  BadFile(
    "negative number", oldStyle(2, "  net { timeout -5; }"), at: "2:17", "expected a number"),
  BadFile(
    "ko-count 0", oldStyle(2, "  net { ko-count 0; }"), at: "2:18",
    "ko-count 0 out of range [1..200]."),
  BadFile(
    "timeout longer than ping-int", oldStyle(2, "  net { timeout 100; }"), at: "2:9",
    "timeout 100 (tenths of a second) must be less than ping-int 10"),
  BadFile(
    "bad engine", oldStyle(2, "  disk { io-engine uring; }"), at: "2:20",
    "expected io_uring | libaio"),
  BadFile(
    "mistyped engine", oldStyle(2, "  disk { io-engine io-uring; }"), at: "2:20",
    "did you mean 'io_uring'?"),
  BadFile(
    "too few hot extents", oldStyle(2, "  disk { al-extents 66; }"), at: "2:21",
    "al-extents 66 out of range [67..65534] extents."),
  BadFile(
    "too many hot extents", oldStyle(2, "  disk { al-extents 65535; }"), at: "2:21",
    "out of range [67..65534]"),
  BadFile(
    "rate beyond DRBD's", oldStyle(2, "  disk { c-max-rate 5G; }"), at: "2:21",
    "c-max-rate 5G out of range [0..4294967296] bytes/s."),
  BadFile(
    "rates that contradict", oldStyle(2, "  disk { c-max-rate 1M; c-min-rate 1025; }"), at: "2:25",
    "c-min-rate 1025 must not be more than c-max-rate 1024 (KiB/s)"),
  BadFile(
    "resync after nobody", oldStyle(2, "  disk { resync-after r1; }"), at: "2:23",
    "resync-after 'r1' is not valid, expected a resource of this configuration"),
  BadFile(
    "resync after itself", oldStyle(2, "  disk { resync-after r0; }"), at: "2:23",
    "resync-after makes a circle: r0 after r0"),
  BadFile(
    "resync after a volume", oldStyle(2, "  disk { resync-after r0/1; }"), at: "2:23",
    "expected RESOURCE or RESOURCE/0"),
  BadFile(
    "bad policy", oldStyle(2, "  net { after-sb-0pri discard-everything; }"), at: "2:23",
    "after-sb-0pri 'discard-everything' is not valid", "discard-zero-changes"),
  BadFile(
    "no flag", oldStyle(2, "  net { always-asbp maybe; }"), at: "2:21", "expected yes | no"),
  BadFile(
    "bad policy for two", oldStyle(2, "  net { after-sb-2pri violently; }"), at: "2:23",
    "expected disconnect | call-pri-lost-after-sb | violently-as0p"),
  BadFile(
    "undo directory", oldStyle(2, "  options { undo-directory undo; }"), at: "2:28",
    "expected an absolute path"),
  BadFile(
    "resync over a Primary", oldStyle(2, "  net { rr-conflict violently; }"), at: "2:21",
    "demote it first"),
  BadFile(
    "unknown victim", oldStyle(2, "  net { after-sb-0pri discard-node-nobody; }"), at: "2:23",
    "expected discard-node-"),
  BadFile(
    "handler that would promise", oldStyle(2, "  handlers { before-resync-source x; }"), at: "2:14",
    "use 'before-resync-target'"),
  BadFile(
    "nameless node", oldStyle(2, "  net { after-sb-0pri discard-node-; }"), at: "2:23",
    "is not valid"),
  BadFile(
    "size", oldStyle(2, "  options { size 3; }"), at: "2:18", "size 3, but 2 hosts have a disk"),
  BadFile(
    "min-size 2", oldStyle(2, "  options { min-size 2; }"), at: "2:22",
    "'min-size 2' is not supported"),
  BadFile(
    "min-size", oldStyle(2, "  options { min-size 3; }"), at: "2:22",
    "min-size 3 out of range [1..2] replicas."),
  BadFile(
    "node-id", oldStyle(6, "    node-id 32; address 10.1.1.31:7788;"), at: "6:13",
    "node-id 32 out of range [0..31]."),
  BadFile(
    "volume number", oldStyle(6, "    volume 70000 { disk /dev/x; }"), at: "6:12",
    "volume 70000 out of range [0..65534]."),
  BadFile(
    "bad resource name", "resource r/0 {}", at: "1:10", "resource name 'r/0' is not valid"),
  BadFile("reserved name", "resource all {}", at: "1:10", "'all' stands for every resource"),
  BadFile("name like an option", "resource -r {}", at: "1:10", "not starting with '-'"),
  BadFile(
    "relative disk", oldStyle(3, "  disk ubdb;"), at: "3:8", "expected an absolute path"),
  BadFile(
    "mistyped internal", oldStyle(4, "  meta-disk intern;"), at: "4:13",
    "did you mean 'internal'?"),
]

private let addressErrors = [
  BadFile(
    "no port", oldStyle(6, "    address 10.1.1.31;"), at: "6:22",
    "Parse error: ':' expected", "but got ';'"),
  BadFile(
    "bad port", oldStyle(6, "    address 10.1.1.31:77888;"), at: "6:23",
    "port 77888 out of range [1..65535]."),
  BadFile("port 0", oldStyle(6, "    address 10.1.1.31:0;"), at: "6:23", "port 0 out of range"),
  BadFile("empty port", oldStyle(6, "    address 10.1.1.31:;"), at: "6:23", "port ''"),
  BadFile(
    "bad address", oldStyle(6, "    address 10.1.1.331:7788;"), at: "6:13",
    "address '10.1.1.331:7788' is not valid"),
  BadFile(
    "host name", oldStyle(6, "    address alpha:7788;"), at: "6:13",
    "names are not looked up"),
  BadFile(
    "IPv6 without brackets", oldStyle(6, "    address fd00::1:7788;"), at: "6:13",
    "[fd00::1]:7789"),
  BadFile(
    "bad IPv6", oldStyle(6, "    address [fd00::1::2]:7788;"), at: "6:13", "is not valid"),
  BadFile(
    "IPv6 without port", oldStyle(6, "    address [fd00::1];"), at: "6:22", "':' expected"),
  BadFile(
    "wrong family", oldStyle(6, "    address ipv6 10.1.1.31:7788;"), at: "6:18",
    "expected an ipv6 address"),
  BadFile(
    "unknown family", oldStyle(6, "    address ipv5 10.1.1.31:7788;"), at: "6:13",
    "'ipv4 | ipv6' expected", "did you mean 'ipv4'?"),
  BadFile("no address word", oldStyle(6, "    address;"), at: "6:12", "'an address' expected"),
]

private let structureErrors = [
  BadFile(
    "no address", oldStyle(6, ""), at: "5:6",
    "in resource r0, on alpha { ... }: 'address' keyword missing."),
  BadFile(
    "no disk", oldStyle(3, ""), at: "4:3",
    "in resource r0, on alpha { ... }: 'disk' keyword missing."),
  BadFile(
    "one host",
    "resource r0 { disk /dev/x; on alpha { address 10.1.1.31:7788; } }", at: "1:1",
    "in resource r0", "Missing section 'on <PEER> { ... }'."),
  BadFile("no host", "resource r0 { }", at: "1:1", "Missing section 'on <HOST> { ... }'."),
  BadFile(
    "three hosts",
    "resource r0 { disk /dev/x; on a { address 1.1.1.1:1; } on b { address 1.1.1.2:1; }\n"
      + "on c { address 1.1.1.3:1; } }", at: "2:4", "two hosts a resource for now"),
  BadFile(
    "host twice", oldStyle(8, "  on alpha {"), at: "8:6",
    "conflicting use of section 'on alpha' ...", "r0.res:5:6: section 'on alpha' first used here."),
  BadFile(
    "address twice in one resource", oldStyle(9, "    address 10.1.1.31:7788;"), at: "9:13",
    "conflicting use of IP '10.1.1.31:7788'", "r0.res:6:13: IP '10.1.1.31:7788' first used here."),
  BadFile(
    "resource twice", oldStyle() + oldStyle(), at: "12:1",
    "conflicting use of resource section 'r0' ...",
    "r0.res:1:1: resource section 'r0' first used here."),
  BadFile(
    "one address for two resources",
    oldStyle() + oldStyle(1, "resource r1 {").replacing("ubdb", with: "ubdc"), at: "17:13",
    "conflicting use of IP '10.1.1.31:7788' ..."),
  BadFile(
    "one disk for two resources",
    oldStyle() + oldStyle(1, "resource r1 {").replacing(":7788", with: ":7789"), at: "14:8",
    "conflicting use of disk 'disk:alpha:/dev/ubdb' ...",
    "r0.res:3:8: disk 'disk:alpha:/dev/ubdb' first used here."),
  BadFile(
    "metadata on the disk itself", oldStyle(4, "  meta-disk /dev/ubdb;"), at: "4:13",
    "conflicting use of disk 'disk:alpha:/dev/ubdb'"),
  BadFile(
    "node-id twice",
    oldStyle(6, "    node-id 1; address 10.1.1.31:7788;").replacing(
      "address 10.1.1.32", with: "node-id 1; address 10.1.1.32"), at: "9:13",
    "conflicting use of node-id '1'"),
  BadFile(
    "option twice", oldStyle(2, "  net { timeout 5; timeout 6; }"), at: "2:20",
    "conflicting use of option 'timeout'", "r0.res:2:9"),
  BadFile(
    "protocol twice", oldStyle(2, "  protocol C; net { protocol C; }"), at: "2:3",
    "conflicting use of option 'protocol'"),
  BadFile(
    "section twice", oldStyle(2, "  net { } net { }"), at: "2:11",
    "conflicting use of section 'net'"),
  BadFile("common twice", "common { }\ncommon { }", at: "2:1", "conflicting use of section"),
  BadFile("global twice", "global { }\nglobal { }", at: "2:1", "conflicting use of section"),
  BadFile(
    "disk twice", oldStyle(3, "  disk /dev/ubdb; disk /dev/ubdc;"), at: "3:19",
    "conflicting use of statement 'disk'"),
  BadFile(
    "volume and old style", oldStyle(4, "  volume 0 { disk /dev/x; }"), at: "4:3",
    "conflicting use of volume '0'"),
  BadFile(
    "mesh with a stranger", oldStyle(4, "  connection-mesh { hosts alpha brovo; }"), at: "4:33",
    "did you mean 'bravo'?"),
]

private let refusedStatements = [
  BadFile(
    "floating", oldStyle(8, "  floating 10.1.1.32:7788 {"), at: "8:3",
    "'floating' is not supported", "on HOST"),
  BadFile(
    "stacked", oldStyle(4, "  stacked-on-top-of r1 { }"), at: "4:3", "not supported",
    "stacking"),
  BadFile("syncer", oldStyle(2, "  syncer { rate 10M; }"), at: "2:3", "since 8.4"),
  BadFile(
    "a secret that nothing is proven with", oldStyle(2, "  net { shared-secret \"x\"; }"),
    at: "2:9", "add 'cram-hmac-alg sha256'"),
  BadFile(
    "a proof of nothing", oldStyle(2, "  net { cram-hmac-alg sha1; }"), at: "2:9",
    "add 'shared-secret"),
  BadFile(
    "cram-hmac-alg of the kernel",
    oldStyle(2, "  net { cram-hmac-alg md5; shared-secret x; }"), at: "2:23",
    "'cram-hmac-alg md5' is not supported", "use 'cram-hmac-alg sha256'"),
  BadFile(
    "cram-hmac-alg with a typing error",
    oldStyle(2, "  net { cram-hmac-alg sha265; shared-secret x; }"), at: "2:23",
    "did you mean 'sha256'?"),
  BadFile(
    "a secret that is too long",
    oldStyle(
      2, "  net { shared-secret \(String(repeating: "x", count: 65)); cram-hmac-alg sha1; }"),
    at: "2:9", "shared-secret has 65 bytes"),
  BadFile(
    "data-integrity-alg of the kernel", oldStyle(2, "  net { data-integrity-alg sha1; }"),
    at: "2:28", "'data-integrity-alg sha1' is not supported", "use 'data-integrity-alg crc32c'"),
  BadFile(
    "verify-alg of the kernel", oldStyle(2, "  net { verify-alg sha1; }"), at: "2:20",
    "'verify-alg sha1' is not supported", "use 'verify-alg crc32c'"),
  BadFile(
    "csums-alg that proves nothing", oldStyle(2, "  net { csums-alg crc32c; }"), at: "2:19",
    "'csums-alg crc32c' is not supported", "use 'csums-alg xxh3-128'"),
  BadFile(
    "csums-alg of the kernel", oldStyle(2, "  net { csums-alg md5; }"), at: "2:19",
    "'csums-alg md5' is not supported", "use 'csums-alg xxh3-128'"),
  BadFile(
    "verify-alg with a typing error", oldStyle(2, "  net { verify-alg crc32; }"), at: "2:20",
    "'verify-alg crc32' is not supported"),
  BadFile(
    "two primaries", oldStyle(2, "  net { allow-two-primaries; }"), at: "2:9",
    "'allow-two-primaries yes' is not supported"),
  BadFile(
    "fencing", oldStyle(2, "  disk { fencing resource-only; }"), at: "2:10",
    "fencing is not supported yet"),
  BadFile(
    "quorum", oldStyle(2, "  options { quorum majority; }"), at: "2:13",
    "quorum is not supported yet"),
  BadFile(
    "fence-peer", oldStyle(2, "  handlers { fence-peer \"/bin/true\"; }"), at: "2:14",
    "fencing is not supported yet"),
  BadFile(
    "on-io-error", oldStyle(2, "  disk { on-io-error panic; }"), at: "2:22",
    "detach | pass_on | call-local-io-error"),
  BadFile(
    "disk-timeout", oldStyle(2, "  disk { disk-timeout 6001; }"), at: "2:23",
    "tenths of a second"),
  BadFile(
    "volume 1", oldStyle(6, "    volume 1 { disk /dev/x; }"), at: "6:12",
    "only volume 0 for now"),
  BadFile("diskless", oldStyle(3, "  disk none;"), at: "3:8", "diskless nodes come later"),
  BadFile(
    "indexed metadata", oldStyle(4, "  meta-disk /dev/md[0];"), at: "4:13",
    "a device or file of its own"),
  BadFile(
    "disk section in a host", oldStyle(6, "    disk { }"), at: "6:5",
    "at the level of the resource"),
]

@Suite struct ErrorTableTests {
  /// file:line:column is exact and the message says what was expected.
  @Test(
    arguments: grammarErrors + valueErrors + addressErrors + structureErrors + refusedStatements)
  func errorIsPlacedAndWorded(file: BadFile) {
    do {
      _ = try parsed(file.text)
      Issue.record("\(file.name) was accepted")
    } catch {
      let text = error.description
      #expect(error.position?.description == "r0.res:\(file.place)", "\(text)")
      #expect(text.hasPrefix("r0.res:\(file.place): "), "\(text)")
      for word in file.words { #expect(text.contains(word), "\(text)") }
    }
  }

  /// Bytes that are no text are refused where they stand.
  @Test func invalidUTF8IsRefused() {
    let files = TextFiles(["/a": [0x72, 0x20, 0xFF, 0xFE, 0x3B]])
    #expect(throws: ConfigurationError.badByte(0xFF, at: position("/a", 1, 3))) {
      try Configuration.load(path: "/a", files: files)
    }
  }

  /// A message stays short whatever the file holds.
  @Test func longWordsAreShortened() {
    do {
      _ = try parsed(String(repeating: "x", count: 100_000) + ";")
      Issue.record("accepted")
    } catch {
      #expect(error.description.utf8.count < 400)
    }
  }
}
