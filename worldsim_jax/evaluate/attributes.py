"""Does a film show what its caption says? Asked of the pixels, without weights.

A linear classifier is fitted in closed form on real frames, whose labels the
engine knows exactly, and then asked about generated frames. With features x of
a frame, standardised over the N training frames and extended by a 1, a class
c of K with n_c frames, targets y_c = 1 in the class and -1 elsewhere, and each
frame weighted by w = N / (K n_c) so that rare classes count as much as others,

  B = (X' W X + ridge N I)^-1 X' W Y,    answer = argmax_c x' B_c,         (1)

ridge regression (Hoerl & Kennard 1970) used as a classifier; the 1 is not
penalised. Nothing is random: equal frames give equal answers.

The features of a frame are, for each cell of a grid of 3 x 4 (ceiling, walls,
floor), means and standard deviations of luma and of the two opponent colours
(R - G, (R + G) / 2 - B) divided by luma, so that light matters once and not in
every figure; a histogram of those colours; and of the gradients, at the film's
own scale and at half of it, the mean strengths by direction, relative to luma.

A number from such a judge means something only beside three others: what always
saying the commonest class gets, the judge's own accuracy on real frames that it
was not fitted on (the ceiling), and balanced accuracy, the mean over classes,
for which the first is 1 / K.
"""

from collections.abc import Mapping
import dataclasses

import numpy as np

from worldsim_jax.errors import UserError

CELLS = (3, 4)  # rows and columns
BINS = 4  # per opponent colour
DIRECTIONS = 4
# Chosen on 15 mazes left out of the fit. With 1,215 frames of 45 others walls
# (12 kinds) are told in 81 % of frames and floors (8) in all; 0.001 to 0.1
# differ by less than 1 %, with fewer frames more is better.
RIDGE = 0.05
_LUMA = np.array([0.299, 0.587, 0.114])
_DARK = 0.02  # added to luma in ratios: black has no colour


@dataclasses.dataclass(frozen=True)
class Classifier:
  """Equation (1), fitted for several attributes on the same frames."""

  mean: np.ndarray  # [D]
  scale: np.ndarray  # [D]
  weights: Mapping[str, np.ndarray]  # by attribute, [D + 1, K]
  classes: Mapping[str, np.ndarray]  # by attribute, str [K], sorted
  majority: Mapping[str, str]  # by attribute, the commonest in training


def features(frames) -> np.ndarray:
  """Float64 [N, D] of uint8 frames [N, H, W, 3], at least 16 x 16."""
  frames = np.asarray(frames)
  if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3:
    raise ValueError(
        f'frames are {frames.dtype} {frames.shape}; need uint8 [N, H, W, 3]'
    )
  if min(frames.shape[1:3]) < 16:
    height, width = frames.shape[1:3]
    raise UserError(
        f'frames of {height}x{width} are too small to tell walls and floors '
        'in: 16x16 or more'
    )
  # Few at a time: the intermediate arrays are forty times as large as frames.
  parts = [_features(frames[i : i + 64]) for i in range(0, len(frames), 64)]
  return np.concatenate(parts) if parts else np.zeros((0, _features_length()))


def fit(x, labels: Mapping[str, np.ndarray], ridge: float = RIDGE):
  """Fits equation (1).

  Args:
    x: float [N, D], from `features`, of real training frames.
    labels: by attribute, [N] names of classes; at least two different ones.
    ridge: relative to the number of frames, as features are standardised.

  Returns:
    A `Classifier`.
  """
  x = np.asarray(x, np.float64)
  mean, deviation = x.mean(0), x.std(0)
  # A feature that never changes says nothing; it must not become noise.
  scale = np.where(deviation > 1e-9, deviation, np.inf)
  design = _design(x, mean, scale)
  weights, classes, majority = {}, {}, {}
  for name, values in labels.items():
    values = _names(values, len(x), name)
    classes[name], index, counts = np.unique(
        values, return_inverse=True, return_counts=True
    )
    if len(counts) < 2:
      raise ValueError(f'{name}: all frames are {classes[name].tolist()}')
    majority[name] = str(classes[name][counts.argmax()])
    balance = len(x) / (len(counts) * counts[index])
    weights[name] = _solve(design, index, balance, ridge)
  return Classifier(mean, scale, weights, classes, majority)


