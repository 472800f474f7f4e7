"""Drift: does a film keep looking like the world, the longer it gets?

Looks only. Brightness, contrast, saturation and fine detail of a walk are
compared with the true walk's at the same time (evaluate/drift.py). Windows of
16 frames that slide along the walks are compared with true windows of other
walks as distributions (FVD and KVD, evaluate/frechet.py): those of the first
half of the walks, those of the second, and each position by itself. Neither can
tell whether frames follow each other rightly: measured on the embedded world,
FVD hardly sees shuffled time. That is what exact replay is for.
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
WINDOWS = 4  # of each walk, in even number; a second of a core each
DRAWS = 20  # of halves of the walks


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
    section.lacks.append(f'FVD and KVD: {e}')
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
  packaged_weights.load(packaged_weights.I3D)
  begins = _begins(walks.horizon)
  true = _logits(walks.future, begins)
  is_true = np.array_equal(film, walks.future)
  ours = true if is_true else _logits(film, begins)
  early, late = np.split(np.arange(WINDOWS), 2)
  measured = []
  for name, distance in (('fvd', frechet.fvd), ('kvd', frechet.kvd)):
    for part, windows in (('early', early), ('late', late)):
      found = _compared(distance, true[:, windows], ours[:, windows])
      measured.append(
          figures.Figure(
              f'{name}_{part}', *found[:3], found[3], found[4], maps=len(walks)
          )
      )
  by_time = [
      _compared(frechet.kvd, true[:, [k]], ours[:, [k]]) for k in range(WINDOWS)
  ]
  section.figures += measured
  seconds = begins / trial.config.data.frames_per_second
  value, low, high, _, floor = np.array(by_time).T
  section.plots.append(
      dict(
          title='KVD of windows by time',
          series={
              trial.name: (seconds, value, low, high),
              'true future': (seconds, floor),
          },
          x_label='seconds',
          y_label='KVD',
      )
  )
  section.notes.append(
      f'FVD and KVD: {packaged_weights.I3D}; {WINDOWS} windows of {WINDOW} '
      'frames of each walk, means over random halves of the walks, of which '
      'one is the reference. The column of the true future is the floor, of '
      'true windows of the other half; intervals are of a jackknife over '
      f'walks. {frechet.caution(measured[0].count, measured[0].count)}'
  )


def _compared(distance, true, ours):
  """(value, low, high, windows, floor) of logits [walks, windows, 400]."""
  count = true.shape[1]
  groups = (np.repeat(np.arange(len(true)), count),) * 2
  real, made = (x.reshape(-1, x.shape[-1]) for x in (true, ours))

  def value(real, made, groups):
    return frechet.matched(distance, real, made, groups, DRAWS).value

  found = frechet.matched(distance, real, made, groups, DRAWS)
  try:
    error = 1.96 * frechet.standard_error(value, real, made, groups)
  except UserError:  # Of one walk less there are too few.
    error = np.nan
  low, high = found.value - error, found.value + error
  return found.value, low, high, found.size, found.floor


def _begins(num_frames):
  """The first frames of the windows, evenly spread."""
  if num_frames < WINDOWS * WINDOW:
    raise UserError(
        f'a walk of {num_frames} frames has no {WINDOWS} windows of {WINDOW} '
        '(config.evaluate.walk_frames)'
    )
  return np.linspace(0, num_frames - WINDOW, WINDOWS).astype(int)


def _logits(films, begins):
  """Of the windows, [n, WINDOWS, 400]."""
  windows = np.stack([films[:, b : b + WINDOW] for b in begins], 1)
  logits = i3d.logits(windows.reshape(-1, *windows.shape[2:]))
  return logits.reshape(*windows.shape[:2], -1)
