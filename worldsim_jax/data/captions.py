"""What a part of an episode shows and what its player does, from exact state.

In a generated maze: walls and floor of the room that the player is in, the
objects that he sees, and how he moves. On a Freedoom map, how he moves and the
map's name. The same is told as data, for whoever wants to find it in pixels.

An object is seen if its middle is within the field of view, no wall stands in
between, and it is near enough to be more than a twentieth of the picture high;
one object does not hide another here. All that holds without monsters only:
they shoot barrels.
"""

import dataclasses
import itertools

import numpy as np

from worldsim_jax.data import camera
from worldsim_jax.data import episodes
from worldsim_jax.data import events
from worldsim_jax.data import generator
from worldsim_jax.data import maps
from worldsim_jax.data import sight

FARTHEST = 768.0  # map units: an object of a player's size is then that small
SEEN_SECONDS = 0.25  # for so long an object is in view, or it is not told
PHASE_SECONDS = 0.5  # that a motion lasts, or it is not told
MOST_PHASES = 3
MAX_SPEED = 700.0  # map units per second; who is faster has been moved
STANDING = (35.0, 10.0)  # at most: map units and degrees per second
CURVE = 20.0  # degrees per second, from here on a walk is none straight on

MOTIONS = (
    'standing',
    'walking forward',
    'backing up',
    'strafing left',
    'strafing right',
    'turning left',
    'turning right',
    'walking a curve to the left',
    'walking a curve to the right',
)


@dataclasses.dataclass(frozen=True)
class Attributes:
  """What a caption tells, as data; None where a map does not tell."""

  map: str
  motion: str  # of MOTIONS: the one that takes longest
  motions: tuple[str, ...]  # one after the other
  wall: str | None = (
      None  # key of generator.WALLS, of the room stayed in longest
  )
  floor: str | None = None
  rooms: tuple[int, ...] | None = None  # numbers, one after the other
  objects: dict[str, int] | None = None  # how many of which were in view


