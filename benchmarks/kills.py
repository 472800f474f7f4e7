"""kill -9 at random moments: nothing may be lost, and the result not change.

  python -m benchmarks.kills --kills=50 [--out=FOLDER]

Trains two stages of the quickstart's smoke run, saving after every step, once
without interruption. Then starts it again and again in a new workdir, kills
each process at a random moment and restarts it, until the run is done; then in
another new workdir, until there were enough kills. Half of the moments are
drawn evenly from the time of a whole run, half are a few milliseconds after a
save began. A kill counts for what the files tell that the process was doing.

It fails if a restart ends otherwise than done or killed, if it calls any file
unreadable, or if the networks of a run differ from the uninterrupted one's in a
single bit.
"""

import collections
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time

from absl import flags
from absl import logging
import jax
import numpy as np

from benchmarks import results
from worldsim_jax import command_line
from worldsim_jax.errors import UserError

ROOT = pathlib.Path(__file__).resolve().parents[1]
# Two of the four: of a restart, tracing the programs is most of the time.
STAGES = ('tokenizer', 'teacher_forcing')
STEPS = 12  # of each
WORLDS = ('latent_space', 'world')
LOOK_SECONDS = 0.005  # Between looks at the files; they cost time, too.
SAVE_SECONDS = 0.3  # About how long a save of these small networks takes.

_KILLS = flags.DEFINE_integer('kills', 50, 'At least as many.', lower_bound=1)
_SEED = flags.DEFINE_integer('seed', 0, 'Of the moments.')
_OUT = flags.DEFINE_string(
    'out', str(ROOT / 'benchmarks/results'), 'Folder of the results.')


def start(workdir: pathlib.Path) -> subprocess.Popen:
  """The run in a process of its own; its output goes to <workdir>.log."""
  environment = os.environ | {
      # Written by the first, uninterrupted run; holds programs, not results.
      'JAX_COMPILATION_CACHE_DIR': str(workdir.parent / 'programs'),
      'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0'}
  with open(f'{workdir}.log', 'ab') as log:
    return subprocess.Popen(
        [sys.executable, '-m', 'worldsim_jax.main', f'--workdir={workdir}',
         '--config=configs/quickstart.py:smoke', f'--config.stages={STAGES}',
         *(f'--config.{name}.num_steps={STEPS}' for name in STAGES),
         '--config.teacher_forcing.start_from=',
         '--config.evaluate.teacher=teacher_forcing',
         '--config.loop.log_every=1', '--config.loop.save_every=1',
         '--config.data.num_workers=1'],
        cwd=ROOT, env=environment, stdout=log, stderr=log)


def doing(workdir: pathlib.Path) -> str:
  """What a process is at, from its files."""
  if is_saving(workdir):
    return 'saving'
  if not (workdir / 'config.json').exists():
    return 'starting'
  if not (workdir / 'tokenizer').exists():
    return 'rendering'
  done = all((workdir / name / str(STEPS)).exists() for name in STAGES)
  return 'evaluation' if done else 'training'


def is_saving(workdir: pathlib.Path) -> bool:
  """Whether a checkpoint or a world has been begun and not completed."""
  return (any(any((workdir / name).glob('*tmp*')) for name in STAGES)
          or any((workdir / f'{name}.incomplete').exists() for name in WORLDS))


def kill_at_random(process, workdir, dice, whole_seconds: float) -> str | None:
  """Kills the process; returns what it was doing, None if it ended before."""
  deadline = time.time() + dice.uniform(0, whole_seconds)
  if dice.random() < .5:
    saves = dice.randint(1, STEPS)
    while saves and process.poll() is None:
      while not is_saving(workdir) and process.poll() is None:
        time.sleep(LOOK_SECONDS)
      saves -= 1
      if saves:
        while is_saving(workdir) and process.poll() is None:
          time.sleep(LOOK_SECONDS)
    deadline = time.time() + dice.uniform(0, SAVE_SECONDS)
  while time.time() < deadline and process.poll() is None:
    time.sleep(LOOK_SECONDS)
  if process.poll() is not None:
    return None
  process.send_signal(signal.SIGSTOP)  # So that what it does can be looked at.
  phase = doing(workdir)
  process.kill()
  process.wait()
  return phase


