#!/usr/bin/env bash
# Runs on each host of a TPU VM, started by launch/tpu_vm.sh; by hand it serves on any Linux machine:
#
#   launch/worker.sh setup [BUCKET]   makes .venv (EXTRAS=tpu unless set), mounts the bucket as ~/bucket
#   launch/worker.sh start FLAGS      starts crate_jax.main so that it outlives the connection
#   launch/worker.sh logs             follows runs/worker.log
#   launch/worker.sh stop             sends SIGTERM: it saves a checkpoint and ends with exit code 143
set -eu
cd -P -- "$(dirname -- "$0")/.."
log=runs/worker.log
started=runs/worker.pid

fail() { # One sentence that says what to do.
  printf '%s\n' "$1" >&2
  exit 1
}

# TPU VMs of Ubuntu 22.04 have Python 3.10; uv brings a newer one.
find_python() {
  python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' && return
  [ ! -x .venv/bin/python ] || return 0
  export PATH="$HOME/.local/bin:$PATH"
  command -v uv >/dev/null || python3 -m pip install --user uv || fail "uv could not be installed: install a Python 3.11 or newer on this machine."
  uv python install 3.12
  PYTHON=$(uv python find 3.12)
  export PYTHON
}

mount_bucket() {
  command -v gcsfuse >/dev/null || fail "gcsfuse is not on this machine: install it as https://cloud.google.com/storage/docs/cloud-storage-fuse/install says."
  mkdir -p "$HOME/bucket"
  # A checkpoint is a folder that is renamed when it is whole.
  mountpoint -q "$HOME/bucket" || gcsfuse --implicit-dirs --rename-dir-limit=200000 "$1" "$HOME/bucket"
}

# The process that was started, if it is one of ours and still runs: numbers are used again after a while.
running() {
  pid=$(cat "$started" 2>/dev/null) && grep -qa 'crate_jax\.main' "/proc/$pid/cmdline" 2>/dev/null
}

case "${1:-}" in
  setup)
    find_python
    EXTRAS=${EXTRAS-tpu} launch/local.sh --help >/dev/null
    [ -z "${2:-}" ] || mount_bucket "$2"
    echo "$(hostname): ready"
    ;;
  start)
    shift
    ! running || fail "$(hostname): training is running already (process $pid): launch/worker.sh stop ends it."
    mkdir -p runs
    # The shell between stays to write down the exit code.
    # shellcheck disable=SC2016 # It expands these itself.
    nohup bash -c 'started=$1; shift
      "$@" & echo $! >"$started"
      code=0; wait $! || code=$?
      echo "$(date) crate_jax.main ended with exit code $code"' \
      bash "$started" .venv/bin/python -m crate_jax.main "$@" >>"$log" 2>&1 </dev/null &
    echo "$(hostname): started; see $PWD/$log"
    ;;
  logs) exec tail -n 100 -F "$log" ;;
  stop)
    if running; then
      kill -TERM "$pid"
      echo "$(hostname): SIGTERM sent to process $pid"
    else
      echo "$(hostname): no training is running"
    fi
    ;;
  *) fail "Say what to do: launch/worker.sh setup, start, logs or stop." ;;
esac
