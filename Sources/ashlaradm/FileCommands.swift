/// The commands that only look at the configuration.

import ArgumentParser
import Configuration
import Control

struct Dump: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "dump", abstract: "Check the configuration and print it in its canonical form.")
  @OptionGroup var common: CommonOptions
  @Argument(help: resourcesHelp) var resources: [String] = []

  mutating func run() throws {
    let session = try Session(common)
    let configuration = try session.configuration(showsWarnings: true)
    var text = ""
    if resources.isEmpty {
      text += "# \(configuration.file)\nglobal {\n"
      if let usageCount = configuration.globalOptions.usageCount {
        text += "    usage-count \(usageCount);\n"
      }
      text += "}\n\ncommon {\n}\n\n"
    }
    let here = configuration.resources(on: session.environment.node)
    let shown =
      resources.isEmpty
      ? here : try session.targets(resources, in: configuration).map(\.resource)
    for resource in shown {
      text += "# resource \(resource.name) on \(session.environment.node)\n"
      text += "# defined at \(resource.file):\(resource.line)\n"
      text += resource.canonicalText + "\n"
    }
    write(text: text, to: 1)
  }
}

struct ShowDevice: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "sh-dev",
    abstract: "Print the NBD URI under which this node exports each volume.")
  @OptionGroup var common: CommonOptions
  @OptionGroup var named: NamedResources

  mutating func run() throws {
    let session = try Session(common)
    let configuration = try session.configuration()
    for target in try session.targets(named.resources, in: configuration) {
      for volume in target.volumes {
        printOutput(
          session.environment.paths.nbdURI(
            resource: target.resource.name, volume: volume.number))
      }
    }
  }
}

struct ShowResources: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "sh-resources", abstract: "Print the names of this node's resources in one line.")
  @OptionGroup var common: CommonOptions

  mutating func run() throws {
    let session = try Session(common)
    let names = try session.configuration().resources(on: session.environment.node).map(\.name)
    printOutput(names.joined(separator: " "))
  }
}
