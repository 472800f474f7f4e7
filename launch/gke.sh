#!/usr/bin/env bash
# Google Kubernetes Engine, by means of xpk (pip install xpk).
#
#   ZONE=us-east5-b IMAGE=REGION-docker.pkg.dev/PROJECT/REPO/worldsim:1 \
#     launch/gke.sh [--dry-run] STEP... [flags of main...]
#
# create   a cluster with SLICES node pools of TPU_TYPE
# install  build launch/Dockerfile from the last commit, push it as IMAGE
# run      a workload of IMAGE on all slices; after a preemption or a lost
#          host GKE starts it again by itself, up to RESTARTS times (100)
# resume   delete the workload, which saves, and run it again
# watch    follow the log of the first host (WATCH=all: of every host); when it
#          ends, wait for the workload, and fail if it failed
# stop     delete the workload; the run saves; the cluster stays
# delete   delete the cluster, without asking
#
# Environment: ZONE, IMAGE (both required), PROJECT, TPU_NAME, TPU_TYPE (v4-*,
# v5litepod-*, v5p-*, v6e-*, tpu7x-*), SLICES, SPOT=1 or RESERVATION=NAME (else
# on demand), RESTARTS, EXTRA and RUN_AS (see launch/Dockerfile), CLUSTER=NAME
# for one that exists already: it is neither created nor deleted.
# shellcheck source-path=SCRIPTDIR source=verbs.sh
source "$(dirname "${BASH_SOURCE[0]}")/verbs.sh"

on_gke() { run_or_print xpk "$@" "--cluster=$cluster" "${where[@]}"; }

create() {
  if [[ -n ${CLUSTER:-} ]]; then
    say "CLUSTER=$CLUSTER is taken to exist: nothing to create"
    return
  fi
  local capacity=--on-demand
  [[ ${SPOT:-0} != 1 ]] || capacity=--spot
  [[ -z ${RESERVATION:-} ]] || capacity=--reservation=$RESERVATION
  on_gke cluster create "--tpu-type=$type" "--num-slices=$slices" "$capacity"
}

# The last commit travels, not the working tree: docker reads an archive.
install() {
  local archive=${TMPDIR:-/tmp}/$name.tar
  run_or_print git archive --format=tar "--output=$archive" HEAD
  local build=(docker build --file=launch/Dockerfile "--tag=$IMAGE") setting
  for setting in EXTRA RUN_AS; do
    [[ -z ${!setting:-} ]] || build+=("--build-arg=$setting=${!setting}")
  done
  build+=(-)
  if $dry_run; then
    echo "$(run_or_print "${build[@]}") <$(quote "$archive")"
  else
    "${build[@]}" <"$archive"
  fi
  run_or_print docker push "$IMAGE"
}

# The grace period is for saving; a spot machine cuts it to half a minute.
run() {
  on_gke workload create "--workload=$name" "--docker-image=$IMAGE" \
    "--tpu-type=$type" "--num-slices=$slices" \
    "--max-restarts=${RESTARTS:-100}" \
    "--restart-on-exit-codes=$preempted,$lost_host" \
    --termination-grace-period-seconds=300 \
    "--command=exec python -m worldsim_jax.main$(quote "$@")"
}

resume() {
  # GKE forgets workloads 12 hours after their end.
  stop || say 'no workload to delete'
  run "$@"
}

# The list also points kubectl at the cluster. A pod must have been there for
# kubectl to have logs: first it is queued, then its image is pulled.
watch() {
  local pods=jobset.sigs.k8s.io/jobset-name=$name
  local first=batch.kubernetes.io/job-completion-index=0
  [[ ${WATCH:-0} == all ]] || pods+=,jobset.sigs.k8s.io/job-index=0,$first
  on_gke workload list "--filter-by-job=$name"
  run_or_print kubectl wait pod "--selector=$pods" --for=create --timeout=24h
  run_or_print kubectl wait pod "--selector=$pods" --timeout=1h \
    "--for=jsonpath={.status.containerStatuses[0].containerID}"
  run_or_print kubectl logs --follow --prefix --max-log-requests=10000 \
    "--selector=$pods" --tail=100 || say 'the log broke off; still waiting'
  on_gke workload list "--wait-for-job-completion=$name"
}

stop() { on_gke workload delete "--workload=$name" --force; }

delete() {
  if [[ -n ${CLUSTER:-} ]]; then
    stop
    say "the cluster $CLUSTER is not deleted, and costs money"
  else
    on_gke cluster delete --force
  fi
  exists=false
}

read_arguments 'create install run resume watch stop delete' "$@"
read_machine 'v4|v5litepod|v5p|v6e|tpu7x'
cluster=${CLUSTER:-$name}
[[ ${RESTARTS:-0} =~ ^[0-9]+$ ]] || die "RESTARTS=$RESTARTS: expected a number"
for step in "${steps[@]}"; do
  case $step in
    install | run | resume)
      [[ -n ${IMAGE:-} ]] || die "$step needs IMAGE=REGISTRY/NAME:TAG" ;;
  esac
  case $step in run | resume) need_workdir false ;; esac
done
take_steps
