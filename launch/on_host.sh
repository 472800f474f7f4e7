#!/usr/bin/env bash
# What one host of a slice does; tpu_vm.sh and skypilot.yaml call it there.
#
#   launch/on_host.sh [--dry-run] STEP... [flags of main...]
#
# install  Python 3.12 and this package, in .venv (EXTRA, default tpu,gcs)
# main     train in the foreground
# run      the same in the background, so that a lost connection ends nothing
# watch    follow the log to the end of the run; exit with the run's exit code
# ended    succeed if a run was started and is over
# stop     SIGTERM: the run saves and ends with exit code 75
# shellcheck source-path=SCRIPTDIR source=verbs.sh
source "$(dirname "${BASH_SOURCE[0]}")/verbs.sh"

log=runs/host.log
pid=runs/host.pid
code=runs/host.exit

running() { [[ -f $pid ]] && kill -0 "$(<$pid)" 2>/dev/null; }
ended() { [[ -f $pid ]] && ! running; }

# The images carry an older Python than ours; uv brings its own.
install() {
  local uv
  uv=$(command -v uv || echo ~/.local/bin/uv)
  [[ -x $uv ]] || run_or_print python3 -m pip install --user --quiet uv
  run_or_print "$uv" venv --quiet --allow-existing --python=3.12 .venv
  run_or_print "$uv" pip install --quiet --python=.venv/bin/python \
    --editable=".[${EXTRA:-tpu,gcs}]"
}

main() {
  local status=0
  $dry_run || mkdir -p runs
  # A trap, so that this shell outlives the signal and writes the exit code.
  trap : TERM
  run_or_print .venv/bin/python -m worldsim_jax.main "$@" || status=$?
  $dry_run || echo "$status" >$code
  return "$status"
}

run() {
  ! running || fail "a run is going on here (process $(<$pid)): watch or stop"
  if $dry_run; then
    main "$@"
    return
  fi
  mkdir -p runs
  rm -f $code
  set -m  # A process group of its own, for `stop`.
  nohup bash launch/on_host.sh main "$@" >>$log 2>&1 </dev/null &
  echo $! >$pid
}

watch() {
  $dry_run || [[ -f $pid ]] || fail 'nothing was run here yet'
  # The last lines first: gcloud calls this again when a connection breaks.
  local process=PID
  $dry_run || process=$(<$pid)
  run_or_print tail --lines=100 --follow=name "--pid=$process" $log
  ! $dry_run || return 0
  [[ -f $code ]] || fail 'the run ended without an exit code: it was killed'
  return "$(<$code)"
}

stop() {
  if running; then
    # The group: the shell above and all that it started.
    run_or_print kill -TERM -- "-$(<$pid)"
  else
    say 'nothing runs here'
  fi
}

read_arguments 'install main run watch ended stop' "$@"
take_steps
