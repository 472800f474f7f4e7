"""Why Self Forcing works: one small student, trained in every way, measured.

Each seed is a run of configs/paradigms.py, one process, in
<workdir>/seed-<n>, which goes on where it stopped. Then every player continues
the same test clips, of maps that no seed trained on, to several times the
length that it trained at, and is compared with the true future, frame by frame
(in <workdir>/seed-<n>/paradigms, all that is needed of a run that has ended):

  error    PSNR in dB and LPIPS (AlexNet; needs the extra [metrics])
  within   the mean of the frames up to the trained length
  beyond   the mean of the others
  drift    beyond relative to within: of the squared error, and of LPIPS

Intervals are of 95 % and resample seeds and maps, each with replacement and
independently (both are crossed: Owen 2007, the pigeonhole bootstrap), so three
seeds give coarse ones. `hypotheses` has what is claimed and what came of it.

`--repeats` is the number of seeds (3), `--workdir` where they are kept.
"""

import json
import pathlib
from typing import NamedTuple

import numpy as np

from benchmarks import apart
from benchmarks import hypotheses
from worldsim_jax.errors import UserError
from worldsim_jax.evaluate import clips as clips_lib
from worldsim_jax.evaluate import image_metrics
from worldsim_jax.evaluate import lpips
from worldsim_jax.evaluate import replay
from worldsim_jax.evaluate import report
from worldsim_jax.evaluate import subjects
from worldsim_jax.models import build
from worldsim_jax.parallel import mesh as meshes
from worldsim_jax.streaming.world import World
from worldsim_jax.train import assemble
from worldsim_jax.train import checkpoints
from worldsim_jax.train import datasets

BASE = 'tf'  # whose step is the unit of time
MANY = 50


class Player(NamedTuple):
  """A network and how it samples.

  Attributes:
    stage: whose network.
    steps: many steps of the ODE, or 0 for config.student's few.
    matrix: of schedules.DELAYS, or '' to stream.
  """
  stage: str
  steps: int = 0
  matrix: str = ''


PLAYERS = {
    'teacher_50': Player('teacher', MANY),
    'tf_50': Player('tf', MANY),
    'df_50': Player('df', MANY),
    'df_pyramid': Player('df', MANY, 'pyramid'),
    'df_full': Player('df', MANY, 'full_sequence'),
    **{name: Player(name) for name in (
        'tf', 'df', 'tf_dmd', 'df_dmd', 'causvid', 'sf_dmd', 'sf_sid',
        'sf_gan', 'sf_long')},
}
COPY = 'copy'
ALL = PLAYERS | {COPY: None}
SECONDS = 'paradigms/seconds.json'  # written last
QUICK = 0.1  # quantile of logged steps that counts as the time of one


def benchmark(options):
  """A row per player."""
  scores, seconds = scored(options)
  trained = trained_frames(options.config)
  rows = []
  for name, player in ALL.items():
    row = {'player': name}
    for figure in hypotheses.FIGURES:
      value = hypotheses.estimate(figure, scores, (name,), trained)
      if value is not None:
        row |= {figure: value.mean, f'{figure}_low': value.low,
                f'{figure}_high': value.high}
    if player:
      own = [s[player.stage] for s in seconds]
      row['training_seconds'] = float(np.mean([s['total'] for s in own]))
      row['step_ratio_to_tf'] = float(np.mean(
          [s['step'] / base[BASE]['step'] for s, base in zip(own, seconds)]))
    rows.append(row)
  return rows


def details(options) -> dict:
  """What was claimed, with its verdict, and the curves of the plot."""
  scores, seconds = scored(options)
  trained = trained_frames(options.config)
  found = hypotheses.verdicts(scores, trained)
  for stage, other in (BASE, 'Teacher Forcing'), ('tf_dmd', 'TF + DMD'):
    found.append(hypotheses.of_cost(
        other, [s['sf_dmd']['step'] / s[stage]['step'] for s in seconds]))
  curves = {name: {metric: hypotheses.curve(scores, name, metric)
                   for metric in scores[0][name].metrics}
            for name in scores[0]}
  return {'hypotheses': [v._asdict() for v in found], 'curves': curves,
          'trained_frames': trained, 'seeds': len(scores),
          'maps': len(set(scores[0][COPY].maps)),
          'clips': len(scores[0][COPY].maps)}


