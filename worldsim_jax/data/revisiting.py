"""Players that come back: there and back, round a few places, to a view.

What a model remembers shows where a film comes back to a place after a while.
A walk to random goals does so now and then, and at an angle; these players do
it on purpose, at the same spot and with the same view.
"""

import numpy as np

from worldsim_jax.data import occupancy
from worldsim_jax.data import steering

FRAMES_PER_SECOND = 35 / 4  # at a pace of 1


class Palindrome:
  """Walks as another player does, stops, and takes every pose back again.

  On the way back it looks where it looked on the way there, so it mostly goes
  backwards. With n frames out, frame n + k shows what frame n - k did, but for
  what inertia and walls do, and for what moves by itself.
  """

  out_seconds = 30.0  # of a walk of unknown length
  rest_seconds = 1.0  # of standing before it turns back: enough to stop

  def __init__(self, grid, seed, pace=1.0, num_frames=None, *, walk):
    """`walk(grid, seed, pace)` makes the player that goes out."""
    rate = FRAMES_PER_SECOND / pace
    self._walks = (walk(grid, k, pace) for k in _seeds(seed))
    self._out = round(self.out_seconds * rate)
    if num_frames:
      self._out = max(1, (num_frames - 1) // 2)
    self._rest = min(round(self.rest_seconds * rate), self._out // 2)
    self._servo = steering.Servo(4 * pace)
    self._play = self._playing()
    next(self._play)

  def act(self, pose) -> np.ndarray:
    return self._play.send(pose)

  def _playing(self):
    """A coroutine: it is sent poses and yields commands."""
    pose = yield
    for walk in self._walks:
      seen = []
      for left in reversed(range(self._out)):
        seen.append(np.array(pose))
        still = np.zeros(3, np.float32)
        pose = yield walk.act(pose) if left >= self._rest else still
      self._servo.forget()  # It stands now, which is what a servo expects.
      while seen:
        pose = yield self._servo.command(pose, seen.pop()[[0, 1, 3]])


class Tour:
  """Goes round a few places again and again, and looks about at each.

  A stop is always at the same spot and begins with the same view, which is held
  for a moment and, after one turn on the spot, held again. So it is seen again
  after 5 seconds, after a round (20 seconds or more), and, since every third
  round is elsewhere, after about a minute.
  """

  speed, max_turn, look_ahead = 24.0, 12.0, 48.0  # as a navigator's
  stops = 3  # of a round
  apart = 256.0  # map units between the stops of a round, if there is room
  hold = 6  # frames of standing with the view of a stop
  look_turn = 8.0  # degrees per frame: once around in 5 seconds
  near = 80.0  # map units: from here on it steers for the very spot
  arrived = 4.0  # map units
  patience = 40  # frames, before it goes elsewhere

  def __init__(self, grid, seed, pace=1.0, num_frames=None):
    del num_frames
    self._grid = grid
    self._rng = np.random.default_rng(seed)
    self._pace = pace
    self._servo = steering.Servo(4 * pace)
    self._play = self._playing()
    next(self._play)

  def act(self, pose) -> np.ndarray:
    return self._play.send(pose)

  def _playing(self):
    """A coroutine: it is sent poses and yields commands."""
    pose = yield
    home = self._round(pose, [])
    elsewhere = self._round(pose, home)
    while True:
      for stop in (*home, *home, *elsewhere):
        pose = yield from self._walk(stop, pose)
        pose = yield from self._settle(stop, pose)
        if np.hypot(*(stop[:2] - pose[:2])) <= self.arrived:
          pose = yield from self._look_about(stop, pose)

  def _walk(self, stop, pose):
    """Goes near a stop; yields commands and returns the last pose."""
    path = self._path(pose, stop)
    frames = self._frames(2 * _length(path) / self.speed + self.patience)
    for _ in range(frames):
      if _length(path) < self.near:
        break
      path, (forward, turn) = steering.pursue(
          path,
          pose[:2],
          pose[3],
          look_ahead=self.look_ahead,
          speed=self.speed,
          max_turn=self.max_turn,
      )
      command = np.array((forward, 0.0, turn)) * self._pace
      pose = yield steering.rounded(command)
    return pose

  def _settle(self, stop, pose):
    """Goes the rest of the way, and faces as the stop says."""
    self._servo.forget()
    for _ in range(self._frames(self.patience)):
      gap, turn = stop[:2] - pose[:2], _turn(pose[3], stop[2])
      if np.hypot(*gap) <= self.arrived and abs(turn) < 0.1:
        break
      step, most = self.speed * self._pace, self.max_turn * self._pace
      place = pose[:2] + gap * min(1.0, step / max(np.hypot(*gap), step))
      yaw = pose[3] + np.clip(turn, -most, most)
      pose = yield self._servo.command(pose, (*place, yaw))
    return pose

  def _look_about(self, stop, pose):
    """The view of the stop, once around, and the view again."""
    hold, steps = map(self._frames, (self.hold, 360 / self.look_turn))
    turns = [0.0] * hold + [360 / steps] * steps + [0.0] * hold
    for yaw in stop[2] + np.cumsum(turns):
      pose = yield self._servo.command(pose, (*stop[:2], yaw))
    return pose

  def _frames(self, count):
    """As many as last as long as `count` frames of 4 tics."""
    return max(1, round(count / self._pace))

  def _round(self, pose, taken):
    """Stops [x, y, yaw], each not far from the last and with a wide view.

    They are apart from each other, and from the stops that are taken.
    """
    cells = self._rng.permutation(self._grid.free_cells)[:256]
    places = self._grid.centre(cells)
    chosen, last = [], np.array(pose[:2])
    while len(chosen) < self.stops:
      gap = np.hypot(*(places - last).T)
      clear = np.full(len(places), np.inf)
      for stop in (*taken, *chosen):
        clear = np.minimum(clear, np.hypot(*(places - stop[:2]).T))
      # Those that are too near another come last, the nearest of all at last.
      order = np.lexsort((gap, -np.minimum(clear, self.apart)))
      # Near may be far to go.
      last = min(places[order[:8]], key=lambda p: _length(self._path(last, p)))
      yaws = self._rng.permutation(8) * 45.0
      yaw = occupancy.widest_view(self._grid, last, yaws)
      chosen.append(np.append(last, yaw))
    return chosen

  def _path(self, start, end):
    """The shortest way between two places, [N, 2]."""
    cells = (self._grid.nearest(*place[:2]) for place in (start, end))
    return self._grid.centre(occupancy.shortest_path(self._grid, *cells))


class Lookout:
  """Stands where it is and looks about: to the left, to the right, and back.

  Turns are held for some frames, then drawn anew. All are multiples of one, so
  a view is seen again exactly, at times that nobody can foresee.
  """

  turns = (-15.0, -7.5, 7.5, 15.0)  # degrees per frame
  hold = (4, 10)  # frames

  def __init__(self, grid, seed, pace=1.0, num_frames=None):
    del grid, num_frames  # It goes nowhere.
    self._rng = np.random.default_rng(seed)
    self._pace = pace
    self._left = 0

  def act(self, pose) -> np.ndarray:
    del pose
    if not self._left:
      frames = self._rng.integers(self.hold[0], self.hold[1] + 1)
      self._left = max(1, round(frames / self._pace))
      self._turn = self._rng.choice(self.turns)
    self._left -= 1
    return steering.rounded(np.array((0.0, 0.0, self._turn * self._pace)))


def _length(path):
  return np.hypot(*np.diff(path, axis=0).T).sum()


def _turn(yaw, target):
  """Degrees to the left from one to the other, in [-180, 180)."""
  return (target - yaw + 180) % 360 - 180


def _seeds(seed):
  """Of successive walks; the first is the player's own."""
  rng = np.random.default_rng([seed, 2])
  while True:
    yield seed
    seed = int(rng.integers(2**31))
