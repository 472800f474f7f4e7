"""Players: a random walk, and one that goes places and comes back.

A player maps a pose to the next command (see `actions`); it may keep state, and
all its randomness comes from its seed. Frames are assumed to be 4 tics.
"""

import numpy as np

from worldsim_jax.data import occupancy
from worldsim_jax.errors import UserError

# Commands that a walk to a goal would seldom give: held for some frames now and
# then, they make every kind of motion occur in the data.
EXCURSIONS = (
    (0, 0, 10),
    (0, 0, -10),
    (-20, 0, 0),
    (0, 20, 0),
    (0, -20, 0),
    (20, 20, 0),
    (20, -20, 0),
    (24, 0, 6),
    (24, 0, -6),
    (-20, 0, 6),
    (0, 20, -6),
    (0, -20, 6),
    (0, 0, 0),
)


class RandomWalk:
  """Turns and forward steps drawn at random, each held for some frames."""

  def __init__(
      self,
      grid: occupancy.Grid,
      seed: int,
      *,
      turns=(-12.0, -6.0, 0.0, 6.0, 12.0),
      forwards=(0.0, 24.0),
      hold=(3, 9),
  ):
    """Turns in degrees, forwards in map units per frame, hold in frames."""
    del grid  # It does not look where it goes.
    self._rng = np.random.default_rng(seed)
    self._turns, self._forwards, self._hold = turns, forwards, hold
    self._left = 0

  def act(self, pose) -> np.ndarray:
    del pose
    if not self._left:
      self._left = self._rng.integers(self._hold[0], self._hold[1] + 1)
      self._action = np.array(
          [self._rng.choice(self._forwards), 0, self._rng.choice(self._turns)],
          np.float32,
      )
    self._left -= 1
    return self._action


class Navigator:
  """Walks to random goals, half of them places where it has been."""

  speed = 24.0  # map units per frame
  max_turn = 12.0  # degrees per frame
  look_ahead = 56.0  # map units: how far along the path it aims
  excursion_rate = 0.04  # per frame, of starting a held random command
  patience = 10  # frames of hardly moving before it tries something else
  arrived = 28.0  # map units

  def __init__(self, grid: occupancy.Grid, seed: int):
    self._grid = grid
    self._rng = np.random.default_rng(seed)
    self._path = np.zeros((0, 2))
    self._places = []  # flat cells of earlier goals
    self._left = 0  # frames left of an excursion
    self._last = None  # position at the last call
    self._still = 0  # frames without motion that was asked for

  def act(self, pose) -> np.ndarray:
    x, y, _, yaw = pose
    self._notice_walls(x, y)
    if self._left:
      self._left -= 1
    elif self._rng.random() < self.excursion_rate:
      self._begin_excursion()
    else:
      return self._follow(np.array([x, y]), yaw)
    return self._excursion

  def _begin_excursion(self):
    self._left = int(self._rng.integers(2, 8))
    self._excursion = np.array(
        EXCURSIONS[self._rng.integers(len(EXCURSIONS))], np.float32
    )
    self._path = self._path[:0]  # Afterwards it plans from where it then is.

  def _notice_walls(self, x, y):
    """Gives up the path after standing still for too long."""
    moved = (
        self._last is None or np.hypot(x - self._last[0], y - self._last[1]) > 2
    )
    self._last = x, y
    self._still = 0 if moved else self._still + 1
    if self._still >= self.patience:
      self._still = 0
      self._begin_excursion()

  def _follow(self, here, yaw):
    gap = np.hypot(*(self._path - here).T)
    if not len(gap) or gap[-1] < self.arrived or gap.min() > 96:
      self._plan(here)
      gap = np.hypot(*(self._path - here).T)
    # Go on from the nearest point of the path to the first one far enough.
    self._path, gap = self._path[gap.argmin() :], gap[gap.argmin() :]
    far = np.flatnonzero(gap > self.look_ahead)
    dx, dy = self._path[far[0] if far.size else -1] - here
    error = (np.degrees(np.arctan2(dy, dx)) - yaw + 180) % 360 - 180
    turn = np.clip(error, -self.max_turn, self.max_turn)
    forward = (
        self.speed * max(0.0, np.cos(np.radians(1.5 * error)))
        if (abs(error) < 60)
        else 0.0
    )
    # Rounded: a recipe is stored as text.
    return np.array([round(forward, 1), 0, round(turn, 1)], np.float32)

  def _plan(self, here):
    start = self._grid.nearest(*here)
    if self._places and self._rng.random() < 0.5:
      goal = self._places[self._rng.integers(len(self._places))]
    else:
      goal = int(self._rng.choice(self._grid.free_cells))
      self._places.append(goal)
    path = occupancy.shortest_path(self._grid, start, goal)
    self._path = self._grid.centre(path)


PLAYERS = {'random_walk': RandomWalk, 'navigate': Navigator}


def make(policy: str, grid: occupancy.Grid, seed: int):
  """A player by name, 'random_walk' or 'navigate'."""
  if policy not in PLAYERS:
    raise UserError(f'policy {policy!r} is not one of {", ".join(PLAYERS)}')
  return PLAYERS[policy](grid, seed)


def random_start(grid: occupancy.Grid, seed: int) -> tuple[float, float, float]:
  """x, y and yaw of a free place, drawn from the seed."""
  rng = np.random.default_rng([seed, 1])
  x, y = grid.centre(rng.choice(grid.free_cells))
  return float(x), float(y), float(rng.integers(360))
