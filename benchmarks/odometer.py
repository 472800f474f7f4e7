"""How exact is the odometer without learning (`evaluate/alignment.py`)?

A row per frame size, frames between, and disturbance of the later frame, over
real frames of test maps: what the judge itself errs by is the best that a
generated film can be told to obey. Errors are in map units and degrees, all
pairs and those that the gate accepts:

  none    the engine's frame
  blur    Gaussian, standard deviation of one pixel
  noise   Gaussian, standard deviation of 10 grey levels
  gain    contrast times 0.8, 20 grey levels brighter
  other   a frame of another map: what must not be accepted

Beside them is what a guess without looking errs by (`constant`: the median
movement), and the share of pairs whose class (beyond 2 map units or 1 degree to
either side, or less) is told, beside that of the most frequent class.

Frames of 160x120 are 4 tics apart, of 64x48 two, as in the configs. Seconds are
of a core. Nothing depends on the config; `--repeats` is pairs per film.
"""

import time

import numpy as np

from worldsim_jax.data import engine as engine_lib
from worldsim_jax.data import episodes
from worldsim_jax.data import geometry as geometry_lib
from worldsim_jax.data import splits
from worldsim_jax.evaluate import alignment

MAPS = (*splits.generated_maps('test', 3), 'MAP21', 'MAP29')
SEEDS = (1, 2)
FRAMES = 48
GAPS = (1, 2, 4)
SIZES = {
    '160x120': dict(height=120, width=160, tics_per_frame=4),
    '64x48': dict(height=48, width=64, tics_per_frame=2),
}
# Of a player's frame of 4 tics, some more than he can do.
REACH = (32.0, 16.0)
MARGIN = (8.0, 4.0)
DEAD_ZONE = np.array([2.0, 2.0, 1.0])
WITHIN = np.array([8.0, 8.0, 2.0])
PARTS = ('forward', 'strafe', 'turn')


def benchmark(options):
  """A row per size, gap and disturbance."""
  rows = []
  for name, size in SIZES.items():
    films = [film(m, seed, FRAMES, size) for m in MAPS for seed in SEEDS]
    for gap in GAPS:
      rows.append(measure(name, films, gap, 'none', options.repeats))
    for disturbance in ('blur', 'noise', 'gain', 'other'):
      rows.append(measure(name, films, GAPS[0], disturbance, options.repeats))
  return rows


def film(map_name: str, seed: int, frames: int, size: dict):
  """An episode and its geometry."""
  with engine_lib.Engine(map_name, geometry=True, **size) as engine:
    episode = episodes.record(
        engine, policy='navigate', num_frames=frames, seed=seed
    )
  return episode, geometry_lib.of_episode(episode)


def measure(size, films, gap, disturbance, pairs) -> dict:
  """The row of some pairs of each film."""
  pace = SIZES[size]['tics_per_frame'] / 4 * gap
  reach = tuple(pace * r + m for r, m in zip(REACH, MARGIN))
  rng = np.random.default_rng(0)
  found, true, seconds = [], [], 0.0
  for number, (episode, geometry) in enumerate(films):
    # Another map's film, at the same time.
    other = films[(number + len(films) // 2) % len(films)][0]['rgb']
    rgb, shots = episode['rgb'], episode['shot_id']
    starts = np.flatnonzero(shots[:-gap] == shots[gap:])
    for t in rng.choice(starts, min(pairs, len(starts)), replace=False):
      later = other[t] if disturbance == 'other' else rgb[t + gap]
      later = _disturb(later, disturbance, rng)
      start = time.process_time()
      found.append(
          alignment.align(
              geometry.camera,
              rgb[t],
              geometry.depth[t],
              later,
              exact=geometry.exact[t],
              reach=reach,
          )
      )
      seconds += time.process_time() - start
      motions = geometry.motions
      true.append(alignment.movements_of(motions[t + gap], motions[t]))
  row = {'size': size, 'frames_between': gap, 'disturbance': disturbance}
  row |= {'pairs': len(found), 'cpu_seconds_per_pair': seconds / len(found)}
  accepted = np.array([f.accepted for f in found])
  row['accepted'] = float(accepted.mean())
  if disturbance == 'other':  # There is no true movement.
    return row
  measured = np.array([f.movement for f in found])[:, :3]
  row |= errors(measured, np.array(true)[:, :3], accepted)
  # Where nothing is accepted, nothing is told of it.
  return {key: None if x != x else x for key, x in row.items()}


def errors(measured, true, accepted) -> dict:
  """Figures of movements [n, 3] against the true ones; accepted bool [n]."""
  error = np.abs(measured - true)
  within = (error <= WITHIN).all(1)
  row = {
      'within_8_units_2_degrees': float(within.mean()),
      'within_accepted': _of(np.mean, within[accepted]),
  }
  constant = np.abs(true - np.median(true, 0))
  side, true_side = (
      np.sign(x) * (np.abs(x) > DEAD_ZONE) for x in (measured, true)
  )
  for k, part in enumerate(PARTS):
    row |= {
        f'{part}_median': float(np.median(error[:, k])),
        f'{part}_p90': _of(_p90, error[:, k]),
        f'{part}_accepted_median': _of(np.median, error[accepted, k]),
        f'{part}_accepted_p90': _of(_p90, error[accepted, k]),
        f'{part}_constant_median': float(np.median(constant[:, k])),
        f'{part}_class': float((side == true_side)[:, k].mean()),
        f'{part}_class_accepted': _of(
            np.mean, (side == true_side)[accepted, k]
        ),
        f'{part}_class_majority': float(
            np.unique(true_side[:, k], return_counts=True)[1].max() / len(true)
        ),
    }
  return row


def _of(reduce, values) -> float:
  return float(reduce(values)) if len(values) else float('nan')


def _p90(values):
  return np.quantile(values, 0.9)


def _disturb(frame, disturbance, rng):
  """uint8 [H, W, 3]."""
  if disturbance == 'blur':
    from scipy import ndimage

    frame = ndimage.gaussian_filter(frame.astype(float), (1, 1, 0))
  elif disturbance == 'noise':
    frame = frame + rng.normal(0, 10, frame.shape)
  elif disturbance == 'gain':
    frame = 0.8 * frame + 20
  return np.clip(np.rint(frame), 0, 255).astype(np.uint8)
