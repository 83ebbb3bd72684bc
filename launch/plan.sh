#!/usr/bin/env bash
# Writes docs/scaling.md: what training takes on TPU slices, from their compiler alone: launch/plan.sh
# One of its rows:    launch/plan.sh --size=7B --topology=v5p:4x8x8
# An hour or so on two cores; it goes on where it was stopped. No TPU is needed.
set -eu
# shellcheck disable=SC2034 # setup.sh reads it.
needs="tpu_compile"
# shellcheck source=launch/setup.sh
. "$(dirname -- "$0")/setup.sh"

exec .venv/bin/python benchmarks/scaling.py "$@"
