/// The slab against a dictionary: what was inserted is found until it is removed, and never after.

import BlockTypes
import TestSupport
import Testing

@Suite struct SlabTests {
  /// Random inserts, writes and removes; the model is a dictionary of what must be there.
  /// Replay one seed with: ASHLAR_SEED=0x2a swift test --filter SlabTests
  @Test(arguments: seeds(count: 32))
  func behavesAsADictionaryOfLivingIDs(seed: UInt64) {
    var random = SeededGenerator(seed: seed)
    let capacity = 1 + random.below(20)
    var slab = Slab<UInt64>(capacity: capacity, filler: 0)
    var model: [SlotID: UInt64] = [:]
    var dead: [SlotID] = []
    for _ in 0..<2_000 {
      switch random.below(3) {
      case 0:
        let value = random.next()
        if let id = slab.insert(value) {
          #expect(model.updateValue(value, forKey: id) == nil, "seed \(seed): id given out twice")
        } else {
          #expect(model.count == capacity, "seed \(seed): refused with a slot free")
        }
      case 1:
        guard let id = model.keys.min(by: { $0.tag < $1.tag }) else { continue }
        let value = random.next()
        slab[id] = value
        model[id] = value
      default:
        let ids = model.keys.sorted { $0.tag < $1.tag }
        guard !ids.isEmpty else { continue }
        let id = ids[random.below(ids.count)]
        slab.remove(id)
        model[id] = nil
        dead.append(id)
      }
      #expect(slab.count == model.count, "seed \(seed)")
    }
    for (id, value) in model { #expect(slab[id] == value, "seed \(seed)") }
    for id in dead {
      let lives = slab.contains(id)
      #expect(!lives, "seed \(seed): \(id) came back to life")
    }
    let walked = (0..<capacity).compactMap { slab.id(at: $0) }
    #expect(Set(walked) == Set(model.keys), "seed \(seed)")
  }

  /// A tag that travelled through the kernel or a peer gives the same id back.
  @Test func tagKeepsBothHalves() {
    let id = SlotID(slot: 0xDEAD_BEEF, generation: 0x0123_4567)

    #expect(id.tag == 0x0123_4567_DEAD_BEEF)
    #expect(SlotID(tag: id.tag) == id)
  }

  /// Ids from outside may be anything: they are asked for with `contains`, which must not trap.
  @Test(arguments: seeds(count: 4))
  func foreignIDIsNotContained(seed: UInt64) {
    var random = SeededGenerator(seed: seed)
    var slab = Slab<UInt64>(capacity: 4, filler: 0)
    let mine = slab.insert(7)
    for _ in 0..<10_000 {
      let id = SlotID(tag: random.next() & 0x0000_0003_0000_0007)
      let isContained = slab.contains(id)
      #expect(isContained == (id == mine))
    }
  }

  /// A completion for a slot that was freed must stop the process, not reach newer data.
  @Test func staleIDTraps() async {
    await #expect(processExitsWith: .failure) {
      var slab = Slab<UInt64>(capacity: 1, filler: 0)
      guard let old = slab.insert(1) else { return }
      slab.remove(old)
      _ = slab.insert(2)
      slab[old] = 3
    }
  }

  @Test func removingTwiceTraps() async {
    await #expect(processExitsWith: .failure) {
      var slab = Slab<UInt64>(capacity: 2, filler: 0)
      guard let id = slab.insert(1) else { return }
      slab.remove(id)
      slab.remove(id)
    }
  }
}
