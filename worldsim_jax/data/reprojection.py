"""Does geometry explain the pictures? What displacement is left after a warp.

Frame t is warped to where frame s was taken, by nothing but depth and poses.
Blocks of the real frame s are then searched in the result, by normalised
cross-correlation (NCC)

  sum (a - mean a)(b - mean b) / sqrt(sum (a - mean a)^2 sum (b - mean b)^2)

over displacements of up to RADIUS pixels, with a parabola through the peak and
its neighbours along x and along y. If the geometry is right, blocks are where
they should be. What is left then is the sampling of textures: the engine shows
the nearest texel, without filtering.

A block counts if all of it, and of its surroundings, is visible in both frames,
and if the answer is not ambiguous: a peak of at least LEAST_PEAK, no other,
two or more pixels away, above SECOND_PEAK of it, and contrast of its own.
"""

import dataclasses

import numpy as np

from worldsim_jax.data import correspondence

BLOCK = 12  # pixels
STRIDE = 6
RADIUS = 4
LEAST_PEAK, SECOND_PEAK = 0.6, 0.85
LEAST_CONTRAST = 3.0  # standard deviation of grey levels in [0, 255]
GREY = (0.299, 0.587, 0.114)


@dataclasses.dataclass(frozen=True, eq=False)
class Residual:
  """Of the blocks of one or more pairs of frames."""

  displacement: np.ndarray  # float64 [N, 2]: x and y, pixels
  warp_error: float  # mean squared, of all visible pixels, values in [0, 1]
  copy_error: float  # the same, had nothing moved

  @property
  def distance(self) -> np.ndarray:
    """Pixels [N]."""
    return np.linalg.norm(self.displacement, axis=-1)

  def summary(self) -> dict:
    """Figures of all blocks; NaN if there are none."""
    count = len(self.displacement)
    distance = self.distance if count else np.array([np.nan])
    bias = self.displacement.mean(0) if count else (np.nan, np.nan)
    with np.errstate(divide='ignore'):
      return {
          'blocks': count,
          'median_pixels': float(np.median(distance)),
          'p90_pixels': float(np.quantile(distance, 0.9)),
          'below_one_pixel': float((distance < 1).mean()) if count else np.nan,
          'bias_x_pixels': float(bias[0]),
          'bias_y_pixels': float(bias[1]),
          'warp_psnr': float(-10 * np.log10(self.warp_error)),
          'copy_psnr': float(-10 * np.log10(self.copy_error)),
      }


def residual(rgb, geometry, pairs) -> Residual:
  """Measures pairs of frames (s, t) of a film uint8 [T, H, W, 3].

  Pairs in which nothing is visible twice contribute nothing.
  """
  displacement, errors = [np.zeros((0, 2))], []
  for s, t in pairs:
    warped, valid = correspondence.warp(rgb[t].astype(float), geometry, s, t)
    if not valid.any():
      continue
    displacement.append(_match(rgb[s] @ GREY, warped @ GREY, valid))
    errors.append(
        [
            np.square((rgb[s] - seen) / 255.0)[valid].mean()
            for seen in (warped, rgb[t].astype(float))
        ]
    )
  mean = np.mean(errors, 0) if errors else (np.nan, np.nan)
  return Residual(np.concatenate(displacement), *map(float, mean))


def _match(a, b, valid):
  """Displacements [N, 2] of the unambiguous blocks of a [H, W] in b."""
  steps = range(-RADIUS, RADIUS + 1)
  inside = _box(valid.astype(float), BLOCK + 2 * RADIUS)
  where = np.argwhere(
      inside[::STRIDE, ::STRIDE] > (BLOCK + 2 * RADIUS) ** 2 - 0.5
  )
  if not len(where):
    return np.zeros((0, 2))
  top, left = where.T * STRIDE
  a = a[RADIUS : len(a) - RADIUS, RADIUS : a.shape[1] - RADIUS]
  a_mean, a_square = _box(a, BLOCK), _box(a * a, BLOCK)
  b_mean, b_square = _box(b, BLOCK), _box(b * b, BLOCK)
  n = BLOCK**2
  a_var = (a_square - a_mean**2 / n)[top, left]
  scores = np.empty((len(where), len(steps), len(steps)))
  for i, dy in enumerate(steps):
    for j, dx in enumerate(steps):
      y, x = RADIUS + dy, RADIUS + dx
      shifted = b[y : y + a.shape[0], x : x + a.shape[1]]
      cross = _box(a * shifted, BLOCK)[top, left]
      other = b_mean[top + y, left + x]
      b_var = b_square[top + y, left + x] - other**2 / n
      cross = cross - a_mean[top, left] * other / n
      scores[:, i, j] = cross / np.sqrt(np.maximum(a_var * b_var, 1))
  return _peaks(scores[a_var > n * LEAST_CONTRAST**2])


def _peaks(scores):
  """Sub-pixel displacements [N, 2] of the scores [K, D, D] with one peak."""
  size = scores.shape[1]
  found = []
  rows, columns = np.mgrid[:size, :size]
  for score in scores:
    i, j = np.unravel_index(score.argmax(), score.shape)
    away = np.maximum(abs(rows - i), abs(columns - j)) >= 2
    if score[i, j] < LEAST_PEAK:
      continue
    if score[away].max() > SECOND_PEAK * score[i, j]:
      continue
    y, x = i + _vertex(score[:, j], i), j + _vertex(score[i], j)
    found.append((x - RADIUS, y - RADIUS))
  return np.array(found, float).reshape(-1, 2)


def _vertex(values, k):
  """Where, relative to k, a parabola through three values is highest."""
  if not 0 < k < len(values) - 1:
    return 0.0
  before, here, after = values[k - 1 : k + 2]
  curvature = before - 2 * here + after
  return 0.5 * (before - after) / curvature if curvature < 0 else 0.0


def _box(image, size):
  """Sums over size x size windows that begin at each pixel."""
  sums = np.pad(image, [(1, 0), (1, 0)]).cumsum(0).cumsum(1)
  return (
      sums[size:, size:]
      - sums[:-size, size:]
      - sums[size:, :-size]
      + sums[:-size, :-size]
  )
