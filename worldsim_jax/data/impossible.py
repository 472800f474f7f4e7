"""Films in which the impossible happens, once: what ought to be a surprise.

  teleport           the player is in another room, without a cut
  ghost              he walks through a wall
  vanish             an object that is in view is gone
  vanish_unseen      one is gone when he comes back to it
  redecorate         all textures change before his eyes
  redecorate_unseen  those of a room have changed when he comes back to it

Each film has a twin in which nothing happens, `possible(recipe)`: the same
actions in a world that keeps its laws. The two are equal, to the byte, before
the frame of the event, and differ in it. So that is the frame in which an
observer can first be surprised, also if the change was made out of his sight.
"""

import dataclasses

import numpy as np

from worldsim_jax.data import actions as actions_lib
from worldsim_jax.data import camera
from worldsim_jax.data import captions
from worldsim_jax.data import engine as engine_lib
from worldsim_jax.data import episodes
from worldsim_jax.data import events as events_lib
from worldsim_jax.data import maps
from worldsim_jax.data import navigator
from worldsim_jax.data import occupancy
from worldsim_jax.errors import UserError

TRIES = 24  # walks, until one shows what is wanted
# What must have changed to be seen to have changed, as a share of the picture.
LEAST = dict(vanish=0.005, redecorate=0.3)
SPEED = 24.0  # of a ghost, map units per frame of 4 tics
UNSEEN_SECONDS = 0.5  # that something is out of view before it has changed


def plan(
    kind: str,
    map_name: str,
    *,
    seed: int,
    num_frames: int,
    policy: str = 'navigate',
    **engine_options,
) -> episodes.Recipe:
  """A recipe with one impossible event, in the middle half of the film.

  Args:
    kind: see the file's docstring.
    map_name: of a generated map, except for a teleport.
    seed: of the player and of what is chosen.
    num_frames: T. Coming back takes a while: 200 frames of 4 tics are enough.
    policy: of the player; a ghost follows a script.
    **engine_options: fields of `engine.Options`.

  Raises:
    UserError: if it finds no such film.
  """
  if kind not in KINDS:
    raise UserError(f'kind {kind!r} is not one of {", ".join(KINDS)}')
  if kind != 'teleport':
    maps.seed_of(map_name)  # Raises if it is not a generated map.
  with engine_lib.Engine(map_name, **engine_options) as engine:
    recipe = KINDS[kind](engine, kind, seed, num_frames, policy)
  if recipe is None:
    raise UserError(
        f'{map_name}: no film of {num_frames} frames shows {kind!r} (seed '
        f'{seed}): try more frames or another seed'
    )
  return recipe


def possible(recipe: episodes.Recipe) -> episodes.Recipe:
  """The twin in which nothing impossible happens."""
  kept = [e for e in recipe.events if e.kind == 'cut']
  return dataclasses.replace(recipe, events=tuple(kept))


