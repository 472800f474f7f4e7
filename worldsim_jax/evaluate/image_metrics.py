"""How close two films are, frame by frame, and how sure a mean is.

Frames are [..., H, W, C], uint8 or floats in [0, 1]; every function returns
one number per frame. With peak value 1,

  PSNR = -10 log10(mean (x - y)^2)                                       (1)

  SSIM = mean  (2 mx my + c1) (2 sxy + c2)
               -----------------------------------,                      (2)
               (mx^2 + my^2 + c1) (sx^2 + sy^2 + c2)

where m, s^2 and sxy are means, variances and the covariance under a Gaussian
window of 11x11 pixels with standard deviation 1.5, c1 = 0.01^2, c2 = 0.03^2,
averaged over the window's positions inside the frame and over channels
(Wang, Bovik, Sheikh & Simoncelli 2004, "Image quality assessment", eq. 13-16;
they used the luma channel, most later code each colour channel).
"""

import numpy as np

from worldsim_jax.errors import UserError

_WINDOW, _SIGMA = 11, 1.5
_C1, _C2 = 0.01**2, 0.03**2


def psnr(x, y, cap_db: float = 100.0) -> np.ndarray:
  """Decibels per frame, eq. (1); equal frames get `cap_db`, not infinity.

  The cap keeps a mean over frames finite. Frames of 64x64x3 that differ by one
  grey level in one value are 89 dB apart.
  """
  x, y = _unit_floats(x, y)
  error = np.mean((x - y) ** 2, axis=(-3, -2, -1))
  return -10 * np.log10(np.maximum(error, 10 ** (-cap_db / 10)))


def ssim(x, y) -> np.ndarray:
  """Structural similarity per frame, eq. (2): 1 for equal frames."""
  x, y = _unit_floats(x, y)
  height, width = x.shape[-3:-1]
  if min(height, width) < _WINDOW:
    raise UserError(
        f'frames of {height}x{width} are smaller than the {_WINDOW}x{_WINDOW} '
        'window of SSIM'
    )
  mean_x, mean_y = _blur(x), _blur(y)
  var_x = _blur(x * x) - mean_x**2
  var_y = _blur(y * y) - mean_y**2
  cov = _blur(x * y) - mean_x * mean_y
  score = (2 * mean_x * mean_y + _C1) * (2 * cov + _C2)
  score /= (mean_x**2 + mean_y**2 + _C1) * (var_x + var_y + _C2)
  return score.mean(axis=(-3, -2, -1))


def bootstrap_mean(
    values,
    groups=None,
    confidence: float = 0.95,
    num_resamples: int = 2000,
    seed: int = 0,
):
  """The mean over axis 0 and its percentile interval (Efron 1979).

  Axis 0 must hold what was drawn independently: clips, not the frames of one
  clip. The other axes, say a horizon, are resampled together. Where clips come
  in groups, say of one map each, whole groups are resampled.

  Args:
    values: [N, ...]; with N = 1 the interval is the mean itself.
    groups: [N], equal for what is not independent; None: all are.
    confidence: of the two-sided interval, in (0, 1).
    num_resamples: 2000 settle the ends to about a twentieth of the width.
    seed: the interval is a function of it and of the values.

  Returns:
    mean, low, high, each [...].
  """
  values = np.asarray(values, np.float64)
  counts = _resamples(values, groups, num_resamples, seed)
  weights = counts / counts.sum(1, keepdims=True)
  means = np.tensordot(weights, values, axes=1)
  return values.mean(0), *_interval(means, confidence)


def bootstrap_median(
    values,
    groups=None,
    confidence: float = 0.95,
    num_resamples: int = 2000,
    seed: int = 0,
):
  """As `bootstrap_mean`, of the median of [N]: for errors with heavy tails.

  Of an even number it takes the lower of the middle two.
  """
  values = np.asarray(values, np.float64)
  counts = _resamples(values, groups, num_resamples, seed)
  order = np.argsort(values)
  seen = np.cumsum(counts[:, order], axis=1)
  middle = np.argmax(2 * seen >= seen[:, -1:], axis=1)
  median = np.sort(values)[(len(values) - 1) // 2]
  return median, *_interval(values[order][middle], confidence)


def bootstrap_of_means(
    function,
    values_KN,
    groups=None,
    confidence: float = 0.95,
    num_resamples: int = 2000,
    seed: int = 0,
):
  """As `bootstrap_mean`, of a function of K means, such as their ratio.

  Args:
    function: of means [K] or [K, R]; a number, or [R].
    values_KN: K values of each of N.
  """
  values = np.asarray(values_KN, np.float64)
  counts = _resamples(values.T, groups, num_resamples, seed)
  means = values @ (counts / counts.sum(1, keepdims=True)).T
  return function(values.mean(1)), *_interval(function(means), confidence)


def _resamples(values, groups, num_resamples, seed):
  """How often each resample has each value, int64 [num_resamples, N]."""
  if not values.ndim or not values.shape[0]:
    raise ValueError('a bootstrap needs at least one value')
  groups = np.arange(len(values)) if groups is None else groups
  _, group = np.unique(np.asarray(groups, str), return_inverse=True)
  n = group.max() + 1
  drawn = np.random.default_rng(seed).multinomial(
      n, np.full(n, 1 / n), size=num_resamples
  )
  return drawn[:, group]


def _interval(resampled, confidence):
  tail = (1 - confidence) / 2
  return np.quantile(resampled, [tail, 1 - tail], axis=0)


def _unit_floats(*films):
  """Both films as float64 in [0, 1], checked to be of one shape."""
  x, y = [np.asarray(film) for film in films]
  if x.shape != y.shape or x.ndim < 3:
    raise ValueError(
        f'frames must be [..., H, W, C] of one shape, not {x.shape} and '
        f'{y.shape}'
    )
  return _unit_float(x), _unit_float(y)


def _unit_float(frames):
  if frames.dtype == np.uint8:
    return frames / 255
  if not np.issubdtype(frames.dtype, np.floating):
    raise ValueError(f'frames are {frames.dtype}; need uint8 or floats')
  # Rounding in a decoder may leave the range by an ulp; [-1, 1] or 0..255
  # would give plausible and wrong decibels.
  if frames.size and not (-1e-3 <= frames.min() and frames.max() <= 1 + 1e-3):
    raise ValueError(
        f'float frames span [{frames.min():.3g}, {frames.max():.3g}]; need '
        '[0, 1] (or uint8)'
    )
  return frames.astype(np.float64)


def _blur(x):
  """Gaussian means over the windows that lie inside [..., H, W, C]."""
  offsets = np.arange(_WINDOW) - _WINDOW // 2
  weights = np.exp(-(offsets**2) / (2 * _SIGMA**2))
  weights /= weights.sum()
  height, width = np.array(x.shape[-3:-1]) - _WINDOW + 1
  rows = sum(w * x[..., i : i + height, :, :] for i, w in enumerate(weights))
  return sum(w * rows[..., i : i + width, :] for i, w in enumerate(weights))
