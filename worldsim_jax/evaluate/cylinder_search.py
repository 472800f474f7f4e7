"""Exhaustive search of movements: on a cylinder a turn is a shift of columns.

Direct alignment (`photometric`) finds the nearest minimum, so guesses must be
near. Trying all of (forward, strafe, turn) one by one takes too long, but not
so if both frames are unrolled onto a cylinder around the camera, whose columns
are azimuths: a camera that turns by one column sees the same picture, one
column on. So points are moved and unrolled once for every (forward, strafe),
and all turns of all of them are products of two matrices, [movements, cells] x
[cells, turns]. What is maximised is the correlation over the cells that both
pictures fill, of all colours together; neither gain nor offset matters.
"""

import dataclasses

import numpy as np

from worldsim_jax.evaluate import photometric

CELL = 2.0  # degrees, both ways
_WIDTH = 40  # pixels that a frame is shrunk to, about a cell each
_WIDEST = 80.0  # degrees: further from the axis nothing is unrolled
_MIN_OVERLAP = 0.1  # share of the cells that the second frame fills


@dataclasses.dataclass(frozen=True, eq=False)
class Cylinder:
  """Cells of a picture: rows x columns, the axis in the middle."""

  rows: int
  columns: int

  def cells(self, x, y, z):
    """Flat index of the cell that sees a point; rows * columns: none does."""
    across = np.sqrt(x * x + z * z)
    with np.errstate(invalid='ignore', divide='ignore'):
      row = np.degrees(y / across) / CELL + self.rows / 2
      column = np.degrees(np.arctan2(x, z)) / CELL + self.columns / 2
      inside = (row >= 0) & (row < self.rows)
      inside &= (column >= 0) & (column < self.columns) & (across > 8)
    row = np.where(inside, row, 0).astype(np.int32)
    column = np.where(inside, column, 0).astype(np.int32)
    return np.where(
        inside, row * self.columns + column, self.rows * self.columns
    )


