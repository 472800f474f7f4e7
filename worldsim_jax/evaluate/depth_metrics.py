"""How close depth and normals come to the exact ones.

With depth d, its prediction p and means over the valid pixels of a sequence,

  AbsRel = mean |p - d| / d            SqRel = mean (p - d)^2 / d          (1)
  RMSE = sqrt(mean (p - d)^2)
  delta_k = share of pixels with max(p / d, d / p) < 1.25^k, k = 1, 2, 3   (2)

(Eigen, Puhrsch & Fergus 2014, "Depth map prediction", sec. 4.2). What a model
cannot know from pictures alone is taken out first, by one transformation for
the whole sequence, so that depth which flickers is still seen:

  none           p as it is: metric depth
  median         s p, s = median(d) / median(p) (Zhou et al. 2017, sec. 4.1)
  scale          s p, s minimises the sum of (s p - d)^2
  scale_shift    s p + b, both by least squares, in depth, not in 1 / depth

Aligned depth that is not positive counts as `NEAREST`: without that, p = -d
would have AbsRel 2 but pass (2). The angle between normals is

  atan2(|n x m|, n . m), in degrees,                                       (3)

of which mean, median and the shares under 11.25, 22.5 and 30 degrees are given
(Fouhey, Gupta & Hebert 2013). It is exact for small angles, where the arc
cosine loses half of the digits.

Shapes: depth [..., H, W], normals [..., H, W, 3], masks [..., H, W]; a leading
axis is time, and all frames are measured together. Units: map units, degrees.
"""

import numpy as np

ALIGNMENTS = ('none', 'median', 'scale', 'scale_shift')
DELTAS = (1.25, 1.25**2, 1.25**3)
ANGLES = (11.25, 22.5, 30.0)
# The eye of a player is never so close to a wall, in map units.
NEAREST = 1e-3


def depth_metrics(
    predicted, depth, valid=None, alignment: str = 'none'
) -> dict[str, float]:
  """Equations (1) and (2) of one sequence.

  Args:
    predicted: [..., H, W], finite where valid; in any unit if aligned.
    depth: [..., H, W], the truth; inf for the sky.
    valid: bool [..., H, W]: pixels to compare. The sky is left out anyway.
    alignment: one of `ALIGNMENTS`.

  Returns:
    abs_rel, sq_rel, rmse, delta_1, delta_2, delta_3, and `pixels`, how many
    were valid. Without any, all but the last are NaN.
  """
  p, d = _valid_pixels(predicted, depth, valid)
  p = np.maximum(align(p, d, alignment), NEAREST)
  names = [f'delta_{k}' for k in range(1, len(DELTAS) + 1)]
  if not d.size:
    empty = dict.fromkeys(('abs_rel', 'sq_rel', 'rmse', *names), np.nan)
    return empty | {'pixels': 0}
  error = p - d
  ratio = np.maximum(p / d, d / p)
  within = {
      name: float(np.mean(ratio < limit)) for name, limit in zip(names, DELTAS)
  }
  return {
      'abs_rel': float(np.mean(np.abs(error) / d)),
      'sq_rel': float(np.mean(error**2 / d)),
      'rmse': float(np.sqrt(np.mean(error**2))),
      **within,
      'pixels': int(d.size),
  }


def align(predicted, depth, alignment: str) -> np.ndarray:
  """Predictions [N] brought to the truth's scale, see the file's docstring.

  A prediction that is the same everywhere leaves scale and shift undetermined:
  it is then shifted only, to the mean of the truth.
  """
  p, d = np.asarray(predicted, np.float64), np.asarray(depth, np.float64)
  if alignment not in ALIGNMENTS:
    raise ValueError(f'alignment={alignment!r}: choose from {ALIGNMENTS}')
  if alignment == 'none' or not p.size:
    return p
  if alignment == 'median':
    middle = np.median(p)
    return p * (np.median(d) / middle) if middle > 0 else np.zeros_like(p)
  if alignment == 'scale':
    square = np.sum(p * p)
    return p * (np.sum(p * d) / square) if square > 0 else p
  spread = p - p.mean()
  variance = np.sum(spread * spread)
  # What rounding leaves of equal numbers.
  constant = variance <= p.size * (1e-12 * np.abs(p).max()) ** 2
  slope = 0.0 if constant else np.sum(spread * (d - d.mean())) / variance
  return slope * spread + d.mean()


def normal_metrics(predicted, normals, valid=None) -> dict[str, float]:
  """Equation (3) of one sequence.

  Args:
    predicted: [..., H, W, 3], of any length; one of length zero is 90 degrees
      off.
    normals: [..., H, W, 3], unit, zero for the sky.
    valid: bool [..., H, W]: pixels to compare. The sky is left out anyway.

  Returns:
    mean and median in degrees, within_11, within_22, within_30 as shares, and
    `pixels`. Without any pixels, all but the last are NaN.
  """
  p, n = np.asarray(predicted, np.float64), np.asarray(normals, np.float64)
  if p.shape != n.shape or p.shape[-1:] != (3,):
    raise ValueError(
        f'normals must be [..., H, W, 3] of one shape, not {p.shape} and '
        f'{n.shape}'
    )
  keep = _mask(valid, n.shape[:-1]) & np.any(n != 0, axis=-1)
  p, n = p[keep], n[keep]
  names = [f'within_{int(limit)}' for limit in ANGLES]
  if not n.size:
    return dict.fromkeys(('mean', 'median', *names), np.nan) | {'pixels': 0}
  if not np.isfinite(p).all():
    raise ValueError('predicted normals are not finite at valid pixels')
  angle = _angles(p, n)
  within = {
      name: float(np.mean(angle < limit)) for name, limit in zip(names, ANGLES)
  }
  return {
      'mean': float(angle.mean()),
      'median': float(np.median(angle)),
      **within,
      'pixels': int(angle.size),
  }


def _angles(p, n):
  """Degrees between vectors [N, 3], equation (3)."""
  sine = np.linalg.norm(np.cross(p, n), axis=-1)
  cosine = np.sum(p * n, axis=-1)
  angle = np.degrees(np.arctan2(sine, cosine))
  return np.where(np.any(p != 0, axis=-1), angle, 90.0)


def _valid_pixels(predicted, depth, valid):
  p, d = np.asarray(predicted, np.float64), np.asarray(depth, np.float64)
  if p.shape != d.shape or p.ndim < 2:
    raise ValueError(
        f'depth must be [..., H, W] of one shape, not {p.shape} and {d.shape}'
    )
  keep = _mask(valid, d.shape) & np.isfinite(d)
  p, d = p[keep], d[keep]
  if d.size and d.min() <= 0:
    raise ValueError(f'true depth is {d.min():.3g} at a valid pixel; need > 0')
  if not np.isfinite(p).all():
    raise ValueError('predicted depth is not finite at valid pixels')
  return p, d


def _mask(valid, shape):
  if valid is None:
    return np.ones(shape, bool)
  valid = np.asarray(valid)
  if valid.shape != shape or valid.dtype != bool:
    raise ValueError(
        f'valid is {valid.dtype} {valid.shape}; need bool {tuple(shape)}'
    )
  return valid
