"""Drift: does a film keep looking like the world, the longer it gets?

Looks only. Brightness, contrast, saturation and fine detail of a walk are
compared with the true walk's at the same time (evaluate/drift.py). Windows of
16 frames are compared with true windows of other walks as distributions (FVD
and KVD, evaluate/frechet.py), early and late in the walk. Neither can tell
whether frames follow each other rightly: measured on the embedded world, FVD
hardly sees shuffled time. That is what exact replay is for.
"""

import numpy as np

from worldsim_jax.errors import UserError
from worldsim_jax.evaluate import drift
from worldsim_jax.evaluate import figures
from worldsim_jax.evaluate import frechet
from worldsim_jax.evaluate import i3d
from worldsim_jax.evaluate import packaged_weights
from worldsim_jax.evaluate import replay
from worldsim_jax.evaluate import trial as trials
from worldsim_jax.evaluate.trial import Trial

FILM_WALKS = 2
WINDOW = 16  # frames, what FVD is defined on
WINDOWS = 2  # early and late, of each walk; a second of a core each


def measure(trial: Trial) -> figures.Section:
  section = figures.Section('Drift: looks over time')
  _statistics(trial, section)
  section.films['Walks: true future, subject'] = replay.film(
      {
          'true future': trial.walks.future,
          trial.name: trial.played(trials.WALKS).rgb,
      },
      trial.walks,
      FILM_WALKS,
  )
  try:
    _distributions(trial, section)
  except UserError as e:
    section.notes.append(f'FVD and KVD are not measured: {e}')
  return section


def _statistics(trial, section):
  walks, film = trial.walks, trial.played(trials.WALKS).rgb
  fps = trial.config.data.frames_per_second
  ratios = [
      drift.log_ratios(drift.statistics(ours), drift.statistics(true))
      for ours, true in zip(film, walks.future)
  ]
  numbers = [drift.clip_drift(ratio, fps) for ratio in ratios]
  seconds = np.arange(1, walks.horizon + 1) / fps
  curves = {}
  for name in drift.NAMES:
    for end, unit in (('', 'log ratio'), ('_slope', 'log ratio per second')):
      section.figures.append(
          figures.mean(
              f'drift_{name}{end}',
              [n[f'{name}{end}'] for n in numbers],
              walks.maps,
              real=np.zeros(1),
              unit=unit,
          )
      )
    curves[name] = figures.curve(
        seconds, np.stack([ratio[name] for ratio in ratios]), walks.maps
    )
  section.plots.append(
      dict(
          title='Against the true film at the same time',
          series=curves,
          x_label='seconds',
          y_label='log ratio',
      )
  )


def _distributions(trial, section):
  walks, film = trial.walks, trial.played(trials.WALKS).rgb
  packaged_weights.find(packaged_weights.I3D)
  true = [i3d.logits(part) for part in _parts(walks.future)]
  ours = (
      true
      if film is walks.future
      else [i3d.logits(part) for part in _parts(film)]
  )
  groups = (np.repeat(np.arange(len(walks)), WINDOWS),) * 2
  for name, distance in (('fvd', frechet.fvd), ('kvd', frechet.kvd)):
    for part, real, made in zip(('early', 'late'), true, ours):
      found = frechet.matched(distance, real, made, groups)
      error = 1.96 * frechet.standard_error(distance, real, made, groups)
      section.figures.append(
          figures.Figure(
              f'{name}_{part}',
              found.value,
              found.value - error,
              found.value + error,
              found.size,
              found.floor,
          )
      )
  section.notes.append(
      f'FVD and KVD: {packaged_weights.I3D}; {WINDOWS} windows of {WINDOW} '
      'frames at the beginning and at the end of each walk, means over random '
      'halves of the walks, of which one is the reference. The column of the '
      'true future is the floor, of true windows of the other half; intervals '
      f'are of a jackknife. {frechet.caution(found.size, found.size)}'
  )


def _parts(films):
  """The first and the last windows, each [n * WINDOWS, WINDOW, H, W, 3]."""
  windows = np.stack([frechet.windows(film, WINDOW, WINDOW) for film in films])
  if windows.shape[1] < 2 * WINDOWS:
    raise UserError(
        f'a walk of {films.shape[1]} frames has no {2 * WINDOWS} windows of '
        f'{WINDOW} (config.evaluate.walk_frames)'
    )
  shape = -1, *windows.shape[2:]
  return (
      windows[:, :WINDOWS].reshape(shape),
      windows[:, -WINDOWS:].reshape(shape),
  )