def trained_frames(config) -> int:
  """New pixel frames of a clip in training."""
  stride = build.tokenizer(config).time_stride
  new = config.sf_dmd.clip_frames - config.student.context_frames
  return new * stride


def scored(options):
  """Trains what is not trained and plays what is not played.

  Returns:
    (scores, seconds), a dict for each seed: Scores by player, and the seconds
    of a step and of the training of each stage.
  """
  if options.config.stages[-1] != 'sf_long':
    raise UserError('paradigms needs configs/paradigms.py, or a variant.')
  scores, seconds = [], []
  for seed in range(options.repeats):
    config = options.config.copy_and_resolve_references()
    config.seed = seed
    workdir = pathlib.Path(options.workdir, f'seed-{seed}')
    if not (workdir / SECONDS).exists():
      apart.run('benchmarks.paradigms', config, workdir)
    scores.append({name: _read(_path(workdir, name)) for name in ALL})
    seconds.append(json.loads((workdir / SECONDS).read_text()))
  return scores, seconds


def play(config, workdir: pathlib.Path):
  """Lets everyone play who has not; scores are kept as they are found."""
  frames_dir = datasets.frames(config, workdir)
  given = config.student.context_frames  # The stride is 1.
  clips = clips_lib.of_test_split(config, frames_dir, given)
  for name, player in ALL.items():
    path = _path(workdir, name)
    if not path.exists():
      _write(path, continued(config, workdir, player, clips), clips)


def _path(workdir, name):
  return workdir / 'paradigms' / f'{name}.npz'


def continued(config, workdir, player: Player | None, clips):
  """A player's films, uint8 [n, horizon, H, W, 3]."""
  if player is None:
    return subjects.copy(clips).rgb
  config = config.copy_and_resolve_references()
  if player.stage == config.evaluate.teacher:
    config.evaluate.teacher_steps = player.steps
    world = _world(config, assemble.tokenizer(workdir), {})
    _, params = checkpoints.newest_params(
        workdir / player.stage, player.stage)
    return replay.teacher_continuation(world, meshes.fetch(params), clips)
  student = assemble.load(workdir, player.stage)
  if player.steps:
    size = 1000 // player.steps
    config.student.update(dict(
        step='euler', timesteps=tuple(range(1000, 0, -size))))
  config.evaluate.matrix = player.matrix
  world = _world(config, student, student.params)
  if player.matrix:
    return replay.matrix_continuation(
        world, student.params, clips, player.stage)
  return replay.student_continuation(world, clips)


def _world(config, like: World, params) -> World:
  return World(config, params, like.vae_variables, like.starts)


def _read(path: pathlib.Path) -> hypotheses.Scores:
  with np.load(path) as file:
    return hypotheses.Scores(
        file['maps'], {key: file[key] for key in file if key != 'maps'})


def _write(path: pathlib.Path, films, clips):
  scores = {'psnr': image_metrics.psnr(films, clips.future)}
  try:
    scores['lpips'] = lpips.distance(films, clips.future)
  except UserError as e:
    print(f'without LPIPS: {e}')
  path.parent.mkdir(parents=True, exist_ok=True)
  part = path.with_suffix('.part')
  with open(part, 'wb') as file:
    np.savez(file, maps=np.asarray(clips.maps, str), **scores)
  part.rename(path)


def training_seconds(config, workdir) -> dict[str, dict[str, float]]:
  """Of each stage: a step (a quick one: the machine's other users only slow
  it) and all its steps, not compilation."""
  found = {}
  for name, entries in report.read_metrics(workdir).items():
    steps = [e['seconds_per_step'] for e in entries if 'seconds_per_step' in e]
    if name in config.stages and steps:
      found[name] = {'step': float(np.quantile(steps, QUICK)),
                     'total': float(np.mean(steps)) * config[name].num_steps}
  return found


def main(argv):
  """One seed: config.json, workdir."""
  from absl import logging
  from worldsim_jax.train import run
  logging.set_verbosity(logging.WARNING)  # JAX tells what backends it lacks.
  config = apart.config(argv[1])
  workdir = pathlib.Path(argv[2])
  run.train_and_evaluate(config, argv[2])
  play(config, workdir)
  report.write_atomically(
      workdir / SECONDS, json.dumps(training_seconds(config, workdir)))


if __name__ == '__main__':
  from worldsim_jax import command_line
  command_line.run(main)
