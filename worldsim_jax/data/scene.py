"""What rays can meet in a level: its surfaces, their ids, a grid to find them.

All is in the world coordinates of `camera`. A surface is a floor, a ceiling, or
a part of one side of a line. With S sectors and L lines its id is

  floor of sector s                2 s
  ceiling of sector s              2 s + 1                                 (1)
  part p of side b of line l       2 S + 6 l + 3 b + p

b is 0 for the front, p is 0 for what hangs above an opening, 1 for a wall from
floor to ceiling, 2 for a step. The sky is SKY, and where a ray meets nothing at
all, outside of the map, it is VOID. Both are negative and infinitely far.
"""

import dataclasses
import functools
from typing import NamedTuple

import numpy as np

from worldsim_jax.data import camera as camera_lib
from worldsim_jax.data import maps
from worldsim_jax.data import wad

SKY, VOID = -1, -2
UPPER, MIDDLE, LOWER = range(3)
# Map units. Of 32 to 512 the fastest on gen:0, MAP01 and MAP12, at 160x120.
CELL = 128.0


class Lines(NamedTuple):
  """Walls and openings; arrays of L lines and S sectors."""

  x1: np.ndarray  # float64 [L]
  y1: np.ndarray
  x2: np.ndarray
  y2: np.ndarray
  front: np.ndarray  # int64 [L]: sector, -1 for none
  back: np.ndarray
  see_through: np.ndarray  # bool [L]
  sky: np.ndarray  # bool [S]: of ceilings
  sky_floor: np.ndarray  # bool [S]


class Cells(NamedTuple):
  """Square cells; cell (i, j) has lines[first[k]:first[k + 1]], k = i J + j."""

  x: float  # corner of cell 0, 0
  y: float
  size: float
  rows: int  # I, along x
  columns: int  # J, along y
  first: np.ndarray  # int64 [I J + 1]
  lines: np.ndarray  # int64
  most: int  # lines in one cell


@dataclasses.dataclass(frozen=True, eq=False)
class Scene:
  """A level as rays see it."""

  lines: Lines
  cells: Cells
  heights: np.ndarray  # float64 [S, 2]: floor and ceiling at the start
  normals: np.ndarray  # float32 [2 S + 6 L + 2, 3]: [id], zeros for id < 0


@dataclasses.dataclass(frozen=True, eq=False)
class Surfaces:
  """What ids mean; -1 where there is no such thing."""

  kind: np.ndarray  # str: 'floor', 'ceiling', 'upper', ..., 'sky' or 'void'
  sector: np.ndarray  # of floors and ceilings
  line: np.ndarray  # of walls
  side: np.ndarray  # 0 front, 1 back


def of_level(level: wad.Level, cell: float = CELL) -> Scene:
  """Prepares a level."""
  arrays = *level.segments.T, level.front, level.back, level.see_through
  # Compiled code is made for contiguous arrays, once.
  lines = Lines(
      *map(np.ascontiguousarray, (*arrays, level.sky, level.sky_floor))
  )
  return Scene(
      lines,
      _cells(level.segments, cell),
      np.stack([level.floor, level.ceiling], 1) * camera_lib.PIXEL_ASPECT,
      _normals(level),
  )


@functools.lru_cache(maxsize=16)
def of_map(name: str) -> Scene:
  """The scene of a map by its name."""
  return of_level(maps.load(name).level)


def surfaces(scene: Scene, ids) -> Surfaces:
  """Inverts eq. (1) for an array of ids."""
  ids = np.asarray(ids)
  wall = ids - 2 * len(scene.heights)
  is_flat, is_wall = (ids >= 0) & (wall < 0), wall >= 0
  kinds = np.array(['floor', 'ceiling', 'upper', 'middle', 'lower', 'void'])
  kind = np.where(is_wall, 2 + wall % 3, np.where(is_flat, ids % 2, 5))
  return Surfaces(
      np.where(ids == SKY, 'sky', kinds[kind]),
      np.where(is_flat, ids // 2, -1),
      np.where(is_wall, wall // 6, -1),
      np.where(is_wall, wall // 3 % 2, -1),
  )


def _normals(level):
  """Unit normals by id, float32; they point to where the surface is seen."""
  flats = np.array([[0, 0, 1], [0, 0, -1]])
  along = level.segments[:, 2:] - level.segments[:, :2]
  right = np.stack([along[:, 1], -along[:, 0]], 1)
  right = right / np.linalg.norm(right, axis=1, keepdims=True)
  front = np.pad(right, [(0, 0), (0, 1)])
  walls = np.stack([front, -front], 1).repeat(3, 1)
  return np.concatenate(
      [
          np.tile(flats, (len(level.floor), 1)),
          walls.reshape(-1, 3),
          np.zeros((2, 3)),  # Ids below zero count from here.
      ]
  ).astype(np.float32)


def _cells(segments, size):
  """Lists the lines that come near each cell; some too many do no harm."""
  ends = segments.reshape(-1, 2, 2)
  # No vertex is on a border: they have whole numbers.
  corner = ends.min((0, 1)) - size / 2 - 1 / 3
  shape = np.floor((ends.max((0, 1)) - corner) / size).astype(int) + 1
  found = [[] for _ in range(shape.prod())]
  for number, (a, b) in enumerate(ends):
    low, high = np.minimum(a, b) - corner, np.maximum(a, b) - corner
    # A ray that rounding sends past a corner is to find the line all the same.
    i0, j0 = np.floor((low - 1e-3) / size).astype(int)
    i1, j1 = np.floor((high + 1e-3) / size).astype(int)
    i, j = np.mgrid[i0 : i1 + 1, j0 : j1 + 1]
    centre = corner + (np.stack([i, j], -1) + 0.5) * size
    normal = np.array([b[1] - a[1], a[0] - b[0]])
    reach = np.abs(normal).sum() * (size / 2 + 1e-3)
    near = np.abs((centre - a) @ normal) <= reach
    for k in (i * shape[1] + j)[near]:
      found[k].append(number)
  counts = np.array([len(cell) for cell in found])
  return Cells(
      float(corner[0]),
      float(corner[1]),
      size,
      int(shape[0]),
      int(shape[1]),
      np.append(0, np.cumsum(counts)),
      np.concatenate([np.array(cell, np.int64) for cell in found]),
      int(counts.max()),
  )