def predict(classifier: Classifier, x) -> dict[str, np.ndarray]:
  """The classes, str [N] by attribute, of frames with features x [N, D]."""
  design = _design(np.asarray(x), classifier.mean, classifier.scale)
  return {
      name: classifier.classes[name][np.argmax(design @ weights, axis=1)]
      for name, weights in classifier.weights.items()
  }


def accuracy(predicted, labels) -> dict[str, float]:
  """Accuracy, and balanced: the mean over the classes that labels have.

  Args:
    predicted: [N] names of classes.
    labels: [N], the truth. Classes that were never trained are always missed.
  """
  labels = _names(labels, len(predicted), 'labels')
  if not len(labels):
    return {'accuracy': np.nan, 'balanced_accuracy': np.nan}
  right = np.asarray(predicted, str) == labels
  recalls = [right[labels == name].mean() for name in np.unique(labels)]
  return {
      'accuracy': float(right.mean()),
      'balanced_accuracy': float(np.mean(recalls)),
  }


def _solve(design, index, balance, ridge):
  target = 2.0 * (index[:, None] == np.arange(index.max() + 1)) - 1
  weighted = design.T * balance
  penalty = np.full(design.shape[1], ridge * len(design))
  penalty[-1] = 0
  # With ridge=0 the gram matrix may be singular without the small number.
  gram = weighted @ design + np.diag(penalty + 1e-9)
  return np.linalg.solve(gram, weighted @ target)


def _design(x, mean, scale):
  return np.concatenate([(x - mean) / scale, np.ones((len(x), 1))], axis=1)


def _names(values, count, name):
  values = np.asarray(values, str)
  if values.shape != (count,):
    raise ValueError(f'{name}: {values.shape} labels for {count} frames')
  return values


def _features(frames):
  rgb = frames / 255
  luma = rgb @ _LUMA
  bright = luma + _DARK
  red_green = (rgb[..., 0] - rgb[..., 1]) / bright
  yellow_blue = ((rgb[..., 0] + rgb[..., 1]) / 2 - rgb[..., 2]) / bright
  maps = [luma, red_green, yellow_blue]
  cells = _cells(np.stack(maps, -1))
  parts = [cells.mean((2, 4)), cells.std((2, 4))]
  maps = _colour_bins(red_green, yellow_blue) + _gradients(luma)
  coarse = luma[:, : luma.shape[1] // 2 * 2, : luma.shape[2] // 2 * 2]
  n, h, w = coarse.shape
  coarse = coarse.reshape(n, h // 2, 2, w // 2, 2).mean((2, 4))
  parts.append(_cells(np.stack(maps, -1)).mean((2, 4)))
  parts.append(_cells(np.stack(_gradients(coarse), -1)).mean((2, 4)))
  return np.concatenate([part.reshape(n, -1) for part in parts], axis=1)


def _features_length():
  return _features(np.zeros((1, 16, 16, 3), np.uint8)).shape[1]


def _cells(maps):
  """[N, H, W, C] to [N, rows, H/rows, columns, W/columns, C], edges cut."""
  n, h, w, c = maps.shape
  rows, columns = CELLS
  cut = maps[:, : h // rows * rows, : w // columns * columns]
  return cut.reshape(n, rows, h // rows, columns, w // columns, c)


def _colour_bins(red_green, yellow_blue):
  """Indicators of BINS x BINS joint bins of the opponent colours."""
  # Most colours of the world lie within; the others fall into the outer bins.
  edges = np.linspace(-0.5, 1.0, BINS + 1)[1:-1]
  bins = np.digitize(red_green, edges) * BINS + np.digitize(yellow_blue, edges)
  return [(bins == k).astype(np.float64) for k in range(BINS**2)]


def _gradients(luma):
  """Strengths by direction, relative to the cell's own light."""
  dy, dx = np.gradient(luma, axis=(1, 2))
  size = np.hypot(dx, dy) / (luma + _DARK)
  turn = (np.arctan2(dy, dx) % np.pi) * DIRECTIONS / np.pi
  # Directions are centred on the axes: vertical and horizontal are common.
  kind = np.rint(turn).astype(int) % DIRECTIONS
  return [np.where(kind == k, size, 0) for k in range(DIRECTIONS)]
