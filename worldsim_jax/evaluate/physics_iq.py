"""Physics-IQ: does what moves move where and when it should?

From a film of a camera that stands still, a mask says where something moves,
by comparison with a running mean of the past. With M_t the mask of frame t of
one film, N_t of another, means over pixels as counts,

  spatial IoU          of max_t M_t and max_t N_t: where did it move        (1)
  weighted spatial IoU sum min(m, n) / sum max(m, n), m = mean_t M_t,       (2)
                       n = mean_t N_t: where, and how much
  spatiotemporal IoU   mean_t IoU(M_t, N_t): where and when                 (3)
  MSE                  mean_t of squared differences, of values in [0, 1]   (4)

The world is chaotic: two takes of one scenario differ, too. Their (1)-(4), with
a star, are what a model could reach, and with means over all clips

  score = 100 clip((S/S* + W/W* + T/T*) / 3 - (MSE - MSE*), 0, 1)           (5)

(Motamed, Culp, Swersky, Jaini & Geirhos 2025, "Do generative video models
understand physical principles?"; the released code is the reference,
google-deepmind/physics-IQ-benchmark e457754, code/binary_mask_generator.py and
calculate_iq_score.py). Our scenarios are films of the engine and our takes its
seeds, which decide what monsters do. A film in which the camera moves moves
everywhere: (1)-(3) then say nothing of physics. What hits a player pushes him,
so that poses tell which films to leave out.

As in the code: grey (BT.601), blurred by [1 4 6 4 1] / 16 each way, mirrored at
the borders, both in whole grey levels; the mean is updated with weight 0.3
before it is compared, and moving is what differs by more than 10 levels; the
mask is then opened and closed by a square of 5 x 5. The first mask is empty, so
(3) has one frame that always agrees; two empty masks have an IoU of 1; take 1
is the one that the model is compared with. The code then makes film and mask
four times smaller, which frames of 64x48 would not bear, and rounds its means
to four digits: we do neither. In small frames 5 pixels are much; `kernel=3`
keeps what is at least 3 pixels wide.
"""

from collections.abc import Mapping
from collections.abc import Sequence

import numpy as np

from worldsim_jax.evaluate import image_metrics

NAMES = ('spatial_iou', 'weighted_spatial_iou', 'spatiotemporal_iou', 'mse')
THRESHOLD = 10  # grey levels
KERNEL = 5  # pixels
UPDATE = 0.3  # of the running mean
_GREY = (0.299, 0.587, 0.114)
_BLUR = np.array([1, 4, 6, 4, 1]) / 16


def motion_masks(
    film, threshold: int = THRESHOLD, kernel: int = KERNEL
) -> np.ndarray:
  """Where something moves: bool [T, H, W] of uint8 [T, H, W, 3].

  Args:
    film: of a camera that stands still.
    threshold: in grey levels; more than this is movement.
    kernel: odd, of opening and closing, in pixels; 1 leaves the mask as it is.
  """
  film = _checked(film)
  if kernel < 1 or kernel % 2 == 0:
    raise ValueError(f'kernel={kernel}: must be odd and positive')
  grey = np.rint(_blurred(np.rint(film @ np.array(_GREY))))
  mean, masks = grey[0], np.zeros(grey.shape, bool)
  for t in range(1, len(grey)):
    mean = (1 - UPDATE) * mean + UPDATE * grey[t]
    masks[t] = np.abs(grey[t] - np.rint(mean)) > threshold
  opened = _dilated(_eroded(masks, kernel), kernel)
  return _eroded(_dilated(opened, kernel), kernel)


