"""Where a player can stand: a grid over a level, and shortest paths on it."""

import dataclasses
import functools
import heapq
import math

import numpy as np

from worldsim_jax.data import maps
from worldsim_jax.data import wad

STEP_HEIGHT = 24.0  # a player climbs this much
BODY_HEIGHT = 56.0
BODY_RADIUS = 16.0
# The eight neighbours; bit k of a cell's `exits` says that the k-th is open.
NEIGHBOURS = (
    (1, 0),
    (-1, 0),
    (0, 1),
    (0, -1),
    (1, 1),
    (1, -1),
    (-1, 1),
    (-1, -1),
)


@dataclasses.dataclass(frozen=True, eq=False)
class Grid:
  """Cells [X, Y] of `cell` map units; the border is never free."""

  origin: np.ndarray  # float64 [2]: corner of cell 0, 0
  cell: float
  free: np.ndarray  # bool [X, Y]: one connected part
  exits: bytes  # [X * Y]: bits of NEIGHBOURS

  @functools.cached_property
  def free_cells(self) -> np.ndarray:
    """Flat indices of the free cells."""
    return np.flatnonzero(self.free)

  def centre(self, cells) -> np.ndarray:
    """Map units [..., 2] of flat cell indices."""
    index = np.stack(np.divmod(np.asarray(cells), self.free.shape[1]), -1)
    return self.origin + (index + 0.5) * self.cell

  def nearest(self, x: float, y: float) -> int:
    """The free cell at a point, or the one nearest to it."""
    i, j = np.floor((np.array([x, y]) - self.origin) / self.cell).astype(int)
    if (
        0 <= i < self.free.shape[0]
        and 0 <= j < self.free.shape[1]
        and self.free[i, j]
    ):
      return int(i * self.free.shape[1] + j)
    gap = np.square(self.centre(self.free_cells) - (x, y)).sum(-1)
    return int(self.free_cells[gap.argmin()])


@functools.lru_cache(maxsize=8)
def of_map(name: str) -> Grid:
  """The grid of a map by its name."""
  return build(maps.load(name).level)


def build(level: wad.Level, cell: float = 16.0, margin: float = 4.0) -> Grid:
  """The largest area in which a player can go from any place to any other.

  That need not be where the map's start is: doors are walls here, as nothing
  opens them. Cells are `margin` units clear of whatever a player bumps into.
  """
  points = level.segments.reshape(-1, 2)
  origin = points.min(0) - cell
  shape = tuple(np.ceil((points.max(0) - origin) / cell).astype(int) + 1)
  sector = _sectors(level, origin, cell, shape)
  room = np.append(level.ceiling - level.floor, 0)  # the last is for -1
  free = room[sector] >= BODY_HEIGHT
  for segment in level.segments[_blocking(level)]:
    _clear_segment(free, segment, origin, cell, BODY_RADIUS + margin)
  for x, y, radius in level.obstacles:
    _clear_segment(
        free, (x, y, x, y), origin, cell, radius + BODY_RADIUS + margin
    )
  free[[0, -1]] = free[:, [0, -1]] = False
  free = _largest_part(free)
  return Grid(origin, cell, free, _exits(free))


def shortest_path(grid: Grid, start: int, goal: int) -> list[int] | None:
  """A* over flat cell indices, both ends included; None if there is none."""
  columns = grid.free.shape[1]
  steps, exits = _steps(columns), grid.exits
  goal_i, goal_j = divmod(goal, columns)
  came, cost = {start: start}, {start: 0.0}
  queue = [(0.0, start)]
  while queue:
    _, here = heapq.heappop(queue)
    if here == goal:
      return _unwind(came, goal)
    for offset, length in steps[exits[here]]:
      there, total = here + offset, cost[here] + length
      if total < cost.get(there, math.inf):
        cost[there], came[there] = total, here
        i, j = divmod(there, columns)
        ahead = math.hypot(i - goal_i, j - goal_j)
        heapq.heappush(queue, (total + ahead, there))
  return None


