/// The bounded queue and the fixed array against Swift's own array.

import BlockTypes
import TestSupport
import Testing

@Suite struct FIFOTests {
  /// Random pushes, pops and changes in place, across many turns of the ring.
  @Test(arguments: seeds(count: 32))
  func behavesAsAnArray(seed: UInt64) {
    var random = SeededGenerator(seed: seed)
    let wanted = 1 + random.below(40)
    var queue = FIFO<UInt64>(capacity: wanted, filler: 0)
    var model: [UInt64] = []
    #expect(queue.capacity >= wanted)
    for _ in 0..<3_000 {
      let value = random.next()
      switch random.below(8) {
      case 0...3 where !queue.isFull:
        queue.push(value)
        model.append(value)
      case 4...6:
        #expect(queue.pop() == (model.isEmpty ? nil : model.removeFirst()), "seed \(seed)")
      case 7 where !model.isEmpty:
        let index = random.below(model.count)
        queue[index] = value
        model[index] = value
      default: break
      }
      #expect(queue.count == model.count, "seed \(seed)")
      #expect(queue.isEmpty == model.isEmpty, "seed \(seed)")
      #expect(queue.isFull == (model.count == queue.capacity), "seed \(seed)")
    }
    for index in model.indices { #expect(queue[index] == model[index], "seed \(seed)") }
    queue.removeAll()
    #expect(queue.isEmpty && queue.pop() == nil)
  }

  @Test func pushOnAFullQueueTraps() async {
    await #expect(processExitsWith: .failure) {
      var queue = FIFO<UInt8>(capacity: 1, filler: 0)
      queue.push(1)
      queue.push(2)
    }
  }

  @Test func indexPastTheEndTraps() async {
    await #expect(processExitsWith: .failure) {
      var queue = FIFO<UInt8>(capacity: 4, filler: 0)
      queue.push(1)
      queue[1] = 2
    }
  }
}

@Suite struct FixedArrayTests {
  /// Elements that own memory are made once, changed in place, and each index is its own.
  @Test func elementsAreMadeInOrderAndChangedInPlace() {
    var array = FixedArray<BlockBitmap>(count: 3) { BlockBitmap(blockCount: UInt64($0 + 1)) }

    array[1].setAll()

    #expect((0..<3).map { array[$0].blockCount } == [1, 2, 3])
    #expect((0..<3).map { array[$0].setCount } == [0, 2, 0])
  }

  @Test func emptyArrayIsAllowed() {
    let array = FixedArray<UInt64>(count: 0) { _ in 0 }

    #expect(array.count == 0)
  }

  @Test func indexOutsideTraps() async {
    await #expect(processExitsWith: .failure) {
      let array = FixedArray<UInt64>(count: 2) { _ in 0 }
      _ = array[2]
    }
  }
}
