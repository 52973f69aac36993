/// Configuration files: any bytes give a configuration or an error with a place; a configuration in
/// canonical text means the same.
import Configuration

/// One file; an `include` finds itself or nothing.
private struct OneFile: ConfigurationFiles {
  let content: [UInt8]

  func read(_ path: String) -> Result<[UInt8], ConfigurationFileError> {
    path.hasSuffix("ashlar.conf")
      ? .success(content) : .failure(ConfigurationFileError(reason: "No such file"))
  }

  func expand(_ pattern: String) -> [String] {
    pattern.contains("*") ? ["/etc/ashlar/ashlar.conf", "/etc/ashlar/none.res"] : [pattern]
  }
}

private func load(_ bytes: [UInt8]) -> Result<Configuration, ConfigurationError> {
  Result { () throws(ConfigurationError) in
    try Configuration.load(path: "/etc/ashlar/ashlar.conf", files: OneFile(content: bytes))
  }
}

func fuzzConfiguration(_ bytes: UnsafeRawBufferPointer) {
  switch load(Array(bytes)) {
  case .failure(let error): precondition(!"\(error)".isEmpty, "an error without words")
  case .success(let configuration):
    for resource in configuration.resources {
      guard case .success(let again) = load(Array(resource.canonicalText.utf8)) else {
        preconditionFailure("canonical text is refused:\n\(resource.canonicalText)")
      }
      precondition(
        again.resources.first?.canonicalText == resource.canonicalText,
        "canonical text means something else:\n\(resource.canonicalText)")
    }
  }
}
