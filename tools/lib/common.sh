# Shared by the programs in tools/: where the package is, how Swift is found, how things are said.
# shellcheck shell=bash

package_root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
export package_root

say() { printf '%s\n' "$*"; }
complain() { printf '%s\n' "$*" >&2; }
die() { complain "${0##*/}: $*"; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }

# System administration programs are not in every user's PATH.
PATH=$PATH:/usr/sbin:/sbin

# Puts Swift in PATH: as it is, or from /opt/swift.
find_swift() {
  have swift || PATH=$PATH:/opt/swift/usr/bin
  have swift || die "Swift 6.2 or newer is needed, in PATH or in /opt/swift (swift.org/install)"
}

# Builds the programs optimised and prints the directory they are in.
build_release() {
  swift build --package-path "$package_root" -c release >&2 || return 1
  swift build --package-path "$package_root" -c release --show-bin-path
}
