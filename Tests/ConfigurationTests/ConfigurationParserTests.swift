/// What a good configuration means: every form of the grammar gives the same model.

import BlockTypes
import Configuration
import Testing

/// The statements of a two-node resource in the form the documentation uses.
let twoNodes = """
  resource r0 {
    net     { protocol C; ping-int 5; }
    options { size 2; min-size 1; }
    on alpha {
      node-id 0; address 10.0.0.1:7789;
      volume 0 { disk /dev/vg/r0; meta-disk internal; }
    }
    on beta {
      node-id 1; address 10.0.0.2:7789;
      volume 0 { disk /dev/vg/r0; meta-disk internal; }
    }
  }
  """

func parsed(_ text: String) throws(ConfigurationError) -> Configuration {
  try Configuration.parse(text: text, file: "r0.res")
}

@Suite struct ConfigurationParserTests {
  /// The example of the guide is read whole, with nothing to warn about.
  @Test func documentedExampleIsUnderstood() throws {
    let configuration = try parsed(twoNodes)

    #expect(configuration.warnings == [])
    let resource = try #require(configuration.resource(named: "r0"))
    #expect(resource.net.pingIntervalSeconds == 5)
    #expect(resource.net.timeoutTenths == 60)
    #expect(resource.options.size == 2)
    #expect(resource.file == "r0.res")
    #expect(resource.line == 1)
    let alpha = try #require(resource.host(named: "alpha"))
    #expect(alpha.nodeID.value == 0)
    #expect(alpha.address == PeerAddress(host: "10.0.0.1", port: 7789))
    #expect(
      alpha.volumes
        == [VolumeConfiguration(number: 0, disk: "/dev/vg/r0", metaDisk: .internal)])
    #expect(resource.peers(of: "alpha").map(\.name) == ["beta"])
  }
}
