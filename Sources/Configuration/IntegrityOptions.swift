/// The `net` options by which peers prove who they are and protect what they send.
///
/// What must hold: whoever writes one of them gets the protection or an error; a secret is in no
/// error and in no warning.

/// What Ashlar knows for an option, and what DRBD knows beside that.
private struct Algorithms {
  let known: [String]
  let ofDRBD: [String]

  static let authentication = Algorithms(
    known: ["sha256", "sha384", "sha512", "sha1"],
    ofDRBD: ["md5", "sha224", "sha3-256", "blake2b-256"])
  static let integrity = Algorithms(
    known: ["crc32c", "xxh3-128", "sha256"],
    ofDRBD: [
      "sha1", "md5", "sha224", "sha384", "sha512", "sha3-256", "blake2b-256", "xxhash64", "crc32",
    ])
}

extension OptionSection {
  fileprivate func algorithm(
    _ name: String, of algorithms: Algorithms
  ) throws(ConfigurationError) -> String? {
    guard let value = entries[name]?.value else { return nil }
    if algorithms.known.contains(value.text) { return value.text }
    if algorithms.ofDRBD.contains(value.text) {
      throw .unsupported(
        "\(name) \(value.text)", alternative: "use '\(name) \(algorithms.known[0])'",
        at: value.position)
    }
    throw .badValue(
      keyword: name, value: value.text, expected: algorithms.known.joined(separator: " | "),
      suggestion: nearestWord(to: value.text, among: algorithms.known), at: value.position)
  }
}

extension NetOptions {
  /// Most bytes of a secret: DRBD's limit.
  static let secretLimit = 64

  /// Reads `cram-hmac-alg`, `shared-secret` and `data-integrity-alg`.
  mutating func readIntegrityOptions(_ section: OptionSection) throws(ConfigurationError) {
    dataIntegrityAlgorithm = try section.algorithm("data-integrity-alg", of: .integrity)
    authenticationAlgorithm = try section.algorithm("cram-hmac-alg", of: .authentication)
    guard let entry = section.entries["shared-secret"] else { return }
    let bytes = entry.value.text.utf8.count
    guard bytes >= 1, bytes <= Self.secretLimit else {
      throw .contradiction(
        "shared-secret has \(bytes) bytes; 1 to \(Self.secretLimit) are possible",
        at: entry.keyword.position)
    }
    sharedSecret = entry.value.text
  }

  /// One without the other would let everybody in who calls.
  func checkAuthentication(_ section: OptionSection) throws(ConfigurationError) {
    if let entry = section.entries["shared-secret"], authenticationAlgorithm == nil {
      throw .contradiction(
        "shared-secret without cram-hmac-alg authenticates nobody: add 'cram-hmac-alg sha256'",
        at: entry.keyword.position)
    }
    if let entry = section.entries["cram-hmac-alg"], sharedSecret == nil {
      throw .contradiction(
        "cram-hmac-alg without shared-secret authenticates nobody: add 'shared-secret \"...\"'",
        at: entry.keyword.position)
    }
  }
}