def widest_view(grid: Grid, place, yaws) -> float:
  """Of some yaws (degrees), the one in which one can walk on the farthest."""
  last = np.array(grid.free.shape) - 1  # The border is never free.
  reach = np.arange(last.max())[:, None] * grid.cell
  free = []
  for yaw in np.radians(yaws):
    along = place + reach * (np.cos(yaw), np.sin(yaw))
    index = np.floor((along - grid.origin) / grid.cell).astype(int)
    free.append(grid.free[tuple(np.clip(index, 0, last).T)].argmin())
  return float(yaws[np.argmax(free)])


def _unwind(came, goal):
  path = [goal]
  while came[path[-1]] != path[-1]:
    path.append(came[path[-1]])
  return path[::-1]


@functools.lru_cache
def _steps(columns):
  """For each value of `exits`, the offsets and lengths of the open steps."""
  moves = [(di * columns + dj, math.hypot(di, dj)) for di, dj in NEIGHBOURS]
  return [[moves[k] for k in range(8) if bits >> k & 1] for bits in range(256)]


def _blocking(level):
  """Lines that a player cannot, or for our purpose should not, cross."""
  front, back = level.front, np.maximum(level.back, 0)
  step = np.abs(level.floor[front] - level.floor[back])
  gap = np.minimum(level.ceiling[front], level.ceiling[back]) - np.maximum(
      level.floor[front], level.floor[back]
  )
  return (
      level.impassable
      | level.hazard
      | (level.back < 0)
      | (level.front < 0)
      | (step > STEP_HEIGHT)
      | (gap < BODY_HEIGHT)
  )


def _sectors(level, origin, cell, shape):
  """The sector under each cell's centre, -1 in the void; int64 [X, Y]."""
  x, y = (origin[k] + (np.arange(shape[k]) + 0.5) * cell for k in (0, 1))
  return np.stack([wad.sectors_in_row(level, x, row) for row in y], 1)


def _clear_segment(free, segment, origin, cell, radius):
  """Marks as not free the cells within `radius` of a segment, in place."""
  a, b = np.array(segment[:2]), np.array(segment[2:])
  low = np.floor((np.minimum(a, b) - radius - origin) / cell).astype(int)
  high = np.ceil((np.maximum(a, b) + radius - origin) / cell).astype(int)
  (i0, j0), (i1, j1) = np.maximum(low, 0), np.minimum(high, free.shape)
  px = origin[0] + (np.arange(i0, i1) + 0.5) * cell - a[0]
  py = origin[1] + (np.arange(j0, j1) + 0.5) * cell - a[1]
  (dx, dy), square = b - a, np.square(b - a).sum()
  along = (px[:, None] * dx + py * dy) / square if square else 0.0
  along = np.clip(along, 0, 1)
  gap = np.square(px[:, None] - along * dx) + np.square(py - along * dy)
  free[i0:i1, j0:j1] &= gap > radius**2


def _exits(free):
  """Bits of the open neighbours; a diagonal needs both of its corners free."""
  bits = np.zeros(free.shape, np.uint8)
  shifted = {d: np.roll(free, (-d[0], -d[1]), (0, 1)) for d in NEIGHBOURS}
  for k, (di, dj) in enumerate(NEIGHBOURS):
    ok = free & shifted[di, dj]
    if di and dj:
      ok = ok & shifted[di, 0] & shifted[0, dj]
    bits |= ok.astype(np.uint8) << k
  return bits.tobytes()


def _largest_part(free):
  """The largest connected set of free cells; bool [X, Y]."""
  exits, steps = _exits(free), _steps(free.shape[1])
  left, largest = set(np.flatnonzero(free).tolist()), []
  while len(left) > len(largest):
    stack = [left.pop()]
    part = list(stack)
    while stack:
      here = stack.pop()
      for offset, _ in steps[exits[here]]:
        if here + offset in left:
          left.remove(here + offset)
          stack.append(here + offset)
          part.append(here + offset)
    largest = max(largest, part, key=len)
  kept = np.zeros(free.size, bool)
  kept[largest] = True
  return kept.reshape(free.shape)
