# shellcheck shell=bash disable=SC2034  # Variables are for those who source it.
# What the launchers share: their command line, their dry run, and the reminder
# that a machine costs money. Sourced by them, never run by itself.
#
#   launch/FILE [--dry-run] STEP... [flags of main...]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
launcher=${0##*/}
preempted=75  # How main ends after a SIGTERM, once everything is saved.
lost_host=69  # And if another host was lost.

say() { echo "$launcher: $*" >&2; }
die() { say "$@"; exit 2; }   # The command line is wrong.
fail() { say "$@"; exit 1; }  # The command line is right, the world is not.

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

# Sets dry_run, steps and flags from the arguments after $1, the known steps.
# --dry-run counts wherever it stands: overlooked, it would cost money.
read_arguments() {
  local known=$1 word
  shift
  dry_run=false
  steps=()
  flags=()
  workdir=
  for word in "$@"; do
    case $word in
      *$'\n'*) die 'a flag of two lines is more than YAML and ssh carry' ;;
      --dry-run) dry_run=true ;;
      --workdir=*) workdir=${word#*=} && flags+=("$word") ;;
      --workdir) die 'write --workdir=FOLDER in one word' ;;
      -*) flags+=("$word") ;;
      *)
        ((${#flags[@]} == 0)) || die "$word: steps come before flags of main"
        [[ " $known " == *" $word "* ]] || die "unknown step $word: $known"
        steps+=("$word") ;;
    esac
  done
  ((${#steps[@]})) || die "name a step: $known"
}

# Sets name, type, runtime, slices and where from the environment. $1: the
# generations of chips that this way of launching reaches, as a pattern.
read_machine() {
  name=${TPU_NAME:-worldsim}
  type=${TPU_TYPE:-v5litepod-8}
  slices=${SLICES:-1}
  [[ -n ${ZONE:-} ]] || die 'set ZONE, for example ZONE=us-west4-a'
  [[ $name =~ ^[a-z]([a-z0-9-]{0,26}[a-z0-9])?$ ]] ||
    die "TPU_NAME=$name: expected up to 28 of a-z, 0-9 and -, first a letter"
  [[ $type =~ ^($1)-[1-9][0-9]*$ ]] ||
    die "TPU_TYPE=$type: expected ($1)-SIZE, for example v5litepod-8"
  [[ $slices =~ ^[1-9][0-9]*$ ]] || die "SLICES=$slices: expected 1, 2, ..."
  [[ ${SPOT:-0} == [01] ]] || die "SPOT=$SPOT: expected 0 or 1"
  where=("--zone=$ZONE")
  [[ -z ${PROJECT:-} ]] || where+=("--project=$PROJECT")
  case $type in
    v6e-*) runtime=v2-alpha-tpuv6e ;;
    v5p-*) runtime=v2-alpha-tpuv5 ;;
    v5litepod-*) runtime=v2-alpha-tpuv5-lite ;;
    *) runtime=tpu-ubuntu2204-base ;;
  esac
  # The mesh must know of the slices; whoever says it differently is right.
  if ((slices > 1)) && [[ " ${flags[*]-}" != *' --config.mesh.slice='* ]]; then
    flags+=("--config.mesh.slice=$slices")
  fi
}

# Dies unless the flags name a workdir, and one that every host can reach.
# $1: whether there is one host only, whose disk will do.
need_workdir() {
  [[ -n $workdir ]] || die "${steps[*]} needs --workdir=gs://BUCKET/FOLDER"
  [[ $workdir == gs://* || $1 == true ]] ||
    die "--workdir=$workdir: only gs://BUCKET/FOLDER outlives these machines"
}

# Runs the steps. Where there is a machine, every way out says that it costs.
take_steps() {
  local step
  exists=true
  [[ -z ${name:-} ]] || trap remind EXIT
  for step in "${steps[@]}"; do
    "$step" ${flags[@]+"${flags[@]}"}
  done
}

remind() {
  if $exists && ! $dry_run; then
    say "$name may exist and cost money until:" \
      "ZONE=$ZONE TPU_NAME=$name launch/$launcher delete"
  fi
}
