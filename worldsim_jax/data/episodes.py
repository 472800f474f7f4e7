"""Films of the embedded world, and the recipes that determine them.

A recipe says which map, where to start and what to command; the engine is
deterministic, so a recipe *is* its film, at a hundredth of the size, and it
gives the true future of any other choice of actions from the same start. What
happens without being commanded, cuts and worse, is in it too: see `events`.
"""

import dataclasses
import json

import numpy as np

from worldsim_jax.data import engine as engine_lib
from worldsim_jax.data import events as events_lib
from worldsim_jax.data import maps
from worldsim_jax.data import navigator
from worldsim_jax.data import observation
from worldsim_jax.data import occupancy
from worldsim_jax.errors import UserError

Episode = dict  # The schema is in the folder's docstring.


@dataclasses.dataclass(frozen=True)
class Recipe(engine_lib.Options):
  """All that a film depends on. Equal recipes render to equal bytes."""

  map: str
  actions: tuple[tuple[float, ...], ...]  # [T, 3]; row 0 is zero, see `data`
  seed: int = 0  # of the engine's own dice
  start: tuple[float, float, float] | None = None  # x, y, yaw; None: the map's
  events: tuple[events_lib.Event, ...] = ()

  def __post_init__(self):
    if not self.actions or any(self.actions[0]):
      raise ValueError(
          'recipe: actions[0] must be zero: nothing led to the first frame'
      )

  def to_json(self) -> str:
    fields = dataclasses.asdict(self)
    # Recipes that are stored are to stay the same text.
    if not self.geometry:
      del fields['geometry']
    del fields['events']
    if self.events:
      fields['events'] = [dataclasses.astuple(event) for event in self.events]
    return json.dumps(fields, separators=(',', ':'))

  @classmethod
  def from_json(cls, text: str) -> 'Recipe':
    try:
      fields = json.loads(text)
      fields['actions'] = tuple(map(tuple, fields['actions']))
      if fields.get('start') is not None:
        fields['start'] = tuple(fields['start'])
      fields['events'] = events_lib.of_json(fields.get('events', ()))
      return cls(**fields)
    except (ValueError, TypeError, KeyError, AttributeError) as e:
      raise UserError(f'not a recipe ({e}): {text[:80]!r}') from e

  def with_actions(self, actions) -> 'Recipe':
    """The same start, another future: float [T, 3], row 0 zero."""
    return dataclasses.replace(self, actions=_as_tuples(actions))


def render(recipe: Recipe, engine: engine_lib.Engine | None = None) -> Episode:
  """The film of a recipe; an engine that is already open is used if given."""
  shown = events_lib.maps_in(recipe.events, recipe.map)
  if len(shown) > 1:
    return _spliced(recipe, shown)
  if engine is None:
    with engine_lib.Engine(recipe.map, **recipe.engine_options) as engine:
      return render(recipe, engine)
  actions = np.array(recipe.actions, np.float32)
  return _film(engine, recipe, lambda t, pose: actions[t], len(actions))


def record(
    engine: engine_lib.Engine,
    *,
    policy: str,
    num_frames: int,
    seed: int,
    random_start: bool = True,
    shots: int = 1,
    events: tuple[events_lib.Event, ...] = (),
) -> Episode:
  """Lets a player play in an open engine, and films it.

  Args:
    engine: of any map and size.
    policy: a name in `navigator.PLAYERS`.
    num_frames: T.
    seed: of the player, the start and the engine.
    random_start: anywhere on the map, or where the map says.
    shots: of equal length, to a frame; each begins in another room.
    events: that happen meanwhile, maps excepted.
  """
  grid = occupancy.of_map(engine.map.name)
  options = engine.options
  starts = navigator.starts(grid, engine.map.level, seed, shots)
  cuts = [num_frames * k // shots for k in range(shots)] + [num_frames]
  players = (
      navigator.make(policy, grid, player, options.tics_per_frame, end - first)
      for player, first, end in zip(navigator.seeds(seed), cuts, cuts[1:])
  )
  player = next(players)
  cut = [
      events_lib.Event(*e) for e in zip(cuts[1:], ['cut'] * shots, starts[1:])
  ]
  recipe = Recipe(
      engine.map.name,
      ((0.0, 0.0, 0.0),),
      seed=seed,
      start=starts[0] if random_start else None,
      events=tuple(sorted((*cut, *events))),
      **options.engine_options,
  )

  def command(t, pose):
    nonlocal player
    if t not in cuts:
      return player.act(pose)
    player = next(players)
    return np.zeros(3)  # Nothing leads across a cut.

  return _film(engine, recipe, command, num_frames)


def plan(
    map_name: str,
    *,
    seed: int,
    policy: str,
    num_frames: int,
    random_start: bool = True,
    shots: int = 1,
    **engine_options,
) -> Recipe:
  """The recipe of what a player would do; it plays to find out."""
  play = dict(
      policy=policy,
      num_frames=num_frames,
      random_start=random_start,
      shots=shots,
  )
  with engine_lib.Engine(map_name, **engine_options) as engine:
    return Recipe.from_json(record(engine, seed=seed, **play)['recipe'])


def _film(engine, recipe, command, num_frames):
  """Steps the engine by command(t, pose) and keeps what it shows."""
  rgb, pose = engine.reset(recipe.seed, recipe.start)
  frames, poses, ends, actions = [rgb], [pose], [0], [np.zeros(3, np.float32)]
  seen = [engine.seen]
  for t in range(1, num_frames):
    actions.append(np.asarray(command(t, poses[-1]), np.float32))
    now = [event for event in recipe.events if event.frame == t]
    rgb, pose = events_lib.step(engine, actions[-1], now)
    frames.append(rgb)
    poses.append(pose)
    ends.append(engine.cuts)
    seen.append(engine.seen)
  actions = np.stack(actions)
  count = lambda kinds: events_lib.count(recipe.events, kinds, num_frames)
  film = Episode(
      rgb=np.stack(frames),
      actions=actions,
      pose=np.stack(poses),
      shot_id=count(['cut']) + np.array(ends, np.int32),
      caption=maps.load(recipe.map).caption,
      recipe=recipe.with_actions(actions).to_json(),
  )
  if any(event.kind in events_lib.VIOLATIONS for event in recipe.events):
    film['violation_id'] = count(events_lib.VIOLATIONS)
  if engine.options.geometry:
    film |= observation.fields(seen, ends, engine.map.level)
  return film


def _spliced(recipe, shown):
  """The film of a recipe whose world changes: of one film for each map."""
  stay = tuple(event for event in recipe.events if event.kind != 'map')
  films = {
      name: render(dataclasses.replace(recipe, map=name, events=stay))
      for _, name in shown
  }
  num_frames = len(recipe.actions)
  ends = [first for first, _ in shown[1:]] + [num_frames]
  parts = [(films[name], first, end) for (first, name), end in zip(shown, ends)]
  film = dict(films[recipe.map])
  for field in {'rgb', 'pose', 'sprites'} & film.keys():
    film[field] = np.concatenate([f[field][a:b] for f, a, b in parts])
  if recipe.geometry:
    film |= observation.spliced(parts)
  film['violation_id'] = events_lib.count(
      recipe.events, events_lib.VIOLATIONS, num_frames
  )
  film['recipe'] = recipe.to_json()
  return film


def _as_tuples(actions):
  """Shortest decimals that give the same float32 back."""
  return tuple(
      tuple(float(str(v)) for v in row)
      for row in np.asarray(actions, np.float32)
  )
