"""A subject's clips, as other people's benchmarks read them.

`config.evaluate.exports` names benchmarks; each gets a folder exports/<name>
beside the report. Their judges are networks that are not here: what is written
is what their programs take, see the adapter of each.
"""

from collections.abc import Callable
from collections.abc import Mapping
import shutil

import numpy as np

from worldsim_jax.data import captions
from worldsim_jax.data import maps as maps_lib
from worldsim_jax.errors import UserError
from worldsim_jax.evaluate import adapters
from worldsim_jax.evaluate import trial as trials
from worldsim_jax.evaluate import vbench
from worldsim_jax.evaluate import worldmodelbench
from worldsim_jax.evaluate import worldscore
from worldsim_jax.evaluate.trial import Trial

FOLDER = 'exports'
HEIGHT = 240  # pixels at least: judges were trained on larger pictures


def write(trial: Trial, folder, name: str) -> str:
  """Writes the subject's continuations of the short clips for a benchmark.

  Films begin with the last frame that the subject was given. An export of an
  earlier evaluation is replaced.

  Args:
    trial: the subject and its films.
    folder: of the evaluation, on a local disk.
    name: one of `BENCHMARKS`.

  Returns:
    The path of what was written.

  Raises:
    UserError: that names what the benchmark needs and the clips do not have.
  """
  path = f'{folder}/{FOLDER}/{name}'
  clips = of_trial(trial)
  adapters.check(clips)
  shutil.rmtree(path, ignore_errors=True)
  scale = -(-HEIGHT // trial.config.data.height)
  BENCHMARKS[name](path, clips, trial, scale)
  return path


def of_trial(trial: Trial) -> list[adapters.Clip]:
  """The short clips with all that is known of them."""
  clips, film = trial.clips, trial.played(trials.CLIPS).rgb
  last = clips.given - 1
  made = np.concatenate([clips.rgb[:, last : last + 1], film], axis=1)
  return [
      adapters.Clip(
          name=f'clip{number:03d}',
          rgb=made[number],
          instruction=adapters.in_words(clips.actions[number, last:]),
          **_of_the_world(clips, number),
      )
      for number in range(len(clips))
  ]


def _of_the_world(clips, number):
  """What exact state tells of the true future; less of users' films."""
  if clips.recipes is None:
    return dict(caption=clips.captions[number])
  last, begin = clips.given - 1, int(clips.begins[number])
  # Numbers of frames are those of the recipe's film.
  pose = np.pad(clips.pose[number], ((begin, 0), (0, 0)))
  film = dict(recipe=clips.recipes[number], pose=pose)
  told = captions.attributes(film, begin + last)
  objects = ()
  if told.map.startswith(maps_lib.GENERATED):
    objects = (f'{told.wall} walls', f'{told.floor} floor', *told.objects)
  return dict(
      caption=captions.caption(film, begin + last),
      motions=clips.motions[number, last:],
      objects=objects,
  )


def _vbench(path, clips, trial, scale):
  vbench.write_custom(path, clips, _rate(trial), scale)


def _worldmodelbench(path, clips, trial, scale):
  worldmodelbench.write(path, clips, _rate(trial), scale)


def _worldscore(path, clips, trial, scale):
  if trial.clips.recipes is None:
    raise UserError(
        'WorldScore judges cameras, and films of config.data.records have none'
    )
  camera = trial.clips.cameras[0]
  worldscore.write(path, clips, _rate(trial), camera=camera, scale=scale)


def _rate(trial):
  return trial.config.data.frames_per_second


BENCHMARKS: Mapping[str, Callable] = {
    'vbench': _vbench,
    'worldscore': _worldscore,
    'worldmodelbench': _worldmodelbench,
}
