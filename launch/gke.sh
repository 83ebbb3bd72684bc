#!/usr/bin/env bash
# Trains on TPUs of Google Kubernetes Engine, as a JobSet that xpk makes and that is restarted when it breaks.
#
#   export CLUSTER=... ZONE=... TPU_TYPE=v5litepod-16   PROJECT=... too, if it is not the one gcloud is set to
#   export BUCKET=...      for `create`: a Cloud Storage bucket, mounted as /bucket in every workload
#   export IMAGE=...       for `build` and `run`: where Docker images go, as REGION-docker.pkg.dev/.../crate_jax:1
#   export WORKLOAD=...    for `run`, `logs`, `delete`: a name for the run
#   export MAX_RESTARTS=10
#
#   launch/gke.sh create [--spot | --on-demand ...]   a cluster with these TPUs; flags go to xpk cluster create
#   launch/gke.sh build                               this checkout as a Docker image, pushed to IMAGE
#   launch/gke.sh run [OPTIONS] -- --config=configs/pile.py --workdir=/bucket/base [...]
#                                                     OPTIONS go to xpk workload create, FLAGS to crate_jax.main
#   launch/gke.sh list                                what runs and ran
#   launch/gke.sh logs                                follows what all hosts print
#   launch/gke.sh delete                              SIGTERM: saves a checkpoint and ends; the same `run` goes on
#   launch/gke.sh delete_cluster
#
# launch/gke.sh --dry_run COMMAND prints what it would do. Needs xpk (pip install xpk) with the gcloud and
# kubectl that it asks for, logged in; `build` needs Docker. What xpk restarts are exit codes above 127, which
# is how a run ends that was killed, stopped, or lost one of its processes; an error (1, 2) ends the workload.
set -eu
# shellcheck source=launch/common.sh
. "$(dirname -- "$0")/common.sh"

xpk_on_cluster() {
  run xpk "$@" "--cluster=$CLUSTER" "--zone=$ZONE" ${PROJECT:+"--project=$PROJECT"}
}

command=${1:-}
[ $# -eq 0 ] || shift
case "$command" in
  build)
    need_setting IMAGE "where the Docker image goes"
    need_tool docker "install Docker"
    # As root: on GKE the TPUs and the mounted bucket belong to it.
    run docker build --build-arg EXTRAS=tpu --build-arg USER_ID=0 --tag "$IMAGE" .
    run docker push "$IMAGE"
    exit
    ;;
  create | run | list | logs | delete | delete_cluster) ;;
  *) fail "Say what to do: launch/gke.sh [--dry_run] create, build, run, list, logs, delete or delete_cluster." 2 ;;
esac
need_setting CLUSTER "the name of the cluster"
need_setting ZONE "its zone"
case "$command" in
  create | run) need_setting TPU_TYPE "the kind and number of chips, as v5litepod-16" ;;
esac
case "$command" in
  run | logs | delete) need_setting WORKLOAD "a name for the run" ;;
esac
need_tool xpk "pip install xpk"

case "$command" in
  create)
    need_setting BUCKET "the name of a Cloud Storage bucket, for the runs and the text"
    xpk_on_cluster cluster create "--tpu-type=$TPU_TYPE" --enable-workload-identity --enable-gcsfuse-csi-driver "$@"
    # A checkpoint is a folder that is renamed when it is whole.
    xpk_on_cluster storage attach crate-jax "--bucket=$BUCKET" --type=gcsfuse --mount-point=/bucket --readonly=false --auto-mount=true \
      --size=1000 --mount-options=implicit-dirs,file-system:rename-dir-limit:200000
    ;;
  run)
    need_setting IMAGE "the Docker image that launch/gke.sh build made"
    split_at_dashes "$@"
    # exec, or the SIGTERM that xpk passes on would reach a shell and not Python.
    xpk_on_cluster workload create "--workload=$WORKLOAD" "--tpu-type=$TPU_TYPE" "--docker-image=$IMAGE" \
      "--max-restarts=${MAX_RESTARTS:-10}" --termination-grace-period-seconds=120 \
      "--command=exec $(quoted python -m crate_jax.main "${flags[@]}")" ${options[@]+"${options[@]}"}
    ;;
  list) xpk_on_cluster workload list ;;
  logs)
    need_tool kubectl "xpk names the version that it needs"
    xpk_on_cluster workload list "--filter-by-job=$WORKLOAD" # This also points kubectl to the cluster.
    run kubectl logs --follow --prefix --max-log-requests=1000 "--selector=jobset.sigs.k8s.io/jobset-name=$WORKLOAD"
    ;;
  delete) xpk_on_cluster workload delete "--workload=$WORKLOAD" ;;
  delete_cluster) xpk_on_cluster cluster delete ;;
esac
