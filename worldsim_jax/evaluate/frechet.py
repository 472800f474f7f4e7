"""FVD and KVD: how far apart two sets of films are, by their I3D logits.

With mean m and covariance S of the logits of N films, S of N - 1 degrees of
freedom,

  FVD = |m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)),                     (1)

the squared 2-Wasserstein distance of two normal distributions (Unterthiner et
al. 2018, "Towards Accurate Generative Models of Video", eq. 2). No matrix root
is taken. With centred logits A, S1 = A^T A, and B of the other set, S1 S2 has
the eigenvalues of (A B^T)^T (A B^T) and zeros, so

  tr (S1 S2)^(1/2) = sum of the singular values of A B^T,                (2)

which is as exact for covariances of any rank; roots of nearly singular products
are not, and come out complex or negative in published code.

  KVD = mean k(x, x') + mean k(y, y') - 2 mean k(x, y),                  (3)
  k(x, y) = (x . y / 400 + 1)^3,

over x != x' and y != y': the unbiased estimate of a squared distance, of which
that of equal distributions is 0 on average (same paper, sec. 3.1; Binkowski et
al. 2018, "Demystifying MMD GANs", eq. 4). FVD is biased upwards, the more so
the fewer films there are, and with N <= 400 its covariances cannot have full
rank: only values at one N compare, and `matched` gives the floor of real films
at that N.

Clips of one film are not independent. `groups` says which belong together:
labels of the real clips and of the generated ones, equal where a generated clip
goes on from the film of a real one.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from worldsim_jax.errors import UserError

WINDOW = 16  # frames, in most papers
FULL_RANK = 401  # clips from which on a covariance of 400 logits can be regular

Groups = tuple  # (labels of real clips [N], labels of generated clips [M])


class Matched(NamedTuple):
  """A distance and its floor, at one number of clips.

  Attributes:
    value: of generated clips from real ones of other films.
    floor: of real clips from those same ones, which a perfect model has, too.
    size: clips in each of the three sets.
  """

  value: float
  floor: float
  size: int


def windows(film, size: int = WINDOW, stride: int = WINDOW) -> np.ndarray:
  """Clips [n, size, H, W, C] of a film [T, H, W, C], a view of it.

  Raises:
    UserError: if the film is shorter than a window.
  """
  film = np.asarray(film)
  if stride < 1 or size < 1:
    raise ValueError(f'windows of {size} frames every {stride} frames')
  if len(film) < size:
    raise UserError(
        f'a film of {len(film)} frames has no window of {size}: roll out at '
        f'least {size} frames'
    )
  views = np.lib.stride_tricks.sliding_window_view(film, size, axis=0)
  return np.moveaxis(views, -1, 1)[::stride]


def fvd(real, generated, groups: Groups | None = None) -> float:
  """Eq. (1) of logits [N, 400] and [M, 400].

  Raises:
    UserError: if either has fewer than two films.
  """
  del groups  # The paper's estimate knows of none.
  x, y = _checked(real, generated)
  mean_x, mean_y = x.mean(0), y.mean(0)
  a = (x - mean_x) / np.sqrt(len(x) - 1)
  b = (y - mean_y) / np.sqrt(len(y) - 1)
  traces = np.square(a).sum() + np.square(b).sum()
  root = np.linalg.svd(_small(a) @ _small(b).T, compute_uv=False).sum()
  value = np.square(mean_x - mean_y).sum() + traces - 2 * root
  return float(max(value, 0.0))  # Below zero only by rounding.


def caution(num_real: int, num_generated: int) -> str:
  """What to say beside an FVD of so few clips; '' if nothing."""
  least = min(num_real, num_generated)
  if least >= FULL_RANK:
    return ''
  return (
      f'FVD of {num_real} real and {num_generated} generated clips: a '
      f'covariance of rank {least - 1} where there are {FULL_RANK - 1} logits; '
      'too large, and comparable only at these numbers'
  )


def _small(a):
  """At most as many rows as columns, with the same a^T a."""
  return a if len(a) <= a.shape[1] else np.linalg.qr(a, mode='r')


def kvd(real, generated, groups: Groups | None = None) -> float:
  """Eq. (3) of logits [N, 400] and [M, 400], over pairs of different groups.

  A set and itself, in the same groups, are at zero; without groups they
  count as unrelated and are below it.

  Raises:
    UserError: if either has fewer than two films.
  """
  x, y = _checked(real, generated)
  labels_x, labels_y = _labels(x, y, groups)
  for name, labels in (('real', labels_x), ('generated', labels_y)):
    if len(set(labels)) < 2:
      raise UserError(f'KVD needs {name} clips of 2 films or more')
  return float(
      _mean_kernel(x, x, labels_x, labels_x)
      + _mean_kernel(y, y, labels_y, labels_y)
      - 2 * _mean_kernel(x, y, labels_x, labels_y)
  )


def _mean_kernel(x, y, labels_x, labels_y):
  """The mean of k over pairs whose labels differ."""
  kernel = (x @ y.T / x.shape[1] + 1) ** 3
  return kernel[labels_x[:, None] != labels_y[None]].mean()


def standard_error(
    metric: Callable,
    real,
    generated,
    groups: Groups | None = None,
    max_blocks: int = 20,
) -> float:
  """Of metric(real, generated, groups), by leaving out films (Arvesen 1969).

  The jackknife, with whole groups left out, those with a common label from both
  sets at once. A bootstrap would see the same clip twice, which eq. (3) takes
  for agreement and eq. (1) for a lower rank.

  Args:
    metric: `fvd` or `kvd`, or another function of the same arguments.
    real, generated: logits [N, 400], [M, 400].
    groups: labels of both; None: all clips are independent.
    max_blocks: groups of one set are put together into at most as many.

  Returns:
    One standard deviation, nan where a set has fewer than three groups.
  """
  x, y = _checked(real, generated)
  labels_x, labels_y = _labels(x, y, groups)
  names_x, names_y = [list(dict.fromkeys(l)) for l in (labels_x, labels_y)]
  if min(len(names_x), len(names_y)) < 3:
    return float('nan')
  # Successive groups go to different blocks: no set is ever left without films.
  names = list(dict.fromkeys(names_x + names_y))
  num_blocks = min(len(names), max_blocks)
  block = {name: i % num_blocks for i, name in enumerate(names)}
  of_x, of_y = [
      np.array([block[name] for name in l]) for l in (labels_x, labels_y)
  ]
  values = []
  for i in range(num_blocks):
    keep_x, keep_y = of_x != i, of_y != i
    kept = labels_x[keep_x], labels_y[keep_y]
    values.append(metric(x[keep_x], y[keep_y], kept))
  return float(np.sqrt((num_blocks - 1) * np.var(values)))


def matched(
    metric: Callable,
    real,
    generated,
    groups: Groups | None = None,
    num_draws: int = 10,
    seed: int = 0,
) -> Matched:
  """A distance beside that of real films from real ones, at the same N.

  Real films are halved at random. Both generated and real clips of the second
  half are compared to the real clips of the first; generated ones that share no
  film with real ones are drawn from all. Where generated clips are real ones,
  value and floor are equal; means over draws.

  Raises:
    UserError: if there are too few films for halves of two.
  """
  x, y = _checked(real, generated)
  labels_x, labels_y = _labels(x, y, groups)
  names = np.unique(labels_x)
  is_shared = np.isin(labels_y, names).any()
  if len(names) < 4:
    raise UserError(
        f'{len(names)} real films are too few for FVD or KVD beside their '
        'floor, which takes two halves of 2'
    )
  rng = np.random.default_rng(seed)
  values, floors = [], []
  for _ in range(num_draws):
    names = rng.permutation(names)
    first, second = np.split(names, [len(names) // 2])
    a, b = _of_names(labels_x, first), _of_names(labels_x, second)
    if is_shared:
      c = _of_names(labels_y, second)
    else:
      c = rng.permutation(len(y))
    size = min(len(a), len(b), len(c))
    if size < 2:
      raise UserError(
          f'{len(names)} real films and {len(y)} generated clips are too few '
          'for the floor of FVD or KVD: there must be 2 clips in each half'
      )
    a, b, c = a[:size], b[:size], c[:size]
    values.append(metric(x[a], y[c], (labels_x[a], labels_y[c])))
    floors.append(metric(x[a], x[b], (labels_x[a], labels_x[b])))
  return Matched(float(np.mean(values)), float(np.mean(floors)), size)


def _of_names(labels, names):
  """Where the labels are, in the order of names."""
  return np.concatenate([np.flatnonzero(labels == name) for name in names])


def _checked(real, generated):
  x, y = [np.asarray(side, np.float64) for side in (real, generated)]
  if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
    raise ValueError(
        f'features are {x.shape} and {y.shape}; need [N, D] and [M, D]'
    )
  for name, side in (('real', x), ('generated', y)):
    if len(side) < 2:
      raise UserError(
          f'FVD and KVD need 2 {name} films or more, there are {len(side)}'
      )
    if not np.isfinite(side).all():
      raise ValueError(f'features of {name} films are not finite')
  return x, y


def _labels(x, y, groups):
  """[N] and [M]; without groups, all different."""
  if groups is None:
    numbers = np.arange(len(x) + len(y)).astype(str)
    return numbers[: len(x)], numbers[len(x) :]
  labels_x, labels_y = [np.asarray(side, str) for side in groups]
  if labels_x.shape != x.shape[:1] or labels_y.shape != y.shape[:1]:
    raise ValueError(
        f'groups are {labels_x.shape} and {labels_y.shape} for {len(x)} and '
        f'{len(y)} films'
    )
  return labels_x, labels_y
