# Runs the steps of tools/test one after the other and adds up what they did. A step is a function
# step_NAME; it passes when it returns 0. A step that runs tests counts as its tests, any other step
# counts as one.
#
# What must hold: a step that fails is never counted as passed, whatever its output says.
# shellcheck shell=bash

log_directory=${package_root:?}/.build/test-logs
passed=0
failed=0
skipped=0
table=()

# Runs one step with its output shown and kept, and adds it to the totals and the table.
run_step() {
  local name=$1 log=$log_directory/$1.log began=$SECONDS status outcome
  local good=0 bad=0 left=0
  printf '\n== %s\n' "$name"
  # No standard input: a program that asks a question must fail, not wait.
  "step_$name" </dev/null 2>&1 | tee "$log"
  status=${PIPESTATUS[0]}
  good=$(grep -cE '^✔ Test "?.* passed after' "$log")
  bad=$(grep -cE '^✘ Test "?.* failed after' "$log")
  left=$(grep -cE '^➜ Test "?.* skipped' "$log")
  # The closing line of the run is reported in the same form as a test.
  good=$((good - $(grep -cE '^✔ Test run with' "$log")))
  bad=$((bad - $(grep -cE '^✘ Test run with' "$log")))
  if [[ $((good + bad + left)) -le 0 ]]; then
    good=$((status == 0 ? 1 : 0)) bad=0 left=0
  fi
  if [[ $status -ne 0 && $bad -le 0 ]]; then bad=1; fi
  outcome=passed
  if [[ $status -ne 0 ]]; then outcome=FAILED; fi
  passed=$((passed + good)) failed=$((failed + bad)) skipped=$((skipped + left))
  table+=("$(printf '%-14s %-8s %5d %6d %7d %6ds' \
    "$name" "$outcome" "$good" "$bad" "$left" $((SECONDS - began)))")
  return "$status"
}

# Steps that everything after them stands on: when one fails, the rest would only repeat it.
is_ground() { [[ $1 == setup || $1 == build || $1 == release ]]; }

run_steps() {
  local name
  mkdir -p "$log_directory"
  for name in "$@"; do
    declare -F "step_$name" >/dev/null || die "no step is called $name"
    if ! run_step "$name" && is_ground "$name"; then break; fi
  done
  print_skipped
  printf '\n%-14s %-8s %5s %6s %7s %7s\n' step result passed failed skipped time
  printf '%s\n' "${table[@]}"
  printf '\n%d passed, %d failed, %d skipped\n' "$passed" "$failed" "$skipped"
  [[ $failed -eq 0 ]]
}

print_skipped() {
  [[ $skipped -gt 0 ]] || return 0
  printf '\nSkipped, with the reason:\n'
  grep -hE '^➜ Test "?.* skipped' "$log_directory"/*.log
}
