#!/usr/bin/env bash
# Trains the tiny model on this machine and lets it write: launch/local.sh
# Any other run, with the flags of crate_jax.main:         launch/local.sh --config=configs/... --workdir=runs/...
set -eu
# shellcheck disable=SC2034 # setup.sh reads it.
needs="" # No extra beyond those that EXTRAS names.
# shellcheck source=launch/setup.sh
. "$(dirname -- "$0")/setup.sh"

if [ $# -gt 0 ]; then
  exec .venv/bin/python -m crate_jax.main "$@"
fi
.venv/bin/python -m crate_jax.main --config=configs/tiny.py --workdir=runs/tiny
exec .venv/bin/python -m crate_jax.generate --workdir=runs/tiny --prompt="def main("
