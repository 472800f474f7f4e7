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
  metrics = _metrics(section)
  last = 0
  for what in (trials.CLIPS, trials.WALKS):
    try:
      films = trial.films(what)
    except UserError as e:
      section.notes.append(f'{what}: {e}')
      continue
    horizons = [h for h in HORIZONS if last < h <= films.horizon]
    last = max(horizons, default=last)
    _measure(trial, what, horizons, metrics, section)
  clips = trial.clips
  section.films['True future, subject'] = replay.film(
      {'true future': clips.future, trial.name: trial.played('clips').rgb},
      clips,
      FILM_CLIPS,
  )
  return section


def _measure(trial, what, horizons, metrics, section):
  films = trial.films(what)
  players = {trial.name: trial.played(what).rgb}
  for name, make in (
      ('copy', lambda: subjects.copy(films).rgb),
      ('warp', lambda: true_depth_warp.continuation(films)),
      ('vae', lambda: _reconstruction(trial, films)),
  ):
    try:
      players.setdefault(name, make())
    except UserError as e:
      section.notes.append(f'baseline {name} on {what}: {e}')
  for metric, unit, distance in metrics:
    chosen = np.array(horizons) - 1
    curves = {}
    for name, rgb in players.items():
      all_frames = metric in ('psnr', 'ssim')  # Cheap enough for every frame.
      frames = slice(None) if all_frames else chosen
      values = distance(rgb[:, frames], films.future[:, frames])
      at = chosen if all_frames else np.arange(len(chosen))
      prefix = '' if name == trial.name else f'{name}_'
      real = distance(films.future[:1, :1], films.future[:1, :1])[0]
      section.figures += [
          figures.mean(f'{prefix}{metric}_{h}', values[:, i], films.maps,
                       real=real, unit=unit)
          for h, i in zip(horizons, at)
      ]
      x = np.arange(1, films.horizon + 1)[frames]
      curves[name] = figures.curve(x, values, films.maps)
    section.plots.append(dict(
        title=f'{metric.upper()} on {what}', series=curves,
        x_label='frame after the last given one',
        y_label=f'{metric.upper()}{f" ({unit})" if unit else ""}',
        log_x=films.horizon > 64,
    ))


def _metrics(section):
  """(name, unit, (films, films) -> [n, T])."""
  metrics = [('psnr', 'dB', image_metrics.psnr), ('ssim', '', image_metrics.ssim)]
  try:
    model = lpips.load('alex')
    metrics.append(('lpips', '', model.distance))
    section.notes.append(f'LPIPS: {model.weights}')
  except UserError as e:
    section.notes.append(f'LPIPS is not measured: {e}')
  return metrics


def _reconstruction(trial, films):
  if trial.world is None:
    raise UserError(f'the subject {trial.name} has no tokenizer')
  return replay.reconstruct(trial.world, films.rgb)[:, films.given :]
