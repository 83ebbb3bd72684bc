#!/usr/bin/env bash
# Trains on a Cloud TPU VM, of one host or a whole pod slice; each command reaches every host of it.
#
#   export TPU_NAME=... ZONE=...          the VM; PROJECT=... too, if it is not the one that gcloud is set to
#   export ACCELERATOR_TYPE=v5litepod-16 RUNTIME_VERSION=v2-alpha-tpuv5-lite             for `create`
#   export BUCKET=...                     for `setup`: a Cloud Storage bucket, mounted as ~/bucket
#
#   launch/tpu_vm.sh create [--spot ...]  flags go to gcloud compute tpus tpu-vm create
#   launch/tpu_vm.sh setup                sends the commit that is checked out here, and makes .venv there
#   launch/tpu_vm.sh run --config=configs/pile.py --workdir=../bucket/base [...]  starts crate_jax.main, detached
#   launch/tpu_vm.sh logs                 follows what it prints
#   launch/tpu_vm.sh stop                 SIGTERM: saves a checkpoint and ends; the same `run` goes on with it
#   launch/tpu_vm.sh delete               deletes the VM; what is not in the bucket is lost
#
# launch/tpu_vm.sh --dry_run COMMAND prints what it would do. Needs gcloud, logged in, with the Cloud TPU API
# on, and git. On a slice of several hosts first `ssh-add ~/.ssh/google_compute_engine`, as Google's guide
# says. The run's folder and the text must be where all hosts see them: that is what the bucket is for.
set -eu
# shellcheck source=launch/common.sh
. "$(dirname -- "$0")/common.sh"

tpu_vm() {
  run gcloud compute tpus tpu-vm "$@" "--zone=$ZONE" ${PROJECT:+"--project=$PROJECT"}
}

on_every_worker() {
  tpu_vm ssh "$TPU_NAME" --worker=all "--command=$1"
}

# A bundle and not a URL: it needs no account on the VM, and takes commits that were never pushed.
send_commit() {
  [ -n "$dry_run" ] || [ -z "$(git status --porcelain --untracked-files=no)" ] ||
    fail "Files here differ from the commit that is checked out, and the commit is what would be sent: commit them first."
  bundle=crate_jax.bundle
  if [ -z "$dry_run" ]; then
    folder=$(mktemp -d "${TMPDIR:-/tmp}/crate_jax.XXXXXX")
    trap 'rm -rf "$folder"' EXIT
    bundle=$folder/$bundle
  fi
  run git bundle create "$bundle" HEAD
  tpu_vm scp "$bundle" "$TPU_NAME:crate_jax.bundle" --worker=all
}

command=${1:-}
[ $# -eq 0 ] || shift
case "$command" in
  create | setup | run | logs | stop | delete) ;;
  *) fail "Say what to do: launch/tpu_vm.sh [--dry_run] create, setup, run, logs, stop or delete." 2 ;;
esac
need_setting TPU_NAME "the name of the TPU VM"
need_setting ZONE "its zone"
need_tool gcloud "install the Google Cloud CLI"

case "$command" in
  create)
    need_setting ACCELERATOR_TYPE "one of the zone, as \"gcloud compute tpus accelerator-types list\" prints them"
    need_setting RUNTIME_VERSION "one of the zone, as \"gcloud compute tpus tpu-vm versions list\" prints them"
    tpu_vm create "$TPU_NAME" "--accelerator-type=$ACCELERATOR_TYPE" "--version=$RUNTIME_VERSION" "$@"
    ;;
  setup)
    send_commit
    # A run that goes on keeps its code in memory; what it would still read is the same commit's.
    on_every_worker "set -e; git init -q crate_jax; cd crate_jax; git fetch -q ../crate_jax.bundle HEAD; git checkout -q --detach FETCH_HEAD; $(quoted launch/worker.sh setup ${BUCKET:+"$BUCKET"})"
    ;;
  run)
    [ $# -gt 0 ] || fail "Flags of crate_jax.main are missing: launch/tpu_vm.sh run --config=... --workdir=..." 2
    on_every_worker "$(quoted crate_jax/launch/worker.sh start "$@")"
    ;;
  logs) on_every_worker "crate_jax/launch/worker.sh logs" ;;
  stop) on_every_worker "crate_jax/launch/worker.sh stop" ;;
  delete) tpu_vm delete "$TPU_NAME" ;;
esac
