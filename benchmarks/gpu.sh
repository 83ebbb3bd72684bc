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

short="--shape=base --rounds=5 --seconds=1.5"
# Of PyTorch the compiled step alone: with the eager ones beside it an 80 GB card has too little memory.
timed="jax crate,deterministic crate,torch compiled crate,jax gpt2,torch compiled gpt2"
# shellcheck disable=SC2086 # Unquoted, to make several words.
{
  ask step.py $short "--contestants=$timed,jax product,torch product" "--out=$out"
  ask decoding.py $short --prompts=1 "--out=$out"
  ask decoding.py $short --prompts=64 "--contestants=jax crate,jax gpt2,torch gpt2" "--out=$out"
  ask precision.py --shape=base "--out=$out"
}
if [ -n "$failed" ]; then
  printf 'These failed, and say why above:%s\n' "$failed" >&2
  exit 1
fi
