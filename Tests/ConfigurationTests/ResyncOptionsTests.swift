/// Rates of a resync and the order of resources.

import Configuration
import Testing

/// A file with resources r1, r2, ... whose `disk` sections hold these texts.
private func resources(_ disks: String...) -> String {
  disks.enumerated().map { index, disk in
    """
    resource r\(index + 1) {
      disk { \(disk) }
      on alpha { address 10.1.1.31:\(7000 + index); disk /dev/a\(index); }
      on bravo { address 10.1.1.32:\(7000 + index); disk /dev/b\(index); }
    }

    """
  }.joined()
}

@Suite struct ResyncOptionsTests {
  /// A number is KiB a second, one with a suffix bytes, as DRBD has it.
  @Test func ratesAreReadAsDRBDReadsThem() throws {
    let disks = try parsed(
      resources("c-max-rate 20480; c-min-rate 250;", "c-max-rate 20M; c-min-rate 0;", "")
    ).resources.map(\.disk)
    #expect(disks.map(\.maxRateKiB) == [20_480, 20_480, 0])
    #expect(disks.map(\.minRateKiB) == [250, 0, nil])
  }

  @Test func activityLogHas64GiBUnlessToldOtherwise() throws {
    let disks = try parsed(resources("", "al-extents 67;", "al-extents 65534;")).resources
    #expect(disks.map(\.disk.activityLogExtents) == [16_384, 67, 65_534])
  }

  @Test func orderIsKeptWhereverTheResourcesStand() throws {
    let configuration = try parsed(
      resources("resync-after r3/0;", "", "resync-after r2;"))
    #expect(configuration.resources.map(\.disk.resyncAfter) == ["r3", nil, "r2"])
    #expect(configuration.warnings.isEmpty)
    let again = try parsed(configuration.resources.map(\.canonicalText).joined())
    #expect(again.resources.map(\.disk) == configuration.resources.map(\.disk))
  }

  /// S16: what could wait for ever is refused where it is written.
  @Test func circleIsRefusedWithItsPlace() {
    do {
      _ = try parsed(resources("resync-after r2;", "resync-after r3;", "resync-after r1;"))
      Issue.record("accepted")
    } catch {
      #expect(error.position?.description == "r0.res:2:23")
      #expect(error.description.contains("circle: r1 after r2 after r3 after r1"))
    }
    do {
      // Who follows a circle without being part of it is not to blame.
      _ = try parsed(resources("resync-after r2;", "resync-after r3;", "resync-after r2;"))
      Issue.record("accepted")
    } catch {
      #expect(error.position?.description == "r0.res:7:23")
    }
  }

  @Test func unknownResourceIsRefusedWithAProposal() {
    do {
      _ = try parsed(resources("", "resync-after r11;"))
      Issue.record("accepted")
    } catch {
      #expect(error.position?.description == "r0.res:7:23")
      #expect(error.description.contains("did you mean 'r1'?"))
    }
  }

  /// In `common` it would make everybody wait for one, and that one for itself.
  @Test func commonOrderIsACircle() {
    #expect(throws: ConfigurationError.self) {
      try parsed("common { disk { resync-after r1; } }\n" + resources("", ""))
    }
  }
}
