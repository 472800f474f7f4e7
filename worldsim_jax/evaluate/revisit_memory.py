"""Does a place look the same when one comes back?

Frames i < j of a film see the same place from about the same point, with a long
way between. The true geometry is known, so what frame i showed can be carried
to the view of frame j, and over the pixels that both see (same surface, no
sprite, no sky)

  consistency  PSNR of film j against film i, warped: the film and itself
  correctness  PSNR of film j against the true frame j, over the same pixels

and `whole`, the latter over the whole frame. A model that invents a room twice
is neither; one that keeps to its own invention is consistent, not correct. The
same of the true film, `floor`, is what warping allows: the engine samples
textures without filtering, so that even there it is not perfect.
"""

import dataclasses

import numpy as np

from worldsim_jax.evaluate import image_metrics
from worldsim_jax.evaluate import true_depth_warp

GAPS_S = (5.0, 20.0, 60.0)
# With less of the frame in common, in both views, a pair tells nothing.
MIN_SHARE = 0.1


@dataclasses.dataclass(frozen=True, eq=False)
class Revisits:
  """Float64 [P] each, in dB; NaN where the views have too little in common."""

  consistency: np.ndarray
  correctness: np.ndarray
  whole: np.ndarray  # never NaN
  floor: np.ndarray  # consistency of the true film
  share: np.ndarray  # of the frame that was seen before, in [0, 1]
  gap_s: np.ndarray  # seconds between the two


def measure(
    camera, film, truth, depth, motions, pairs, frames_per_second, exact=None
) -> Revisits:
  """Of each pair of frames (i, j), i < j.

  Args:
    camera: `data.camera.Camera` of the films.
    film: uint8 or [0, 1] float [T, H, W, 3], what is judged.
    truth: of the same shape: what truly happened.
    depth: [T, H, W] of the true film, inf for the sky.
    motions: [T, 4, 4] of its camera.
    pairs: int [P, 2] of frames, the earlier one first.
    frames_per_second: of the film.
    exact: bool [T, H, W], where frames show what the depth says; None: where it
      is finite.
  """
  if np.shape(film) != np.shape(truth):
    raise ValueError(f'films of {np.shape(film)} and {np.shape(truth)}')
  pairs = np.asarray(pairs, int).reshape(-1, 2)
  if (pairs[:, 0] >= pairs[:, 1]).any() or (pairs < 0).any():
    raise ValueError('revisits must be pairs of frames, the earlier one first')
  exact = np.isfinite(depth) if exact is None else exact & np.isfinite(depth)
  rows = []
  for i, j in pairs:
    known = np.where(exact[i], depth[i], np.inf)
    uv, seen = true_depth_warp.visible_at(
        camera, known, motions[i], depth[j], motions[j]
    )
    seen &= exact[j]
    then, now = _unit(film[i]), _unit(film[j])
    true_then, true_now = _unit(truth[i]), _unit(truth[j])
    rows.append([
        _psnr(true_depth_warp.sample(then, uv), now, seen),
        _psnr(now, true_now, seen),
        image_metrics.psnr(now, true_now),
        _psnr(true_depth_warp.sample(true_then, uv), true_now, seen),
        seen.mean(),
        (j - i) / frames_per_second,
    ])
  return Revisits(*np.array(rows, np.float64).reshape(-1, 6).T)


def by_gap(values, gap_s, gaps=GAPS_S) -> np.ndarray:
  """Means of [P] values by the time between, float64 [len(gaps)].

  A bin reaches from its gap to the next one, the last one on. NaN are left out;
  a bin without values is NaN.
  """
  bins = np.digitize(gap_s, gaps) - 1
  means = np.full(len(gaps), np.nan)
  for k in range(len(gaps)):
    chosen = np.asarray(values)[(bins == k) & np.isfinite(values)]
    if chosen.size:
      means[k] = chosen.mean()
  return means


def _psnr(x, y, where):
  """`image_metrics.psnr` over some pixels, NaN if those are too few."""
  if where.mean() < MIN_SHARE:
    return np.nan
  return float(image_metrics.psnr(x[where][None], y[where][None]))


def _unit(frame):
  return frame / 255 if frame.dtype == np.uint8 else frame
