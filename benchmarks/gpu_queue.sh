#!/usr/bin/env bash
# Everything that wants a GPU, unattended, in under 25 minutes.
#
#   [WHEELS=DIR] [RESULTS=DIR] benchmarks/gpu_queue.sh [STEP...]
#
# Runs the named steps, or all of them, most valuable first: each with a time
# limit and a log, going on when one fails. Figures and logs go to
# RESULTS/<device>/ (default benchmarks/results). Ends with what ran and what
# did not, and exits 1 if a step failed. Run it again to resume the training.
#
# Environment:
#   DRY_RUN=1     prints the commands
#   WHEELS        a folder of wheels that this Python lacks (gpu_wheels.txt
#                 lists them); they are unpacked beside it, nothing is installed
#   BUDGET_S      seconds for everything (1470)
#   WORKDIR       of the training, kept to resume from (runs/gpu-doom)
#   DOOM_CONFIG   what is trained (configs/doom.py)
#   DOOM_RECORDS  a folder of records to train on, where ViZDoom cannot render
#   PARADIGMS_RECORDS  the same for the paradigms, of configs/paradigms.py
#   PYTHON        python3
#   COMMIT        what results name, where the files came without the repository
#   ANY_DEVICE=1  goes on without a GPU, for a rehearsal
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

STEPS=(train_step stream train_step_wan stream_wan moc train_step_moc torch_dit
  paradigms doom)
BUDGET_S=${BUDGET_S:-1470}
PYTHON=${PYTHON:-python3}
RESULTS=${RESULTS:-benchmarks/results}
WORKDIR=${WORKDIR:-runs/gpu-doom}
DOOM_CONFIG=${DOOM_CONFIG:-configs/doom.py}
WAN=benchmarks/configs/wan_1_3b.py
MOC=benchmarks/configs/moc_minute.py
LEAST_S=20  # Less is not enough to compile anything.

die() { echo "gpu_queue.sh: $*" >&2; exit 2; }

# Sets `command` and `limit`, in seconds, of a step; returns 1 for no such step.
describe() {
  local bench=("$PYTHON" -m benchmarks.run "--out=$RESULTS")
  case $1 in
    train_step)
      limit=240 command=("${bench[@]}" train_step) ;;
    stream)
      limit=150 command=("${bench[@]}" stream) ;;
    train_step_wan)
      limit=240
      command=(env XLA_PYTHON_CLIENT_MEM_FRACTION=.92 "${bench[@]}" train_step
        "--config=$WAN" --repeats=3) ;;
    stream_wan)
      limit=270
      command=(env XLA_PYTHON_CLIENT_MEM_FRACTION=.92 "${bench[@]}" stream
        "--config=$WAN" --repeats=3 --frames=288) ;;
    moc)
      limit=180 command=("${bench[@]}" moc) ;;
    train_step_moc)
      limit=200
      command=(env XLA_PYTHON_CLIENT_MEM_FRACTION=.92 "${bench[@]}" train_step
        "--config=$MOC" --repeats=3) ;;
    torch_dit)  # Two frameworks share the memory.
      limit=150
      command=(env XLA_PYTHON_CLIENT_PREALLOCATE=false "${bench[@]}" torch_dit
        --repeats=30) ;;
    paradigms)  # What is not finished goes on when it is run again.
      limit=900 command=("${bench[@]}" paradigms)
      [[ -z ${PARADIGMS_RECORDS:-} ]] ||
        command+=("--config.data.records=$PARADIGMS_RECORDS") ;;
    doom)
      limit=$BUDGET_S
      command=("$PYTHON" -m worldsim_jax.main "--config=$DOOM_CONFIG"
        "--workdir=$WORKDIR")
      [[ -z ${DOOM_RECORDS:-} ]] ||
        command+=("--config.data.records=$DOOM_RECORDS") ;;
    *) return 1 ;;
  esac
}

