"""Exact replay: how close a continuation stays to what truly happened.

PSNR, SSIM and LPIPS of frame h after the last given one, beside

  copy   the last given frame for ever
  warp   the last given frame, warped by the true depth and the true motion: all
         that one picture and perfect geometry can give
  vae    the truth through the tokenizer: what no latent model exceeds
"""

import numpy as np

from worldsim_jax.errors import UserError
from worldsim_jax.evaluate import figures
from worldsim_jax.evaluate import image_metrics
from worldsim_jax.evaluate import lpips
from worldsim_jax.evaluate import packaged_weights
from worldsim_jax.evaluate import replay
from worldsim_jax.evaluate import subjects
from worldsim_jax.evaluate import true_depth_warp
from worldsim_jax.evaluate import trial as trials
from worldsim_jax.evaluate.trial import Trial

HORIZONS = (1, 4, 16, 64, 256, 1024)
FILM_CLIPS = 4


def measure(trial: Trial) -> figures.Section:
  """Curves on clips, and beyond their horizon on walks."""
  section = figures.Section('Exact replay: distance to the true future')
  data = trial.config.data
  frame = np.zeros((1, data.height, data.width, 3), np.uint8)
  metrics = _metrics(section, frame)
  last = 0
  for what in (trials.CLIPS, trials.WALKS):
    try:
      films = trial.films(what)
    except UserError as e:
      section.lacks.append(f'{what}: {e}')
      continue
    horizons = [h for h in HORIZONS if last < h <= films.horizon]
    last = max(horizons, default=last)
    _measure(trial, what, horizons, metrics, section)
    if what == trials.CLIPS:
      section.films['True future, subject'] = replay.film(
          {'true future': films.future, trial.name: trial.played(what).rgb},
          films,
          FILM_CLIPS,
      )
  if not section.figures:
    raise UserError('; '.join(section.lacks))
  return section


def _measure(trial, what, horizons, metrics, section):
  films = trial.films(what)
  players = {trial.name: trial.played(what).rgb}
  for name, make in (
      ('copy', lambda: subjects.copy(films).rgb),
      ('warp', lambda: _warped(films)),
      ('vae', lambda: _reconstruction(trial, films)),
  ):
    try:
      if name != trial.name:
        players[name] = make()
    except UserError as e:
      section.lacks.append(f'baseline {name} on {what}: {e}')
  for metric, unit, distance in metrics:
    # The cheap one is worth a curve over all frames.
    shown = np.arange(films.horizon) if metric == 'psnr' else _powers(films)
    equal = distance(films.future[:1, :1], films.future[:1, :1])[0]
    curves = {}
    for name, rgb in players.items():
      values = distance(rgb[:, shown], films.future[:, shown])
      prefix = '' if name == trial.name else f'{name}_'
      section.figures += [
          figures.mean(
              f'{prefix}{metric}_{h}',
              values[:, np.searchsorted(shown, h - 1)],
              films.maps,
              real=equal,
              unit=unit,
          )
          for h in horizons
      ]
      curves[name] = figures.curve(shown + 1, values, films.maps)
    section.plots.append(
        dict(
            title=f'{metric.upper()} on {what}',
            series=curves,
            x_label='frame after the last given one',
            y_label=f'{metric.upper()}{f" ({unit})" if unit else ""}',
            log_x=films.horizon > 64,
        )
    )


def _powers(films):
  """Indices of the frames 1, 2, 4, ... of the future."""
  return 2 ** np.arange(films.horizon.bit_length()) - 1


def _metrics(section, frame):
  """(name, unit, (films, films) -> [n, T]), those that frames can be put to."""
  metrics = []
  for name, unit, distance in (
      ('psnr', 'dB', image_metrics.psnr),
      ('ssim', '', image_metrics.ssim),
      ('lpips', '', lpips.distance),
  ):
    try:
      if name == 'lpips':
        packaged_weights.load(packaged_weights.ALEXNET)
      distance(frame, frame)
      metrics.append((name, unit, distance))
    except UserError as e:
      section.lacks.append(f'{name.upper()}: {e}')
  section.notes.append(f'LPIPS: {packaged_weights.ALEXNET}.')
  return metrics


def _warped(films):
  last = films.rgb[:, films.given - 1]
  return np.stack(
      [
          true_depth_warp.replay(picture, films.geometry(i), films.given)
          for i, picture in enumerate(last)
      ]
  )


def _reconstruction(trial, films):
  if trial.tokenizer is None:
    raise UserError(f'the subject {trial.name} has no tokenizer')
  return replay.reconstruct(trial.tokenizer, films.rgb)[:, films.given :]
