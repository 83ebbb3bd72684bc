#!/usr/bin/env bash
# Trains as a Slurm job: launch/slurm.sh [--dry_run] OPTIONS -- FLAGS
# OPTIONS go to sbatch as they are, FLAGS to crate_jax.main.
#
#   EXTRAS=cuda launch/slurm.sh --nodes=2 --gpus-per-node=8 --ntasks-per-node=8 --time=12:00:00 \
#     --partition=... -- --config=configs/pile.py --workdir=runs/base
#   tail -F runs/slurm-JOB.log
#   scontrol update jobid=JOB requeue=0 && scancel --signal=TERM JOB     saves, stops, and does not start again
#
# Needs sbatch, on a machine that sees the same folder as the nodes, and can install packages: .venv is made
# before the job is submitted. One task a GPU, by --ntasks-per-node and --gpus-per-node and not by
# --gpus-per-task: JAX takes the GPU of the task's number from those of the node. Without GPUs one task a
# node. What the job does is in launch/slurm.sbatch.
set -eu
# shellcheck source=launch/common.sh
. "$(dirname -- "$0")/common.sh"

split_at_dashes "$@"
need_tool sbatch "submit from a login node of a Slurm cluster"
run env EXTRAS="${EXTRAS:-}" bash launch/setup.sh
run mkdir -p runs        # Slurm writes no log into a folder that is not there.
run sbatch ${options[@]+"${options[@]}"} launch/slurm.sbatch "${flags[@]}"