def _teleport(engine, kind, seed, num_frames, policy):
  del kind
  grid = occupancy.of_map(engine.map.name)
  _, there = navigator.starts(grid, engine.map.level, seed, 2)
  film = episodes.record(
      engine,
      policy=policy,
      num_frames=num_frames,
      seed=seed,
      events=(events_lib.Event(num_frames // 2, 'teleport', there),),
  )
  return episodes.Recipe.from_json(film['recipe'])


def _ghost(engine, kind, seed, num_frames, policy):
  """From the middle of a room through a wall to that of the next."""
  del kind, policy
  maze, options = maps.maze_of(engine.map.name), engine.options
  ways = [
      (room, step, yaw)
      for room in range(maze.n**2)
      for step, yaw in ((maze.n, 0), (1, 90), (-maze.n, 180), (-1, 270))
      if _is_wall(maze, room, room + step)
  ]
  pace = options.tics_per_frame / actions_lib.WORD_TICS
  reach = round(maze.size / 2 / (SPEED * pace))
  looking, walking = num_frames // 2 - reach, 2 * reach
  if not ways or looking < 1:
    return None
  rng = np.random.default_rng([seed, 6])
  room, _, yaw = ways[rng.integers(len(ways))]
  actions = np.zeros((num_frames, 3))
  # He looks to both sides, goes on straight ahead, and looks round there.
  sides = 60 * np.sin(np.linspace(0, 2 * np.pi, looking))
  actions[1:looking, 2] = np.diff(np.round(sides, 2))
  actions[looking : looking + walking, 0] = SPEED * pace
  actions[looking + walking :, 2] = 8 * pace
  x, y = (maze.size * (k + 0.5) for k in divmod(room, maze.n))
  recipe = episodes.Recipe(
      engine.map.name,
      ((0.0, 0.0, 0.0),),
      seed=seed,
      start=(x, y, float(yaw)),
      **options.engine_options,
  ).with_actions(actions)
  ghost = lambda frame: dataclasses.replace(
      recipe,
      events=(
          events_lib.Event(frame, 'ghost'),
          events_lib.Event(looking + walking, 'solid'),
      ),
  )
  poses = [episodes.render(r, engine)['pose'] for r in (recipe, ghost(1))]
  return ghost(int((poses[0] != poses[1]).any(1).argmax()))


def _is_wall(maze, room, neighbour):
  """Whether two rooms lie side by side without a door."""
  if not 0 <= neighbour < maze.n**2:
    return False
  (i, j), (k, l) = divmod(room, maze.n), divmod(neighbour, maze.n)
  doors = tuple(sorted((room, neighbour)))
  return abs(i - k) + abs(j - l) == 1 and doors not in maze.doors


def _changed_map(engine, kind, seed, num_frames, policy):
  """Walks until a change of the world would show as it should."""
  name = engine.map.name
  away = round(UNSEEN_SECONDS * 35 / engine.options.tics_per_frame)
  least = LEAST[kind.removesuffix('_unseen')]
  for walk, _ in zip(navigator.seeds(seed), range(TRIES)):
    film = episodes.record(
        engine, policy=policy, num_frames=num_frames, seed=walk
    )
    recipe = episodes.Recipe.from_json(film['recipe'])
    for changes in _candidates(kind, film, recipe, away, seed):
      other = maps.variant(name, **changes)
      changed = _changed_share(film, dataclasses.replace(recipe, map=other))
      if kind.endswith('_unseen'):
        frame = _return(changed, least, away)
      else:
        frame = _clearest(changed, least)
      if frame is not None:
        event = events_lib.Event(frame, 'map', other)
        return dataclasses.replace(recipe, events=(event,))
  return None


def _candidates(kind, film, recipe, away, seed):
  """Changes of the map that are worth a try."""
  maze = maps.maze_of(recipe.map)
  if kind == 'redecorate':
    return [dict(decor=seed)]
  if kind == 'redecorate_unseen':
    room = captions.rooms(maze, film['pose'])
    there = room[:, None] == np.arange(maze.n**2)
    return [dict(decor=seed, room=k) for k in _ranked(there, away)]
  seen = captions.in_view(maze, film['pose'], camera.of_engine(recipe))
  least = away if kind == 'vanish_unseen' else 0
  return [dict(without=k) for k in _ranked(seen, least)]


def _ranked(seen_TK, away):
  """Columns that are true longest, and again after more than `away` frames."""
  order = np.argsort(-seen_TK.sum(0), kind='stable')
  gaps = [np.diff(np.flatnonzero(seen_TK[:, k])).max(initial=0) for k in order]
  return [
      int(k)
      for k, gap in zip(order, gaps)
      if seen_TK[:, k].any() and gap > away
  ][:3]


def _changed_share(film, recipe):
  """The share of pixels that differ in another map, [T]; none if he does."""
  other = episodes.render(recipe)
  if not np.array_equal(film['pose'], other['pose']):
    return np.zeros(len(film['pose']))  # He has run into what is now gone.
  return (film['rgb'] != other['rgb']).any(-1).mean((1, 2))


def _clearest(changed, least):
  """The frame of the middle half around which most has changed, or None."""
  first, last = len(changed) // 4, 3 * len(changed) // 4
  share = np.minimum(changed[first:last], changed[first - 1 : last - 1])
  return first + int(share.argmax()) if share.max(initial=0) >= least else None


def _return(changed, least, away):
  """The first frame that shows a change of what was out of view, or None."""
  for frame in range(len(changed) // 4, 3 * len(changed) // 4):
    before, since = changed[: frame - away], changed[frame - away : frame]
    after = changed[frame : frame + 4 * away]
    if (
        changed[frame]
        and not since.any()
        and before.max(initial=0) >= least
        and after.max() >= least
    ):
      return frame
  return None


KINDS = dict(teleport=_teleport, ghost=_ghost) | dict.fromkeys(
    ('vanish', 'vanish_unseen', 'redecorate', 'redecorate_unseen'), _changed_map
)
