#!/usr/bin/env bash
# Trains with N processes on this machine, as N hosts would: launch/multiprocess.sh [--dry_run] N [FLAGS]
# To try what happens on a pod, and for tests: CPU only, slower than one process.
#
#   launch/multiprocess.sh 4                                   trains configs/tiny.py into runs/multiprocess
#   launch/multiprocess.sh 2 --config=configs/pile.py --workdir=runs/base
#
# N counts processes, FLAGS are those of crate_jax.main. Process 0 prints to the terminal, the others into files
# that are named first. Ctrl-C and SIGTERM go on to all. The exit code is that of the first process that failed.
# When one has failed the others have 90 seconds to end; none is left behind.
set -eu
# shellcheck source=launch/common.sh
. "$(dirname -- "$0")/common.sh"

case "${1:-}" in
  '' | *[!0-9]* | 0*) fail "Say how many processes: launch/multiprocess.sh N [FLAGS of crate_jax.main], with N = 1 or more." 2 ;;
esac
count=$1
shift
if [ $# -eq 0 ]; then
  set -- --config=configs/tiny.py --workdir=runs/multiprocess
fi

# The command of process $1, whose port is $2, into the array `command`.
command_of() {
  process=$1 port=$2
  shift 2
  command=(.venv/bin/python -m crate_jax.main "$@"
    "--coordinator=localhost:$port" "--num_processes=$count" "--process_id=$process")
}

if [ -n "$dry_run" ]; then
  for ((i = 0; i < count; i++)); do
    command_of "$i" PORT "$@"
    run "${command[@]}"
  done
  exit
fi

# shellcheck disable=SC2034 # setup.sh reads it.
needs="" # No extra beyond those that EXTRAS names.
# shellcheck source=launch/setup.sh
. "launch/setup.sh"

export JAX_PLATFORMS=cpu     # Several processes cannot share an accelerator.
export NPROC="${NPROC:-16}" # jax 0.10.2 can hang with several fake devices on fewer threads.
port=$(.venv/bin/python -c 'import socket
with socket.socket() as s:
  s.bind(("localhost", 0))
  print(s.getsockname()[1])')
logs=$(mktemp -d "${TMPDIR:-/tmp}/crate_jax-processes.XXXXXX")
[ "$count" -eq 1 ] || echo "Process 0 prints here, the others to $logs/process-1.log and so on."

# Each process leads a group of its own, with what it starts itself: so nothing is left behind, and Ctrl-C
# reaches it through this script only. pids[I] is process I, and empty when that has ended.
pids=()
signal=
signal_all() {
  for pid in ${pids[@]+"${pids[@]}"}; do
    [ -z "$pid" ] || kill -s "$1" -- "-$pid" 2>/dev/null || :
  done
}
pass_on() { # To the processes, and not to what they start: those end with them.
  signal=$1
  for pid in ${pids[@]+"${pids[@]}"}; do
    [ -z "$pid" ] || kill -s "$1" "$pid" 2>/dev/null || :
  done
}
trap 'pass_on TERM' TERM HUP
trap 'pass_on INT' INT
trap 'signal_all KILL' EXIT

set -m # A group for each; without it bash would also have them ignore Ctrl-C.
for ((i = 0; i < count && ${#signal} == 0; i++)); do
  command_of "$i" "$port" "$@"
  if [ "$i" -eq 0 ]; then
    "${command[@]}" </dev/null &
  else
    "${command[@]}" >"$logs/process-$i.log" 2>&1 </dev/null &
  fi
  pids+=("$!")
done
set +m
[ -z "$signal" ] || pass_on "$signal" # It may have come between two starts.

status=0
left=$i
deadline=
while [ "$left" -gt 0 ]; do
  running=" $(jobs -pr | tr '\n' ' ') "
  for ((i = 0; i < ${#pids[@]}; i++)); do
    pid=${pids[i]}
    [ -n "$pid" ] || continue
    case "$running" in *" $pid "*) continue ;; esac
    code=0
    wait "$pid" || code=$?
    kill -s KILL -- "-$pid" 2>/dev/null || : # What it started and left.
    pids[i]=
    left=$((left - 1))
    if [ "$code" -ne 0 ] && [ "$status" -eq 0 ]; then
      status=$code
      deadline=$((SECONDS + 90))
      [ "$i" -eq 0 ] || echo "Process $i was the first to fail, with exit code $code; its output is in $logs/process-$i.log." >&2
    fi
  done
  if [ -n "$deadline" ] && [ "$SECONDS" -ge "$deadline" ]; then
    echo "90 seconds after the first process failed, $left still ran: they are killed." >&2
    signal_all KILL
    deadline=
  fi
  [ "$left" -eq 0 ] || sleep 1
done
exit "$status"
