/// Every statement of DRBD's grammar and what Ashlar does with it.
///
/// A statement is *used*, *without effect* (accepted, with a warning that says what happens
/// instead) or *refused* (with the alternative). It is refused where accepting it would let an
/// administrator believe in a protection that is not there.

/// What happens to a statement that Ashlar does not act on.
enum Verdict: Equatable, Sendable {
  case silent
  case warning(String)
  case refused(String)
  /// Accepted silently with one of these values, refused with any other.
  case refusedUnless([String], String)
  /// Accepted silently with one of these values, with a warning otherwise. A value that DRBD does
  /// not know either is an error, where `known` lists what it knows; `x-*` stands for any ending.
  case warnedUnless([String], String, known: [String]? = nil)
}

/// The words of one kind of section.
struct Vocabulary: Sendable {
  /// The section's name, for errors.
  let section: String
  /// Words the interpreter handles itself.
  let used: [String]
  /// All other words that DRBD knows here.
  let verdicts: [String: Verdict]
  /// What to warn of where a word that is kept has no effect.
  var notes: [String: String] = [:]

  /// Every word that may be meant.
  var words: [String] { used + verdicts.keys.sorted() }

  /// The error for a word that nobody knows.
  func unknown(_ token: Token) -> ConfigurationError {
    let expected =
      used.count + verdicts.count <= 12 ? words.joined(separator: " | ") : "an option keyword"
    return .unexpected(
      expected: expected, got: token.text, suggestion: nearestWord(to: token.text, among: words),
      at: token.position)
  }
}

extension Vocabulary {
  private static let noEffect = "has no effect"
  private static let adaptive = "has no effect: resync follows the clients' latency and the link"

  static let topLevel = Vocabulary(
    section: "the file", used: ["global", "common", "resource", "skip", "include"],
    verdicts: Dictionary(
      uniqueKeysWithValues: ["eq", "ne", "gt", "ge", "lt", "le"].map {
        (
          "require-drbd-module-version-\($0)",
          Verdict.warning("has no effect: there is no kernel module")
        )
      }))

  static let global = Vocabulary(
    section: "global", used: ["usage-count"],
    verdicts: [
      "minor-count": .warning("\(noEffect): there are no minors"),
      "dialog-refresh": .warning(noEffect),
      "dialog-timeout": .warning(noEffect),
      "disable-ip-verification": .silent,
      "udev-always-use-vnr": .warning("\(noEffect): there are no udev links"),
      "cmd-timeout-short": .warning(noEffect),
      "cmd-timeout-medium": .warning(noEffect),
      "cmd-timeout-long": .warning(noEffect),
    ])

  static let common = Vocabulary(
    section: "common",
    used: ["protocol", "net", "disk", "options", "startup", "handlers"],
    verdicts: ["proxy": .refused("there is no proxy; use a tunnel"), "syncer": .refused(syncer)])

  static let resource = Vocabulary(
    section: "resource",
    used: [
      "protocol", "on", "net", "disk", "options", "startup", "handlers", "volume", "meta-disk",
      "flexible-meta-disk", "device", "connection-mesh",
    ],
    verdicts: [
      "syncer": .refused(syncer),
      "floating": .refused("name the host: 'on HOST { address ...; }'"),
      "stacked-on-top-of": .refused("there is no stacking; more than two replicas come later"),
      "connection": .refused("write 'address' into each 'on' section"),
      "template-file": .refused("use 'common' or 'include'"),
      "proxy": .refused("there is no proxy; use a tunnel"),
      "ignore-on": .refused("delete it: a host without an 'on' section is ignored"),
    ])

  private static let syncer =
    "DRBD 8.3's section; its options stand in 'disk' and 'net' since 8.4"

  static let host = Vocabulary(
    section: "on",
    used: [
      "node-id", "address", "volume", "device", "disk", "meta-disk", "flexible-meta-disk",
    ],
    verdicts: [
      "tiebreaker": .refusedUnless(["no"], "quorum and tiebreakers are not supported yet"),
      "options": .refused("write it at the level of the resource"),
      "net": .refused("write it at the level of the resource"),
      "proxy": .refused("there is no proxy; use a tunnel"),
    ])

