"""One name, one map: 'E1M1', 'MAP07' (Freedoom) or 'gen:123' (generated).

A generated map has variants, in which one walks just as in the map itself:

  gen:7,decor=12         other textures everywhere; 12 is the seed of the choice
  gen:7,decor=12,room=4  other textures in room 4 only
  gen:7,without=2        object 2 is gone
"""

import dataclasses
import functools
import os
import re

from worldsim_jax.data import generator
from worldsim_jax.data import missing
from worldsim_jax.data import variants
from worldsim_jax.data import wad
from worldsim_jax.errors import UserError

GENERATED = 'gen:'
NAME = re.compile(
    GENERATED
    + r'([0-9]+)((?:,decor=[0-9]+(?:,room=[0-9]+)?)?(?:,without=[0-9]+)?)'
)


@dataclasses.dataclass(frozen=True, eq=False)
class Map:
  """What the engine and the planner need of a map."""

  name: str
  iwad: str  # path of the game's WAD
  engine_name: str  # what the engine calls it
  level: wad.Level
  caption: str
  pwad: bytes | None  # a patch WAD that holds it, for generated maps


@functools.lru_cache(maxsize=64)
def load(name: str) -> Map:
  """Finds a map by its name.

  Raises:
    UserError: if there is no such map; the message lists those that exist.
  """
  if name.startswith(GENERATED):
    maze = maze_of(name)
    return Map(
        name,
        freedoom('freedoom2.wad'),
        generator.MAP_LUMP,
        generator.level(maze),
        generator.caption(maze),
        generator.pwad(maze),
    )
  path = freedoom('freedoom1.wad' if name.startswith('E') else 'freedoom2.wad')
  return Map(
      name,
      path,
      name,
      wad.load_level(path, name),
      f'the Freedoom level {name}',
      None,
  )


@functools.lru_cache(maxsize=64)
def maze_of(name: str) -> generator.Maze:
  """The maze of a generated map, or of a variant of one.

  Raises:
    UserError: if there is no such variant.
  """
  seed, changes = _parse(name)
  try:
    return variants.change(generator.generate(seed), **changes)
  except UserError as e:
    raise UserError(f'map {name!r}: {e}') from e


def seed_of(name: str) -> int:
  """The seed in the name of a generated map; a variant has its map's."""
  return _parse(name)[0]


def variant(name: str, **changes: int) -> str:
  """The name of a variant of a generated map: see the file's docstring."""
  return ','.join([name, *(f'{key}={value}' for key, value in changes.items())])


def _parse(name):
  """Seed and changes of a generated map."""
  match = NAME.fullmatch(name)
  if not match:
    raise UserError(
        f'map {name!r}: a generated map is named gen:<seed>, say gen:7, or '
        'gen:7,decor=12 or gen:7,without=2 for a variant of it; the others are '
        'E1M1-E4M9 and MAP01-MAP32'
    )
  changes = dict(item.split('=') for item in match[2].split(',')[1:])
  return int(match[1]), {key: int(value) for key, value in changes.items()}


def freedoom(file_name: str) -> str:
  """Path of a WAD that comes with ViZDoom."""
  try:
    import vizdoom
  except ImportError as e:
    raise missing('vizdoom', 'the embedded world') from e
  return os.path.join(os.path.dirname(vizdoom.__file__), file_name)
