#!/usr/bin/env bash
# Trains on whatever cloud SkyPilot finds, as a managed job that is moved and goes on when its machines are
# taken away: launch/skypilot.sh [--dry_run] OPTIONS -- FLAGS
# OPTIONS go to `sky jobs launch`, FLAGS to crate_jax.main; what the job does is in launch/skypilot.yaml.
#
#   BUCKET=s3://... EXTRAS=cuda launch/skypilot.sh --gpus=H100:8 --num-nodes=2 --use-spot --name=base -- \
#     --config=configs/pile.py --workdir=/bucket/base
#   sky jobs queue             sky jobs logs --name=base             sky jobs cancel --name=base
#
# Needs sky (pip install "skypilot[aws]", or another cloud), set up so that `sky check` finds the cloud, and a
# bucket for the runs and the text (s3://, gs://, ...), mounted as /bucket on every node. EXTRAS is what to
# install there: cuda, unless it is set.
set -eu
# shellcheck source=launch/common.sh
. "$(dirname -- "$0")/common.sh"

split_at_dashes "$@"
need_setting BUCKET "the URL of a bucket, for the runs and the text"
need_tool sky "pip install \"skypilot[aws]\", or with another cloud"
run sky jobs launch "--env=BUCKET=$BUCKET" "--env=EXTRAS=${EXTRAS-cuda}" "--env=FLAGS=$(quoted "${flags[@]}")" \
  ${options[@]+"${options[@]}"} launch/skypilot.yaml