  static let volume = Vocabulary(
    section: "volume", used: ["device", "disk", "meta-disk", "flexible-meta-disk"], verdicts: [:])

  static let connectionMesh = Vocabulary(
    section: "connection-mesh", used: ["hosts"],
    verdicts: ["net": .refused("write it at the level of the resource")])

  static let net = Vocabulary(
    section: "net",
    used: [
      "protocol", "timeout", "ko-count", "ping-int", "ping-timeout", "connect-int", "verify-alg",
      "csums-alg", "cram-hmac-alg", "shared-secret", "data-integrity-alg", "after-sb-0pri",
      "after-sb-1pri", "after-sb-2pri", "rr-conflict",
    ],
    verdicts: netVerdicts)

  /// What digests of blocks can be made with; the first one is proposed where another is refused.
  static let digests = ["crc32c", "xxh3-128", "sha256"]
  /// Those whose equality proves that two blocks are equal; the first one is proposed, too.
  static let proofs = ["xxh3-128", "sha256"]
  /// What the kernel offers DRBD beside them: refused by name, for what would be made is another.
  static let digestsOfDRBD = [
    "sha1", "md5", "sha224", "sha384", "sha512", "sha3-256", "blake2b-256", "xxhash64",
    "crc32",
  ]

  private static let yesOrNo = ["yes", "no"]

  private static let netVerdicts: [String: Verdict] = [
    "fencing": .refusedUnless(["dont-care"], "fencing is not supported yet"),
    "allow-two-primaries": .refusedUnless(["no"], "two Primaries are not supported yet"),
    "always-asbp": .warnedUnless(
      ["no"], "\(noEffect): a policy decides only where the bitmaps cover all that changed",
      known: yesOrNo),
    "transport": .refusedUnless(["tcp"], "the only transport is tcp"),
    "tls": .refusedUnless(["no"], "connections are not encrypted yet; use a tunnel"),
    "tls-keyring": .refused("connections are not encrypted yet; use a tunnel"),
    "tls-privkey": .refused("connections are not encrypted yet; use a tunnel"),
    "tls-certificate": .refused("connections are not encrypted yet; use a tunnel"),
    "load-balance-paths": .warnedUnless(["no"], "\(noEffect): there is one path", known: yesOrNo),
    "on-congestion": .refusedUnless(["block"], "only protocol A can pull ahead"),
    "congestion-fill": .warning(noEffect),
    "congestion-extents": .warning(noEffect),
    "allow-remote-read": .refusedUnless(
      ["yes"], "a diskless Primary would lose its data; delete it"),
    "max-buffers": .warning("\(noEffect): the buffer pool has a fixed size"),
    "max-epoch-size": .warning("\(noEffect): there are no epochs"),
    "unplug-watermark": .warning(noEffect),
    "sndbuf-size": .warning("\(noEffect): the kernel tunes the buffers"),
    "rcvbuf-size": .warning("\(noEffect): the kernel tunes the buffers"),
    "tcp-cork": .warning(noEffect),
    "socket-check-timeout": .warning(noEffect),
    "use-rle": .warning(noEffect),
    "csums-after-crash-only": .warning(noEffect),
    "rdma-ctrl-rcvbuf-size": .warning("\(noEffect): there is no RDMA"),
    "rdma-ctrl-sndbuf-size": .warning("\(noEffect): there is no RDMA"),
  ]

  static let disk = Vocabulary(
    section: "disk",
    used: [
      "io-engine", "on-io-error", "disk-timeout", "al-extents", "c-max-rate", "c-min-rate",
      "resync-after",
    ],
    verdicts: diskVerdicts)

  private static let alwaysFlushes = "\(noEffect): flushes are always done where a client asks"

