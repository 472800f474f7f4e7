"""What a player can see of a level's plan: straight lines that no wall crosses.

The plan is two-dimensional. That is exact where all walls reach from floor to
ceiling and what one looks at is neither below a step nor above a lintel: so it
is in generated mazes, at eye level. In other levels it takes steps and low
ceilings for open, so it can say too much, never too little.
"""

import numpy as np

from worldsim_jax.data import wad


def clear(level: wad.Level, start, ends) -> np.ndarray:
  """Whether straight lines from a point [2] to others [N, 2] are free: [N]."""
  wall = level.segments[solid(level)]
  along, across = _crossings(wall, start, np.asarray(ends, float) - start)
  return ~((along > 0) & (along < 1) & (across >= 0) & (across <= 1)).any(-1)


def solid(level: wad.Level) -> np.ndarray:
  """Lines through which nobody sees, whatever the height; bool [L]."""
  front, back = level.front, np.maximum(level.back, 0)
  top = np.minimum(level.ceiling[front], level.ceiling[back])
  bottom = np.maximum(level.floor[front], level.floor[back])
  return (level.back < 0) | (level.front < 0) | (top <= bottom)


def _crossings(wall, start, way):
  """Where rays [N, 2] from a point cross lines [K, 4]: both as shares [N, K].

  Of the ray, and of the line; a parallel line is never crossed (NaN).
  """
  (x, y), (x1, y1, x2, y2) = start, wall.T
  dx, dy = way[:, :1], way[:, 1:]
  ex, ey = x2 - x1, y2 - y1
  with np.errstate(divide='ignore', invalid='ignore'):
    across = 1 / (dx * ey - dy * ex)
    along = ((x1 - x) * ey - (y1 - y) * ex) * across
    return along, ((x1 - x) * dy - (y1 - y) * dx) * across