def search(
    camera, frame, depth, later, *, reach, count: int, centre=(0, 0, 0, 0)
) -> np.ndarray:
  """The best local maxima of the correlation, best first.

  Args:
    camera: a `data.camera.Camera`, its axis in the middle of the frame.
    frame: [H, W, 3], with depth [H, W] where it is known, inf elsewhere.
    later: [H, W, 3], the frame after the movement.
    reach: how far from the centre: map units (forward or strafe), degrees.
    count: of maxima wanted.
    centre: the movement in the middle of the search.

  Returns:
    float64 [K, 4], K <= count: forward, strafe, turn, rise.
  """
  block = max(1, -(-frame.shape[1] // _WIDTH))
  row, column, points = photometric.points_of(camera, depth, block)
  if not len(points):
    return np.zeros((0, 4))
  colours = photometric.shrink(frame, block)[row, column]
  half = np.degrees(np.arctan(camera.width / 2 / camera.fx))
  turns = int(reach[1] // CELL)
  columns = 2 * int(np.ceil(min(half + reach[1], _WIDEST) / CELL))
  steepest = np.degrees(camera.height / 2 / camera.fy)
  cylinder = Cylinder(2 * int(np.ceil(steepest / CELL)), columns)
  shifted = _turned(cylinder, camera, later, turns)
  axis = _axis(reach[0])
  moves = np.zeros((len(axis), len(axis), 4))
  moves[..., 0], moves[..., 1] = axis[:, None], axis
  moves += centre
  unrolled = _unroll(cylinder, points, colours, moves.reshape(-1, 4))
  score = _correlations(unrolled, shifted)
  score = score.reshape(len(axis), len(axis), -1)
  best = _local_maxima(score)[:count]
  found = moves[best[:, 0], best[:, 1]]
  found[:, 2] += (best[:, 2] - turns) * CELL
  return found


def _axis(reach):
  """Steps of at most 8 map units, at least six each way, from -reach on."""
  steps = max(6, int(np.ceil(reach / 8)))
  return np.linspace(-reach, reach, 2 * steps + 1)


def _turned(cylinder, camera, later, turns):
  """The second frame after each turn, [turns, rows * columns, 4].

  The last channel is 1 where the frame is seen, 0 elsewhere, and so are all.
  """
  azimuth = np.arange(cylinder.columns + 2 * turns) + 0.5
  azimuth = np.radians((azimuth - len(azimuth) / 2) * CELL)
  slope = np.radians(
      (np.arange(cylinder.rows) + 0.5 - cylinder.rows / 2) * CELL
  )
  image = photometric.shrink(later, max(1, later.shape[1] // (2 * _WIDTH)))
  by_x = image.shape[1] / camera.width
  by_y = image.shape[0] / camera.height
  with np.errstate(over='ignore'):
    u = (camera.fx * np.tan(azimuth) + camera.cx) * by_x
    v = camera.fy * slope[:, None] / np.cos(azimuth) + camera.cy
  v, u = v * by_y, np.broadcast_to(u, v.shape)
  seen = (np.abs(azimuth) < np.radians(_WIDEST)) & (u >= 0) & (v >= 0)
  seen &= (u < image.shape[1]) & (v < image.shape[0])
  column = np.where(seen, u, 0).astype(int)
  row = np.where(seen, v, 0).astype(int)
  wide = np.concatenate(
      [image[row, column] - image.mean((0, 1)), np.ones((*row.shape, 1))], -1
  )
  wide = (wide * seen[..., None]).astype(np.float32)
  width = cylinder.columns
  windows = [wide[:, k : k + width] for k in range(2 * turns + 1)]
  return np.stack(windows).reshape(2 * turns + 1, -1, 4)


def _unroll(cylinder, points, colours, moves):
  """Colours of the moved points by cell, [M, rows * columns, 4]; as above."""
  cells = cylinder.cells(*photometric.move(points, moves))
  size = cylinder.rows * cylinder.columns + 1
  cells = (cells + np.arange(len(moves))[:, None] * size).ravel()
  colours = colours - colours.mean(0)
  unrolled = np.empty((len(moves), size - 1, 4), np.float32)
  number = np.bincount(cells, minlength=len(moves) * size)
  number = number.reshape(len(moves), size)[:, :-1]
  unrolled[..., 3] = number > 0
  for channel in range(3):
    weights = np.tile(colours[:, channel], len(moves))
    total = np.bincount(cells, weights, minlength=len(moves) * size)
    total = total.reshape(len(moves), size)[:, :-1]
    unrolled[..., channel] = total / np.maximum(number, 1)
  return unrolled


def _correlations(first, second):
  """Of all [M, cells, 4] with all [K, cells, 4], over cells of both: [M, K]."""
  seen_first, seen_second = first[..., 3], second[..., 3]
  number = np.maximum(seen_first @ seen_second.T, 1)
  product, power_first, power_second = 0, 0, 0
  for channel in range(3):
    a, b = first[..., channel], second[..., channel]
    sum_a, sum_b = a @ seen_second.T, seen_first @ b.T
    product += a @ b.T - sum_a * sum_b / number
    power_first += (a * a) @ seen_second.T - sum_a**2 / number
    power_second += seen_first @ (b * b).T - sum_b**2 / number
  power = np.maximum(power_first, 0) * np.maximum(power_second, 0)
  found = product / np.sqrt(power + 1e-3)
  filled = seen_second[len(second) // 2].sum()
  return np.where(number < _MIN_OVERLAP * filled, -1, found)


def _local_maxima(score):
  """Indices [n, 3] of cells that no neighbour exceeds, the best first."""
  padded = np.pad(score, 1, constant_values=-np.inf)
  highest = np.full(score.shape, -np.inf)
  for i, j, k in np.ndindex(3, 3, 3):
    window = padded[
        i : i + score.shape[0], j : j + score.shape[1], k : k + score.shape[2]
    ]
    highest = np.maximum(highest, window)
  index = np.argwhere((score >= highest) & (score > -1))
  order = np.argsort(-score[tuple(index.T)], kind='stable')
  return index[order]