def compare(film, other, **options) -> dict[str, float]:
  """Equations (1) to (4) of two films, uint8 [T, H, W, 3]; symmetric.

  Call it with a model's film and take 1, and with take 1 and take 2; `options`
  are those of `motion_masks`.
  """
  film, other = _checked(film), _checked(other)
  if film.shape != other.shape:
    raise ValueError(f'films differ in shape: {film.shape}, {other.shape}')
  m, n = motion_masks(film, **options), motion_masks(other, **options)
  per_frame = [iou(a, b) for a, b in zip(m, n)]
  return {
      'spatial_iou': iou(m.any(0), n.any(0)),
      'weighted_spatial_iou': iou(m.mean(0), n.mean(0)),
      'spatiotemporal_iou': float(np.mean(per_frame)),
      'mse': float(np.mean((film / 255 - other / 255) ** 2)),
  }


def iou(a, b) -> float:
  """Intersection over union of masks, or of weights in [0, 1]; 1 if empty."""
  a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
  union = np.maximum(a, b).sum()
  return float(np.minimum(a, b).sum() / union) if union else 1.0


def score(model: Mapping[str, float], takes: Mapping[str, float]):
  """Equation (5), in [0, 100].

  Args:
    model: what `compare` says of a model's film and take 1, means over clips;
      or arrays [N] of single clips, for a score of each.
    takes: what it says of take 1 and take 2, likewise.

  Returns:
    A float, or [N]. NaN where the two takes move in no common place, so that
    nothing was to be predicted.
  """
  star = {name: np.asarray(takes[name], np.float64) for name in NAMES}
  with np.errstate(divide='ignore', invalid='ignore'):
    reached = np.mean([model[n] / star[n] for n in NAMES[:3]], axis=0)
  known = np.min([star[n] for n in NAMES[:3]], axis=0) > 0
  value = 100 * np.clip(reached - (model['mse'] - star['mse']), 0, 1)
  value = np.where(known, value, np.nan)
  return value if value.ndim else float(value)


def dataset_score(
    model: Sequence[Mapping[str, float]],
    takes: Sequence[Mapping[str, float]],
    groups=None,
) -> tuple[float, float, float]:
  """Equation (5) of several clips, as published: means first, then ratios.

  Args:
    model: what `compare` says of each clip.
    takes: likewise, of its takes.
    groups: [N], equal for clips that are not independent.

  Returns:
    The score and the ends of its bootstrap interval of 95 %.
  """
  if len(model) != len(takes) or not model:
    raise ValueError(f'{len(model)} clips, {len(takes)} pairs of takes')
  values = [
      [clip[n] for clip in rows] for rows in (model, takes) for n in NAMES
  ]

  def of_means(means):
    ours, star = (dict(zip(NAMES, half)) for half in np.split(means, 2))
    return score(ours, star)

  found = image_metrics.bootstrap_of_means(of_means, values, groups)
  return tuple(map(float, found))


def _checked(film):
  film = np.asarray(film)
  if film.dtype != np.uint8 or film.ndim != 4 or film.shape[-1] != 3:
    raise ValueError(
        f'film is {film.dtype} {film.shape}; need uint8 [T, H, W, 3]'
    )
  if min(film.shape[1:3]) < 3 or not len(film):
    raise ValueError(f'film is {film.shape}: too small')
  return film


def _blurred(grey_THW):
  for axis in (1, 2):
    grey_THW = sum(
        weight * window
        for weight, window in zip(_BLUR, _windows(grey_THW, axis, 5, 'reflect'))
    )
  return grey_THW


def _eroded(masks_THW, kernel):
  return ~_dilated(~masks_THW, kernel)


def _dilated(masks_THW, kernel):
  """The maximum over kernel x kernel; outside the picture nothing counts."""
  for axis in (1, 2):
    windows = _windows(masks_THW, axis, kernel, 'constant')
    masks_THW = np.logical_or.reduce(windows)
  return masks_THW


def _windows(x, axis, size, mode):
  """Views of x moved by -size//2 ... size//2 along an axis, borders padded."""
  pad = [(0, 0)] * x.ndim
  pad[axis] = (size // 2, size // 2)
  padded = np.moveaxis(np.pad(x, pad, mode=mode), axis, 0)
  count = x.shape[axis]
  return [np.moveaxis(padded[k : k + count], 0, axis) for k in range(size)]
