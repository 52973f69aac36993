# The client of tools/demo: an ext4 file system of this machine's kernel on the volume where that is
# possible, else fio's nbd engine. Both write until they are stopped and then check every byte.
#
# What must hold: client_count only ever counts what the volume has acknowledged as durable.
# shellcheck shell=bash

client_kind=
client_pid=
client_device=

start_client() {
  client_uri=$1
  client_directory=$2
  echo 0 >"$client_directory/count"
  if [[ $(id -u) -eq 0 && -w /dev/fuse && -w /dev/loop-control ]]; then
    client_kind=ext4
    start_file_system
    write_files &
  else
    client_kind=fio
    write_with_fio &
  fi
  client_pid=$!
}

client_description() {
  case $client_kind in
    ext4) echo "ext4 on $client_device (nbdfuse, loop device), one synced file after another" ;;
    fio) echo "fio writes and verifies random blocks; ext4 needs root, /dev/fuse and loop" ;;
  esac
}

client_count() { cat "$client_directory/count"; }

client_progress() { echo "$(client_count) $client_kind rounds of 1 MiB written and synced so far"; }

client_verdict() { echo "$(client_count) rounds written, every byte of them is there"; }

start_file_system() {
  local size
  mkdir "$client_directory/mnt"
  : >"$client_directory/volume"
  nbdfuse "$client_directory/volume" "$client_uri" &
  size=$(nbdinfo --size "$client_uri")
  for _ in $(seq 3000); do
    if [[ $(stat -c %s "$client_directory/volume") == "$size" ]]; then break; fi
    sleep 0.1
  done
  client_device=$(losetup --direct-io=on --find --show "$client_directory/volume")
  mkfs.ext4 -q -F "$client_device"
  mount "$client_device" "$client_directory/mnt"
}

write_files() {
  local number=0 name
  until [[ -e $client_directory/stop ]]; do
    name=$(printf 'file-%05d' $((number % 400)))
    (
      cd "$client_directory/mnt"
      head -c 1048576 /dev/urandom >"$name"
      sha256sum "$name" >"$name.sum"
      sync "$name" "$name.sum"
    ) || { touch "$client_directory/failed"; return 1; }
    number=$((number + 1))
    echo "$number" >"$client_directory/count.new"
    mv "$client_directory/count.new" "$client_directory/count"
  done
}

write_with_fio() {
  local number=0
  until [[ -e $client_directory/stop ]]; do
    fio --name=demo --ioengine=nbd --uri="$client_uri" --rw=randwrite --bs=4k --iodepth=16 \
      --size=1m --offset="$((number % 900))m" --verify=crc32c --verify_fatal=1 \
      >"$client_directory/fio.log" 2>&1 || { touch "$client_directory/failed"; return 1; }
    number=$((number + 1))
    echo "$number" >"$client_directory/count.new"
    mv "$client_directory/count.new" "$client_directory/count"
  done
}

# Stops the writing and fails unless everything written is there.
check_client() {
  touch "$client_directory/stop"
  wait "$client_pid"
  client_pid=
  [[ ! -e $client_directory/failed ]] || return 1
  [[ $client_kind == ext4 ]] || return 0
  umount "$client_directory/mnt"
  e2fsck -fn "$client_device" >"$client_directory/fsck.log" 2>&1
  mount "$client_device" "$client_directory/mnt"
  (cd "$client_directory/mnt" && cat -- *.sum | sha256sum --check --quiet)
  remove_file_system
}

remove_file_system() {
  umount "$client_directory/mnt" || umount -l "$client_directory/mnt" || true
  losetup -d "$client_device"
  client_device=
  fusermount3 -u "$client_directory/volume" || fusermount3 -u -z "$client_directory/volume" || true
}

# Takes the client down from whatever state it is in.
stop_client() {
  [[ -n $client_kind ]] || return 0
  touch "$client_directory/stop"
  if [[ -n $client_pid ]]; then
    kill "$client_pid" 2>/dev/null || true
    wait "$client_pid" 2>/dev/null || true
  fi
  if [[ -n $client_device ]]; then remove_file_system 2>/dev/null || true; fi
}
