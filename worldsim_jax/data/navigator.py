"""Players: a random walk, and one that goes places; `revisiting` has others.

A player maps a pose to the next command (see `actions`); it may keep state, and
all its randomness comes from its seed. Amounts are those of a frame of 4 tics;
`pace` scales them for others.
"""

from collections.abc import Iterator
import functools

import numpy as np

from worldsim_jax.data import occupancy
from worldsim_jax.data import revisiting
from worldsim_jax.data import steering
from worldsim_jax.data import wad
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
  """Turns and forward steps drawn at random, each held for some frames.

  It is blind, but when it runs into a wall it turns away: films would else show
  little but walls.
  """

  turns = (-12.0, -6.0, 0.0, 6.0, 12.0)  # degrees per frame
  forwards = (0.0, 24.0)  # map units per frame
  hold = (3, 9)  # frames
  about = (6, 14)  # frames of turning away, by the largest turn

  def __init__(self, grid, seed: int, pace: float = 1.0, num_frames=None):
    del grid, num_frames  # It does not look where it goes.
    self._rng = np.random.default_rng(seed)
    self._pace = pace
    self._left = 0
    self._last = None  # position at the last call, if it then went forward

  def act(self, pose) -> np.ndarray:
    if self._last is not None and _is_still(self._last, pose, self._pace):
      self._hold(
          self.about, 0, self._rng.choice((self.turns[0], self.turns[-1]))
      )
    elif not self._left:
      self._hold(self.hold, *map(self._rng.choice, (self.forwards, self.turns)))
    self._left -= 1
    self._last = pose[:2] if self._action[0] else None
    return self._action

  def _hold(self, frames, forward, turn):
    self._left = self._rng.integers(frames[0], frames[1] + 1)
    self._action = _command((forward, 0, turn), self._pace)


class Navigator:
  """Walks to random goals near its home, half of them where it has been."""

  speed = 24.0  # map units per frame
  max_turn = 12.0  # degrees per frame
  look_ahead = 56.0  # map units: how far along the path it aims
  arrived = 28.0  # map units
  lost = 96.0  # map units off the path
  home_range = 1024.0  # map units: small enough to come by again
  excursion_rate = 0.04  # per frame, of starting a held random command
  patience = 10  # frames of hardly moving before it tries something else

  def __init__(
      self,
      grid: occupancy.Grid,
      seed: int,
      pace: float = 1.0,
      num_frames: int | None = None,
  ):
    del num_frames  # It has no plan for the end.
    self._grid = grid
    self._rng = np.random.default_rng(seed)
    self._pace = pace
    self._path = np.zeros((0, 2))
    self._places = []  # flat cells where it has been or was heading
    self._left = 0  # frames left of an excursion
    self._last = None  # position at the last call
    self._still = 0  # frames without motion

  def act(self, pose) -> np.ndarray:
    x, y, _, yaw = pose
    self._notice_walls(pose)
    if self._left:
      self._left -= 1
    elif self._rng.random() < self.excursion_rate:
      self._begin_excursion()
    else:
      return self._follow(np.array([x, y]), yaw)
    return self._excursion

  def _begin_excursion(self):
    self._left = int(self._rng.integers(2, 8))
    command = EXCURSIONS[self._rng.integers(len(EXCURSIONS))]
    self._excursion = _command(command, self._pace)
    self._path = self._path[:0]  # Afterwards it plans from where it then is.

  def _notice_walls(self, pose):
    """Gives up the path after standing still for too long."""
    still = self._last is not None and _is_still(self._last, pose, self._pace)
    self._last = pose[:2]
    self._still = self._still + 1 if still else 0
    if self._still >= self.patience:
      self._still = 0
      self._begin_excursion()

  def _follow(self, here, yaw):
    gap = np.hypot(*(self._path - here).T)
    if not len(gap) or gap[-1] < self.arrived or gap.min() > self.lost:
      self._plan(here)
    self._path, (forward, turn) = steering.pursue(
        self._path,
        here,
        yaw,
        look_ahead=self.look_ahead,
        speed=self.speed,
        max_turn=self.max_turn,
    )
    return _command((forward, 0, turn), self._pace)

  def _plan(self, here):
    start = self._grid.nearest(*here)
    if not self._places:
      self._places = [start]
      gap = np.hypot(*(self._grid.centre(self._grid.free_cells) - here).T)
      self._home = self._grid.free_cells[gap <= max(self.home_range, gap.min())]
    if self._rng.random() < 0.5:
      goal = self._places[self._rng.integers(len(self._places))]
    else:
      goal = int(self._rng.choice(self._home))
      self._places.append(goal)
    path = occupancy.shortest_path(self._grid, start, goal)
    self._path = self._grid.centre(path)


PLAYERS = {
    'random_walk': RandomWalk,
    'navigate': Navigator,
    'palindrome': functools.partial(revisiting.Palindrome, walk=Navigator),
    'tour': revisiting.Tour,
    'lookout': revisiting.Lookout,
}


def make(
    policy: str,
    grid: occupancy.Grid,
    seed: int,
    tics_per_frame: int = 4,
    num_frames: int | None = None,
):
  """A player by name, for a film of so many frames if that is known."""
  if policy not in PLAYERS:
    raise UserError(f'policy {policy!r} is not one of {", ".join(PLAYERS)}')
  return PLAYERS[policy](grid, seed, tics_per_frame / 4, num_frames)


def random_start(grid: occupancy.Grid, seed: int) -> tuple[float, float, float]:
  """x, y and yaw of a free place, drawn from the seed."""
  rng = np.random.default_rng([seed, 1])
  x, y = grid.centre(rng.choice(grid.free_cells))
  return float(x), float(y), float(rng.integers(360))


def starts(
    grid: occupancy.Grid, level: wad.Level, seed: int, count: int
) -> list[tuple[float, float, float]]:
  """Of the shots of a film, far from each other: the first is `random_start`.

  No two are in the same sector, and so in no maze in the same room, unless the
  level has too few. The later ones have a wide view.
  """
  rng = np.random.default_rng([seed, 4])
  chosen = [random_start(grid, seed)]
  while len(chosen) < count:
    places = grid.centre(rng.choice(grid.free_cells, 64))
    gap = [np.hypot(*(places - start[:2]).T) for start in chosen]
    taken = {_sector(level, *start[:2]) for start in chosen}
    fresh = [_sector(level, *place) not in taken for place in places]
    best = np.lexsort((np.min(gap, 0), fresh))[-1]
    x, y = places[best]
    yaw = occupancy.widest_view(grid, places[best], rng.integers(360, size=8))
    chosen.append((float(x), float(y), yaw))
  return chosen


def seeds(seed: int) -> Iterator[int]:
  """Of the players of a film's shots; the first is the film's own."""
  rng = np.random.default_rng([seed, 3])
  while True:
    yield seed
    seed = int(rng.integers(2**31))


def _sector(level, x, y):
  return int(wad.sectors_in_row(level, np.array([x]), y)[0])


def _is_still(last, pose, pace):
  return np.hypot(pose[0] - last[0], pose[1] - last[1]) <= 2 * pace


def _command(action, pace):
  """Rounded, because a recipe is stored as text."""
  return steering.rounded(np.array(action) * pace)
