/// The cable fails, or the peer only seems to be there, while a client writes.
import Foundation
import Glibc
import Testing

/// Net options with which a silent peer is noticed within about three seconds.
let quickNotice = "ping-int 1; ping-timeout 20; timeout 9; ko-count 3; connect-int 1;"

extension Integration {
  @Suite struct Links {
    @Test(.needsNamespaces, .needsPythonNBD, .needs("cmp"))
    func `writes go on while the cable is cut in every way, and both disks end equal`() throws {
      let link = try Link()
      try withCluster(ClusterOptions(net: quickNotice, link: link)) { cluster in
        let writer = Writer(cluster: cluster)
        for (number, cut) in Link.Cut.allCases.enumerated() {
          print("cable: \(cut)")
          let load = try writer.start(at: cluster.alpha, seed: UInt64(number))
          try link.cut(cut)
          try cluster.waitForLoss(at: cluster.alpha)
          try link.heal()
          try cluster.waitForSync()
          try writer.stop(load)
          try writer.verify(at: cluster.alpha)
          try cluster.waitForSync()
          try cluster.expectIdenticalDisks()
        }
      }
    }

    @Test(.needsNamespaces, .needsPythonNBD, .needs("cmp"))
    func `a cable that is cut and whole again before anyone notices loses nothing`() throws {
      let link = try Link()
      try withCluster(ClusterOptions(net: slowMachine, link: link)) { cluster in
        let writer = Writer(cluster: cluster)
        let load = try writer.start(at: cluster.alpha, seed: 1)
        for cut in Link.Cut.allCases + Link.Cut.allCases {
          try link.cut(cut)
          usleep(300_000)
          try link.heal()
          usleep(300_000)
        }
        try writer.stop(load)
        try cluster.waitForSync()
        try writer.verify(at: cluster.alpha)
        try cluster.expectIdenticalDisks()
      }
    }

    @Test(.needsPythonNBD, .needs("cmp"))
    func `a peer that stops without dying is noticed, and is in sync when it goes on`() throws {
      try withCluster(ClusterOptions(net: quickNotice)) { cluster in
        let writer = Writer(cluster: cluster)
        let load = try writer.start(at: cluster.alpha, seed: 1)
        cluster.beta.daemon?.signal(SIGSTOP)
        try cluster.waitForLoss(at: cluster.alpha)
        cluster.beta.daemon?.signal(SIGCONT)
        try cluster.waitForSync()
        try writer.stop(load)
        try writer.verify(at: cluster.alpha)
        try cluster.waitForSync()
        try cluster.expectIdenticalDisks()
      }
    }

    @Test(.needsPythonNBD, .needs("cmp"))
    func `a Primary that stops for a while and goes on has lost nothing`() throws {
      try withCluster(ClusterOptions(net: quickNotice)) { cluster in
        let writer = Writer(cluster: cluster)
        let load = try writer.start(at: cluster.alpha, seed: 1)
        cluster.alpha.daemon?.signal(SIGSTOP)
        try cluster.waitForLoss(at: cluster.beta)
        cluster.alpha.daemon?.signal(SIGCONT)
        try cluster.waitForSync()
        try writer.stop(load)
        try writer.verify(at: cluster.alpha)
        try cluster.waitForSync()
        try cluster.expectIdenticalDisks()
      }
    }
  }
}