unpack_wheels() {
  local wheels=("$WHEELS"/*.whl)
  [[ -e ${wheels[0]} ]] || die "WHEELS=$WHEELS: no wheels there"
  "$PYTHON" -m pip install --quiet --no-index --no-deps --no-compile \
    --disable-pip-version-check --target "$scratch/site" "${wheels[@]}" ||
    die "WHEELS=$WHEELS: cannot be installed, see above"
  export PYTHONPATH=$scratch/site${PYTHONPATH:+:$PYTHONPATH}
}

# Prints the folder of the device, after a look at what is there.
check_machine() {
  "$PYTHON" - <<'PYTHON_CODE' || die 'this machine cannot run the queue'
import importlib
import os
import sys
for name in ('jax', 'flax', 'optax', 'orbax.checkpoint', 'chex', 'absl',
             'ml_collections'):
  try:
    importlib.import_module(name)
  except ImportError as e:
    sys.exit(f'{name} is missing ({e}): bring its wheel, WHEELS=DIR')
from benchmarks import results
import jax
if jax.default_backend() != 'gpu' and os.environ.get('ANY_DEVICE') != '1':
  sys.exit(f'no GPU, only {jax.devices()}; ANY_DEVICE=1 goes on')
print(results.device_slug())
PYTHON_CODE
}

# Runs one step; appends a line to `ran` or `not_run`.
run_step() {
  local name=$1 log begin=$SECONDS status=0 last
  describe "$name"
  if [[ $name == doom && ! -f ${DOOM_CONFIG%%:*} ]]; then
    not_run+=("$name: there is no ${DOOM_CONFIG%%:*}")
    return
  fi
  ((limit <= BUDGET_S - SECONDS)) || limit=$((BUDGET_S - SECONDS))
  if ((limit < LEAST_S)); then
    not_run+=("$name: the $BUDGET_S seconds are over")
    return
  fi
  log=$RESULTS/$device/logs/$name.log
  echo "== $name, at most $limit s"
  timeout --kill-after=20 "$limit" "${command[@]}" >"$log" 2>&1 || status=$?
  tail -n 20 "$log"
  last="$((SECONDS - begin)) s, log $log"
  case $status in
    0) ran+=("$name: $last") ;;
    2) not_run+=("$name: $(tail -n 1 "$log")") ;;
    124 | 137) not_run+=("$name: stopped at its limit, $last"); failed=1 ;;
    *) not_run+=("$name: exit code $status, $last"); failed=1 ;;
  esac
}

# Brings home what a training left; checkpoints stay in the workdir.
collect() {
  local file
  for file in summary.json metrics.jsonl report.html films.mp4 config.json; do
    if [[ -f $WORKDIR/$file ]]; then
      mkdir -p "$RESULTS/$device/doom"
      cp "$WORKDIR/$file" "$RESULTS/$device/doom/"
    fi
  done
}

steps=("$@")
((${#steps[@]})) || steps=("${STEPS[@]}")
command=() limit=0
for step in "${steps[@]}"; do
  describe "$step" || die "$step: the steps are ${STEPS[*]}"
done
if [[ ${DRY_RUN:-0} == 1 ]]; then
  for step in "${steps[@]}"; do
    describe "$step"
    printf '%s: timeout %s' "$step" "$limit"
    printf ' %q' "${command[@]}"
    echo
  done
  exit
fi

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
export TF_CPP_MIN_LOG_LEVEL=${TF_CPP_MIN_LOG_LEVEL:-2}
[[ -z ${WHEELS:-} ]] || unpack_wheels
device=$(check_machine)
mkdir -p "$RESULTS/$device/logs"

ran=() not_run=() failed=0
for step in "${steps[@]}"; do
  run_step "$step"
done
collect
echo "== ran, results in $RESULTS/$device ($SECONDS s)"
((${#ran[@]})) && printf '  %s\n' "${ran[@]}"
echo '== did not run to its end'
((${#not_run[@]})) && printf '  %s\n' "${not_run[@]}"
exit "$failed"
