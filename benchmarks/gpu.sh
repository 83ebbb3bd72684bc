#!/usr/bin/env bash
# What docs/speed.md says of one GPU, in about ten minutes; the tables go to a folder:
#
#   benchmarks/gpu.sh [benchmarks/speed/gpu]
#
#   PYTHON=python3.12    the Python to use; it has JAX for the GPU, Flax, Optax, Orbax, PyTorch, and transformers
#   WHEELS=wheels        folder of wheels of what else setup.cfg asks for and it lacks; nothing is fetched
set -eu
cd -- "$(dirname -- "$0")/.."
out=${1:-benchmarks/speed/gpu}
python=${PYTHON:-python3}

export PYTHONPATH="$PWD"
if [ -n "${WHEELS:-}" ]; then
  site=$(mktemp -d)
  trap 'rm -rf -- "$site"' EXIT
  "$python" -m pip install --quiet --no-index --no-deps --target "$site" "$WHEELS"/*.whl
  PYTHONPATH="$PWD:$site"
fi

failed=""
ask() { # One question; what fails is told at the end, and does not keep the others from being asked.
  printf "\n== %s\n" "$*"
  script=$1
  shift
  "$python" "benchmarks/$script" "$@" || failed="$failed $script"
}

short="--shape=base --rounds=5 --seconds=2"
# shellcheck disable=SC2086 # Unquoted, to make several words.
{
  ask precision.py --shape=base "--out=$out"
  ask step.py $short "--out=$out"
  ask decoding.py $short --prompts=1 "--out=$out"
  ask decoding.py $short --prompts=64 "--out=$out"
  ask step.py $short "--contestants=jax crate,deterministic crate" "--out=$out/deterministic"
}
if [ -n "$failed" ]; then
  printf 'These failed, and say why above:%s\n' "$failed" >&2
  exit 1
fi