def networks(workdir: pathlib.Path):
  """All arrays that a run leaves, read without our own code."""
  import orbax.checkpoint as ocp

  folders = [workdir / name / str(STEPS) / 'state' for name in STAGES]
  folders += [workdir / name / 'params' for name in WORLDS]
  with ocp.PyTreeCheckpointer() as reader:
    return [jax.tree.map(np.asarray, reader.restore(f)) for f in folders]


def check_restart(process, workdir):
  """Raises UserError if the process did not end well."""
  log = pathlib.Path(f'{workdir}.log').read_text()
  if process.returncode not in (0, -signal.SIGKILL):
    raise UserError(f'a restart ended with {process.returncode}: '
                    f'{log.strip().splitlines()[-1]} (see {workdir}.log)')
  if 'unreadable' in log or 'damaged' in log:
    raise UserError(f'a restart found damage, see {workdir}.log')


def run_with_kills(workdir, kills: int, dice, whole_seconds, counts) -> int:
  """Kills and restarts a run until it is done; returns how many restarts."""
  restarts = 0
  while True:
    process = start(workdir)
    phase = None
    if sum(counts.values()) < kills:
      phase = kill_at_random(process, workdir, dice, whole_seconds)
    process.wait()
    check_restart(process, workdir)
    if phase is None:
      return restarts
    counts[phase] += 1
    restarts += 1
    print(f'kill {sum(counts.values())} of {kills}: {phase}', flush=True)


def measure(kills: int, seed: int, folder: pathlib.Path) -> dict:
  """Returns one row; raises UserError if anything was lost or changed."""
  whole = folder / 'undisturbed'
  # Twice: the second finds compiled programs, as all after it will.
  for _ in range(2):
    shutil.rmtree(whole, ignore_errors=True)
    began = time.time()
    process = start(whole)
    process.wait()
    check_restart(process, whole)
  seconds = time.time() - began
  expected = networks(whole)
  print(f'uninterrupted: {seconds:.0f} s', flush=True)
  counts, dice, runs = collections.Counter(), random.Random(seed), 0
  while sum(counts.values()) < kills:
    workdir = folder / f'killed{runs}'
    restarts = run_with_kills(workdir, kills, dice, seconds, counts)
    jax.tree.map(np.testing.assert_array_equal, networks(workdir), expected)
    steps = [(r['stage'], r['step']) for r in map(
        json.loads, (workdir / 'metrics.jsonl').read_text().splitlines())]
    if sorted(steps) != sorted({(s, i) for s in STAGES for i in range(STEPS)}):
      raise UserError(f'{workdir}/metrics.jsonl has not every step once')
    runs += 1
    print(f'run {runs}: {restarts} kills, same bits', flush=True)
  return {'kills': sum(counts.values()), **{
      f'kills_{phase}': counts[phase] for phase in
      ('starting', 'rendering', 'training', 'saving', 'evaluation')},
          'runs': runs, 'runs_with_other_bits': 0, 'unreadable_workdirs': 0}


def main(argv):
  if len(argv) > 1:
    raise UserError(f'unexpected argument {argv[1]!r}')
  logging.set_verbosity(logging.WARNING)
  with tempfile.TemporaryDirectory() as folder:
    row = measure(_KILLS.value, _SEED.value, pathlib.Path(folder))
  result = {'benchmark': 'kills', 'command': ' '.join(
      ['python -m benchmarks.kills', *sys.argv[1:]]),
            'environment': results.environment(), 'rows': [row]}
  print(results.table([row]))
  print(f'written to {results.write(_OUT.value, "kills", result)}')


if __name__ == '__main__':
  command_line.run(main)
