#!/usr/bin/env bash
# TPU VMs, one host or many slices, as a queued resource.
#
#   ZONE=us-west4-a launch/tpu_vm.sh [--dry-run] STEP... [flags of main...]
#
# create   ask for the machines and wait until they are there
# install  copy the last commit to every host and install it there
# run      start main on every host; the connection may then be lost
# resume   the same; a preempted request is deleted and made again first
# watch    follow the log of the first host to the end (WATCH=all: of all)
# stop     let the run save and end; the machines stay
# fetch    copy a --workdir that is not on gs:// to this machine
# delete   delete machines and request, without asking
# all      create install run watch fetch delete; deletes after a failure too,
#          but nothing that it did not create, and not while the run may go on
#
# Environment: ZONE (required), PROJECT, TPU_NAME, TPU_TYPE (v4-*, v5litepod-*,
# v5p-*, v6e-*), SLICES, SPOT=1 for machines that are cheaper and may be taken
# away, WAIT_MINUTES to wait for machines (60), POLL_SECONDS between looks (20).
# shellcheck source-path=SCRIPTDIR source=verbs.sh
source "$(dirname "${BASH_SOURCE[0]}")/verbs.sh"

queued() {
  run_or_print gcloud compute tpus queued-resources "$@" "${where[@]}"
}
state() { queued describe "$name" '--format=value(state.state)'; }
on_hosts() {
  queued ssh "$name" "--node=$1" "--worker=$1" \
    "--command=bash worldsim_jax/launch/on_host.sh$(quote "${@:2}")"
}

create() {
  local nodes=("--node-id=$name") spot=()
  ((slices == 1)) || nodes=("--node-count=$slices" "--node-prefix=$name")
  [[ ${SPOT:-0} != 1 ]] || spot=(--spot)
  if ! $dry_run && state >/dev/null 2>&1; then
    say "$name was asked for before"
  else
    queued create "$name" "--accelerator-type=$type" \
      "--runtime-version=$runtime" "${nodes[@]}" ${spot[@]+"${spot[@]}"}
    requested=true
  fi
  wait_until_active
}

wait_until_active() {
  local now last='' misses=0 start=$SECONDS limit=$((${WAIT_MINUTES:-60} * 60))
  if $dry_run; then
    state  # Repeated until it says ACTIVE.
    return
  fi
  while true; do
    if now=$(state); then misses=0; else now=unknown; fi
    [[ $now == "$last" ]] || say "$name is $now after $((SECONDS - start)) s"
    last=$now
    case $now in
      ACTIVE) return ;;
      FAILED | SUSPENDING | SUSPENDED | DELETING)
        fail "$name is $now and will not become ACTIVE: delete, then create" ;;
      unknown) ((++misses < 5)) || fail "cannot see the state of $name" ;;
    esac
    ((SECONDS - start < limit)) ||
      fail "$name is still $now: create again to wait longer, or delete"
    sleep "${POLL_SECONDS:-20}"
  done
}

# The last commit travels, not the working tree.
install() {
  local archive=${TMPDIR:-/tmp}/$name.tar.gz
  run_or_print git archive --format=tar.gz "--output=$archive" HEAD
  queued scp "$archive" "$name:worldsim_jax.tar.gz" --node=all --worker=all
  queued ssh "$name" --node=all --worker=all "--command=mkdir -p worldsim_jax \
&& tar -xzf worldsim_jax.tar.gz -C worldsim_jax \
&& bash worldsim_jax/launch/on_host.sh install"
}

run() {
  started=true  # Even if it fails: some hosts may run.
  on_hosts all run "$@"
}

resume() {
  local now=
  $dry_run || now=$(state)
  while [[ $now == SUSPENDING ]]; do
    sleep "${POLL_SECONDS:-20}"
    now=$(state)
  done
  if [[ $now == SUSPENDED ]]; then
    say "$name was preempted: asking for it again"
    delete
    exists=true
    create
    install
  fi
  run "$@"
}

watch() {
  local status=0
  on_hosts "${WATCH:-0}" watch || status=$?
  ((status)) || return 0
  if [[ $(state 2>/dev/null) == SUSPEND* ]]; then
    status=$preempted
  fi
  if ((status == preempted)); then
    say "the run was preempted and has saved: resume goes on"
  fi
  return "$status"
}

stop() { on_hosts all stop; }

fetch() {
  if [[ $workdir == gs://* ]]; then
    say "the results are in $workdir"
    return 0  # Bare, in a trap, it would repeat the failure before the trap.
  fi
  local parent remote=$workdir
  parent=$(dirname "$workdir")
  [[ $workdir == /* ]] || remote=worldsim_jax/$workdir
  run_or_print mkdir -p "$parent"
  queued scp --recurse "$name:$remote" "$parent"
}

# --force: the machines too, which a request otherwise protects.
delete() {
  queued delete "$name" --force --quiet
  exists=false
}

all() {
  trap 'finish || true; remind' EXIT
  create
  install
  run "$@"
  watch
}

# Deletes what `all` made, but not below a run, as after a lost connection.
finish() {
  if ! $requested; then
    say "$name is not of this command's making, so it is not deleted"
  elif ! $started; then
    delete
  elif ! $dry_run && ! on_hosts 0 ended; then
    say 'the run may still be going on: watch it; later fetch and delete'
  elif fetch; then
    delete
  else
    say 'nothing was fetched, so nothing is deleted'
  fi
}

requested=false
started=false
read_arguments 'create install run resume watch stop fetch delete all' "$@"
read_machine 'v4|v5litepod|v5p|v6e'
for number in WAIT_MINUTES POLL_SECONDS; do
  [[ ${!number:-0} =~ ^[0-9]+$ ]] || die "$number=${!number}: expected a number"
done
for step in "${steps[@]}"; do
  case $step in
    run | resume | fetch | all)
      # Up to 8 cores (v4, v5p) or chips (v5e, v6e) are one host.
      need_workdir "$( ((slices > 1 || ${type##*-} > 8)) || echo true)" ;;
  esac
done
take_steps