def attributes(
    episode: dict, start: int = 0, stop: int | None = None
) -> Attributes:
  """Of the frames from start to stop, which are of one shot."""
  recipe = episodes.Recipe.from_json(episode['recipe'])
  pose = episode['pose'][start:stop]
  verbs = motions(pose, recipe.tics_per_frame / 35)
  told = dict(
      map=_map_at(recipe, start + len(pose) // 2),
      motion=_longest(verbs),
      motions=_phases(verbs, _frames(PHASE_SECONDS, recipe, pose)),
  )
  if told['map'].startswith(maps.GENERATED):
    maze = maps.maze_of(told['map'])
    room = rooms(maze, pose)
    longest = maze.rooms[_longest(room)]
    seen = in_view(maze, pose, camera.of_engine(recipe)).sum(0)
    counts = {}
    for (name, _, _), frames in zip(maze.objects, seen):
      if frames >= _frames(SEEN_SECONDS, recipe, pose):
        counts[name] = counts.get(name, 0) + 1
    told |= dict(
        wall=longest.wall,
        floor=longest.floor,
        rooms=tuple(int(r) for r, _ in itertools.groupby(room)),
        objects=counts,
    )
  return Attributes(**told)


def caption(episode: dict, start: int = 0, stop: int | None = None) -> str:
  """One sentence on the frames from start to stop, without a full stop."""
  told = attributes(episode, start, stop)
  text = ', then '.join(told.motions)
  if told.rooms is None:
    return f'{text} in the Freedoom level {told.map}'
  maze = maps.maze_of(told.map)
  first, last = (_described(maze.rooms[told.rooms[k]]) for k in (0, -1))
  text += f' in {first}' if first == last else f' from {first} to {last}'
  things = [generator.counted(*item) for item in told.objects.items()]
  return text + (f', {generator.joined(things)} in view' if things else '')


def tell(episode: dict) -> dict:
  """The episode with a caption of each shot, and all of them as its own."""
  shot_id = episode['shot_id']
  cuts = [0, *(np.flatnonzero(np.diff(shot_id)) + 1), len(shot_id)]
  lines = [caption(episode, *cut) for cut in zip(cuts, cuts[1:])]
  told = dict(caption='. '.join(lines), shot_captions='\n'.join(lines))
  return episode | told


def motions(pose: np.ndarray, seconds_per_frame: float) -> np.ndarray:
  """The motion that led to each frame, as text [T]; the first has the second's.

  Args:
    pose: [T, 4], of one shot.
    seconds_per_frame: to tell fast from slow.
  """
  if len(pose) < 2:
    return np.full(len(pose), 'standing', object)
  step = np.diff(pose[:, :2], axis=0) / seconds_per_frame
  turn = (np.diff(pose[:, 3]) + 180) % 360 - 180
  heading = np.radians(pose[:-1, 3] + turn / 2)
  turn = turn / seconds_per_frame
  forward = step[:, 0] * np.cos(heading) + step[:, 1] * np.sin(heading)
  left = step[:, 1] * np.cos(heading) - step[:, 0] * np.sin(heading)
  speed, side = np.hypot(forward, left), np.abs(forward) < np.abs(left)
  slow, straight = speed < STANDING[0], np.abs(turn) < CURVE
  verbs = np.select(
      [
          slow & (np.abs(turn) < STANDING[1]) | (speed > MAX_SPEED),
          slow & (turn > 0),
          slow,
          side & (left > 0),
          side,
          forward < 0,
          straight,
          turn > 0,
      ],
      np.array(MOTIONS, object)[[0, 5, 6, 3, 4, 2, 1, 7]],
      MOTIONS[8],
  )
  return np.append(verbs[:1], verbs)


def rooms(maze: generator.Maze, pose: np.ndarray) -> np.ndarray:
  """The number of the room that the player is in, int64 [T]."""
  cell = np.clip(np.floor(pose[:, :2] / maze.size), 0, maze.n - 1)
  return (cell[:, 0] * maze.n + cell[:, 1]).astype(np.int64)


def in_view(
    maze: generator.Maze, pose: np.ndarray, view: camera.Camera
) -> np.ndarray:
  """Whether each object is seen in each frame, bool [T, objects]."""
  places = np.array([o[1:] for o in maze.objects], float).reshape(-1, 2)
  level = generator.level(maze)
  yaw = np.radians(pose[:, 3, None])
  dx, dy = places.T[:, None] - pose[:, :2].T[..., None]  # [T, K] each
  ahead = dx * np.cos(yaw) + dy * np.sin(yaw)
  aside = np.abs(dx * np.sin(yaw) - dy * np.cos(yaw))
  seen = (aside <= ahead * (view.width / 2) / view.fx) & (ahead <= FARTHEST)
  for t in np.flatnonzero(seen.any(1)):
    seen[t] &= sight.clear(level, pose[t, :2], places)
  return seen


def _map_at(recipe, frame):
  shown = events.maps_in(recipe.events, recipe.map)
  return [name for first, name in shown if first <= frame][-1]


def _frames(seconds, recipe, pose):
  """As a number of frames: at least one, at most half of those there are."""
  return max(
      1, min(round(seconds * 35 / recipe.tics_per_frame), len(pose) // 2)
  )


def _longest(values):
  """The most frequent; of equals, the first in order."""
  found, count = np.unique(values, return_counts=True)
  return found[count.argmax()]


def _phases(verbs, least):
  """Successive motions that last, short ones and interruptions left out."""
  runs = [(verb, len(list(run))) for verb, run in itertools.groupby(verbs)]
  kept = [verb for verb, length in runs if length >= least]
  kept = [verb for verb, _ in itertools.groupby(kept)] or [_longest(verbs)]
  if len(kept) <= MOST_PHASES:
    return tuple(kept)
  return (_longest(verbs),)


def _described(room):
  article = 'an' if room.floor[0] in 'aeiou' else 'a'
  return f'a room with {room.wall} walls and {article} {room.floor} floor'
