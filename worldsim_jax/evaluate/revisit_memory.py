"""Does a place look the same when one comes back?

Frames i < j of a film see the same place, with a long way between. The true
geometry is known, so what frame i showed can be carried to the view of frame j,
and over the pixels that both see (same point, no sprite, no sky)

  consistency  PSNR of film j against film i, warped: the film and itself
  correctness  PSNR of film j against the true frame j, over the same pixels

and `whole`, the latter over the whole frame. A model that invents a room twice
is neither; one that keeps to its own invention is consistent, not correct. The
consistency of the true film, `floor`, is what warping allows: the engine
samples textures without filtering, so that even there it is not perfect.
"""

import dataclasses

import numpy as np

from worldsim_jax.data import correspondence
from worldsim_jax.evaluate import image_metrics

# With less of the frame in common a pair tells nothing.
MIN_SHARE = 0.1


@dataclasses.dataclass(frozen=True, eq=False)
class Revisits:
  """Float64 [P] each; NaN where the views have too little in common."""

  consistency: np.ndarray  # dB
  correctness: np.ndarray  # dB
  whole: np.ndarray  # dB, never NaN
  floor: np.ndarray  # dB: consistency of the true film
  share: np.ndarray  # of frame j that frame i shows, in [0, 1]; never NaN


def measure(film, truth, geometry, pairs) -> Revisits:
  """Of each pair of frames (i, j), i < j.

  Args:
    film: uint8, or float in [0, 1], [T, H, W, 3]: what is judged.
    truth: of the same shape: what truly happened.
    geometry: `data.geometry.Geometry` of the true film's T frames.
    pairs: int [P, 2] of frames, the earlier one first.
  """
  num_frames = len(geometry.motions)
  if np.shape(film) != np.shape(truth) or len(film) != num_frames:
    raise ValueError(
        f'film {np.shape(film)}, truth {np.shape(truth)} and geometry of '
        f'{num_frames} frames must have one length and size'
    )
  pairs = np.asarray(pairs, int).reshape(-1, 2)
  first, second = pairs.T
  if ((first < 0) | (first >= second) | (second >= num_frames)).any():
    raise ValueError(
        f'revisits must be frames i < j of {num_frames}, not {pairs.tolist()}'
    )
  rows = []
  for i, j in pairs:
    moved, seen = correspondence.flow(geometry, j, i)
    uv = geometry.camera.pixels() + moved
    now, true_now = _unit(film[j]), _unit(truth[j])
    rows.append(
        [
            _psnr(correspondence.sample(_unit(film[i]), uv), now, seen),
            _psnr(now, true_now, seen),
            image_metrics.psnr(now, true_now),
            _psnr(correspondence.sample(_unit(truth[i]), uv), true_now, seen),
            seen.mean(),
        ]
    )
  return Revisits(*np.array(rows, np.float64).reshape(-1, 5).T)


def _psnr(x, y, where):
  """`image_metrics.psnr` over some pixels, NaN if those are too few."""
  if where.mean() < MIN_SHARE:
    return np.nan
  return float(image_metrics.psnr(x[where][None], y[where][None]))


def _unit(frame):
  return frame / 255 if frame.dtype == np.uint8 else frame
