# Shared by the programs in Benchmarks/: fio as one line of figures, medians, ratios.
#
# What must hold: every figure that is compared is a median over rounds in which the things that
# are compared took turns.
# shellcheck shell=bash

# Ends the program when one of these is not installed.
need_programs() {
  local program
  for program in "$@"; do have "$program" || die "$program is missing: run tools/setup"; done
}

# The middle of the numbers on standard input, or the mean of the two middle ones.
median() {
  sort -g | awk '{ v[NR] = $1 } END {
    if (NR == 0) { print "nan"; exit }
    print (NR % 2 ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2) }'
}

# $1 / $2 with $3 decimals (2).
ratio() { awk -v a="$1" -v b="$2" -v p="${3:-2}" 'BEGIN { printf "%.*f", p, b ? a / b : 0 }'; }

# Whether the first number is at most, or at least, the second.
at_most() { awk -v a="$1" -v b="$2" 'BEGIN { exit !(a <= b) }'; }
at_least() { awk -v a="$1" -v b="$2" 'BEGIN { exit !(a >= b) }'; }

# Runs fio and prints: IOPS, mean and median latency in us, MiB/s, CPU us per I/O of fio itself.
# The latency is fio's "lat", from submission to completion; its "clat" leaves submission out.
#   fio_figures SECONDS RW BS DEPTH ENGINE-OPTION...
fio_figures() {
  local seconds=$1 rw=$2 bs=$3 depth=$4
  shift 4
  fio --name=bench --rw="$rw" --bs="$bs" --iodepth="$depth" --runtime="$seconds" --time_based \
    --norandommap --thread --lat_percentiles=1 --output-format=json \
    --output="${scratch:?}/fio.json" "$@" >&2
  # An engine may have said something before the JSON.
  sed -n '/^{/,$p' "$scratch/fio.json" | jq -r '
    .jobs[0] | ((.usr_cpu + .sys_cpu) / 100 * .job_runtime * 1000) as $cpu
    | (if .write.total_ios > 0 then .write else .read end)
    | [.iops, .lat_ns.mean / 1000, .lat_ns.percentile["50.000000"] / 1000, .bw / 1024,
       $cpu / .total_ios] | @tsv'
}

# Runs ashlar-bench on a target and prints the same figures.
#   bench_figures SECONDS RW BS DEPTH TARGET
bench_figures() {
  "${bench:?}" run "$5" --rw "$2" --bs "$3" --iodepth "$4" --runtime "$1" --destroy-data --json |
    jq -r '.result | .cpu[0].us_per_io as $cpu | (.write // .read)
      | [.iops, .latency_us.mean, .latency_us.p50, .mib_per_second, $cpu] | @tsv'
}

# Nanoseconds of processor time that the processes have used, all threads.
processor_ns() {
  local pid
  for pid in "$@"; do cat "/proc/$pid/task/"*/schedstat; done |
    awk '{ n += $1 } END { printf "%.0f\n", n }'
}