  private static let diskVerdicts: [String: Verdict] = [
    "fencing": .refusedUnless(["dont-care"], "fencing is not supported yet"),
    "size": .refused("create-md records the size; 'options { size N; }' counts replicas"),
    "disk-barrier": .warning(alwaysFlushes),
    "disk-flushes": .warnedUnless(["yes"], alwaysFlushes, known: yesOrNo),
    "disk-drain": .warning(alwaysFlushes),
    "md-flushes": .warnedUnless(["yes"], "\(noEffect): metadata is always flushed", known: yesOrNo),
    "resync-rate": .warning(adaptive), "rate": .warning(adaptive),
    "c-plan-ahead": .warning(adaptive), "c-delay-target": .warning(adaptive),
    "c-fill-target": .warning(adaptive),
    "al-updates": .warnedUnless(
      ["yes"], "\(noEffect): the activity log is always kept", known: yesOrNo),
    "discard-zeroes-if-aligned": .warning(noEffect),
    "rs-discard-granularity": .warning(noEffect),
    "discard-granularity": .warning(noEffect),
    "disable-write-same": .warning(noEffect),
    "read-balancing": .warnedUnless(
      ["prefer-local"], "\(noEffect) yet: reads are local where they can be",
      known: [
        "prefer-local", "prefer-remote", "round-robin", "least-pending", "when-congested-remote",
        "32K-striping", "64K-striping", "128K-striping", "256K-striping", "512K-striping",
        "1M-striping",
      ]),
    "max-bio-bvecs": .warning(noEffect),
    "bitmap": .refusedUnless(["yes"], "every replica needs its bitmap"),
    "peer-tiebreaker": .warning(noEffect),
  ]

  static let options = Vocabulary(
    section: "options", used: ["size", "min-size", "undo-limit", "undo-directory"],
    verdicts: [
      "quorum": .refusedUnless(["off"], "quorum is not supported yet"),
      "quorum-minimum-redundancy": .refusedUnless(["off"], "use 'min-size'"),
      "on-no-quorum": .warning("\(noEffect): there is no quorum yet"),
      "on-suspended-primary-outdated": .warning("\(noEffect): there is no quorum yet"),
      "on-no-data-accessible": .warnedUnless(
        ["io-error"], "\(noEffect) yet: I/O fails when no disk can be reached",
        known: ["io-error", "suspend-io"]),
      "auto-promote": .warnedUnless(
        ["no"], "\(noEffect) yet: use 'ashlaradm primary'", known: yesOrNo),
      "auto-promote-timeout": .warning(noEffect),
      "cpu-mask": .warning(noEffect),
      "twopc-timeout": .warning(noEffect), "twopc-retry-timeout": .warning(noEffect),
      "peer-ack-delay": .warning(noEffect), "peer-ack-window": .warning(noEffect),
      "load-balance-paths": .warning(noEffect),
      "drbd8-compat-mode": .warning(noEffect),
    ])

  static let startup = Vocabulary(
    section: "startup", used: [],
    verdicts: [
      "wfc-timeout": .warning("\(noEffect): use 'ashlaradm wait-connect --timeout'"),
      "degr-wfc-timeout": .warning("\(noEffect): use 'ashlaradm wait-connect --timeout'"),
      "outdated-wfc-timeout": .warning("\(noEffect): use 'ashlaradm wait-connect --timeout'"),
      "stacked-timeouts": .warning(noEffect),
      "wait-after-sb": .warning(noEffect),
      "become-primary-on": .warning("\(noEffect): use 'ashlaradm primary'"),
    ])

  private static let notCalled = Verdict.warning("\(noEffect): this handler is not called")

  static let handlers = Vocabulary(
    section: "handlers",
    used: [
      "initial-split-brain", "split-brain", "before-resync-target", "after-resync-target",
      "pri-lost", "pri-lost-after-sb", "local-io-error", "out-of-sync",
    ],
    verdicts: [
      "fence-peer": .refused("fencing is not supported yet"),
      "unfence-peer": .refused("fencing is not supported yet"),
      "outdate-peer": .refused("fencing is not supported yet"),
      "before-resync-source": .refused(
        "it is not called, nothing would stop a resync; use 'before-resync-target'"),
      "pri-on-incon-degr": notCalled, "quorum-lost": notCalled, "disconnected": notCalled,
    ])
}
