# Two nodes on this machine, alpha and beta, with one volume r0: for tools/demo and the gates.
#
# What must hold: everything lies below $directory; only processes started here are signalled, by
# their process ids. The caller sets $bin to the directory of the programs, and may set launcher_env
# and launcher to put something in front of a daemon, such as valgrind, and cluster_net to net
# options of the configuration.
# shellcheck shell=bash

declare -A daemon=()
directory=
launcher=()
launcher_env=()

# A TCP port that nothing listens on, other than $1.
free_port() {
  local port
  while true; do
    port=$((20000 + RANDOM % 10000))
    if [[ $port != "${1:-}" && -z $(ss -Hltn "sport = :$port") ]]; then break; fi
  done
  echo "$port"
}

# Makes a directory below $2 (/var/tmp), in it two disks of $1 MiB and a configuration for both.
make_cluster() {
  local port_alpha port_beta
  directory=$(mktemp -d "${2:-/var/tmp}/ashlar.XXXXXX")
  mkdir "$directory/run"
  truncate -s "$1M" "$directory/alpha.img" "$directory/beta.img"
  port_alpha=$(free_port)
  port_beta=$(free_port "$port_alpha")
  cat >"$directory/ashlar.conf" <<CONFIGURATION
resource r0 {
  net     { protocol C; ${cluster_net:-} }
  options { size 2; min-size 1; }
  on alpha {
    node-id 0;
    address 127.0.0.1:$port_alpha;
    volume 0 { disk $directory/alpha.img; meta-disk internal; }
  }
  on beta {
    node-id 1;
    address 127.0.0.1:$port_beta;
    volume 0 { disk $directory/beta.img; meta-disk internal; }
  }
}
CONFIGURATION
}

# Runs ashlaradm on the node $1.
admin() {
  local node=$1
  shift
  "${bin:?}/ashlaradm" --config "$directory/ashlar.conf" --node "$node" \
    --run-dir "$directory/run" "$@"
}

# Starts the daemon of the node $1 and waits for the line that says it is ready.
start_node() {
  local node=$1 log=$directory/$1.log before
  touch "$log"
  before=$(grep -c 'is ready$' "$log" || true)
  env "${launcher_env[@]//NODE/$node}" "${launcher[@]//NODE/$node}" "$bin/ashlard" \
    --config "$directory/ashlar.conf" --node "$node" --run-dir "$directory/run" \
    </dev/null >>"$log" 2>&1 &
  daemon[$node]=$!
  disown
  for _ in $(seq 3000); do
    if [[ $(grep -c 'is ready$' "$log") -gt $before ]]; then return 0; fi
    kill -0 "${daemon[$node]}" 2>/dev/null || break
    sleep 0.1
  done
  die "the daemon of $node did not start: $(tail -n 3 "$log")"
}

# Starts a new volume: fresh metadata, both daemons, alpha Primary, first full copy done.
start_mirror() {
  local node
  for node in alpha beta; do
    admin "$node" create-md --force r0 >/dev/null
    start_node "$node"
    admin "$node" up r0
  done
  admin alpha wait-connect r0 >/dev/null
  admin alpha primary --force r0
  admin alpha wait-sync r0 >/dev/null
}

# Ends both daemons by SIGTERM and waits for them.
stop_cluster() {
  local node
  for node in "${!daemon[@]}"; do
    kill -TERM "${daemon[$node]}" 2>/dev/null || true
    for _ in $(seq 3000); do
      kill -0 "${daemon[$node]}" 2>/dev/null || break
      sleep 0.1
    done
    ! kill -0 "${daemon[$node]}" 2>/dev/null || die "the daemon of $node does not end"
    unset "daemon[$node]"
  done
}

# Takes everything away; with a status other than 0, after the last words of the daemons.
remove_cluster() {
  local node
  [[ -d $directory ]] || return 0
  if [[ ${1:-0} -ne 0 ]]; then
    for node in alpha beta; do
      complain "---- last words of $node"
      tail -n 20 "$directory/$node.log" >&2 || true
    done
  fi
  for node in "${!daemon[@]}"; do kill -KILL "${daemon[$node]}" 2>/dev/null || true; done
  rm -rf --one-file-system "$directory"
}
