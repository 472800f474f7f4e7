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
from worldsim_jax.evaluate import trial as trials
from worldsim_jax.evaluate.trial import Trial

WINDOW = 16  # frames, what FVD is defined on
PARTS = ('early', 'late')  # thirds of a walk


def measure(trial: Trial) -> figures.Section:
  section = figures.Section('Drift: looks over time')
  _statistics(trial, section)
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
      section.figures.append(figures.mean(
          f'drift_{name}{end}', [n[f'{name}{end}'] for n in numbers],
          walks.maps, real=np.zeros(1), unit=unit))
    curves[name] = figures.curve(
        seconds, np.stack([ratio[name] for ratio in ratios]), walks.maps)
  section.plots.append(dict(
      title='Against the true film at the same time', series=curves,
      x_label='seconds', y_label='log ratio'))


def _distributions(trial, section):
  walks, film = trial.walks, trial.played(trials.WALKS).rgb
  true = _features(walks.future)  # Names what is missing before it takes long.
  ours = _features(film) if film is not walks.future else true
  n = len(walks)
  even, odd = np.arange(n) % 2 == 0, np.arange(n) % 2 == 1
  for number, part in enumerate(PARTS):
    # The reference are other walks than those that are compared with it, so
    # that the true film's own distance is a fair floor.
    reference = true[odd].reshape(-1, true.shape[-1])
    compared, floor = (
        _part(x[even], number).reshape(-1, x.shape[-1]) for x in (ours, true))
    for name, distance in (('fvd', frechet.fvd), ('kvd', frechet.kvd)):
      value = distance(compared, reference)
      section.figures.append(figures.Figure(
          f'{name}_{part}', *_interval(distance, compared, reference, value),
          len(compared), float(distance(floor, reference))))
  section.notes.append(
      f'FVD and KVD: {i3d.WEIGHTS}; windows of {WINDOW} frames, '
      f'{len(compared)} against {len(reference)} true ones of other walks. '
      'With fewer windows than the 400 features FVD is far too large; only '
      'values of equal numbers can be compared, best with the true future\'s '
      'own, beside it.')


def _features(films):
  """I3D logits of successive windows, [n, windows, 400]."""
  windows = np.stack([frechet.windows(film, WINDOW, WINDOW) for film in films])
  logits = i3d.logits(windows.reshape(-1, *windows.shape[2:]))
  return logits.reshape(*windows.shape[:2], -1)
