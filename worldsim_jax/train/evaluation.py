"""`--mode=evaluate`: from a workdir to a subject under test and its report.

What a run trained is one kind of subject; the others (evaluate/subjects.py) are
made of the true future and need no training at all.
"""

import time

import numpy as np

from worldsim_jax.errors import UserError
from worldsim_jax.evaluate import replay
from worldsim_jax.evaluate import subjects
from worldsim_jax.evaluate import suite
from worldsim_jax.evaluate.subjects import Played
from worldsim_jax.evaluate.trial import Trial
from worldsim_jax.forcing import paradigms
from worldsim_jax.models import build
from worldsim_jax.parallel import distributed
from worldsim_jax.parallel import mesh as meshes
from worldsim_jax.storage import paths
from worldsim_jax.streaming.world import World
from worldsim_jax.train import assemble
from worldsim_jax.train import checkpoints
from worldsim_jax.train import datasets
from worldsim_jax.train import run
from worldsim_jax.train import validation

FOLDER = 'evaluation'  # of the results, in the workdir; a folder per subject
BATCHES = (8, 16)  # clips
STUDENT, TEACHER = 'student', 'teacher'


def evaluate(config, workdir) -> dict:
  """Evaluates config.evaluate.subject; returns the figures of summary.json.

  Results are in <workdir>/evaluation/<subject>. In a run of several processes
  the first one evaluates.

  Raises:
    UserError: for what the user can mend, in one line.
  """
  validation.check_run(config)
  name = config.evaluate.subject
  workdir = paths.folder(workdir)
  make = _of_model if name in models(config) else _of_truth
  make_trial = make(config, workdir)
  run.prepare_workdir(workdir)
  frames_dir = datasets.frames(config, workdir)
  summary = {}
  if distributed.is_main():
    begin = time.time()
    folder = workdir / FOLDER / name
    print(f'evaluation of {name}:')
    with run.named_shortage():
      summary = suite.evaluate(make_trial(frames_dir), folder, config)
    print(f'{time.time() - begin:.0f} s; results in {folder}: report.html, '
          'summary.json, films/')
  distributed.barrier('evaluated')
  return summary


def models(config) -> dict[str, str]:
  """Subjects that a run trains: the stage of each, by name.

  The student is the world of a finished run; any other causal stage plays by
  the same rules from its newest checkpoint.
  """
  causal = {
      name: name for name in config.stages
      if config[name].paradigm in paradigms.CAUSAL}
  return causal | {STUDENT: '', TEACHER: config.evaluate.teacher}


def _of_truth(config, unused_workdir):
  """frames_dir -> a trial of a subject that no training made."""
  name = config.evaluate.subject
  known = subjects.of_truth(
      config.data.frames_per_second, config.evaluate.seed)
  if name not in known:
    raise UserError(
        f'config.evaluate.subject={name!r} is not one of '
        f'{", ".join((*models(config), *known))}.')
  return lambda frames_dir: Trial(
      config, name, known[name], frames_dir, _given(config), _step(config))


def _of_model(config, workdir):
  """The same for a network of the run."""
  name = config.evaluate.subject
  if name == TEACHER and models(config)[name] not in _causal(config):
    return _of_teacher(config, workdir)
  unfinished = run.unfinished_stages(config, workdir)
  if name == STUDENT and unfinished:
    raise UserError(
        f'--mode=evaluate needs all of config.stages, but {unfinished[0]!r} is '
        f'not trained in --workdir={workdir}: --mode=train goes on with it.')
  world = assemble.load(workdir, models(config)[name])
  _must_match(config, world)

  def play(clips):
    if config.evaluate.matrix:
      own = World(config, world.params, world.vae_variables, world.starts)
      stage = models(config)[name] or config.stages[-1]
      return replay.matrix_continuation(
          own, world.params, clips, stage, seed=config.evaluate.seed)
    return replay.student_continuation(world, clips, seed=config.evaluate.seed)

  return lambda frames_dir: Trial(
      config, name, _in_batches(play), frames_dir, world.context_frames,
      world.frames_per_step, world, world)


def _of_teacher(config, workdir):
  """The bidirectional model; it continues clips window by window."""
  stage = config.evaluate.teacher
  found = checkpoints.newest_params(workdir / stage, stage)
  if found is None:
    raise UserError(f'--workdir={workdir} has no checkpoint of {stage!r} yet '
                    '(config.evaluate.teacher).')
  world = assemble.tokenizer(workdir)
  params = meshes.fetch(found[1])
  world = World(config, {}, world.vae_variables, world.starts)

  def play(clips):
    return replay.teacher_continuation(
        world, params, clips, seed=config.evaluate.seed)

  return lambda frames_dir: Trial(
      config, TEACHER, _in_batches(play), frames_dir, _given(config),
      _step(config), tokenizer=world)


def _in_batches(play):
  """A subject that plays so many clips at once as BATCHES says.

  So two programs serve all sections, and memory does not grow with the clips.
  """

  def played(clips):
    size = next((b for b in BATCHES if b >= len(clips)), BATCHES[-1])
    films = []
    for first in range(0, len(clips), size):
      numbers = np.arange(first, first + size)
      films.append(play(clips.take(np.minimum(numbers, len(clips) - 1))))
    return Played(np.concatenate(films)[:len(clips)])

  return played


def _causal(config):
  return [name for name in config.stages
          if config[name].paradigm in paradigms.CAUSAL]


def _must_match(config, world):
  """Raises UserError if the world plays other frames than the config's."""
  for key in ('height', 'width', 'tics_per_frame'):
    ours, theirs = config.data[key], world.config.data[key]
    if ours != theirs:
      raise UserError(
          f'config.data.{key}={ours}, but the world in --workdir was made with '
          f'{theirs}.')


def _given(config) -> int:
  stride = build.tokenizer(config).time_stride
  return 1 + stride * (max(1, config.student.context_frames) - 1)


def _step(config) -> int:
  return config.student.chunk * build.tokenizer(config).time_stride
