#!/usr/bin/env bash
# One TPU VM: create it, install, run, fetch the results, delete it.
#
#   ZONE=us-west4-a launch/tpu_vm.sh [--dry-run] STEP [flags of main...]
#
# STEP is create, install, run, fetch, delete, or `all` for the five in order.
# `all` fetches and deletes even if the run fails, and keeps the machine (which
# costs money: the script says so) only if the results cannot be fetched.
# Re-run `run` to resume. --dry-run prints the gcloud commands, runs nothing.
#
# Environment: ZONE (required), TPU_NAME, TPU_TYPE (one host: v5litepod-8,
# v6e-8, v5p-8, ...), WORKDIR (on the machine, below the repository), PROJECT,
# SPOT=1 for a machine that is cheaper and may be taken away.
#
# Written from Google's documentation and tested with --dry-run; it has not yet
# been run against a real project.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

die() { echo "tpu_vm.sh: $*" >&2; exit 2; }

dry_run=false
if [[ ${1:-} == --dry-run ]]; then
  dry_run=true
  shift
fi
step=${1:-}
[[ -n $step ]] || die 'name a step: create, install, run, fetch, delete or all'
shift

[[ -n ${ZONE:-} ]] || die 'set ZONE, for example ZONE=us-west4-a'
name=${TPU_NAME:-worldsim}
type=${TPU_TYPE:-v5litepod-8}
workdir=${WORKDIR:-runs/tpu}
where=("--zone=$ZONE")
[[ -z ${PROJECT:-} ]] || where+=("--project=$PROJECT")

case $type in
  v6e-*) runtime=v2-alpha-tpuv6e ;;
  v5p-*) runtime=v2-alpha-tpuv5 ;;
  v5litepod-*) runtime=v2-alpha-tpuv5-lite ;;
  v4-*) runtime=tpu-ubuntu2204-base ;;
  *) die "TPU_TYPE=$type: expected v4-*, v5litepod-*, v5p-* or v6e-*" ;;
esac

# Quotes each word for a POSIX shell, only where it must.
quote() {
  local word
  for word in "$@"; do
    case $word in
      '' | *[!A-Za-z0-9_./=:,@%+-]*)
        printf " '%s'" "$(printf '%s' "$word" | sed "s/'/'\\\\''/g")" ;;
      *) printf ' %s' "$word" ;;
    esac
  done
}

run_or_print() {
  if $dry_run; then
    echo "$1$(quote "${@:2}")"
  else
    "$@"
  fi
}

tpu_vm() { run_or_print gcloud compute tpus tpu-vm "$@" "${where[@]}"; }
on_vm() { tpu_vm ssh "$name" "--command=$1"; }

create() {
  local spot=()
  [[ ${SPOT:-0} != 1 ]] || spot=(--spot)
  tpu_vm create "$name" "--accelerator-type=$type" "--version=$runtime" \
    ${spot[@]+"${spot[@]}"}
}

# The last commit travels, not the working tree. The images carry an older
# Python than ours; uv brings its own.
install() {
  local archive
  archive=${TMPDIR:-/tmp}/$name.tar.gz
  run_or_print git archive --format=tar.gz "--output=$archive" HEAD
  tpu_vm scp "$archive" "$name:worldsim_jax.tar.gz"
  on_vm "set -e; mkdir -p worldsim_jax/$workdir; \
tar -xzf worldsim_jax.tar.gz -C worldsim_jax; cd worldsim_jax; \
python3 -m pip install --user --quiet uv; \
[ -d .venv ] || ~/.local/bin/uv venv --seed --python 3.12 .venv; \
.venv/bin/python -m pip install --quiet -e '.[tpu]'"
}

run() {
  on_vm "cd worldsim_jax && \
.venv/bin/python -m worldsim_jax.main --workdir=$workdir$(quote "$@")"
}

fetch() {
  run_or_print mkdir -p "$(dirname "$workdir")"
  tpu_vm scp --recurse "$name:worldsim_jax/$workdir" "$(dirname "$workdir")"
}

delete() { tpu_vm delete "$name" --quiet; }

fetch_and_delete() {
  if fetch; then
    delete
  else
    echo "tpu_vm.sh: nothing fetched; $name still runs and costs money" >&2
  fi
}

case $step in
  create | install | run | fetch | delete) "$step" "$@" ;;
  all)
    create
    trap fetch_and_delete EXIT
    install
    run "$@"
    ;;
  *) die "unknown step $step: create, install, run, fetch, delete or all" ;;
esac
