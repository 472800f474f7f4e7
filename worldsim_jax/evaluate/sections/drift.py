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
from worldsim_jax.evaluate import trial as trials
from worldsim_jax.evaluate.trial import Trial

WINDOW = 16  # frames, what FVD is defined on


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
  packaged_weights.find(packaged_weights.I3D)
  true = _features(walks.future)
  ours = true if film is walks.future else _features(film)
  per_walk = true.shape[1]
  for part, chosen in (
      ('early', slice(None, per_walk // 2)), ('late', slice(per_walk // 2, None))
  ):
    # All true windows are the reference: a walk's early and late views differ.
    real = true.reshape(-1, true.shape[-1])
    made = ours[:, chosen].reshape(-1, true.shape[-1])
    groups = tuple(
        np.repeat(np.arange(len(walks)), len(x) // len(walks))
        for x in (real, made))
    for name, distance in (('fvd', frechet.fvd), ('kvd', frechet.kvd)):
      found = frechet.matched(distance, real, made, groups)
      error = frechet.standard_error(distance, real, made, groups)
      section.figures.append(figures.Figure(
          f'{name}_{part}', found.value, found.value - 1.96 * error,
          found.value + 1.96 * error, found.size, found.floor))
  section.notes.append(
      f'FVD and KVD: {packaged_weights.I3D}; windows of {WINDOW} frames, means '
      'over random halves of the walks, of which one is the reference. The '
      'column of the true future is the floor: true windows of the other half. '
      f'{frechet.caution(found.size, found.size)}')


def _features(films):
  """I3D logits of successive windows, [n, windows, 400]."""
  windows = np.stack([frechet.windows(film, WINDOW, WINDOW) for film in films])
  logits = i3d.logits(windows.reshape(-1, *windows.shape[2:]))
  return logits.reshape(*windows.shape[:2], -1)
