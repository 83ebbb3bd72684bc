#!/usr/bin/env bash
# Trains the tiny model on this machine, scores it, and lets it write: launch/local.sh
# Any other run, with the flags of crate_jax.main:    launch/local.sh --config=configs/... --workdir=runs/...
set -eu
# shellcheck disable=SC2034 # setup.sh reads it.
needs="" # No extra beyond those that EXTRAS names.
# shellcheck source=launch/setup.sh
. "$(dirname -- "$0")/setup.sh"

if [ $# -eq 0 ]; then
  set -- --config=configs/tiny.py --workdir=runs/tiny
fi
exec .venv/bin/python -m crate_jax.main "$@"
