/// Forms of the grammar that mean the same, statements without effect, and canonical text.

import BlockTypes
import Configuration
import Testing

@Suite struct GrammarTests {
  /// DRBD 8's files, without `volume` and node ids, are read as volume 0 and ids by order.
  @Test func oldStyleIsVolumeZero() throws {
    let configuration = try parsed(
      """
      resource r0 {
        protocol C;
        disk "/dev/with space";   # a comment; with { signs }
        meta-disk /dev/meta-alpha;
        on alpha { address ipv4 10.1.1.31:7788; }
        on bravo { address ipv6 [FD00::2]:7788; meta-disk internal; disk /dev/b; }
      }
      """)
    let resource = try #require(configuration.resources.first)
    #expect(resource.hosts.map(\.nodeID.value) == [0, 1])
    #expect(resource.hosts[1].address == PeerAddress(host: "fd00::2", port: 7788))
    #expect(resource.hosts[1].address.description == "[fd00::2]:7788")
    #expect(
      resource.hosts.map(\.volumes) == [
        [
          VolumeConfiguration(
            number: 0, disk: "/dev/with space", metaDisk: .external(path: "/dev/meta-alpha"))
        ],
        [VolumeConfiguration(number: 0, disk: "/dev/b", metaDisk: .internal)],
      ])
  }

  /// Where one host has a node id, the other gets a free one.
  @Test func missingNodeIDIsAFreeOne() throws {
    let text = twoNodes.replacing("node-id 1;", with: "").replacing(
      "node-id 0;", with: "node-id 0;")
    #expect(try parsed(text).resources[0].hosts.map(\.nodeID.value) == [0, 1])
    let other = twoNodes.replacing("node-id 0;", with: "").replacing(
      "node-id 1;", with: "node-id 0;")
    #expect(try parsed(other).resources[0].hosts.map(\.nodeID.value) == [1, 0])
  }

  /// A volume at the level of the resource is the default of each host.
  @Test func outerVolumeIsInherited() throws {
    let configuration = try parsed(
      """
      resource r0 {
        volume 0 { device minor 4; disk /dev/outer; meta-disk internal; }
        connection-mesh { hosts alpha bravo; }
        on alpha { address 10.1.1.31:7788; volume 0 { disk /dev/own; } }
        on bravo { address 10.1.1.32:7788; }
      }
      """)
    let resource = try #require(configuration.resources.first)
    #expect(resource.hosts.map { $0.volumes[0].disk } == ["/dev/own", "/dev/outer"])
    #expect(configuration.warnings.count == 1)
    #expect(configuration.warnings[0].description.contains("r0.res:2:14: warning: 'device'"))
  }

  /// `skip resource` hides a resource that need only be well-formed.
  @Test func skippedSectionIsIgnored() throws {
    #expect(try parsed("skip resource r1 { nonsense 5; }" + twoNodes).resources.count == 1)
  }

  @Test func everyOptionIsRead() throws {
    let text = twoNodes.replacing(
      "protocol C; ping-int 5;",
      with: """
        protocol c; timeout 40; ko-count 3; ping-int 6; ping-timeout 12; connect-int 8;
        verify-alg crc32c; csums-alg "xxh3-128";
        """)
    let resource = try parsed(
      text.replacing("options {", with: "disk { io-engine libaio; } options {")
    )
    .resources[0]
    #expect(resource.net.timeoutMilliseconds == 4000)
    #expect(resource.net.koCount == 3)
    #expect(resource.net.pingIntervalMilliseconds == 6000)
    #expect(resource.net.pingTimeoutMilliseconds == 1200)
    #expect(resource.net.connectIntervalMilliseconds == 8000)
    #expect(resource.net.verifyAlgorithm == "crc32c")
    #expect(resource.net.checksumAlgorithm == "xxh3-128")
    #expect(resource.disk.ioEngine == .libaio)
  }

  /// A secret may stand in `common` and its algorithm in the resource, or the other way round.
  @Test func authenticationAndIntegrityAreRead() throws {
    let options = "cram-hmac-alg sha1; data-integrity-alg xxh3-128;"
    let text =
      "common { net { shared-secret \"two words\"; } }\n"
      + twoNodes.replacing("ping-int 5;", with: options)
    let configuration = try parsed(text)
    let net = configuration.resources[0].net
    #expect(net.authenticationAlgorithm == "sha1")
    #expect(net.sharedSecret == "two words")
    #expect(net.dataIntegrityAlgorithm == "xxh3-128")
    #expect(configuration.warnings.isEmpty)
    #expect(configuration.resources[0].canonicalText.contains("shared-secret    \"two words\";"))
    let again = try parsed(configuration.resources[0].canonicalText).resources[0]
    #expect(again.net == net)
  }

  /// Once for each file, however many secrets stand in it.
  @Test func aSecretThatEverybodyCanReadWarns() throws {
    struct Files: ConfigurationFiles {
      var open: Bool
      func read(_ path: String) -> Result<[UInt8], ConfigurationFileError> {
        let secret = "shared-secret x; cram-hmac-alg sha256;"
        return .success(Array(twoNodes.replacing("ping-int 5;", with: secret).utf8))
      }
      func expand(_ pattern: String) -> [String] { [] }
      func isReadableByAll(_ path: String) -> Bool { open }
    }
    let warnings = try Configuration.load(path: "/a.res", files: Files(open: true)).warnings
    #expect(warnings.count == 1)
    #expect(warnings.first?.text.contains("chmod o-r /a.res") == true)
    #expect(
      try Configuration.load(path: "/a.res", files: Files(open: false)).warnings.isEmpty)
  }

  /// Harmless statements are accepted and each is named once, with its place.
  @Test func harmlessStatementsWarn() throws {
    let text = twoNodes.replacing(
      "ping-int 5;", with: "max-buffers 8000; tcp-cork no; always-asbp yes;")
    let warnings = try parsed("require-drbd-module-version-ge 9.0;\n" + text).warnings
    #expect(warnings.map(\.position.line) == [1, 3, 3, 3])
    #expect(warnings[3].text.contains("bitmaps cover"))
    #expect(
      try parsed(twoNodes.replacing("ping-int 5;", with: "after-sb-0pri disconnect;"))
        .warnings.isEmpty)
  }

  /// `dump` and back is the same resource.
  @Test func canonicalTextMeansTheSame() throws {
    let text = twoNodes.replacing("ping-int 5;", with: "ping-int 5; csums-alg \"xxh3-128\";")
      .replacing("disk /dev/vg/r0", with: "disk \"/dev/vg \\\"{r0}\"")
      .replacing("internal", with: "/dev/m", maxReplacements: 1)
    var resource = try parsed(text).resources[0]
    var again = try parsed(resource.canonicalText).resources[0]
    #expect(resource.canonicalText == again.canonicalText)
    resource.line = 0
    again.line = 0
    #expect(resource == again)
  }

  @Test func canonicalTextIsStable() throws {
    #expect(
      try parsed(twoNodes).resources[0].canonicalText == """
        resource r0 {
            on alpha {
                node-id          0;
                address          ipv4 10.0.0.1:7789;
                volume 0 {
                    disk             /dev/vg/r0;
                    meta-disk        internal;
                }
            }
            on beta {
                node-id          1;
                address          ipv4 10.0.0.2:7789;
                volume 0 {
                    disk             /dev/vg/r0;
                    meta-disk        internal;
                }
            }
            net {
                protocol         C;
                ping-int         5;
            }
        }

        """)
  }

  /// The nearest word is one an operator may have meant, or none.
  @Test(
    arguments: [
      ("protokol", "protocol"), ("timout", "timeout"), ("pign-int", "ping-int"),
      ("xyzzy", nil), ("", nil),
    ] as [(String, String?)])
  func nearestWordIsNear(typed: String, meant: String?) {
    let words = ["protocol", "timeout", "ping-int", "ping-timeout", "ko-count"]
    #expect(nearestWord(to: typed, among: words) == meant)
  }
}
