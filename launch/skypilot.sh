#!/usr/bin/env bash
# TPU VMs through SkyPilot (pip install 'skypilot[gcp]'); task: skypilot.yaml.
#
#   ZONE=us-east5-b launch/skypilot.sh [--dry-run] STEP... [flags of main...]
#
# create   the machines of one slice
# install  copy the working tree to every host and install it there
# run      start main on every host; the connection may then be lost
# resume   the same; after a preemption, `create install` first
# watch    follow the log to the end; SkyPilot's exit code 100 is a failed run
# stop     end the run, which has 30 s to save; the machines stay
# delete   delete the machines, without asking
#
# MANAGED=1 makes `run` a managed job: SkyPilot creates, installs, starts again
# after a preemption, and deletes by itself; create and install say so. Its
# controller, a small machine of its own, stays: see `sky status`.
#
# Environment: ZONE (required), TPU_NAME, TPU_TYPE (v4-*, v5litepod-*, v5p-*,
# v6e-*), SPOT=1, MANAGED=1. One slice only: SkyPilot does not connect slices.
# shellcheck source-path=SCRIPTDIR source=verbs.sh
source "$(dirname "${BASH_SOURCE[0]}")/verbs.sh"

managed() { [[ ${MANAGED:-0} == 1 ]]; }

# The task for this type of TPU, as a file beside nothing else.
fill_in() {
  task=${TMPDIR:-/tmp}/$name.yaml
  local script="s/tpu-v5litepod-8/tpu-$type/; s/v2-alpha-tpuv5-lite/$runtime/"
  if $dry_run; then
    echo "sed$(quote "$script") launch/skypilot.yaml >$(quote "$task")"
  else
    sed "$script" launch/skypilot.yaml >"$task"
  fi
}

# One request for machines, whether for a cluster or for a job.
request() {
  local spot=--no-use-spot
  [[ ${SPOT:-0} != 1 ]] || spot=--use-spot
  run_or_print sky "$@" --yes "--infra=gcp/${ZONE%-*}/$ZONE" "$spot" "$task"
}

create() {
  if managed; then say 'a managed job creates its machines: run'; return; fi
  request launch "--cluster=$name" --no-setup
}

install() {
  if managed; then say 'a managed job installs by itself: run'; return; fi
  request launch "--cluster=$name"
}

run() {
  local flags
  flags=$(quote "$@")
  if managed; then
    request jobs launch "--name=$name" --detach-run \
      "--env=WORLDSIM_FLAGS=${flags# }"
  else
    run_or_print sky exec "$name" "$task" --detach-run \
      "--env=WORLDSIM_FLAGS=${flags# }"
  fi
}

resume() { run "$@"; }

watch() {
  if managed; then
    run_or_print sky jobs logs "--name=$name"
  else
    run_or_print sky logs "$name"
  fi
}

stop() {
  if managed; then
    run_or_print sky jobs cancel "--name=$name" --yes
  else
    run_or_print sky cancel "$name" --all --yes
  fi
}

delete() {
  if managed; then
    stop
    say 'the controller of managed jobs stays and costs money: see sky status'
  else
    run_or_print sky down "$name" --yes
  fi
  exists=false
}

read_arguments 'create install run resume watch stop delete' "$@"
read_machine 'v4|v5litepod|v5p|v6e'
((slices == 1)) || die "SLICES=$slices: only tpu_vm.sh and gke.sh join slices"
[[ ${MANAGED:-0} == [01] ]] || die "MANAGED=$MANAGED: expected 0 or 1"
for step in "${steps[@]}"; do
  case $step in run | resume) need_workdir false ;; esac
done
case " ${steps[*]}" in
  *\ create* | *\ install* | *\ run* | *\ resume*) fill_in ;;
esac
take_steps
