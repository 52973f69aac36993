/// Planted bugs: each must be found, or the simulator is blind to its kind.
import ArgumentParser
import Foundation
import Simulation

extension AshlarSim {
  /// Plants every bug in turn and says which seed found it. Fails when one stayed hidden that is no
  /// known blind spot.
  func plantEveryBug() throws {
    var command = self
    command.failures = 1
    var hidden: [Canary] = []
    let bugs = Canary.planted.filter { !Canary.blindSpots.contains($0) }
    for bug in bugs {
      command.canary = "\(bug)"
      var parent = Parent(command: command, canary: bug, isQuiet: true)
      _ = try parent.run()
      if let failure = parent.failed.first {
        print("planted bug \(bug): found by seed \(failure.seed): \(failure.text)")
      } else {
        print("planted bug \(bug): NOT FOUND in \(seeds) seeds")
        hidden.append(bug)
      }
      flushOutput()
    }
    print("\(bugs.count) planted bugs, \(hidden.count) not found")
    let names = Canary.blindSpots.map { "\($0)" }.joined(separator: ", ")
    if !names.isEmpty { print("not looked for: \(names)") }
    if !hidden.isEmpty { throw ExitCode(1) }
  }
}
