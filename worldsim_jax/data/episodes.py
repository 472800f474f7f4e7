"""Films of the embedded world, and the recipes that determine them.

A recipe says which map, where to start and what to command; the engine is
deterministic, so a recipe *is* its film, at a hundredth of the size, and it
gives the true future of any other choice of actions from the same start.
"""

import dataclasses
import json

import numpy as np

from worldsim_jax.data import engine as engine_lib
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

  def __post_init__(self):
    if not self.actions or any(self.actions[0]):
      raise ValueError(
          'recipe: actions[0] must be zero: nothing led to the first frame'
      )

  def to_json(self) -> str:
    fields = dataclasses.asdict(self)
    if not self.geometry:  # Recipes that are stored are to stay the same text.
      del fields['geometry']
    return json.dumps(fields, separators=(',', ':'))

  @classmethod
  def from_json(cls, text: str) -> 'Recipe':
    try:
      fields = json.loads(text)
      fields['actions'] = tuple(map(tuple, fields['actions']))
      if fields.get('start') is not None:
        fields['start'] = tuple(fields['start'])
      return cls(**fields)
    except (ValueError, TypeError, KeyError, AttributeError) as e:
      raise UserError(f'not a recipe ({e}): {text[:80]!r}') from e

  def with_actions(self, actions) -> 'Recipe':
    """The same start, another future: float [T, 3], row 0 zero."""
    return dataclasses.replace(self, actions=_as_tuples(actions))


def render(recipe: Recipe, engine: engine_lib.Engine | None = None) -> Episode:
  """The film of a recipe; an engine that is already open is used if given."""
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
) -> Episode:
  """Lets a player play in an open engine, and films it.

  Args:
    engine: of any map and size.
    policy: 'random_walk' or 'navigate'.
    num_frames: T.
    seed: of the player, the start and the engine.
    random_start: anywhere on the map, or where the map says.
  """
  grid = occupancy.of_map(engine.map.name)
  options = engine.options
  player = navigator.make(policy, grid, seed, options.tics_per_frame)
  recipe = Recipe(
      engine.map.name,
      ((0.0, 0.0, 0.0),),
      seed=seed,
      start=navigator.random_start(grid, seed) if random_start else None,
      **options.engine_options,
  )
  return _film(engine, recipe, lambda t, pose: player.act(pose), num_frames)


def plan(
    map_name: str,
    *,
    seed: int,
    policy: str,
    num_frames: int,
    random_start: bool = True,
    **engine_options,
) -> Recipe:
  """The recipe of what a player would do; it plays to find out."""
  play = dict(policy=policy, num_frames=num_frames, random_start=random_start)
  with engine_lib.Engine(map_name, **engine_options) as engine:
    return Recipe.from_json(record(engine, seed=seed, **play)['recipe'])


def _film(engine, recipe, command, num_frames):
  """Steps the engine by command(t, pose) and keeps what it shows."""
  rgb, pose = engine.reset(recipe.seed, recipe.start)
  frames, poses, cuts, actions = [rgb], [pose], [0], [np.zeros(3, np.float32)]
  seen = [engine.seen]
  for t in range(1, num_frames):
    actions.append(np.asarray(command(t, poses[-1]), np.float32))
    rgb, pose = engine.step(actions[-1])
    frames.append(rgb)
    poses.append(pose)
    cuts.append(engine.cuts)
    seen.append(engine.seen)
  actions = np.stack(actions)
  film = Episode(
      rgb=np.stack(frames),
      actions=actions,
      pose=np.stack(poses),
      shot_id=np.array(cuts, np.int32),
      caption=maps.load(recipe.map).caption,
      recipe=recipe.with_actions(actions).to_json(),
  )
  if engine.options.geometry:
    film |= observation.fields(seen, cuts, engine.map.level)
  return film


def _as_tuples(actions):
  """Shortest decimals that give the same float32 back."""
  return tuple(
      tuple(float(str(v)) for v in row)
      for row in np.asarray(actions, np.float32)
  )
